"""The report of a training run: curves from verl's log, the gallery, and files that can be read anywhere."""

import json

import numpy as np
import pytest
from PIL import Image

from pages import Page, check_stands_alone
from r1reward_verl.evaluation.metrics import compute_metrics
from r1reward_verl.evaluation.verdicts import Cases, Verdicts
from r1reward_verl.reports.page import text_table
from r1reward_verl.reports.training import summary_note, summary_table, training_curves, write_training_report


def log(path, *lines):
    path.write_text("".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in lines))
    return path


def metrics(right_of_100, supported=1):
    case, label = np.repeat(np.arange(100), 2), np.tile([1, 2], 100)
    verdict = np.where(case < right_of_100, label, 3 - label) if supported is not None else 0 * label
    columns = (case, label, verdict, np.repeat(label[:, None], 5, axis=1), 40 + 0 * case, 100 + 0 * case)
    judged = Verdicts(*columns, consistency=(supported or 0) + 0 * case, status=0 * case)
    return compute_metrics(judged, Cases([str(i) for i in range(100)], ["all"] * 100))


@pytest.fixture
def summary():
    return {
        "sft": metrics(75),
        "rl": metrics(90),
        "steps": 30,
        "seconds": {"sft": 200.2, "rl": 400, "install": None},
    }


def test_curves_are_read_by_their_names_in_verls_log(tmp_path):
    file = log(
        tmp_path / "log.jsonl",
        (0, {"val-r1_reward/all/accuracy": 0.7, "val-r1_reward/all/consistency": 0.6}),
        (1, {"critic/score/mean": 1.0, "response_length/mean": 50, "actor/grad_norm": 0.5}),
        (2, {"critic/score/mean": 1.2, "stable_reinforce/filtered_tokens": 0.01, "critic/score/max": 9}),
        (3, {"val-r1_reward/all/accuracy": 0.85, "val-r1_reward/toy/accuracy": 0.9, "val-core/toy/acc/mean@1": 0.9}),
        (4, {"critic/score/mean": None}),
    )
    curves = training_curves(file)
    assert curves == {
        "reward": [(1, 1.0), (2, 1.2)],
        "accuracy": [(0, 0.7), (3, 0.85)],
        "consistency": [(0, 0.6)],
        "response_length": [(1, 50)],
        "grad_norm": [(1, 0.5)],
        "filtered": [(2, 0.01)],
    }


def test_curves_of_a_resumed_run_join_its_files(tmp_path):
    first = log(tmp_path / "1.jsonl", *((step, {"critic/score/mean": 1.0}) for step in range(1, 6)))
    second = log(tmp_path / "2.jsonl", *((step, {"critic/score/mean": 2.0}) for step in range(4, 8)))
    assert training_curves(first, second)["reward"] == [(s, 1.0 if s < 4 else 2.0) for s in range(1, 8)]


def test_a_line_cut_off_at_the_end_is_left_out_and_one_in_the_middle_named(tmp_path):
    file = log(tmp_path / "log.jsonl", (1, {"critic/score/mean": 1.0}))
    whole = file.read_text()
    file.write_text(whole + '{"step": 2, "da')
    assert training_curves(file)["reward"] == [(1, 1.0)]
    file.write_text('{"step": 2, "da\n' + whole)
    with pytest.raises(ValueError, match=r"log\.jsonl, line 1: not a line of verl"):
        training_curves(file)


def test_table_shows_before_after_and_change(summary):
    text = text_table(summary_table(summary))
    line = next(line for line in text.splitlines() if line.startswith("Accuracy, both orders"))
    low, high = (100 * bound for bound in summary["sft"]["accuracy_ci95"])
    assert f"75.0% [{low:.1f}, {high:.1f}]" in line
    assert line.endswith("+15.0")
    assert "voting@5" in text
    assert len({len(line) for line in text.splitlines()}) == 1  # columns are aligned
    note = summary_note(summary)
    assert note.startswith("100 held-out pairs")
    assert note.endswith("; 30 RL steps; seconds: sft 200, rl 400")


def test_unknown_figures_are_shown_as_such(summary, tmp_path):
    summary["sft"] = metrics(0, supported=None)  # no judgement has a verdict
    line = next(
        line for line in text_table(summary_table(summary)).splitlines() if line.startswith("Reasoning supports")
    )
    assert line.count("–") == 2
    write_training_report(tmp_path, summary, {})


def test_report_files_are_there_and_the_page_needs_nothing_beside_it(summary, tmp_path):
    curves = {"reward": [(1, 1.0), (2, 1.1)], "accuracy": [(0, 0.75)], "filtered": []}
    page = write_training_report(tmp_path / "report", summary, curves)
    assert sorted(file.name for file in page.parent.iterdir()) == [
        "before_after.png",
        "report.html",
        "report.md",
        "training.png",
    ]
    check_stands_alone(Page(page))
    assert len(Page(page).all("img")) == 2
    assert not Page(page).all("script")
    for name in ("training.png", "before_after.png"):
        with Image.open(page.parent / name) as plot:
            assert min(plot.size) > 400
            assert len(plot.convert("L").getcolors()) > 20  # something is drawn
    markdown = (page.parent / "report.md").read_text(encoding="utf-8")
    assert "| Accuracy, both orders | 75.0%" in markdown
    assert "](training.png)" in markdown


def test_it_links_to_the_judgements(summary, tmp_path):
    page = write_training_report(tmp_path, summary, {}, "evaluation/report.html")
    assert '<a href="evaluation/report.html">' in page.read_text(encoding="utf-8")
    assert "(evaluation/report.html)" in (tmp_path / "report.md").read_text(encoding="utf-8")
