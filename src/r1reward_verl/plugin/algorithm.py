"""StableReinforce in verl: the adapters of its estimator and its loss, and the filter's metrics in the step's log."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from r1reward_verl.estimator_options import SIGMA, check_options, is_number
from r1reward_verl.stable_reinforce import (
    LOG_RATIO_HIGH,
    LOG_RATIO_LOW,
    FilterStatistics,
    stable_reinforce_advantage,
    stable_reinforce_loss,
)

# exp() of more than this overflows float32, the type the ratio is computed in.
MAX_LOG_RATIO = 88.0


def advantage_options(algorithm: Any) -> dict[str, Any]:
    """Read verl's `algorithm` section: gamma and, if there, the section `stable_reinforce`.

    Args:
        algorithm: a DictConfig, a mapping, or verl's AlgoConfig, which cannot carry our section.

    Returns:
        Keyword arguments of `stable_reinforce_advantage`.

    Raises:
        ValueError: an unknown option, or one outside its range.
    """
    options: dict[str, Any] = {
        "sigma": SIGMA,
        "bounds": "paper",
        "renormalise": False,
        "filter": "drop",
        "deviation_floor": 0.0,
    }
    section = None if algorithm is None else algorithm.get("stable_reinforce", None)
    if section is not None:
        if not isinstance(section, Mapping):
            raise ValueError(f"algorithm.stable_reinforce={section!r}: must be a section with {', '.join(options)}")
        for name, value in section.items():
            if name not in options:
                raise ValueError(f"algorithm.stable_reinforce.{name}: no such option, there are {', '.join(options)}")
            options[name] = value
    options["gamma"] = 1.0 if algorithm is None else algorithm.get("gamma", 1.0)
    check_options(**options)
    return options


def log_ratio_bounds(policy_loss: Any) -> tuple[float, float]:
    """Read `log_ratio_low` and `log_ratio_high` of verl's `policy_loss` section; the paper's if absent.

    Raises:
        ValueError: a bound outside its range.
    """
    low, high = policy_loss.get("log_ratio_low", None), policy_loss.get("log_ratio_high", None)
    low, high = LOG_RATIO_LOW if low is None else low, LOG_RATIO_HIGH if high is None else high
    check_log_ratio_bounds(low, high)
    return low, high


def dual_clip(policy_loss: Any) -> float | None:
    """Read `clip_ratio_c` of verl's `policy_loss` section: None, the paper's, does without the dual clip.

    Raises:
        ValueError: a bound outside its range.
    """
    value: float | None = policy_loss.get("clip_ratio_c", None)
    if value is not None and not (is_number(value) and value > 1.0):
        raise ValueError(
            f"actor_rollout_ref.actor.policy_loss.clip_ratio_c={value!r}: must be null or a number above 1 (usual: 3)"
        )
    return value


def check_log_ratio_bounds(low: float, high: float) -> None:
    """Raise ValueError, naming the verl option, for Pre-CLIP bounds outside their range."""
    place = "actor_rollout_ref.actor.policy_loss."
    if not (is_number(low) and -math.inf < low < 0.0):
        raise ValueError(f"{place}log_ratio_low={low!r}: must be a finite number below 0 (paper: ln 1e-3)")
    if not (is_number(high) and 0.0 < high <= MAX_LOG_RATIO):
        raise ValueError(
            f"{place}log_ratio_high={high!r}: must be a number above 0 (paper: ln 1e3) and at most "
            f"{MAX_LOG_RATIO:g}, beyond which exp() overflows float32"
        )


def adv_estimator(
    token_level_rewards: Tensor, response_mask: Tensor, config: Any = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """Estimator for verl: `stable_reinforce_advantage` with the options of verl's `algorithm` section."""
    options = advantage_options(config)
    advantages, returns, statistics = stable_reinforce_advantage(token_level_rewards, response_mask, **options)
    if (collected := _collected.get()) is not None:
        collected.append(statistics)
    return advantages, returns


def policy_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Policy loss for verl: `stable_reinforce_loss`, aggregated by verl's `agg_loss`.

    `config` is verl's ActorConfig. The metrics are means over this micro batch's valid tokens, which verl averages
    over micro batches.
    """
    from verl.trainer.ppo.core_algos import agg_loss  # the plugin must not import it before verl does

    if config is None:
        raise ValueError("policy loss stable_reinforce: needs verl's actor config (clip_ratio, policy_loss), got None")
    low, high = log_ratio_bounds(config.policy_loss)
    losses, metrics = stable_reinforce_loss(
        log_prob,
        old_log_prob,
        advantages,
        response_mask,
        clip_ratio_low=config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low,
        clip_ratio_high=config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high,
        log_ratio_low=low,
        log_ratio_high=high,
        clip_ratio_c=dual_clip(config.policy_loss),
        rollout_is_weights=rollout_is_weights,
    )
    loss = agg_loss(loss_mat=losses, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info)
    values = torch.stack(list(metrics.values())).tolist()
    return loss, {f"actor/{name}": value for name, value in zip(metrics, values, strict=True)}


# The filter's metrics. An estimator can only return tensors, so whoever calls it in verl collects what it reports.

_collected: ContextVar[list[FilterStatistics] | None] = ContextVar("filter_statistics", default=None)
_META = "stable_reinforce_metrics"


@contextmanager
def collect_filter_statistics() -> Iterator[list[FilterStatistics]]:
    """Collect the statistics of every call of the estimator inside the context."""
    collected: list[FilterStatistics] = []
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


def filter_metrics(statistics: Sequence[FilterStatistics]) -> dict[str, float]:
    """Return the shares of tokens and samples filtered, and the largest |z|; nothing if the estimator did not run.

    `filtered_below` and `filtered_above` split the samples by the sign of their advantage: with the paper's reward and
    most answers right, wrong answers are below the mean, and right ones above.
    """
    if not statistics:
        return {}
    tokens, samples, filtered_tokens, filtered_samples, below, peaks = zip(*statistics, strict=True)
    count = max(sum(samples), 1.0)
    return {
        "stable_reinforce/filtered_tokens": sum(filtered_tokens) / max(sum(tokens), 1.0),
        "stable_reinforce/filtered_samples": sum(filtered_samples) / count,
        "stable_reinforce/filtered_below": sum(below) / count,
        "stable_reinforce/filtered_above": (sum(filtered_samples) - sum(below)) / count,
        "stable_reinforce/max_abs_z": max(peaks),
    }


def install_v0_metrics(ray_trainer: ModuleType) -> None:
    """Let the metrics of the V0 trainer travel with its batch, from `compute_advantage` to `compute_data_metrics`."""
    compute_advantage, compute_data_metrics = ray_trainer.compute_advantage, ray_trainer.compute_data_metrics

    @functools.wraps(compute_advantage)
    def with_statistics(*args: Any, **kwargs: Any) -> Any:
        if _collected.get() is not None:  # the V1 trainer, which collects by itself, calls the same function
            return compute_advantage(*args, **kwargs)
        with collect_filter_statistics() as statistics:
            data = compute_advantage(*args, **kwargs)
        if statistics:
            data.meta_info[_META] = filter_metrics(statistics)
        return data

    @functools.wraps(compute_data_metrics)
    def with_metrics(batch: Any, *args: Any, **kwargs: Any) -> Any:
        return {**compute_data_metrics(batch, *args, **kwargs), **batch.meta_info.get(_META, {})}

    ray_trainer.compute_advantage = with_statistics  # type: ignore[attr-defined]
    ray_trainer.compute_data_metrics = with_metrics  # type: ignore[attr-defined]
