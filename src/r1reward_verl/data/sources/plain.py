"""Any file, its columns named by a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import (
    UNKNOWN,
    Row,
    Skipped,
    pair_id,
    read_media_columns,
    read_text,
    required,
    without_markers,
)
from r1reward_verl.judgement import Choice, parse_label
from r1reward_verl.text import excerpt


@dataclass(frozen=True)
class Plain:
    """Any jsonl, CSV or parquet file, its columns named by a mapping.

    Fields: `question`; `response_1`, `response_2` and `label`, or `chosen` and `rejected`; optional are `id` (without
    it a hash of the texts), `source`, `category`, `images` or `image`, `video`, `difficulty`, `trace`. Pictures are a
    path, a data URI, a struct with `path` or `bytes`, a list of these, or the JSON text of such a list; a video is a
    path or a list of frames. Empty and null values of optional fields mean that there is none.

    Attributes:
        columns: field -> column of the file; a field that is not in it stands in the column of its own name.
        labels: what a value of `label` means: 1, 2, or "skip" for rows without a preference, such as ties; without
            it 1 and 2 mean themselves. Numbers are looked up as they are written.
        name: `Preference.source` of rows without a `source`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, int | str] = field(default_factory=dict)
    name: str = "plain"

    def __post_init__(self) -> None:
        if unknown := [name for name in self.columns if name not in _PLAIN_FIELDS]:
            raise ValueError(f"field {unknown[0]!r} is unknown; known: {', '.join(_PLAIN_FIELDS)}")
        if wrong := [f"{label}={meaning}" for label, meaning in self.labels.items() if str(meaning) not in _MEANINGS]:
            raise ValueError(f"the label {wrong[0]!r} is mapped to none of {', '.join(_MEANINGS)}")

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's preference; of `chosen` and `rejected` the chosen response first."""
        if missing := [column for column in self.columns.values() if column not in row]:
            raise ValueError(f"no column {missing[0]!r} (there are: {', '.join(map(str, row)) or 'none'})")

        def column(name: str) -> str:
            return self.columns.get(name, name)

        def optional(name: str) -> Any:
            value = row.get(column(name))
            return None if value == "" else value

        question = without_markers(read_text(row, column("question")))
        if column("label") in row or column("chosen") not in row:
            responses = read_text(row, column("response_1")), read_text(row, column("response_2"))
            label = self._label(required(row, column("label")))
        else:
            responses = read_text(row, column("chosen")), read_text(row, column("rejected"))
            label = 1
        identity = optional("id")
        if isinstance(identity, int) and not isinstance(identity, bool):
            identity = str(identity)
        difficulty = optional("difficulty")
        if isinstance(difficulty, str) and difficulty.isascii() and difficulty.isdigit():
            difficulty = int(difficulty)
        yield Preference(
            id=pair_id(self.name, question, *responses) if identity is None else identity,
            source=optional("source") or self.name,
            category=optional("category") or UNKNOWN,
            question=question,
            response_1=responses[0],
            response_2=responses[1],
            label=label,
            images=read_media_columns(row, column("images"), column("image")),
            video=read_media_columns(row, column("video")) or None,
            difficulty=difficulty,
            trace=optional("trace"),
        )

    def _label(self, value: Any) -> Choice:
        if not self.labels:
            try:
                return parse_label(value)
            except ValueError as error:
                raise ValueError(f"{error}; --label says what other labels mean") from None
        meaning = str(self.labels.get(str(value).strip()))
        if meaning not in _MEANINGS:
            raise ValueError(f"label is {excerpt(value)}, not one of {', '.join(self.labels)}")
        if meaning == "skip":
            raise Skipped(f"label is {excerpt(value)}")
        return parse_label(meaning)


_MEANINGS = ("1", "2", "skip")
_PLAIN_FIELDS = (
    *("id", "source", "category", "question", "response_1", "response_2", "label", "chosen", "rejected"),
    *("images", "image", "video", "difficulty", "trace"),
)
