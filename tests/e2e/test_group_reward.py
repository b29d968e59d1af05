"""A policy under GRPO whose only reward is a reward model that compares its rollouts, served by verl.

The policy is a Qwen3-VL and the reward model a Qwen2.5-VL, each with its own size of pictures.
"""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import Training

from r1reward_verl.toy import policy, world
from r1reward_verl.toy.demo import picture_bounds

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

PROMPTS, ROLLOUTS = 8, 4


def test_rollouts_of_a_prompt_are_compared_with_each_other(demo, qwen3_vl, tmp_path):
    """The reward model of the cold start on its own logical GPU; validation compares with the right answer."""
    files = {}
    for split, reference in (("train", False), ("val", True)):
        rows = policy.rl_rows(world.draw_pairs(PROMPTS * 2, 1, split), with_reference=reference)
        files[split] = tmp_path / f"{split}.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows)), files[split])
    training = Training(
        demo,
        tmp_path / "pairwise",
        "+recipe=grpo_pairwise_vlm",
        "+reward_model=pool",
        f"data.train_files={files['train']}",
        f"data.val_files={files['val']}",
        f"data.train_batch_size={PROMPTS}",
        "data.max_prompt_length=64",
        "data.max_response_length=16",
        *picture_bounds("qwen3-vl"),
        f"actor_rollout_ref.model.path={qwen3_vl.checkpoint('sft')}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
        "actor_rollout_ref.actor.use_kl_loss=false",
        f"actor_rollout_ref.rollout.n={ROLLOUTS}",
        "actor_rollout_ref.rollout.max_model_len=96",
        f"reward.reward_model.model_path={demo / 'sft/global_step_60/huggingface'}",
        "reward.reward_model.rollout.max_model_len=512",
        "reward.reward_model.rollout.engine_kwargs.vllm.limit_mm_per_prompt.image=1",
        "reward.reward_model.rollout.engine_kwargs.vllm.mm_processor_kwargs.max_pixels=3136",
        "reward.pairwise.comparison.max_tokens=64",
        "reward.pairwise.comparison.lenient=last_digit",  # of a reward model that has hardly learned its form
        "trainer.total_training_steps=2",
        "trainer.save_freq=-1",
        "trainer.val_before_train=false",
        "trainer.test_freq=2",
    )
    assert training.run() == 0, training.log[-3000:]
    for step in (1, 2):
        metrics = training.metrics[step]
        # vLLM leaves out the rows of the vocabulary behind the tokenizer's, to which such a model still gives up to 3%.
        assert metrics["training/rollout_probs_diff_max"] < 0.05
        assert metrics["actor/grad_norm"] > 0
        assert metrics["pairwise/groups"] == pytest.approx(PROMPTS)
        assert 0 < metrics["pairwise/comparisons"] <= PROMPTS * ROLLOUTS * (ROLLOUTS - 1) / 2
        assert metrics["pairwise/failed"] == 0
        assert metrics["pairwise/undecided"] < metrics["pairwise/comparisons"]
        assert metrics["pairwise/seconds/max"] > 0
        groups: dict[str, list[float]] = {}
        for row in training.rollouts(step):
            assert 0 <= row["score"] <= 1
            groups.setdefault(row["uid"].rsplit("_", 2)[0], []).append(row["score"])
        assert [len(scores) for scores in groups.values()] == [ROLLOUTS] * PROMPTS
    assert any(max(scores) > min(scores) for scores in groups.values()), "no group was ranked"
    assert 0 <= training.metrics[2]["val-core/r1reward_toy_policy/reward/mean@1"] <= 1
