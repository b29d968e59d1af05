"""StableReinforce beside verl's `reinforce_plus_plus` and `vanilla`, the same job without the stability.

One thread, as in verl's trainer process (Ray gives a one-CPU actor one thread). Responses of random length,
one reward on the last token.
"""

import sys
from collections.abc import Callable

import torch
import verl  # noqa: F401  (registers the plugin)
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
from verl.workers.config import ActorConfig

from _bench import Figure, peak_bytes, report, seconds

BATCH = 256
SPEEDUP = 10.0
LOSS_RATIO = 1.15


def rollout(tokens: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(tokens // 8, tokens + 1, (BATCH, 1), generator=generator)
    rewards = torch.zeros(BATCH, tokens)
    totals = torch.tensor([0.0, 0.5, 1.0, 2.0])[torch.randint(0, 4, (BATCH, 1), generator=generator)]
    return {
        "mask": (torch.arange(tokens) < lengths).long(),
        "rewards": rewards.scatter_(1, lengths - 1, totals),
        "log_prob": -torch.rand(BATCH, tokens, generator=generator),
        "old_log_prob": -torch.rand(BATCH, tokens, generator=generator),
        "advantages": torch.randn(BATCH, tokens, generator=generator),
    }


def estimator(name: str, data: dict[str, torch.Tensor], gamma: float) -> Callable[[], object]:
    function = get_adv_estimator_fn(name)
    config = AlgoConfig(gamma=gamma)
    return lambda: function(token_level_rewards=data["rewards"], response_mask=data["mask"], config=config)


def loss_step(name: str, data: dict[str, torch.Tensor]) -> Callable[[], object]:
    function = get_policy_loss_fn(name)
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1)
    log_prob = data["log_prob"].clone().requires_grad_()
    mask = data["mask"].bool()

    def step() -> None:
        log_prob.grad = None
        loss, _ = function(
            old_log_prob=data["old_log_prob"],
            log_prob=log_prob,
            advantages=data["advantages"],
            response_mask=mask,
            loss_agg_mode="token-mean",
            config=config,
            rollout_is_weights=None,
        )
        loss.backward()

    return step


def main() -> int:
    torch.set_num_threads(1)
    figures = []
    for tokens in (1024, 4096):
        data = rollout(tokens)
        for gamma in (1.0, 0.99):
            rivals = {name: estimator(name, data, gamma) for name in ("stable_reinforce", "reinforce_plus_plus")}
            times = seconds(rivals)
            figures.append(
                Figure(
                    f"estimator {BATCH}x{tokens}, gamma {gamma:g}",
                    times["stable_reinforce"] * 1e3,
                    "ms",
                    peer=times["reinforce_plus_plus"] * 1e3,
                    compare="speedup",
                    target=SPEEDUP if gamma == 1.0 else None,
                )
            )
    for tokens in (1024, 4096):
        data = rollout(tokens)
        rivals = {name: loss_step(name, data) for name in ("stable_reinforce", "vanilla")}
        times = seconds(rivals, rounds=51 if tokens == 1024 else 15)
        figures.append(
            Figure(
                f"loss {BATCH}x{tokens}, forward and backward",
                times["stable_reinforce"] * 1e3,
                "ms",
                peer=times["vanilla"] * 1e3,
                compare="ratio",
                target=LOSS_RATIO,
                at_least=False,
            )
        )
        tensor = data["log_prob"].nbytes
        peaks = {name: peak_bytes(step) / tensor for name, step in rivals.items()}
        figures.append(
            Figure(
                f"loss {BATCH}x{tokens}, peak memory in (B, T) float32 tensors",
                peaks["stable_reinforce"],
                "tensors",
                peer=peaks["vanilla"],
                compare="extra",
                target=1.0,
                at_least=False,
            )
        )
    return report("algorithm", figures)


if __name__ == "__main__":
    sys.exit(main())
