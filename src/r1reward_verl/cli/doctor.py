"""`r1reward doctor`."""

from __future__ import annotations

import traceback
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def doctor(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OVERRIDE",
            help="Hydra overrides as for verl.trainer.main_ppo, for example "
            "+recipe=r1_reward data.train_files=pairs.parquet actor_rollout_ref.model.path=sft",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the composed configuration as YAML on stdout; the checks then go to stderr."
        ),
    ] = False,
) -> int:
    """Check the installation and this machine and, given overrides, the training configuration that they compose.

    The exit code is 1 if there is any problem.
    """
    try:
        from r1reward_verl.plugin.doctor import diagnose  # imports verl and torch, which take seconds
    except Exception as error:  # verl hides a plugin that cannot be imported
        traceback.print_exc()
        print(
            f"PROBLEM  the plugin cannot be imported ({type(error).__name__}: {error}), and verl would not say so: "
            "install r1reward-verl again, with the versions that it pins"
        )
        return 1
    return diagnose(overrides or [], dry_run=dry_run)
