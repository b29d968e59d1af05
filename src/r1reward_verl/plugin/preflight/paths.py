"""Paths that mean the same in every process of a run.

A Ray worker starts in the folder in which its node was started, so that a relative path means another folder there:
what is read is missing, and what is written is lost without a word.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from r1reward_verl.plugin.preflight.config import config_value, container, data_files

_READ = (
    "data.train_files",
    "data.val_files",
    "data.prompt_template",
    "data.custom_cls.path",
    "actor_rollout_ref.model.path",
    "actor_rollout_ref.model.hf_config_path",
    "actor_rollout_ref.model.tokenizer_path",
    "actor_rollout_ref.model.lora_adapter_path",
    "actor_rollout_ref.rollout.agent.agent_loop_config_path",
    "actor_rollout_ref.rollout.multi_turn.tool_config_path",
    "reward.reward_model.model_path",
    "reward.custom_reward_function.path",
    "trainer.resume_from_path",
    "trainer.v1.sampler.custom_sampler.path",
)
_WRITTEN = (
    "trainer.default_local_dir",
    "trainer.rollout_data_dir",
    "trainer.validation_data_dir",
    "global_profiler.save_path",
)


def make_absolute(config: DictConfig) -> None:
    """Make the relative paths of a config absolute: those that exist here, and those that are written."""
    for key in (*_READ, *_WRITTEN):
        paths = data_files(config, key)
        absolute = [_absolute(path) if key in _WRITTEN or os.path.exists(path) else path for path in paths]
        if absolute != paths:
            _set(config, key, absolute if OmegaConf.is_list(config_value(config, key)) else absolute[0])


def paths_read(config: DictConfig) -> list[str]:
    """Return the absolute paths here that every node reads."""
    paths = (path for key in _READ for path in data_files(config, key))
    return sorted({path for path in paths if os.path.isabs(path) and os.path.exists(path)})


def send_log_folders(config: DictConfig) -> None:
    """Let the loggers on a cluster write where they would write here; this environment does not reach its workers."""
    section = "ray_kwargs.ray_init.runtime_env.env_vars"
    # What a submitted job has in its own runtime environment reaches the workers, and must not be set twice.
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    there = {**(job.get("env_vars") or {}), **(container(config, section) or {})}
    for name, folder in _log_folders(config):
        if name not in there:
            _set(config, f"{section}.{name}", _absolute(folder))


def _log_folders(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the variables by which verl's loggers find their folders, and what stands in them or is meant without."""
    loggers = data_files(config, "trainer.logger")
    project, name = config_value(config, "trainer.project_name"), config_value(config, "trainer.experiment_name")
    if "tensorboard" in loggers:
        yield "TENSORBOARD_DIR", os.environ.get("TENSORBOARD_DIR", f"tensorboard_log/{project}/{name}")
    if "file" in loggers:
        variable = "VERL_FILE_LOGGER_PATH" if "VERL_FILE_LOGGER_PATH" in os.environ else "VERL_FILE_LOGGER_ROOT"
        yield variable, os.environ.get(variable, ".")
    if "wandb" in loggers:
        yield "WANDB_DIR", os.environ.get("WANDB_DIR", ".")
    if "swanlab" in loggers:
        yield "SWANLAB_LOG_DIR", os.environ.get("SWANLAB_LOG_DIR", "swanlog")


def _absolute(path: str) -> str:
    return path if "://" in path or path.startswith("~") else os.path.abspath(path)


def _set(config: DictConfig, key: str, value: Any) -> None:
    with open_dict(config):
        OmegaConf.update(config, key, value, force_add=True)
