"""`r1reward toy build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.judgement import PROMPT, load_template
from r1reward_verl.toy import build as toy
from r1reward_verl.toy.build import Sizes
from r1reward_verl.toy.model import ModelName
from r1reward_verl.toy.world import Level

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
    model: Annotated[ModelName, typer.Option(help="The tiny model; qwen3 reads texts only.")] = "qwen2.5-vl",
    level: Annotated[
        Level,
        typer.Option(
            help="One thing in a picture; one and a distractor; scenes with questions about number and place too."
        ),
    ] = "single",
    judge: Annotated[bool, typer.Option("--judge", help="Train a tiny judge model too (about two minutes).")] = False,
) -> int:
    """Write a toy world that verl can train on: pictures, preferences and a tiny model."""
    template = load_template(prompt_template) if prompt_template else PROMPT
    toy.build(out, sizes, seed=seed, template=template, judge=judge, model=model, level=level)
    print(f"toy world: {out}")
    return 0
