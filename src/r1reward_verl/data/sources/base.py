"""What a source of preferences is, and what its readers share."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from r1reward_verl.data.preference import Preference
from r1reward_verl.judgement import Choice
from r1reward_verl.media import Media, file_kind, image_source
from r1reward_verl.text import excerpt

UNKNOWN = "unknown"

Row = Mapping[str, Any]

_MARKER = re.compile(r"<(?:image|video)>")
_PICTURE_FILE = re.compile(r"[^\n]{1,4000}\.(?:jpe?g|png|gif|webp|bmp|tiff?)", re.IGNORECASE)


class Skipped(ValueError):
    """A row, or the rest of one, in which nothing is wrong and which holds no preference: a tie, for example."""


class Source(Protocol):
    """How the rows of one data set become preferences."""

    @property
    def name(self) -> str:
        """Name of the data set: `Preference.source`."""

    def read(self, row: Row, number: int) -> Iterable[Preference]:
        """Yield the preferences in a row; media paths as they stand there, responses in the order of the source.

        An id must be the same whatever file and line the row stands in, so `number` is for messages only.

        Raises:
            Skipped: there is no preference in the row, or none in what is left of it; what was yielded before counts.
            ValueError: the row is bad, and nothing of it counts.
        """


Turns = list[tuple[str, str]]

_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


def read_turns(name: str, value: Any) -> Turns:
    """Return the (role, text) of a conversation, checked to be user, assistant, ..., assistant.

    Messages have `role` and `content`, or `from` and `value`. A content may be a list of parts, of which the texts are
    taken. Before the turns may stand a system message.
    """
    try:
        turns = [
            (_ROLES[turn["from"]], turn["value"]) if "from" in turn else (_ROLES[turn["role"]], turn["content"])
            for turn in value
        ]
    except (KeyError, TypeError):
        raise ValueError(
            f"{name} is {excerpt(value)}; messages of user and assistant are needed, with 'role' and 'content' or with "
            "'from' and 'value'"
        ) from None
    talk = turns[1:] if turns and turns[0][0] == "system" else turns
    if not talk or [who for who, _ in talk] != ["user", "assistant"] * (len(talk) // 2):
        raise ValueError(f"{name} has turns of {[who for who, _ in turns]}, not of user and assistant by turns")
    return [(who, _text_of(name, content)) for who, content in turns]


def _text_of(name: str, content: Any) -> str:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "image"):
            raise ValueError(f"{name} has the part {excerpt(part)}; only text and image can be read")
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise ValueError(f"{name} holds {excerpt(part.get('text'))}, which is no text")
            texts.append(part["text"])
    return "\n".join(texts)


def read_media_parts(messages: Iterable[Any]) -> tuple[Media, ...]:
    """Return the pictures that stand in messages; an image part without one only marks the place of a picture."""
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    pictures = [part for part in parts if isinstance(part, Mapping) and (part.get("image") or part.get("path"))]
    return tuple(read_media(part.get("image") or part["path"]) for part in pictures)


def compare_last_answers(one: Turns, other: Turns) -> tuple[str, str, str]:
    """Return question and responses of two conversations that differ in their last answers only."""
    if one[:-1] != other[:-1]:
        if len(one) == len(other) == 2:
            raise ValueError(
                f"the two conversations have different questions: {excerpt(one[0][1])}, {excerpt(other[0][1])}"
            )
        raise Skipped(
            f"the two conversations ({len(one) // 2} and {len(other) // 2} turns) differ before the last answer"
        )
    history = one[:-1]
    question = history[0][1] if len(history) == 1 else "\n\n".join(f"{who.title()}: {text}" for who, text in history)
    return question, one[-1][1], other[-1][1]


def compared_turns(source: str, row: Row, chosen: Turns, rejected: Turns, images: tuple[Media, ...] = ()) -> Preference:
    """Return the preference between the last answers of two conversations.

    Args:
        source: `Preference.source`.
        row: the pictures are in its `images` or `image`, a video in `videos` or `video`; an `id`, and a `source` for
            the category, may be there.
        chosen: the better conversation, as `read_turns` returns it.
        rejected: the worse one.
        images: pictures of a row that has no column of them.

    Raises:
        Skipped, ValueError: see `compare_last_answers`, `Preference`.
    """
    images = read_media_columns(row, "images", "image") or images
    videos = read_media_columns(row, "videos", "video")
    if len(videos) > 1 and row.get("videos"):
        raise ValueError(f"videos is {excerpt(row['videos'])}; one video is the most")
    base = row.get("id")
    if not isinstance(base, str) or not base:
        # The same question with the same answers is asked of many pictures.
        media = (one.path or hashlib.sha256(one.data or b"").hexdigest() for one in (*images, *videos))
        base = pair_id(source, *media)
    texts = compare_last_answers(chosen, rejected)
    return make_pair(source, base, texts, images, video=videos or None, category=row.get("source"))


def make_pair(
    source: str,
    base: str,
    texts: Sequence[str],
    images: tuple[Media, ...] = (),
    *,
    video: tuple[Media, ...] | None = None,
    category: str | None = None,
    label: Choice = 1,
) -> Preference:
    """Return the preference of question, response 1 and response 2.

    The question loses its media markers, and the id is `base` with a hash of the texts.

    Raises:
        ValueError: see `Preference`.
    """
    question, response_1, response_2 = texts
    question = without_markers(question)
    return Preference(
        id=pair_id(base, question, response_1, response_2),
        source=source,
        category=category or UNKNOWN,
        question=question,
        response_1=response_1,
        response_2=response_2,
        label=label,
        images=images,
        video=video,
    )


def read_media(value: Any) -> Media:
    """Return the picture or video that a value of a data set means.

    Args:
        value: a path, a data URI, base64 of a picture, bytes, or a mapping with `bytes`, `image` or `path`.

    Raises:
        ValueError: none of these, or an address: nothing is fetched.
    """
    source = image_source(value)
    if isinstance(source, bytes):
        return Media(data=source)
    if isinstance(source, str) and source.startswith("data:"):
        head, comma, text = source.partition(",")
        data = _base64(text) if comma and head.endswith(";base64") else None
        if not data:
            raise ValueError(f"the data URI {excerpt(source)} does not hold base64")
        return Media(data=data)
    if isinstance(source, str) and source:
        # Base64 of a JPEG begins with a slash, too.
        if len(source) > 64 and not _PICTURE_FILE.fullmatch(source):
            data = _base64(source)
            if data and file_kind(data):
                return Media(data=data)
            if len(source) > 4096:
                raise ValueError(f"{excerpt(source)} is neither a path nor base64 of a picture")
        return Media(path=source.removeprefix("file://"))
    raise ValueError(f"{excerpt(value)} holds no picture or video: a path or the bytes of a file are needed")


def read_media_list(value: Any) -> tuple[Media, ...]:
    """Return the media in a list, the JSON text of a list, or a single value; none for None, "" and an empty list.

    Raises:
        ValueError: see `read_media`.
    """
    if value is None or value == "":
        return ()
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{excerpt(value)} begins like a JSON list of media, but is none: {error}") from None
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(read_media(item) for item in value)
    return (read_media(value),)


def _base64(text: str) -> bytes | None:
    if "\n" in text:  # wrapped, as MIME does
        text = "".join(text.split())
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def pair_id(base: str, *texts: str) -> str:
    """Return an id that is the same in every file, and another for each pair where a data set repeats its own."""
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{base}#{digest[:16]}"


def read_picture(row: Row, name: str) -> Media:
    """Return the picture in a column; a ValueError names the column."""
    value = required(row, name)
    with _named(name):
        return read_media(value)


def read_media_columns(row: Row, *names: str) -> tuple[Media, ...]:
    """Return the media (see `read_media_list`) in the first of these columns that has any; a ValueError names it."""
    for name in names:
        with _named(name):
            if media := read_media_list(row.get(name)):
                return media
    return ()


@contextmanager
def _named(column: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from None


def without_markers(text: str) -> str:
    """Return a text without `<image>` and `<video>`."""
    if "<image>" not in text and "<video>" not in text:
        return text
    return " ".join(filter(None, (piece.strip() for piece in _MARKER.split(text))))


def required(row: Row, name: str) -> Any:
    """Return the value of a column that must be there."""
    if name not in row:
        raise ValueError(f"no column {name!r} (there are: {', '.join(map(str, row)) or 'none'})")
    return row[name]


def read_text(row: Row, name: str) -> str:
    """Return the text of a column, which must not be blank."""
    value = required(row, name)
    if not isinstance(value, str) or not value or value.isspace():
        raise ValueError(f"{name} is {excerpt(value)}; a text that is not empty is needed")
    return value


def read_number(name: str, value: Any) -> float:
    """Return a value as a finite number; a ValueError names it."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is {excerpt(value)}, not a number") from None
    if not -1e6 < number < 1e6:  # nan compares false
        raise ValueError(f"{name} is {excerpt(value)}, not a number")
    return number
