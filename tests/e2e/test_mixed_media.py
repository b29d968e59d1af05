"""A training on rows with a video, with two pictures, with one and without any, each in a micro-batch of its own."""

from collections import Counter

import pytest
from runs import Training

from r1reward_verl.data.export import rl_row, rl_schema
from r1reward_verl.toy import world
from r1reward_verl.toy.build import alternating_labels, write_table

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

KINDS = ("video", "pictures", "picture", "text")
LIMITS = "actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt"


def test_rollout_and_trainer_see_the_same(demo, tmp_path):
    pairs = alternating_labels(world.draw_pairs(32, 0, "mixed"))
    rows = [rl_row(world.preference(*pair, KINDS[index // 2 % 4]), index=index) for index, pair in enumerate(pairs)]
    file = tmp_path / "mixed.parquet"
    write_table(file, rows, rl_schema(inline=True))
    training = Training(
        *(demo, tmp_path / "run"),
        f"data.train_files={file}",
        "data.train_batch_size=16",
        "data.max_prompt_length=384",
        "actor_rollout_ref.rollout.max_model_len=448",
        "actor_rollout_ref.actor.ppo_mini_batch_size=16",
        *("actor_rollout_ref.actor.use_dynamic_bsz=false", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1"),
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
        *(f"{LIMITS}.image=2", f"{LIMITS}.video=1"),
        *("trainer.total_epochs=1", "trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1"),
    )
    assert training.run() == 0, training.log[-5000:]
    for step in (1, 2):
        metrics = training.metrics[step]
        # Positions and pixels are the same on both sides: vLLM on the CPU is apart by up to 0.007 for pictures alone,
        # and other positions of frames, or of the text behind them, change probabilities by 0.02 to 0.1.
        assert metrics["training/rollout_probs_diff_max"] < 0.015
        assert metrics["actor/grad_norm"] > 0
    # No row was lost on the way.
    texts = [row["prompt"][0]["content"].replace("<image>", "").replace("<video>", "") for row in rows]
    seen = Counter(row["input"] for step in (1, 2) for row in training.rollouts(step))
    assert seen == Counter(f"user\n{text}\nassistant\n" for text in texts)
