"""What is wrong with one row of a data file: its form, its label, its trace, its media."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from r1reward_verl.data.preference import from_row
from r1reward_verl.data.readers import RowError
from r1reward_verl.data.rows import (
    Kind,
    frames_of,
    label_of,
    media_of,
    named_label,
    prompt_fault,
    texts_of,
    trace_of,
)
from r1reward_verl.judgement import Choice, build_prompt, parse
from r1reward_verl.media import (
    Media,
    addresses,
    check_sides,
    decoded,
    image_source,
    is_remote,
    load_image,
    look_at,
    resolve,
)
from r1reward_verl.text import excerpt

_VALUE = 32  # characters of a value in a message

WAYS_OUT = {
    "file": "Write it again, or copy it anew",
    "columns": "Write the column with this type, or convert the file with `r1reward data convert`",
    "row": "Correct the row, or leave it out",
    "label": "Write 1 or 2, the better response",
    "messages": 'Write [{"role": "user", "content": …}, …]',
    "markers": "Write one marker into the text for each picture and video",
    "media": "Replace the file, or leave the row out",
    "sha256": "The file is not the one that was converted: restore it, or convert again",
    "trace": "Annotate the row again, or leave it out",
    "length": "Leave the row out, lower --max-pixels, or raise the limit here and in training",
    "duplicate": "Leave one of the two out",
    "id": "Give each preference of a source an id of its own",
}
"""Kinds of problems, and what to do about them."""


@dataclass(frozen=True)
class RowProblem:
    """Something that is wrong with a row, or with the file as a whole."""

    kind: str  # key of `WAYS_OUT`
    row: int  # from 1 on (of jsonl and CSV: the line); 0 for the file as a whole
    column: str  # "" for no particular one
    value: str  # shortened, "" where there is none to show
    reason: str

    @property
    def way_out(self) -> str:
        """What to do about it."""
        return WAYS_OUT[self.kind]


@dataclass
class CheckedPicture:
    """A picture or frame of a row, and what was found about it."""

    column: str
    entry: Any
    source: Any  # bytes or path; None where the entry has neither
    sha256: str | None = None  # as the row has it
    video: int | None = None
    content: str | None = None  # the sha256 of the file
    size: tuple[int, int] | None = None

    @property
    def remote(self) -> bool:
        """Whether it stands at an address."""
        return any(addresses(self.source))


@dataclass
class CheckedRow:
    """A row on its way through the check."""

    number: int
    problems: list[RowProblem] = field(default_factory=list)
    label: Choice | None = None
    better_first: bool | None = None  # whether the better text is the first of the two in their alphabetical order
    texts: tuple[str, ...] = ()  # what makes two rows the same, besides their media
    identity: tuple[str, ...] | None = None
    messages: list[dict[str, Any]] | None = None
    pictures: list[CheckedPicture] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)
    rows: int = 1

    def set_pair(self, question: str, response_1: str, response_2: str, images: int) -> None:
        """Compare the row with others by its texts, in whatever order its responses stand."""
        responses = sorted((response_1, response_2))
        self.texts = (question, *responses, str(images))
        if self.label is not None:
            self.better_first = responses[0] == (response_1, response_2)[self.label - 1]

    def add_problem(self, kind: str, column: str, value: Any, reason: str) -> None:
        """Add a problem."""
        self.problems.append(RowProblem(kind, self.number, column, "" if value is None else excerpt(value), reason))


def check_row(item: Any, kind: Kind) -> CheckedRow:
    """Check a row as `read_rows` gives it, but for its media and what it has in common with others."""
    if isinstance(item, RowError):
        row = CheckedRow(item.number, rows=item.rows or 0)
        row.add_problem("row" if item.rows == 1 else "file", "", item.raw, item.reason)
        return row
    number, values = item
    row = CheckedRow(number)
    {"preferences": _read_preference, "rl": _read_rl, "sft": _read_sft}[kind](row, values)
    return row


def _read_preference(row: CheckedRow, values: Mapping[str, Any]) -> None:
    try:
        preference = from_row(values)
    except ValueError as error:
        reason = str(error)
        first = reason.split(" ", 1)[0]
        column = first if first in values else "images" if first == "media" else ""
        row.add_problem("label" if column == "label" else "row", column, values.get(column), reason)
        return
    row.label = preference.label
    row.set_pair(preference.question, preference.response_1, preference.response_2, len(preference.images))
    row.identity = (preference.source, preference.id)
    markers = "<image>" * len(preference.images) + "<video>" * (preference.video is not None)
    prompt = build_prompt(preference.question, preference.response_1, preference.response_2)
    row.messages = [{"role": "user", "content": markers + prompt}]
    media: list[tuple[str, int | None, Media]] = [("images", None, one) for one in preference.images]
    media += [("video", 0, one) for one in preference.video or ()]
    row.pictures = [CheckedPicture(name, None, one.data or one.path, one.sha256, video) for name, video, one in media]
    row.videos = [{}] * (preference.video is not None)
    if preference.trace is not None:
        _check_trace(row, "trace", preference.trace, preference.label)


def _read_rl(row: CheckedRow, values: Mapping[str, Any]) -> None:
    if not isinstance(values.get("data_source"), str) or not values["data_source"]:
        row.add_problem("row", "data_source", values.get("data_source"), "the name of a source is needed")
    try:
        row.label = label_of(values)
        row.better_first = row.label == 1
    except ValueError as error:
        model = values.get("reward_model")
        found = model.get("ground_truth") if isinstance(model, Mapping) else model
        row.add_problem("label", "reward_model", found, str(error))
    _read_messages(row, values, "prompt", str(values.get("data_source")))


def _read_sft(row: CheckedRow, values: Mapping[str, Any]) -> None:
    _read_messages(row, values, "messages", "")
    if row.messages is None:
        return
    try:
        trace = trace_of(values)
    except ValueError as error:
        row.add_problem("messages", "messages", None, str(error))
        return
    known = named_label(values)
    _check_trace(row, "messages", trace, known)
    row.label = known or parse(trace).choice


def _check_trace(row: CheckedRow, column: str, trace: str, label: Choice | None) -> None:
    verdict = parse(trace)
    if verdict.choice is None:
        row.add_problem("trace", column, trace[-_VALUE:], f"it is no judgement ({verdict.reason})")
    elif label is not None and verdict.choice != label:
        row.add_problem(
            "trace", column, verdict.choice, f"it names response {verdict.choice}, and the label is {label}"
        )


def _read_messages(row: CheckedRow, values: Mapping[str, Any], column: str, source: str) -> None:
    messages = values.get(column)
    media: dict[str, list[Any]] = {}
    for name in ("images", "videos"):
        try:
            media[name] = media_of(values, name)
        except ValueError as error:
            row.add_problem("media", name, values[name], str(error))
            return
    markers = {"<image>": ("images", media["images"]), "<video>": ("videos", media["videos"])}
    if fault := prompt_fault(messages, column, markers):
        row.add_problem("markers" if isinstance(messages, list) else "messages", column, None, fault[0])
    elif not messages or not all(isinstance(one.get("role"), str) and one.get("content") for one in messages):
        row.add_problem("messages", column, messages, "each message needs a role and a content")
    else:
        row.messages = [{"role": one["role"], "content": one["content"]} for one in messages]
    about = values.get("extra_info")
    if isinstance(about, Mapping):
        key = next((about[name] for name in ("id", "pair_id") if about.get(name) is not None), None)
        if key is not None:
            # Validation rows come in both orders.
            row.identity = (str(about.get("source") or source), str(key), str(about.get("order")))
    row.texts = (json.dumps(messages, default=str),)
    if column == "prompt" and isinstance(about, Mapping) and (texts := texts_of(about)) is not None:
        row.set_pair(*texts, len(media["images"]))
    row.pictures = [CheckedPicture("images", entry, image_source(entry)) for entry in media["images"]]
    row.videos = media["videos"]
    for place, video in enumerate(row.videos):
        row.pictures += [
            CheckedPicture("videos", video, image_source(frame), video=place) for frame in frames_of(video)
        ]


class MediaCheck:
    """Looks at the pictures of rows; thread-safe.

    Args:
        root: folder below which relative paths are meant; None for the working directory.
        open_them: whether files are opened, as far as their headers.
        decode: whether pictures are decoded, which finds those that are cut off.
    """

    def __init__(self, root: str | None, open_them: bool, decode: bool) -> None:
        self.root, self.open_them, self.decode = root, open_them, decode
        # Data sets ask several questions about a picture, mostly in rows that follow each other.
        self._look_at_file = lru_cache(maxsize=4096)(self._look_at)

    def look(self, row: CheckedRow) -> CheckedRow:
        """Add the problems of a row's pictures, and what is found about those that are sound."""
        for picture in row.pictures:
            try:
                self._look(picture)
            except ValueError as error:
                # Pictures as bytes are not shown: nobody knows one by its beginning.
                value = picture.source if isinstance(picture.source, str) else None
                row.add_problem("media", picture.column, value, str(error))
                continue
            if picture.sha256 and picture.content and picture.content != picture.sha256:
                reason = f"its sha256 is {picture.content[:12]}…, the row has {picture.sha256[:12]}…"
                row.add_problem("sha256", picture.column, picture.source, reason)
        return row

    def _look(self, picture: CheckedPicture) -> None:
        source = picture.source
        if isinstance(source, str) and source.startswith("data:"):
            source = decoded(source)
        if isinstance(source, bytes):
            if self.open_them:
                picture.content, picture.size = self._look_at(source)
            else:
                picture.content = hashlib.sha256(source).hexdigest()
        elif is_remote(source):
            return
        elif not isinstance(source, str):
            raise ValueError(
                f"missing: {excerpt(picture.entry)} holds neither the bytes of an encoded picture nor a path"
            )
        elif self.open_them:
            path = source.removeprefix("file://")
            if self.root is not None and not os.path.isabs(path):
                path = resolve(self.root, path)
            if not os.path.exists(path):
                raise ValueError(f"the file {excerpt(path)} does not exist")
            # A video that was not sampled yet is a folder of frames, or a file that is no picture.
            if picture.video is None or not _is_video(path):
                picture.content, picture.size = self._look_at_file(path)

    def _look_at(self, source: str | bytes) -> tuple[str, tuple[int, int]]:
        found = look_at(source)
        check_sides(found[1])
        if self.decode:
            load_image(source)
        return found


_VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".flv", ".ts", ".ogv", ".wmv")


def _is_video(path: str) -> bool:
    return os.path.isdir(path) or path.lower().endswith(_VIDEOS)
