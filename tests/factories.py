"""Builders that many tests share: pictures, preferences, judgements, replies. New ones belong here, not in a test."""

import gc
import io
import socket
import struct
import time
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from r1reward_verl.data.preference import SCHEMA, Preference, from_row, to_row
from r1reward_verl.evaluation.verdicts import OK, Verdicts


def png(colour="green", size=(8, 6)) -> bytes:
    """Return a PNG file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(width=60_000, height=60_000, size=1 << 20):
    """A valid PNG header for many pixels, in about a megabyte."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(size)) + chunk(b"IEND", b"")


def judgement(choice, reasoning="Compared.") -> str:
    """Return a well-formed judgement."""
    return f"<think>{reasoning}</think><answer>{choice}</answer>"


def preference(index=0, **changes) -> Preference:
    """Return a preference; odd ones are labelled 2."""
    values = {"id": f"r{index}", "source": "mine", "category": "long", "question": f"Question {index}?"}
    values |= {"response_1": "Yes.", "response_2": "No.", "label": 1 + index % 2}
    return Preference(**values | changes)


def parquet(path, rows, schema=None, **options):
    """Write rows to a parquet file, and return its path."""
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, **options)
    return path


def preference_file(path, preferences):
    """Write preferences to a parquet file, and return its path."""
    return parquet(path, [to_row(one) for one in preferences], SCHEMA)


def preferences_in(path) -> list[Preference]:
    """Return the preferences of a file of exactly their columns."""
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA)
    return [from_row(row) for row in table.to_pylist()]


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processor_seconds(call, *args, tries=3) -> float:
    """The fastest of some tries, without the garbage collector: after a thousand tests it takes half a second."""
    times = []
    for _ in range(tries):
        gc.collect()
        gc.disable()
        try:
            start = time.process_time()
            call(*args)
            times.append(time.process_time() - start)
        finally:
            gc.enable()
    return min(times)


def verdicts(rows) -> Verdicts:
    """Return verdicts of rows: (case, label, greedy[, sampled[, tokens[, reasoning[, consistency[, status]]]]])."""
    blank = (0, 1, 0, (), 0, 0, 0, OK)
    case, label, greedy, sampled, *rest = zip(*((*row, *blank[len(row) :]) for row in rows), strict=True)
    tokens, reasoning, consistency, status = rest
    wide = [np.array(column, np.int32) for column in (case, tokens, reasoning)]
    label, greedy, consistency, status = (np.array(one, np.int8) for one in (label, greedy, consistency, status))
    sampled = np.array(sampled, np.int8).reshape(len(rows), -1)
    return Verdicts(wide[0], label, greedy, sampled, *wide[1:], consistency, status)
