"""What only a GPU can show: `python -m pytest tests/gpu` on a machine with one. Skipped elsewhere."""

import json
import os
import subprocess
import sys

import pytest
import torch

from r1reward_verl import stable_reinforce
from r1reward_verl.rewards.judges import SERVED_BY_VERL
from r1reward_verl.toy.build import Sizes, build

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
    pytest.mark.timeout(1800),
]


def test_the_algorithm_computes_the_same_as_on_the_cpu():
    torch.manual_seed(0)
    rewards, mask = torch.randn(64, 257), torch.rand(64, 257) > 0.2
    old, new = -torch.rand(64, 257), -torch.rand(64, 257)
    results = []
    for device in ("cpu", "cuda"):
        advantages, _, _ = stable_reinforce.stable_reinforce_advantage(rewards.to(device), mask.to(device), gamma=0.99)
        losses, _ = stable_reinforce.stable_reinforce_loss(new.to(device), old.to(device), advantages, mask.to(device))
        results.append((advantages.cpu(), losses.cpu()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("judge", ["rules", "colocated", "pool"])
def test_two_steps_of_the_real_recipe(tmp_path, judge):
    """The toy's tiny model through the recipe for 7B: bf16, packed sequences, vLLM with its kernels.

    A judge on the same GPU is woken after each rollout and put to sleep before training; a pool has its own GPU.
    """
    if judge == "pool" and torch.cuda.device_count() < 2:
        pytest.skip("a pool beside the training needs a second GPU")
    toy = build(tmp_path / "toy", Sizes(preferences=64, val_pairs=32, test_pairs=1), judge=judge in SERVED_BY_VERL)
    metrics = tmp_path / "metrics.jsonl"
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=r1_reward", "+hardware=1gpu", f"judge={judge}"]
    if judge in SERVED_BY_VERL:
        command += [f"reward.reward_model.model_path={toy}/judge"]
    command += [f"data.train_files={toy}/val.parquet", f"data.val_files={toy}/val.parquet"]
    command += [f"actor_rollout_ref.model.path={toy}/model", "data.max_prompt_length=256"]
    command += [
        "data.max_response_length=64",
        "data.train_batch_size=32",
        "actor_rollout_ref.actor.ppo_mini_batch_size=16",
    ]
    command += ["data.mm_processor_kwargs.max_pixels=3136", "actor_rollout_ref.rollout.max_model_len=320"]
    command += ["trainer.total_training_steps=2", "trainer.save_freq=2", "trainer.test_freq=2"]
    command += [f"trainer.default_local_dir={tmp_path}/checkpoints", "trainer.logger=[console,file]"]
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    run = subprocess.run(
        command,
        env={**environment, "VERL_FILE_LOGGER_PATH": str(metrics)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    steps = {entry["step"]: entry["data"] for entry in map(json.loads, metrics.read_text().splitlines())}
    for step in (1, 2):
        assert steps[step]["training/rollout_probs_diff_mean"] < 0.02  # bf16
        assert "stable_reinforce/filtered_tokens" in steps[step]
        assert steps[step]["judge/failed"] == 0
    assert (tmp_path / "checkpoints" / "global_step_2" / "actor" / "huggingface" / "config.json").exists()
