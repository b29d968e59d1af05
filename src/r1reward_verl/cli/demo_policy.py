"""`r1reward demo-policy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.toy.policy_demo import PolicyDemo, PolicyDemoSettings
from r1reward_verl.toy.stages import remove_demo

app = typer.Typer()


@app.command()
@with_settings
def demo_policy(
    settings: PolicyDemoSettings,
    demo: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of a finished demo of the level single.")] = Path(
        "outputs/demo-single"
    ),
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write to.")] = Path("outputs/demo-policy"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier demo in that folder first.")] = False,
) -> int:
    """Train a tiny policy by GRPO with the demo's reward models as its only rewards, and report how right it became."""
    if fresh:
        remove_demo(out)
    PolicyDemo(demo, out, settings).run()
    return 0
