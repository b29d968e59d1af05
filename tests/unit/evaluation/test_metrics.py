"""Metrics of an evaluation: figures worked out by hand, oracles, and properties that must always hold."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1reward_verl.evaluation.metrics import Record, bootstrap_ci95, compute_metrics, vote


def both_orders(verdict_first, verdict_second, pair_id="a", **kwargs):
    """One pair in both orders: the better response stands first (label 1), then second (label 2)."""
    return [
        Record(pair_id, "12", 1, verdict_first, **kwargs),
        Record(pair_id, "21", 2, verdict_second, **kwargs),
    ]


def test_figures_worked_out_by_hand():
    records = [
        # right in both orders; reasoning supports the verdict once
        Record("a", 0, 1, greedy=1, sampled=(1, 1, 2), tokens=10, consistency=1),
        Record("a", 1, 2, greedy=2, sampled=(2, None, 1), tokens=20, consistency=-1),
        # right in one order only
        Record("b", 0, 1, greedy=1, sampled=(2, 2, 1), tokens=30, consistency=1),
        Record("b", 1, 2, greedy=1, sampled=(2, 2, 2), tokens=40, consistency=1),
        # one judgement without a verdict; its consistency does not count even if the judge said so
        Record("c", 0, 1, greedy=None, sampled=(None, None, None), tokens=50, consistency=1),
        Record("c", 1, 2, greedy=2, sampled=(1, 2, 2), tokens=60, consistency=0),
    ]
    metrics = compute_metrics(records)

    assert metrics["rows"] == 6
    assert metrics["pairs"] == 3
    assert metrics["samples"] == 3
    assert metrics["accuracy"] == pytest.approx(4 / 6)  # a twice, b once, c once
    assert metrics["voting_accuracy"] == pytest.approx((1 + 0.5 + 0 + 1 + 0 + 1) / 6)  # row 2 is a 1:1 tie
    assert metrics["unparsable"] == pytest.approx(1 / 6)
    assert metrics["consistency"] == pytest.approx(3 / 5)
    assert metrics["position_bias"] == pytest.approx(2 / 3 - 2 / 3)
    assert metrics["both_orders_accuracy"] == pytest.approx(1 / 3)
    assert metrics["mean_response_tokens"] == 35


@pytest.mark.parametrize(("answer", "bias"), [(1, 1.0), (2, -1.0)])
def test_a_model_that_always_gives_the_same_answer_scores_one_half(answer, bias):
    records = [r for i in range(50) for r in both_orders(answer, answer, i, sampled=(answer,) * 5, consistency=1)]
    metrics = compute_metrics(records)
    assert metrics["accuracy"] == metrics["voting_accuracy"] == 0.5
    assert metrics["accuracy_ci95"] == [0.5, 0.5]  # every pair is worth exactly one of two
    assert metrics["position_bias"] == bias
    assert metrics["both_orders_accuracy"] == 0.0


def test_a_perfect_model():
    metrics = compute_metrics([r for i in range(50) for r in both_orders(1, 2, i, consistency=1)])
    assert metrics["accuracy"] == metrics["consistency"] == metrics["both_orders_accuracy"] == 1.0
    # Fifty of fifty do not prove perfection: Wilson's lower bound is n / (n + 1.96^2).
    assert metrics["accuracy_ci95"] == pytest.approx([50 / (50 + 1.96**2), 1.0], abs=1e-5)
    assert metrics["position_bias"] == metrics["unparsable"] == 0.0


def test_a_model_without_any_verdict_is_wrong_everywhere_and_its_consistency_unknown():
    metrics = compute_metrics(both_orders(None, None, sampled=(None, None)))
    assert metrics["accuracy"] == metrics["voting_accuracy"] == 0.0
    assert metrics["unparsable"] == 1.0
    assert metrics["consistency"] is None
    assert metrics["consistency_ci95"] is None


def test_without_samples_there_is_no_voting_accuracy():
    metrics = compute_metrics(both_orders(1, 2))
    assert metrics["voting_accuracy"] is None
    assert metrics["voting_accuracy_ci95"] is None


def test_one_order_alone_leaves_order_figures_unknown():
    metrics = compute_metrics([Record("a", "12", 1, 1), Record("b", "12", 1, 2)])
    assert metrics["accuracy"] == 0.5
    assert metrics["position_bias"] is None
    assert metrics["both_orders_accuracy"] is None


@pytest.mark.parametrize(
    ("verdicts", "credit"),
    [
        ((1, 1, 2), 1.0),
        ((1, 2, 2), 0.0),
        ((1, 2), 0.5),
        ((1, 2, None, None, None), 0.5),
        ((1, None, None, None, None), 1.0),  # those without a verdict have no vote
        ((2, None), 0.0),
        ((None, None), 0.0),  # nobody votes: missing, not a tie
        ((), 0.0),
    ],
)
def test_vote_for_label_1(verdicts, credit):
    assert vote(verdicts, 1) == credit


def test_interval_of_two_pairs_is_exact():
    # Two clusters of value 0 and 1: a resample has mean 0 (1/4), 1/2 (1/2) or 1 (1/4).
    assert bootstrap_ci95([0, 1], [1, 1], ["a", "b"]) == (0.0, 1.0)


def test_interval_matches_the_binomial_one_when_every_row_is_its_own_cluster():
    values = np.arange(400) < 300
    low, high = bootstrap_ci95(values, np.ones(400), list(range(400)))
    half_width = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half_width, abs=0.005)
    assert high == pytest.approx(0.75 + half_width, abs=0.005)


def test_interval_is_wider_when_the_two_orders_of_a_pair_agree():
    values = np.repeat(np.arange(200) < 150, 2)
    alone = bootstrap_ci95(values, np.ones(400), list(range(400)))
    paired = bootstrap_ci95(values, np.ones(400), [i // 2 for i in range(400)])
    assert (paired[1] - paired[0]) / (alone[1] - alone[0]) == pytest.approx(np.sqrt(2), abs=0.1)


def test_interval_of_a_ratio_ignores_rows_without_weight():
    values, weights = [1, 0, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]
    low, high = bootstrap_ci95(values, weights, list("abcdef"))
    assert 0 <= low < 0.5 < high <= 1


def test_interval_is_reproducible_and_follows_the_seed():
    values, clusters = np.arange(100) % 3 == 0, list(range(100))
    assert bootstrap_ci95(values, np.ones(100), clusters) == bootstrap_ci95(values, np.ones(100), clusters)
    few = [bootstrap_ci95(values, np.ones(100), clusters, resamples=50, seed=seed) for seed in range(5)]
    assert len(set(few)) > 1


def test_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="weights of the 2 rows sum to 0"):
        bootstrap_ci95([0, 0], [0, 0], ["a", "b"])


def test_five_thousand_pairs_take_seconds_at_most():
    start = time.perf_counter()
    bootstrap_ci95(np.arange(10_000) % 2, np.ones(10_000), [i // 2 for i in range(10_000)])
    assert time.perf_counter() - start < 10


def test_bad_records_are_refused():
    with pytest.raises(ValueError, match="no records"):
        compute_metrics([])
    with pytest.raises(ValueError, match="label of pair 'a' is 3"):
        Record("a", 0, 3, 1)
    with pytest.raises(ValueError, match="verdict on pair 'a' is 0"):
        Record("a", 0, 1, 1, sampled=(1, 0))
    with pytest.raises(ValueError, match="pair 'a' in order '12' appears 2 times"):
        compute_metrics(both_orders(1, 2) + both_orders(1, 2))
    with pytest.raises(ValueError, match=r"different numbers of sampled verdicts: \[1, 2\]"):
        compute_metrics([Record("a", 0, 1, 1, (1,)), Record("a", 1, 2, 1, (1, 1))])


VERDICT = st.sampled_from([1, 2, None])
PAIRS = st.lists(
    st.tuples(VERDICT, VERDICT, st.lists(VERDICT, min_size=3, max_size=3), st.sampled_from([-1, 0, 1])),
    min_size=1,
    max_size=20,
)


def records_of(pairs):
    return [
        record
        for i, (first, second, sampled, consistency) in enumerate(pairs)
        for record in both_orders(first, second, i, sampled=tuple(sampled), consistency=consistency)
    ]


@settings(deadline=None, max_examples=60)
@given(PAIRS)
def test_shares_lie_in_their_range_and_intervals_are_ordered(pairs):
    metrics = compute_metrics(records_of(pairs), resamples=200)
    for name in ("accuracy", "voting_accuracy", "unparsable", "both_orders_accuracy"):
        assert 0 <= metrics[name] <= 1
    assert metrics["accuracy"] <= 1 - metrics["unparsable"] + 1e-9  # no verdict is never right
    assert metrics["both_orders_accuracy"] <= metrics["accuracy"] + 1e-9
    assert -1 <= metrics["position_bias"] <= 1
    for name in ("accuracy_ci95", "voting_accuracy_ci95", "consistency_ci95"):
        if metrics[name] is not None:
            assert 0 <= metrics[name][0] <= metrics[name][1] <= 1


@settings(deadline=None, max_examples=60)
@given(PAIRS)
def test_swapping_the_names_of_the_responses_only_turns_the_position_bias_around(pairs):
    other = {1: 2, 2: 1, None: None}
    records = records_of(pairs)
    swapped = [
        replace(r, label=other[r.label], greedy=other[r.greedy], sampled=tuple(other[v] for v in r.sampled))
        for r in records
    ]
    before, after = compute_metrics(records, resamples=200), compute_metrics(swapped, resamples=200)
    assert after.pop("position_bias") == pytest.approx(-before.pop("position_bias"))
    assert after == before


@settings(deadline=None, max_examples=60)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(pairs, random):
    records = records_of(pairs)
    shuffled = random.sample(records, len(records))
    before, after = compute_metrics(records, resamples=200), compute_metrics(shuffled, resamples=200)
    for name in before:
        if not name.endswith("_ci95"):
            assert after[name] == pytest.approx(before[name])
