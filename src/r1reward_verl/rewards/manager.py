"""The reward manager `r1_reward`: the adapter between verl's reward loop and `r1reward_verl.rewards`.

Importing it registers it. verl runs it in its RewardLoopWorker actors, one sample at a time
(`reward.reward_manager.name=r1_reward`, settings under `reward.r1_reward`).
"""

from __future__ import annotations

from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from r1reward_verl.judgement import Choice, parse, parse_label
from r1reward_verl.rewards.consistency import NoJudge, make_judge
from r1reward_verl.rewards.rules import combine, format_reward, result_reward
from r1reward_verl.rewards.settings import RewardSettings


@register("r1_reward")
class R1RewardManager(RewardManagerBase):
    """Scores a judgement by format, result and consistency (see `rules.combine`).

    verl's `compute_score` is not used: the reward is this class.

    Raises:
        ValueError: a wrong setting under `reward.r1_reward`.
    """

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Any = None,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        super().__init__(config, tokenizer, compute_score)
        self.settings = RewardSettings.from_config(config.reward.get("r1_reward"))
        self.judge = make_judge(self.settings.judge)

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Score the last sequence of `data`, a batch that holds one trajectory.

        Returns:
            `reward_score`, and in `reward_extra_info` always the same keys (verl fails on differing ones):
            `score` (the same), `acc` and `result` (0 or 1), `format` (0 or 1), `consistency` (-1, 0 or 1),
            `judged` (1 if the judge had an opinion), `unparsable` (1 if no choice could be read), all floats,
            and `pred`, the choice as "1", "2" or "" (verl's majority vote reads it).

        Raises:
            ValueError: the row's label is not 1 or 2; the message names the row.
        """
        item = data[-1:][0]
        label = _label(item.non_tensor_batch)
        text = await self.loop.run_in_executor(None, self._decode, item)
        verdict = parse(text, self.settings.lenient)
        result, well_formed = result_reward(verdict, label), format_reward(verdict)
        consistency = 0.0
        # The consistency of a wrong answer is multiplied by a result of 0: asking would change nothing.
        if verdict.choice and result and self.settings.consistency_weight and not isinstance(self.judge, NoJudge):
            consistency = float(await self.judge.judge(verdict.think, verdict.choice))
        score = combine(result, consistency, well_formed, self.settings.weights)
        return {
            "reward_score": score,
            "reward_extra_info": {
                "score": score,
                "acc": result,
                "result": result,
                "format": well_formed,
                "consistency": consistency,
                "judged": float(consistency != 0),
                "unparsable": float(verdict.choice is None),
                "pred": str(verdict.choice or ""),
            },
        }

    def _decode(self, item: Any) -> str:
        response = item.batch["responses"]
        # In a multi-turn trajectory prompts and responses are padded apart, and only `response_len` is right.
        length = item.non_tensor_batch.get("response_len")
        if length is None:
            length = item.batch["attention_mask"][-len(response) :].sum()
        return self.tokenizer.decode(response[: int(length)], skip_special_tokens=True)


def _label(row: dict[str, Any]) -> Choice:
    try:
        return parse_label((row.get("reward_model") or {}).get("ground_truth"))
    except ValueError as error:
        index = (row.get("extra_info") or {}).get("index", "unknown")
        raise ValueError(
            f"reward_model.ground_truth of row {index} of data source {row.get('data_source')!r}: {error}"
        ) from None
