"""`r1reward toy teacher`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.toy.teacher import Faults, Teacher, serve_teacher

app = typer.Typer()


@app.command()
@with_settings
def teacher(
    faults: Faults,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8001,
    seed: Annotated[int, typer.Option(help="Seed of the faults.")] = 0,
) -> int:
    """Serve the toy world's teacher on an OpenAI-compatible endpoint."""
    asyncio.run(serve_teacher(Teacher(faults, seed), port))
    return 0
