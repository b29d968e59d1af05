"""What a preference is: a question with its pictures or video, two responses, and which of the two is better.

One row of every file that `r1reward data` writes is one `Preference`, in the columns of `SCHEMA`. An instance
is always valid: whatever makes one checks its values, and an error names the field and the value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import force_setattr, replace

from r1reward_verl.judgement import Choice, parse_label
from r1reward_verl.media import Media
from r1reward_verl.text import check_text, excerpt

if TYPE_CHECKING:
    import pyarrow as pa

    SCHEMA: pa.Schema
    """Columns of a preference file, in order."""


class Preference(msgspec.Struct, frozen=True):
    """Two responses to a question, and which one is better.

    Attributes:
        id: names the preference within its source; the same row of a data set always has the same.
        source: data set it comes from.
        category: as the source has it, "unknown" where it has none.
        question: without media markers; where the pictures stand is decided at export.
        response_1, response_2: the responses, which differ.
        label: the better response, 1 or 2. What `parse_label` reads is accepted and becomes a number.
        images: the pictures, in order.
        video: None, or its frames in time order. Until it has been sampled a single reference stands for them: to a
            video file, or to a folder of frames.
        difficulty: attempts a teacher made, None before annotation.
        trace: the teacher's judgement that agrees with the label, None if there is none. Given a difficulty, None
            means that no attempt agreed.

    Raises:
        ValueError: a value that does not fit; the message names field and value.
    """

    id: str
    source: str
    category: str
    question: str
    response_1: str
    response_2: str
    label: Choice
    images: tuple[Media, ...] = ()
    video: tuple[Media, ...] | None = None
    difficulty: int | None = None
    trace: str | None = None

    def __post_init__(self) -> None:
        # Written out, since this runs for every row that is read.
        check_text("id", self.id)
        check_text("source", self.source)
        check_text("category", self.category)
        check_text("question", self.question)
        check_text("response_1", self.response_1)
        check_text("response_2", self.response_2)
        if self.response_1 == self.response_2:
            raise ValueError(f"response_1 and response_2 are the same text: {excerpt(self.response_1)}")
        if type(self.label) is not int or self.label not in (1, 2):
            force_setattr(self, "label", parse_label(self.label))
        force_setattr(self, "images", _media_tuple("images", self.images))
        if self.video is not None:
            force_setattr(self, "video", _media_tuple("video", self.video))
            if not self.video:
                raise ValueError("video has no frames; without a video it is None")
        if self.difficulty is not None and (type(self.difficulty) is not int or not 1 <= self.difficulty < 2**15):
            raise ValueError(f"difficulty is {excerpt(self.difficulty)}, not a whole number of attempts from 1 on")
        if self.trace is not None:
            check_text("trace", self.trace)


def place(preference: Preference, seed: int) -> Preference:
    """Put the better response first or second by a hash of `(seed, source, id)`, swapping the two where needed.

    A preference gets the same order in every file, and placing it twice changes nothing. The labels are 1:1 in
    expectation: of n preferences n/2 ± sqrt(n)/2 have the label 1 (one standard deviation).

    Raises:
        ValueError: the two would have to be swapped, but a trace already speaks of them by number.
    """
    digest = hashlib.sha256("\0".join((str(seed), preference.source, preference.id)).encode()).digest()
    better: Choice = 2 if digest[0] % 2 else 1
    if preference.label == better:
        return preference
    if preference.trace is not None:
        raise ValueError(
            f"the responses of {excerpt(preference.id)} cannot be swapped: its trace calls them 1 and 2. "
            "Place preferences before a teacher annotates them"
        )
    return replace(preference, response_1=preference.response_2, response_2=preference.response_1, label=better)


def to_row(preference: Preference) -> dict[str, Any]:
    """Return the row of `SCHEMA` for a preference."""
    row: dict[str, Any] = msgspec.to_builtins(preference, builtin_types=(bytes,))
    return row


def from_row(row: Mapping[str, Any]) -> Preference:
    """Return the preference in a row of `SCHEMA`; columns that are not in it are ignored.

    Raises:
        ValueError: a column is missing, or a value does not fit (see `Preference`).
    """
    if row.keys() >= _FIELDS.keys():
        try:
            return msgspec.convert(row, Preference, builtin_types=(bytes,))
        except msgspec.ValidationError:
            pass  # the errors below name the value
    if missing := [name for name in _FIELDS if name not in row]:
        raise ValueError(f"no column {missing[0]!r} (there are: {', '.join(map(str, row)) or 'none'})")
    values = {name: row[name] for name in _FIELDS}
    for name in ("images", "video"):
        if values[name] is not None or name == "images":
            values[name] = _media_from(name, values[name])
    return Preference(**values)


def _media_from(name: str, value: Any) -> tuple[Media, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
        raise ValueError(f"{name} is {excerpt(value)}; a list of structs with path, bytes and sha256 is needed")
    return tuple(Media(item.get("path"), item.get("bytes"), item.get("sha256")) for item in value)


def _media_tuple(name: str, value: Any) -> tuple[Media, ...]:
    if not isinstance(value, (tuple, list)):
        raise ValueError(f"{name} is {excerpt(value)}; a tuple of Media is needed")
    for item in value:
        if not isinstance(item, Media):
            raise ValueError(f"{name} holds {excerpt(item)}, which is no Media")
    return tuple(value)


_FIELDS = dict.fromkeys(Preference.__struct_fields__)


@lru_cache(maxsize=1)
def _schema() -> pa.Schema:
    import pyarrow as pa

    media = pa.list_(
        pa.field(
            "element",
            pa.struct([("path", pa.string()), ("bytes", pa.binary()), ("sha256", pa.string())]),
            nullable=False,
        )
    )
    types = dict.fromkeys(_FIELDS, pa.string())
    types |= {"label": pa.int8(), "images": media, "video": media, "difficulty": pa.int16()}
    optional = {"video", "difficulty", "trace"}
    return pa.schema([pa.field(name, types[name], nullable=name in optional) for name in _FIELDS])


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # So that pyarrow is imported by those who write or read files only.
        if name == "SCHEMA":
            return _schema()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
