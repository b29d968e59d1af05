"""One run of the study: verl's registered estimators and losses on the policy of `task`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import Arm
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from task import Batch, Judged, Policy, draw, flip, judge, mask_of, traces
from torch import Tensor
from verl.trainer.config import RolloutCorrectionConfig
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask
from verl.workers.config import ActorConfig, PolicyLossConfig

from r1reward_verl.plugin.algorithm import collect_filter_statistics, filter_metrics
from r1reward_verl.plugin.loss_config import StableReinforceLossConfig

STARTS = (0.05, 0.7, 0.9, 0.99)
TEST = 1000
EVALUATED = (0.3, 0.6, 0.8, 0.9, 1.0)  # shares of the steps; the last three make the result of a run
_FAST, _SLOW = 3e-3, 5e-4  # learning rates of the supervised training
_OVERSHOOT = 1.5  # times the first start, which accuracy reaches steeply
STALE = 8  # updates
COLLAPSE = 0.1  # accuracy lost since the start, or half of it if that is less
_WIDE = 80.0  # log-ratio bounds that bind nothing that float32 can hold
_CORRECTIONS = {
    "recomputed": None,
    "tis": RolloutCorrectionConfig.decoupled_token_is(),
    "icepop": RolloutCorrectionConfig.decoupled_token_icepop(),
}


@dataclass
class Figures:
    """Shares over held-out prompts, and the mean number of tokens."""

    accuracy: float
    consistency: float
    format: float
    length: float


def evaluate(policy: Policy, batch: Batch, seed: int) -> Figures:
    """Sample one text a prompt at temperature 1."""
    texts, _ = policy.sample(batch.prompts, torch.Generator().manual_seed(seed))
    judged = judge(texts, batch.labels)
    return Figures(
        accuracy=judged.right.float().mean().item(),
        consistency=judged.consistent.float().mean().item(),
        format=judged.well_formed.float().mean().item(),
        length=mask_of(texts).sum(1).mean().item(),
    )


def supervised_loss(policy: Policy, batch: Batch, generator: torch.Generator) -> Tensor:
    """Return the mean cross-entropy of the tokens of traces that are written for the batch."""
    texts = traces(batch, generator)
    losses = torch.nn.functional.cross_entropy(policy(batch.prompts, texts).transpose(1, 2), texts, reduction="none")
    mask = mask_of(texts)
    return (losses * mask).sum() / mask.sum()


def make_starts(seed: int, folder: Path, starts: Sequence[float] = STARTS) -> None:
    """Train a policy on traces and keep it each time it reaches one of `starts` on prompts of the training."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(1_000_000 + seed)
    policy, wanted = Policy(), list(starts)
    first = wanted[0] == STARTS[0]
    optimizer = torch.optim.Adam(policy.parameters(), lr=_SLOW if first else _FAST)
    check = draw(TEST, torch.Generator().manual_seed(2_000_000 + seed), held_out=False)
    for step in range(4000):
        optimizer.zero_grad()
        supervised_loss(policy, draw(256, generator, held_out=False), generator).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        if wanted[0] == STARTS[0] or step % 5 == 0:
            reached = evaluate(policy, check, step).accuracy
            while wanted and reached >= wanted[0]:
                if wanted[0] == STARTS[0] and reached > _OVERSHOOT * STARTS[0]:
                    raise RuntimeError(f"seed {seed}: {reached:.1%} right in place of a start of {STARTS[0]:.0%}")
                save_file(dict(policy.state_dict()), folder / f"{seed}-{wanted.pop(0):g}.safetensors")
                # The first and the last start need smaller steps.
                optimizer.param_groups[0]["lr"] = _SLOW if wanted == [STARTS[-1]] else _FAST
            if not wanted:
                return
    raise RuntimeError(f"seed {seed}: no start of {wanted[0]:.0%} after 4,000 steps of supervised training")


@dataclass
class Rollout:
    """Texts of a batch (batch, LENGTH), and log-probabilities as the sampler reports them."""

    batch: Batch
    texts: Tensor
    mask: Tensor
    log_probs: Tensor
    judged: Judged
    index: list[int]  # of the prompt of each text


def run(arm: Arm, seed: int, starts: Path) -> dict[str, Any]:
    """Train one policy and return what became of it."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    policy = Policy()
    policy.load_state_dict(load_file(starts / f"{seed}-{arm.start:g}.safetensors"))
    sampler = Policy()  # differs from the policy where rollouts are stale
    recent = [_copy(policy)]
    optimizer = torch.optim.Adam(policy.parameters(), lr=arm.lr, betas=(0.9, 0.95), fused=True)
    test = draw(TEST, torch.Generator().manual_seed(3_000_000 + seed), held_out=True)
    seen = draw(TEST, torch.Generator().manual_seed(4_000_000 + seed), held_out=False)
    curve, before = [evaluate(policy, test, seed)], evaluate(policy, seen, seed)
    evaluated = [round(share * arm.steps) for share in EVALUATED]
    skipped, largest, totals = 0, 0.0, dict.fromkeys(("pre_clip", "filtered", "filtered_below"), 0.0)
    for step in range(1, arm.steps + 1):
        sampler.load_state_dict(recent[0])
        rollout = _roll_out(arm, sampler, generator)
        old, weights = rollout.log_probs, None
        if arm.correction != "none":
            with torch.no_grad():
                old = _log_probs(policy, rollout)
            weights = _weights(arm, old, rollout)
        advantages, acts = _advantages(arm, rollout)
        totals["filtered"] += acts.get("filtered", 0.0)
        totals["filtered_below"] += acts.get("filtered_below", 0.0)
        order = torch.randperm(len(rollout.texts), generator=generator)
        for rows in order.chunk(arm.updates):
            part = Rollout(
                rollout.batch[rows],
                rollout.texts[rows],
                rollout.mask[rows],
                old[rows],
                rollout.judged,
                rollout.index,
            )
            log_probs = _log_probs(policy, part)
            loss, metrics = _loss(arm, part, log_probs, advantages[rows], None if weights is None else weights[rows])
            optimizer.zero_grad()
            loss.backward()
            limit = math.inf if arm.grad_clip is None else arm.grad_clip
            norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), limit).item()
            # verl's engine leaves out such an update, too.
            if not math.isfinite(norm):
                skipped += 1
                continue
            largest = max(largest, norm)
            totals["pre_clip"] += metrics.get("actor/pre_clip_low", 0.0) + metrics.get("actor/pre_clip_high", 0.0)
            optimizer.step()
            if arm.mismatch == "stale":
                recent = [*recent, _copy(policy)][-STALE - 1 :]
        if arm.mismatch != "stale":
            recent = [_copy(policy)]
        if step in evaluated:
            curve.append(evaluate(policy, test, seed + step))
    last = curve[-3:]
    updates = arm.steps * arm.updates
    mean = {name: sum(getattr(one, name) for one in last) / len(last) for name in ("accuracy", "consistency", "format")}
    return {
        "arm": arm.key,
        "seed": seed,
        **mean,
        "length": sum(one.length for one in last) / len(last),
        "start": curve[0].accuracy,
        "seen_start": before.accuracy,
        "seen": evaluate(policy, seen, seed).accuracy,
        "collapsed": not mean["accuracy"] > max(curve[0].accuracy - COLLAPSE, curve[0].accuracy / 2),
        "skipped": skipped,
        "largest_gradient": largest,
        "pre_clip_share": totals["pre_clip"] / updates,
        "filtered_share": totals["filtered"] / arm.steps,
        "filtered_below_share": totals["filtered_below"] / arm.steps,
        "curve": [round(one.accuracy, 4) for one in curve],
    }


def _copy(policy: Policy) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


def _log_probs(policy: Policy, rollout: Rollout) -> Tensor:
    logits = policy(rollout.batch.prompts, rollout.texts)
    return logits.log_softmax(-1).gather(-1, rollout.texts[..., None])[..., 0] * rollout.mask


def _roll_out(arm: Arm, sampler: Policy, generator: torch.Generator) -> Rollout:
    prompts = draw(arm.batch // arm.group_size, generator, held_out=False)
    index = [row for row in range(len(prompts.labels)) for _ in range(arm.group_size)]
    batch = prompts[torch.tensor(index)]
    texts, logits = sampler.sample(batch.prompts, generator)
    mask = mask_of(texts)
    labels = flip(prompts.labels, arm.noise, generator)[torch.tensor(index)]
    if arm.mismatch == "bf16":
        logits = logits.bfloat16().float()
    log_probs = logits.log_softmax(-1).gather(-1, texts[..., None])[..., 0]
    if arm.mismatch.startswith("heavy"):
        # Of one token in a hundred the sampler reports a probability that is wrong by so many nats, either way.
        wrong = torch.rand(texts.shape, generator=generator) < 0.01
        signs = torch.randint(2, texts.shape, generator=generator) * 2 - 1
        log_probs = log_probs + wrong * signs * float(arm.mismatch.removeprefix("heavy"))
    return Rollout(batch, texts, mask, log_probs * mask, judge(texts, labels, arm.reward), index)


def _weights(arm: Arm, own: Tensor, rollout: Rollout) -> Tensor | None:
    config = _CORRECTIONS[arm.correction]
    if config is None:
        return None
    weights, _, _ = compute_rollout_correction_and_rejection_mask(
        own,
        rollout.log_probs,
        rollout.mask,
        rollout_is=config.rollout_is,
        rollout_is_threshold=config.rollout_is_threshold,
    )
    assert weights is not None
    return weights.batch["rollout_is_weights"]


def _advantages(arm: Arm, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
    options = dict(arm.estimator)
    name, drop_equal = options.pop("name"), options.pop("drop_equal", False)
    rewards = torch.zeros_like(rollout.mask)
    lengths = rollout.mask.sum(1).long()
    rewards[torch.arange(len(lengths)), lengths - 1] = rollout.judged.rewards
    mask = rollout.mask
    if drop_equal:
        groups = rollout.judged.rewards.view(-1, arm.group_size)
        mixed = (groups.max(1).values > groups.min(1).values).repeat_interleave(arm.group_size)
        mask = mask * mixed[:, None]
        rollout.mask = mask
    config = OmegaConf.create({"gamma": 1.0} | ({"stable_reinforce": options} if options else {}))
    with collect_filter_statistics() as statistics:
        advantages, _ = get_adv_estimator_fn(name)(
            token_level_rewards=rewards, response_mask=mask, index=np.array(rollout.index), config=config
        )
    if not statistics:
        return advantages, {}
    metrics = filter_metrics(statistics)
    return advantages, {
        "filtered": metrics["stable_reinforce/filtered_samples"],
        "filtered_below": metrics["stable_reinforce/filtered_below"],
    }


def _loss(
    arm: Arm, rollout: Rollout, log_probs: Tensor, advantages: Tensor, weights: Tensor | None
) -> tuple[Tensor, dict[str, Any]]:
    options = dict(arm.loss_options)
    mode = options.pop("loss_agg_mode", "token-mean")
    ours: dict[str, dict[str, Any]] = {
        "raw": {"log_ratio_low": -_WIDE, "log_ratio_high": _WIDE},
        "pre_clip": {},
        "both": {"clip_ratio_c": 3.0},
    }
    if arm.loss in ours:
        name, loss_config = "stable_reinforce", StableReinforceLossConfig(**ours[arm.loss])
    else:
        name, loss_config = arm.loss, PolicyLossConfig(loss_mode=arm.loss)
    config = ActorConfig(
        strategy="fsdp2", rollout_n=1, ppo_micro_batch_size_per_gpu=1, policy_loss=loss_config, **options
    )
    return get_policy_loss_fn(name)(
        old_log_prob=rollout.log_probs,
        log_prob=log_probs,
        advantages=advantages,
        response_mask=rollout.mask,
        loss_agg_mode=mode,
        config=config,
        rollout_is_weights=weights,
    )
