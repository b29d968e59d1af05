"""`r1reward eval rescore`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from r1reward_verl.evaluation.benchmarks import BENCHMARKS
from r1reward_verl.evaluation.bootstrap import RESAMPLES
from r1reward_verl.evaluation.folder import copy_run, read_run
from r1reward_verl.evaluation.reading import Reading
from r1reward_verl.evaluation.scoring import hints, score_run
from r1reward_verl.evaluation.table import metrics_table
from r1reward_verl.storage import locked, write_json

app = typer.Typer()


@app.command()
def rescore(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `r1reward eval run` wrote.")],
    lenient: Annotated[
        Reading | None,
        typer.Option(help="How to read judgements (see `eval run`); by default as the run did."),
    ] = None,
    protocol: Annotated[Literal["strict", "reference"], typer.Option(help="Figures to print.")] = "strict",
    resamples: Annotated[int, typer.Option(metavar="N", min=1, help="Number of resamples of the intervals.")] = (
        RESAMPLES
    ),
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the resampling.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for a copy of the run with these figures, to compare and report."),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write the figures to.")] = None,
) -> int:
    """Compute the figures of a run anew, without its data and model: another reading, protocol or interval."""
    saved = read_run(run)
    metrics = score_run(run, reading=lenient, resamples=resamples, seed=seed)
    if metrics is None:
        raise ValueError(f"{run} has no figures: none of its judgements succeeded")
    figures = metrics["reference"] if protocol == "reference" else metrics
    if figures is None:
        raise ValueError(
            "no figures of the reference's protocol: they need cases shown with the better response first, and "
            f"{run} has none that is judged"
        )
    if json:
        with locked(json):
            write_json(json, metrics)
    if out:
        copy_run(saved, out, metrics)
    print(metrics_table(figures, BENCHMARKS[saved.settings["benchmark"]]))
    for hint in hints(metrics):
        print(f"note: {hint}", file=sys.stderr)
    return 0
