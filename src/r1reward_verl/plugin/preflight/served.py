"""A model that rewards are asked of, served by verl or elsewhere: what judge and pairwise reward check alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.config import Problem, config_value
from r1reward_verl.plugin.preflight.model import check_checkpoint
from r1reward_verl.rewards.judges import SERVED_BY_VERL

_MODEL = "reward.reward_model"
_FUNCTION = "reward.custom_reward_function.path"


def check_served(
    config: DictConfig, name: str, *, what: str, way_out: str, manager: str, function: str
) -> Iterator[Problem]:
    """Check that verl is told to serve the model where, and only where, `name` says that it does.

    Args:
        config: the composed config.
        name: "pool" or "colocated" where verl serves it, any other name where it does not.
        what: the model, in a message.
        way_out: how both of verl's switches are set.
        manager: reward manager that asks the model.
        function: reward function without which verl scores with the model past the manager.
    """
    if name in SERVED_BY_VERL:
        if not fits(config, name):
            served, own_gpus = _switches(config)
            reason = f"{served}, with enable_resource_pool={own_gpus}, does not fit {what}"
            yield Problem(f"{_MODEL}.enable", reason, way_out)
            return
        yield from check_checkpoint(config, f"{_MODEL}.model_path")
    if _switches(config)[0] and not config_value(config, _FUNCTION):
        reason = f"not set, and verl then takes its reward model for one that gives the score itself, past {manager}"
        yield Problem(_FUNCTION, reason, f"Set it to {function}")


def fits(config: DictConfig, name: str) -> bool:
    """Tell whether verl serves its reward model where `name`, "pool" or "colocated", says."""
    return _switches(config) == (True, name == "pool")


def _switches(config: DictConfig) -> tuple[bool, bool]:
    """Return whether verl serves a reward model, and whether on GPUs of its own."""
    served, own_gpus = (config_value(config, f"{_MODEL}.{key}") for key in ("enable", "enable_resource_pool"))
    return bool(served), bool(own_gpus)


def unknown_models(key: str, served: Mapping[str, Sequence[str]], wanted: str | None) -> Iterator[Problem]:
    """Check that every server has the model that `key` names, or any where it is None."""
    for url, names in served.items():
        if not names or wanted not in (None, *names):
            what = f"{url} does not serve {wanted!r}" if wanted else f"{url} serves no model"
            yield Problem(key, f"{what}; it has {', '.join(names) or 'none'}", "Name one that it has")
