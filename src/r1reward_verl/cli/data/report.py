"""`r1reward data report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.reports.data import PAGE, DataReportSettings, write_data_report

app = typer.Typer()


@app.command()
@with_settings
def report(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Preferences, or files of `r1reward data select`.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT_DIR", help="Folder to write; an earlier report in it is replaced.")
    ],
    settings: DataReportSettings,
) -> int:
    """Show data files on one page: plots, tables and some of their rows."""
    for name, statistics in write_data_report(files, out, settings).items():
        print(f"{name}: {statistics.rows:,} rows")
    print(f"written: {out / PAGE}")
    return 0
