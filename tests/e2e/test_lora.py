"""LoRA: the trainer changes adapters alone, and vLLM, which has read the base model itself, is given them."""

import pytest
import torch
from runs import Training

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_vllm_follows_the_adapter(demo, tmp_path):
    training = Training(
        demo,
        tmp_path / "lora",
        "+recipe=r1_reward_lora",
        "judge=rules",
        *("actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.model.lora_alpha=16"),
        "actor_rollout_ref.actor.optim.lr=1e-2",  # so large that a vLLM without the adapter would be far off
        *("trainer.total_training_steps=2", "trainer.save_freq=2", "trainer.test_freq=-1"),
        "trainer.val_before_train=false",
    )
    assert training.run() == 0, training.log[-3000:]
    for step in (1, 2):
        assert training.metrics[step]["training/rollout_probs_diff_max"] < 0.01
        assert training.metrics[step]["actor/grad_norm"] > 0
    (saved,) = (training.out / "checkpoints" / "global_step_2" / "actor").glob("model_world_size_1_rank_0.pt")
    weights = torch.load(saved, weights_only=False)  # of FSDP: verl's own file, written by this test
    adapters = {name for name in weights if "lora_" in name}
    assert adapters
    assert not any("visual" in name for name in adapters)
    assert max(weights[name].to_local().abs().max() for name in adapters if "lora_B" in name) > 1e-3
