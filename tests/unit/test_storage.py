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
from r1reward_verl.storage import LockedError, locked

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


COMMANDS = {
    "out.parquet": [
        "data convert plain in.parquet out.parquet",
        "data annotate in.parquet out.parquet --url http://127.0.0.1:9/v1 --model m",
    ],
    "out.json": ["data check in.parquet --json out.json"],
    "out": ["data select in.parquet out --rl-difficulty all", "data report in.parquet out", "toy build out"],
}


@pytest.mark.parametrize(("out", "command"), [(out, one) for out, commands in COMMANDS.items() for one in commands])
def test_the_second_writer_is_refused_and_touches_nothing(out, command, held, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    preference_file(tmp_path / "in.parquet", [preference(0), preference(1)])
    (tmp_path / f"{out}.partial").write_text("of the first")
    process = held(tmp_path / out)
    before = sorted(os.listdir(tmp_path))
    assert main(command.split()) == (2 if "check" in command else 1)
    error = capsys.readouterr().err
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
