"""Rows to judge or rank: a question and two or more responses, without a label or with one.

These forms are read, whatever the file (jsonl, JSON, CSV, parquet, Arrow):

- `question` (or `prompt`) with `responses` (or `completions`, `response`): a list of texts, or of objects with `text`
  and `images`;
- the columns of `r1reward data`: `question`, `response_1`, `response_2`, and `label` if there is one;
- TRL's preferences, `chosen` and `rejected` as texts or lists of messages;
- VL-RewardBench, `prompt` or `query` with `chosen` and `rejected`, or with `response` and `human_ranking`.

Media are in `images` or `image`, and in `videos` or `video`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from r1reward_verl.data.readers import RowError, read_rows
from r1reward_verl.data.sources.base import read_media_list, without_markers
from r1reward_verl.data.sources.conversations import TRL
from r1reward_verl.judgement import parse_label
from r1reward_verl.media import Media, resolve
from r1reward_verl.text import excerpt
from r1reward_verl.use.comparison import Question, Response, Video, read_media

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """A row of a file.

    Attributes:
        row: its number, as `read_rows` counts.
        id: as in the file, or a hash of the texts.
        question: the question with its media; their paths are absolute.
        responses: at least one.
        label: position of the response that the file says is the best; None where it says nothing.
        fields: the row itself.
    """

    row: int
    id: str
    question: Question
    responses: tuple[Response, ...]
    label: int | None
    fields: Row


def read_groups(
    path: str | os.PathLike[str], media: str | os.PathLike[str] | None = None
) -> Iterator[Group | RowError]:
    """Yield the groups of a file, and a `RowError` for each row that is none.

    Args:
        path: the file; see `data.readers.read_rows`.
        media: folder of relative media paths; None for that of the file. Nothing outside it is opened.

    Raises:
        FileNotFoundError, ValueError: see `read_rows`; or `media` is no folder.
    """
    root = os.path.realpath(os.path.dirname(os.path.abspath(path)) if media is None else media)
    if not os.path.isdir(root):
        raise ValueError(f"the media folder {os.fspath(media or root)!r} is not a folder")
    rows = read_rows(path)
    return (item if isinstance(item, RowError) else _group(*item, root) for item in rows)


def _group(number: int, row: Row, root: str) -> Group | RowError:
    try:
        return _read(number, row, root)
    except ValueError as error:
        return RowError(number, str(error), json.dumps(row, default=repr)[:1000])


def _read(number: int, row: Row, root: str) -> Group:
    label: int | None = None
    if isinstance(row.get("chosen"), list) or isinstance(row.get("prompt"), list):
        (preference,) = TRL().read(row, number)
        text, responses = preference.question, [Response(preference.response_1), Response(preference.response_2)]
        images, label = preference.images, 0
    else:
        text = _question(row)
        responses, label = _responses(row)
        images = read_media_list(_first(row, "images", "image"))
    videos = _videos(row)
    question = Question(
        without_markers(text),
        tuple(_located(one, root) for one in images),
        tuple(tuple(_located(frame, root) for frame in _sampled(video, root)) for video in videos),
    )
    responses = [replace(one, images=tuple(_located(image, root) for image in one.images)) for one in responses]
    identity = row.get("id")
    if identity is None or identity == "":
        digest = hashlib.sha256("\0".join([question.text, *(one.text for one in responses)]).encode(errors="replace"))
        identity = digest.hexdigest()[:16]
    return Group(number, str(identity), question, tuple(responses), label, row)


def _first(row: Row, *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "", [])), None)


def _question(row: Row) -> str:
    text = _first(row, "question", "prompt", "query")
    if not isinstance(text, str):
        raise ValueError(f"the question is {excerpt(text)}: question, prompt or query must hold a text")
    return text


def _responses(row: Row) -> tuple[list[Response], int | None]:
    listed = _first(row, "responses", "completions", "response")
    if listed is not None:
        if not isinstance(listed, list) or not listed:
            raise ValueError(f"responses is {excerpt(listed)}; a list of texts is needed")
        return [_response(one) for one in listed], _ranking(row.get("human_ranking"), len(listed))
    for names in (("response_1", "response_2"), ("chosen", "rejected")):
        if names[0] in row or names[1] in row:
            pair = [_response(row.get(name)) for name in names]
            if names[0] == "chosen":
                return pair, 0
            return pair, None if row.get("label") in (None, "") else parse_label(row["label"]) - 1
    raise ValueError(
        f"no responses among {', '.join(map(str, row)) or 'no columns'}: give responses, response_1 and response_2, or "
        "chosen and rejected"
    )


def _response(value: Any) -> Response:
    if isinstance(value, Mapping):
        return Response(str(value.get("text") or ""), read_media_list(_first(value, "images", "image")))
    return Response.make(value)


def _ranking(value: Any, count: int) -> int | None:
    """Return the best response of a ranking, in which 0 is the best rank."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != count or 0 not in value:
        raise ValueError(f"human_ranking is {excerpt(value)}; a list of {count} ranks from 0 on is needed")
    return value.index(0)


def _videos(row: Row) -> list[Sequence[Media]]:
    many = row.get("videos")
    if isinstance(many, list) and many and all(isinstance(one, list) for one in many):
        return [read_media_list(one) for one in many]
    one = read_media_list(_first(row, "videos", "video"))
    return [one] if one else []


def _located(media: Media, root: str) -> Media:
    return media if media.path is None else Media(path=resolve(root, media.path), sha256=media.sha256)


def _sampled(video: Sequence[Media], root: str) -> Video:
    """Return the frames of a video, evenly sampled from a video file or a folder of frames."""
    if len(video) == 1 and video[0].path is not None:
        _, videos = read_media(resolve(root, video[0].path))
        return videos[0] if videos else tuple(video)
    return tuple(video)
