"""The rewards that rules can give, and how they add up.

Result * (1 + 0.5 * Consistency) + 0.5 * Format, from R1-Reward (arXiv 2505.02835, section 4.2): Result and
Format are 0 or 1, Consistency is +1, -1 or 0 (see `r1reward_verl.rewards.judges.base`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from r1reward_verl.judgement import Lenient, Verdict, parse, parse_label


@dataclass(frozen=True)
class RewardWeights:
    """How much the parts count beside a right answer, which is worth 1.

    Attributes:
        consistency: a right answer gains this much if its reasoning supports it and loses as much if not.
        format: a well-formed judgement gains this much, right or wrong.
        consistency_range: what an inconsistent (at most 0) and a consistent (at least 0) judgement count, before
            the weight; [-1, 1] in the paper, [0, 1] rewards consistency without punishing its lack.

    Raises:
        ValueError: a weight that is negative or not a finite number, or a range that does not hold 0.
    """

    consistency: float = 0.5
    format: float = 0.5
    consistency_range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("consistency", "format"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name}_weight is {value!r}; it must be a finite number of at least 0 (paper: 0.5)")
        bounds = self.consistency_range
        numbers = [value for value in bounds if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(bounds) != 2 or len(numbers) != 2 or not -math.inf < numbers[0] <= 0 <= numbers[1] < math.inf:
            raise ValueError(
                f"consistency_range is {list(bounds)!r}; it must be two numbers, the first at most 0 and the "
                "second at least 0 (paper: [-1, 1])"
            )


def format_reward(judgement: str | Verdict) -> float:
    """1.0 if the tags keep the contract of `r1reward_verl.judgement.parse`, else 0.0.

    >>> format_reward("<think>Response 2 is wrong.</think><answer>1</answer>")
    1.0
    >>> format_reward("The answer is <answer>1</answer>")
    0.0
    """
    verdict = parse(judgement) if isinstance(judgement, str) else judgement
    return float(verdict.well_formed)


def result_reward(judgement: str | Verdict, label: int | str, lenient: Lenient | None = None) -> float:
    """1.0 if the judgement chooses the response of the label, else 0.0, also if no choice is readable.

    Args:
        judgement: the text, or its verdict if it is parsed already.
        label: the preferred response, in any form of `r1reward_verl.judgement.parse_label`.
        lenient: see `r1reward_verl.judgement.parse`; used on text only.

    Raises:
        ValueError: a label other than 1 or 2.

    >>> result_reward("<think>Response 2 is wrong.</think><answer>1</answer>", label=1)
    1.0
    """
    verdict = parse(judgement, lenient) if isinstance(judgement, str) else judgement
    return float(verdict.choice == parse_label(label))


def combine(result: float, consistency: float, format: float, weights: RewardWeights | None = None) -> float:
    """Add up the reward: result * (1 + w_c * consistency) + w_f * format.

    With the paper's weights (the default) a well-formed right answer is worth 2.0 if consistent, 1.5 if the
    judge could not tell and 1.0 if inconsistent; a well-formed wrong one 0.5 whatever the judge would say.
    """
    weights = weights or RewardWeights()
    low, high = weights.consistency_range
    worth = consistency * (high if consistency > 0 else -low)
    return result * (1 + weights.consistency * worth) + weights.format * format
