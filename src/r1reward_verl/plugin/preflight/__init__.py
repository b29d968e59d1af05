"""Preflight: what would make a run fail later, deep inside Ray, said before Ray starts.

verl's `main_ppo` calls `verl.utils.config.validate_config` on the driver before anything else; `install_preflight` puts
these checks in front of it, for configs that use one of this package's names and for no others. The SFT trainer and the
fully asynchronous trainer validate nothing: `install_early_preflight` puts the checks in front of the first function
that gets their config. `r1reward doctor` runs the same checks. The rules are those that verl 0.9.1 asserts in its
workers (`workers/engine_workers.py`, `workers/engine/utils.py`, `workers/rollout/replica.py`,
`trainer/ppo/v1/trainer_base.py`).

verl imports this module in every process, the checks are imported where one is about to run.
"""

from __future__ import annotations

import functools
import logging
import os
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.config import (
    OWN_SFT_DATASET,
    Doubt,
    Problem,
    config_value,
    dataset_class,
    is_cpu_hardware,
)

logger = logging.getLogger(__name__)


def uses_our_names(config: DictConfig) -> bool:
    """Tell whether a config asks for anything that this package registers or brings."""
    return (
        config_value(config, "algorithm.adv_estimator") == "stable_reinforce"
        or config_value(config, "actor_rollout_ref.actor.policy_loss.loss_mode") == "stable_reinforce"
        or config_value(config, "reward.reward_manager.name") in ("r1_reward", "pairwise")
        or is_cpu_hardware(config)
    )


def uses_our_sft(config: DictConfig) -> bool:
    """Tell whether a config of the SFT trainer asks for anything that this package brings."""
    return dataset_class(config) == OWN_SFT_DATASET or config_value(config, "trainer.device") == "cpu"


def install_preflight(verl_config: ModuleType) -> None:
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
            _check(config)
        original(config, *args, **kwargs)

    verl_config.validate_config = validate_config  # type: ignore[attr-defined]


def install_early_preflight(device: ModuleType) -> None:
    """Put the checks in front of `auto_set_device` of the module `verl.utils.device`, as `install_preflight` does.

    It is the first function that the SFT trainers and the fully asynchronous trainer give their config.
    """
    original = device.auto_set_device
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def auto_set_device(config: DictConfig) -> None:
        if "async_training" in config and uses_our_names(config):
            _check(config)
        elif "engine" in config and "actor_rollout_ref" not in config and uses_our_sft(config):
            _check_sft(config)
        original(config)

    device.auto_set_device = auto_set_device  # type: ignore[attr-defined]


def _check(config: DictConfig) -> None:
    # On the driver only: they bring the judge's client and the data readers.
    from r1reward_verl.plugin.preflight import checks, hardware, nodes, paths

    _end_or_warn(checks.check_config(config), checks.notes(config))
    paths.make_absolute(config)
    _end_or_warn(list(nodes.check_nodes(config)), [])
    if hardware.ray_cluster(config) is not None:
        paths.send_log_folders(config)


def _check_sft(config: DictConfig) -> None:
    # Only where this trainer starts: as above.
    from r1reward_verl.plugin.preflight import sft, versions

    # Of torchrun's processes the first on each node checks: what is missing may be missing there alone.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        _end_or_warn(sft.check_sft(config), list(filter(None, [versions.version_note()])))


def _end_or_warn(found: list[Problem], notes: list[str]) -> None:
    if problems := [problem for problem in found if not isinstance(problem, Doubt)]:
        raise SystemExit(problems_text(problems))
    for note in [*notes, *found]:
        logger.warning("%s", note)


def problems_text(problems: list[Problem]) -> str:
    """Put problems into one message, one line each."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    head = f"r1reward: {count} in this configuration; nothing was started."
    return "\n".join([head, *(f"- {problem}" for problem in problems)])
