"""StableReinforce: the advantage estimator and the policy loss of R1-Reward.

Source: arXiv 2505.02835 (Pre-CLIP, advantage filter) and, where an option says "reference", its published
code. Pure tensor functions first; at the bottom their verl adapters `adv_estimator` and `policy_loss`, and
the statistics of the filter on their way to verl's log.
"""

import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

Bounds = Literal["paper", "reference"]

SIGMA = 3.0
CLIP_RATIO = 0.2
LOG_RATIO_LOW = math.log(1e-3)
LOG_RATIO_HIGH = math.log(1e3)

# exp() of more than this overflows float32, the type the ratio is computed in.
MAX_LOG_RATIO = 88.0
# The reference code zeroes every standardised advantage beyond this, whatever its interval.
REFERENCE_LIMIT = 10.0
# verl's masked_whiten adds the same to the variance.
VARIANCE_EPSILON = 1e-8
# Within a chunk gamma^k stays above e^-50 = 2e-22, far from float32's underflow.
MAX_DISCOUNT_EXPONENT = 50.0
# What the next token gets through such a discount, no float32 sum can hold: it is zero.
NEGLIGIBLE_DISCOUNT = 1e-20
# Rows are worked on in blocks of about this many tokens: their temporaries fit the cache.
BLOCK_ELEMENTS = 2**16


class FilterStatistics(NamedTuple):
    """What the advantage filter did to one batch, as counts, so that batches can be added up."""

    tokens: float
    samples: float
    filtered_tokens: float
    filtered_samples: float
    max_abs_z: float


class _Moments(NamedTuple):
    """Size, mean and sum of squared deviations of a set of values, in double precision."""

    size: float
    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Tensor, counted: Tensor) -> "_Moments":
        """Of those `values` where `counted` (0 or 1, same dtype) is 1; the others must be zero."""
        size = counted.sum().item()
        if size == 0.0:
            return cls(0.0, 0.0, 0.0)
        # A float32 mean of equal values can miss them by a rounding error, and standardising would blow that
        # up. The mean of what is left corrects it, exactly: those are a few units in the last place each.
        mean = _rounded(values.sum().item() / size, values.dtype)
        centred = (values - mean).mul_(counted)
        correction = centred.sum().item() / size
        deviation = centred.sub_(correction).mul_(counted).square_().sum().item()
        return cls(size, mean + correction, deviation)

    def joined(self, other: "_Moments") -> "_Moments":
        size = self.size + other.size
        if size == 0.0:
            return self
        apart, share = other.mean - self.mean, other.size / size
        deviation = self.deviation + other.deviation + apart * apart * self.size * share
        return _Moments(size, self.mean + apart * share, deviation)

    def standardise(self, values: Tensor, counted: Tensor, out: Tensor) -> None:
        """Write (values - mean) / sqrt(unbiased variance + epsilon) into `out`."""
        variance = self.deviation / max(self.size - 1.0, 1.0)
        # The mean in two pieces, as tensor arithmetic would round it to the tensor's dtype.
        rounded = _rounded(self.mean, values.dtype)
        torch.sub(values, rounded, out=out)
        out.sub_(self.mean - rounded).mul_(1.0 / math.sqrt(variance + VARIANCE_EPSILON)).mul_(counted)


def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Discounted return-to-go over the valid tokens of each row.

    Masked tokens are skipped: their rewards are dropped and no discount is applied across them, as in verl's
    `reinforce_plus_plus`.

    Args:
        rewards: reward per token, shape (batch, tokens), any real dtype.
        mask: non-zero where a token is valid, shape (batch, tokens).
        gamma: discount in [0, 1].

    Returns:
        Shape (batch, tokens), float64 for float64 rewards and float32 otherwise, zero at masked tokens.
    """
    dtype = _result_dtype(rewards)
    returns = torch.empty_like(rewards, dtype=dtype)
    for block, reward, valid in _row_blocks(returns, rewards, mask):
        _write_returns(reward.to(dtype), valid.bool(), gamma, block)
    return returns


def _write_returns(rewards: Tensor, valid: Tensor, gamma: float, out: Tensor) -> Tensor:
    """Write the returns into `out` and return `valid` as numbers."""
    counted = _as_numbers(valid, out.dtype)
    torch.mul(rewards, counted, out=out)
    if not math.isfinite(out.sum().item()):
        # NaN * 0 is NaN. Only then is torch.where worth its price, several times that of a product.
        torch.where(valid, rewards, rewards.new_zeros(()), out=out)
    if gamma > NEGLIGIBLE_DISCOUNT:
        reversed_rewards = out.flip(-1)
        if gamma == 1.0:
            sums = reversed_rewards.cumsum_(-1)
        else:
            sums = _discounted_sums(reversed_rewards, valid.flip(-1), gamma)
        torch.mul(sums.flip(-1), counted, out=out)
    return counted


def _discounted_sums(rewards: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """Solve y_i = rewards_i + gamma * y_{i-1} over valid tokens, without a loop over them.

    With c the number of valid tokens so far, y = gamma^c * cumsum(rewards / gamma^c). Chunks keep gamma^c
    from underflowing and a doubling scan joins them; a large gamma needs one chunk only.
    """
    batch, tokens = rewards.shape
    counted = valid.view(torch.uint8)
    if tokens > 1 and not (counted[:, 1:] < counted[:, :-1]).view(torch.uint8).max():
        # Padding on one side and no gaps: positions serve as well as counts, and are the same for all rows.
        counted = counted.new_ones(1, tokens)
    chunk = max(1, min(tokens, int(MAX_DISCOUNT_EXPONENT / -math.log(gamma))))
    padding = (0, -tokens % chunk)
    counts = torch.nn.functional.pad(counted, padding).reshape(len(counted), -1, chunk)
    powers = torch.ones_like(counts, dtype=torch.float64).masked_fill_(counts.bool(), gamma).cumprod_(-1)
    discount, growth = powers.to(rewards.dtype), powers.reciprocal().to(rewards.dtype)
    padded = torch.nn.functional.pad(rewards, padding) if padding[1] else rewards
    sums = padded.reshape(batch, -1, chunk).mul_(growth).cumsum_(-1)
    if sums.shape[1] > 1:
        chunk_discount = discount[..., -1]
        carried = _scan(sums[..., -1] * chunk_discount, chunk_discount)
        sums[:, 1:] += carried[:, :-1, None]
    return sums.mul_(discount).reshape(batch, -1)[:, :tokens]


def _scan(values: Tensor, decay: Tensor) -> Tensor:
    """Solve y_i = values_i + decay_i * y_{i-1} along the last axis by recursive doubling."""
    distance = 1
    while distance < values.shape[-1]:
        values = values + decay * torch.nn.functional.pad(values[..., :-distance], (distance, 0))
        decay = decay * torch.nn.functional.pad(decay[..., :-distance], (distance, 0))
        distance *= 2
    return values


def _interval(sigma: float, bounds: Bounds, raw_mean: float) -> tuple[float, float]:
    if bounds == "paper":
        return -sigma, sigma
    return max(raw_mean - sigma, -REFERENCE_LIMIT), min(raw_mean + sigma, REFERENCE_LIMIT)


def filter_advantages(
    advantages: Tensor,
    mask: Tensor,
    sigma: float = SIGMA,
    *,
    bounds: Bounds = "paper",
    raw_mean: float = 0.0,
    renormalise: bool = False,
) -> Tensor:
    """Set outlying standardised advantages to zero: the advantage filter.

    Args:
        advantages: standardised advantages z, shape (batch, tokens).
        mask: non-zero where a token is valid, shape (batch, tokens).
        sigma: largest |z| that is kept, above 0; infinity keeps all.
        bounds: "paper" keeps |z| <= sigma. "reference" keeps what the reference code keeps: z within sigma of
            `raw_mean`, and of those only |z| <= 10.
        raw_mean: mean of the advantages before they were standardised; used with "reference" only.
        renormalise: standardise the kept advantages once more, among themselves.

    Returns:
        Shape and dtype of `advantages`, zero at masked tokens. NaN at a valid token stays NaN with "paper"
        and becomes zero with "reference".

    Raises:
        ValueError: an option is outside its range.
    """
    check_filter_options(sigma, bounds, renormalise)
    low, high = _interval(sigma, bounds, raw_mean)
    outside = (advantages < low) | (advantages > high)
    if bounds == "reference":
        outside |= advantages.isnan()
    kept = mask.bool() & ~outside
    filtered = torch.where(kept, advantages, 0.0)
    if renormalise:
        filtered, counted = filtered.to(_result_dtype(filtered)), kept.to(_result_dtype(filtered))
        _Moments.of(filtered, counted).standardise(filtered, counted, out=filtered)
    return filtered.to(advantages.dtype)


def stable_reinforce_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    *,
    gamma: float = 1.0,
    sigma: float = SIGMA,
    bounds: Bounds = "paper",
    renormalise: bool = False,
) -> tuple[Tensor, Tensor, FilterStatistics]:
    """Discounted returns, standardised over all valid tokens of the batch and filtered.

    Equal returns, a single valid token and an empty batch give zero advantages.

    Args:
        token_level_rewards: reward per token, shape (batch, tokens), any real dtype.
        response_mask: non-zero where a token is valid, shape (batch, tokens).
        gamma: discount in [0, 1].
        sigma: see `filter_advantages`, like the next two.
        bounds: "paper" or "reference".
        renormalise: standardise once more after the filter.

    Returns:
        advantages and returns, both (batch, tokens), zero at masked tokens, float64 for float64 rewards and
        float32 otherwise; and what the filter did. A sample counts as filtered when all its valid tokens are.

    Raises:
        ValueError: shapes differ, or an option is outside its range.
    """
    if token_level_rewards.ndim != 2 or token_level_rewards.shape != response_mask.shape:
        raise ValueError(
            f"token_level_rewards {tuple(token_level_rewards.shape)} and response_mask "
            f"{tuple(response_mask.shape)} must have the same shape (batch, tokens)"
        )
    _check_gamma(gamma)
    check_filter_options(sigma, bounds, renormalise)
    returns = torch.empty_like(token_level_rewards, dtype=_result_dtype(token_level_rewards))
    advantages = torch.empty_like(returns)
    if returns.numel() == 0:
        return advantages, returns, FilterStatistics(0.0, 0.0, 0.0, 0.0, 0.0)
    row_tokens: list[Tensor] = []
    row_kept: list[Tensor] = []
    kept: list[Tensor] = []
    peaks: list[float] = []
    moments = _Moments(0.0, 0.0, 0.0)
    with torch.no_grad():
        for block, rewards, mask in _row_blocks(returns, token_level_rewards, response_mask):
            counted = _write_returns(rewards.to(returns.dtype), mask.bool(), gamma, out=block)
            moments = moments.joined(_Moments.of(block, counted))

        low, high = _interval(sigma, bounds, moments.mean)
        for block, values, mask in _row_blocks(advantages, returns, response_mask):
            counted = _as_numbers(mask.bool(), block.dtype)
            moments.standardise(values, counted, out=block)
            lowest, highest = torch.stack(torch.aminmax(block)).tolist()
            row_tokens.append(counted.sum(-1))
            if not low <= lowest <= highest <= high:
                # NaN is outside, yet stays NaN in the product.
                inside = block.clamp(low, high).eq_(block)
                block.mul_(inside)
                counted.mul_(inside)
            row_kept.append(counted.sum(-1))
            peaks.append(max(abs(lowest), abs(highest)))
            if renormalise:
                kept.append(counted)

        if bounds == "reference":
            advantages.nan_to_num_(nan=0.0)
        if renormalise:
            counted = torch.cat(kept)
            _Moments.of(advantages, counted).standardise(advantages, counted, out=advantages)
        tokens, kept_tokens = torch.cat(row_tokens), torch.cat(row_kept)
        answered = tokens > 0
        counts = torch.stack([tokens, answered, tokens - kept_tokens, answered & (kept_tokens == 0)])
        totals = counts.sum(-1, dtype=torch.float64).tolist()
        statistics = FilterStatistics(totals[0], totals[1], totals[2], totals[3], max(peaks))
    return advantages, returns, statistics


def _row_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each tensor, a few at a time."""
    if tensors[0].numel() == 0:
        return iter(())
    rows = max(1, BLOCK_ELEMENTS // tensors[0].shape[1])
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def _rounded(value: float, dtype: torch.dtype) -> float:
    return torch.tensor(value, dtype=dtype).item()


def _as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    # torch converts bytes several times faster than booleans.
    return mask.view(torch.uint8).to(dtype)


def _result_dtype(*tensors: Tensor) -> torch.dtype:
    return functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)


def _check_gamma(gamma: float) -> None:
    if not _is_number(gamma) or not 0.0 <= gamma <= 1.0:
        raise ValueError(f"algorithm.gamma={gamma!r}: the discount must be a number from 0 to 1")


def check_filter_options(sigma: float, bounds: str, renormalise: bool) -> None:
    """Raise ValueError, naming the verl option, for a filter option outside its range."""
    if not _is_number(sigma) or not sigma > 0.0:
        raise ValueError(f"algorithm.stable_reinforce.sigma={sigma!r}: must be a number above 0 (paper: {SIGMA})")
    if bounds not in get_args(Bounds):
        raise ValueError(f"algorithm.stable_reinforce.bounds={bounds!r}: must be one of {', '.join(get_args(Bounds))}")
    if not isinstance(renormalise, bool):
        raise ValueError(f"algorithm.stable_reinforce.renormalise={renormalise!r}: must be true or false")


def check_log_ratio_bounds(low: float, high: float) -> None:
    """Raise ValueError, naming the verl option, for Pre-CLIP bounds outside their range."""
    place = "actor_rollout_ref.actor.policy_loss."
    if not _is_number(low) or not -math.inf < low < 0.0:
        raise ValueError(f"{place}log_ratio_low={low!r}: must be a finite number below 0 (paper: ln 1e-3)")
    if not _is_number(high) or not 0.0 < high <= MAX_LOG_RATIO:
        raise ValueError(
            f"{place}log_ratio_high={high!r}: must be a number above 0 (paper: ln 1e3) and at most "
            f"{MAX_LOG_RATIO:g}, beyond which exp() overflows float32"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _log_ratio(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    dtype = _result_dtype(log_prob, old_log_prob)
    return log_prob.to(dtype) - old_log_prob.to(dtype)


def log_ratio_clipped(
    log_prob: Tensor, old_log_prob: Tensor, low: float = LOG_RATIO_LOW, high: float = LOG_RATIO_HIGH
) -> Tensor:
    """Pre-CLIP: log of the probability ratio, clipped before anybody takes exp() of it.

    Args:
        log_prob: log-probabilities of the tokens under the policy, any shape.
        old_log_prob: the same under the policy that sampled them.
        low: lower bound of the log-ratio.
        high: upper bound of the log-ratio.

    Returns:
        Same shape, float32 (float64 where an input is). NaN stays NaN. The gradient is zero where the clip is
        active.
    """
    return _log_ratio(log_prob, old_log_prob).clamp(low, high)


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
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped objective on the pre-clipped ratio, for each token.

    The loss of a token is -min(ratio * A, clip(ratio, 1 - clip_ratio_low, 1 + clip_ratio_high) * A). The
    paper's objective is its mean over valid tokens.

    Args:
        log_prob: log-probabilities under the policy, shape (batch, tokens), float16 to float64; carries the
            gradient.
        old_log_prob: the same under the policy that sampled the tokens.
        advantages: shape (batch, tokens), not differentiated.
        mask: non-zero where a token is valid, shape (batch, tokens). What the other inputs hold at masked
            tokens, NaN and infinity included, has no influence on loss or gradient.
        clip_ratio_low: PPO's clip below 1.
        clip_ratio_high: PPO's clip above 1.
        log_ratio_low: lower bound of the log-ratio, below 0.
        log_ratio_high: upper bound of the log-ratio, above 0.
        rollout_is_weights: importance weights of the rollout, multiplied into the loss, shape (batch,
            tokens).

    Returns:
        Losses of the tokens, shape (batch, tokens), zero at masked ones, float32 (float64 where an input is);
        and shares of the valid tokens as scalar tensors: `pg_clipfrac` (PPO's clip decides), `pre_clip_low`,
        `pre_clip_high` (log-ratio beyond the bound) and `nan_log_ratio`, beside `ppo_kl`, the mean of
        -log-ratio.
    """
    valid = mask.bool()
    dtype = _result_dtype(log_prob, old_log_prob, advantages)
    log_ratio = torch.where(valid, _log_ratio(log_prob, old_log_prob), 0.0).to(dtype)
    advantages = torch.where(valid, advantages.detach().to(dtype), 0.0)
    clipped = log_ratio.clamp(log_ratio_low, log_ratio_high)
    ratio = clipped.exp()
    # min(ratio * A, clip(ratio) * A): only the upper bound matters for A >= 0, only the lower one for A < 0.
    bounded = torch.where(
        advantages < 0.0, ratio.clamp(min=1.0 - clip_ratio_low), ratio.clamp(max=1.0 + clip_ratio_high)
    )
    losses = -advantages * bounded
    if rollout_is_weights is not None:
        losses = losses * torch.where(valid, rollout_is_weights.to(dtype), 0.0)

    with torch.no_grad():
        count = valid.sum().clamp(min=1)
        # Masked tokens have log-ratio and advantage 0, which none of these counts.
        metrics = {
            "pg_clipfrac": torch.count_nonzero((ratio - bounded).mul_(advantages) > 0.0),
            "ppo_kl": -clipped.sum(),
            "pre_clip_low": torch.count_nonzero(log_ratio < log_ratio_low),
            "pre_clip_high": torch.count_nonzero(log_ratio > log_ratio_high),
            "nan_log_ratio": torch.count_nonzero(log_ratio.isnan()),
        }
    return losses, {name: value / count for name, value in metrics.items()}


# ---- verl adapters ----


def advantage_options(algorithm: Any) -> dict[str, Any]:
    """Read verl's `algorithm` section: gamma and, if there, `stable_reinforce.{sigma, bounds, renormalise}`.

    Args:
        algorithm: a DictConfig, a mapping, or verl's AlgoConfig, which cannot carry our section.

    Returns:
        Keyword arguments of `stable_reinforce_advantage`.

    Raises:
        ValueError: an unknown option, or one outside its range.
    """
    options: dict[str, Any] = {"sigma": SIGMA, "bounds": "paper", "renormalise": False}
    section = None if algorithm is None else algorithm.get("stable_reinforce", None)
    if section is not None:
        if not isinstance(section, Mapping):
            raise ValueError(f"algorithm.stable_reinforce={section!r}: must be a section with {', '.join(options)}")
        for name, value in section.items():
            if name not in options:
                raise ValueError(f"algorithm.stable_reinforce.{name}: no such option, there are {', '.join(options)}")
            options[name] = value
    gamma = 1.0 if algorithm is None else algorithm.get("gamma", 1.0)
    _check_gamma(gamma)
    check_filter_options(**options)
    return {"gamma": gamma, **options}


def log_ratio_bounds(policy_loss: Any) -> tuple[float, float]:
    """Read `log_ratio_low` and `log_ratio_high` of verl's `policy_loss` section; the paper's if absent.

    Raises:
        ValueError: a bound outside its range.
    """
    low, high = policy_loss.get("log_ratio_low", None), policy_loss.get("log_ratio_high", None)
    low, high = LOG_RATIO_LOW if low is None else low, LOG_RATIO_HIGH if high is None else high
    check_log_ratio_bounds(low, high)
    return low, high


def adv_estimator(
    token_level_rewards: Tensor, response_mask: Tensor, config: Any = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """Estimator for verl: `stable_reinforce_advantage` with the options of verl's `algorithm` section."""
    options = advantage_options(config)
    advantages, returns, statistics = stable_reinforce_advantage(token_level_rewards, response_mask, **options)
    with _recorded_lock:
        _recorded.append(statistics)
        if len(_recorded) > 1:
            _recorded[:] = [_joined(_recorded)]
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

    `config` is verl's ActorConfig. The metrics are means over this micro batch's valid tokens, which verl
    averages over micro batches.
    """
    from verl.trainer.ppo.core_algos import agg_loss

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
        rollout_is_weights=rollout_is_weights,
    )
    loss = agg_loss(loss_mat=losses, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info)
    values = torch.stack(list(metrics.values())).tolist()
    return loss, {f"actor/{name}": value for name, value in zip(metrics, values, strict=True)}


# An estimator can only return tensors, so what the filter did waits here until verl's trainer gathers the
# metrics of the step, in the same process.
_recorded: list[FilterStatistics] = []
_recorded_lock = threading.Lock()


def _joined(statistics: list[FilterStatistics]) -> FilterStatistics:
    tokens, samples, filtered_tokens, filtered_samples, peaks = zip(*statistics, strict=True)
    return FilterStatistics(sum(tokens), sum(samples), sum(filtered_tokens), sum(filtered_samples), max(peaks))


def pop_filter_metrics() -> dict[str, float]:
    """Shares of tokens and samples filtered, and largest |z|, since the last call; empty if nothing
    happened.
    """
    with _recorded_lock:
        if not _recorded:
            return {}
        total = _recorded.pop()
    return {
        "stable_reinforce/filtered_tokens": total.filtered_tokens / max(total.tokens, 1.0),
        "stable_reinforce/filtered_samples": total.filtered_samples / max(total.samples, 1.0),
        "stable_reinforce/max_abs_z": total.max_abs_z,
    }


def add_filter_metrics(compute_data_metrics: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Make verl's `compute_data_metrics`, which its trainers call once a step, add the filter's metrics."""

    @functools.wraps(compute_data_metrics)
    def with_filter_metrics(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**compute_data_metrics(*args, **kwargs), **pop_filter_metrics()}

    return with_filter_metrics
