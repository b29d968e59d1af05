"""One demo in miniature for all end-to-end tests: its toy world and its cold start are where they begin.

What takes minutes to make is made once, whichever of pytest's processes needs it first.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from runs import first_log, logged_steps, start_demo, training_processes

from r1reward_verl.toy.build import Sizes, build
from r1reward_verl.toy.demo import Demo, DemoSettings
from r1reward_verl.toy.model import ModelName

COLD_START = 20
"""Steps after which the loss has fallen, and tokens that vLLM never samples have next to no probability."""


def pytest_collection_modifyitems(items):
    """The demo first, so that one process makes it while the other runs the tests that need none."""
    items.sort(key=lambda item: 2 * ("demo" in item.fixturenames) - 3 * (item.path.stem == "test_demo"))


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return a folder that the first process to ask for its name fills."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, made, failed = shared / name, shared / f"{name}.made", shared / f"{name}.failed"
        with FileLock(shared / f"{name}.lock"):
            assert not failed.exists(), f"{name} could not be made in another process"
            if not made.exists():
                failed.touch()
                make(folder)
                failed.rename(made)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def demo(once) -> Path:
    """A finished demo that was killed after its second RL step and then started again."""
    return once("demo", killed_and_started_again)


def killed_and_started_again(out: Path) -> None:
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


@pytest.fixture(scope="session")
def tiny_judge(once) -> Path:
    """The folder of a tiny judge model (two minutes)."""
    sizes = Sizes(preferences=8, val_pairs=2, test_pairs=2)
    return once("judged-world", lambda folder: build(folder, sizes, judge=True)) / "judge"


def another_model(out: Path, model: ModelName) -> Demo:
    return Demo(out, DemoSettings(model=model, sft_steps=COLD_START, rl_steps=1, test_pairs=4, samples=1), None)


def cold_start(demo: Demo) -> None:
    """Run a demo as far as the evaluation of its cold start: the model loads, learns and judges."""
    demo._build_toy()
    demo._annotate()
    demo._select()
    demo._sft()
    demo._evaluate("sft")


@pytest.fixture(scope="session")
def qwen3_vl(once) -> Demo:
    return another_model(once("qwen3-vl", lambda out: cold_start(another_model(out, "qwen3-vl"))), "qwen3-vl")


@pytest.fixture(scope="session")
def qwen3(once) -> Demo:
    return another_model(once("qwen3", lambda out: cold_start(another_model(out, "qwen3"))), "qwen3")
