"""The toy world itself: scenes, questions, response pairs, and judgements with known faults.

Everything is drawn from a seed. One pair is one question about one picture with a right and a wrong response; a
preference is a pair in one of its two orders. On the level `single` a picture shows one thing that fills it, and a
question asks for its colour or its shape. On the level `distractors` it shows two small things, and a question asks for
the colour or the shape of one of them; on the level `scenes` four, and a question may also ask for a number, or for
what stands beside another.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image, ImageDraw

from r1reward_verl.data.preference import Preference
from r1reward_verl.judgement import Choice
from r1reward_verl.media import Media

TOY_SOURCE = "r1reward_toy"
COLOUR_VALUES: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 40),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZE = 56
"""Side of a picture in pixels: four tokens of a Qwen2.5-VL, whose token covers 28 x 28."""

NUMBERS = ("none", "one", "two", "three", "four")
UNSEEN = (("yellow", "cross"), ("red", "triangle"), ("blue", "square"))
"""Combinations of colour and shape that scenes for training never show, and some of those for testing ask about."""

Thing = tuple[str, str]
"""Colour and shape."""
Level = Literal["single", "distractors", "scenes"]
QuestionKind = Literal["colour", "shape", "number", "beside"]
_KINDS: dict[Level, tuple[QuestionKind, ...]] = {
    "single": ("colour", "shape"),
    "distractors": ("colour", "shape"),
    "scenes": ("colour", "shape", "number", "beside"),
}
PHRASES = (
    "<think>The picture shows",
    "The responses say",
    "The right answer is",
    "So response",
    " is better.</think><answer>",
    "</answer>",
)
"""What every whole judgement is made of besides its words and numbers."""
CONFIDENCE = "Confidence:"
"""What a prompt must contain for the teacher to say how sure it is."""
CONFIDENCES = (50, 60, 70, 80, 90, 100)
"""Percentages that the teacher says, whether it is right or not."""
JudgementFault = Literal["none", "hurried", "wrong"]
ToyMedia = Literal["picture", "pictures", "video", "text"]
"""What a preference shows: its picture; two of the same kind; a video, in which the shape moves; words alone."""
FRAMES = 4


@dataclass(frozen=True)
class ToyPair:
    """A question about a picture with a right and a wrong response.

    Attributes:
        pair_id: Name of the pair, unique in the toy world.
        colour: Colour of the thing that is asked about.
        shape: Its shape.
        kind: What the question asks for.
        wrong: The wrong response's value of that kind.
        seed: Seed of the picture's positions, sizes and ground.
        others: The other things of the picture, one or three; without them the thing fills the picture.
        place: Where the thing stands among them: 0 and 1 are above, 2 and 3 below, from left to right.
    """

    pair_id: str
    colour: str
    shape: str
    kind: QuestionKind
    wrong: str
    seed: int
    others: tuple[Thing, ...] = ()
    place: int = 0

    @property
    def things(self) -> tuple[Thing, ...]:
        """Colour and shape of all that the picture shows, in reading order."""
        return (*self.others[: self.place], (self.colour, self.shape), *self.others[self.place :])

    @property
    def right(self) -> str:
        """The right response's value."""
        if self.kind == "number":
            return NUMBERS[sum(shape == self.shape for _, shape in self.things)]
        if self.kind == "beside":
            return self.things[self.place ^ 1][0]
        return self.colour if self.kind == "colour" else self.shape

    @property
    def values(self) -> list[str]:
        """What a response to the question may say."""
        if self.kind == "number":
            return list(NUMBERS[1:4])
        return list(SHAPES) if self.kind == "shape" else list(COLOUR_VALUES)

    @property
    def question(self) -> str:
        """The question as the prompt shows it."""
        if not self.others:
            return f"Which {self.kind} is it?"
        return {
            "colour": f"Which colour is the {self.shape}?",
            "shape": f"Which shape is {self.colour}?",
            "number": f"How many things are a {self.shape}?",
            "beside": f"Which colour is beside the {self.shape}?",
        }[self.kind]

    @property
    def seen(self) -> str:
        """What the picture shows, in words."""
        words = [f"a {colour} {shape}" for colour, shape in self.things]
        return " above ".join(" beside ".join(words[row : row + 2]) for row in range(0, len(words), 2))

    @property
    def found(self) -> str:
        """What an answer to the question finds in the scene, in words; "" where one thing is all there is."""
        if not self.others:
            return ""
        if self.kind == "number":
            same = [thing for thing in self.things if thing[1] == self.shape]
            counted = (f"{colour} {shape} {NUMBERS[count]}" for count, (colour, shape) in enumerate(same, 1))
            return f"Counted: {', '.join(counted)}."
        if self.kind == "beside":
            colour, shape = self.things[self.place ^ 1]
            return f"Beside the {self.shape} is a {colour} {shape}."
        return (
            f"The {self.shape} is {self.colour}."
            if self.kind == "colour"
            else f"What is {self.colour} is a {self.shape}."
        )

    @property
    def described(self) -> str:
        """The question behind a description of the picture, for models that read texts only.

        The number keeps pairs apart: `r1reward data select` takes the same texts once.
        """
        return f"There is {self.seen} in picture {self.seed % 100_000}. {self.question}"

    @property
    def category(self) -> str:
        """The kind, or `unseen` if the question is about a combination of `UNSEEN` in a scene."""
        return "unseen" if self.others and (self.colour, self.shape) in UNSEEN else self.kind

    def responses(self, label: int) -> tuple[str, str]:
        """Return (response 1, response 2) with the right one at position `label` (1 or 2)."""
        right, wrong = f"It is {self.right}.", f"It is {self.wrong}."
        return (right, wrong) if label == 1 else (wrong, right)


def draw_pairs(count: int, seed: int, split: str, level: Level = "single") -> list[ToyPair]:
    """Return `count` pairs, as many of each kind, with every colour and shape equally often in expectation.

    Scenes show combinations of `UNSEEN` in the splits `val` and `test` alone, where every eighth pair asks about one.
    """
    rng = random.Random(f"{split}/{seed}")
    return [_draw_pair(rng, f"{split}-{index:06d}", index, split, level) for index in range(count)]


def _draw_pair(rng: random.Random, pair_id: str, index: int, split: str, level: Level) -> ToyPair:
    kinds = _KINDS[level]
    kind = kinds[index % len(kinds)]
    if level == "single":
        pair = ToyPair(pair_id, rng.choice(list(COLOUR_VALUES)), rng.choice(SHAPES), kind, "", 0)
        wrong = rng.choice([value for value in pair.values if value != pair.right])
        return replace(pair, wrong=wrong, seed=rng.randrange(2**31))
    seen = [(colour, shape) for colour in COLOUR_VALUES for shape in SHAPES if (colour, shape) not in UNSEEN]
    unseen = split in ("val", "test") and index // len(kinds) % 8 == 7
    colour, shape = rng.choice(UNSEEN if unseen else seen)
    if kind == "number":
        same = [thing for thing in seen if thing[1] == shape]
        different = [thing for thing in seen if thing[1] != shape]
        more = rng.randrange(3)
        others = [*rng.choices(same, k=more), *rng.choices(different, k=3 - more)]
        rng.shuffle(others)
    else:
        # No other thing has what the question names.
        named = 0 if kind == "shape" else 1
        count = 3 if level == "scenes" else 1
        others = rng.choices([thing for thing in seen if thing[named] != (colour, shape)[named]], k=count)
    place = rng.randrange(len(others) + 1)
    pair = ToyPair(pair_id, colour, shape, kind, "", rng.randrange(2**31), tuple(others), place)
    return replace(pair, wrong=rng.choice([value for value in pair.values if value != pair.right]))


def draw_scene(pair: ToyPair) -> Image.Image:
    """Draw the pair's picture on a light ground, with varied places, sizes and ground."""
    rng = random.Random(pair.seed)
    ground = rng.randrange(225, 256)
    image = Image.new("RGB", (SIZE, SIZE), (ground, ground, ground))
    draw = ImageDraw.Draw(image)
    if not pair.others:
        _draw_thing(draw, rng, (pair.colour, pair.shape), (SIZE // 2, SIZE // 2), rng.randrange(20, 25))
        return image
    for place, thing in enumerate(pair.things):
        centre = (SIZE // 4 + place % 2 * SIZE // 2, SIZE // 4 + place // 2 * SIZE // 2)
        _draw_thing(draw, rng, thing, centre, rng.randrange(9, 12))
    return image


def _draw_thing(
    draw: ImageDraw.ImageDraw, rng: random.Random, thing: Thing, centre: tuple[int, int], radius: int
) -> None:
    x, y = (at + rng.randrange(-2, 3) for at in centre)
    colour = tuple(min(255, max(0, channel + rng.randrange(-15, 16))) for channel in COLOUR_VALUES[thing[0]])
    box = (x - radius, y - radius, x + radius, y + radius)
    if thing[1] == "circle":
        draw.ellipse(box, fill=colour)
    elif thing[1] == "square":
        draw.rectangle(box, fill=colour)
    elif thing[1] == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=colour)
    else:
        arm = radius // 3
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)


def scene_png(pair: ToyPair) -> bytes:
    """Return the pair's picture as PNG bytes."""
    buffer = io.BytesIO()
    draw_scene(pair).save(buffer, format="PNG")
    return buffer.getvalue()


def preference(pair: ToyPair, label: Choice, media: ToyMedia = "picture") -> Preference:
    """Return the pair with the right response at position `label`, its media inline."""
    response_1, response_2 = pair.responses(label)
    question = pair.described if media == "text" else pair.question
    count = {"picture": 1, "pictures": 2, "video": FRAMES, "text": 0}[media]
    scenes = tuple(Media(data=scene_png(replace(pair, seed=pair.seed + move))) for move in range(count))
    images, video = ((), scenes) if media == "video" else (scenes, None)
    return Preference(
        *(pair.pair_id, TOY_SOURCE, pair.category, question, response_1, response_2, label), images=images, video=video
    )


def judgement(pair: ToyPair, label: int, fault: JudgementFault = "none", confidence: int | None = None) -> str:
    """Write a judgement of the pair with the right response at position `label`.

    Args:
        pair: The pair that is judged.
        label: Position of the right response, 1 or 2.
        fault: `none`; `hurried`: without a look at the picture, the answer is 1; `wrong`: the conclusion and the
            answer are both wrong.
        confidence: Percentage to state; None for none. A hurried judgement states none.

    Returns:
        `<think>…</think><answer>…</answer>`, one reasoning step a line. Each claim stands next to the number
        of the response that makes it: a model this small learns to compare by copying what followed a word's
        earlier occurrence, in 150 steps, where comparing two words and saying "yes" or "no" took over 400. Among
        several things what the responses say is capitalised: a word that occurs in the picture's description too is
        copied from there.
    """
    if fault == "hurried":
        return "<think>The responses look much alike at a glance.</think><answer>1</answer>"
    right, wrong = pair.right, pair.wrong
    if pair.others:
        right, wrong = right.capitalize(), wrong.capitalize()
    values = (right, wrong) if label == 1 else (wrong, right)
    answer = label if fault == "none" else 3 - label
    lines = [f"The picture shows {pair.seen}."]
    if pair.found:
        lines.append(pair.found)
    lines.append(f"The responses say {values[0]} 1 and {values[1]} 2.")
    lines.append(f"The right answer is {right} {label}.")
    if confidence is not None:
        lines.append(f"{CONFIDENCE} {confidence}%.")
    lines.append(f"So response {answer} is better.")
    reasoning = "\n".join(lines)
    return f"<think>{reasoning}</think><answer>{answer}</answer>"
