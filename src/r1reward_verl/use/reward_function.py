"""A reward model as the reward function of trainers that call one with a batch, such as GRPOTrainer of huggingface/trl.

    trainer = GRPOTrainer(model, reward_funcs=PairwiseReward(RewardModel(urls=[...])), args=..., train_dataset=...)

Free of any trainer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from r1reward_verl.use.comparison import Question
from r1reward_verl.use.group import GroupReward, GroupSettings, SiblingResponse, group_metrics
from r1reward_verl.use.model import RewardModel


class PairwiseReward:
    """Rewards the completions of a prompt by comparing them with each other.

    All completions of a prompt must come in one call: with TRL, `per_device_train_batch_size` times
    `gradient_accumulation_steps` is a multiple of `num_generations` on each device.

    Args:
        model: the reward model.
        settings: how completions are compared; None for the defaults. Its section `model` is not looked at.

    Attributes:
        metrics: of the latest call; see `group.group_metrics`.
    """

    __name__ = "pairwise_reward"  # under which TRL logs it

    def __init__(self, model: RewardModel, settings: GroupSettings | None = None) -> None:
        self._model, self._reward = model, GroupReward(model, settings or GroupSettings())
        self.metrics: dict[str, float] = {}

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Return the reward of each completion.

        Args:
            prompts: of each completion a text or a list of chat messages.
            completions: texts, or lists of chat messages whose last one counts.
            columns: of the data set, one value for each completion: `images` or `image` are the prompt's pictures,
                `reference` is an answer for prompts with a single completion, `completion_ids` give the lengths.

        Raises:
            ValueError: a prompt or a picture that cannot be read.
        """
        groups: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            groups.setdefault(json.dumps(prompt, default=repr), []).append(index)
        infos: list[dict[str, Any]] = [{}] * len(prompts)
        for members, scored in zip(
            groups.values(), self._model.wait_for(self._score(groups, prompts, completions, columns)), strict=True
        ):
            for index, info in zip(members, scored, strict=True):
                infos[index] = info
        self.metrics = group_metrics(infos)
        return [float(info["score"]) for info in infos]

    async def _score(
        self,
        groups: Mapping[str, Sequence[int]],
        prompts: Sequence[Any],
        completions: Sequence[Any],
        columns: Mapping[str, Any],
    ) -> list[list[dict[str, float | str]]]:
        def column(index: int, *names: str) -> Any:
            values = (columns[name][index] for name in names if columns.get(name) is not None)
            return next((value for value in values if value is not None), None)

        async def score(members: Sequence[int]) -> list[dict[str, float | str]]:
            first = members[0]
            siblings = [
                SiblingResponse(text, len(column(index, "completion_ids") or text.split()))
                for index, text in ((index, _text(completions[index])) for index in members)
            ]
            question = Question.make(_text(prompts[first]), column(first, "images", "image"))
            return await self._reward.reward(question, siblings, column(first, "reference"))

        return await asyncio.gather(*(score(members) for members in groups.values()))


def _text(value: Any) -> str:
    """Return a text, or that of the last of some chat messages."""
    if isinstance(value, str):
        return value
    content = value[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text")
