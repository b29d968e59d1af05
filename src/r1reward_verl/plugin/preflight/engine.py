"""The training engine, and trainings whose rollout has GPUs of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.config import Problem, config_value, is_positive
from r1reward_verl.plugin.preflight.model import model_config

_ACTOR = "actor_rollout_ref.actor"
_ROLLOUT = "actor_rollout_ref.rollout"
FSDP = ("fsdp", "fsdp2")


def is_fully_async(config: DictConfig) -> bool:
    """Tell whether a config is one of verl's `experimental.fully_async_policy`."""
    return config_value(config, "async_training") is not None


def check_engine(config: DictConfig) -> Iterator[Problem]:
    """The engine's settings against its strategy, and the model's attention heads against sequence parallelism."""
    engine, strategy = config_value(config, "model_engine") or "dp", config_value(config, f"{_ACTOR}.strategy")
    if strategy not in (FSDP if engine == "dp" else (engine,)):
        yield Problem(
            f"{_ACTOR}.strategy",
            f"{strategy!r} beside model_engine={engine}, and the settings of one engine do not fit the other",
            "Leave model_engine out: the recipes' settings are those of FSDP"
            if strategy in FSDP
            else f"Set it to {' or '.join(FSDP) if engine == 'dp' else engine}",
        )
    yield from check_heads(config, f"{_ACTOR}.ulysses_sequence_parallel_size", "actor_rollout_ref.model.path")


def check_heads(config: DictConfig, key: str, model: str) -> Iterator[Problem]:
    """Ulysses divides the attention heads of the model's text part among the GPUs that share a sequence."""
    size = config_value(config, key)
    heads = _heads(config_value(config, model))
    if not is_positive(size) or heads is None:
        return
    queries, keys = heads
    if queries % size or (keys % size and size % keys):
        fitting = [n for n in range(1, queries + 1) if not (queries % n or (keys % n and n % keys))]
        yield Problem(
            key,
            f"{size} does not divide the model's {queries} attention heads ({keys} of keys and values)",
            f"Use one of {', '.join(map(str, fitting))}",
        )


def _heads(path: Any) -> tuple[int, int] | None:
    """Return the heads of queries and of keys of a model, None where its config.json is not here."""
    config = model_config(path)
    text = config if "num_attention_heads" in config else config.get("text_config") or {}
    queries: int = text.get("num_attention_heads", 0)
    return (queries, text.get("num_key_value_heads") or queries) if queries else None


def check_own_rollout(config: DictConfig) -> Iterator[Problem]:
    """What verl asserts, minutes later, of trainings whose rollout has GPUs of its own."""
    fully_async = is_fully_async(config)
    if not fully_async and config_value(config, "trainer.v1.trainer_mode") != "separate_async":
        return
    mode = "fully asynchronous training" if fully_async else "trainer.v1.trainer_mode=separate_async"
    train, mini = config_value(config, "data.train_batch_size"), config_value(config, f"{_ACTOR}.ppo_mini_batch_size")
    if fully_async:
        wanted = {"data.train_batch_size": 0, "data.gen_batch_size": 1, "actor_rollout_ref.hybrid_engine": False}
        for key, value in wanted.items():
            if (found := config_value(config, key)) != value:
                yield Problem(key, f"{found!r}, and {mode} takes nothing but {value}", f"Set it to {value}")
    else:
        key = "trainer.v1.separate_async.parameter_sync_step"
        syncs = config_value(config, key)
        if is_positive(train) and is_positive(mini) and (not is_positive(syncs) or train != syncs * mini):
            way_out = f"Set {key}={train // mini}" if train % mini == 0 else "Change the sizes"
            yield Problem(
                "data.train_batch_size",
                f"{train} is not {key}={syncs} times {_ACTOR}.ppo_mini_batch_size={mini}, as {mode} needs it",
                f"{way_out}, or use data.train_batch_size={mini * syncs if is_positive(syncs) else mini}",
            )
        backend = config_value(config, f"{_ROLLOUT}.checkpoint_engine.backend")
        if backend == "naive":
            reason = f"'naive' brings no weights to the GPUs that {mode} has for the rollout alone"
            yield Problem(f"{_ROLLOUT}.checkpoint_engine.backend", reason, "Set it to nccl")
    for key in rollout_sizes(config):
        if not is_positive(value := config_value(config, key)):
            yield Problem(key, f"{value!r}, and {mode} has GPUs for the rollout alone", "Give a positive whole number")
    served = config_value(config, "reward.reward_model.enable")
    if served and not config_value(config, "reward.reward_model.enable_resource_pool"):
        yield Problem(
            "reward.reward_model.enable_resource_pool",
            f"False: the model shares the training GPUs, which {mode} does not free for it",
            "Choose judge=pool or +reward_model=pool, whose GPUs are its own, or judge=rules",
        )


def rollout_sizes(config: DictConfig) -> tuple[str, str]:
    """Return the settings of the nodes, and of the GPUs on each, that the rollout has for itself."""
    section = "rollout" if is_fully_async(config) else _ROLLOUT
    return f"{section}.nnodes", f"{section}.n_gpus_per_node"
