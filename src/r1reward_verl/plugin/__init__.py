"""The map: everything this package registers into verl, one line each.

verl imports this module in every process, drivers and Ray workers alike, at the end of its own `__init__`
(entry point group `verl.plugins`). Importing verl's registries here would cost seconds in each of a dozen
processes, so each registration waits until verl itself first imports the module that holds the registry.
verl reports a plugin that fails to load at DEBUG level only: `r1reward doctor` imports these modules and says
so loudly.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType

from wrapt import when_imported


def _algorithm(core_algos: ModuleType) -> None:
    from r1reward_verl.plugin import algorithm

    core_algos.register_adv_est("stable_reinforce")(algorithm.adv_estimator)
    core_algos.register_policy_loss("stable_reinforce")(algorithm.policy_loss)


def _v0_metrics(ray_trainer: ModuleType) -> None:
    from r1reward_verl.plugin import algorithm

    algorithm.install_v0_metrics(ray_trainer)


def _reward_manager(_: ModuleType) -> None:
    import r1reward_verl.plugin.reward_manager  # noqa: F401  (its decorator registers `r1_reward`)


def _reward_in_trainer(trainer_base: ModuleType) -> None:
    from r1reward_verl.plugin import trainer

    trainer.install(trainer_base)


def _judge_replicas(reward_loop: ModuleType) -> None:
    from r1reward_verl.plugin import trainer

    trainer.install_replicas(reward_loop)


def _preflight(verl_config: ModuleType) -> None:
    from r1reward_verl.plugin import preflight

    preflight.install(verl_config)


def _position_ids(tensordict_utils: ModuleType) -> None:
    from r1reward_verl.plugin import fixes

    fixes.install_position_ids_fix(tensordict_utils)


# verl's module -> the names in it that the registration needs, and the registration
REGISTRATIONS: dict[str, tuple[tuple[str, ...], Callable[[ModuleType], None]]] = {
    "verl.trainer.ppo.core_algos": (("register_adv_est", "register_policy_loss"), _algorithm),
    "verl.trainer.ppo.ray_trainer": (("compute_advantage", "compute_data_metrics"), _v0_metrics),
    "verl.experimental.reward_loop.reward_manager": (("register", "base"), _reward_manager),
    "verl.trainer.ppo.v1.trainer_base": (("PPOTrainer",), _reward_in_trainer),
    "verl.experimental.reward_loop.reward_loop": (("RewardLoopManager",), _judge_replicas),
    "verl.utils.config": (("validate_config",), _preflight),
    "verl.utils.tensordict_utils": (("maybe_fix_3d_position_ids",), _position_ids),
}


def _guarded(needed: tuple[str, ...], register: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    """Leave a verl of another layout alone: its import must not fail, the preflight then says the version."""

    def hook(module: ModuleType) -> None:
        if all(hasattr(module, name) for name in needed):
            register(module)

    return hook


for _name, (_needed, _register) in REGISTRATIONS.items():
    when_imported(_name)(_guarded(_needed, _register))

# Only on request: if the CPU were detected by itself, the CPU-only head node of a GPU cluster would choose it.
if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
    import r1reward_verl.cpu.verl_platform  # noqa: F401
