"""One demo in miniature for all end-to-end tests: its toy world and its cold start are where they begin."""

import signal
import time
from pathlib import Path

import pytest
from runs import first_log, logged_steps, start_demo, training_processes

from r1reward_verl.toy.build import Sizes, build
from r1reward_verl.toy.demo import Demo, DemoSettings
from r1reward_verl.toy.model import ModelName

COLD_START = 20
"""Steps after which the loss has fallen; judgements are hardly well-formed then."""


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


def cold_start(out: Path, model: ModelName) -> Demo:
    """A demo of another model, as far as the evaluation of its cold start: it loads, learns and judges."""
    demo = Demo(out, DemoSettings(model=model, sft_steps=COLD_START, rl_steps=1, test_pairs=4, samples=1), None)
    demo._build_toy()
    demo._annotate()
    demo._select()
    demo._sft()
    demo._evaluate("sft")
    return demo


@pytest.fixture(scope="session")
def qwen3_vl(tmp_path_factory) -> Demo:
    return cold_start(tmp_path_factory.mktemp("qwen3-vl") / "demo", "qwen3-vl")


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory) -> Demo:
    return cold_start(tmp_path_factory.mktemp("qwen3") / "demo", "qwen3")
