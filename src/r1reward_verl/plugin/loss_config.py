"""The section `actor_rollout_ref.actor.policy_loss` with the Pre-CLIP bounds in it.

verl builds its dataclasses strictly: a key its own PolicyLossConfig does not have ends the run. A recipe
therefore names this class: `policy_loss._target_: r1reward_verl.plugin.loss_config.StableReinforceLossConfig`.
"""

import os
from dataclasses import dataclass

from verl.workers.config import PolicyLossConfig

from r1reward_verl.plugin.algorithm import check_log_ratio_bounds, dual_clip
from r1reward_verl.stable_reinforce import LOG_RATIO_HIGH, LOG_RATIO_LOW


@dataclass
class StableReinforceLossConfig(PolicyLossConfig):
    """PolicyLossConfig of verl with `loss_mode` stable_reinforce and the Pre-CLIP bounds.

    Args:
        loss_mode: name of the policy loss.
        log_ratio_low: lower bound of the log-ratio, below 0; the paper's is ln 1e-3.
        log_ratio_high: upper bound of the log-ratio, above 0; the paper's is ln 1e3.
        clip_ratio_c: bound of the ratio where the advantage is negative (dual clip), above 1; None, the paper's, has
            none. It is not the option of the same name in `actor_rollout_ref.actor`, which verl's `vanilla` reads and
            which is always set.

    Raises:
        ValueError: a bound outside its range.
        RuntimeError: verl was told not to load this package's plugin, so that it knows none of our names.
    """

    loss_mode: str = "stable_reinforce"
    log_ratio_low: float = LOG_RATIO_LOW
    log_ratio_high: float = LOG_RATIO_HIGH
    clip_ratio_c: float | None = None

    def __post_init__(self) -> None:
        # verl builds this class on the driver, before Ray starts.
        if not _verl_loads_the_plugin():
            raise RuntimeError(
                "verl has not loaded the plugin r1reward_verl: the environment variable VERL_USE_EXTERNAL_PLUGINS is "
                f"{os.environ.get('VERL_USE_EXTERNAL_PLUGINS')!r}. Unset it, or add r1reward_verl to its list. "
                "`r1reward doctor` says what else may be wrong."
            )
        check_log_ratio_bounds(self.log_ratio_low, self.log_ratio_high)
        dual_clip(self)


def _verl_loads_the_plugin() -> bool:
    """Tell whether verl, by its environment variables, loads the plugin in every process, workers included."""
    plugins = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
    modules = os.environ.get("VERL_USE_EXTERNAL_MODULES", "")
    return plugins == "auto" or "r1reward_verl" in map(str.strip, plugins.split(",")) or "r1reward_verl" in modules
