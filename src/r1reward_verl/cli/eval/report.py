"""`r1reward eval report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1reward_verl.reports.evaluation import figures_table, load_runs, write_evaluation_report
from r1reward_verl.reports.page import text_table

app = typer.Typer()


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folder that `r1reward eval run` wrote.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the report; by default `report` in the first RUN.")
    ] = None,
    gallery: Annotated[int, typer.Option(metavar="N", help="Largest number of cases to look at.", min=0)] = 200,
) -> int:
    """Report evaluations: tables beside the paper's, plots, and a page of judgements to look at."""
    loaded = load_runs(runs)
    path = write_evaluation_report(loaded, out or runs[0] / "report", gallery)
    print(f"{text_table(figures_table(loaded))}\nwritten: {path}")
    return 0
