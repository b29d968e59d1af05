"""Hydra door: adds the package's recipes to every Hydra search path, so that `+recipe=r1_reward` resolves."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class R1RewardSearchPath(SearchPathPlugin):
    """Appends `pkg://r1reward_verl.recipes`; appended, so a user's own groups of the same name win."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the recipes behind whatever the application itself searches."""
        search_path.append(provider="r1reward-verl", path="pkg://r1reward_verl.recipes")
