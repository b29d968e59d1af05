"""Chat messages with media, and what stands in a server's answer to them, in the form of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from r1reward_verl.media import MAX_PIXELS, Media, data_uri
from r1reward_verl.text import valid_utf8

MediaPosition = Literal["before", "after"]
Parts = list[dict[str, Any]]
Token = tuple[str, Mapping[str, float]]
"""A generated token as text, and log-probabilities of it and of its most probable alternatives by their text."""


def media_parts(media: Sequence[Media], max_pixels: int = MAX_PIXELS) -> Parts:
    """Return the `image_url` parts of pictures, or of the frames of a video, in their order.

    Raises:
        ValueError: a picture cannot be sent (see `media.data_uri`).
    """
    return [{"type": "image_url", "image_url": {"url": data_uri(one, max_pixels)}} for one in media]


def message_content(text: str, media: Parts, position: MediaPosition) -> str | Parts:
    """Return the content of a message: the text alone, or media parts before or after it."""
    if not media:
        return text
    parts: Parts = [{"type": "text", "text": text}]
    return [*media, *parts] if position == "before" else [*parts, *media]


@dataclass(frozen=True)
class ChatAnswer:
    """What a server answered.

    Attributes:
        texts: of each choice the text, and why it ended: "stop", "length" and so on, None if the server does not say.
        prompt_tokens: of the prompt; None if the server does not say.
        completion_tokens: of all texts together; None if the server does not say.
        logprobs: of each choice its tokens, each with the log-probabilities of the tokens that were most probable in
            its place; None where the server gives none.
    """

    texts: tuple[tuple[str, str | None], ...]
    prompt_tokens: int | None
    completion_tokens: int | None
    logprobs: tuple[tuple[Token, ...] | None, ...] = ()


def _with_reasoning(text: str, message: Mapping[str, Any]) -> str:
    """Put the reasoning that a server took out of a text (vLLM's reasoning parsers, for example) back before it."""
    reasoning = next((message[name] for name in ("reasoning", "reasoning_content") if message.get(name)), None)
    if not isinstance(reasoning, str) or "<think>" in text:
        return text
    return f"<think>{reasoning.strip()}</think>{text.lstrip()}"


def read_answer(answer: Mapping[str, Any]) -> ChatAnswer | None:
    """Read a server's JSON object; None if it holds no choice.

    Raises:
        KeyError, TypeError, AttributeError: it has another form.
    """
    texts, logprobs = [], []
    for choice in answer["choices"]:
        # None where all tokens went into what the server does not show, or the model declined.
        text = choice["message"].get("content")
        if text is not None and not isinstance(text, str):
            raise TypeError(f"content is {text!r}")
        text = _with_reasoning(text or "", choice["message"])
        finish = choice.get("finish_reason")
        texts.append((valid_utf8(text), None if finish is None else valid_utf8(str(finish))[:100]))
        logprobs.append(_read_logprobs(choice.get("logprobs")))
    usage = answer.get("usage") or {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    read, written = (count if type(count) is int and 0 <= count < 2**40 else None for count in counts)
    return ChatAnswer(tuple(texts), read, written, tuple(logprobs)) if texts else None


def _read_logprobs(value: Any) -> tuple[Token, ...] | None:
    if not value or not value.get("content"):
        return None
    return tuple(
        (str(token["token"]), {str(one["token"]): float(one["logprob"]) for one in [*token["top_logprobs"], token]})
        for token in value["content"]
    )
