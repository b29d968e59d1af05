"""The consistency judge as a real vLLM server: served by verl beside and on the training GPUs, and by itself."""

import asyncio
import os
import signal
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest
from cluster import on_cluster, ray_cluster
from runs import JUDGE_KEY, Training, kill, served

from factories import free_port
from judge_attacks import ATTACKS
from r1reward_verl.rewards.judges.model import ModelJudge
from r1reward_verl.rewards.scorer import Scorer

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


def test_pool_on_two_nodes(demo, tiny_judge, tmp_path, monkeypatch):
    """A second vLLM on a node of its own; judgements are judged while others are being written.

    Each node has one logical GPU, so policy and judge are on different ones. Both nodes are started in folders of
    their own, and the driver's paths are relative: nothing is written but where the driver runs.
    """
    monkeypatch.chdir(tmp_path)
    with ray_cluster(tmp_path / "cluster", {"head": {}, "worker": {}}) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "pool").mkdir()
        for name in ("selected", "sft"):
            (tmp_path / "pool" / name).symlink_to(demo / name)
        training = Training(
            demo,
            tmp_path / "pool",
            "judge=pool",
            f"reward.reward_model.model_path={tiny_judge}",
            *on_cluster(environment),
            "data.train_files=selected/rl.parquet",
            "actor_rollout_ref.model.path=sft/global_step_60/huggingface",
            "trainer.default_local_dir=checkpoints",
            "trainer.rollout_data_dir=rollouts",
            "trainer.logger=[console,file,tensorboard]",
            "trainer.total_training_steps=2",
            "trainer.save_freq=2",
            "trainer.val_before_train=false",
            "trainer.test_freq=-1",
        )
        assert training.run() == 0, training.log[-3000:]
    check_rewards_are_the_judges(training, range(1, 3))
    assert "timing_s/reward" not in training.metrics[1]  # there is no stage of its own to wait for
    assert (training.out / "checkpoints/latest_checkpointed_iteration.txt").read_text() == "2"
    assert list((training.out / "tensorboard_log").rglob("events.*"))
    assert [list((tmp_path / "cluster" / node).iterdir()) for node in ("head", "worker")] == [[], []]


def test_a_node_without_the_plugin_ends_the_run_before_training(demo, tmp_path, monkeypatch):
    nodes = {"head": {}, "worker": {"VERL_USE_EXTERNAL_PLUGINS": "none"}}
    with ray_cluster(tmp_path / "cluster", nodes) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        training = Training(demo, tmp_path / "without", "judge=none", *on_cluster(environment))
        assert training.run() == 1, training.log[-3000:]
    assert "1 problem in this configuration; nothing was started" in training.log
    assert "- node worker (host " in training.log
    assert "VERL_USE_EXTERNAL_PLUGINS is 'none', which keeps verl from loading r1reward_verl" in training.log
    assert "Traceback" not in training.log


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


async def attacked(url: str, **options) -> list[float]:
    judge = ModelJudge([url], **options)
    try:
        opinions = await asyncio.gather(*(judge.judge(reasoning, choice) for _, reasoning, choice in ATTACKS))
    finally:
        await judge.close()
    assert {opinion.status for opinion in opinions} <= {"judged", "cached"}
    return [opinion.consistency for opinion in opinions]


def killed_in_its_first_step(training: Training, victim: str) -> None:
    """Kill a part of a training while its first step is computed: it ends, and nothing of it lives on."""
    process = training.start()
    try:
        deadline = time.monotonic() + 600
        while "Training Progress" not in training.log:
            assert process.poll() is None, training.log[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(next(pid for pid, title in training.processes().items() if victim in title), signal.SIGKILL)
        assert process.wait(timeout=300) != 0
    finally:
        process.kill()
    deadline = time.monotonic() + 60
    while alive := training.processes():
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)


def test_endpoint_that_dies_and_comes_back(demo, tiny_judge, tmp_path, monkeypatch):
    """Texts that demand a 1 do not get it; a dead judge stops the run before it trains on guesses; then it goes on.

    Its rollout server is killed then, too, and it goes on once more.
    """
    monkeypatch.setenv("R1REWARD_JUDGE_API_KEY", JUDGE_KEY)
    port, log = free_port(), tmp_path / "serve.log"
    url = f"http://127.0.0.1:{port}/v1"
    pairs = pq.read_table(demo / "selected/rl.parquet").slice(0, 128)
    pq.write_table(pairs, tmp_path / "pairs.parquet")
    training = Training(
        demo,
        tmp_path / "endpoint",
        "judge=endpoint",
        f"reward.r1_reward.judge.urls=[{url}]",
        "reward.r1_reward.judge.timeout=8",
        "reward.r1_reward.judge.max_wait=8",
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
        killed_in_its_first_step(training, "ray::vLLMHttpServer")
        assert training.run() == 0, training.log[-3000:]
    assert sorted(training.metrics) == list(range(done + 1, 5))
    check_rewards_are_the_judges(training, range(done + 1, 5))
    # The four steps have seen each of the 128 pairs once: the step that was given up is not lost.
    seen = Counter(row["input"] for step in range(1, 5) for row in training.rollouts(step))
    prompts = (row["prompt"][0]["content"].removeprefix("<image>") for row in pairs.to_pylist())
    assert seen == Counter(f"user\n{prompt}\nassistant\n" for prompt in prompts)
    for file in training.out.rglob("*"):
        assert not file.is_file() or JUDGE_KEY.encode() not in file.read_bytes(), f"the key is in {file}"
