"""Settings that are declared once: name, type, bounds, default and description stand in one field.

A settings class checks its own values; the command line and the documentation are made from its fields:

    class AnnotateSettings(Settings, frozen=True, kw_only=True):
        model: Annotated[str, setting("Name under which the servers serve the teacher.")]
        attempts: Annotated[int, setting("Largest number of attempts at one preference.", ge=1)] = 3

(msgspec wants `frozen` and `kw_only` again in each subclass.)
"""

from __future__ import annotations

from typing import Any, get_type_hints

import msgspec


def setting(description: str, *, flag: str | None = None, metavar: str | None = None, **bounds: Any) -> msgspec.Meta:
    """Describe a field of a `Settings` class.

    Args:
        description: what the setting is: a noun phrase or an imperative, with its unit.
        flag: name of the command-line option if it is not that of the field, such as "--url" for `urls`.
        metavar: placeholder of the value in the help text.
        bounds: `ge`, `gt`, `le`, `lt`, `min_length` (see `msgspec.Meta`).
    """
    return msgspec.Meta(description=description, extra={"flag": flag, "metavar": metavar}, **bounds)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the settings classes.

    Raises:
        ValueError: a value of another type or outside its bounds; the message names the setting and the value.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            try:
                msgspec.convert(value, hint, from_attributes=True)
            except msgspec.ValidationError as error:
                raise ValueError(f"{name.replace('_', '-')} is {value!r}: {error}") from None
