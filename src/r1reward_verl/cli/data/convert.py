"""`r1reward data convert`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.data.convert import ConversionError, ConvertSettings
from r1reward_verl.data.convert import convert as run
from r1reward_verl.data.dataset_files import data_files
from r1reward_verl.data.sources import load_source, source_names
from r1reward_verl.data.sources.base import Source
from r1reward_verl.errors import R1RewardError
from r1reward_verl.evaluation.benchmarks import BENCHMARKS
from r1reward_verl.evaluation.benchmarks.source import BenchmarkSource

app = typer.Typer()

_BENCHMARKS = {name: one for name, one in BENCHMARKS.items() if one.read_row is not None}


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@app.command()
@with_settings
def convert(
    source: Annotated[str, typer.Argument(help=f"Data set: {', '.join([*source_names(), *_BENCHMARKS])}.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Files: .jsonl, .json, .csv (each also .gz), .parquet or .arrow; folders of such files; names of data "
            "sets on the Hugging Face Hub.",
            metavar="IN...",
        ),
    ],
    out: Annotated[str, typer.Argument(help="Parquet file to write.")],
    settings: ConvertSettings,
    column: Annotated[
        list[Any] | None,
        typer.Option(
            help="For the source plain: the column that holds a field. Repeat it for several.",
            metavar="FIELD=COLUMN",
            parser=_pair,
        ),
    ] = None,
    label: Annotated[
        list[Any] | None,
        typer.Option(
            help="For the source plain: what a value of the label means, 1, 2 or skip, such as A=1. Repeat it.",
            metavar="VALUE=MEANING",
            parser=_pair,
        ),
    ] = None,
    headings: Annotated[
        str | None,
        typer.Option(
            help="For the source r1-reward-rl: the headings of question, response 1, response 2 and what follows.",
            metavar="'A|B|C|D'",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of folders and of data sets on the Hub.", metavar="NAME")
    ] = None,
    source_option: Annotated[
        list[Any] | None,
        typer.Option(
            help="Option of the source, for example margin=1 of vl-feedback. Repeat it for several.",
            metavar="NAME=VALUE",
            parser=_pair,
        ),
    ] = None,
) -> int:
    """Convert the files of a data set to one parquet file of preferences."""
    options = {name: _json_or_text(text) for name, text in source_option or ()}
    if column:
        options["columns"] = dict(column)
    if label:
        options["labels"] = dict(label)
    if headings:
        options["headings"] = headings.split("|")
    names = [*source_names(), *_BENCHMARKS]
    if source not in names:
        raise ValueError(f"source {source!r} is unknown; known: {', '.join(names)}")
    if source in _BENCHMARKS and options:
        raise ValueError(f"the benchmark {source} has no options (given: {options})")
    reader: Source = BenchmarkSource(_BENCHMARKS[source]) if source in _BENCHMARKS else load_source(source, **options)
    try:
        report = run(reader, data_files(inputs, split), out, settings)
    except ConversionError as error:
        print(error.report)
        raise R1RewardError(f"{error}; {out} was not written") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise R1RewardError(f"{error}; {out} was not written") from error
    print(report)
    print(f"written: {out}")
    return 0
