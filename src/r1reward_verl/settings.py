"""Settings that are declared once: name, type, bounds, default and description stand in one field.

A settings class checks its own values; the command line and the documentation are made from its fields:

    class AnnotateSettings(Settings, frozen=True, kw_only=True):
        model: Annotated[str, setting("Name under which the servers serve the teacher.")]
        attempts: Annotated[int, setting("Largest number of attempts at one preference.", ge=1)] = 3

(msgspec wants `frozen` and `kw_only` again in each subclass.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec


def setting(
    description: str,
    *,
    flag: str | None = None,
    metavar: str | None = None,
    parser: Callable[[str], Any] | None = None,
    **bounds: Any,
) -> msgspec.Meta:
    """Describe a field of a `Settings` class.

    Args:
        description: what the setting is: a noun phrase or an imperative, with its unit.
        flag: name of the command-line option if it is not that of the field, such as "--url" for `urls`.
        metavar: placeholder of the value in the help text.
        parser: reads the value from the command line, and raises ValueError for one that it cannot read.
        bounds: `ge`, `gt`, `le`, `lt`, `min_length` (see `msgspec.Meta`).
    """
    return msgspec.Meta(description=description, extra={"flag": flag, "metavar": metavar, "parser": parser}, **bounds)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the settings classes.

    Raises:
        ValueError: a value of another type or outside its bounds; the message names the setting and the value.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            if "Path" not in str(hint):
                value = _path_as_text(value)
                msgspec.structs.force_setattr(self, name, value)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name.replace('_', '-')} is {value!r}: Expected a finite number")
            if value is None and type(None) in get_args(_type_of(hint)):
                continue
            try:
                msgspec.convert(value, _without_none(hint))
            except msgspec.ValidationError as error:
                raise ValueError(f"{name.replace('_', '-')} is {value!r}: {error}") from None


def _path_as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [_path_as_text(one) for one in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _type_of(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _without_none(hint: Any) -> Any:
    """Let the bounds of `Annotated[int | None, ...]` hold for the number: msgspec refuses them for the union."""
    if get_origin(hint) is Annotated and type(None) in (parts := get_args(_type_of(hint))):
        return Annotated[Union[tuple(part for part in parts if part is not type(None))], get_args(hint)[1]]  # noqa: UP007
    return hint
