"""The reward model that compares rollouts: that there is something to compare, and a model that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from omegaconf import DictConfig

from r1reward_verl.engines.chat import ChatError
from r1reward_verl.engines.online import OnlineEndpoint
from r1reward_verl.plugin.group_barrier import MANAGER
from r1reward_verl.plugin.preflight.config import Problem, config_value, container
from r1reward_verl.plugin.preflight.served import check_served, unknown_models
from r1reward_verl.use.group import GroupSettings


def check_group_reward(config: DictConfig) -> Iterator[Problem]:
    """The reward manager `pairwise`: its settings, the number of rollouts, and its model."""
    if config_value(config, "reward.reward_manager.name") != MANAGER:
        return
    try:
        settings = GroupSettings.from_config(container(config, "reward.pairwise"))
    except (TypeError, ValueError) as error:
        yield Problem("reward.pairwise", str(error), "Correct it, or leave it out for the default")
        return
    n = config_value(config, "actor_rollout_ref.rollout.n")
    if settings.against == "siblings" and isinstance(n, int) and n < 2:
        yield Problem(
            "actor_rollout_ref.rollout.n",
            f"{n}, and a single rollout has no siblings to be compared with",
            "Raise it, or compare with reference answers (reward.pairwise.against=reference)",
        )
    if config_value(config, "trainer.use_v1") is False:
        yield Problem(
            "trainer.use_v1",
            "false: verl's old trainer spreads the rollouts of a prompt over its workers",
            "Leave it out",
        )
    name = settings.model.name
    yield from check_served(
        config,
        name,
        what=f"a reward model in {name!r}",
        way_out=f"Choose it with +reward_model={name}, which sets both",
        manager=MANAGER,
        function="pkg://r1reward_verl.plugin.pairwise_manager, as +reward_model=pool does",
    )
    if name == "endpoint":
        yield from _check_servers(settings)


def _check_servers(settings: GroupSettings) -> Iterator[Problem]:
    where = "reward.pairwise.model"
    try:
        client = settings.load()
    except ValueError as error:
        yield Problem(where, str(error), "Correct it")
        return

    async def models() -> dict[str, list[str]]:
        engine = client.engine
        assert isinstance(engine, OnlineEndpoint)
        try:
            return await engine.models()
        finally:
            await client.aclose()

    try:
        served = asyncio.run(models())
    except ChatError as error:
        yield Problem(f"{where}.urls", str(error), "Start the reward model's server, or correct the address")
        return
    yield from unknown_models(f"{where}.model", served, settings.model.model)
