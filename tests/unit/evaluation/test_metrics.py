"""Figures of an evaluation against tables worked out by hand, and models whose figures are known beforehand."""

import time
import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import verdicts as judged
from r1reward_verl.evaluation.bootstrap import bootstrap_ci95, resampled
from r1reward_verl.evaluation.metrics import compute_metrics, reference_metrics
from r1reward_verl.evaluation.verdicts import FAILED, TOO_LONG, Cases, Verdicts, reference_verdict

BOTH, CHOSEN_FIRST, REJECTED_FIRST = (1, 2), (1,), (2,)


def shown(cases, orders):
    return [(case, label) for case in range(cases) for label in orders]


def other(label):
    return 3 - label


# Worked out by hand


def test_a_table_worked_out_by_hand():
    rows = [
        (0, 1, 1, (1, 1, 2), 10, 100, 1),  # case 0 is right in both orders
        (0, 2, 2, (2, 0, 1), 20, 200, -1),
        (1, 1, 1, (2, 2, 1), 30, 300, 1),  # case 1 flips
        (1, 2, 1, (2, 2, 2), 40, 400, 1),
        (2, 1, 0, (0, 0, 0), 50, 500, 1),  # without a verdict there is no reasoning for it
        (2, 2, 2, (1, 2, 2), 60, 600, 0),
        (3, 1, 2, (2, 2, 2), 70, 700, 1),  # wrong in both
        (3, 2, 1, (1, 1, 1), 80, 800, 1),
    ]
    cases = Cases(["a", "a", "b", "b"], ["x", "y", "y", "y"])
    metrics = compute_metrics(judged(rows), cases, acc_plus=True, resamples=200)

    assert (metrics["rows"], metrics["pairs"], metrics["ids"], metrics["samples"]) == (8, 4, 2, 3)
    assert (metrics["failed"], metrics["too_long"], metrics["complete"]) == (0, 0, True)
    assert metrics["accuracy"] == metrics["overall"] == 4 / 8
    assert metrics["macro"] == pytest.approx((1 + 2 / 6) / 2)
    assert metrics["acc_plus"] == 0
    assert metrics["unparsable"] == 1 / 8
    assert metrics["consistency"] == pytest.approx(5 / 7)
    assert metrics["position_bias"] == 2 / 4 - 2 / 4
    assert metrics["both_orders_accuracy"] == 1 / 4
    assert metrics["flip_rate"] == pytest.approx(1 / 3)  # of cases 0, 1 and 3
    assert metrics["mean_response_tokens"] == 45
    assert metrics["mean_reasoning_characters"] == 450

    credit = [1, 0.5, 0, 1, 0, 1, 0, 0]  # the second is a tie, one against one
    assert metrics["voting_accuracy"] == pytest.approx(sum(credit) / 8)
    assert metrics["voting_macro"] == pytest.approx((1.5 / 2 + 2 / 6) / 2)
    assert metrics["voting"]["k"] == [1, 2, 3]
    right = [2, 1, 1, 3, 0, 2, 0, 0]
    assert metrics["voting"]["accuracy"][0] == metrics["voting"]["any_correct"][0] == pytest.approx(sum(right) / 24)
    # Two of three: right-right-wrong 2/3; right-wrong-none 1/2; right-wrong-wrong 1/3; all right 1.
    assert metrics["voting"]["accuracy"][1] == pytest.approx((2 / 3 + 1 / 2 + 1 / 3 + 1 + 0 + 2 / 3 + 0 + 0) / 8)
    assert metrics["voting"]["any_correct"][1] == pytest.approx((1 + 2 / 3 + 2 / 3 + 1 + 0 + 1 + 0 + 0) / 8)
    assert metrics["voting"]["accuracy"][2] == metrics["voting_accuracy"]
    assert metrics["voting"]["any_correct"][2] == 5 / 8

    x, y = metrics["by_category"]["x"], metrics["by_category"]["y"]
    assert (x["rows"], x["cases"], x["accuracy"], x["voting"], x["unparsable"]) == (2, 1, 1, 0.75, 0)
    assert (y["rows"], y["cases"], y["accuracy"], y["voting"]) == (6, 3, 2 / 6, 2 / 6)
    assert y["unparsable"] == pytest.approx(1 / 6)


def test_vl_rewardbench_overall_is_over_rows_and_macro_over_its_three_categories():
    categories = ["general", "hallucination", "reasoning"]
    cases = Cases(list("abcdef"), ["general", *["hallucination"] * 3, *["reasoning"] * 2])
    rows = [(0, 1, 2), (1, 1, 1), (2, 1, 1), (3, 1, 2), (4, 1, 1), (5, 1, 0)]
    metrics = compute_metrics(judged(rows), cases, categories=categories, resamples=200)
    assert [metrics["by_category"][name]["accuracy"] for name in categories] == [0, pytest.approx(2 / 3), 1 / 2]
    assert metrics["overall"] == metrics["accuracy"] == 3 / 6
    assert metrics["macro"] == pytest.approx((0 + 2 / 3 + 1 / 2) / 3)


def test_multimodal_rewardbench_in_the_paper_is_the_mean_of_its_columns():
    columns = ["correctness", "preference", "knowledge", "math", "coding", "safety", "VQA"]
    rights = [(1, 1), (1, 0), (1,), (0,), (1, 1, 1, 0), (1,), (0, 1)]
    names = [name for name, one in zip(columns, rights, strict=True) for _ in one]
    rows = [(case, 1, 1 if right else 2) for case, right in enumerate(sum(rights, ()))]
    cases = Cases([str(case) for case in range(len(names))], names)
    means = [1, 1 / 2, 1, 0, 3 / 4, 1, 1 / 2]
    metrics = compute_metrics(judged(rows), cases, categories=columns, overall="macro", resamples=200)
    assert [one["accuracy"] for one in metrics["by_category"].values()] == means
    assert metrics["overall"] == metrics["macro"] == pytest.approx(sum(means) / 7)
    assert metrics["accuracy"] == pytest.approx(9 / 13)


MM_CASES = Cases(["m1", "m1", "m1", "m2", "v1", "v1"], ["mcq"] * 4 + ["video"] * 2)


def test_mm_rlhf_rewardbench_acc_plus_needs_every_pair_of_an_id():
    rows = [(0, 1, 1), (1, 1, 1), (2, 1, 2), (3, 1, 1), (4, 1, 1), (5, 1, 1)]
    metrics = compute_metrics(judged(rows), MM_CASES, categories=["mcq", "long", "video"], acc_plus=True, resamples=200)
    assert metrics["accuracy"] == pytest.approx(5 / 6)
    assert metrics["acc_plus"] == pytest.approx(2 / 3)  # m2 and v1
    assert metrics["by_category"]["mcq"]["acc_plus"] == 1 / 2
    assert metrics["by_category"]["video"]["acc_plus"] == 1
    assert metrics["by_category"]["long"]["rows"] == 0
    assert metrics["by_category"]["long"]["accuracy"] is None
    assert metrics["macro"] == pytest.approx((3 / 4 + 1) / 2)  # over the categories that have rows


def test_acc_plus_in_both_orders_needs_every_pair_in_both():
    rows = [(case, label, label) for case, label in shown(6, BOTH)]
    assert compute_metrics(judged(rows), MM_CASES, acc_plus=True)["acc_plus"] == 1
    rows[2 * 5 + 1] = (5, 2, 1)  # the second pair of v1, the worse response first
    assert compute_metrics(judged(rows), MM_CASES, acc_plus=True)["acc_plus"] == pytest.approx(2 / 3)


def test_a_tie_in_acc_plus_is_a_coin_toss_of_its_own():
    rows = [
        (0, 1, 1, (1, 2)),
        (1, 1, 1, (2, 1)),
        (2, 1, 1, (1, 1)),
        (3, 1, 1, (1, 1)),
        (4, 1, 1, (2, 2)),
        (5, 1, 1, (1, 1)),
    ]
    metrics = compute_metrics(judged(rows), MM_CASES, acc_plus=True, resamples=200)
    assert metrics["voting_acc_plus"] == pytest.approx((0.25 + 1 + 0) / 3)


# Models whose figures are known beforehand

CASES = Cases([f"q{case // 2}" for case in range(12)], ["x"] * 8 + ["y"] * 4)
ANSWERS = {
    "oracle": lambda label: label,
    "liar": other,
    "constant 1": lambda label: 1,
    "constant 2": lambda label: 2,
    "unparsable": lambda label: 0,
}


def figures(answer, orders, metrics=compute_metrics):
    rows = [
        (case, label, answer(label), (answer(label),) * 4)
        for case, label in (shown(12, orders) if isinstance(orders, tuple) else orders)
    ]
    return metrics(judged(rows), CASES, acc_plus=True, resamples=100)


RANDOM = [(case, 1 + case % 2) for case in range(12)]  # each case in one order, each order as often

ACCURACY = {
    # both, random (balanced), chosen first, rejected first
    "oracle": (1, 1, 1, 1),
    "liar": (0, 0, 0, 0),
    "constant 1": (0.5, 0.5, 1, 0),
    "constant 2": (0.5, 0.5, 0, 1),
    "unparsable": (0, 0, 0, 0),
}


@pytest.mark.parametrize("model", ANSWERS)
def test_accuracy_in_every_order(model):
    for orders, accuracy in zip((BOTH, RANDOM, CHOSEN_FIRST, REJECTED_FIRST), ACCURACY[model], strict=True):
        metrics = figures(ANSWERS[model], orders)
        for name in ("accuracy", "macro", "overall", "voting_accuracy", "voting_macro", "voting_overall"):
            assert metrics[name] == accuracy, (name, orders)
        assert metrics["voting"]["accuracy"] == [accuracy] * 4
        assert metrics["voting"]["any_correct"] == [accuracy] * 4
        assert metrics["acc_plus"] == metrics["voting_acc_plus"] == (accuracy if accuracy in (0, 1) else 0)
        assert metrics["unparsable"] == (model == "unparsable")
        assert {one["accuracy"] for one in metrics["by_category"].values()} == {accuracy}


@pytest.mark.parametrize(
    ("model", "both_right", "flips", "bias"),
    [
        ("oracle", 1, 0, 0),
        ("liar", 0, 0, 0),
        ("constant 1", 0, 1, 1),
        ("constant 2", 0, 1, -1),
        ("unparsable", 0, None, 0),
    ],
)
def test_figures_of_both_orders(model, both_right, flips, bias):
    metrics = figures(ANSWERS[model], BOTH)
    assert (metrics["both_orders_accuracy"], metrics["flip_rate"], metrics["position_bias"]) == (
        both_right,
        flips,
        bias,
    )
    assert figures(ANSWERS[model], RANDOM)["position_bias"] == bias
    alone = figures(ANSWERS[model], CHOSEN_FIRST)
    assert alone["both_orders_accuracy"] is alone["flip_rate"] is alone["position_bias"] is None


@pytest.mark.parametrize("model", ANSWERS)
def test_the_reference_protocol_counts_the_better_response_first_alone(model):
    first = {"oracle": 1, "liar": 0, "constant 1": 1, "constant 2": 0, "unparsable": 0}[model]
    for orders in (BOTH, CHOSEN_FIRST):
        metrics = figures(ANSWERS[model], orders, reference_metrics)
        assert metrics["rows"] == 12
        assert metrics["accuracy"] == metrics["macro"] == metrics["acc_plus"] == metrics["voting_accuracy"] == first


def test_the_reference_protocol_refuses_cases_without_the_better_response_first():
    with pytest.raises(ValueError, match=r"6 of 12 were shown only with it second .* id 'q0'"):
        figures(ANSWERS["oracle"], RANDOM, reference_metrics)


@pytest.mark.parametrize("orders", [BOTH, CHOSEN_FIRST])
def test_a_coin_over_all_its_outcomes(orders):
    """Each outcome of the tosses comes as often as any other, so means over all of them are exact expectations."""
    cases = Cases(["a", "a"], ["x", "y"])
    places = shown(2, orders)
    found = [
        compute_metrics(
            judged([(*place, toss) for place, toss in zip(places, tosses, strict=True)]),
            cases,
            acc_plus=True,
            resamples=10,
        )
        for tosses in product((1, 2), repeat=len(places))
    ]
    mean = {name: np.mean([one[name] for one in found]) for name in ("accuracy", "macro", "acc_plus")}
    assert mean == {"accuracy": 0.5, "macro": 0.5, "acc_plus": 0.5 ** len(places)}
    if orders == BOTH:
        both = {name: np.mean([one[name] for one in found]) for name in ("both_orders_accuracy", "flip_rate")}
        assert both == {"both_orders_accuracy": 0.25, "flip_rate": 0.5}
        assert np.mean([one["position_bias"] for one in found]) == 0


def test_a_coin_that_votes_stays_a_coin():
    rows = [(case, 1, 1, tosses) for case, tosses in enumerate(product((1, 2), repeat=4))]
    cases = Cases([str(case) for case in range(16)], ["x"] * 16)
    metrics = compute_metrics(judged(rows), cases, resamples=100)
    assert metrics["voting"]["accuracy"] == pytest.approx([0.5] * 4)
    assert metrics["voting"]["any_correct"] == pytest.approx([1 / 2, 3 / 4, 7 / 8, 15 / 16])


# What counts


def test_failed_ones_are_left_out_of_every_figure_and_said():
    rows = [
        (0, 1, 1, (1,), 10, 10, 1),
        (0, 2, 0, (0,), 0, 0, 0, FAILED),
        (1, 1, 2, (1,), 30, 30, 1),
        (1, 2, 2, (1,), 50, 50, 1),
        (2, 1, 1, (1,), 10, 10, 1),
        (2, 2, 2, (2,), 10, 10, 1),
    ]
    metrics = compute_metrics(judged(rows), Cases(["a", "b", "c"], ["x"] * 3), acc_plus=True, resamples=100)
    assert (metrics["rows"], metrics["failed"], metrics["complete"]) == (5, 1, False)
    assert metrics["accuracy"] == 4 / 5
    assert metrics["unparsable"] == 0
    assert metrics["both_orders_accuracy"] == 1 / 2  # cases 1 and 2
    assert metrics["acc_plus"] == 1 / 2  # ids b and c: of a not everything is known
    assert metrics["mean_response_tokens"] == 22
    with pytest.raises(ValueError, match="of 1 shown cases 1 failed"):
        compute_metrics(judged(rows[1:2]), Cases(["a"], ["x"]))


def test_prompts_that_are_too_long_are_wrong_and_counted_apart():
    rows = [(0, 1, 1, (1,), 10), (1, 1, 0, (0,), 0, 0, 0, TOO_LONG), (2, 1, 0, (1,), 20)]
    metrics = compute_metrics(judged(rows), Cases(["a", "b", "c"], ["x"] * 3), resamples=100)
    assert (metrics["rows"], metrics["too_long"], metrics["complete"]) == (3, 1, True)
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["unparsable"] == pytest.approx(1 / 3)
    assert metrics["voting_accuracy"] == pytest.approx(2 / 3)
    assert metrics["mean_response_tokens"] == 15


def test_without_samples_there_is_no_vote():
    metrics = compute_metrics(judged([(0, 1, 1), (1, 1, 2)]), Cases(["a", "b"], ["x", "x"]), resamples=100)
    assert metrics["samples"] == 0
    assert metrics["voting"] == {"k": [], "accuracy": [], "any_correct": []}
    for name in ("voting_accuracy", "voting_accuracy_ci95", "voting_macro", "voting_overall", "acc_plus"):
        assert metrics[name] is None, name
    assert metrics["by_category"]["x"]["voting"] is None


# Reading as the reference does


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<think>x</think><answer>1</answer>", 1),
        ("<think>x</think><answer>2</answer>", 2),
        ("Some words.<answer> 1\n</answer> and more", 1),
        ("<answer>1</answer><answer>2</answer>", 1),
        ("<answer>2</answer><answer>1</answer>", 2),
        ("<answer>1.0</answer>", 1),  # a number for Python
        ("<answer>Response 1</answer>", 2),  # no number
        ("<answer></answer> 1", 2),
        ("<answer>1", 1),  # no block: the last digit
        ("Response 2 beats response 1", 1),
        ("Response 1 beats response 2", 2),
        ("12", 2),
        ("no digit 3", 2),
        ("", 2),
    ],
)
def test_reference_verdict(text, verdict):
    assert reference_verdict(text) == verdict


def test_mm_rlhf_script_reads_the_first_line_that_has_a_digit():
    text = "Comparing them:\n2 is short, 1 is long\nSo I choose 2"
    assert reference_verdict(text) == 2
    assert reference_verdict(text, digits="first_line") == 1
    assert reference_verdict("<answer>2</answer>\n1", digits="first_line") == 2


# Intervals


def test_interval_of_two_clusters_is_exact():
    # Two clusters of value 0 and 1: a resample has mean 0 (1/4), 1/2 (1/2) or 1 (1/4).
    assert bootstrap_ci95([0, 1], [1, 1], ["a", "b"]) == (0.0, 1.0)


def test_interval_matches_the_binomial_one_when_every_row_is_its_own_cluster():
    values = np.arange(400) < 300
    low, high = bootstrap_ci95(values, np.ones(400), list(range(400)))
    half_width = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half_width, abs=0.005)
    assert high == pytest.approx(0.75 + half_width, abs=0.005)


def test_interval_is_wider_when_rows_of_an_id_agree():
    values = np.repeat(np.arange(200) < 150, 2)
    alone = bootstrap_ci95(values, np.ones(400), list(range(400)))
    paired = bootstrap_ci95(values, np.ones(400), [i // 2 for i in range(400)])
    assert (paired[1] - paired[0]) / (alone[1] - alone[0]) == pytest.approx(np.sqrt(2), abs=0.1)


def test_equal_rows_drawn_together_have_the_distribution_of_rows_drawn_alone():
    rng = np.random.default_rng(0)
    table = rng.integers(0, 3, (60, 2)).astype(float)
    sums = resampled(table, 20_000, 0)
    alone = table[rng.integers(60, size=(20_000, 60))].sum(axis=1)
    np.testing.assert_allclose(sums.mean(axis=0), alone.mean(axis=0), rtol=0.005)
    np.testing.assert_allclose(np.cov(sums.T), np.cov(alone.T), rtol=0.06, atol=1)


def test_interval_of_all_right_is_wilsons():
    rows = [(case, label, label) for case, label in shown(50, BOTH)]
    metrics = compute_metrics(judged(rows), Cases(list(map(str, range(50))), ["x"] * 50))
    # Fifty of fifty do not prove perfection: Wilson's lower bound is n / (n + 1.96^2).
    for name in ("accuracy", "macro", "both_orders_accuracy"):
        assert metrics[f"{name}_ci95"] == pytest.approx([50 / (50 + 1.96**2), 1.0], abs=1e-5)
    assert metrics["flip_rate_ci95"] == pytest.approx([0.0, 1.96**2 / (50 + 1.96**2)], abs=1e-5)


def test_a_constant_answer_in_both_orders_is_surely_one_half():
    assert figures(ANSWERS["constant 1"], BOTH)["accuracy_ci95"] == [0.5, 0.5]


def test_macro_interval_of_uneven_categories():
    # Nine of ten right in a large category, half in a small one: nearly all spread comes from the small one.
    right = np.concatenate([np.arange(1000) % 10 > 0, np.arange(40) % 2 > 0])
    rows = [(case, 1, 1 if is_right else 2) for case, is_right in enumerate(right)]
    names = ["large"] * 1000 + ["small"] * 40
    metrics = compute_metrics(judged(rows), Cases(list(map(str, range(1040))), names))
    spread = 1.96 / 2 * np.sqrt(0.9 * 0.1 / 1000 + 0.25 / 40)
    assert metrics["macro"] == pytest.approx(0.7)
    assert metrics["macro_ci95"] == pytest.approx([0.7 - spread, 0.7 + spread], abs=0.01)


def test_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="weights of the 2 rows sum to 0"):
        bootstrap_ci95([0, 0], [0, 0], ["a", "b"])


# Refusals


def test_bad_arrays_are_refused():
    with pytest.raises(ValueError, match="label holds 3"):
        judged([(0, 3, 1)])
    with pytest.raises(ValueError, match="greedy holds -1"):
        judged([(0, 1, -1)])
    with pytest.raises(ValueError, match="sampled holds 3"):
        judged([(0, 1, 1, (1, 3))])
    with pytest.raises(ValueError, match="case 4 appears more than once with label 2"):
        judged([(4, 2, 1), (4, 1, 1), (4, 2, 2)])
    good = judged([(0, 1, 1)])
    with pytest.raises(ValueError, match=r"tokens has the shape \(2,\) for 1 shown cases"):
        Verdicts(**{**vars(good), "tokens": np.zeros(2, np.int32)})
    with pytest.raises(ValueError, match="unknown category 'z'; known: 'x', 'y'"):
        compute_metrics(judged([(0, 1, 1)]), Cases(["a"], ["z"]), categories=["x", "y"])


# Properties and size

VERDICT = st.sampled_from([0, 1, 2])
ROWS = st.lists(
    st.tuples(VERDICT, VERDICT, st.lists(VERDICT, min_size=3, max_size=3), st.sampled_from([-1, 0, 1])),
    min_size=1,
    max_size=15,
)


def both_orders(drawn):
    return [
        (case, label, greedy, tuple(sampled), case, case, consistency)
        for case, (first, second, sampled, consistency) in enumerate(drawn)
        for label, greedy in ((1, first), (2, second))
    ]


def some_cases(count):
    return Cases([str(case // 2) for case in range(count)], ["xyz"[case % 3] for case in range(count)])


@settings(deadline=None, max_examples=40)
@given(ROWS)
def test_shares_lie_in_their_range_and_intervals_are_ordered(drawn):
    metrics = compute_metrics(judged(both_orders(drawn)), some_cases(len(drawn)), acc_plus=True, resamples=100)
    assert metrics["both_orders_accuracy"] <= metrics["accuracy"] + 1e-9 <= 1 - metrics["unparsable"] + 2e-9
    assert (np.diff(metrics["voting"]["any_correct"]) >= -1e-12).all()
    assert metrics["voting"]["accuracy"][-1] == pytest.approx(metrics["voting_accuracy"])
    for name, interval in metrics.items():
        if name.endswith("_ci95") and interval is not None:
            assert (-1 if name == "position_bias_ci95" else 0) <= interval[0] <= interval[1] <= 1


@settings(deadline=None, max_examples=40)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(drawn, random):
    rows, cases = both_orders(drawn), some_cases(len(drawn))
    before = compute_metrics(judged(rows), cases, acc_plus=True, resamples=50)
    after = compute_metrics(judged(random.sample(rows, len(rows))), cases, acc_plus=True, resamples=50)
    for name in before.keys() - {"by_category", "voting"}:
        assert after[name] == pytest.approx(before[name]), name


@settings(deadline=None, max_examples=40)
@given(ROWS)
def test_swapping_the_places_of_the_responses_only_turns_the_position_bias_around(drawn):
    swap = (0, 2, 1)
    rows, cases = both_orders(drawn), some_cases(len(drawn))
    swapped = [
        (c, swap[label], swap[v], tuple(swap[s] for s in sampled), *rest) for c, label, v, sampled, *rest in rows
    ]
    before, after = (compute_metrics(judged(one), cases, resamples=50) for one in (rows, swapped))
    assert after.pop("position_bias") == pytest.approx(-before.pop("position_bias"))
    for name in ("accuracy", "macro", "voting", "flip_rate", "both_orders_accuracy", "by_category"):
        assert after[name] == before[name], name


def test_a_hundred_thousand_cases_in_both_orders_take_seconds_and_little_memory():
    count = 100_000
    rng = np.random.default_rng(0)
    rows = 2 * count
    said = Verdicts(
        case=np.repeat(np.arange(count, dtype=np.int32), 2),
        label=np.tile(np.array([1, 2], np.int8), count),
        greedy=rng.integers(0, 3, rows).astype(np.int8),
        sampled=rng.integers(0, 3, (rows, 16)).astype(np.int8),
        tokens=rng.integers(1, 999, rows).astype(np.int32),
        reasoning=rng.integers(1, 999, rows).astype(np.int32),
        consistency=rng.integers(-1, 2, rows).astype(np.int8),
        status=np.zeros(rows, np.int8),
    )
    cases = Cases([str(case // 2) for case in range(count)], [str(case % 7) for case in range(count)])
    tracemalloc.start()
    start = time.perf_counter()
    metrics = compute_metrics(said, cases, acc_plus=True)
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 20
    assert peak < 200e6
    assert metrics["accuracy"] == pytest.approx(1 / 3, abs=0.01)
    assert metrics["accuracy_ci95"][0] < metrics["accuracy"] < metrics["accuracy_ci95"][1]
