"""LoRA: the trainer changes adapters alone, and vLLM, which has read the base model itself, is given them.

The rewards beyond the paper are on, in the same training.
"""

import asyncio
from pathlib import Path

import pytest
import torch
from runs import Training, load, next_tokens

from r1reward_verl.cli import main
from r1reward_verl.rewards.scorer import Scorer
from r1reward_verl.rewards.settings import RewardSettings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

RANK, ALPHA = 8, 16
LORA_A, LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"


def distance(demo: Path, adapters: dict[str, torch.Tensor]) -> float:
    """Return by how much adapters change a probability, at most."""
    model = load(demo / "sft/global_step_60/huggingface")
    weights, before = dict(model.named_parameters()), next_tokens(model, demo)
    with torch.no_grad():
        for name in adapters:
            if name.endswith(LORA_A):
                change = adapters[name.replace(LORA_A, LORA_B)] @ adapters[name] * (ALPHA / RANK)
                weights[name.removeprefix("base_model.model.").replace(LORA_A, ".weight")] += change
    return (next_tokens(model, demo) - before).abs().max().item()


TERMS = {"agreement_weight": 0.25, "length_weight": 0.5, "length_range": [0, 1]}


@pytest.fixture(scope="module")
def training(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    select = ["data", "select", str(demo / "annotated.parquet"), str(folder / "both"), "--sft-size", "0"]
    assert main([*select, "--rl-size", "64", "--rl-balance", "both"]) == 0
    training = Training(
        demo,
        folder,
        "+recipe=r1_reward_lora",
        "judge=rules",
        *(f"actor_rollout_ref.model.lora_rank={RANK}", f"actor_rollout_ref.model.lora_alpha={ALPHA}"),
        "actor_rollout_ref.actor.optim.lr=1e-2",
        *(f"data.train_files={folder / 'both/rl.parquet'}", "data.shuffle=false"),
        *(f"reward.r1_reward.{name}={value}" for name, value in TERMS.items()),
        *("trainer.total_training_steps=2", "trainer.save_freq=1", "trainer.test_freq=-1"),
        "trainer.val_before_train=false",
    )
    assert training.run() == 0, training.log[-3000:]
    return training


def test_vllm_follows_the_adapter(demo, training):
    assert all(training.metrics[step]["actor/grad_norm"] > 0 for step in (1, 2))
    (saved,) = (training.out / "checkpoints" / "global_step_1" / "actor").glob("model_world_size_1_rank_0.pt")
    state = torch.load(saved, weights_only=False)  # FSDP's tensors, of a file that this test had written
    adapters = {name: tensor.to_local() for name, tensor in state.items() if "lora_" in name}
    assert not any("visual" in name for name in adapters)
    moved = distance(demo, adapters)
    apart = training.metrics[2]["training/rollout_probs_diff_max"]
    assert moved > 0.1
    assert apart < moved / 3
    assert "Traceback" not in training.log


def test_both_orders_reward_each_other(training):
    """Beside what a judgement is worth by itself; each costs all of the length's weight."""
    scorer = Scorer(RewardSettings(**TERMS))
    for step in (1, 2):
        rows, metrics = training.rollouts(step), training.metrics[step]
        assert len(rows) == 32
        alone = [asyncio.run(scorer.reward(row["output"], row["gts"], tokens=1)).total for row in rows]
        agreed = [(row["score"] - total) / TERMS["agreement_weight"] for row, total in zip(rows, alone, strict=True)]
        assert all(min(abs(share), abs(share - 1)) < 1e-4 for share in agreed)
        assert step > 1 or 0 < sum(agreed) < len(agreed)  # the second step's model is spoiled by the learning rate
        assert metrics["reward/agreement"] == pytest.approx(sum(agreed) / len(agreed), abs=1e-4)
        assert metrics["reward/agreement_paired"] == 1
        assert metrics["critic/score/mean"] == pytest.approx(sum(row["score"] for row in rows) / len(rows), abs=1e-4)
