"""The judges, who say whether the reasoning and the answer of a judgement agree.

The consistency reward of R1-Reward (arXiv 2505.02835, section 4.2) is +1 if the reasoning concludes that the
response named by the answer is better, -1 if not (opposite, ambiguous, or approval of both), 0 if the judge
could not tell. As in the reference, a judge sees the last three lines of the reasoning, never the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from r1reward_verl.judgement import Choice

JudgeStatus = Literal[
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
    status: JudgeStatus
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


SKIPPED = Opinion(0.0, "skipped")
