"""Makes `old_log_prob` of one token in a hundred wrong by 10 nats, either way, in verl's policy losses.

For `pipeline.py`: verl imports it in each of its processes where VERL_USE_EXTERNAL_MODULES names it.
"""

from typing import Any

import torch
from verl.trainer.ppo import core_algos

SHARE, NATS = 0.01, 10.0
_registered = core_algos.get_policy_loss_fn


def _with_wrong_log_probs(name: str) -> Any:
    loss = _registered(name)

    def wrapped(*, old_log_prob: torch.Tensor, **rest: Any) -> Any:
        wrong = torch.rand_like(old_log_prob, dtype=torch.float32) < SHARE
        signs = torch.randint_like(old_log_prob, 2) * 2 - 1
        return loss(old_log_prob=old_log_prob + NATS * wrong * signs, **rest)

    return wrapped


core_algos.get_policy_loss_fn = _with_wrong_log_probs
