"""`r1reward data convert`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.data.convert import ConversionError, ConvertSettings
from r1reward_verl.data.convert import convert as run
from r1reward_verl.data.media_folder import NoMediaRoot
from r1reward_verl.data.sources import load_source, source_names
from r1reward_verl.errors import R1RewardError

app = typer.Typer()


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
    source: Annotated[str, typer.Argument(help=f"Data set: {', '.join(source_names())}.")],
    inputs: Annotated[
        list[str], typer.Argument(help="Files: .jsonl, .json, .csv (each also .gz) or .parquet.", metavar="IN...")
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
    try:
        report = run(load_source(source, **options), inputs, out, settings)
    except ConversionError as error:
        print(error.report)
        raise R1RewardError(f"{error}; {out} was not written") from error
    except NoMediaRoot as error:
        raise R1RewardError(f"{error} (--media ROOT), or do not look at files (--no-check-media)") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise R1RewardError(f"{error}; {out} was not written") from error
    print(report)
    print(f"written: {out}")
    return 0
