"""`r1reward demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.toy.demo import Demo, DemoSettings
from r1reward_verl.toy.stages import remove_demo

app = typer.Typer()


@app.command()
@with_settings
def demo(
    settings: DemoSettings,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write to.")] = Path("outputs/demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier demo in that folder first.")] = False,
    install_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds that the installation took, for the summary.")
    ] = None,
) -> int:
    """Run everything on a toy world without a GPU: cold start, StableReinforce, evaluation and report."""
    if fresh:
        remove_demo(out)
    Demo(out, settings, install_seconds).run()
    return 0
