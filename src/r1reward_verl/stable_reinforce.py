"""StableReinforce: the advantage estimator and the policy loss of R1-Reward, as pure tensor functions.

Source: arXiv 2505.02835 (Pre-CLIP, advantage filter) and, where an option says "reference", its published code.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from r1reward_verl.estimator_options import SIGMA, Bounds, Filter, check_options

CLIP_RATIO = 0.2
LOG_RATIO_LOW = math.log(1e-3)
LOG_RATIO_HIGH = math.log(1e3)

REFERENCE_LIMIT = 10.0  # the reference code zeroes every standardised advantage beyond it, whatever its interval
VARIANCE_EPSILON = 1e-8  # as verl's masked_whiten adds to the variance


class FilterStatistics(NamedTuple):
    """What the advantage filter did to one batch, as counts, so that batches can be added up."""

    tokens: float
    samples: float
    filtered_tokens: float
    filtered_samples: float
    filtered_below: float
    max_abs_z: float


def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Discounted return-to-go over the valid tokens (mask not zero) of each row, shapes (batch, tokens).

    Masked tokens are skipped: their rewards are dropped and no discount is applied across them, as in verl's
    `reinforce_plus_plus`. The result is zero there, float64 for float64 rewards and float32 for all others.
    """
    dtype, valid = _result_dtype(rewards), mask.bool()
    if gamma == 1.0:
        blocks = _row_blocks(rewards, valid)
        sums = ((torch.where(kept, block.to(dtype), 0.0).flip(-1).cumsum_(-1).flip(-1), kept) for block, kept in blocks)
        return torch.cat([sum_.mul_(_numbers(kept, dtype)) for sum_, kept in sums])
    rewards = torch.where(valid, rewards.to(dtype), 0.0)
    returns, running = torch.zeros_like(rewards), rewards.new_zeros(len(rewards), dtype=torch.float64)
    for t in reversed(range(rewards.shape[1])):
        running = torch.where(valid[:, t], rewards[:, t] + gamma * running, running)
        returns[:, t] = torch.where(valid[:, t], running, 0.0)
    return returns


def moments(values: Tensor, mask: Tensor) -> tuple[float, float, float]:
    """Return one of the valid values, the mean relative to it, and the unbiased standard deviation.

    So equal values deviate by exactly zero, and a small difference beside a large value is not lost in rounding.
    `values`, shape (batch, tokens), are zero where `mask` is.
    """
    low, high = torch.stack(torch.aminmax(values)).tolist() if values.numel() else (0.0, 0.0)
    pivot = low if high + low < 0.0 else high  # the value of the largest magnitude
    count = total = squares = 0.0
    for block, valid in _row_blocks(values, mask.bool()):
        counted = _numbers(valid, values.dtype)
        centred = (block - pivot).mul_(counted)
        count += counted.sum(dtype=torch.float64).item()
        total += centred.sum(dtype=torch.float64).item()
        squares += centred.square_().sum(dtype=torch.float64).item()
    mean = total / max(count, 1.0)
    variance = max(squares - total * mean, 0.0) / max(count - 1.0, 1.0)
    return pivot, mean, math.sqrt(variance + VARIANCE_EPSILON)


def standardise(values: Tensor, mask: Tensor, pivot: float, mean: float, std: float) -> Tensor:
    """Standardise by the `moments` of the batch, shape (batch, tokens); zero at masked tokens."""
    return (values - pivot).sub_(mean).mul_(1.0 / std).mul_(_numbers(mask.bool(), values.dtype))


def filter_advantages(
    advantages: Tensor,
    mask: Tensor,
    sigma: float = SIGMA,
    *,
    bounds: Bounds = "paper",
    raw_mean: float = 0.0,
    filter: Filter = "drop",
) -> Tensor:
    """Treat outlying standardised advantages: the advantage filter.

    Args:
        advantages: standardised advantages z, shape (batch, tokens).
        mask: non-zero where a token is valid, same shape.
        sigma: largest |z| that is kept, above 0; infinity keeps all.
        bounds: "paper" keeps |z| <= sigma. "reference" keeps what the reference code keeps: z within sigma of
            `raw_mean`, and of those only |z| <= 10.
        raw_mean: mean of the advantages before they were standardised; used with "reference" only.
        filter: what becomes of outliers: "drop" (paper) sets them to zero, "clip" to the nearer bound, "none" keeps.

    Returns:
        Shape and dtype of `advantages`, zero at masked tokens. NaN at a valid token becomes zero with "reference" and
        "drop", and stays NaN otherwise. Options outside their range raise ValueError.
    """
    check_options(sigma, bounds, filter=filter)
    low, high = -sigma, sigma
    if bounds == "reference":
        low, high = max(raw_mean - sigma, -REFERENCE_LIMIT), min(raw_mean + sigma, REFERENCE_LIMIT)
    kept = (advantages >= low) & (advantages <= high)
    if bounds == "paper":
        kept |= advantages.isnan()
    outliers = {"drop": 0.0, "clip": advantages.clamp(low, high), "none": advantages}[filter]
    return torch.where(mask.bool(), torch.where(kept, advantages, outliers), 0.0)


def stable_reinforce_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    *,
    gamma: float = 1.0,
    sigma: float = SIGMA,
    bounds: Bounds = "paper",
    renormalise: bool = False,
    filter: Filter = "drop",
    deviation_floor: float = 0.0,
) -> tuple[Tensor, Tensor, FilterStatistics]:
    """Discounted returns, standardised over all valid tokens of the batch and filtered.

    Rewards (any real dtype) and mask have the shape (batch, tokens), `gamma` is a discount in [0, 1], `renormalise`
    standardises the kept advantages among themselves. The returns are divided by their standard deviation, or by
    `deviation_floor` where that is larger. Equal returns or a single valid token give zero advantages.

    Returns:
        advantages and returns, both (batch, tokens), zero at masked tokens, float64 for float64 rewards and float32
        otherwise; and what the filter did: a sample counts as filtered when all its valid tokens are (dropped or
        clipped), and as below when its advantage is negative. Shapes that differ and options outside their range raise
        ValueError.
    """
    shape, of_mask = tuple(token_level_rewards.shape), tuple(response_mask.shape)
    if len(shape) != 2 or shape != of_mask:
        raise ValueError(f"token_level_rewards {shape}, response_mask {of_mask}: not the same shape (batch, tokens)")
    check_options(sigma, bounds, renormalise, gamma, filter, deviation_floor)
    valid = response_mask.bool()
    with torch.no_grad():
        returns = discounted_returns(token_level_rewards, valid, gamma)
        pivot, mean, std = moments(returns, valid)
        std = max(std, deviation_floor)
        rows: list[tuple[Tensor, ...]] = []
        peak = 0.0
        for block, mask in _row_blocks(returns, valid):
            z = standardise(block, mask, pivot, mean, std)
            left = filter_advantages(z, mask, sigma, bounds=bounds, raw_mean=pivot + mean, filter=filter)
            kept = mask & (left == z)
            rows.append((left, kept, _count(mask), _count(kept), z.sum(-1) < 0.0))
            peak = max(z.abs().max().item() if z.numel() else 0.0, peak)  # NaN first: it stays
        advantages, kept, tokens, tokens_kept, below = map(torch.cat, zip(*rows, strict=True))
        if renormalise:
            advantages = standardise(advantages, kept, *moments(advantages, kept))
        filtered = (tokens > 0) & (tokens_kept == 0)
        statistics = FilterStatistics(
            tokens=float(tokens.sum()),
            samples=float((tokens > 0).sum()),
            filtered_tokens=float((tokens - tokens_kept).sum()),
            filtered_samples=float(filtered.sum()),
            filtered_below=float((filtered & below).sum()),
            max_abs_z=peak,
        )
    return advantages, returns, statistics


def log_ratio_clipped(
    log_prob: Tensor, old_log_prob: Tensor, low: float = LOG_RATIO_LOW, high: float = LOG_RATIO_HIGH
) -> Tensor:
    """Pre-CLIP: the log of the probability ratio, clipped to [low, high] before anybody takes exp() of it.

    Takes log-probabilities of any shape under the policy and under the one that sampled, and returns float32 (float64
    where an input is). NaN stays NaN. The gradient is zero where the clip is active.
    """
    dtype = _result_dtype(log_prob, old_log_prob)
    return (log_prob.to(dtype) - old_log_prob.to(dtype)).clamp(low, high)


def stable_reinforce_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_ratio_low: float = CLIP_RATIO,
    clip_ratio_high: float = CLIP_RATIO,
    log_ratio_low: float = LOG_RATIO_LOW,
    log_ratio_high: float = LOG_RATIO_HIGH,
    clip_ratio_c: float | None = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped objective on the pre-clipped ratio, for each token.

    It is -min(ratio * A, clip(ratio, 1 - clip_ratio_low, 1 + clip_ratio_high) * A); the paper's objective is its mean
    over valid tokens. `clip_ratio_c`, above 1, bounds the ratio at negative A (dual clip, arXiv 1912.09729).

    All tensors have the shape (batch, tokens). `log_prob` carries the gradient, `advantages` are not differentiated,
    `rollout_is_weights` (importance weights of the rollout) are multiplied into the loss. What the inputs hold where
    `mask` is zero, NaN and infinity included, has no influence on loss or gradient.

    Returns:
        Losses of the tokens, zero at masked ones, float32 (float64 where an input is); and as scalar tensors shares of
        the valid tokens: `pg_clipfrac` (PPO's clip decides), `pre_clip_low`, `pre_clip_high` (Pre-CLIP is active) and
        `nan_log_ratio`, beside `ppo_kl`, the mean of -log-ratio.
    """
    valid = mask.bool()
    dtype = _result_dtype(log_prob, old_log_prob, advantages)
    log_ratio = log_ratio_clipped(log_prob, old_log_prob, log_ratio_low, log_ratio_high)
    log_ratio = torch.where(valid, log_ratio, 0.0).to(dtype)
    advantages = torch.where(valid, advantages.detach().to(dtype), 0.0)
    ratio = log_ratio.exp()
    # min(ratio * A, clip(ratio) * A): only the upper bound matters for A >= 0, only the lower one for A < 0.
    low, high = ratio.clamp(1.0 - clip_ratio_low, clip_ratio_c), ratio.clamp(max=1.0 + clip_ratio_high)
    bounded = torch.where(advantages < 0.0, low, high)
    losses = -advantages * bounded
    if rollout_is_weights is not None:
        losses = losses * torch.where(valid, rollout_is_weights.to(dtype), 0.0)

    with torch.no_grad():
        count = valid.sum().clamp(min=1)
        # Masked tokens have log-ratio and advantage 0, which none of these counts.
        metrics = {
            "pg_clipfrac": torch.count_nonzero((ratio - bounded).mul_(advantages) > 0.0),
            "ppo_kl": -log_ratio.sum(),
            "pre_clip_low": torch.count_nonzero(log_ratio <= log_ratio_low),
            "pre_clip_high": torch.count_nonzero(log_ratio >= log_ratio_high),
            "nan_log_ratio": torch.count_nonzero(log_ratio.isnan()),
        }
    return losses, {name: value / count for name, value in metrics.items()}


def _row_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same few rows of each tensor: their temporaries fit the cache, which is twice as fast."""
    rows = max(1, 2**16 // max(tensors[0].shape[1], 1))
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def _count(mask: Tensor) -> Tensor:
    return mask.view(torch.uint8).sum(-1)  # torch sums and converts bytes several times faster than booleans


def _numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return mask.view(torch.uint8).to(dtype)


def _result_dtype(*tensors: Tensor) -> torch.dtype:
    return functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
