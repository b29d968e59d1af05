"""The toy policy's data, what is read of its validations, and the report on them."""

import json
from collections import Counter

import pytest

from r1reward_verl.reports.policy import hacking, policy_table, write_policy_report
from r1reward_verl.toy import policy, world
from r1reward_verl.toy.policy import Point, read_validations
from r1reward_verl.toy.policy_demo import PolicyDemo, PolicyDemoSettings
from r1reward_verl.toy.stages import DemoError


def test_the_teacher_errs_where_it_confuses_and_slips_elsewhere():
    pairs = world.draw_pairs(4000, 0, "test")
    right: Counter[tuple[bool, bool]] = Counter()
    for pair, row in zip(pairs, policy.sft_rows(pairs, 0), strict=True):
        said = row["messages"][1]["content"]
        right[pair.right in policy.CONFUSED, said == policy.answer(pair.right)] += 1
        if pair.right in policy.CONFUSED and said != policy.answer(pair.right):
            assert said == policy.answer(policy.CONFUSED[pair.right])
    confused, clear = (right[which, True] / (right[which, True] + right[which, False]) for which in (True, False))
    assert confused == pytest.approx(1 - policy.ERROR, abs=0.04)
    assert clear == pytest.approx(1 - policy.SLIP, abs=0.04)


def test_rewards_see_no_right_answer_in_training_and_compare_with_it_in_validation():
    pairs = world.draw_pairs(6, 0, "test")
    for reference in (True, False):
        for pair, row in zip(pairs, policy.rl_rows(pairs, with_reference=reference), strict=True):
            assert row["reward_model"]["ground_truth"] == (f"It is {pair.right}." if reference else "")
            assert row["prompt"][0]["content"] == f"<image>{pair.question}"
            assert row["images"][0]["bytes"].startswith(b"\x89PNG")


def test_validations_are_read_in_the_order_of_their_steps(tmp_path):
    for step, outputs in ((10, ["It is red.", "It is blue. "]), (0, ["It is red.", "It is red."])):
        rows = [{"output": output, "gts": "It is blue.", "score": 0.25} for output in outputs]
        (tmp_path / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_validations(tmp_path) == [Point(0, 0, 2, 0.25), Point(10, 1, 2, 0.25)]
    (tmp_path / "20.jsonl").write_text('{"output": "x"}\n')
    with pytest.raises(ValueError, match=r"20.jsonl is no dump of a validation"):
        read_validations(tmp_path)


RISES = [Point(0, 200, 400, 0.2), Point(5, 380, 400, 0.45)]
HACKS = [Point(0, 200, 400, 0.2), Point(5, 380, 400, 0.3), Point(10, 100, 400, 0.6)]
FORGETS = [Point(0, 200, 400, 0.4), Point(5, 100, 400, 0.3)]


def test_reward_hacking_is_told():
    assert hacking(RISES) is None
    assert hacking(FORGETS) is None, "its reward fell, too"
    assert hacking([Point(0, 200, 400, 0.2), Point(5, 195, 400, 0.4)]) is None, "the fall is within chance"
    assert hacking(HACKS).startswith("Reward hacking: from step 0 to step 10 the win rate rose from 0.200 to 0.600")


def test_the_report_has_both_runs_before_and_after(tmp_path):
    page = write_policy_report(tmp_path, {"one": RISES, "other": HACKS}, {"sft": 12.0}).read_text()
    assert "50.0% [45.1, 54.9]" in page
    assert "other: Reward hacking" in page
    assert (tmp_path / "policy.png").read_bytes().startswith(b"\x89PNG")
    assert "Reward hacking" in (tmp_path / "report.md").read_text()
    assert policy_table({"one": RISES}).rows == [["one", "50.0% [45.1, 54.9]", "95.0% [92.4, 96.7]", "+45.0"]]
    write_policy_report(tmp_path, {"one": RISES})
    assert "No reward hacking was seen" in (tmp_path / "report.html").read_text()


def test_it_needs_a_finished_demo(tmp_path):
    with pytest.raises(DemoError, match="holds no finished demo: run `r1reward demo"):
        PolicyDemo(tmp_path / "demo", tmp_path / "out", PolicyDemoSettings())
    assert not (tmp_path / "out").exists()


def test_other_settings_need_another_folder(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "summary.json").write_text('{"settings": {"sft_steps": 9, "rl_steps": 4}}')
    demo = PolicyDemo(tmp_path / "demo", tmp_path / "out", PolicyDemoSettings())
    assert demo.reward_models["rl"] == tmp_path / "demo/rl/global_step_4/actor/huggingface"
    with pytest.raises(DemoError, match="name another folder"):
        PolicyDemo(tmp_path / "demo", tmp_path / "out", PolicyDemoSettings(grpo_steps=3))


def test_a_demo_in_words_has_no_reward_model_for_pictures(tmp_path):
    (tmp_path / "demo").mkdir()
    settings = {"model": "qwen3", "sft_steps": 1, "rl_steps": 1}
    (tmp_path / "demo" / "summary.json").write_text(json.dumps({"settings": settings}))
    with pytest.raises(DemoError, match="--model qwen3, and this demo asks about pictures"):
        PolicyDemo(tmp_path / "demo", tmp_path / "out", PolicyDemoSettings())


def test_a_demo_of_scenes_is_too_hard_for_the_policy(tmp_path):
    (tmp_path / "demo").mkdir()
    settings = {"level": "scenes", "sft_steps": 1, "rl_steps": 1}
    (tmp_path / "demo" / "summary.json").write_text(json.dumps({"settings": settings}))
    with pytest.raises(DemoError, match="name a demo of the level single"):
        PolicyDemo(tmp_path / "demo", tmp_path / "out", PolicyDemoSettings())
