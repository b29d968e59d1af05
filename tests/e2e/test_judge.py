"""The consistency judge as a real vLLM server: served by verl beside and on the training GPUs, and by itself."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from runs import Training

from factories import free_port
from judge_attacks import ATTACKS
from r1reward_verl.rewards.judges.model import ModelJudge
from r1reward_verl.rewards.scorer import Scorer

KEY = "sk-not-for-any-log"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


def check_rewards_are_the_judges(training: Training, steps: range) -> None:
    """The tiny judge decides as the rules do nearly always, so rewards must be what the rules would give."""
    agree = []
    for step in steps:
        for row in training.rollouts(step):
            expected = asyncio.run(Scorer().reward(row["output"], row["gts"])).total
            agree.append(abs(expected - row["score"]) < 1e-6)
    assert len(agree) == 32 * len(steps)
    assert sum(agree) / len(agree) >= 0.9
    judged = [training.metrics[step]["judge/judged"] + training.metrics[step]["judge/cached"] for step in steps]
    assert judged == [training.metrics[step]["judge/asked"] for step in steps]
    assert all(judged), "no right answer in a whole step: nobody was asked"
    assert all(training.metrics[step]["judge/failed"] == 0 for step in steps)
    assert all(training.metrics[step]["judge/latency_s/p95"] > 0 for step in steps)


def test_pool(demo, tiny_judge, tmp_path):
    """A second vLLM on its own logical GPU; judgements are judged while others are being written."""
    training = Training(
        demo,
        tmp_path / "pool",
        "judge=pool",
        f"reward.reward_model.model_path={tiny_judge}",
        "trainer.total_training_steps=2",
        "trainer.save_freq=-1",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
    )
    assert training.run() == 0, training.log[-3000:]
    check_rewards_are_the_judges(training, range(1, 3))
    assert "timing_s/reward" not in training.metrics[1]  # there is no stage of its own to wait for


def test_colocated(demo, tiny_judge, tmp_path):
    """The judge on the training GPU, asked after the rollout; labels reach it, and validation is scored too."""
    training = Training(
        demo,
        tmp_path / "colocated",
        "judge=colocated",
        f"reward.reward_model.model_path={tiny_judge}",
        "trainer.total_training_steps=1",
        "trainer.save_freq=-1",
        "trainer.val_before_train=false",
        "trainer.test_freq=1",
    )
    assert training.run() == 0, training.log[-3000:]
    check_rewards_are_the_judges(training, range(1, 2))
    assert "timing_s/reward" in training.metrics[1]
    assert 0 <= training.metrics[1]["val-core/r1reward_toy/acc/mean@1"] <= 1
    assert "val-aux/r1reward_toy/consistency/mean@1" in training.metrics[1]


@contextmanager
def served(model: Path, port: int, log: Path):
    """`vllm serve` in a process of its own."""
    command = [sys.executable, "-m", "r1reward_verl.cpu.serve", str(model), "--served-model-name", "judge"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "2048", "--limit-mm-per-prompt", '{"image": 0, "video": 0}']
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_API_KEY": KEY},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, "the server did not come up in 5 minutes"
                time.sleep(0.5)
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen) -> None:
    """End the server and its engine at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def attacked(url: str, **options) -> list[float]:
    judge = ModelJudge([url], **options)
    try:
        opinions = await asyncio.gather(*(judge.judge(reasoning, choice) for _, reasoning, choice in ATTACKS))
    finally:
        await judge.close()
    assert {opinion.status for opinion in opinions} <= {"judged", "cached"}
    return [opinion.consistency for opinion in opinions]


def test_endpoint_that_dies_and_comes_back(demo, tiny_judge, tmp_path, monkeypatch):
    """Texts that demand a 1 do not get it; a dead judge stops the run before it trains on guesses; then it goes on."""
    monkeypatch.setenv("R1REWARD_JUDGE_API_KEY", KEY)
    port, log = free_port(), tmp_path / "serve.log"
    url = f"http://127.0.0.1:{port}/v1"
    pairs = pq.read_table(demo / "selected/rl.parquet").slice(0, 128)
    pq.write_table(pairs, tmp_path / "pairs.parquet")
    training = Training(
        demo,
        tmp_path / "endpoint",
        "judge=endpoint",
        f"reward.r1_reward.judge.urls=[{url}]",
        "reward.r1_reward.judge.timeout=3",
        "reward.r1_reward.judge.max_wait=3",
        "reward.r1_reward.max_failed_share=0.1",
        f"data.train_files={tmp_path / 'pairs.parquet'}",
        "trainer.total_training_steps=4",
        "trainer.save_freq=100",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
    )
    with served(tiny_judge, port, log) as server:
        verdicts = asyncio.run(attacked(url))
        assert sum(verdict == -1.0 for verdict in verdicts) / len(verdicts) >= 0.95
        confident = asyncio.run(attacked(url, confidence=True))
        assert all(-1.0 <= value <= 1.0 for value in confident)
        assert sum(value < 0 for value in confident) / len(confident) >= 0.95
        assert len(set(confident)) > len(confident) / 2, "soft verdicts differ"

        process = training.start()
        try:
            deadline = time.monotonic() + 600
            while 1 not in training.metrics:
                assert process.poll() is None, training.log[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.1)
            kill(server)
            assert process.wait(timeout=300) != 0
        finally:
            process.kill()
    done = max(training.metrics)
    assert 1 <= done < 4
    assert "JudgeFailed: the judge could not be reached for" in training.log
    assert f"The checkpoint of step {done} is saved in" in training.log
    assert (training.out / "checkpoints/latest_checkpointed_iteration.txt").read_text() == str(done)

    with served(tiny_judge, port, log):
        assert training.run() == 0, training.log[-3000:]
    assert sorted(training.metrics) == list(range(done + 1, 5))
    check_rewards_are_the_judges(training, range(done + 1, 5))
    # The four steps have seen each of the 128 pairs once: the step that was given up is not lost.
    seen = Counter(row["input"] for step in range(1, 5) for row in training.rollouts(step))
    prompts = (row["prompt"][0]["content"].removeprefix("<image>") for row in pairs.to_pylist())
    assert seen == Counter(f"user\n{prompt}\nassistant\n" for prompt in prompts)
    for file in training.out.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), f"the key is in {file}"
