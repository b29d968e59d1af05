"""Texts: values in messages, and what every file and terminal can hold."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def excerpt(value: Any) -> str:
    """Return a value for a message: its repr, shortened if it is long."""
    return _REPR.repr(value)


def printable(text: str) -> str:
    """Return a text on one line: characters that are not printable become blanks, several blanks one."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines in columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def valid_utf8(text: str) -> str:
    """Replace lone surrogates, which JSON can escape and no file can hold."""
    return text.encode(errors="replace").decode()


def check_text(name: str, value: Any) -> None:
    """Raise ValueError, naming `name`, unless a value is a text that is not blank and that UTF-8 can hold."""
    if not isinstance(value, str) or not value or value.isspace():
        raise ValueError(f"{name} is {excerpt(value)}; a text that is not empty is needed")
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds {value[error.start]!r} at character {error.start}, half a character: no UTF-8 can hold it"
        ) from None
