"""Runs in the forms of other tools: the benchmarks' own scripts, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r1reward_verl.engines.base import GREEDY
from r1reward_verl.evaluation.benchmarks import BENCHMARKS, Showing
from r1reward_verl.evaluation.folder import ORDERS, SavedRun
from r1reward_verl.evaluation.reading import read_judgement
from r1reward_verl.storage import locked, write_text


def export_lines(saved: SavedRun) -> Iterator[dict[str, Any]]:
    """Yield the lines of the file that the own script of a run's benchmark reads.

    Raises:
        ValueError: the script of the benchmark does not score judgements of pairs, or is not known.
    """
    benchmark = BENCHMARKS.get(str(saved.settings.get("benchmark")))
    if benchmark is None or benchmark.export is None:
        known = ", ".join(name for name, one in BENCHMARKS.items() if one.export)
        raise ValueError(
            f"{saved.folder} is a run of {saved.settings.get('benchmark')!r}, for which no script is known that scores "
            f"judgements of pairs; known: {known}"
        )
    showings: dict[int, dict[int, Showing]] = defaultdict(dict)  # of repeated judgements the last counts
    for one in saved.judgements():
        if one.sample == GREEDY and one.status != "failed":
            label = ORDERS[one.order]
            showings[one.row][label] = Showing(label, read_judgement(one.text, saved.reading).choice, one.text)
    for case in saved.cases():
        if case.row in showings:
            yield from benchmark.export(case, [one for _, one in sorted(showings[case.row].items())])


def export_run(saved: SavedRun, path: Path) -> int:
    """Write the greedy judgements of a run for the script of its benchmark, and return the number of lines.

    Raises:
        ValueError: see `export_lines`.
        OSError: the file cannot be written.
    """
    lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in export_lines(saved)]
    with locked(path):
        write_text(path, "".join(lines))
    return len(lines)


def scalars(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return the figures of a run that are numbers; those of a category, for example, below its name."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= scalars(value, f"{prefix}/{name}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}/{name}"] = float(value)
    return found


def log_to_tensorboard(runs: Mapping[str, Mapping[str, float]], folder: Path, step: int) -> None:
    """Write scalars to event files, in a folder for each run."""
    from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

    for name, values in runs.items():
        with SummaryWriter(str(folder / name)) as writer:
            for title, value in values.items():
                writer.add_scalar(title, value, step)


def log_to_wandb(runs: Mapping[str, Mapping[str, float]], project: str, step: int) -> None:
    """Log scalars to a project of Weights & Biases, as a run each; where and as whom, its own variables say.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import wandb  # takes seconds to import, and need not be installed
    except ImportError:
        raise ValueError("--wandb needs Weights & Biases: pip install wandb") from None
    for name, values in runs.items():
        with wandb.init(project=project, name=name) as run:
            run.log(dict(values), step=step)
