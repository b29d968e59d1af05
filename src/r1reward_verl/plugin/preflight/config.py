"""Reading a composed verl config, and what a check finds in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

OWN_LOSS_CONFIG = "r1reward_verl.plugin.loss_config.StableReinforceLossConfig"
OWN_DATASET = ("pkg://r1reward_verl.plugin.datasets", "PreferenceDataset")
OWN_SFT_DATASET = ("pkg://r1reward_verl.plugin.datasets", "JudgementDataset")


@dataclass(frozen=True)
class Problem:
    """Something that would make the run fail.

    Attributes:
        where: the setting or the place in a file it came from.
        value: the offending value and what is wrong with it.
        way_out: what to do about it.
    """

    where: str
    value: str
    way_out: str

    def __str__(self) -> str:
        # Our own parsers name the setting themselves.
        named = self.value.removeprefix("unknown setting ").startswith(self.where)
        return f"{'' if named else f'{self.where}: '}{self.value}. {self.way_out}."


class Doubt(Problem):
    """Something that would make the run fail with the tested verl, and may be fine with the one that is installed."""


def config_value(config: DictConfig, key: str) -> Any:
    """Return a value of the config; None where it is absent, `???` or refers to something that is."""
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return None


def container(config: DictConfig, key: str) -> Any:
    """Return a section of the config as plain Python, None where absent."""
    section = config_value(config, key)
    return OmegaConf.to_container(section, resolve=True) if OmegaConf.is_config(section) else section


def data_files(config: DictConfig, key: str) -> list[str]:
    """Return the data files that a setting names, which may be one or several."""
    files = config_value(config, key)
    if isinstance(files, list | ListConfig):
        return [str(path) for path in files if path is not None]
    return [] if files is None else [str(files)]


def is_positive(value: Any) -> bool:
    """Tell whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def agreement_wanted(config: DictConfig) -> bool:
    """Tell whether judgements are to be rewarded for agreeing with those of the other order."""
    weight = config_value(config, "reward.r1_reward.agreement_weight")
    judged = config_value(config, "reward.reward_manager.name") == "r1_reward"
    return judged and isinstance(weight, int | float) and weight > 0


def about_tilde(path: Any) -> str:
    """Return a hint where a path begins with ~."""
    return " (verl does not expand ~)" if str(path).startswith("~") else ""


def is_cpu_hardware(config: DictConfig) -> bool:
    """Tell whether `+hardware=cpu` was chosen: its mark stays where verl has replaced trainer.device."""
    return config_value(config, "ray_kwargs.ray_init.runtime_env.env_vars.VERL_PLATFORM") == "cpu"


def dataset_class(config: DictConfig) -> tuple[Any, Any] | None:
    """Return path and name of the dataset's class, None for verl's own."""
    path = config_value(config, "data.custom_cls.path")
    return None if path is None else (path, config_value(config, "data.custom_cls.name"))
