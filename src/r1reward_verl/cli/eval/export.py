"""`r1reward eval export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1reward_verl.evaluation.export import export_run, log_to_tensorboard, log_to_wandb, scalars
from r1reward_verl.evaluation.folder import read_run
from r1reward_verl.evaluation.scoring import figures_of
from r1reward_verl.reports.page import short_names

app = typer.Typer()


@app.command()
def export(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folder that `r1reward eval run` wrote.")],
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write for the benchmark's own script (jsonl); of one RUN."),
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write the figures to as TensorBoard events.")
    ] = None,
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Project of Weights & Biases to log the figures to.")
    ] = None,
    step: Annotated[int, typer.Option(metavar="N", min=0, help="Training step to log the figures at.")] = 0,
) -> int:
    """Export runs: judgements for the benchmark's own script, figures to TensorBoard or Weights & Biases."""
    if file is None and tensorboard is None and wandb is None:
        raise ValueError("nothing to export to: give --file, --tensorboard or --wandb")
    if file is not None and len(runs) > 1:
        raise ValueError(f"--file is for one RUN, and there are {len(runs)}")
    saved = {name: read_run(folder) for name, folder in short_names(runs, lambda folder: folder.resolve().name).items()}
    if file is not None:
        count = export_run(next(iter(saved.values())), file)
        print(f"{count:,} lines: {file}")
    if tensorboard is None and wandb is None:
        return 0
    figures = {
        name.replace("/", "-"): scalars(figures_of(run), str(run.settings.get("benchmark")))
        for name, run in saved.items()
    }
    if tensorboard is not None:
        log_to_tensorboard(figures, tensorboard, step)
        print(f"figures of {len(figures)} runs: {tensorboard}")
    if wandb is not None:
        log_to_wandb(figures, wandb, step)
        print(f"figures of {len(figures)} runs: project {wandb}")
    return 0
