"""What stands in a row of any file of this project: preferences, verl's RL rows and verl's SFT rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from r1reward_verl.data.preference import Preference, from_row
from r1reward_verl.data.readers import RowError, read_rows
from r1reward_verl.judgement import FIELDS, Choice, parse, parse_label
from r1reward_verl.text import excerpt

Kind = Literal["preferences", "rl", "sft"]
KINDS: dict[Kind, str] = {
    "preferences": "preferences",
    "rl": "rows for verl's main_ppo",
    "sft": "rows for verl's SFT trainer",
}
UNSOLVED, NONE = "unsolved", "none"
"""Difficulties besides the numbers of attempts: no attempt agreed with the label; no teacher was asked."""

MARKS: dict[Kind, tuple[str, ...]] = {
    "preferences": ("question", "response_1", "response_2", "label"),
    "rl": ("prompt", "reward_model", "data_source"),
    "sft": ("messages",),
}
"""The columns that make a file one of a kind."""


def kind_of(columns: Iterable[str]) -> Kind | None:
    """Tell by its columns what a file holds, also where one of them is missing; None where none is there."""
    there = set(columns)
    shares = {kind: len(there.intersection(marks)) / len(marks) for kind, marks in MARKS.items()}
    best = max(shares, key=lambda kind: shares[kind])
    return best if shares[best] else None


def columns_of(path: str | os.PathLike[str]) -> list[str]:
    """Return the columns of a data file: a parquet file's, or those of the first row that can be read.

    Raises:
        FileNotFoundError, PermissionError: no file.
        ValueError: of no known format, or not a single row of it can be read.
    """
    rows = read_rows(path)
    if str(path).endswith(".parquet"):
        import pyarrow as pa
        from pyarrow import parquet

        try:
            return list(parquet.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"not a complete parquet file: {str(error).splitlines()[0]}") from None
    reason = "it is empty"
    for item in rows:
        if not isinstance(item, RowError):
            return list(map(str, item[1]))
        reason = item.reason
    raise ValueError(f"{str(path)!r} has no row that can be read: {reason}")


def number_of_rows(path: str | os.PathLike[str]) -> int | None:
    """Return what the footer of a parquet file says; None of other files."""
    from pyarrow import ArrowException, parquet

    try:
        return int(parquet.read_metadata(path).num_rows) if Path(path).suffix == ".parquet" else None
    except (ArrowException, OSError):
        return None


@dataclass(frozen=True)
class Sample:
    """A row of any kind, as far as statistics and a reader want to know it; None for what it does not say.

    Attributes:
        source, category: "unknown" where the row has none.
        difficulty: the attempt at which a teacher agreed ("1", "2", ...), `UNSOLVED` or `NONE`.
        label: the better response.
        question, responses: the texts without the prompt around them.
        trace: the teacher's judgement.
        images, frames: as they stand in the row (see `r1reward_verl.media`).
    """

    source: str
    category: str
    difficulty: str
    label: Choice | None = None
    question: str | None = None
    responses: tuple[str, str] | None = None
    trace: str | None = None
    images: Sequence[Any] = ()
    frames: Sequence[Any] = ()


def of_preference(preference: Preference) -> Sample:
    """Return a preference as a sample."""
    images, frames = (
        [{"bytes": one.data, "path": one.path} for one in media]
        for media in (preference.images, preference.video or ())
    )
    return Sample(
        preference.source,
        preference.category,
        difficulty_of(preference),
        preference.label,
        preference.question,
        (preference.response_1, preference.response_2),
        preference.trace,
        images,
        frames,
    )


def read_sample(row: Mapping[str, Any], kind: Kind) -> Sample:
    """Read a row of a file of this kind.

    Raises:
        ValueError: it cannot be read as one; the message names what is wrong.
    """
    if kind == "preferences":
        return of_preference(from_row(row))
    about = row.get("extra_info")
    about = about if isinstance(about, Mapping) else {}
    source = row.get("data_source") if kind == "rl" else about.get("source")
    texts = texts_of(about)
    trace = trace_of(row) if kind == "sft" else None
    label = label_of(row) if trace is None else named_label(row) or parse(trace).choice
    return Sample(
        source if isinstance(source, str) and source else "unknown",
        str(about.get("category") or "unknown"),
        _difficulty(about.get("difficulty"), about.get("solved") is not False),
        label,
        texts and texts[0],
        texts and texts[1:],
        trace,
        media_of(row, "images"),
        [frame for video in media_of(row, "videos") for frame in frames_of(video)],
    )


def texts_of(about: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return question and responses in the `extra_info` of a row, None where one is missing."""
    question, response_1, response_2 = (about.get(name) for name in FIELDS)
    if isinstance(question, str) and isinstance(response_1, str) and isinstance(response_2, str):
        return question, response_1, response_2
    return None


def difficulty_of(preference: Preference) -> str:
    """Return the attempt at which the teacher agreed ("1", "2", ...), `UNSOLVED` or `NONE`."""
    return _difficulty(preference.difficulty, preference.trace is not None)


def _difficulty(attempts: Any, solved: bool) -> str:
    if not isinstance(attempts, int):
        return NONE
    return str(attempts) if solved else UNSOLVED


def label_of(row: Mapping[str, Any]) -> Choice:
    """Return the label of an RL row.

    Raises:
        ValueError: none, or another than 1 and 2.
    """
    model = row.get("reward_model")
    if not isinstance(model, Mapping):
        raise ValueError(f"reward_model is {excerpt(model)}, no struct with ground_truth")
    return parse_label(model.get("ground_truth"))


def named_label(row: Mapping[str, Any]) -> Choice | None:
    """Return the label that the `extra_info` of an exported row tells by its `order`, None where it does not."""
    about = row.get("extra_info")
    order = about.get("order") if isinstance(about, Mapping) else None
    return 1 if order == 0 else 2 if order == 1 else None


def trace_of(row: Mapping[str, Any]) -> str:
    """Return the judgement that an SFT row teaches.

    Raises:
        ValueError: its messages are none, or the last is not the assistant's.
    """
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, Mapping) for one in messages):
        raise ValueError(f"messages is {excerpt(messages)}, no list of messages")
    role, content = messages[-1].get("role"), messages[-1].get("content")
    if role != "assistant" or not isinstance(content, str):
        raise ValueError(f"the last message is {excerpt(content)} of role {excerpt(role)}, not a text of the assistant")
    return content


def media_of(row: Mapping[str, Any], column: str) -> list[Any]:
    """Return what stands in a row's `images` or `videos`, [] where nothing does.

    Raises:
        ValueError: no list.
    """
    media = row.get(column)
    if media is None:
        return []
    if not isinstance(media, list | tuple):
        raise ValueError(f"{column} is {excerpt(media)}, no list")
    return list(media)


def frames_of(video: Any) -> list[Any]:
    """Return the frames of one entry of a row's videos; a video file or folder is its own only one."""
    if isinstance(video, Mapping):
        video = video.get("video")
    return list(video) if isinstance(video, list | tuple) else [video]


Fault = tuple[str, str]
"""What is wrong with a value, and the way out."""


def prompt_fault(prompt: Any, prompt_key: str, media: Mapping[str, tuple[str, Sequence[Any]]]) -> Fault | None:
    """Say what is wrong with the messages in the column `prompt_key` of a row, None if nothing is.

    `media` has for each marker the column and content of the row's media: `{"<image>": ("images", [...])}`.
    """
    if not isinstance(prompt, list) or not all(isinstance(message, Mapping) for message in prompt):
        return f"{prompt_key} is {str(prompt)[:60]!r}, no list of messages", 'Write [{"role": "user", "content": …}]'
    texts = [message.get("content") for message in prompt]
    for marker, (column, entries) in media.items():
        places = sum(text.count(marker) for text in texts if isinstance(text, str))
        if all(isinstance(text, str) for text in texts) and places != len(entries):
            what = "picture" if marker == "<image>" else "video"
            return (
                f"the prompt has {places} {marker} and the column {column} {len(entries)} {what}s",
                f"Write one {marker} into the prompt for each {what}",
            )
    return None
