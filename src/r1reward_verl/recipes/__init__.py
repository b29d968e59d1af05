"""Hydra's configuration groups of this project, which `+recipe=` and its like find, and a look into them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any


def data_section(recipe: str) -> Mapping[str, Any]:
    """Return the section `data` of one of the project's recipes, such as "r1_reward"."""
    from omegaconf import OmegaConf  # only who asks pays for it

    content = OmegaConf.create((files(__name__) / "recipe" / f"{recipe}.yaml").read_text("utf-8"))
    section = OmegaConf.to_container(content.data, resolve=False)
    assert isinstance(section, dict)
    return section
