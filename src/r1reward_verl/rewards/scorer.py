"""Scoring a judgement: the parser, the rules and a judge put together, whatever trainer asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from r1reward_verl.judgement import Verdict, parse, parse_label
from r1reward_verl.rewards.judges import make_judge
from r1reward_verl.rewards.judges.base import SKIPPED, Judge, NoJudge, Opinion
from r1reward_verl.rewards.rules import combine, format_reward, result_reward
from r1reward_verl.rewards.settings import RewardSettings
from r1reward_verl.rewards.terms import stated_confidence


@dataclass(frozen=True)
class Reward:
    """The reward of one judgement and what it is made of.

    Attributes:
        total: the reward (see `rules.combine`), with what `terms.Terms` adds to a judgement by itself.
        result: 1.0 if the right response was chosen, else 0.0.
        format: 1.0 if the tags keep the contract, else 0.0.
        opinion: opinion of the judge; skipped where it could not change the reward.
        verdict: what the parser read.
        confidence: what the judgement states (see `terms.stated_confidence`); None if it states none.
    """

    total: float
    result: float
    format: float
    opinion: Opinion
    verdict: Verdict
    confidence: float | None = None

    def as_info(self) -> dict[str, float | str]:
        """Return the parts by name, for a trainer's log: always the same keys, which verl requires.

        `acc` is `result` under the name that verl's validation looks for, and `pred` the choice as "1", "2" or ""
        for its majority vote. `confidence` is -1 where none is stated.
        """
        return {
            "score": self.total,
            "acc": self.result,
            "result": self.result,
            "format": self.format,
            "consistency": self.opinion.consistency,
            "judged": float(self.opinion.status in ("judged", "cached")),
            "unparsable": float(self.verdict.choice is None),
            "pred": str(self.verdict.choice or ""),
            "judge_status": self.opinion.status,
            "judge_retries": float(self.opinion.retries),
            "judge_seconds": self.opinion.seconds,
            "confidence": -1.0 if self.confidence is None else self.confidence,
        }


class Scorer:
    """Scores judgements by format, result and consistency.

    Args:
        settings: weights, parser mode and judge; None for the paper's with the rules judge.
        judge: the judge itself, where the settings alone do not say how to reach it.
    """

    def __init__(self, settings: RewardSettings | None = None, judge: Judge | None = None) -> None:
        self.settings = settings or RewardSettings()
        self.judge = judge or make_judge(self.settings.judge)
        self._asks = bool(self.settings.consistency_weight) and not isinstance(self.judge, NoJudge)
        self._weights, self._terms = self.settings.weights, self.settings.terms

    async def reward(self, text: str, label: Any, tokens: int = 0) -> Reward:
        """Return the reward of a judgement with this label, and of this length where that counts.

        Raises:
            ValueError: a label other than 1 or 2.
        """
        label = parse_label(label)
        verdict = parse(text, self.settings.lenient)
        result, well_formed = result_reward(verdict, label), format_reward(verdict)
        opinion = SKIPPED
        # The consistency of a wrong answer is multiplied by a result of 0: asking would change nothing.
        if self._asks and result and verdict.choice:
            opinion = await self.judge.judge(verdict.think, verdict.choice)
        confidence = stated_confidence(verdict)
        total = combine(result, opinion.consistency, well_formed, self._weights)
        total += self._terms.of_judgement(confidence, bool(result), tokens)
        return Reward(total, result, well_formed, opinion, verdict, confidence)
