"""A Ray cluster of several nodes on this machine, for the end-to-end tests."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from factories import free_port

_HOST = "127.0.0.1"


@contextmanager
def ray_cluster(logs: Path, nodes: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, str]]:
    """Start nodes of one logical GPU each, and yield the environment in which a driver finds them.

    Args:
        logs: folder of what the nodes print; below it is the folder in which each node is started, and no driver.
        nodes: environment of each node by its name; the first is the head.
    """
    # Short, for the paths of sockets, and not where another Ray of this machine would be found.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    address = f"{_HOST}:{free_port()}"
    # A token of an earlier Ray in the home folder would be asked for otherwise.
    environment = {"RAY_ADDRESS": address, "RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled"}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, own in nodes.items():
            started.append(_start(logs, name, address, {**environment, **own}, head=not started))
        yield environment
    finally:
        _end(started)
        shutil.rmtree(folder, ignore_errors=True)


def on_cluster(environment: Mapping[str, str]) -> list[str]:
    """Return the overrides with which `+hardware=cpu` joins a cluster instead of starting a Ray of its own."""
    settings = {"address": environment["RAY_ADDRESS"], "num_cpus": "null", "num_gpus": "null"}
    return [f"ray_kwargs.ray_init.{name}={value}" for name, value in settings.items()]


def _start(logs: Path, name: str, address: str, environment: Mapping[str, str], head: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += [f"--node-name={name}", f"--node-ip-address={_HOST}", "--num-cpus=16", "--num-gpus=1"]
    command += ["--object-store-memory=300000000", f"--dashboard-agent-listen-port={free_port()}"]
    if head:
        command += ["--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"]
        command += [f"--ray-client-server-port={free_port()}"]
    else:
        command += [f"--address={address}", "--include-log-monitor=false"]
    folder, log = logs / name, logs / f"{name}.txt"
    folder.mkdir(parents=True)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    # `ray start` takes the address from its options only.
    environment = {key: value for key, value in environment.items() if key != "RAY_ADDRESS"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**clean, "HF_HUB_OFFLINE": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            _end([process])
            raise AssertionError(f"node {name} did not start: {log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)
    return process


def _end(nodes: list[subprocess.Popen[bytes]]) -> None:
    """End all nodes and what they started."""
    for process in nodes:
        process.terminate()
    deadline = time.monotonic() + 15
    while any(process.poll() is None for process in nodes) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in nodes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
