"""The toy world itself: scenes, questions, response pairs, and judgements with known faults.

Everything is drawn from a seed. One pair is one question about one picture with a right and a wrong response; a
preference is a pair in one of its two orders.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw

from r1reward_verl.data.preference import Preference
from r1reward_verl.judgement import Choice
from r1reward_verl.media import Media

SOURCE = "r1reward_toy"
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 40),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZE = 56
"""Side of a picture in pixels: four merged vision tokens of a Qwen2.5-VL with patch size 14."""

Kind = Literal["colour", "shape"]
Fault = Literal["none", "hurried", "wrong"]


@dataclass(frozen=True)
class Pair:
    """A question about a picture with a right and a wrong response.

    Attributes:
        pair_id: Name of the pair, unique in the toy world.
        colour: Colour of the shape in the picture.
        shape: The shape in the picture.
        kind: What the question asks for.
        wrong: The wrong response's value of that kind.
        seed: Seed of the picture's position, size and noise.
    """

    pair_id: str
    colour: str
    shape: str
    kind: Kind
    wrong: str
    seed: int

    @property
    def right(self) -> str:
        """The right response's value."""
        return self.colour if self.kind == "colour" else self.shape

    @property
    def question(self) -> str:
        """The question as the prompt shows it."""
        return f"Which {self.kind} is it?"

    def responses(self, label: int) -> tuple[str, str]:
        """Return (response 1, response 2) with the right one at position `label` (1 or 2)."""
        right, wrong = f"It is {self.right}.", f"It is {self.wrong}."
        return (right, wrong) if label == 1 else (wrong, right)


def draw_pairs(count: int, seed: int, split: str) -> list[Pair]:
    """Return `count` pairs, half of each kind, with every colour and shape equally often in expectation."""
    rng = random.Random(f"{split}/{seed}")
    pairs = []
    for index in range(count):
        kind: Kind = "colour" if index % 2 == 0 else "shape"
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        right = colour if kind == "colour" else shape
        wrong = rng.choice([value for value in (COLOURS if kind == "colour" else SHAPES) if value != right])
        pairs.append(Pair(f"{split}-{index:06d}", colour, shape, kind, wrong, rng.randrange(2**31)))
    return pairs


def render(pair: Pair) -> Image.Image:
    """Draw the pair's picture: one filled shape on a light ground, with varied place, size and ground."""
    rng = random.Random(pair.seed)
    ground = rng.randrange(225, 256)
    image = Image.new("RGB", (SIZE, SIZE), (ground, ground, ground))
    draw = ImageDraw.Draw(image)
    radius = rng.randrange(20, 25)
    x = SIZE // 2 + rng.randrange(-2, 3)
    y = SIZE // 2 + rng.randrange(-2, 3)
    colour = tuple(min(255, max(0, channel + rng.randrange(-15, 16))) for channel in COLOURS[pair.colour])
    box = (x - radius, y - radius, x + radius, y + radius)
    if pair.shape == "circle":
        draw.ellipse(box, fill=colour)
    elif pair.shape == "square":
        draw.rectangle(box, fill=colour)
    elif pair.shape == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=colour)
    else:
        arm = radius // 3
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)
    return image


def png(pair: Pair) -> bytes:
    """Return the pair's picture as PNG bytes."""
    buffer = io.BytesIO()
    render(pair).save(buffer, format="PNG")
    return buffer.getvalue()


def preference(pair: Pair, label: Choice) -> Preference:
    """Return the pair with the right response at position `label`, its picture inline."""
    response_1, response_2 = pair.responses(label)
    image = Media(data=png(pair))
    return Preference(pair.pair_id, SOURCE, pair.kind, pair.question, response_1, response_2, label, images=(image,))


def judgement(pair: Pair, label: int, fault: Fault = "none") -> str:
    """Write a judgement of the pair with the right response at position `label`.

    Args:
        pair: The pair that is judged.
        label: Position of the right response, 1 or 2.
        fault: `none`; `hurried`: without a look at the picture, the answer is 1; `wrong`: the conclusion and the
            answer are both wrong.

    Returns:
        `<think>…</think><answer>…</answer>`, one reasoning step a line. Each claim stands next to the number
        of the response that makes it: a model this small learns to compare by copying what followed a word's
        earlier occurrence, in 150 steps, where comparing two words and saying "yes" or "no" took over 400.
    """
    if fault == "hurried":
        return "<think>The responses look much alike at a glance.</think><answer>1</answer>"
    values = (pair.right, pair.wrong) if label == 1 else (pair.wrong, pair.right)
    answer = label if fault == "none" else 3 - label
    return (
        f"<think>The picture shows a {pair.colour} {pair.shape}.\n"
        f"The responses say {values[0]} 1 and {values[1]} 2.\n"
        f"The right answer is {pair.right} {label}.\n"
        f"So response {answer} is better.</think><answer>{answer}</answer>"
    )
