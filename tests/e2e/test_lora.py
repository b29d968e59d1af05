"""LoRA: the trainer changes adapters alone, and vLLM, which has read the base model itself, is given them."""

from pathlib import Path

import pytest
import torch
from runs import Training
from transformers import Qwen2_5_VLForConditionalGeneration

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

RANK, ALPHA = 8, 16
LORA_A, LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"


def distance(base: Path, adapters: dict[str, torch.Tensor]) -> float:
    """Return by how much adapters change a probability, at most."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()
    weights, ids = dict(model.named_parameters()), torch.arange(20, 60)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits.softmax(-1)
        for name in adapters:
            if name.endswith(LORA_A):
                change = adapters[name.replace(LORA_A, LORA_B)] @ adapters[name] * (ALPHA / RANK)
                weights[name.removeprefix("base_model.model.").replace(LORA_A, ".weight")] += change
        return (model(input_ids=ids).logits.softmax(-1) - before).abs().max().item()


def test_vllm_follows_the_adapter(demo, tmp_path):
    training = Training(
        demo,
        tmp_path / "lora",
        "+recipe=r1_reward_lora",
        "judge=rules",
        *(f"actor_rollout_ref.model.lora_rank={RANK}", f"actor_rollout_ref.model.lora_alpha={ALPHA}"),
        "actor_rollout_ref.actor.optim.lr=1e-2",
        *("trainer.total_training_steps=2", "trainer.save_freq=1", "trainer.test_freq=-1"),
        "trainer.val_before_train=false",
    )
    assert training.run() == 0, training.log[-3000:]
    assert all(training.metrics[step]["actor/grad_norm"] > 0 for step in (1, 2))
    (saved,) = (training.out / "checkpoints" / "global_step_1" / "actor").glob("model_world_size_1_rank_0.pt")
    state = torch.load(saved, weights_only=False)  # FSDP's tensors, of a file that this test had written
    adapters = {name: tensor.to_local() for name, tensor in state.items() if "lora_" in name}
    assert not any("visual" in name for name in adapters)
    moved = distance(demo / "sft/global_step_60/huggingface", adapters)
    apart = training.metrics[2]["training/rollout_probs_diff_max"]
    assert moved > 0.1
    assert apart < moved / 3
