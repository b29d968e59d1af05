"""The `r1reward` command finds its subcommands, imports no more, and says what it does not know."""

import importlib
import subprocess
import sys

import pytest

from r1reward_verl import __version__
from r1reward_verl.cli import COMMANDS, main
from r1reward_verl.plugin.doctor import parse_arguments


@pytest.mark.parametrize("module", [module for module, _ in COMMANDS.values()])
def test_every_command_has_its_module(module: str):
    assert callable(importlib.import_module(module).main)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert f"usage: r1reward {command}" in capsys.readouterr().out


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    output = capsys.readouterr().out
    for command, (_, text) in COMMANDS.items():
        assert command in output
        assert text in output


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"r1reward {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["docter"], "unknown command 'docter'; known: data annotate, data check"),
        (["toy"], "unknown command 'toy'"),
        (["--verbose"], "--verbose"),
        (["doctor", "--fix"], "unrecognized arguments: --fix"),
    ],
)
def test_what_it_does_not_know(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_nothing_prints_the_help(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2
    assert "doctor" in capsys.readouterr().out


@pytest.mark.parametrize("position", [0, 1, 2])
def test_doctor_takes_dry_run_anywhere(position: int):
    overrides = ["+recipe=r1_reward", "~trainer.logger"]
    parsed = parse_arguments([*overrides[:position], "--dry-run", *overrides[position:]])
    assert parsed.dry_run
    assert parsed.overrides == overrides


def test_answers_without_importing_what_is_heavy():
    code = (
        "import sys; from r1reward_verl.cli import main; main([]); "
        "assert not {'torch', 'verl', 'hydra'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
