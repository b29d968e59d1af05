"""Lists of chat messages, chosen and rejected: the form of TRL, and of Skywork's preferences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import (
    UNKNOWN,
    Row,
    compared_turns,
    read_media,
    read_media_list,
    read_turns,
    required,
)
from r1reward_verl.media import Media
from r1reward_verl.text import excerpt

_ROLES = {"system": "system", "user": "user", "assistant": "assistant"}


class TRL:
    """Preferences in the conversational form of huggingface/trl, whatever data set they are of.

    Fields, of TRL's documentation `dataset_formats` [report]: `chosen` and `rejected`, lists of `role` and `content`;
    `prompt`, a list of messages or a text, unless the two lists begin with it (Hugging Face
    `Skywork/Skywork-Reward-Preference-80K-v0.2` [report]); `images` or `image`. A `content` may be a list of parts
    `{"type": "text", "text": ...}` and `{"type": "image"}`, the latter with the picture or without. With a `prompt`,
    `chosen` and `rejected` may also be texts. `source`, which Skywork has, is the category.
    """

    name = "trl"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the chosen response first."""
        media: list[Media] = []
        prompt = row.get("prompt")
        history = [] if prompt in (None, "") else _messages("prompt", prompt, "user", media)
        # The pictures of both conversations are the same ones.
        turns = []
        for name in ("chosen", "rejected"):
            added: list[Media] = []
            messages = history + _messages(name, required(row, name), "assistant", added)
            turns.append(read_turns(name, messages, "role", "content", _ROLES))
            if name == "chosen":
                media += added
        images = read_media_list(row.get("images") or row.get("image")) or tuple(media)
        category = row.get("source") or UNKNOWN
        yield compared_turns(self.name, row, *turns, images=images, category=category)


def _messages(name: str, value: Any, role: str, media: list[Media]) -> list[dict[str, Any]]:
    """Return messages whose contents are texts; pictures in them are appended to `media`."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{name} is {excerpt(value)}; a list of messages is needed")
    return [{**one, "content": _text(name, one.get("content"), media)} for one in value]


def _text(name: str, content: Any, media: list[Media]) -> Any:
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            texts.append(str(part.get("text")))
        elif kind == "image":
            # Without a picture it only marks the place of one in `images`.
            media += [read_media(part[key]) for key in ("image", "path") if part.get(key)][:1]
        else:
            raise ValueError(f"{name} has the part {excerpt(part)}; only text and image can be read")
    return "\n".join(texts)
