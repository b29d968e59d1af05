"""Who may write an output: one process at a time, in every command, and a killed one stands in nobody's way."""

import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from factories import preference, preference_file
from r1reward_verl.cli import main
from r1reward_verl.storage import LockedError, locked, replaced_folder
from run_folder import case, judged, write_run

HOLD = """
import sys
from r1reward_verl.storage import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    """Start processes that hold the lock of an output."""
    processes = []

    def hold(path):
        process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=-1, stdout=-1, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in processes:
        process.communicate()


SERVER = "--url http://127.0.0.1:9/v1 --model m"
COMMANDS = {
    "out.parquet": [
        "data convert plain in.parquet out.parquet",
        "data merge in.parquet out.parquet",
        f"data annotate in.parquet out.parquet {SERVER}",
    ],
    "out.json": [
        "data check in.parquet --json out.json",
        "eval rescore run --json out.json",
        "eval compare run run --json out.json",
        "eval export run --file out.json",
    ],
    "out": [
        "data select in.parquet out --rl-difficulty all",
        "data report in.parquet out",
        "toy build out",
        "eval rescore run --out out",
        "eval report run --out out",
        f"judge in.parquet out {SERVER}",
        f"rank in.parquet out {SERVER}",
        "demo --out out",
    ],
}


@pytest.mark.parametrize(("out", "command"), [(out, one) for out, commands in COMMANDS.items() for one in commands])
def test_the_second_writer_is_refused_and_touches_nothing(out, command, held, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    preference_file(tmp_path / "in.parquet", [preference(0), preference(1)])
    write_run(tmp_path / "run", [case(0, "knowledge")], judged(0, 1, 2), benchmark="judgebench")
    (tmp_path / f"{out}.partial").write_text("of the first")
    if "demo" in command:
        (tmp_path / out).mkdir()
    process = held(tmp_path / out)
    before = sorted(os.listdir(tmp_path))
    assert main(command.split()) == (2 if "check" in command else 1)
    error = capsys.readouterr().err
    print("ERR", command, error[-400:])
    assert re.search(rf"process {process.pid} on .* writes '.*{out}': wait for its end", error)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / f"{out}.partial").read_text() == "of the first"


def test_the_lock_of_a_killed_process_locks_nothing(held, tmp_path):
    process = held(tmp_path / "out")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.listdir(tmp_path) == [".out.lock"]
    with locked(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path) == []


REPLACE = """
import os, signal, sys
from pathlib import Path
from r1reward_verl.storage import replaced_folder
if sys.argv[2] == "between":
    rename = Path.rename
    Path.rename = lambda self, to: os.kill(os.getpid(), signal.SIGKILL) if self.name == "new" else rename(self, to)
with replaced_folder(Path(sys.argv[1])) as new:
    (new / "file").write_text("new")
    if sys.argv[2] == "within":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["within", "between"])
def test_a_killed_process_costs_no_folder_and_leaves_none(tmp_path, when):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "file").write_text("old")
    killed = subprocess.run([sys.executable, "-c", REPLACE, folder, when])
    assert killed.returncode == -signal.SIGKILL
    assert folder.exists() == (when == "within")
    with pytest.raises(KeyError), replaced_folder(folder):
        raise KeyError
    assert os.listdir(tmp_path) == ["out"]
    assert (folder / "file").read_text() == "old"
    subprocess.run([sys.executable, "-c", REPLACE, folder, "never"], check=True)
    assert os.listdir(tmp_path) == ["out"]
    assert (folder / "file").read_text() == "new"


def test_other_names_of_the_output_are_the_same_output(tmp_path):
    (tmp_path / "other").symlink_to(tmp_path)
    with locked(tmp_path / "out"), pytest.raises(LockedError), locked(tmp_path / "other" / "out"):
        pass


def test_of_many_that_come_and_go_one_at_a_time_is_in(tmp_path):
    inside, most, done = 0, 0, 0

    def come_and_go():
        nonlocal inside, most, done
        while done < 200:
            try:
                with locked(tmp_path / "out"):
                    inside += 1
                    most = max(most, inside)
                    inside -= 1
                    done += 1
            except LockedError:
                pass

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
