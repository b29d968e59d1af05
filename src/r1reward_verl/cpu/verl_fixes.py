"""What verl's platform interface does not cover of a CPU; the plugin installs it as verl imports the modules."""

from __future__ import annotations

import os
from datetime import timedelta
from types import ModuleType
from typing import Any

import torch


def install_single_backend(distributed: ModuleType) -> None:
    """Verl composes "cpu:gloo,<device>:<backend>"; with the CPU as device torch refuses the repetition."""

    def initialize_global_process_group_ray(
        timeout_second: int | None = None, backend: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        original_ray(timeout_second, backend or "cpu:gloo", *args, **kwargs)

    def initialize_global_process_group(timeout_second: int = 36000) -> tuple[int, int, int]:
        torch.distributed.init_process_group(
            backend="cpu:gloo",
            timeout=timedelta(seconds=timeout_second),
            init_method=os.environ.get("DIST_INIT_METHOD"),
        )
        return int(os.environ["LOCAL_RANK"]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    original_ray = distributed.initialize_global_process_group_ray
    distributed.initialize_global_process_group_ray = initialize_global_process_group_ray  # type: ignore[attr-defined]
    distributed.initialize_global_process_group = initialize_global_process_group  # type: ignore[attr-defined]


def register_engines(fsdp: ModuleType) -> None:
    """Verl registers its FSDP engines for cuda and npu; the same classes serve the CPU."""
    from verl.workers.engine.base import EngineRegistry

    for model_type, engine in (
        ("language_model", fsdp.FSDPEngineWithLMHead),
        ("value_model", fsdp.FSDPEngineWithValueHead),
    ):
        EngineRegistry.register(model_type=model_type, backend=["fsdp", "fsdp2"], device="cpu")(engine)


def install_copied_weights(transfer: ModuleType) -> None:
    """Hand out copies of received weights.

    verl's receiver hands out views into shared memory, moves them with `.to(device)` and then closes the memory.
    On the CPU `.to` copies nothing, the views stay alive and closing raises BufferError.
    """
    original = transfer.BucketedWeightReceiver.receive_weights

    def receive_weights(self: Any, on_bucket_received: Any, *args: Any, **kwargs: Any) -> Any:
        def with_copies(weights: list[tuple[str, torch.Tensor]], *rest: Any) -> None:
            copies = [(name, tensor.clone()) for name, tensor in weights]
            weights.clear()
            on_bucket_received(copies, *rest)

        return original(self, with_copies, *args, **kwargs)

    transfer.BucketedWeightReceiver.receive_weights = receive_weights
