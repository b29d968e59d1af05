"""The model to train."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.config import Problem, about_tilde, select


def check_model(config: DictConfig) -> Iterator[Problem]:
    """The model: a local directory with a config.json, or a Hugging Face name (which is left to verl)."""
    yield from check_checkpoint(config, "actor_rollout_ref.model.path")


def check_checkpoint(config: DictConfig, key: str) -> Iterator[Problem]:
    """The checkpoint that a key names: a folder here, or a name on the Hugging Face Hub."""
    checkpoint = "the directory of a Hugging Face checkpoint"
    path = select(config, key)
    if path is None:
        yield Problem(key, "not set", f"Give {checkpoint}, or a Hugging Face model name")
        return
    if "://" in str(path):
        return
    local = Path(str(path))
    if local.is_dir():
        if not (local / "config.json").is_file():
            yield Problem(
                key,
                f"{path!r} has no config.json",
                "Give the directory that holds one (in a verl checkpoint: global_step_N/actor/huggingface)",
            )
        return
    if not is_hub_name(path):
        yield Problem(key, f"{path!r} does not exist{about_tilde(path)}", f"Give {checkpoint}")
        return
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(str(path), "config.json"), str):
        yield Problem(
            key,
            f"{path!r} is no directory here, and as a Hugging Face name it is not in the cache "
            f"{constants.HF_HUB_CACHE} (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set)",
            f"Give {checkpoint}, or download the model first",
        )


def is_hub_name(path: Any) -> bool:
    """Tell whether verl would look for a model on the Hugging Face Hub.

    "Qwen/Qwen2.5-VL-7B-Instruct" could be a relative path: it is one where its first part exists.
    """
    name = re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)) is not None
    return name and not Path(str(path)).parent.exists()
