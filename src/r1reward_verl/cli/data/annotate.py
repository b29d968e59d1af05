"""`r1reward data annotate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.data.annotate import AnnotateSettings
from r1reward_verl.data.annotate import annotate as run
from r1reward_verl.errors import R1RewardError
from r1reward_verl.judgement import load_template

app = typer.Typer()


def _json_object(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise typer.BadParameter(f'{text!r} is not a JSON object, such as {{"top_p": 0.9}}')
    return fields


@app.command(
    epilog="Exit codes: 0 all is written, 1 the run failed, 2 a bad argument, 3 the budget ended the run (what is "
    "finished is written), 130 interrupted. The same command resumes an interrupted run."
)
@with_settings
def annotate(
    preferences: Annotated[str, typer.Argument(help="File of `r1reward data convert`.")],
    out: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    settings: AnnotateSettings,
    prompt: Annotated[
        str | None,
        typer.Option(help="Template of the prompt, with {question}, {response_1} and {response_2}.", metavar="FILE"),
    ] = None,
    body: Annotated[
        Any,
        typer.Option(help="Further fields of each request; null leaves one out.", parser=_json_object, metavar="JSON"),
    ] = None,
) -> int:
    """Let a teacher model write judgements of preferences until one agrees with the label."""
    more: dict[str, Any] = {} if prompt is None else {"prompt": load_template(prompt)}
    try:
        report = run(preferences, out, msgspec.structs.replace(settings, body=body or {}, **more))
    except (R1RewardError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise R1RewardError(f"{error}; {out} was not written") from error
    except KeyboardInterrupt:
        journal = f"{out}.journal.jsonl"
        print(f"interrupted; every finished call is in {journal}, and the same command resumes it", file=sys.stderr)
        return 130
    print(report)
    if report.rows["finished"] + report.rows["annotated_before"]:
        print(f"written: {out}")
    if report.budget_reached:
        print(
            f"the budget of {settings.budget:g} is used up: {report.rows['left']:,} rows are left, and the same "
            "command with a larger --budget resumes",
            file=sys.stderr,
        )
        return 3
    return 0
