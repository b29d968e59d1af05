"""The run folder of an evaluation: what is there is not asked for again, and nothing else is mixed with it."""

import json
import os

import pytest

from r1reward_verl.engines.base import Judgement
from r1reward_verl.evaluation.benchmarks import Case
from r1reward_verl.evaluation.folder import RunFolder, RunFolderError

SETTINGS = {"samples": 2, "limit": None, "model_fingerprint": "a", "prompt": "{question}", "order": "both"}
FIRST, SECOND = "chosen-first", "rejected-first"
CASE = Case(1, "i", "c", "c", "q", "a", "b", (), None)


def said(row, sample=0, order=FIRST, **values):
    return Judgement(row, order, sample, **{"text": "<think>ä</think><answer>1</answer>", **values})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def opened(folder):
    """Opens the folder with changed settings and adds judgements; what was opened before is closed."""
    runs = []

    def open_run(*judgements, **changes):
        if runs:
            runs.pop().close()
        runs.append(RunFolder(folder, SETTINGS | changes))
        if judgements:
            runs[0].add(judgements)
        return runs[0]

    yield open_run
    for run in runs:
        run.close()


def lines(folder, name="judgements.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def test_what_is_there_is_wanted_no_more_and_survives_a_restart(opened):
    assert opened().wanted(7, FIRST) == (0, 1, 2)
    for run in (opened(said(7), said(7, 2), said(7, 1, SECOND)), opened()):
        assert (run.wanted(7, FIRST), run.wanted(7, SECOND), run.count) == ((1,), (0, 2), 3)
        assert run.wanted(8, FIRST) == (0, 1, 2)


def test_a_line_is_a_judgement_as_it_was_given(opened, folder):
    opened(said(3, 1, tokens=5, prompt_tokens=90, finish_reason="stop"), said(1, text="a\ud800b"))
    assert lines(folder)[0] == (
        {"row": 3, "order": FIRST, "sample": 1, "text": "<think>ä</think><answer>1</answer>", "tokens": 5}
        | {"prompt_tokens": 90, "finish_reason": "stop", "status": "ok", "error": ""}
    )
    assert lines(folder)[1]["text"] == "a?b"  # half a character does not end a run


def test_failed_ones_are_wanted_again_and_those_that_are_too_long_are_not(opened, folder):
    run = opened(said(1, status="failed"), said(2, status="too_long"))
    assert (run.wanted(1, FIRST), run.wanted(2, FIRST), run.count) == ((0, 1, 2), (1, 2), 1)
    run.add([said(1)])
    assert (run.wanted(1, FIRST), run.count) == ((1, 2), 2)
    assert len(lines(folder)) == 3


def test_a_torn_line_is_dropped_and_counted(opened, folder):
    opened(said(1), said(2))
    whole = (folder / "judgements.jsonl").read_bytes()
    (folder / "judgements.jsonl").write_bytes(whole[:-9])
    again = opened()
    assert (again.cut_off, again.wanted(1, FIRST), again.wanted(2, FIRST)) == (True, (1, 2), (0, 1, 2))
    again.add([said(2)])
    assert (folder / "judgements.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_fingerprint": "b"}, "model_fingerprint was 'a' and is 'b' now"),
        ({"samples": 1}, "samples was 2 and is 1 now"),
        ({"frames": 8}, "frames was None and is 8 now"),
    ],
)
def test_other_settings_are_refused_with_both_values_and_the_way_out(opened, folder, changed, words):
    opened(said(6, 2))
    with pytest.raises(RunFolderError, match=f"{words}.*name another folder, or remove this one"):
        opened(**changed)
    assert json.loads((folder / "run.json").read_text())["settings"]["model_fingerprint"] == "a"


def test_more_samples_and_cases_only_add(opened):
    opened(*(said(1, sample) for sample in range(3)), limit=5)
    assert opened(samples=4, limit=9).wanted(1, FIRST) == (3, 4)
    opened(samples=4)


def test_what_was_raised_holds_from_the_first_judgement_on(opened, folder):
    opened(said(4, 1), limit=5)
    whole = (folder / "run.json").read_bytes()
    old = {"metrics.json": "as before", "cases.jsonl": "as before"}
    for name, text in old.items():
        (folder / name).write_text(text)
    for _ in range(3):  # without what the attempt before left
        run = opened(samples=9, limit=7)
        assert (folder / "run.json").read_bytes() == whole
        assert {name: (folder / name).read_text() for name in old} == old
        assert len(list(folder.iterdir())) == 4
        run.add_case(CASE)
        run.record(cases=7)
    run.add([said(6)])
    written = json.loads((folder / "run.json").read_text())
    assert (written["settings"]["samples"], written["settings"]["limit"], written["about"]) == (9, 7, {"cases": 7})
    assert lines(folder, "cases.jsonl") == [
        {"row": 1, "id": "i", "category": "c", "question": "q", "chosen": "a", "rejected": "b", "media": []}
    ]
    assert not (folder / "metrics.json").exists()


def test_what_no_judgement_has_reached_can_be_lowered_again(opened):
    opened(said(4, 1), said(4, 2), samples=9)
    run = opened(samples=2, limit=4)
    assert (run.wanted(4, FIRST), run.wanted(4, SECOND), run.count) == ((0,), (0, 1, 2), 2)
    run.keep_to({2, 4})
    with pytest.raises(RunFolderError, match="judgements of 1 cases that --limit 4 does not draw"):
        run.keep_to({2, 3})
    with pytest.raises(RunFolderError, match="can be raised"):
        opened(samples=1)


def test_without_judgements_there_is_nothing_to_mix_with(opened, folder):
    opened()
    opened(said(1), model_fingerprint="b")
    assert json.loads((folder / "run.json").read_text())["settings"]["model_fingerprint"] == "b"


def test_failed_judgements_do_not_bind_to_their_settings(opened, folder):
    opened(said(1, status="failed"), said(7, status="failed"), model_fingerprint="typo", limit=9)
    opened(said(1, status="failed"), model_fingerprint="typo", limit=9)
    assert len(lines(folder)) == 3
    run = opened(said(1), limit=5)
    assert (run.count, run.wanted(7, FIRST), len(lines(folder))) == (1, (0, 1, 2), 1)
    with pytest.raises(RunFolderError, match="another evaluation"):
        opened(model_fingerprint="typo", limit=5)


def test_two_runs_in_one_folder_are_refused(opened, folder):
    opened()
    with pytest.raises(RunFolderError, match="another run writes"):
        RunFolder(folder, SETTINGS)
    opened()


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        "{}",
        '{"row": 1, "order": "first", "sample": 0, "status": "ok"}',
        '{"row": 1, "order": "chosen-first", "sample": 9, "status": "ok"}',
    ],
)
def test_a_damaged_line_is_named(opened, folder, line):
    opened(said(1))
    with open(folder / "judgements.jsonl", "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(RunFolderError, match="line 2: not a judgement"):
        opened()


def test_judgements_whose_settings_are_unknown_are_refused(opened, folder):
    opened(said(1))
    (folder / "run.json").unlink()
    with pytest.raises(RunFolderError, match="does not say with which settings they were made"):
        opened()


def test_on_a_full_disk_the_file_stays_as_it_was(opened, folder, monkeypatch):
    run = opened(said(1))
    whole = (folder / "judgements.jsonl").read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    with pytest.raises(OSError, match="disk full"):
        run.add([said(2)])
    assert (folder / "judgements.jsonl").read_bytes() == whole
    assert run.wanted(2, FIRST) == (0, 1, 2)
