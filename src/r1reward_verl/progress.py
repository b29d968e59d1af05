"""The progress of long work: a bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_SECONDS = 30.0
_LINE = "{desc}: {n_fmt}/{total_fmt} {unit} ({percentage:.0f}%), {elapsed} so far, {remaining} to go{postfix}"


def progress_bar(*items: Any, shown: bool | None = None, **options: Any) -> tqdm[Any]:
    """Return a progress bar.

    Args:
        items: what to iterate over, if anything.
        shown: False for none, True for a bar wherever the output goes; None for a bar on a terminal, lines elsewhere.
        options: those of tqdm.
    """
    if shown is not None or sys.stderr.isatty():
        return tqdm(*items, disable=shown is False, **options)
    options = {"mininterval": _SECONDS, "maxinterval": _SECONDS, "delay": _SECONDS, **options}
    return _Lines(*items, **options, bar_format=_LINE)


class _Lines(tqdm):
    """A progress bar that prints lines."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if msg is None:  # an empty text would clear the bar
            print(str(self), file=self.fp, flush=True)
        return True
