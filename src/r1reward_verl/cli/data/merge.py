"""`r1reward data merge`."""

from __future__ import annotations

from typing import Annotated

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.data.merge import MergeError, MergeSettings
from r1reward_verl.data.merge import merge as run
from r1reward_verl.errors import R1RewardError

app = typer.Typer()


@app.command()
@with_settings
def merge(
    inputs: Annotated[
        list[str], typer.Argument(help="Files of `r1reward data convert` or `annotate`.", metavar="PREFERENCES...")
    ],
    out: Annotated[str, typer.Argument(help="Parquet file to write.")],
    settings: MergeSettings,
) -> int:
    """Merge files of preferences into one, each preference once."""
    try:
        report = run(inputs, out, settings)
    except FileNotFoundError:
        raise
    except (MergeError, OSError) as error:
        raise R1RewardError(f"{error}; {out} was not written") from error
    print(report)
    print(f"written: {out}")
    return 0
