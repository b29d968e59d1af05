"""`r1reward rank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.cli.model_options import ModelSettings, RunSettings, run_file
from r1reward_verl.use.exports import ExportSettings
from r1reward_verl.use.files import rank_task
from r1reward_verl.use.settings import ComparisonSettings, RankSettings

app = typer.Typer()


@app.command(
    epilog="Exit codes: 0 every row has a result, 1 not every row has one, or the run failed, 2 wrong arguments, 130 "
    "interrupted. The same command resumes, and tries failed rows again."
)
@with_settings
def rank(
    file: Annotated[Path, typer.Argument(help="File of questions with lists of responses.")],
    out: Annotated[Path, typer.Argument(help="Folder to write. Results that it holds are resumed.")],
    model: ModelSettings,
    comparison: ComparisonSettings,
    ranking: RankSettings,
    run: RunSettings,
    export: ExportSettings,
) -> int:
    """Let a reward model rank the responses of every row of a file.

    OUT gets results.jsonl (scores and order), best.jsonl (the best response of each row), pairs.jsonl (preference pairs
    in TRL's form, with a margin) and summary.json.
    """
    return run_file(file, out, model, comparison, rank_task(ranking), run, export)
