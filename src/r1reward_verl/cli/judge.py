"""`r1reward judge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.cli.model_options import ModelSettings, RunSettings, run_file
from r1reward_verl.use.exports import ExportSettings
from r1reward_verl.use.files import judge_task
from r1reward_verl.use.settings import ComparisonSettings

app = typer.Typer()


@app.command(
    epilog="Exit codes: 0 every row has a result, 1 not every row has one, or the run failed, 2 wrong arguments, 130 "
    "interrupted. The same command resumes, and tries failed rows again."
)
@with_settings
def judge(
    file: Annotated[Path, typer.Argument(help="File of questions with two responses each; no label is needed.")],
    out: Annotated[Path, typer.Argument(help="Folder to write. Results that it holds are resumed.")],
    model: ModelSettings,
    comparison: ComparisonSettings,
    run: RunSettings,
    export: ExportSettings,
    one_order: Annotated[bool, typer.Option("--one-order", help="Show each pair in its own order only.")] = False,
) -> int:
    """Let a reward model decide which of two responses is better, for every row of a file.

    OUT gets results.jsonl (verdict, probability, reasoning), pairs.jsonl (the pairs in TRL's form) and summary.json.
    """
    return run_file(file, out, model, comparison, judge_task(both_orders=not one_order), run, export)
