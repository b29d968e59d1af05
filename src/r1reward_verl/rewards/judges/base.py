"""The judges, who say whether the reasoning and the answer of a judgement agree.

The consistency reward of R1-Reward (arXiv 2505.02835, section 4.2) is +1 if the reasoning concludes that the
response named by the answer is better, -1 if not (opposite, ambiguous, or approval of both), 0 if the judge
could not tell. As in the reference, a judge sees the last three lines of the reasoning, never the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from r1reward_verl.judgement import Choice
from r1reward_verl.rewards.conclusions import conclusion

Status = Literal[
    "skipped",  # nobody was asked: it could not change the reward
    "judged",
    "cached",  # the same reasoning and choice were judged before
    "undecided",  # the judge answered, and its answers could not be read
    "failed",  # the judge could not be reached
]


@dataclass(frozen=True)
class Opinion:
    """What a judge says of one judgement.

    Attributes:
        consistency: 1.0 if the reasoning supports the choice, -1.0 if not, 0.0 if unknown; between them where the
            judge was asked how sure it is.
        status: how the judge came by it.
        retries: requests beyond the first.
        seconds: what the answer took, waiting included; 0.0 where nobody was asked.
    """

    consistency: float
    status: Status
    retries: int = 0
    seconds: float = 0.0


class Judge(Protocol):
    """Anything that can say whether a piece of reasoning supports a choice."""

    async def judge(self, reasoning: str, choice: Choice) -> Opinion:
        """Say whether `reasoning` concludes that response `choice` is better.

        Failures of the judge itself (an unreadable reply, a time-out) are its own to handle: they are a consistency
        of 0.0 with their status, never an exception.
        """


class NoJudge:
    """Never has an opinion, so that consistency plays no part in the reward."""

    async def judge(self, reasoning: str, choice: Choice) -> Opinion:
        """Return a consistency of 0.0."""
        return SKIPPED


class RulesJudge:
    """Reads the reasoning with `conclusion`: no model, English only, strict on anything unclear."""

    async def judge(self, reasoning: str, choice: Choice) -> Opinion:
        """Return 1.0 if the stated conclusion is `choice`, else -1.0: no or no clear conclusion is a mismatch."""
        return _CONSISTENT if conclusion(reasoning) == choice else _INCONSISTENT


SKIPPED = Opinion(0.0, "skipped")
_CONSISTENT, _INCONSISTENT = Opinion(1.0, "judged"), Opinion(-1.0, "judged")

SERVED_BY_VERL = ("pool", "colocated")
"""Judges whose model verl serves (`reward.reward_model`); where, is known when it runs."""


def _model_judge(**options: Any) -> Judge:
    from r1reward_verl.rewards.judges.model import ModelJudge  # brings the HTTP client

    return ModelJudge(**options)


def _served_judge(urls: Sequence[str] = ("http://router/v1",), **options: Any) -> Judge:
    return _model_judge(urls=urls, **options)


JUDGES: dict[str, Callable[..., Judge]] = {
    "none": NoJudge,
    "rules": RulesJudge,
    "pool": _served_judge,
    "colocated": _served_judge,
    "endpoint": _model_judge,
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
