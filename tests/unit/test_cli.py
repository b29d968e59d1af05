"""The `r1reward` command: it finds its commands, explains them, completes them, and ends as a command should."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from r1reward_verl import __version__
from r1reward_verl.cli import main

COMMANDS = {
    "data": ["annotate", "check", "convert", "merge", "report", "select"],
    "demo": [],
    "demo-policy": [],
    "doctor": [],
    "eval": ["compare", "export", "report", "rescore", "run"],
    "judge": [],
    "rank": [],
    "serve": [],
    "toy": ["build", "teacher"],
}
LINES = [f"{group} {name}".strip() for group, names in COMMANDS.items() for name in names or [""]]
CLI = [sys.executable, "-m", "r1reward_verl.cli"]


def exit_code(line: str) -> int:
    try:
        return main(line.split())
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("command", LINES)
def test_every_command_explains_itself(command: str, option: str, capsys: pytest.CaptureFixture[str]):
    assert exit_code(f"{command} {option}") == 0
    assert re.search(f"usage: r1reward {command} ", capsys.readouterr().out, re.IGNORECASE)


@pytest.mark.parametrize(("group", "names"), [("", list(COMMANDS)), *(one for one in COMMANDS.items() if one[1])])
def test_a_group_lists_its_commands(group: str, names: list[str], capsys: pytest.CaptureFixture[str]):
    assert exit_code(group) == 2
    alone = capsys.readouterr().out
    assert exit_code(f"{group} --help") == 0
    assert alone == capsys.readouterr().out
    assert re.findall(r"^│ ([a-z-]+)  +[A-Z`]", alone, re.MULTILINE) == names


def test_version(capsys: pytest.CaptureFixture[str]):
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"r1reward {__version__}\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("docter", "error: No such command 'docter'. Did you mean 'doctor'?"),
        ("data anotate", "error: No such command 'anotate'. Did you mean 'annotate'?"),
        ("--verbose", "error: No such option: --verbose"),
        ("doctor --fix", "error: No such option: --fix"),
        ("toy teacher --port many", "error: Invalid value for '--port'"),
        ("toy teacher --slip 3", "error: slip is 3.0: Expected `float` <= 1.0"),
    ],
)
def test_bad_usage_is_one_line_after_the_usage(line: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert exit_code(line) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1].startswith(words)


@pytest.mark.parametrize("line", ["--dry-run +a=1 ~b", "+a=1 --dry-run ~b", "+a=1 ~b --dry-run"])
def test_doctor_takes_dry_run_anywhere(line: str, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr("r1reward_verl.plugin.doctor.diagnose", lambda *args, **kwargs: asked.append((args, kwargs)))
    assert exit_code(f"doctor {line}") == 0
    assert asked == [((["+a=1", "~b"],), {"dry_run": True})]


@pytest.mark.parametrize("line", ["--help", "--version", "data convert --help", "eval --help", "toy teacher --help"])
def test_help_imports_nothing_heavy(line: str):
    code = (
        f"import sys; from r1reward_verl.cli import main; main({line.split()!r}); "
        "assert not {'torch', 'verl', 'hydra', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_answers_at_once():
    """The best of three beside the libraries that it loads: twice their processor time, on any machine."""

    def seconds(*command: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=60)
        after = os.times()
        return after.children_user - before.children_user

    libraries = "import aiohttp, jinja2, msgspec, pyarrow, rich.markdown, rich.traceback, typer.rich_utils"
    pairs = [(seconds("-m", "r1reward_verl.cli", "--help"), seconds("-c", libraries)) for _ in range(3)]
    assert min(pairs)[0] < 2 * min(libraries for _, libraries in pairs)


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("", list(COMMANDS)),
        ("da", ["data"]),
        ("data ", COMMANDS["data"]),
        ("toy teacher --s", ["--seed", "--slip"]),
        ("demo --judge p", ["pool"]),
    ],
)
def test_the_shell_completes(line: str, completions: list[str]):
    words = f"r1reward {line}"
    environment = {"_R1REWARD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(CLI, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == completions


@pytest.mark.parametrize("line", ["--help", "--version", "data --help", "toy teacher --port 0"])
def test_a_reader_that_has_gone_ends_it_without_a_traceback(line: str):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*CLI, *line.split()], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_reference_names_every_command_and_its_options():
    command = [sys.executable, "-m", "typer", "r1reward_verl.cli", "utils", "docs", "--name", "r1reward"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert [line for line in LINES if f"# `r1reward {line}`\n" not in text] == []
    assert "* `--sft-steps <int>`: Optimizer steps of the cold start" in text


def working_in(folder: Path) -> list[str]:
    """Return the command lines of the processes whose working directory is in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                found.append((process / "cmdline").read_text())
    return found


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("line", "begun", "kept"),
    [
        ("toy build OUT", ".OUT.*/new/preferences.parquet", set()),
        ("demo --out OUT --sft-steps 2 --rl-steps 1", "OUT/annotated.parquet.journal.jsonl", {"OUT"}),
    ],
)
def test_a_signal_ends_it_without_leftovers(
    line: str, begun: str, kept: set[str], sign: int, code: int, tmp_path: Path
):
    command = [*CLI, *line.split()]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob(begun)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(sign)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert errors.endswith("interrupted; the same command resumes from what is finished\n")
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert not [*tmp_path.rglob("*.partial"), *tmp_path.rglob(".toy.*")]
    assert working_in(tmp_path) == []


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_server(sign: int, code: int):
    process = subprocess.Popen([*CLI, "toy", "teacher", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"http://127.0.0.1:")
    process.send_signal(sign)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in errors
