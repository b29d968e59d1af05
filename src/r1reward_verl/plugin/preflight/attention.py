"""Attention: what flash-attn is needed for, and what a config without it must say."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.config import Problem, config_value
from r1reward_verl.plugin.preflight.hardware import ray_cluster

FLASH = "flash_attention_2"
INSTALL_FLASH = "install flash-attn: docs/how-to/train.md says from where"


def has_flash_attention() -> bool:
    """Tell whether flash-attn is installed here."""
    return importlib.util.find_spec("flash_attn") is not None


def flash_attention_is_missing() -> bool:
    """Tell whether this machine trains on GPUs and lacks flash-attn."""
    if has_flash_attention():
        return False
    import torch  # two seconds

    return torch.cuda.device_count() > 0


def check_attention(config: DictConfig) -> Iterator[Problem]:
    """Settings that need flash-attn where it is not installed; on a Ray cluster nobody knows that here."""
    model = "actor_rollout_ref.model"
    if (
        config_value(config, "trainer.device") != "cuda"
        or ray_cluster(config) is not None
        or not str(config_value(config, "actor_rollout_ref.actor.strategy")).startswith("fsdp")
        or not flash_attention_is_missing()
    ):
        return
    implementation = config_value(config, f"{model}.override_config.attn_implementation")
    needing = []
    if implementation in (None, FLASH):
        needing.append(f"{model}.override_config.attn_implementation={implementation or f'{FLASH} (the default)'}")
    if config_value(config, f"{model}.use_remove_padding"):
        needing.append(f"{model}.use_remove_padding=true")
    if needing:
        yield Problem(
            "flash-attn",
            f"not installed, and {' and '.join(needing)} cannot do without",
            f"Put +attention=sdpa behind +recipe= (slower), or {INSTALL_FLASH}",
        )
