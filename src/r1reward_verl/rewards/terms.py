"""Rewards beyond the paper, each an option that is off by default: agreement, calibration, length.

`docs/explanation/reward.md` says what they did when they were measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from r1reward_verl.judgement import Verdict

# The last one of the reasoning counts.
_CONFIDENCE = re.compile(r"\bconfidence(?: is)?:?[ \t]{0,4}(\d{1,3})[ \t]?%", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Terms:
    """What is added to the paper's reward.

    Attributes:
        agreement: a judgement gains up to this much where it names the same response as those of the other order.
        calibration: it gains up to this much for a stated confidence that fits whether it is right.
        length: it loses up to this much for its length.
        length_range: tokens up to which a judgement costs nothing, and from which on it costs all of `length`.

    Raises:
        ValueError: a weight that is negative or not a finite number, or a range that is none.
    """

    agreement: float = 0.0
    calibration: float = 0.0
    length: float = 0.0
    length_range: tuple[float, float] = (256, 1024)

    def __post_init__(self) -> None:
        for name in ("agreement", "calibration", "length"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < math.inf:
                raise ValueError(f"{name}_weight is {value!r}; it must be a finite number of at least 0 (0: off)")
        bounds = self.length_range
        numbers = [value for value in bounds if _is_number(value)]
        if len(bounds) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] < math.inf:
            raise ValueError(
                f"length_range is {list(bounds)!r}; it must be two numbers of tokens, the first at least 0 and the "
                "second larger"
            )

    def of_judgement(self, confidence: float | None, right: bool, tokens: int) -> float:
        """Return what a judgement by itself gains or loses.

        Args:
            confidence: see `stated_confidence`.
            right: whether its choice is the label.
            tokens: its length.
        """
        start, end = self.length_range
        cost = min(1.0, max(0.0, (tokens - start) / (end - start)))
        return self.calibration * calibration_reward(confidence, right) - self.length * cost


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def stated_confidence(verdict: Verdict) -> float | None:
    """Return the probability of being right that a judgement states: the last "Confidence: 80%" of its reasoning.

    None if there is none, or more than 100%, or no choice that it could be about.

    >>> from r1reward_verl.judgement import parse
    >>> stated_confidence(parse("<think>So response 1 is better. Confidence: 80%.</think><answer>1</answer>"))
    0.8
    """
    found = _CONFIDENCE.findall(verdict.think)
    if verdict.choice is None or not found or int(found[-1]) > 100:
        return None
    return int(found[-1]) / 100


def calibration_reward(confidence: float | None, right: bool) -> float:
    """Return 1 - (confidence - right)^2, from 0 to 1; 0 where none is stated.

    By Brier's score (1950) no other statement than the true probability of being right is worth more in expectation, as
    in RLCR (arXiv 2507.16806), which adds it to a reward for right answers.

    >>> calibration_reward(1.0, True), calibration_reward(0.5, False), calibration_reward(None, True)
    (1.0, 0.75, 0.0)
    """
    return 0.0 if confidence is None else 1.0 - (confidence - right) ** 2


def agreement_rewards(infos: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Return of each judgement of a step the share of judgements of the other order that name the same response.

    Args:
        infos: `pair_id`, `label` and `pred` of each, as texts: `pair_id` is the same in both orders of a preference,
            `label` says where the better response stands, and so which order it is; `pred` is "" without a choice.

    Returns:
        From 0 to 1; 0 for one without a choice, which agrees with nothing. None where the step has no judgement of the
        other order.
    """
    # By pair and order: how many judgements there are, and how many name the better response and the other one.
    seen: dict[tuple[str, str], np.ndarray] = {}
    for info in infos:
        if info["pair_id"]:
            counts = seen.setdefault((info["pair_id"], info["label"]), np.zeros(3))
            counts += (1, info["pred"] == info["label"], info["pred"] == _OTHER[info["label"]])
    shares: list[float | None] = []
    for info in infos:
        others = seen.get((info["pair_id"], _OTHER[info["label"]]))
        if others is None:
            shares.append(None)
        else:
            same = others[1] if info["pred"] == info["label"] else others[2]
            shares.append(float(same / others[0]) if info["pred"] else 0.0)
    return shares


_OTHER = {"1": "2", "2": "1"}
