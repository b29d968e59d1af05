"""The rows of jsonl, JSON, CSV, parquet and Arrow files, one after the other in bounded memory.

Memory is bounded by a row of at most `MAX_ROW`; of parquet by a few MiB and one page of each column. What cannot be
read is a `RowError` among the rows: a file with a broken line still gives all its other rows. Text is UTF-8.

CSV and JSON are read by the standard library: pyarrow's readers name neither the line nor the content of a bad row,
and end at the first one.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROW = 32 << 20
"""Bytes (in JSON lists and CSV fields: characters) of the longest row that is read."""

_CHUNK = 1 << 20
_BUFFER = 1 << 16
_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 256
_EXCERPT = 1000
_LONGEST_TOKEN = 16  # of JSON besides strings, and of an escape in one: an error nearer to the end may be a cut
_NOT_SPACE = re.compile(r"[^ \t\r\n]")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RowError:
    """A row that could not be read.

    Attributes:
        number: as in `read_rows`; of several lost rows that of the first.
        reason: what is wrong.
        raw: the content of the row, shortened if it is too long; None where there is none to show.
        rows: how many rows are lost; None for the rest of the file, where nobody can tell.
    """

    number: int
    reason: str
    raw: str | None = None
    rows: int | None = 1


Item = tuple[int, Row] | RowError
Count = Callable[[float], object]


def _ignore(count: float) -> None:
    pass


class _CountedFile(io.FileIO):
    """A file that counts what is read of it."""

    def __init__(self, path: Path, count: Count) -> None:
        super().__init__(path)
        self._count = count

    def readinto(self, buffer: Any) -> int | None:  # what `BufferedReader` calls
        size = super().readinto(buffer)
        self._count(size or 0)
        return size


def read_rows(path: str | os.PathLike[str], count: Count = _ignore) -> Iterator[Item]:
    """Yield `(number, row)` for each row of a file, and a `RowError` for each that cannot be read.

    Args:
        path: `.jsonl`, `.json` (a list of objects, or lines as in jsonl: its first character tells), `.csv` (with a
            header; all values are texts), each also with `.gz`, `.parquet`, or `.arrow` (as Hugging Face `datasets`
            writes it).
        count: called with the number of bytes that were read since the last time, for a bar.

    Returns:
        The rows in the order of the file. Numbers begin at 1: of the line in which a row begins (jsonl, CSV), or of
        the row itself (JSON list, parquet, Arrow).

    Raises:
        FileNotFoundError, PermissionError: at once.
        ValueError: the name has another ending.
    """
    path = Path(path)
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    reader = READERS.get(suffix)
    if reader is None or (suffix in _COLUMNS and path.suffix == ".gz"):
        known = ", ".join(READERS)
        raise ValueError(
            f"{str(path)!r} is of no known format: its name must end in {known} (.gz after all but the last two)"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    path.open("rb").close()
    return _to_the_end(reader(path, count))


def _to_the_end(rows: Iterator[Item]) -> Iterator[Item]:
    item: Item = 0, {}
    try:
        for item in rows:
            yield item
    except (OSError, EOFError, zlib.error) as error:
        number = item.number if isinstance(item, RowError) else item[0]
        yield RowError(number + 1, f"the file cannot be read from here on ({error}): is it complete?", rows=None)


@contextmanager
def _open(path: Path, count: Count) -> Iterator[IO[bytes]]:
    with io.BufferedReader(_CountedFile(path, count), _BUFFER) as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.open(file, "rb") as unpacked:
            yield unpacked  # type: ignore[misc]


def _readable(raw: bytes | str) -> str:
    """Return a text for a message, with bytes that are no UTF-8 as `\\xNN`."""
    if isinstance(raw, str):
        raw = raw.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace")


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes, str, str | None]]:
    """Yield number, bytes, text, and what is wrong with it, of each line; of one that is too long the beginning."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_ROW + 1), b""), 1):
        raw, reason = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, None
        if len(line) > MAX_ROW and not line.endswith(b"\n"):
            raw, reason = raw[:_EXCERPT], f"the line is longer than {MAX_ROW:,} bytes"
            while line and not line.endswith(b"\n"):
                line = file.readline(_CHUNK)
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            text = raw.decode("utf-8", "replace")
            reason = reason or _not_utf8(raw[error.start], f" at byte {error.start}")
        yield number, raw, text, reason


def _not_utf8(byte: int, where: str = "") -> str:
    return f"not UTF-8: \\x{byte:02x}{where}; save the file as UTF-8"


def _no_object(value: Any) -> str | None:
    return None if isinstance(value, dict) else f"not a JSON object, but of type {type(value).__name__}"


# JSON


def _read_json(path: Path, count: Count) -> Iterator[Item]:
    with _open(path, count) as file:
        # Byte by byte, since a damaged archive may end before a larger piece.
        while (first := file.read(1)) and (first.isspace() or first in codecs.BOM_UTF8):
            pass
        file.seek(0)
        yield from _read_json_list(file) if first == b"[" else _read_json_lines(file)


def _read_json_lines(file: IO[bytes]) -> Iterator[Item]:
    for number, raw, text, reason in _lines(file):
        if not raw.strip():
            continue
        row: Any = None
        if reason is None:
            try:
                row = json.loads(text)
                reason = _no_object(row)
            except (ValueError, RecursionError) as error:
                end = "" if raw.endswith(b"\n") else " (the file ends in this line: is it complete?)"
                reason = f"not JSON: {error}{end}"
        if reason is None:
            yield number, row
        else:
            yield RowError(number, reason, _readable(raw.rstrip(b"\r\n")))


def _read_json_list(file: IO[bytes]) -> Iterator[Item]:
    text = _Window(file)
    number = 1
    text.peek()
    text.position += 1  # the [ that made it a list
    if text.peek() == "]":
        return
    while True:
        try:
            value, raw = text.element()
        except (ValueError, RecursionError) as error:
            yield RowError(number, f"not JSON: {error}; the rest of the list cannot be read", text.excerpt(), rows=None)
            return
        reason = _no_object(value)
        try:
            raw.encode()
        except UnicodeEncodeError as error:
            reason = _not_utf8(ord(raw[error.start]) - 0xDC00)
        yield (number, value) if reason is None else RowError(number, reason, _readable(raw))
        number += 1
        following = text.peek()
        if following == "]":
            return
        if following != ",":
            what = f"{following!r} stands there" if following else "the file ends"
            reason = f"a comma or ] is missing before this row ({what}); the rest of the list cannot be read"
            yield RowError(number, reason, text.excerpt(), rows=None)
            return
        text.position += 1


class _Window:
    """The part of a file's text around `position`, as far as it had to be read for one row."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        # Bytes that are no UTF-8 become single surrogates, so that only the row that holds them is lost.
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.decode = json.JSONDecoder().raw_decode
        self.text = ""
        self.position = 0

    def grow(self) -> bool:
        data = self.file.read(max(_CHUNK, len(self.text) - self.position))
        self.text = self.text[self.position :] + self.decoder.decode(data, final=not data)
        self.position = 0
        return bool(data)

    def peek(self) -> str:
        """Go to the next character that is no space and return it, "" at the end of the file."""
        while True:
            if match := _NOT_SPACE.search(self.text, self.position):
                self.position = match.start()
                return match.group()
            self.position = len(self.text)
            if not self.grow():
                return ""

    def element(self) -> tuple[Any, str]:
        """Read one JSON value and return it with its text."""
        self.peek()
        while True:
            failure: ValueError | None = None
            try:
                value, end = self.decode(self.text, self.position)
            except json.JSONDecodeError as error:
                if not error.msg.startswith("Unterminated") and error.pos < len(self.text) - _LONGEST_TOKEN:
                    raise
                failure = error
            else:
                # A number that ends with the window may go on behind it.
                if end < len(self.text):
                    break
            if len(self.text) - self.position > MAX_ROW:
                raise ValueError(f"a row of more than {MAX_ROW:,} characters")
            if not self.grow():
                if failure:
                    raise failure
                break
        raw = self.text[self.position : end]
        self.position = end
        return value, raw

    def excerpt(self) -> str:
        """Return the text from `position` on, at most `_EXCERPT` characters."""
        return _readable(self.text[self.position : self.position + _EXCERPT])


# CSV


def _read_csv(path: Path, count: Count) -> Iterator[Item]:
    # The limit is the process's: pictures as text do not fit into its default of 128 kB.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW))
    lines: list[tuple[int, bytes, str, str | None]] = []  # those of the row that is being read

    def texts(file: IO[bytes]) -> Iterator[str]:
        for line in _lines(file):
            lines.append(line)
            yield line[2]  # also of a faulty one: it is needed to know where the row ends

    with _open(path, count) as file:
        rows = csv.reader(texts(file), strict=True)
        header: list[str] | None = None
        while True:
            lines.clear()
            reason = None
            try:
                values = next(rows, None)
            except csv.Error as error:
                values, reason = [], str(error)
            if values is None:
                return
            reason = next((fault for *_, fault in lines if fault), reason)
            if not values and reason is None:
                continue
            number, raw = lines[0][0], _readable(b"".join(line for _, line, *_ in lines).rstrip(b"\r\n"))
            if header is None:
                if reason is None and len(set(values)) < len(values):
                    reason = f"two columns of the header have the same name: {values}"
                if reason is not None:
                    yield RowError(number, f"the header cannot be read: {reason}", raw, rows=None)
                    return
                header = values
                continue
            if reason is None and len(values) != len(header):
                reason = f"{len(values)} values, but the header has {len(header)} columns"
            yield RowError(number, reason, raw) if reason else (number, dict(zip(header, values, strict=True)))


# Parquet

_UNREADABLE = (ValueError, OverflowError, NotImplementedError)
"""What pyarrow raises for a text that is no UTF-8, or a time beyond Python's."""


def _batch_rows(batch: pa.RecordBatch, number: int) -> Iterator[Item]:
    """Yield `(number, row)` for each row of a batch, the first of which has this number, or a `RowError`."""
    try:
        rows = batch.to_pylist()
    except _UNREADABLE:
        for index in range(batch.num_rows):
            try:
                row = batch.slice(index, 1).to_pylist()[0]
            except _UNREADABLE as error:
                yield RowError(number + index, f"a value cannot be read: {error}")
            else:
                yield number + index, row
    else:
        yield from enumerate(rows, number)


def _read_parquet(path: Path, count: Count) -> Iterator[Item]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # Buffered, since a column of pictures can be as large as the file; not pre-buffered for the same reason.
        file = parquet.ParquetFile(path, buffer_size=_CHUNK, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        yield RowError(1, f"not a complete parquet file: {error}", rows=None)
        return
    with file:
        first, size = 1, path.stat().st_size
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            number = first
            first += about.num_rows
            row_bytes = about.total_byte_size // max(about.num_rows, 1)
            rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(row_bytes, 1)))
            try:
                for batch in file.iter_batches(rows, row_groups=[group], use_threads=False):
                    yield from _batch_rows(batch, number)
                    number += batch.num_rows
                    count(size * batch.num_rows / max(file.metadata.num_rows, 1))
            except (pa.ArrowException, OSError) as error:
                lost = first - number
                reason = f"row group {group + 1} is damaged, {lost} rows of it are lost: {error}"
                yield RowError(number, reason, rows=lost)


def _read_arrow(path: Path, count: Count) -> Iterator[Item]:
    import pyarrow as pa
    from pyarrow import ipc

    number = 1
    try:
        with pa.memory_map(str(path)) as source, ipc.open_stream(source) as batches:
            position = 0
            for batch in batches:
                count(source.tell() - position)
                position = source.tell()
                for first in range(0, batch.num_rows, _BATCH_ROWS):
                    yield from _batch_rows(batch.slice(first, _BATCH_ROWS), number)
                    number += min(_BATCH_ROWS, batch.num_rows - first)
    except (pa.ArrowException, OSError) as error:
        yield RowError(number, f"not a complete Arrow stream: {error}", rows=None)


READERS: dict[str, Callable[[Path, Count], Iterator[Item]]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
"""Ending of a file's name -> what reads it."""

_COLUMNS = (".parquet", ".arrow")  # compressed within
