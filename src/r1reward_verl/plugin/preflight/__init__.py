"""Preflight: what would make a run fail later, deep inside Ray, said before Ray starts.

verl calls `verl.utils.config.validate_config` on the driver before anything else; `install` puts these checks
in front of it, for configs that use one of this package's names and for no others. `r1reward doctor` runs the
same checks. The rules are those that verl 0.9.1 asserts in its workers (`workers/engine_workers.py`,
`workers/engine/utils.py`, `workers/rollout/replica.py`, `trainer/ppo/v1/trainer_base.py`).

verl imports this module in every process, the checks are imported where one is about to run.
"""

from __future__ import annotations

import functools
import logging
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.config import Problem, is_cpu_hardware, select

logger = logging.getLogger(__name__)


def uses_our_names(config: DictConfig) -> bool:
    """Tell whether a config asks for anything that this package registers or brings."""
    return (
        select(config, "algorithm.adv_estimator") == "stable_reinforce"
        or select(config, "actor_rollout_ref.actor.policy_loss.loss_mode") == "stable_reinforce"
        or select(config, "reward.reward_manager.name") == "r1_reward"
        or is_cpu_hardware(config)
    )


def install(verl_config: ModuleType) -> None:
    """Put the checks in front of `validate_config` of the module `verl.utils.config`.

    A config with problems ends the program with one message and exit code 1 (`SystemExit` passes through
    Hydra without a traceback). A config that uses none of our names goes to verl untouched.
    """
    original = verl_config.validate_config
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def validate_config(config: DictConfig, *args: Any, **kwargs: Any) -> None:
        if uses_our_names(config):
            # On the driver only: they bring the judge's client and the data readers.
            from r1reward_verl.plugin.preflight import checks

            if problems := checks.check_config(config):
                raise SystemExit(report(problems))
            for note in checks.notes(config):
                logger.warning("%s", note)
        original(config, *args, **kwargs)

    verl_config.validate_config = validate_config  # type: ignore[attr-defined]


def report(problems: list[Problem]) -> str:
    """Put problems into one message, one line each."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    head = f"r1reward: {count} in this configuration; nothing was started."
    return "\n".join([head, *(f"- {problem}" for problem in problems)])
