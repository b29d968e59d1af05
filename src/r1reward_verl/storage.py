"""Writing: append-only logs, files that are written whole or not at all, rejects, and locks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from r1reward_verl.errors import R1RewardError
from r1reward_verl.text import excerpt

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP_ROWS = 5_000
_GROUP_BYTES = 16 << 20
_LONGEST_ROW = 1 << 16
_LONGEST_TEXT = 4_000
_PIECE = 1 << 20


class LockedError(R1RewardError):
    """Another process writes the same file or folder."""


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes and threads from writing a file or folder until the block ends.

    The lock is the system's (`flock`), on `.NAME.lock` beside the output. It ends with the process that holds it, so
    that a file which a killed process left behind locks nothing. The folder of the output is made if it is missing.

    Raises:
        LockedError: another process or thread writes there; the message names the process.
        OSError: the folder cannot be written.
    """
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    file = place.with_name(f".{place.name}.lock")
    descriptor = _lock(file, path)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        # Before the release, so that a process which has opened this file sees that its name belongs to another one.
        file.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(file: Path, path: str | os.PathLike[str]) -> int:
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                    return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise LockedError(
                f"{holder} writes {os.fspath(path)!r}: wait for its end, or name another output"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part."""
    with whole_file(path) as file:
        file.write(text)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """Yield a text file that gets its name at the end; after an error it is deleted, and an earlier one stays."""
    part = path.with_name(f"{path.name}.partial")
    try:
        with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `folder` at the end; after an error it is deleted.

    What a killed process left is removed, or restored if it was the old folder. The caller holds the lock of `folder`
    (see `locked`).
    """
    work = folder.with_name(f".{folder.name}.partial")
    new, old = work / "new", work / "old"

    def clean_up() -> None:
        if old.exists() and not folder.exists():  # an error, or a kill, between the two renames
            old.rename(folder)
        shutil.rmtree(work, ignore_errors=True)

    clean_up()  # after a process that was killed
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        clean_up()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file as `write_text` does."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file's content, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


class AppendFile:
    """A file of lines that only grows, opened by one process at a time; made if it is missing.

    Lines are appended with one system call, so that a killed process leaves at most a last line without its end, which
    `lines` does not count and `cut` removes.

    Attributes:
        size: bytes up to the end of the last whole line, as far as `lines` has come.
        torn: whether something without an end stands behind it.

    Raises:
        BlockingIOError: another process has it open.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.torn = False
        self.descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # Not lockf: its lock is lost as soon as this process closes any other descriptor of the file.
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self.descriptor), os.stat(path)):
                raise BlockingIOError(f"{path} was renamed meanwhile")
        except BaseException:
            os.close(self.descriptor)
            raise

    def is_empty(self) -> bool:
        """Tell whether nothing at all stands in it."""
        return os.fstat(self.descriptor).st_size == 0

    def lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield number, place and content of each whole line, from the first on."""
        self.size, self.torn = 0, False
        with open(self.descriptor, "rb", closefd=False) as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self.torn = True
                    return
                yield number, self.size, line
                self.size += len(line)

    def cut(self) -> None:
        """Remove what stands behind the last whole line."""
        os.ftruncate(self.descriptor, self.size)

    def append(self, lines: bytes) -> int:
        """Append whole lines and return the place where they begin.

        Raises:
            OSError: they could not be written whole; the file is as it was before.
        """
        try:
            written = os.write(self.descriptor, lines)
            if written < len(lines):
                raise OSError(f"only {written:,} of {len(lines):,} bytes could be written to {self.path}: disk full?")
        except OSError:
            self.cut()
            raise
        place = self.size
        self.size += len(lines)
        return place

    def flush(self) -> None:
        """Bring what was appended to the disk."""
        os.fsync(self.descriptor)

    def close(self) -> None:
        """Bring it to the disk and let others open the file."""
        try:
            self.flush()
        finally:
            os.close(self.descriptor)


class ParquetOutput:
    """A parquet file that is there when it is complete: `finish` writes it beside, `commit` gives it its name.

    Row groups are bounded in rows and bytes, and at most one of them is in memory.

    Args:
        path: of the file; one that is there is replaced by `commit`.
        schema: of its rows.

    Raises:
        OSError: the file cannot be written; so do `add` and `finish`.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        from pyarrow import parquet

        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self._rows: list[Mapping[str, Any]] = []
        self._size = 0
        self._file = self.partial.open("wb")
        self._writer = parquet.ParquetWriter(self._file, schema, compression="zstd")

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self._rows.append(row)
        self._size += _size(row)
        if len(self._rows) >= _GROUP_ROWS or self._size >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        table = pa.Table.from_pylist(self._rows, schema=self._writer.schema)
        self._writer.write_table(table, row_group_size=len(self._rows))
        self._rows, self._size = [], 0

    def finish(self) -> None:
        """Write what is left and everything to the disk, still beside."""
        if self._rows:
            self._flush()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def commit(self) -> None:
        """Give a finished file its name."""
        self.partial.replace(self.path)

    def discard(self) -> None:
        """Delete the file unless it has got its name."""
        # Both try to write what they still hold, on a disk that may be full.
        with suppress(Exception):
            self._writer.close()
        with suppress(OSError):
            self._file.close()
        self.partial.unlink(missing_ok=True)


def _size(value: Any) -> int:
    """Return about how many bytes of text and pictures a row holds."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 0


class Rejects:
    """A file of bad rows with file, line and reason (jsonl), made with the first; one of an earlier run is deleted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None
        path.unlink(missing_ok=True)

    def add(self, file: str, line: int, reason: str, raw: Any) -> None:
        """Write down a row; long texts and bytes in it are shortened."""
        if self._file is None:
            # A half character, which JSON can escape and UTF-8 cannot hold, stays readable so.
            self._file = self.path.open("w", encoding="utf-8", errors="backslashreplace")
        raw = shortened(raw)
        text = json.dumps(raw, ensure_ascii=False)
        if len(text) > _LONGEST_ROW:
            raw = f"{text[:_LONGEST_ROW]}… ({len(text) - _LONGEST_ROW:,} more characters)"
        record = {"file": file, "line": line, "reason": reason[:_LONGEST_TEXT], "row": raw}
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """End the file."""
        if self._file is not None:
            self._file.close()


def shortened(value: Any, depth: int = 8) -> Any:
    """Return a value as JSON can hold it: long texts and lists cut, bytes named by their length and beginning."""
    if isinstance(value, str):
        left = len(value) - _LONGEST_TEXT
        return value if left <= 0 else f"{value[:_LONGEST_TEXT]}… ({left:,} more characters)"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes: {value[:16].hex(' ')}{'…' * (len(value) > 16)}"
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**64):
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    if isinstance(value, Mapping) and depth:
        return {str(key)[:_LONGEST_TEXT]: shortened(one, depth - 1) for key, one in [*value.items()][:100]}
    if isinstance(value, list | tuple) and depth:
        more = [f"… ({len(value) - 100:,} more)"] * (len(value) > 100)
        return [*(shortened(one, depth - 1) for one in value[:100]), *more]
    return excerpt(value)
