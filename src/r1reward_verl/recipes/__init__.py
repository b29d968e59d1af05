"""Hydra's configuration groups of this project, which `+recipe=` and its like find, and a look into them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

JUDGE = "Qwen/Qwen2.5-VL-7B-Instruct"
JUDGE_BYTES = 16_600_000_000
"""Weights of the paper's judge: 8.3e9 parameters in bf16."""
JUDGE_SHARE = 0.4
"""Share of a training GPU's memory that judge=colocated gives it."""


def data_section(recipe: str) -> Mapping[str, Any]:
    """Return the section `data` of one of the project's recipes, such as "r1_reward"."""
    from omegaconf import OmegaConf  # only who asks pays for it

    content = OmegaConf.create((files(__name__) / "recipe" / f"{recipe}.yaml").read_text("utf-8"))
    section = OmegaConf.to_container(content.data, resolve=False)
    assert isinstance(section, dict)
    return section
