"""Guarded corrections of verl's FSDP engine for models of real size, each a no-op where verl does not need it.

What an export weighs, how long ranks wait for the one that writes it, and who gathers the output layer that fused
kernels read.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

# torch's own limit for a group of several backends, such as verl's "cpu:gloo,cuda:nccl".
LEAST_TIMEOUT = 1800


def install_export_dtype(checkpoint_manager: ModuleType) -> None:
    """Export `hf_model` in the type in which the model computes.

    verl 0.9.1 writes the fp32 weights beside a config.json that says bfloat16: twice the bytes, by rank 0 alone, while
    all others wait. The rollouts have the rounded weights too.
    """
    full_state_dict = checkpoint_manager.get_fsdp_full_state_dict

    @functools.wraps(full_state_dict)
    def get_fsdp_full_state_dict(model: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = full_state_dict(model, *args, **kwargs)
        dtype = _computing_dtype(model)
        for name, tensor in state.items():  # one after the other, so that both types are never there in full
            if dtype is not None and tensor.is_floating_point():
                state[name] = tensor.to(dtype)
        return state

    checkpoint_manager.get_fsdp_full_state_dict = get_fsdp_full_state_dict  # type: ignore[attr-defined]


def _computing_dtype(model: Any) -> Any:
    """Return the parameters' type of FSDP's mixed precision, None where there is none."""
    fsdp2 = getattr(model, "_get_fsdp_state", None)
    policy = fsdp2()._mp_policy if fsdp2 else getattr(model, "mixed_precision", None)
    return getattr(policy, "param_dtype", None)


def install_group_timeout(engine_workers: ModuleType) -> None:
    """Let ranks wait for each other for `actor_rollout_ref.nccl_timeout` seconds, which verl 0.9.1 reads nowhere.

    Half an hour at least, as without it: verl's default of 600 would shorten that.
    """
    worker = engine_workers.ActorRolloutRefWorker
    init_model = worker.init_model

    @functools.wraps(init_model)  # with what verl's dispatch reads from it
    def wrapped(self: Any) -> Any:
        seconds = max(LEAST_TIMEOUT, int(self.config.get("nccl_timeout") or 0))
        engine_workers.initialize_global_process_group_ray(timeout_second=seconds)  # verl's own call finds it done
        return init_model(self)

    worker.init_model = wrapped


def install_fused_head_fix(fsdp_utils: ModuleType) -> None:
    """Let FSDP2 gather the output layer with the model itself where fused kernels are used (verl pull request 7427).

    They read its weight without calling the layer. An output layer that is not the embedding is a unit of its own in
    verl 0.9.1, which nothing gathers then: Qwen2.5-VL crashes, and the gradients of Qwen3-VL's are not summed over the
    ranks (measured on two: 66% off; with this, as those from logits within 1e-6).
    """
    select = fsdp_utils._select_fsdp2_wrap_targets

    @functools.wraps(select)
    def wrapped(model: Any, *args: Any, **kwargs: Any) -> list[Any]:
        targets: list[Any] = select(model, *args, **kwargs)
        if not hasattr(model, "_verl_fused_kernels_backend"):
            return targets
        heads = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "lm_head"]
        return [target for target in targets if not any(target is head for head in heads)]

    fsdp_utils._select_fsdp2_wrap_targets = wrapped  # type: ignore[attr-defined]
