"""The judges of consistency, by name. To add one, write a class with the method of `base.Judge` and name it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1reward_verl.rewards.judges.base import Judge, NoJudge
from r1reward_verl.rewards.judges.model import ModelJudge
from r1reward_verl.rewards.judges.rules import RulesJudge

SERVED_BY_VERL = ("pool", "colocated")
"""Judges whose model verl serves (`reward.reward_model`); where, is known when it runs."""


def _served_judge(urls: Sequence[str] = ("http://router/v1",), **options: Any) -> Judge:
    return ModelJudge(urls=urls, **options)


JUDGES: dict[str, Callable[..., Judge]] = {
    "none": NoJudge,
    "rules": RulesJudge,
    "pool": _served_judge,
    "colocated": _served_judge,
    "endpoint": ModelJudge,
}


def make_judge(config: Mapping[str, Any]) -> Judge:
    """Build a judge from its settings: `name` (a key of `JUDGES`); the other keys are its options.

    Raises:
        ValueError: not a mapping, no or an unknown name, or an option that this judge does not have.
    """
    known = ", ".join(JUDGES)
    if not isinstance(config, Mapping) or "name" not in config:
        raise ValueError(f"judge is {config!r}; it must be a mapping with a name, one of: {known}")
    options = {str(key): value for key, value in config.items() if key != "name"}
    if config["name"] not in JUDGES:
        raise ValueError(f"judge.name is {config['name']!r}; known judges: {known}")
    try:
        return JUDGES[config["name"]](**options)
    except TypeError as error:
        raise ValueError(f"judge {config['name']!r} does not take the options {options}: {error}") from None
