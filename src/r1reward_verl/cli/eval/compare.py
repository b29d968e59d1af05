"""`r1reward eval compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1reward_verl.evaluation.compare import compare_runs
from r1reward_verl.evaluation.table import comparison_table
from r1reward_verl.evaluation.verdicts import FAILED, load_run
from r1reward_verl.storage import locked, write_json

app = typer.Typer()


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of a run of `r1reward eval run`.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Folder of another run on the same data.")],
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write the figures to.")] = None,
) -> int:
    """Compare two evaluation runs on the same data: paired tests, differences, lengths."""
    runs = [load_run(run_a), load_run(run_b)]
    compared = compare_runs(*runs)
    if json:
        with locked(json):
            write_json(json, {"a": str(run_a), "b": str(run_b), **compared})
    for name, run in zip("AB", runs, strict=True):
        failed = int((run.verdicts.status == FAILED).sum())
        notes = [f"{failed:,} shown cases failed or unfinished"] * (failed > 0)
        notes += ["the last judgement was cut off and is left out"] * run.saved.cut_off
        print(f"{name}: {run.saved.folder}" + (f" ({'; '.join(notes)})" if notes else ""))
    print(f"\n{comparison_table(compared)}")
    return 0
