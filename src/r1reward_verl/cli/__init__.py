"""The `r1reward` command: one module a command, imported when it is asked for.

A command's module holds `app`, a Typer app with one command (see CONTRIBUTING.md); its name stands in a group below or
in `data`, `eval` and `toy`. A command returns its exit code, and raises what went wrong: errors are printed here, in
one way for all commands.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

from r1reward_verl import __version__
from r1reward_verl.cli.groups import command_group
from r1reward_verl.errors import R1RewardError

app = command_group(
    "Train, evaluate and use generative multimodal reward models, the R1-Reward way.",
    {
        "data": "r1reward_verl.cli.data",
        "demo": "r1reward_verl.cli.demo",
        "demo-policy": "r1reward_verl.cli.demo_policy",
        "doctor": "r1reward_verl.cli.doctor",
        "eval": "r1reward_verl.cli.eval",
        "judge": "r1reward_verl.cli.judge",
        "rank": "r1reward_verl.cli.rank",
        "serve": "r1reward_verl.cli.serve",
        "toy": "r1reward_verl.cli.toy",
    },
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"r1reward {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run `r1reward ARGV`, by default the process's arguments.

    Returns:
        The exit code: 0 if all went well, 1 if the work failed, 2 for bad usage or input, 130 after Ctrl-C, 141 where
        the reader of the output has gone, 143 after SIGTERM; a command may have others, which its help lists.
    """
    terminated = False

    def terminate(number: int, frame: FrameType | None) -> None:
        # As Ctrl-C does, so that asyncio cancels its tasks and every `finally` on the way out is run.
        nonlocal terminated
        terminated = True
        interrupt = signal.getsignal(signal.SIGINT)
        (interrupt if callable(interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        code = _run(sys.argv[1:] if argv is None else list(argv))
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 128 + signal.SIGTERM if terminated else code


def _run(arguments: list[str]) -> int:
    """Run the command, print the error that ends it, and return the exit code."""
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
        return code
    except (BrokenPipeError, SystemExit) as error:
        # rich exits with 1 where the reader has gone.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # Python flushes standard output once more at exit; the rest of the output goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        usage = f"{context.get_usage()}\n" if context else ""
        print(f"{usage}error: {error.format_message()}", file=sys.stderr)
        return error.exit_code
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (R1RewardError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from what is finished", file=sys.stderr)
        return 128 + signal.SIGINT


def _invoke(arguments: list[str]) -> int:
    """Do what `Command.main` of typer does, without its own treatment of errors and signals."""
    command = typer.main.get_command(app)
    if "_R1REWARD_COMPLETE" in os.environ:
        command.main(prog_name="r1reward")  # the shell asks for completions; exits
    try:
        with command.make_context("r1reward", arguments) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as end:
        return end.exit_code
