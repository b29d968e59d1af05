"""The judge that reads the conclusion by rules."""

from __future__ import annotations

from r1reward_verl.judgement import Choice
from r1reward_verl.rewards.conclusions import conclusion
from r1reward_verl.rewards.judges.base import Opinion

_CONSISTENT, _INCONSISTENT = Opinion(1.0, "judged"), Opinion(-1.0, "judged")


class RulesJudge:
    """Reads the reasoning with `conclusion`: no model, English only, strict on anything unclear."""

    async def judge(self, reasoning: str, choice: Choice) -> Opinion:
        """Return 1.0 if the stated conclusion is `choice`, else -1.0: no or no clear conclusion is a mismatch."""
        return _CONSISTENT if conclusion(reasoning) == choice else _INCONSISTENT
