"""`r1reward eval compare`: paired figures against hand-made ones, and the folders it reads and refuses."""

import json
import time
from itertools import product
from math import comb, erfc, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark_files import jsonl
from factories import judgement as well_formed
from factories import verdicts
from r1reward_verl.cli import main
from r1reward_verl.evaluation.compare import compare, compare_runs, sign_test
from r1reward_verl.evaluation.folder import ORDERS
from r1reward_verl.evaluation.metrics import compute_metrics
from r1reward_verl.evaluation.verdicts import FAILED, OK, TOO_LONG, Cases, load_run
from run_folder import case, judgement

# Tests


def judged(right, *, label=1, tokens=None, status=None):
    """One shown case each, right or wrong."""
    tokens, status = [10] * len(right) if tokens is None else tokens, status or [OK] * len(right)
    shown = enumerate(zip(right, tokens, status, strict=True))
    return verdicts(
        [(case, label, label if one else 3 - label, (), size, 100, 0, is_) for case, (one, size, is_) in shown]
    )


def alone(count):
    return Cases([str(case) for case in range(count)], ["x"] * count)


def test_mcnemar_is_the_two_sided_binomial():
    # 2 for A and 8 for B of ten: 2 * P(at most 2 of 10 heads).
    changes = np.array([-1] * 2 + [1] * 8 + [0] * 90)
    assert sign_test(changes) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert sign_test(-changes) == sign_test(changes)
    assert sign_test(np.array([1] * 5 + [-1] * 5)) == 1
    assert sign_test(np.zeros(7, int)) == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-4, 4), max_size=9))
def test_over_ids_every_change_of_signs_is_as_likely(differences):
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    expected = np.mean(np.array(sums) >= abs(sum(differences)))
    assert sign_test(np.array(differences, np.int64)) == pytest.approx(expected)


def test_many_differences_are_judged_by_chi_squared():
    few, many = (np.repeat([1, -1], [count // 2 + 20, count // 2 - 20]) for count in (1_000, 1_002))
    assert sign_test(many) == pytest.approx(erfc(39 / sqrt(2 * 1_002)))
    assert sign_test(few) == pytest.approx(2 * sum(comb(1_000, k) for k in range(481)) / 2**1_000)
    assert sign_test(few) == pytest.approx(sign_test(many), rel=0.01)


# Figures


def test_figures_worked_out_by_hand():
    a = judged([1, 1, 1, 0, 0, 0, 1, 1], tokens=[100] * 8)
    b = judged([1, 1, 0, 1, 1, 1, 1, 1], tokens=[85] * 8)
    cases = Cases(list("abcdefgh"), ["x"] * 4 + ["y"] * 4)
    found = compare(a, b, cases, resamples=500)
    everything = found["all"]
    assert (everything["rows"], everything["cases"], everything["ids"]) == (8, 8, 8)
    assert (everything["accuracy_a"], everything["accuracy_b"], everything["difference"]) == (5 / 8, 7 / 8, 2 / 8)
    counts = [everything[name] for name in ("both_right", "a_right", "b_right", "both_wrong")]
    assert counts == [4, 1, 3, 0]
    assert everything["p_mcnemar"] == everything["p_by_id"] == pytest.approx(2 * (1 + 4) / 2**4)
    assert everything["ci95"][0] <= 0 < everything["ci95"][1]
    x, y = found["by_category"]["x"], found["by_category"]["y"]
    assert (x["difference"], x["a_right"], x["b_right"]) == (0, 1, 1)
    assert (y["difference"], y["a_right"], y["b_right"]) == (2 / 4, 0, 2)
    # The paper's "15% shorter".
    assert everything["tokens"] == {
        "a": 100,
        "b": 85,
        "change": pytest.approx(-0.15),
        "ci95": pytest.approx([-0.15, -0.15]),
    }
    assert everything["reasoning_characters"]["change"] == 0


def test_cases_of_one_id_are_one_piece_of_evidence():
    # Ten ids of four cases, all four in favour of B or none: McNemar's test believes forty of them.
    a, b = judged([0] * 40), judged([1] * 24 + [0] * 16)
    cases = Cases([str(case // 4) for case in range(40)], ["x"] * 40)
    found = compare(a, b, cases)["all"]
    assert found["p_mcnemar"] == pytest.approx(2 / 2**24)
    assert found["p_by_id"] == pytest.approx(2 / 2**6)
    single = compare(a, b, alone(40))["all"]
    assert single["p_by_id"] == single["p_mcnemar"]
    width = [one["ci95"][1] - one["ci95"][0] for one in (found, single)]
    assert width[0] / width[1] == pytest.approx(2, abs=0.3)  # a quarter of the evidence


def test_interval_of_the_difference_matches_the_formula_for_paired_shares():
    right_a = np.arange(1_000) < 600
    right_b = np.roll(right_a, 50)  # 50 only A, 50 only B
    right_b[700:730] = True  # 30 more only B
    low, high = compare(judged(right_a), judged(right_b), alone(1_000))["all"]["ci95"]
    half_width = 1.96 * sqrt((0.13 - 0.03**2) / 1_000)
    assert low == pytest.approx(0.03 - half_width, abs=0.003)
    assert high == pytest.approx(0.03 + half_width, abs=0.003)


def test_interval_of_a_length_follows_its_spread():
    rng = np.random.default_rng(0)
    lengths = rng.integers(50, 150, 400)
    shorter = np.where(np.arange(400) % 2, lengths, lengths * 0.7).astype(int)
    found = compare(judged([1] * 400, tokens=lengths), judged([1] * 400, tokens=shorter), alone(400))["all"]["tokens"]
    assert found["change"] == pytest.approx(shorter.sum() / lengths.sum() - 1)
    assert -0.18 < found["ci95"][0] < found["change"] < found["ci95"][1] < -0.12


def test_equal_runs_leave_room_for_the_difference_that_so_few_cases_cannot_show():
    found = compare(judged([1, 0] * 20), judged([1, 0] * 20), alone(40))["all"]
    assert found["difference"] == 0
    assert found["p_mcnemar"] == found["p_by_id"] == 1
    high = 1.96**2 / (40 + 1.96**2)
    assert found["ci95"] == pytest.approx([-high, high], abs=1e-5)


def test_only_what_both_judged_in_the_same_order_counts():
    a = judged([1, 1, 1, 1], status=[OK, OK, FAILED, TOO_LONG])
    b = judged([1, 0, 1, 1])[1:]
    found = compare(a, b, alone(4))
    assert found["all"]["rows"] == 2  # cases 1 and 3
    assert (found["only_a"], found["only_b"]) == (1, 1)
    with pytest.raises(ValueError, match="A judged 4 shown cases and B 4, and none is in both"):
        compare(judged([1] * 4), judged([1] * 4, label=2), alone(4))


def test_a_hundred_thousand_cases_take_seconds():
    rng = np.random.default_rng(0)
    runs = [judged(rng.random(100_000) < share, tokens=rng.integers(50, 2_000, 100_000)) for share in (0.7, 0.71)]
    cases = Cases([str(case) for case in range(100_000)], [str(case % 7) for case in range(100_000)])
    start = time.perf_counter()
    found = compare(*runs, cases)["all"]
    assert time.perf_counter() - start < 60
    assert found["ci95"][0] < found["difference"] < found["ci95"][1]


# Folders


def write_run(folder, answer, count, *, question="what?", orders=ORDERS, first=1, samples=1):
    """A run of `count` cases; `answer` is a function of row, label and sample that returns a text, a status or None."""
    folder.mkdir()
    rows = range(first, first + count)
    texts = {"chosen": "yes", "rejected": "no"}
    cases = [case(row, "xy"[row % 2], id=f"q{row // 2}", question=f"{question} {row}", **texts) for row in rows]
    judgements = []
    for row, order, sample in product(rows, orders, range(samples)):
        text = answer(row, ORDERS[order], sample)
        if text in ("failed", "too_long"):
            judgements.append(judgement(row, order, "", sample, status=text, tokens=0))
        elif text is not None:
            judgements.append(judgement(row, order, text, sample, tokens=len(text)))
    for name, lines in (("cases.jsonl", cases), ("judgements.jsonl", judgements)):
        jsonl(folder / name, lines)
    return folder


def says(choice, words="Response {} is better."):
    return well_formed(choice, words.format(choice))


def test_a_run_is_read_into_verdicts(tmp_path):
    texts = {
        (1, 1): says(1),
        (1, 2): says(1, "Response 2 is better."),  # wrong, and its reasoning says otherwise
        (2, 1): "nothing",
        (2, 2): "too_long",
        (3, 1): "failed",
    }
    run = load_run(write_run(tmp_path / "run", lambda row, label, sample: texts.get((row, label)), 4))
    said = run.verdicts
    assert run.rows.tolist() == [1, 2, 3, 4]
    assert run.cases == Cases(["q0", "q1", "q1", "q2"], ["y", "x", "y", "x"])
    # What the run has not come to yet counts as failed: (3, 2) and case 4 in both orders.
    assert list(
        zip(said.case.tolist(), said.label.tolist(), said.greedy.tolist(), said.status.tolist(), strict=True)
    ) == [
        (0, 1, 1, OK),
        (0, 2, 1, OK),
        (1, 1, 0, OK),
        (1, 2, 0, TOO_LONG),
        (2, 1, 0, FAILED),
        (2, 2, 0, FAILED),
        (3, 1, 0, FAILED),
        (3, 2, 0, FAILED),
    ]
    assert said.consistency.tolist() == [1, -1, 0, 0, 0, 0, 0, 0]
    assert said.reasoning.tolist()[:2] == [len("Response 1 is better.")] * 2
    assert said.tokens.tolist()[:3] == [len(says(1)), len(says(1)), len("nothing")]
    metrics = compute_metrics(said, run.cases, resamples=10)
    assert (metrics["rows"], metrics["failed"], metrics["accuracy"]) == (4, 4, 1 / 4)


def test_samples_are_read_and_a_retried_judgement_replaces_the_failed_one(tmp_path):
    folder = write_run(tmp_path / "run", lambda row, label, sample: says(1 + sample % 2), 2, samples=4)
    lines = (folder / "judgements.jsonl").read_text().splitlines()
    failed = json.dumps({**json.loads(lines[0]), "status": "failed", "text": ""})
    (folder / "judgements.jsonl").write_text("\n".join([failed, *lines[1:], lines[0], '{"row": 1, "ord']))
    run = load_run(folder)
    assert run.verdicts.sampled.tolist() == [[2, 1, 2]] * 4
    assert run.verdicts.status.tolist() == [OK] * 4
    assert run.saved.cut_off
    assert sum(one.status == "ok" for one in run.saved.judgements()) == 16


def test_a_shown_case_that_lacks_a_sample_is_not_complete(tmp_path):
    def answer(row, label, sample):
        return None if (row, label, sample) == (2, 1, 3) else says(1)

    run = load_run(write_run(tmp_path / "run", answer, 2, samples=4))
    assert run.verdicts.status.tolist() == [OK, OK, FAILED, OK]


def test_what_there_must_be_is_what_the_run_was_made_with(tmp_path):
    folder = write_run(tmp_path / "run", lambda *_: says(1), 3, orders=("chosen-first",))
    (folder / "run.json").write_text(json.dumps({"settings": {"order": "both", "samples": 0}}))
    assert load_run(folder).verdicts.status.tolist() == [OK, FAILED] * 3
    (folder / "run.json").write_text(json.dumps({"settings": {"order": "chosen-first", "samples": 2}}))
    judged = load_run(folder).verdicts
    assert (judged.sampled.shape, judged.status.tolist()) == ((3, 2), [FAILED] * 3)
    for damaged in ("{", "[]", '{"settings": {"samples": -1}}'):
        (folder / "run.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"run.json: not "):
            load_run(folder)


def test_lengths_that_nobody_counted_are_not_compared(tmp_path):
    a, b = (write_run(tmp_path / name, lambda *_: says(1), 4) for name in "ab")
    lines = [json.loads(line) for line in (b / "judgements.jsonl").read_text().splitlines()]
    for line in lines[2:]:
        line["tokens"] = None
    (b / "judgements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokens = compare_runs(load_run(a), load_run(b))["all"]["tokens"]
    assert (tokens["a"], tokens["b"], tokens["change"]) == (len(says(1)), len(says(1)), 0)


def test_a_run_in_one_order_lacks_no_other(tmp_path):
    folder = write_run(tmp_path / "run", lambda *_: says(1), 3, orders=("chosen-first",))
    assert load_run(folder).verdicts.label.tolist() == [1, 1, 1]


def test_the_command_compares_two_runs(tmp_path, capsys):
    def careful(row, label, sample):
        return says(label)

    def careless(row, label, sample):
        return says(1 if row % 2 else label, "Looking at everything, I think that response {} is better.")

    a = write_run(tmp_path / "a", careless, 8)
    b = write_run(tmp_path / "b", careful, 6)
    assert main(["eval", "compare", str(a), str(b), "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["all"]["rows"] == 12
    assert (found["only_a"], found["only_b"]) == (4, 0)
    assert (found["all"]["accuracy_a"], found["all"]["accuracy_b"]) == (0.75, 1)
    assert found["by_category"]["y"]["difference"] == 0.5
    assert found["by_category"]["x"]["difference"] == 0
    assert found["all"]["tokens"]["change"] == pytest.approx(len(says(1)) / len(careless(1, 1, 0)) - 1)
    printed = capsys.readouterr().out
    assert "+25.0" in printed
    assert f"{found['all']['tokens']['change']:+.1%}" in printed
    assert "12 shown cases that both judged; left out: 4 of A, 0 of B" in printed


def test_runs_of_other_data_are_refused_and_shown(tmp_path, capsys):
    a = write_run(tmp_path / "a", lambda *_: says(1), 3)
    b = write_run(tmp_path / "b", lambda *_: says(1), 3, question="where?")
    assert main(["eval", "compare", str(a), str(b)]) == 2
    error = capsys.readouterr().err
    assert "not runs of the same data (row 1 is one case in A and another in B; 3 of 3" in error
    assert "'what? 1'" in error
    assert "'where? 1'" in error
    apart = write_run(tmp_path / "c", lambda *_: says(1), 3, first=10)
    with pytest.raises(ValueError, match="no row is in both"):
        compare_runs(load_run(a), load_run(apart))


def test_folders_that_are_no_runs_are_refused(tmp_path, capsys):
    run = write_run(tmp_path / "run", lambda *_: says(1), 1)
    assert main(["eval", "compare", str(run), str(tmp_path / "nowhere")]) == 2
    assert f"no run at '{tmp_path}/nowhere'" in capsys.readouterr().err
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(ValueError, match=r"nowhere has no cases\.jsonl"):
        load_run(tmp_path / "nowhere")
    empty = write_run(tmp_path / "empty", lambda *_: None, 1)
    with pytest.raises(ValueError, match="holds no judgements"):
        load_run(empty)
    for field, value in (("row", 7), ("order", "sideways"), ("sample", -1), ("sample", 10**9), ("status", "well")):
        line = {"row": 1, "order": "chosen-first", "sample": 0, "text": "", "tokens": 0, "status": "ok", field: value}
        (run / "judgements.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(ValueError, match=r"judgements.jsonl, line 1: not a judgement|row 7 is judged"):
            load_run(run)
    (run / "cases.jsonl").write_text('{"row": 1}\n')
    with pytest.raises(ValueError, match=r"cases.jsonl, line 1: not a case \(Object missing required field `id`\)"):
        load_run(run)
