"""Reading a file of preferences."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from r1reward_verl.data import preference
from r1reward_verl.data.preference import Preference, from_batch, from_row
from r1reward_verl.data.readers import RowError, batch_rows, read_rows
from r1reward_verl.text import excerpt

if TYPE_CHECKING:
    import pyarrow as pa


def read_preferences(path: str | os.PathLike[str]) -> Iterator[tuple[int, Preference] | RowError]:
    """Yield `(number, preference)` for each row of a preference file, and a `RowError` for each that is none.

    Args:
        path: a file in the columns of `preference.SCHEMA` (parquet, or another format of `read_rows`).

    Raises:
        FileNotFoundError, ValueError: at once, as `read_rows`.
    """
    return map(_preference, read_rows(path, _from_batch))


def _from_batch(batch: pa.RecordBatch, number: int) -> Iterator[Any]:
    if batch.schema.equals(preference.SCHEMA):  # made at first use: it needs pyarrow
        with suppress(ValueError):
            return enumerate(from_batch(batch), number)
    return batch_rows(batch, number)


def _preference(item: Any) -> tuple[int, Preference] | RowError:
    if isinstance(item, RowError):
        return item
    number, row = item
    if isinstance(row, Preference):
        return item
    try:
        return number, from_row(row)
    except ValueError as error:
        return RowError(number, str(error), excerpt(row))
