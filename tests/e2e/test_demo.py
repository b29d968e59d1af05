"""The demo in miniature, killed in the middle of RL and started again: real verl, Ray, vLLM and FSDP on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from runs import first_log, load, logged_steps, next_tokens

from r1reward_verl.data.files import read_preferences
from r1reward_verl.judgement import parse

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


def weights(folder: Path):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_rl_changes_the_weights(demo):
    """By gradients: weight decay alone would shrink every weight by the same share."""
    before = weights(demo / "sft" / "global_step_60" / "huggingface")
    after = weights(demo / "rl" / "global_step_3" / "actor" / "huggingface")
    assert before.keys() == after.keys()
    assert all(step["actor/grad_norm"] > 0 for number, step in logged_steps(first_log(demo)).items() if number > 0)
    name = next(name for name in before if name.endswith("layers.0.self_attn.q_proj.weight"))
    shrunk = before[name] * (after[name].norm() / before[name].norm())
    assert (after[name] - shrunk).norm() > 1e-3 * before[name].norm()


def test_vllm_follows_the_actor(demo):
    """In step 2 vLLM and the actor agree far closer than the policies before and after RL do."""
    folders = demo / "sft/global_step_60/huggingface", demo / "rl/global_step_3/actor/huggingface"
    before, after = (next_tokens(load(folder), demo) for folder in folders)
    moved = (before - after).abs().max().item()
    apart = logged_steps(first_log(demo))[2]["training/rollout_probs_diff_max"]
    assert moved > 1e-2
    assert apart < moved / 5


def test_the_cold_start_learns_what_the_teacher_solved_and_rl_what_it_found_hard(demo):
    """By way of a real endpoint, and the commands that users run."""
    annotated = {one.id: one for _, one in read_preferences(demo / "annotated.parquet")}
    calls = [json.loads(line) for line in (demo / "annotated.parquet.journal.jsonl").read_text().splitlines()[1:]]
    assert len(calls) == sum(one.difficulty for one in annotated.values())
    taught = pq.read_table(demo / "selected" / "sft.parquet").to_pylist()
    assert len(taught) == 60 * 32
    for row in taught:
        preference = annotated[row["extra_info"]["id"]]
        assert row["messages"][1]["content"] == preference.trace
        assert parse(preference.trace).choice == preference.label
    hard = pq.read_table(demo / "selected" / "rl.parquet").to_pylist()
    assert len(hard) == 3 * 128
    assert all(annotated[row["extra_info"]["id"]].difficulty > 1 for row in hard)
    assert {row["extra_info"]["solved"] for row in hard} == {True, False}
    assert sum(row["reward_model"]["ground_truth"] == "1" for row in hard) == len(hard) // 2


def test_rl_resumes_from_its_last_checkpoint(demo):
    assert sorted(logged_steps(demo / "logs" / "rl-001.jsonl")) == [2, 3]  # 2: validation before the first new step
    assert "training/global_step" not in logged_steps(demo / "logs" / "rl-001.jsonl")[2]


def test_a_finished_stage_is_not_run_again(demo):
    output = (demo / "output.txt").read_text()
    assert "toy: done before" in output
    assert "sft: done before" in output
    assert "rl: resumed" in output
    assert len(list((demo / "logs").glob("sft-*.jsonl"))) == 1


def test_the_summary_holds_what_was_measured(demo):
    summary = json.loads((demo / "summary.json").read_text())
    for stage in ("sft", "rl"):
        figures = summary[stage]
        assert figures["pairs"] == 4
        low, high = figures["accuracy_ci95"]
        assert 0 <= low <= figures["accuracy"] <= high <= 1
        assert 0 <= figures["voting_accuracy"] <= 1
        assert 0 <= figures["unparsable"] <= 1
        assert figures["mean_response_tokens"] > 0
        assert {"consistency", "position_bias"} <= figures.keys()
    assert summary["steps"] == 3
    assert 0 < summary["reward_share"] < 1
    assert {"install", "sft", "rl", "eval"} <= summary["seconds"].keys()
    assert summary["seconds"]["install"] == 1
    assert all(seconds > 0 for seconds in summary["seconds"].values())


def test_the_report_shows_the_run(demo):
    page = (demo / "report.html").read_text()
    assert "SFT + RL" in page
    assert page.count("data:image/png;base64,") == 2
    assert (demo / "evaluation/report.html").exists()
    assert 'href="evaluation/report.html"' in page
    assert (demo / "report.md").exists()
    assert str(demo / "report.html") in (demo / "output.txt").read_text()


def test_every_step_logs_the_algorithm(demo):
    steps = logged_steps(first_log(demo))
    for key in (
        "actor/pre_clip_low",
        "actor/pre_clip_high",
        "actor/pg_clipfrac",
        "actor/ppo_kl",
        "stable_reinforce/filtered_tokens",
        "stable_reinforce/filtered_samples",
        "stable_reinforce/max_abs_z",
    ):
        assert key in steps[1], key


def test_validation_logs_what_an_evaluation_reports(demo):
    steps = logged_steps(first_log(demo))
    for source in ("r1reward_toy", "all"):
        for figure in ("accuracy", "both_orders_accuracy", "position_bias", "unparsable", "mean_response_tokens"):
            values = [steps[number][f"val-r1_reward/{source}/{figure}"] for number in (0, 1)]
            assert all(value >= -1 for value in values)
    assert steps[1]["val-r1_reward/all/accuracy"] == steps[1]["val-core/r1reward_toy/acc/mean@1"]


def test_another_demo_does_not_take_the_folder(demo):
    command = [sys.executable, "-m", "r1reward_verl.cli", "demo", "--out", str(demo), "--rl-steps", "7"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ.copy())
    assert result.returncode == 1
    assert "holds a demo with other settings" in result.stderr
    assert "'rl_steps': (3, 7)" in result.stderr
