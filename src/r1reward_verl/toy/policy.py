"""A tiny policy that answers the questions of the toy world, and errs in a way that its reward can correct.

It learns its answers from a teacher that takes half of the colours and shapes for others most of the time. The right
answers are known of every picture, and never shown to the policy or to its reward model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1reward_verl.toy import world
from r1reward_verl.toy.world import ToyPair

POLICY_SOURCE = "r1reward_toy_policy"
CONFUSED = {"green": "blue", "yellow": "red", "square": "circle", "cross": "triangle"}
"""What the teacher takes for something else."""
ERROR, SLIP = 0.75, 0.1
"""How often it errs about these, and how often about all others."""


def taught(pair: ToyPair, rng: random.Random) -> str:
    """Return the answer of the policy's teacher."""
    value = pair.right
    if rng.random() < (ERROR if value in CONFUSED else SLIP):
        value = CONFUSED.get(value) or rng.choice([one for one in pair.values if one != value])
    return answer(value)


def answer(value: str) -> str:
    """Return a response that names a value, in the form of the toy world's responses."""
    return f"It is {value}."


def sft_rows(pairs: Iterable[ToyPair], seed: int) -> Iterator[dict[str, Any]]:
    """Yield rows for verl's SFT trainer: questions with the teacher's answers."""
    rng = random.Random(f"policy/{seed}")
    for pair in pairs:
        messages = [*prompt(pair), {"role": "assistant", "content": taught(pair, rng)}]
        yield {"messages": messages, "images": [{"bytes": world.scene_png(pair)}]}


def rl_rows(pairs: Iterable[ToyPair], *, with_reference: bool) -> Iterator[dict[str, Any]]:
    """Yield rows for `main_ppo`: questions, in validation with the right answer as the reference.

    `extra_info` holds the right answer for the report; no reward reads it.
    """
    for index, pair in enumerate(pairs):
        right = answer(pair.right)
        yield {
            "prompt": prompt(pair),
            "images": [{"bytes": world.scene_png(pair)}],
            "data_source": POLICY_SOURCE,
            "reward_model": {"style": "reference", "ground_truth": right if with_reference else ""},
            "extra_info": {"index": index, "right": right},
        }


def prompt(pair: ToyPair) -> list[dict[str, str]]:
    """Return the chat messages of a question."""
    return [{"role": "user", "content": f"<image>{pair.question}"}]


@dataclass(frozen=True)
class Point:
    """Answers to the held-out questions at one step.

    Attributes:
        step: of training, 0 before it.
        right: number of right answers.
        answers: number of answers.
        win_rate: mean of the reward, the comparison with the right answer; 0.5 is as good as that.
    """

    step: int
    right: int
    answers: int
    win_rate: float


def read_validations(folder: Path) -> list[Point]:
    """Read verl's dumps of validations (`trainer.validation_data_dir`), in the order of their steps.

    Raises:
        ValueError: a dump has another form.
    """
    points = []
    for file in sorted(folder.glob("*.jsonl"), key=lambda file: int(file.stem)):
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        try:
            right = sum(row["output"].strip() == row["gts"] for row in rows)
            points.append(Point(int(file.stem), right, len(rows), sum(row["score"] for row in rows) / len(rows)))
        except (KeyError, ZeroDivisionError) as error:
            raise ValueError(f"{file} is no dump of a validation: {error!r}") from None
    return points
