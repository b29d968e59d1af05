"""One demo in miniature for all end-to-end tests: its toy world and its cold start are where they begin."""

import signal
import time
from pathlib import Path

import pytest
from runs import first_log, logged_steps, start_demo, training_processes

from r1reward_verl.toy.build import Sizes, build


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """A finished demo that was killed after its second RL step and then started again."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    first = start_demo(out)
    try:
        checkpoint = out / "rl" / "latest_checkpointed_iteration.txt"
        deadline = time.monotonic() + 900
        while not (checkpoint.exists() and checkpoint.read_text().strip() == "2" and 2 in logged_steps(first_log(out))):
            assert first.poll() is None, first.stdout.read()
            assert time.monotonic() < deadline, "no second RL step within 15 minutes"
            time.sleep(0.2)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    deadline = time.monotonic() + 60
    while training_processes(out):
        assert time.monotonic() < deadline, "the training outlived the demo that was killed"
        time.sleep(0.5)
    second = start_demo(out)
    try:
        output, _ = second.communicate(timeout=900)
    finally:
        second.kill()
    assert second.returncode == 0, output
    (out / "output.txt").write_text(output)
    return out


@pytest.fixture(scope="session")
def tiny_judge(tmp_path_factory) -> Path:
    """The folder of a tiny judge model, trained once for all tests (two minutes)."""
    sizes = Sizes(preferences=8, val_pairs=2, test_pairs=2)
    return build(tmp_path_factory.mktemp("judge") / "world", sizes, judge=True) / "judge"
