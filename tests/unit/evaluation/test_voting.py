"""Voting@k and any-correct@k against the enumeration of every subset."""

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1reward_verl.evaluation.voting import majority, voting_curve

RIGHT, WRONG, NONE = 1, -1, 0


def enumerated(samples, k):
    """Credit of the majority, and whether one is right, averaged over all subsets of k samples."""
    credits, found = [], []
    for subset in combinations(samples, k):
        balance = sum(subset)
        tie = 0.5 if any(subset) else 0.0
        credits.append(1.0 if balance > 0 else 0.0 if balance < 0 else tie)
        found.append(RIGHT in subset)
    return np.mean(credits), np.mean(found)


def curve(right, wrong, samples):
    """Both curves of one case."""
    return voting_curve([right], [wrong], samples)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from([RIGHT, WRONG, NONE]), min_size=1, max_size=9))
def test_every_k_equals_the_mean_over_all_subsets(samples):
    expected = [enumerated(samples, k) for k in range(1, len(samples) + 1)]
    found = curve(samples.count(RIGHT), samples.count(WRONG), len(samples))
    np.testing.assert_allclose(np.transpose(found), expected, atol=1e-14)


def test_worked_out_by_hand():
    # Samples right, right, wrong: of the three pairs one is right-right (1) and two are ties (0.5).
    np.testing.assert_allclose(curve(2, 1, 3)[0], [2 / 3, 2 / 3, 1.0])
    # Right, wrong, none: the pairs are a tie (0.5), right alone (1) and wrong alone (0).
    np.testing.assert_allclose(curve(1, 1, 3), [[1 / 3, 1 / 2, 1 / 2], [1 / 3, 2 / 3, 1.0]])


@pytest.mark.parametrize(
    ("right", "wrong", "credit"),
    [(2, 1, 1.0), (1, 2, 0.0), (1, 1, 0.5), (1, 0, 1.0), (0, 1, 0.0), (0, 0, 0.0)],
)
def test_the_rule_for_ties_and_missing_votes(right, wrong, credit):
    assert majority([right], [wrong]) == [credit]
    assert curve(right, wrong, 5)[0][-1] == credit  # of all five, the others without a verdict


@pytest.mark.parametrize(("right", "wrong"), [(0, 16), (3, 10), (7, 0), (16, 0)])
def test_one_vote_is_the_share_of_right_samples(right, wrong):
    assert [of_k[0] for of_k in curve(right, wrong, 16)] == pytest.approx([right / 16] * 2)


def test_the_curve_is_the_mean_over_cases():
    rng = np.random.default_rng(0)
    right = rng.integers(0, 9, 500)
    wrong = rng.integers(0, 9 - right)
    alone = [curve(one, other, 8) for one, other in zip(right, wrong, strict=True)]
    accuracy, any_correct = voting_curve(right, wrong, 8)
    np.testing.assert_allclose([accuracy, any_correct], np.mean(alone, axis=0))
    assert (np.diff(any_correct) >= 0).all()


def test_a_fair_coin_gains_nothing_from_votes():
    # All outcomes of six tosses, each as often as it comes.
    outcomes = [(bin(tosses).count("1"), 6 - bin(tosses).count("1")) for tosses in range(64)]
    accuracy, any_correct = voting_curve(*zip(*outcomes, strict=True), 6)
    np.testing.assert_allclose(accuracy, 0.5)
    np.testing.assert_allclose(any_correct, [1 - 0.5**k for k in range(1, 7)])


def test_sixty_four_samples_of_many_cases_are_exact_and_take_seconds_at_most():
    rng = np.random.default_rng(0)
    right = rng.integers(0, 65, 100_000)
    wrong = rng.integers(0, 65 - right)
    start = time.perf_counter()
    accuracy, any_correct = voting_curve(right, wrong, 64)
    assert time.perf_counter() - start < 10
    assert accuracy[-1] == pytest.approx(majority(right, wrong).mean(), abs=1e-12)
    assert any_correct[-1] == pytest.approx((right > 0).mean())


def test_no_samples_no_columns_and_impossible_counts_are_refused():
    assert [one.shape for one in voting_curve([0, 0], [0, 0], 0)] == [(0,), (0,)]
    with pytest.raises(ValueError, match="case 1 has 2 right and 2 wrong of 3 samples"):
        voting_curve([1, 2], [1, 2], 3)
    with pytest.raises(ValueError, match="case 0 has -1 right"):
        voting_curve([-1], [0], 3)
    with pytest.raises(ValueError, match="no cases"):
        voting_curve([], [], 3)
