"""Files of preferences: which paths a command takes, and how one is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from r1reward_verl.data.preference import Preference, from_row
from r1reward_verl.data.readers import Item, RowError, read_rows
from r1reward_verl.text import excerpt


def check_paths(inputs: Sequence[str], out: Path) -> None:
    """Raise ValueError unless a parquet file can be made of the inputs: it is none of them, and none stands twice."""
    if out.suffix != ".parquet":
        raise ValueError(f"the output {str(out)!r} does not end in .parquet")
    if out.is_dir():
        raise ValueError(f"the output {str(out)!r} is a folder")
    if not inputs:
        raise ValueError("there is no input file")
    real = [os.path.realpath(path) for path in inputs]
    if os.path.realpath(out) in real:
        raise ValueError(f"{str(out)!r} is input and output at the same time")
    if twice := [path for path, times in Counter(real).items() if times > 1]:
        raise ValueError(f"the input {twice[0]!r} is given twice")


def read_preferences(path: str | os.PathLike[str]) -> Iterator[tuple[int, Preference] | RowError]:
    """Yield `(number, preference)` for each row of a preference file, and a `RowError` for each that is none.

    Args:
        path: a file in the columns of `preference.SCHEMA` (parquet, or another format of `read_rows`).

    Raises:
        FileNotFoundError, ValueError: at once, as `read_rows`.
    """
    return map(_preference, read_rows(path))


def _preference(item: Item) -> tuple[int, Preference] | RowError:
    if isinstance(item, RowError):
        return item
    number, row = item
    try:
        return number, from_row(row)
    except ValueError as error:
        return RowError(number, str(error), excerpt(row))


def rejects_fault(rejected: int, read: int, bound: float, rejects: Path) -> str | None:
    """Say that a larger share of the rows than the bound was rejected, and where they stand; else return None."""
    if rejected <= bound * read:
        return None
    return (
        f"{rejected:,} of {read:,} rows were rejected, more than {bound:.1%}: see {rejects}, and raise "
        "--max-rejects if the rest is what you want"
    )
