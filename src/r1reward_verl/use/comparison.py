"""One comparison: two responses to a question, shown to a reward model in one order, and what it made of them."""

from __future__ import annotations

import io
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from r1reward_verl.engines.messages import MediaPosition, Token
from r1reward_verl.engines.online import Content, GeneratedText, OnlineEngine
from r1reward_verl.judgement import Lenient, Verdict, parse, prompt_parts
from r1reward_verl.media import PICTURE_SUFFIXES, Media, frame_names, video_frames
from r1reward_verl.text import check_text, excerpt
from r1reward_verl.use.settings import ComparisonSettings

FRAMES = 32
"""Frames of a video that is given as a file or a folder, as in evaluation."""

Video = tuple[Media, ...]
"""The frames of a video in time order."""

# What the prompt and its contract are made of: their tags, chat roles and control tokens, the headings of PROMPT, and
# instruction tags of chat models.
_VERDICT = re.compile(r"<\s*answer\s*>.{0,40}?(?:<\s*/\s*answer\s*>|$)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(
    r"<\s*/?\s*(?:think|answer|system|user|assistant|instruction|im_start|im_end)\b[^<>\n]{0,20}>?|<\|\w{1,40}\|>",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"\[(?=\s*/?\s*(?:question|responses?|inst|sys|system|user|assistant)\b[^\]\n]{0,20}\])", re.IGNORECASE
)
_WIDE = str.maketrans({"\uff1c": "<", "\ufe64": "<", "\uff1e": ">", "\ufe65": ">", "\uff3b": "[", "\uff3d": "]"})


@dataclass(frozen=True)
class Question:
    """A question with its media.

    Attributes:
        text: the question.
        images: its pictures, in order.
        videos: its videos, each as frames in time order.

    Raises:
        ValueError: the text is empty.
    """

    text: str
    images: tuple[Media, ...] = ()
    videos: tuple[Video, ...] = ()

    def __post_init__(self) -> None:
        check_text("question", self.text)

    @classmethod
    def make(cls, text: str, media: Any = ()) -> Question:
        """Return a question from what users hold: see `read_media`.

        Raises:
            ValueError: media that cannot be meant or read.
        """
        images, videos = read_media(media)
        return cls(text, images, videos)


@dataclass(frozen=True)
class Response:
    """A response: a text, and the pictures that belong to it, for example generated ones.

    Raises:
        ValueError: neither text nor pictures.
    """

    text: str
    images: tuple[Media, ...] = ()

    def __post_init__(self) -> None:
        if not self.images:
            check_text("response", self.text)

    @classmethod
    def make(cls, value: str | Response | Mapping[str, Any]) -> Response:
        """Return a response from a text, or from a mapping with `text` and `images`.

        Raises:
            ValueError: it is neither, or its pictures cannot be meant.
        """
        if isinstance(value, Response):
            return value
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, Mapping) or not isinstance(value.get("text", ""), str):
            raise ValueError(f"a response is {excerpt(value)}; a text, or a mapping with text and images, is needed")
        images, videos = read_media(value.get("images", ()))
        if videos:
            raise ValueError("a response holds a video; give its frames as images")
        return cls(value.get("text", ""), images)


def read_media(value: Any, frames: int = FRAMES) -> tuple[tuple[Media, ...], tuple[Video, ...]]:
    """Return the pictures and videos that users hand over.

    Args:
        value: one of these or a list of them: `Media`; path of a picture or video file, or of a folder of frames;
            bytes of a picture file; a PIL picture; {"path": ...} or {"bytes": ...}; {"video": [frames]} or
            {"video": path}.
        frames: largest number of frames of a video that is a file or folder.

    Raises:
        ValueError: anything else, an address (nothing is fetched), or a video that cannot be read.
    """
    images: list[Media] = []
    videos: list[Video] = []
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, Mapping) and one.get("video") is not None:
            video = one["video"]
            parts = video if isinstance(video, list | tuple) else None
            videos.append(_frames(os.fspath(video), frames) if parts is None else tuple(map(_picture, parts)))
        elif isinstance(one, str | os.PathLike) and _is_video(os.fspath(one)):
            videos.append(_frames(os.fspath(one), frames))
        elif one is not None:
            images.append(_picture(one))
    if any(not video for video in videos):
        raise ValueError("a video has no frames")
    return tuple(images), tuple(videos)


def _is_video(path: str) -> bool:
    if os.path.isdir(path):
        return True
    suffix = os.path.splitext(path)[1].lower()
    return bool(suffix) and suffix not in PICTURE_SUFFIXES and os.path.isfile(path)


def _frames(path: str, count: int) -> Video:
    if os.path.isdir(path):
        return tuple(Media(path=os.path.join(path, name)) for name in frame_names(path, count))
    return tuple(Media(data=frame) for frame in video_frames(path, count))


def _picture(value: Any) -> Media:
    if isinstance(value, Media):
        return value
    if isinstance(value, bytes):
        return Media(data=value)
    if isinstance(value, str | os.PathLike):
        return Media(path=os.fspath(value).removeprefix("file://"))
    if isinstance(value, Mapping):
        return Media(path=value.get("path"), data=value.get("bytes"))
    if hasattr(value, "save"):  # a PIL picture
        buffer = io.BytesIO()
        value.save(buffer, "PNG")
        return Media(data=buffer.getvalue())
    raise ValueError(f"{excerpt(value)} is no picture: give a path, the bytes of a file, a PIL picture or Media")


def neutralise(text: str) -> str:
    """Take out of a response what could pass for the prompt's own parts; other text stays letter by letter.

    Tags of the contract, with the verdict between them, chat roles and control tokens are removed, and the headings of
    the prompt (`[Response 2]`) get a space. Invisible format characters, between which a tag could hide, are dropped
    first, and a fullwidth bracket counts as a bracket where a tag is made of it. A space in a tag would not do:
    `benchmarks/bench_injection.py` has measured that it turns more verdicts than the tag itself.
    """
    if not text.isascii():
        text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf" or letter == "\u200d")
        narrow = text.translate(_WIDE)
        text = narrow if _TAG.search(narrow) or _HEADING.search(narrow) else text
    return _HEADING.sub("[ ", _TAG.sub("", _VERDICT.sub("", text)))


@dataclass(frozen=True)
class Comparison:
    """A pair of responses shown in one order.

    Attributes:
        first, second: positions of the responses in the group, in the order in which they were shown.
        probability: that the response shown first is the better one, from 0 to 1; None without a readable judgement.
        texts: the judgements.
        lenient: how they are read.
        error: why judgements are missing; empty if none is.
        unavailable: whether the error is the engine's, so that a later try may succeed.
        cut_off: number of judgements that ended at the largest number of tokens.
        prompt_tokens, tokens: read and written; 0 where the engine does not say.
    """

    first: int
    second: int
    probability: float | None
    texts: tuple[str, ...] = ()
    lenient: Lenient | None = None
    error: str = ""
    unavailable: bool = False
    cut_off: int = 0
    prompt_tokens: int = 0
    tokens: int = 0

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The judgements as parsed; in them 1 is the response that was shown first."""
        return tuple(parse(text, self.lenient) for text in self.texts)

    @property
    def reasoning(self) -> str:
        """The reasoning of the first judgement that agrees with the majority, "" without a readable judgement."""
        if self.probability is None:
            return ""
        choice = 1 if self.probability >= 0.5 else 2
        agreeing = [verdict for verdict in self.verdicts if verdict.choice == choice]
        readable = [verdict for verdict in self.verdicts if verdict.choice]
        return (agreeing or readable)[0].think.strip()


@dataclass(frozen=True)
class EncodedGroup:
    """A question and its responses, their pictures prepared once for all comparisons."""

    question: Question
    responses: tuple[Response, ...]
    media: Sequence[Any]
    response_images: tuple[Sequence[Any], ...]


async def encode_group(engine: OnlineEngine, question: Question, responses: Sequence[Response]) -> EncodedGroup:
    """Prepare the media of a question and of its responses.

    Raises:
        ValueError: a picture cannot be read; the message names it.
    """
    labelled = len(question.videos) + bool(question.images) > 1
    media: list[Any] = []
    for number, image in enumerate(question.images, 1):
        media += [f"Image {number}: "] * labelled + await engine.encode([image])
    for number, video in enumerate(question.videos, 1):
        media += [f"Video {number}: "] * labelled + await engine.encode_video(video)
    images = [await engine.encode(response.images) for response in responses]
    return EncodedGroup(question, tuple(responses), media, tuple(images))


def prompt_content(
    group: EncodedGroup,
    first: int,
    second: int,
    template: str,
    *,
    position: MediaPosition = "before",
    neutral: bool = True,
) -> Content:
    """Return the prompt that shows two responses of a group: texts and encoded pictures in order.

    The question's media stand before or after the whole text; those of a response right behind its text.
    """
    texts = [group.responses[index].text for index in (first, second)]
    one, other = map(neutralise, texts) if neutral else texts
    content: list[Any] = []
    for field, text in prompt_parts(group.question.text, one, other, template):
        content.append(text)
        if field in ("response_1", "response_2"):
            content += group.response_images[first if field == "response_1" else second]
    content = [*group.media, *content] if position == "before" else [*content, *group.media]
    merged: list[Any] = []
    for part in content:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return merged


async def compare(
    engine: OnlineEngine, group: EncodedGroup, first: int, second: int, settings: ComparisonSettings, template: str
) -> Comparison:
    """Show two responses of a group to the model, in this order. What goes wrong is told in the result."""
    content = prompt_content(
        group, first, second, template, position=settings.media_position, neutral=settings.neutralise
    )
    generated = await engine.generate(content, settings.samples, logprobs=settings.logprobs)
    votes = [_vote(text, settings.lenient) for text in generated.texts]
    readable = [vote for vote in votes if vote is not None]
    return Comparison(
        first,
        second,
        sum(readable) / len(readable) if readable else None,
        tuple(text.text for text in generated.texts),
        settings.lenient,
        generated.error,
        generated.unavailable,
        sum(text.finish_reason == "length" for text in generated.texts),
        generated.prompt_tokens,
        generated.tokens,
    )


def _vote(generated: GeneratedText, lenient: Lenient | None) -> float | None:
    """Return the probability that the first response is better by one judgement, None if it gives no choice."""
    choice = parse(generated.text, lenient).choice
    if choice is None:
        return None
    probability = answer_probability(generated.tokens) if generated.tokens else None
    return float(choice == 1) if probability is None else probability


def answer_probability(tokens: Sequence[Token]) -> float | None:
    """Return P("1") / (P("1") + P("2")) at the token that is the answer.

    The answer is the first digit 1 or 2 that is a token of its own behind the last `<answer>`.

    Returns:
        From 0 to 1; None where no such token is, or its alternatives are no probabilities.
    """
    text, answer = "", None
    for token, alternatives in tokens:
        if token.strip() in ("1", "2") and text.rstrip().endswith("<answer>"):
            answer = alternatives
        text += token
    if answer is None:
        return None
    found = dict.fromkeys("12", 0.0)
    for token, logprob in answer.items():
        if (digit := token.strip()) in found and not math.isnan(logprob) and logprob <= 0.01:
            found[digit] += math.exp(logprob)
    total = sum(found.values())
    return found["1"] / total if total else None
