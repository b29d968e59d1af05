"""The reward as one function, for verl's own reward managers and other trainers.

    reward.custom_reward_function.path=pkg://r1reward_verl.rewards.function

The recipes with a judge that verl serves name it too: without a custom function verl takes every reward model for one
that gives the score itself.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from r1reward_verl.rewards.scorer import Scorer


async def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **_: Any
) -> dict[str, float | str]:
    """Score a judgement with the paper's weights and the rules judge.

    Args:
        data_source: not looked at; verl passes it.
        solution_str: the judgement.
        ground_truth: the label, 1 or 2.
        extra_info: not looked at; verl passes it.

    Returns:
        `score` and its parts (see `scorer.Reward.as_info`).

    Raises:
        ValueError: a label other than 1 or 2.
    """
    return (await _scorer().reward(solution_str, ground_truth)).as_info()


@lru_cache(maxsize=1)
def _scorer() -> Scorer:
    return Scorer()
