"""The reward manager `r1_reward`: the adapter between verl's reward loop and `r1reward_verl.rewards`.

Importing it registers it. verl runs it in its RewardLoopWorker actors, one sample at a time
(`reward.reward_manager.name=r1_reward`, settings under `reward.r1_reward`).
"""

from __future__ import annotations

import time
from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from r1reward_verl.judgement import parse_label
from r1reward_verl.plugin.trajectory import response_of
from r1reward_verl.rewards.conclusions import conclusion
from r1reward_verl.rewards.judges import SERVED_BY_VERL, make_judge
from r1reward_verl.rewards.judges.base import Judge
from r1reward_verl.rewards.scorer import Scorer
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
        **_: Any,  # of a later verl
    ) -> None:
        super().__init__(config, tokenizer, compute_score)
        settings = RewardSettings.from_config(config.reward.get("r1_reward"))
        self.scorer = Scorer(settings, _judge(settings, reward_router_address))

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Score the last sequence of `data`, a batch that holds one trajectory.

        Returns:
            `reward_score`, and in `reward_extra_info` the parts of it (see `scorer.Reward.as_info`), `reward_seconds`
            from call to return, and what `validation` needs besides: `label` and `pair_id` ("" if the row has none) as
            text; `supported`, 1.0 if by the rules the reasoning supports the verdict, right or wrong;
            `response_tokens` and `reasoning_characters`.

        Raises:
            ValueError: the row's label is not 1 or 2; the message names the row.
        """
        start = time.perf_counter()
        item = data[-1:][0]
        row = item.non_tensor_batch
        about = row.get("extra_info") or {}
        text, tokens = await self.loop.run_in_executor(None, self._decode, item)
        try:
            label = parse_label((row.get("reward_model") or {}).get("ground_truth"))
        except ValueError as error:
            raise ValueError(
                f"reward_model.ground_truth of row {about.get('index', 'unknown')} of data source "
                f"{row.get('data_source')!r}: {error}"
            ) from None
        reward = await self.scorer.reward(text, label, tokens)
        pair, verdict = about.get("pair_id"), reward.verdict
        info = {
            **reward.as_info(),
            "label": str(label),
            "pair_id": "" if pair is None else str(pair),
            "supported": float(verdict.choice is not None and conclusion(verdict.think) == verdict.choice),
            "response_tokens": float(tokens),
            "reasoning_characters": float(len(verdict.think)),
            "reward_seconds": time.perf_counter() - start,
        }
        return {"reward_score": reward.total, "reward_extra_info": info}

    def _decode(self, item: Any) -> tuple[str, int]:
        response = response_of(item)
        length = len(response)
        # All but the token that ended it: any other special token is a fault of format, and is not hidden.
        ended = length > 0 and int(response[length - 1]) in (self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        return self.tokenizer.decode(response[: length - ended], skip_special_tokens=False), length


def _judge(settings: RewardSettings, router_address: str | None) -> Judge:
    """Build the judge; one that verl serves is reached by the router where its replicas' addresses are not known."""
    if settings.judge["name"] not in SERVED_BY_VERL or router_address is None:
        return make_judge(settings.judge)
    return make_judge({"urls": [f"http://{router_address}/v1"], **settings.judge})
