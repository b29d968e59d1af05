"""`r1reward data check`."""

from __future__ import annotations

from typing import Annotated

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.data.check import CheckSettings
from r1reward_verl.data.check import check as run
from r1reward_verl.storage import LockedError

app = typer.Typer()


@app.command(epilog="Exit codes: 0 nothing is wrong, 1 something is wrong, 2 the command cannot be carried out.")
@with_settings
def check(
    file: Annotated[str, typer.Argument(help="File of `r1reward data`, or another one in one of its forms.")],
    settings: CheckSettings,
) -> int:
    """Report everything that is wrong with a data file: preferences, or what verl trains on."""
    try:
        report = run(file, settings)
    except (OSError, LockedError) as error:
        raise ValueError(str(error)) from error
    print(report)
    return 1 if report.problems else 0
