"""`r1reward data select`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.data.select import SelectionError, SelectSettings
from r1reward_verl.data.select import select as run
from r1reward_verl.data.selection import Rules
from r1reward_verl.errors import R1RewardError
from r1reward_verl.judgement import load_template

app = typer.Typer()


def _cap(text: str) -> tuple[str, int]:
    name, _, size = text.rpartition("=")
    if not name or not size.isdecimal():
        raise typer.BadParameter(f"{text!r} is not SOURCE=N")
    return name, int(size)


@app.command()
@with_settings
def select(
    inputs: Annotated[list[str], typer.Argument(help="Files of `r1reward data annotate`.", metavar="PREFERENCES...")],
    out: Annotated[str, typer.Argument(help="Folder to write.", metavar="OUT_DIR")],
    rules: Rules,
    settings: SelectSettings,
    cap: Annotated[
        list[Any] | None,
        typer.Option(
            help="Largest number of rows of a source in either training set. Repeat it for several.",
            metavar="SOURCE=N",
            parser=_cap,
        ),
    ] = None,
    prompt_template: Annotated[
        str | None,
        typer.Option(help="Template of the prompt, with {question}, {response_1} and {response_2}.", metavar="FILE"),
    ] = None,
) -> int:
    """Select training files from annotated preferences: solved ones for the cold start, hard ones for RL."""
    caps = dict(cap or ())
    if len(caps) < len(cap or ()):
        raise ValueError("--cap: a source is given twice")
    if prompt_template:
        settings = msgspec.structs.replace(settings, template=load_template(prompt_template))
    try:
        card = run(inputs, out, msgspec.structs.replace(rules, caps=caps), settings)
    except FileNotFoundError:
        raise
    except (SelectionError, OSError) as error:
        raise R1RewardError(f"{error}; {out} was not written") from error
    print(_summary(card, out))
    print(f"written: {out}")
    return 0


def _summary(card: Mapping[str, Any], out: str) -> str:
    lines = ["rows  " + ", ".join(f"{number:,} {what}" for what, number in card["rows"].items())]
    lines.append(f"      {_counts(card['difficulty'])}")
    for name, one in card["sets"].items():
        swapped = f", {one['swapped']:,} swapped" if "swapped" in one else ""
        labels = f"labels {one['labels']['1']:,} : {one['labels']['2']:,}{swapped}"
        lines.append(f"{name:<5} {one['rows']:,} rows, {labels}; by difficulty {_counts(one['difficulty'])}")
        lines += [f"      {rows:>9,}  {source}" for source, rows in [*one["sources"].items()][:20]]
    lines += [f"note: {note}" for note in card["notes"]]
    if card["rows"]["rejected"]:
        lines.append(f"rejected rows: {os.path.join(out, 'rejects.jsonl')}")
    return "\n".join(lines)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())
