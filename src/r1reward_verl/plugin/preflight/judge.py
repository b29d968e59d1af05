"""The judge: that verl serves its model, or that its servers answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from r1reward_verl.engines.chat import ChatError
from r1reward_verl.plugin.preflight.config import Problem, container, select
from r1reward_verl.plugin.preflight.hardware import ray_cluster
from r1reward_verl.plugin.preflight.model import check_checkpoint
from r1reward_verl.rewards.judges import SERVED_BY_VERL, make_judge
from r1reward_verl.rewards.judges.model import ModelJudge
from r1reward_verl.rewards.settings import RewardSettings

PAPER_JUDGE = "Qwen/Qwen2.5-VL-7B-Instruct"
PAPER_JUDGE_BYTES = 16_600_000_000
"""8.3e9 parameters in bf16."""


def check_judge(config: DictConfig) -> Iterator[Problem]:
    """The judge: that verl is told to serve its model, or that its servers answer."""
    if select(config, "reward.reward_manager.name") != "r1_reward":
        return
    try:
        judge = RewardSettings.from_config(container(config, "reward.r1_reward")).judge
    except (TypeError, ValueError):
        return  # the check of the settings says so
    name, model = judge["name"], "reward.reward_model"
    served, own_gpus = (bool(select(config, f"{model}.{key}")) for key in ("enable", "enable_resource_pool"))
    if name in SERVED_BY_VERL:
        if not served or own_gpus != (name == "pool"):
            yield Problem(
                f"{model}.enable",
                f"{served}, with enable_resource_pool={own_gpus}, does not fit the judge {name!r}",
                f"Choose the judge with judge={name} behind +recipe=r1_reward, which sets both",
            )
            return
        yield from check_checkpoint(config, f"{model}.model_path")
        yield from _check_room(config, name)
    if served and not select(config, "reward.custom_reward_function.path"):
        yield Problem(
            "reward.custom_reward_function.path",
            "not set, and verl then takes its reward model for one that gives the score itself, past r1_reward",
            "Set it to pkg://r1reward_verl.rewards.function, as judge=pool does",
        )
    if name == "endpoint":
        yield from _check_servers(judge)


def _check_room(config: DictConfig, name: str) -> Iterator[Problem]:
    """The weights of a served judge against its share of the smallest GPU here; elsewhere nobody knows."""
    if select(config, "trainer.device") != "cuda" or ray_cluster(config) is not None:
        return
    import torch

    gpus = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    weights = _bytes_of(str(select(config, "reward.reward_model.model_path")))
    rollout = "reward.reward_model.rollout"
    share = float(select(config, f"{rollout}.gpu_memory_utilization") or 1.0)
    split = int(select(config, f"{rollout}.tensor_model_parallel_size") or 1)
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
    return found or (PAPER_JUDGE_BYTES if path == PAPER_JUDGE else 0)


def _check_servers(judge: Mapping[str, Any]) -> Iterator[Problem]:

    async def models() -> dict[str, list[str]]:
        asked = make_judge({**judge, "timeout": min(10.0, judge.get("timeout", 10.0))})
        assert isinstance(asked, ModelJudge)
        async with asked.client as client:
            return await client.models()

    where, wanted = "reward.r1_reward.judge", judge.get("model")
    try:
        served = asyncio.run(models())
    except ChatError as error:
        yield Problem(f"{where}.urls", str(error), "Start the judge's server, or correct the address")
        return
    for url, names in served.items():
        if not names or wanted not in (None, *names):
            what = f"{url} does not serve {wanted!r}" if wanted else f"{url} serves no model"
            yield Problem(f"{where}.model", f"{what}; it has {', '.join(names) or 'none'}", "Name one that it has")
