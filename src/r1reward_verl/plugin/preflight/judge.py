"""The judge: that verl serves its model, or that its servers answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from r1reward_verl.engines.chat import ChatError
from r1reward_verl.plugin.preflight.config import Problem, config_value, container
from r1reward_verl.plugin.preflight.hardware import ray_cluster
from r1reward_verl.plugin.preflight.served import check_served, fits, unknown_models
from r1reward_verl.recipes import JUDGE, JUDGE_BYTES
from r1reward_verl.rewards.judges import SERVED_BY_VERL, make_judge
from r1reward_verl.rewards.judges.model import ModelJudge
from r1reward_verl.rewards.settings import RewardSettings


def check_judge(config: DictConfig) -> Iterator[Problem]:
    """The judge: that verl is told to serve its model, or that its servers answer."""
    if config_value(config, "reward.reward_manager.name") != "r1_reward":
        return
    try:
        judge = RewardSettings.from_config(container(config, "reward.r1_reward")).judge
    except (TypeError, ValueError):
        return  # the check of the settings says so
    name = judge["name"]
    yield from check_served(
        config,
        name,
        what=f"the judge {name!r}",
        way_out=f"Choose the judge with judge={name} behind +recipe=r1_reward, which sets both",
        manager="r1_reward",
        function="pkg://r1reward_verl.rewards.function, as judge=pool does",
    )
    if name in SERVED_BY_VERL and fits(config, name):
        yield from _check_room(config, name)
    if name == "endpoint":
        yield from _check_servers(judge)


def _check_room(config: DictConfig, name: str) -> Iterator[Problem]:
    """The weights of a served judge against its share of the smallest GPU here; elsewhere nobody knows."""
    if config_value(config, "trainer.device") != "cuda" or ray_cluster(config) is not None:
        return
    import torch

    gpus = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    weights = _bytes_of(str(config_value(config, "reward.reward_model.model_path")))
    rollout = "reward.reward_model.rollout"
    share = float(config_value(config, f"{rollout}.gpu_memory_utilization") or 1.0)
    split = int(config_value(config, f"{rollout}.tensor_model_parallel_size") or 1)
    if gpus and weights and weights / split > share * min(gpus):
        yield Problem(
            f"{rollout}.gpu_memory_utilization",
            f"{share:g} of a GPU of {min(gpus) / 1e9:.0f} GB does not hold the judge's {weights / split / 1e9:.1f} GB",
            "Choose judge=rules, which needs no GPU, or judge=pool or endpoint, whose model stands elsewhere"
            if name == "colocated"
            else "Raise it, or spread the judge with tensor_model_parallel_size, or choose judge=rules",
        )


def _bytes_of(path: str) -> int:
    """Return the bytes of a checkpoint's weights, 0 where they are not known."""
    found = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    return found or (JUDGE_BYTES if path == JUDGE else 0)


def _check_servers(judge: Mapping[str, Any]) -> Iterator[Problem]:
    async def models() -> dict[str, list[str]]:
        asked = make_judge({**judge, "timeout": min(10.0, judge.get("timeout", 10.0))})
        assert isinstance(asked, ModelJudge)
        async with asked.client as client:
            return await client.models()

    where = "reward.r1_reward.judge"
    try:
        served = asyncio.run(models())
    except ChatError as error:
        yield Problem(f"{where}.urls", str(error), "Start the judge's server, or correct the address")
        return
    yield from unknown_models(f"{where}.model", served, judge.get("model"))
