"""What every benchmark shares: fair timing of rivals, peak memory, one table and one JSON file.

Rivals are timed in turns within one process, so that whatever else the machine does hits all of them alike;
a figure is the median over the rounds.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parent / "results"


@dataclass
class Figure:
    """One line of a benchmark's table."""

    name: str
    value: float
    unit: str
    peer: float | None = None
    """The same figure of the peer it is measured against."""
    target: float | None = None
    at_least: bool = True
    """Whether `target` is a lower or an upper bound of `measure`."""
    compare: str = "value"
    """What `target` bounds: "value", "speedup" (peer/value), "ratio" (value/peer), "extra" (value - peer)."""

    @property
    def measure(self) -> float:
        """The quantity that `target` bounds."""
        if self.compare == "value":
            return self.value
        if self.peer is None:
            raise ValueError(f"{self.name}: {self.compare} needs a peer")
        if self.compare == "extra":
            return self.value - self.peer
        return self.peer / self.value if self.compare == "speedup" else self.value / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        if self.target is None:
            return None
        return self.measure >= self.target if self.at_least else self.measure <= self.target


def seconds(rivals: Mapping[str, Callable[[], object]], rounds: int = 15, warm_up: int = 2) -> dict[str, float]:
    """Median wall-clock seconds of one call of each rival, measured in turns.

    A fast rival is called several times in its turn, so that turns are about as long as one call of the
    slowest: otherwise it alone would pay, at every call, for caches that the slow one has emptied.
    """
    calls = dict.fromkeys(rivals, 1)
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for round_ in range(warm_up + rounds):
        if round_ == warm_up:
            slowest = max(values[-1] for values in times.values())
            calls = {name: max(1, min(20, round(slowest / values[-1]))) for name, values in times.items()}
            times = {name: [] for name in rivals}
        for name, call in rivals.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                call()
            times[name].append((time.perf_counter() - start) / calls[name])
    return {name: statistics.median(values) for name, values in times.items()}


def peak_bytes(call: Callable[[], object]) -> int:
    """Largest number of bytes that torch's CPU allocator held during `call` beyond what it held before.

    Counted from the allocator's own events, so the figure is the same in every run.
    """
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def report(name: str, figures: list[Figure], packages: tuple[str, ...] = ("torch", "verl")) -> int:
    """Print the table, write `results/NAME.json` and return the exit code: 1 when a target is missed."""
    print_table(figures)
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": name, "figures": [as_result(figure) for figure in figures], **circumstances(packages)}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to {os.path.relpath(path)}")
    return int(any(figure.met is False for figure in figures))


def print_table(figures: Sequence[Figure]) -> None:
    """Print figures with their peers and targets."""
    width = max(len(figure.name) for figure in figures)
    print(f"{'':{width}}  {'ours':>12}  {'peer':>12}  {'measure':>18}  target")
    for figure in figures:
        peer = "" if figure.peer is None else f"{figure.peer:.4g}"
        measure = f"{figure.measure:.3g} {figure.compare}"
        bound = "" if figure.target is None else f"{'>=' if figure.at_least else '<='} {figure.target:g}"
        verdict = {None: "", True: "met", False: "MISSED"}[figure.met]
        value = f"{figure.value:.4g} {figure.unit}"
        print(f"{figure.name:{width}}  {value:>12}  {peer:>12}  {measure:>18}  {bound} {verdict}")


def as_result(figure: Figure) -> dict[str, Any]:
    """Return a figure as it stands in a file of results."""
    return {**asdict(figure), "measure": figure.measure, "met": figure.met}


def circumstances(packages: Sequence[str]) -> dict[str, Any]:
    """Return under what figures were measured: versions of those `packages` that are there, hardware and command."""
    versions = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "versions": {"python": platform.python_version(), **versions},
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "command": " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
