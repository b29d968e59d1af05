"""The stability study: its task, and that every kind of arm trains through verl's estimators and losses."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "stability"))

import arms
import study
import summary
import task
import train


def texts_of(*rows: list[int]) -> torch.Tensor:
    return torch.tensor([row + [task.END] * (task.LENGTH - len(row)) for row in rows])


def test_rewards_are_the_papers():
    start, middle = [task.THINK, task.FIRST_EVIDENCE], [task.END_THINK, task.ANSWER]
    end = [task.END_ANSWER, task.END]
    texts = texts_of(
        [*start, task.CONCLUDE_1, *middle, task.ONE, *end],
        [*start, task.CONCLUDE_2, *middle, task.ONE, *end],
        [*start, task.CONCLUDE_1, *middle, task.TWO, *end],
        [*start, task.CONCLUDE_1, task.ANSWER, task.ONE, *end],  # no end of the reasoning
        [*start, task.CONCLUDE_1, *middle, task.ANSWER, task.ONE, *end],  # twice the same tag
        [task.THINK] * task.LENGTH,  # never ends
    )
    judged = task.judge(texts, torch.ones(6, dtype=torch.long))
    assert judged.rewards.tolist() == [2.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    binary = task.judge(texts, torch.ones(6, dtype=torch.long), "binary")
    assert binary.rewards.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_traces_are_right_and_nearly_always_consistent():
    generator = torch.Generator().manual_seed(0)
    batch = task.draw(2000, generator, held_out=False)
    judged = task.judge(task.traces(batch, generator), batch.labels)
    assert judged.right.all()
    assert 0.92 < judged.consistent.float().mean() < 0.98


def test_held_out_prompts_are_never_drawn_for_training():
    generator = torch.Generator().manual_seed(0)
    train_set, held_out = (
        {tuple(prompt) for prompt in task.draw(5000, generator, held_out=held).prompts.tolist()}
        for held in (False, True)
    )
    assert not train_set & held_out


def test_names_are_unique_and_primary_comparisons_exist():
    names = [arm.key for arm in [*arms.arms(), *arms.tuning()]]
    assert len(set(names)) == len(names)
    assert {name for pair in arms.PRIMARY for name in pair} <= set(names)


@pytest.fixture(scope="module")
def starts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("starts")
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    policy = task.Policy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(60):  # until some of its texts have the form, so that rewards differ
        batch = task.draw(64, generator, held_out=False)
        optimizer.zero_grad()
        train.supervised_loss(policy, batch, generator).backward()
        optimizer.step()
    for start in train.STARTS:
        save_file(dict(policy.state_dict()), folder / f"0-{start:g}.safetensors")
    return folder


# One of each loss, correction and estimator.
KINDS = {
    **{arm.key: arm for arm in arms.arms() if arm.key.startswith(("mismatch/heavy10/", "filter/90%/noisy/"))},
    **{arm.key: arm for arm in arms.arms() if arm.key in ("mismatch/stale/raw", "mismatch/bf16/vanilla")},
    **{arm.key: arm for arm in arms.tuning() if arm.name.endswith("/0.001")},
}


@pytest.fixture(autouse=True)
def as_in_the_study(monkeypatch):
    """One thread, as its processes have, and small evaluations."""
    monkeypatch.setattr(train, "TEST", 100)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_arm_trains(name, starts):
    result = train.run(replace(KINDS[name], steps=2), 0, starts)
    assert result["arm"] == name
    assert result["largest_gradient"] > 0
    assert result["skipped"] == 0


def test_a_run_is_a_function_of_its_arm_and_seed(starts):
    arm = replace(KINDS["mismatch/stale/raw"], steps=3)
    assert train.run(arm, 0, starts) == train.run(arm, 0, starts)


def test_differences_are_paired_and_corrected():
    found = summary.difference({0: 0.9, 1: 0.8, 2: 0.7}, {0: 0.8, 1: 0.7, 2: 0.6, 3: 0.1})
    assert found["seeds"] == 3
    assert found["difference"] == pytest.approx(0.1)
    assert summary.holm([0.01, 0.04, 0.03], 3) == pytest.approx([0.03, 0.06, 0.06])


def test_the_quick_study_runs_to_its_plots_and_is_not_run_twice(tmp_path):
    """As `make study QUICK=1` runs it, with four arms."""
    command = [sys.executable, study.__file__, "--quick", "--workers", "1"]
    command += ["--arms", "^mismatch/heavy10/(raw|pre_clip)$"]
    command += [word for name in ("out", "results", "plots") for word in (f"--{name}", str(tmp_path / name))]
    first = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert first.returncode == 0, first.stderr
    found = json.loads((tmp_path / "results/stability.json").read_text())
    assert [len(arm["accuracies"]) for arm in found["arms"].values()] == [2] * 2
    assert [one["seeds"] for one in found["primary"]] == [2]
    assert len(list((tmp_path / "plots").glob("stability-*.png"))) == 3
    assert "mismatch/heavy10/pre_clip - mismatch/heavy10/raw: " in first.stdout
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- mismatch -->\nold\n<!-- end -->\nafter\n")
    summary.write_tables(found, page)
    assert re.fullmatch(r"before\n<!-- mismatch -->\n\n\|[^<]*\n\n<!-- end -->\nafter\n", page.read_text())
    assert "| heavy10 | " in page.read_text()
    runs = (tmp_path / "out/runs.jsonl").read_bytes()
    (tmp_path / "out/runs.jsonl").write_bytes(runs[: runs.index(b"\n") + 1] + b"{")  # as if killed
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    kept = {json.dumps({**run, "seconds": 0}) for run in map(json.loads, runs.splitlines())}
    resumed = map(json.loads, (tmp_path / "out/runs.jsonl").read_text().splitlines())
    assert {json.dumps({**run, "seconds": 0}) for run in resumed} == kept
