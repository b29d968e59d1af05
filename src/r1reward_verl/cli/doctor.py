"""`r1reward doctor`."""

from __future__ import annotations

import traceback
from pathlib import Path
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
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Compute the memory of each GPU instead, by part and phase, and propose settings where it does not "
            "fit. Takes model=FOLDER or a name such as model=Qwen2.5-VL-7B, and gpus=8x80 (8 GPUs of 80 GB) or "
            "gpus=2x8x80 (two such nodes), among the overrides.",
        ),
    ] = False,
    verl: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Sources of a verl, which are read and not imported, to check instead."),
    ] = None,
) -> int:
    """Check the installation and this machine and, given overrides, the training configuration that they compose.

    With --verl only: check another verl for what this package uses of it. The exit code is 1 if there is any problem or
    the plan does not fit.
    """
    try:
        from r1reward_verl.plugin.verl_tree import check_tree  # the plugin may be what is broken

        if verl is None:
            from r1reward_verl.plugin.doctor import diagnose  # imports verl and torch, which take seconds
            from r1reward_verl.plugin.plan.command import print_plan
    except Exception as error:  # verl hides a plugin that cannot be imported
        traceback.print_exc()
        print(
            f"PROBLEM  the plugin cannot be imported ({type(error).__name__}: {error}), and verl would not say so: "
            "install r1reward-verl again, with the versions that it pins"
        )
        return 1
    if verl is not None:
        return check_tree(verl)
    return print_plan(overrides or []) if plan else diagnose(overrides or [], dry_run=dry_run)
