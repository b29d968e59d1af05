"""The `r1reward` command: finds the subcommand and hands it the rest of the line.

To add a subcommand, write a module with `main(argv) -> exit code` that builds its own parser, and name it
below. Modules are imported when asked for, so that `r1reward --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from r1reward_verl import __version__

# words of the command -> (module, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "data annotate": ("r1reward_verl.data.annotate", "let a teacher write judgements until it agrees with the labels"),
    "data check": ("r1reward_verl.data.check", "validate a data file: schema, media, labels, lengths, duplicates"),
    "data convert": ("r1reward_verl.data.convert", "turn the files of a data set into one file of preferences"),
    "data report": ("r1reward_verl.reports.data", "show what stands in data files, as HTML and PNG"),
    "data select": ("r1reward_verl.data.select", "split annotated preferences into a cold-start and an RL set"),
    "demo": ("r1reward_verl.toy.demo", "run everything on a toy world, without a GPU"),
    "doctor": ("r1reward_verl.plugin.doctor", "check the installation, the machine and a training configuration"),
    "eval compare": ("r1reward_verl.evaluation.compare", "compare two evaluations of the same data, pair by pair"),
    "eval report": ("r1reward_verl.reports.evaluation", "show evaluations: figures beside published ones"),
    "eval run": ("r1reward_verl.evaluation.run", "let a reward model judge a benchmark or a file of preferences"),
    "toy build": ("r1reward_verl.toy.build", "write a toy world: pictures, preferences, a tiny model"),
    "toy teacher": ("r1reward_verl.toy.teacher", "serve the toy world's teacher on an OpenAI-compatible endpoint"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `r1reward ARGV`, by default the process's arguments.

    Returns:
        The exit code of the subcommand: 0 where all went well, 1 where it reports a problem.

    Raises:
        SystemExit: 2 on a command line that cannot be understood, 0 after `--help` and `--version`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for name, (module, _) in COMMANDS.items():
        words = name.split()
        if argv[: len(words)] == words:
            return int(importlib.import_module(module).main(argv[len(words) :]))

    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="r1reward",
        description="Train, evaluate and use generative multimodal reward models, the R1-Reward way.",
        epilog=f"commands:\n{commands}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="r1reward COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=f"r1reward {__version__}")
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    command = parser.parse_args(argv).command
    if not command:
        parser.print_help()
        return 2
    parser.error(f"unknown command {' '.join(command[:2])!r}; known: {', '.join(COMMANDS)}")


if __name__ == "__main__":
    sys.exit(main())
