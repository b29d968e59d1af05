"""The toy world's teacher behind a real endpoint, as a hosted model would be: `r1reward toy teacher`.

It reads question and responses from the prompt, looks at the picture (or reads the description that stands in the
question instead), and replies with a judgement. It errs as a hurried annotator does: most questions about shapes it
answers with "1" after a glance, and others it sometimes decides for the wrong response. Asked again, it may do better.
Where the prompt asks for a confidence it states one, which means nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import io
import json
import random
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image

from r1reward_verl.settings import Settings, setting
from r1reward_verl.toy import world
from r1reward_verl.toy.world import COLOUR_VALUES, JudgementFault, QuestionKind, Thing, ToyPair

if TYPE_CHECKING:
    import numpy as np
    from aiohttp import web

MODEL = "toy-teacher"
HURRIED: QuestionKind = "shape"
"""The kind of question that the teacher answers without a look."""

_QUESTIONS: dict[QuestionKind, re.Pattern[str]] = {
    "colour": re.compile(r"Which colour is (?:it|the (\w+))\?"),
    "shape": re.compile(r"Which shape is (?:it|(\w+))\?"),
    "number": re.compile(r"How many things are a (\w+)\?"),
    "beside": re.compile(r"Which colour is beside the (\w+)\?"),
}
_SCENE = re.compile(r"There is (.*) in picture")
_THING = re.compile(r"\ba (\w+) (\w+)")
_RESPONSE = re.compile(r"^It is (\w+)\.$", re.MULTILINE)


class Faults(Settings, frozen=True, kw_only=True):
    """How often the teacher errs, as shares of its judgements."""

    hurried: Annotated[
        float,
        setting('Share of questions about shapes that are answered "1" without a look.', ge=0, le=1),
    ] = 0.85
    slip: Annotated[float, setting("Share of other questions that are decided for the wrong response.", ge=0, le=1)] = (
        0.1
    )


def recognise(picture: bytes) -> tuple[Thing, ...]:
    """Return colour and shape of each thing in a picture of the toy world, in reading order.

    Raises:
        ValueError: it is not a picture, or nothing is drawn in it.
    """
    import numpy as np

    try:
        pixels = np.asarray(Image.open(io.BytesIO(picture), formats=["PNG", "JPEG"]).convert("RGB")).astype(int)
    except OSError as error:
        raise ValueError(f"no picture: {error}") from None
    # The ground is light in all channels; every colour has a dark one.
    drawn = pixels.min(axis=2) < 160
    if not drawn.any():
        raise ValueError("nothing is drawn in the picture")
    height, width = (side // 2 for side in drawn.shape)
    if drawn[height, width]:
        return (_thing(pixels, drawn),)
    # Nothing stands in the middle of a scene; two things stand above.
    cells = [(slice(top, top + height), slice(left, left + width)) for top in (0, height) for left in (0, width)]
    shown = [cell for cell in cells if drawn[cell].any()]
    if shown not in (cells, cells[:2]):
        raise ValueError("a part of the scene is empty")
    return tuple(_thing(pixels[cell], drawn[cell]) for cell in shown)


def _thing(pixels: np.ndarray, drawn: np.ndarray) -> Thing:
    """Return colour and shape of what is drawn."""
    import numpy as np

    mean = pixels[drawn].mean(axis=0)
    colour = min(COLOUR_VALUES, key=lambda name: float(np.abs(mean - COLOUR_VALUES[name]).sum()))
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    box = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if box[-1].mean() > 0.8:
        shape = "square" if box[0].mean() > 0.8 else "triangle"
    else:
        shape = "circle" if box.mean() > 0.7 else "cross"
    return colour, shape


def _described(text: str) -> tuple[Thing, ...]:
    scene = _SCENE.search(text)
    if scene is None:
        raise ValueError("neither a picture nor a description of one")
    return tuple((colour, shape) for colour, shape in _THING.findall(scene[1]))


def _asked(text: str) -> tuple[QuestionKind, str]:
    """Return what the question asks for, and the colour or shape that it names."""
    for kind, pattern in _QUESTIONS.items():
        if found := pattern.search(text):
            return kind, found[1] or ""
    raise ValueError("no question about a colour, a shape or a number")


class Teacher:
    """Answers chat requests about the toy world.

    Its n-th answer to a prompt depends on the seed, the prompt and n only, so that a run of requests has the same
    answers every time, in whatever order they come. At temperature 0 all n answers are the same.

    Args:
        faults: how often it errs.
        seed: seed of the faults.
    """

    def __init__(self, faults: Faults | None = None, seed: int = 0) -> None:
        self.faults = faults or Faults()
        self.seed = seed
        self._asked: Counter[bytes] = Counter()

    def answer(self, text: str, picture: bytes | None, temperature: float) -> str:
        """Return the judgement on a prompt about a picture; None: it describes its picture in words.

        Raises:
            ValueError: the prompt or the picture is not from the toy world.
        """
        (kind, named), responses = _asked(text), _RESPONSE.findall(text)
        if len(responses) != 2:
            raise ValueError("no two responses")
        things = _described(text) if picture is None else recognise(picture)
        column = 0 if kind == "shape" else 1
        place = next((number for number, thing in enumerate(things) if not named or thing[column] == named), None)
        if place is None:
            raise ValueError(f"nothing in the picture is {named}")
        pair = ToyPair("", *things[place], kind, "", 0, things[:place] + things[place + 1 :], place)
        right = pair.right
        if right not in responses:
            raise ValueError(f"none of the responses {responses} is right: the picture shows {pair.seen}")
        label: Literal[1, 2] = 1 if responses[0] == right else 2
        key = hashlib.blake2b(b"\0".join((text.encode(), picture or b"")), digest_size=16).digest()
        self._asked[key] += temperature > 0
        drawn = random.Random(f"{self.seed}/{key.hex()}/{self._asked[key]}")
        fault = self._fault(kind, drawn.random())
        confidence = drawn.choice(world.CONFIDENCES) if world.CONFIDENCE in text else None
        return world.judgement(replace(pair, wrong=responses[2 - label]), label, fault, confidence)

    def _fault(self, kind: QuestionKind, draw: float) -> JudgementFault:
        if kind == HURRIED:
            return "hurried" if draw < self.faults.hurried else "none"
        return "wrong" if draw < self.faults.slip else "none"


def application(teacher: Teacher) -> web.Application:
    """Return the teacher as an OpenAI-compatible server."""
    from aiohttp import web

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def chat(request: web.Request) -> web.Response:
        try:
            body = json.loads(await request.read())
            text, picture = _text_and_picture(body["messages"][-1]["content"])
            reply = teacher.answer(text, picture, float(body.get("temperature", 1.0)))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            message = f"{type(error).__name__}: {error}"
            return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=400)
        usage = {"prompt_tokens": len(text.split()), "completion_tokens": len(reply.split())}
        usage["total_tokens"] = sum(usage.values())
        choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
        return web.json_response({"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})

    app = web.Application(client_max_size=16 << 20)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", chat)
    return app


def _text_and_picture(content: Any) -> tuple[str, bytes | None]:
    """Return text and picture of a message: its parts, or the text alone."""
    if isinstance(content, str):
        return content, None
    (text,) = (part["text"] for part in content if part["type"] == "text")
    (url,) = (part["image_url"]["url"] for part in content if part["type"] == "image_url")
    head, _, data = url.partition(";base64,")
    if not head.startswith("data:image/"):
        raise ValueError("pictures are read as data URIs only")
    try:
        return text, base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the picture's base64 is damaged: {error}") from None


async def serve_teacher(teacher: Teacher, port: int) -> None:
    """Answer requests until the task is cancelled, and print the address first; port 0 takes a free one.

    Raises:
        OSError: the port cannot be listened on.
    """
    from aiohttp import web

    runner = web.AppRunner(application(teacher), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
