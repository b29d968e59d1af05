"""The folder of an evaluation: what is there is never asked for again, and nothing else is mixed with it."""

import json
import os

import pytest

from r1reward_verl.engines.base import Judgement
from r1reward_verl.evaluation.folder import CASES, JUDGEMENTS, METRICS, RUN, CasesFile, Store, StoreError

SETTINGS = {"samples": 2, "limit": None, "model_fingerprint": "a", "prompt": "{question}", "order": "both"}
FIRST, SECOND = "chosen-first", "rejected-first"


def said(row, sample=0, order=FIRST, **values):
    return Judgement(row, order, sample, **{"text": "<think>ä</think><answer>1</answer>", **values})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


def lines(folder):
    return [json.loads(line) for line in (folder / JUDGEMENTS).read_text("utf-8").splitlines()]


def test_what_is_there_is_wanted_no_more_and_survives_a_restart(folder):
    store = Store(folder, SETTINGS)
    assert store.wanted(7, FIRST) == (0, 1, 2)
    store.add([said(7), said(7, 2), said(7, 1, SECOND)])
    assert (store.wanted(7, FIRST), store.wanted(7, SECOND), store.whole) == ((1,), (0, 2), 3)
    store.close()
    again = Store(folder, SETTINGS)
    assert (again.wanted(7, FIRST), again.wanted(7, SECOND), again.whole) == ((1,), (0, 2), 3)
    assert again.wanted(8, FIRST) == (0, 1, 2)
    again.close()


def test_a_line_is_a_judgement_as_it_was_given(folder):
    Store(folder, SETTINGS).add([said(3, 1, tokens=5, prompt_tokens=90, finish_reason="stop")])
    assert lines(folder) == [
        {"row": 3, "order": FIRST, "sample": 1, "text": "<think>ä</think><answer>1</answer>", "tokens": 5}
        | {"prompt_tokens": 90, "finish_reason": "stop", "status": "ok", "error": ""}
    ]


def test_failed_ones_are_wanted_again_and_those_that_are_too_long_are_not(folder):
    store = Store(folder, SETTINGS)
    store.add([said(1, status="failed"), said(2, status="too_long")])
    assert (store.wanted(1, FIRST), store.wanted(2, FIRST), store.whole) == ((0, 1, 2), (1, 2), 1)
    store.add([said(1)])
    assert (store.wanted(1, FIRST), store.whole) == ((1, 2), 2)
    assert len(lines(folder)) == 3


def test_a_torn_line_is_dropped_and_counted(folder):
    store = Store(folder, SETTINGS)
    store.add([said(1), said(2)])
    store.close()
    whole = (folder / JUDGEMENTS).read_bytes()
    (folder / JUDGEMENTS).write_bytes(whole[:-9])
    again = Store(folder, SETTINGS)
    assert (again.dropped, again.wanted(1, FIRST), again.wanted(2, FIRST)) == (1, (1, 2), (0, 1, 2))
    again.add([said(2)])
    assert (folder / JUDGEMENTS).read_bytes() == whole


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_fingerprint": "b"}, "model_fingerprint was 'a' and is 'b' now"),
        ({"samples": 1}, "samples was 2 and is 1 now"),
        ({"limit": 5}, "limit was None and is 5 now"),
        ({"frames": 8}, "frames was None and is 8 now"),
    ],
)
def test_other_settings_are_refused_with_both_values_and_the_way_out(folder, changed, words):
    store = Store(folder, SETTINGS)
    store.add([said(6, 2)])
    store.close()
    with pytest.raises(StoreError, match=f"{words}.*name another folder, or remove this one"):
        Store(folder, SETTINGS | changed)
    assert json.loads((folder / RUN).read_text())["settings"]["model_fingerprint"] == "a"


def test_more_samples_and_cases_only_add(folder):
    limited = SETTINGS | {"limit": 5}
    store = Store(folder, limited)
    store.add([said(1, sample) for sample in range(3)])
    store.close()
    store = Store(folder, limited | {"samples": 4, "limit": 9})
    assert store.wanted(1, FIRST) == (3, 4)
    store.close()
    Store(folder, SETTINGS | {"samples": 4}).close()


def test_what_was_raised_holds_from_the_first_judgement_on(folder):
    store = Store(folder, SETTINGS | {"limit": 5})
    store.add([said(4, 1)])
    store.close()
    whole = (folder / RUN).read_bytes()
    for name in (METRICS, CASES):
        (folder / name).write_text("as before")
    for _ in range(2):  # the second one without what it left
        store = Store(folder, SETTINGS | {"samples": 9, "limit": 7})
        CasesFile(folder).close()
        store.note(cases=7)
        store.close()
        assert (folder / RUN).read_bytes() == whole
        assert {path.name: path.read_text() for path in folder.iterdir() if path.name in (METRICS, CASES)} == {
            METRICS: "as before",
            CASES: "as before",
        }
        assert len(list(folder.iterdir())) == 4
    store = Store(folder, SETTINGS | {"samples": 9, "limit": 7})
    CasesFile(folder).close()
    store.note(cases=7)
    store.add([said(6)])
    written = json.loads((folder / RUN).read_text())
    assert (written["settings"]["samples"], written["settings"]["limit"], written["about"]) == (9, 7, {"cases": 7})
    assert (folder / CASES).read_text() == ""
    assert not (folder / METRICS).exists()


def test_what_no_judgement_has_reached_can_be_lowered_again(folder):
    store = Store(folder, SETTINGS | {"samples": 9})
    store.add([said(4, 1), said(4, 2)])
    store.close()
    store = Store(folder, SETTINGS | {"samples": 2, "limit": 4})
    assert (store.wanted(4, FIRST), store.wanted(4, SECOND), store.whole) == ((0,), (0, 1, 2), 2)
    store.close()
    for lower in ({"samples": 1}, {"samples": 2, "limit": 3}):
        with pytest.raises(StoreError, match="can be raised"):
            Store(folder, SETTINGS | lower)


def test_without_judgements_there_is_nothing_to_mix_with(folder):
    Store(folder, SETTINGS).close()
    store = Store(folder, SETTINGS | {"model_fingerprint": "b"})
    store.add([said(1)])
    assert json.loads((folder / RUN).read_text())["settings"]["model_fingerprint"] == "b"
    store.close()


def test_two_runs_in_one_folder_are_refused(folder):
    store = Store(folder, SETTINGS)
    with pytest.raises(StoreError, match="another run writes"):
        Store(folder, SETTINGS)
    store.close()
    Store(folder, SETTINGS).close()


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
def test_a_damaged_line_is_named(folder, line):
    store = Store(folder, SETTINGS)
    store.add([said(1)])
    store.close()
    with open(folder / JUDGEMENTS, "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(StoreError, match="line 2: not a judgement"):
        Store(folder, SETTINGS)


def test_judgements_of_which_nobody_says_what_they_are_are_refused(folder):
    store = Store(folder, SETTINGS)
    store.add([said(1)])
    store.close()
    (folder / RUN).unlink()
    with pytest.raises(StoreError, match="does not say what they were made with"):
        Store(folder, SETTINGS)


def test_on_a_full_disk_the_file_stays_as_it_was(folder, monkeypatch):
    store = Store(folder, SETTINGS)
    store.add([said(1)])
    whole = (folder / JUDGEMENTS).read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    with pytest.raises(OSError, match="disk full"):
        store.add([said(2)])
    assert (folder / JUDGEMENTS).read_bytes() == whole
    assert store.wanted(2, FIRST) == (0, 1, 2)


def test_half_a_character_does_not_end_a_run(folder):
    Store(folder, SETTINGS).add([said(1, text="a\ud800b")])
    assert lines(folder)[0]["text"] == "a?b"
