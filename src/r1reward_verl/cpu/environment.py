"""What vLLM, OpenMP and torch read from the environment once, at start, on a machine without a GPU.

Free of torch, so that it can be applied before torch is imported.
"""

from __future__ import annotations

import os

# What each lever gave is in docs/explanation/cpu.md.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; vLLM's default takes a share of all memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # actor and rollout take turns on the same cores
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs its one worker itself: fewer processes import vLLM
    "OMP_WAIT_POLICY": "PASSIVE",  # a waiting process must not spin on a core that another one needs
    "TORCHINDUCTOR_VEC_ISA_OK": "0",  # torch would start ten processes to try instructions that nobody compiles for
}


def apply() -> None:
    """Set these variables, except where the user has; processes started from here inherit them."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
