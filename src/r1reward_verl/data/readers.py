"""The rows of jsonl, JSON, CSV, parquet and Arrow files, one after the other in bounded memory.

That is a row of at most `MAX_ROW`, or of parquet a few MiB and what its writer put into one page of each column.
What cannot be read is a `RowError` among the rows instead of an exception: a file with a broken line still gives all
its other rows. Text is UTF-8 (with or without a byte order mark); a name may end in `.gz`, except parquet's and
Arrow's.

CSV and JSON are read by the standard library: pyarrow's readers of them tell neither the line in which a bad row begins
nor what stands there, and end at the first one.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROW = 32 << 20
"""Bytes (in JSON lists and CSV fields: characters) of the longest row that is read."""

_CHUNK = 1 << 20
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
        raw: what stands there, undecodable bytes as `\\xNN`; the beginning of a row longer than `MAX_ROW`; None where
            nothing can be shown.
        rows: how many rows are lost; None for the rest of the file, where nobody can tell.
    """

    number: int
    reason: str
    raw: str | None = None
    rows: int | None = 1


Item = tuple[int, Row] | RowError


def read_rows(
    path: str | os.PathLike[str], from_batch: Callable[[pa.RecordBatch, int], Iterator[Any]] | None = None
) -> Iterator[Item]:
    """Yield `(number, row)` for each row of a file, and a `RowError` for each that cannot be read.

    Args:
        path: `.jsonl`, `.json` (a list of objects, or lines as in jsonl: its first character tells), `.csv` (with a
            header; all values are texts), each also with `.gz`, `.parquet`, or `.arrow` (as Hugging Face `datasets`
            writes it).
        from_batch: makes the items of a batch of parquet rows, given the number of the first; by default
            `batch_rows`.

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
    if from_batch is not None and suffix == ".parquet":
        reader = partial(_read_parquet, from_batch=from_batch)
    return _to_the_end(reader, path)


def _to_the_end(reader: Callable[[Path], Iterator[Item]], path: Path) -> Iterator[Item]:
    item: Item = 0, {}
    try:
        for item in reader(path):
            yield item
    except (OSError, EOFError, zlib.error) as error:
        number = item.number if isinstance(item, RowError) else item[0]
        yield RowError(number + 1, f"the file cannot be read from here on ({error}): is it complete?", rows=None)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes, str | None]]:
    """Yield number, content and what is wrong with it; of a line that is too long only the beginning."""
    number = 0
    while line := file.readline(MAX_ROW + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) <= MAX_ROW or line.endswith(b"\n"):
            yield number, line, None
            continue
        excerpt = line[:_EXCERPT]
        while line and not line.endswith(b"\n"):
            line = file.readline(_CHUNK)
        yield number, excerpt, f"the line is longer than {MAX_ROW:,} bytes"


# JSON


def _read_json(path: Path) -> Iterator[Item]:
    with _open(path) as file:
        # Byte by byte, since a damaged archive may end before a larger piece.
        while (first := file.read(1)) and (first.isspace() or first in codecs.BOM_UTF8):
            pass
        file.seek(0)
        yield from _read_json_list(file) if first == b"[" else _read_json_lines(file)


def _read_json_lines(file: IO[bytes]) -> Iterator[Item]:
    for number, line, reason in _lines(file):
        if not line.strip():
            continue
        if reason is None:
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                reason = _not_utf8(line[error.start], error.start)
            except (ValueError, RecursionError) as error:
                reason = f"not JSON: {error}"
                if not line.endswith(b"\n"):
                    reason += " (the file ends in this line: is it complete?)"
            else:
                if isinstance(row, dict):
                    yield number, row
                    continue
                reason = f"not a JSON object, but of type {type(row).__name__}"
        yield RowError(number, reason, _text(line.rstrip(b"\r\n")))


def _read_json_list(file: IO[bytes]) -> Iterator[Item]:
    text = _Window(file)
    number = 0
    reason: str | None
    text.peek()
    text.position += 1  # the [ that made it a list
    if text.peek() == "]":
        return
    while True:
        number += 1
        try:
            value, raw = text.element()
        except (ValueError, RecursionError) as error:
            reason = f"not JSON: {error}; the rest of the list cannot be read"
            yield RowError(number, reason, text.excerpt(), rows=None)
            return
        reason = None if isinstance(value, dict) else f"not a JSON object, but of type {type(value).__name__}"
        try:
            raw.encode()
        except UnicodeEncodeError as error:
            reason = _not_utf8(ord(raw[error.start]) - 0xDC00, None)
        if reason is None:
            yield number, value
        else:
            yield RowError(number, reason, _text(raw.encode("utf-8", "surrogateescape")))
        following = text.peek()
        if following == "]":
            return
        if following != ",":
            found = f"{following!r} stands there" if following else "the file ends"
            reason = f"a comma or ] is missing before this row ({found}); the rest of the list cannot be read"
            yield RowError(number + 1, reason, text.excerpt(), rows=None)
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
        part = self.text[self.position : self.position + _EXCERPT]
        return _text(part.encode("utf-8", "surrogateescape"))


def _not_utf8(byte: int, position: int | None) -> str:
    where = "" if position is None else f" at byte {position}"
    return f"not UTF-8: \\x{byte:02x}{where}; save the file as UTF-8"


# CSV


class _CsvLines:
    """The lines of a CSV file for `csv.reader`, kept until their row is complete."""

    def __init__(self, file: IO[bytes]) -> None:
        self.lines = _lines(file)
        self.start = 0
        self.raw: list[bytes] = []
        self.fault: str | None = None

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        number, line, reason = next(self.lines)
        if not self.raw:
            self.start = number
        self.raw.append(line)
        if reason is None:
            try:
                return line.decode("utf-8")
            except UnicodeDecodeError as error:
                reason = _not_utf8(line[error.start], error.start)
        self.fault = self.fault or reason
        # The structure of the row is still needed, to know where it ends.
        return line.decode("utf-8", "replace")

    def take(self) -> tuple[int, str, str | None]:
        """Return number, text and fault of the row that was just read, and forget it."""
        taken = self.start, _text(b"".join(self.raw).rstrip(b"\r\n")), self.fault
        self.raw, self.fault = [], None
        return taken


def _read_csv(path: Path) -> Iterator[Item]:
    # The limit is the process's: pictures as text do not fit into its default of 128 kB.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW))
    with _open(path) as file:
        lines = _CsvLines(file)
        rows = csv.reader(lines, strict=True)
        header: list[str] | None = None
        while True:
            values: list[str] | None = None
            error_text = None
            try:
                values = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                error_text = str(error)
            if values == [] and not lines.fault:
                lines.take()
                continue
            number, raw, fault = lines.take()
            reason = fault or error_text
            if header is None:
                header = values
                if reason is None and len(set(values or ())) < len(values or ()):
                    reason = f"two columns of the header have the same name: {values}"
                if reason is not None:
                    yield RowError(number, f"the header cannot be read: {reason}", raw, rows=None)
                    return
                continue
            if reason is None and len(values or ()) != len(header):
                reason = f"{len(values or ())} values, but the header has {len(header)} columns"
            if reason is not None:
                yield RowError(number, reason, raw)
            else:
                yield number, dict(zip(header, values or (), strict=True))


# Parquet

UNREADABLE = (ValueError, OverflowError, NotImplementedError)
"""What pyarrow raises for a text that is no UTF-8, or a time beyond Python's."""


def batch_rows(batch: pa.RecordBatch, number: int) -> Iterator[Item]:
    """Yield `(number, row)` for each row of a batch, the first of which has this number, or a `RowError`."""
    try:
        rows = batch.to_pylist()
    except UNREADABLE:
        for index in range(batch.num_rows):
            try:
                row = batch.slice(index, 1).to_pylist()[0]
            except UNREADABLE as error:
                yield RowError(number + index, f"a value cannot be read: {error}")
            else:
                yield number + index, row
    else:
        yield from enumerate(rows, number)


def _read_parquet(
    path: Path, from_batch: Callable[[pa.RecordBatch, int], Iterator[Any]] = batch_rows
) -> Iterator[Item]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # Buffered, since a column of pictures can be as large as the file; not pre-buffered for the same reason.
        file = parquet.ParquetFile(path, buffer_size=_CHUNK, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        yield RowError(1, f"not a complete parquet file: {error}", rows=None)
        return
    with file:
        first = 1
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            number = first
            first += about.num_rows
            row_bytes = about.total_byte_size // max(about.num_rows, 1)
            batch_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(row_bytes, 1)))
            try:
                for batch in file.iter_batches(batch_rows, row_groups=[group], use_threads=False):
                    yield from from_batch(batch, number)
                    number += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                lost = first - number
                reason = f"row group {group + 1} is damaged, {lost} rows of it are lost: {error}"
                yield RowError(number, reason, rows=lost)


def _read_arrow(path: Path) -> Iterator[Item]:
    import pyarrow as pa
    from pyarrow import ipc

    number = 1
    try:
        with pa.memory_map(str(path)) as source, ipc.open_stream(source) as batches:
            for batch in batches:
                for first in range(0, batch.num_rows, _BATCH_ROWS):
                    yield from batch_rows(batch.slice(first, _BATCH_ROWS), number)
                    number += min(_BATCH_ROWS, batch.num_rows - first)
    except (pa.ArrowException, OSError) as error:
        yield RowError(number, f"not a complete Arrow stream: {error}", rows=None)


READERS: dict[str, Callable[[Path], Iterator[Item]]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
"""Ending of a file's name -> what reads it."""

_COLUMNS = (".parquet", ".arrow")  # compressed within
