"""Runs in the forms of other tools: what the benchmarks' own scripts count, TensorBoard, Weights & Biases."""

import json
import os
import subprocess
import sys

import pytest

from r1reward_verl.cli import main
from run_folder import case, judged, judgement, says, write_run

VERDICTS = {1: (1, 2), 2: (1, 1), 3: (2, 1), 4: (None, 2)}  # right; right and wrong; wrong; unreadable and right


@pytest.fixture
def exported(tmp_path, capfd):
    """The lines that the verdicts become for the script of a benchmark."""

    def exported(benchmark, categories, **texts):
        cases = [case(row, categories[row % len(categories)], **texts) for row in VERDICTS]
        lines = [line for row, pair in VERDICTS.items() for line in judged(row, *pair)]
        lines.append(judgement(1, "chosen-first", says(2), sample=1))  # samples are no verdicts
        lines.append(judgement(9, "chosen-first", "", status="failed"))
        run = write_run(tmp_path / benchmark, [*cases, case(9, categories[0])], lines, benchmark=benchmark)
        assert main(["eval", "export", str(run), "--file", str(tmp_path / "out.jsonl")]) == 0
        written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert f"{len(written)} lines" in capfd.readouterr().out
        return written

    return exported


def test_vl_rewardbench(exported):
    lines = exported("vl-rewardbench", ["general"])
    assert [line["meta"]["flag_status"] for line in lines] == (
        ["agree", "agree", "agree", "reject", "reject", "reject", "doesntMatch", "agree"]
    )
    for line in lines:  # the script takes the verdict from the sentence, and the rejected answer from the other two
        rejected = line["ranking"].index(1 if line["meta"]["random_number"] == 0 else 0) + 1
        said = f"Answer {rejected} is better" in line["meta"]["filter_choice"]
        assert said == (line["meta"]["flag_status"] == "reject")
    assert {"id", "query", "response", "ranking", "meta"} < lines[0].keys()


def test_mm_rlhf_rewardbench(exported):
    lines = exported("mm-rlhf-rewardbench", ["video", "mcq"], media=["/videos/long/7.png"])
    assert [line["rewards"][0] > line["rewards"][1] for line in lines] == [True, True, True, False] + [False] * 3 + [
        True
    ]
    assert [line.get("video") or line.get("image") for line in lines[::2]] == ["mcq/7.png", "video/7.png"] * 2


def test_multimodal_rewardbench(exported):
    lines = exported("multimodal-rewardbench", ["math", "safety"])
    said = [line["output"][2:3] for line in lines]
    assert [line["Label"] for line in lines] == ["A", "B"] * 4
    assert said == ["A", "B", "A", "A", "B", "A", "", "B"]
    assert [a == line["Label"] for a, line in zip(said, lines, strict=True)] == [
        line["rewards"] == [1, 0] for line in lines
    ]
    assert {line["Meta"]["Category"] for line in lines} == {"reasoning", "safety"}


def test_judgebench(exported):
    lines = exported("judgebench", ["math", "coding"])
    assert [line["source"] for line in lines] == ["livecodebench", "livebench-math"] * 2
    decisions = [[one["decision"] for one in line["judgments"]] for line in lines]
    assert decisions == [["A>B", "B>A"], ["A>B", "A>B"], ["B>A", "A>B"], [None, "B>A"]]
    assert {(line["label"], line["response_A"]) for line in lines} == {("A>B", "good")}


def test_a_pair_that_was_shown_worse_first_alone_is_turned(tmp_path):
    run = write_run(tmp_path / "run", [case(1, "math")], judged(1, "absent", 2), benchmark="judgebench")
    assert main(["eval", "export", str(run), "--file", str(tmp_path / "out.jsonl")]) == 0
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert (line["label"], line["response_B"], line["judgments"][0]["decision"]) == ("B>A", "good", "B>A")


@pytest.fixture
def runs(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, [case(1), case(2, "reasoning")], judged(1, 1, 2) + judged(2, 1, 1))
    return [str(tmp_path / name) for name in ("a", "b")]


def test_figures_go_to_tensorboard(runs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(["eval", "export", *runs, "--tensorboard", str(tmp_path / "events"), "--step", "30"]) == 0
    events = EventAccumulator(str(tmp_path / "events" / "b"))
    events.Reload()
    ((step, value),) = [(one.step, one.value) for one in events.Scalars("vl-rewardbench/accuracy")]
    assert (step, value) == (30, 0.75)
    assert events.Scalars("vl-rewardbench/by_category/reasoning/accuracy")[0].value == 0.5


def test_figures_go_to_weights_and_biases(runs, tmp_path):
    pytest.importorskip("wandb")
    command = [sys.executable, "-m", "r1reward_verl.cli", "eval", "export", *runs, "--wandb", "mine"]
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "figures of 2 runs: project mine" in done.stdout
    assert len([*tmp_path.glob("wandb/offline-run-*")]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "give --file, --tensorboard or --wandb"),
        (["--file", "x.jsonl"], "--file is for one RUN, and there are 2"),
    ],
)
def test_what_cannot_be_exported(runs, capsys, options, words):
    assert main(["eval", "export", *runs, *options]) == 2
    assert words in capsys.readouterr().err


def test_a_benchmark_without_a_script_for_pairs_is_refused(tmp_path, capsys):
    run = write_run(tmp_path / "run", [case(1)], judged(1, 1, 2), benchmark="preferences")
    assert main(["eval", "export", str(run), "--file", str(tmp_path / "out.jsonl")]) == 2
    assert "known: vl-rewardbench, mm-rlhf-rewardbench, multimodal-rewardbench, judgebench" in capsys.readouterr().err
