"""The reward manager `pairwise`: the adapter between verl's reward loop and `use.group`.

Importing it registers it. verl runs it in its RewardLoopWorker actors, a group of siblings at a time
(`reward.reward_manager.name=pairwise`, settings under `reward.pairwise`; see `group_barrier` for how groups form).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from r1reward_verl.plugin.group_barrier import GROUP, MANAGER, sibling_of
from r1reward_verl.plugin.preflight.config import container
from r1reward_verl.rewards.judges import SERVED_BY_VERL
from r1reward_verl.use.comparison import Question
from r1reward_verl.use.group import GroupReward, GroupSettings, SiblingResponse

logger = logging.getLogger(__name__)

_MARKER = re.compile(r"<(?:image|video)>")


@register(MANAGER)
class PairwiseRewardManager(RewardManagerBase):
    """Rewards the siblings of a prompt by comparing them with each other, or with the reference answer.

    The reference answer of a row is its `reward_model.ground_truth`, where that is a text.

    Raises:
        ValueError: a wrong setting under `reward.pairwise`.
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
        settings = GroupSettings.from_config(container(config, "reward.pairwise"))
        if settings.model.name in SERVED_BY_VERL and not settings.model.urls and reward_router_address is not None:
            served = replace(settings.model, urls=[f"http://{reward_router_address}/v1"])
            settings = replace(settings, model=served)
        self.settings = settings
        self.group_reward = GroupReward(settings.load(), settings)
        self._told_of_missing = False

    async def run_single(self, data: DataProto) -> Any:
        """Score a group (see `group_barrier.group_batch`), or a single trajectory as a group of its own.

        Returns:
            For each sibling `reward_score`, and in `reward_extra_info` its parts (see `GroupReward.reward`): a list for
            a group, and for a single trajectory its one entry.
        """
        if GROUP in data.non_tensor_batch:
            return await self.reward_siblings(**data.non_tensor_batch[GROUP][0])
        alone = sibling_of(data)
        (scored,) = await self.reward_siblings(alone["raw_prompt"], [alone], False)
        return scored

    async def reward_siblings(
        self, prompt: Any, siblings: Sequence[Mapping[str, Any]], validate: bool
    ) -> list[dict[str, Any]]:
        """Return what `run_single` returns for a group of siblings as `group_barrier.sibling_of` makes them."""
        wanted = self.config.actor_rollout_ref.rollout.n
        if not validate and len(siblings) < wanted and not self._told_of_missing:
            self._told_of_missing = True
            logger.warning("a group has %d of %d rollouts: the others failed (said once)", len(siblings), wanted)
        try:
            infos = await self._infos(prompt, siblings, validate)
        except (
            Exception
        ) as error:  # of a rule reward, for example: what is raised here is tried again for ever in async
            logger.exception("a group of %d rollouts could not be rewarded", len(siblings))
            blank = [SiblingResponse("", len(one["response_ids"])) for one in siblings]
            infos = self.group_reward.lost(blank, f"{type(error).__name__}: {error}")
        return [{"reward_score": info["score"], "reward_extra_info": info} for info in infos]

    async def _infos(
        self, prompt: Any, siblings: Sequence[Mapping[str, Any]], validate: bool
    ) -> list[dict[str, float | str]]:
        responses = await asyncio.gather(*(self._response(sibling) for sibling in siblings))
        try:
            question = await self.loop.run_in_executor(None, question_in_messages, prompt)
        except ValueError as error:
            return self.group_reward.lost(responses, str(error))
        return await self.group_reward.reward(question, responses, reference_of(siblings[0]), validate=validate)

    async def _response(self, sibling: Mapping[str, Any]) -> SiblingResponse:
        ids = sibling["response_ids"]
        text = await self.loop.run_in_executor(None, lambda: self.tokenizer.decode(ids, skip_special_tokens=True))
        rule = await self._rule(text, sibling) if self.settings.rule_weight else 0.0
        return SiblingResponse(text, len(ids), rule)

    async def _rule(self, text: str, sibling: Mapping[str, Any]) -> float:
        """Return the reward of verl's own function for the row."""
        given = {
            "data_source": sibling["data_source"],
            "solution_str": text,
            "ground_truth": (sibling["reward_model"] or {}).get("ground_truth"),
            "extra_info": sibling["extra_info"] or {},
        }
        if inspect.iscoroutinefunction(self.compute_score):
            score = await self.compute_score(**given)
        else:
            score = await self.loop.run_in_executor(None, lambda: self.compute_score(**given))
        return float(score["score"] if isinstance(score, Mapping) else score)


def question_in_messages(messages: Sequence[Mapping[str, Any]]) -> Question:
    """Return the question in a prompt: its only user message, or the whole conversation with its roles.

    Args:
        messages: as verl's dataset makes them; a content is a text, or parts with pictures and videos in place.

    Raises:
        ValueError: a picture or video of a form that cannot be read.
    """
    texts: list[str] = []
    media: list[Any] = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
        texts.append("".join(str(part.get("text") or "") for part in parts if part.get("type") == "text"))
        media += [_media_of(part) for part in parts if part.get("type") != "text"]
    roles = [str(message["role"]) for message in messages]
    joined = (
        texts[0]
        if roles == ["user"]
        else "\n\n".join(f"{role.title()}: {text}" for role, text in zip(roles, texts, strict=True))
    )
    return Question.make(_MARKER.sub("", joined).strip() or "(no text)", media)


def _media_of(part: Mapping[str, Any]) -> Any:
    """Return the picture or video of a part of a message."""
    if part.get("type") == "video" and part.get("video") is not None:
        return {"video": part["video"]}
    if part.get("type") == "image":
        # verl puts the decoded picture beside its bytes.
        for name in ("bytes", "image", "path"):
            if part.get(name) is not None:
                return part[name]
    raise ValueError(
        f"a part of type {part.get('type')!r} with {', '.join(map(str, part))} in the prompt cannot be shown to the "
        "reward model"
    )


def reference_of(sibling: Mapping[str, Any]) -> str | None:
    """Return the reference answer of a row, None if it has none."""
    truth = (sibling["reward_model"] or {}).get("ground_truth")
    return truth if isinstance(truth, str) else None


async def no_rule(*_: Any, **__: Any) -> float:
    """Return 0.

    verl takes a reward model without a custom function for one that gives the score itself; where no rule reward is
    wanted, this is the function.
    """
    return 0.0
