"""Hydra door: adds the package's recipes to every Hydra search path, so that `+recipe=r1_reward` resolves."""

import os
import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from r1reward_verl.recipes import JUDGE_BYTES, JUDGE_SHARE

_WITHOUT_ROOM = ("cpu",)
"""Hardware (names of the group) that has no room for the paper's judge, a model of 7B beside the one in training."""


class R1RewardSearchPath(SearchPathPlugin):
    """Appends `pkg://r1reward_verl.recipes`; appended, so a user's own groups of the same name win."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the recipes behind whatever the application itself searches."""
        search_path.append(provider="r1reward-verl", path="pkg://r1reward_verl.recipes")


def _default_judge(hardware: str) -> str:
    """Return the judge of a recipe for which no `judge=` was given, and say so where it is not the paper's."""
    small = f"hardware={hardware}" if hardware in _WITHOUT_ROOM else _small_gpu()
    if not small:
        return "colocated"
    print(
        f"judge: rules, since {small} has no room for the paper's judge model "
        "(judge=pool, colocated or endpoint chooses a model, judge=rules ends this line)",
        file=sys.stderr,  # before Hydra sets up logging
    )
    return "rules"


def _small_gpu() -> str:
    """Name the smallest GPU here if the judge does not fit into its share; empty if it does or nobody knows."""
    if os.environ.get("RAY_ADDRESS"):
        return ""  # the run is on other machines
    import torch  # only a recipe without a judge pays for it; verl imports it anyway

    gpus = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    return f"a GPU of {min(gpus) / 1e9:.0f} GB" if gpus and JUDGE_SHARE * min(gpus) < JUDGE_BYTES else ""


OmegaConf.register_new_resolver("r1reward_default_judge", _default_judge, replace=True)
