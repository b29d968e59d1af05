"""Names in verl's registries and our own settings."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from r1reward_verl.judgement import load_template
from r1reward_verl.plugin.algorithm import advantage_options, log_ratio_bounds
from r1reward_verl.plugin.loss_config import StableReinforceLossConfig
from r1reward_verl.plugin.preflight.config import (
    OWN_DATASET,
    OWN_LOSS_CONFIG,
    Problem,
    agreement_wanted,
    config_value,
    container,
    dataset_class,
)
from r1reward_verl.rewards.settings import RewardSettings


def check_settings(config: DictConfig) -> Iterator[Problem]:
    """Names in verl's registries, and our own settings: unknown ones and values out of range."""
    yield from _check_names(config)
    yield from _check_keys(config)
    yield from _check_fields(config)
    loss = container(config, "actor_rollout_ref.actor.policy_loss") or {}
    readers: tuple[tuple[str, Callable[[], object]], ...] = (
        ("algorithm.stable_reinforce", lambda: advantage_options(container(config, "algorithm"))),
        ("actor_rollout_ref.actor.policy_loss", lambda: log_ratio_bounds(loss)),
        ("reward.r1_reward", lambda: RewardSettings.from_config(container(config, "reward.r1_reward"))),
    )
    for where, read in readers:
        try:
            read()
        except (TypeError, ValueError) as error:
            yield Problem(where, str(error), "Correct it, or leave it out for the paper's value")

    if loss.get("_target_") == OWN_LOSS_CONFIG:
        known = {field.name for field in fields(StableReinforceLossConfig)} | {"_target_"}
        for name in sorted(set(loss) - known):
            yield Problem(
                f"actor_rollout_ref.actor.policy_loss.{name}",
                "unknown setting",
                f"Known: {', '.join(sorted(known))}",
            )
    elif bounds := {"log_ratio_low", "log_ratio_high"} & set(loss):
        yield Problem(
            "actor_rollout_ref.actor.policy_loss._target_",
            f"{loss.get('_target_')!r} has no {' and no '.join(sorted(bounds))}",
            f"Set it to {OWN_LOSS_CONFIG}",
        )

    if agreement_wanted(config) and config_value(config, "data.shuffle") is not False:
        yield Problem(
            "data.shuffle",
            "shuffling takes apart the orders of a preference, which reward.r1_reward.agreement_weight compares",
            "Set data.shuffle=false; `r1reward data select` has shuffled the preferences",
        )

    template = config_value(config, "data.prompt_template")
    if template is not None:
        try:
            load_template(template)
        except (OSError, ValueError) as error:
            yield Problem("data.prompt_template", f"{template!r}: {error}", "Give a readable template, or null")


def _check_names(config: DictConfig) -> Iterator[Problem]:
    from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    registries = {
        "algorithm.adv_estimator": ADV_ESTIMATOR_REGISTRY,
        "actor_rollout_ref.actor.policy_loss.loss_mode": POLICY_LOSS_REGISTRY,
    }
    if config_value(config, "reward.reward_manager.source") == "register":
        registries["reward.reward_manager.name"] = REWARD_MANAGER
    for key, registry in registries.items():
        name = config_value(config, key)
        if name not in registry:
            known = ", ".join(sorted(str(getattr(known, "value", known)) for known in registry))
            yield Problem(key, f"{name!r} is not registered in verl", f"Known: {known}")


# What verl reads with `.get` beside what its YAML has.
_UNLISTED = {
    "algorithm": {"stable_reinforce"},
    "data": {
        "prompt_template",
        "allow_remote_media",
        "cache_dir",
        "chat_template_func",
        "filter_prompts",
        "need_tools_kwargs",
    },
    "reward": {"r1_reward", "pairwise", "reward_kwargs", "timeout"},
}


def _check_keys(config: DictConfig) -> Iterator[Problem]:
    """Keys that nobody reads: Hydra adds them after a `+` without a word, and they would do nothing."""
    foreign = {
        "data": dataset_class(config) not in (OWN_DATASET, None),
        "reward": config_value(config, "reward.reward_manager.source") != "register",
    }
    for section, unlisted in _UNLISTED.items():
        if foreign.get(section):
            continue  # a class of the user's own may read keys of its own
        known = _verl_keys()[section] | unlisted
        for key in config_value(config, section) or {}:
            if str(key) not in known:
                yield Problem(f"{section}.{key}", "unknown setting", _meant(str(key), known))


@functools.cache
def _verl_keys() -> dict[str, set[str]]:
    """Return the keys of the sections in `_UNLISTED` in verl's own config and its dataclasses."""
    from verl.trainer.config import AlgoConfig

    spec = importlib.util.find_spec("verl")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    own = OmegaConf.load(Path(spec.submodule_search_locations[0], "trainer/config/_generated_ppo_trainer.yaml"))
    keys = {section: {str(key) for key in own[section]} for section in _UNLISTED}
    keys["algorithm"] |= {field.name for field in fields(AlgoConfig)}
    return keys


def _check_fields(config: DictConfig) -> Iterator[Problem]:
    """Sections that verl turns into dataclasses in its workers only, where a wrong key fails late."""
    from hydra.utils import get_class
    from verl.utils.config import omega_conf_to_dataclass

    sections = ["actor_rollout_ref.model", "actor_rollout_ref.rollout"]
    if config_value(config, "reward.reward_model.enable"):
        sections.append("reward.reward_model.rollout")
    for name in sections:
        section = config_value(config, name)
        target = section.get("_target_") if section else None
        if target is None:
            continue
        known = {field.name for field in fields(get_class(target))} | {"_target_"}
        unknown = [str(key) for key in section if key not in known]
        for key in unknown:
            yield Problem(f"{name}.{key}", "unknown setting", _meant(key, known))
        if unknown or name == "actor_rollout_ref.model":
            continue  # a model's section would load its tokenizer
        try:
            omega_conf_to_dataclass(section)
        except Exception as error:  # Hydra wraps whatever a dataclass raises
            yield Problem(name, f"verl cannot read it: {error.__cause__ or error}", "Correct the setting")


def _meant(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"Write {close[0]}, if that is meant" if close else f"Known: {', '.join(sorted(known - {'_target_'}))}"
