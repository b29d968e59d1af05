"""`r1reward toy build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.judgement import PROMPT, load_template
from r1reward_verl.toy import build as toy
from r1reward_verl.toy.build import Sizes

app = typer.Typer()


@app.command()
@with_settings
def build(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create.")],
    sizes: Sizes,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    prompt_template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with {question}, {response_1} and {response_2}.")
    ] = None,
    judge: Annotated[bool, typer.Option("--judge", help="Train a tiny judge model too (about two minutes).")] = False,
) -> int:
    """Write a toy world that verl can train on: pictures, preferences and a tiny model."""
    toy.build(
        out, sizes, seed=seed, template=load_template(prompt_template) if prompt_template else PROMPT, judge=judge
    )
    print(f"toy world: {out}")
    return 0
