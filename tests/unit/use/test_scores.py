import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from r1reward_verl.use.scores import (
    PRIOR,
    Outcome,
    bradley_terry,
    count_cycles,
    count_order_disagreements,
    ranks,
    win_rates,
)


@st.composite
def groups(draw):
    """A number of responses, and outcomes of comparisons between them."""
    n = draw(st.integers(2, 9))
    pair = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda pair: pair[0] != pair[1])
    probability = st.sampled_from([0.0, 1.0, 0.5]) | st.floats(0, 1)
    return n, draw(st.lists(st.builds(lambda pair, p: Outcome(*pair, p), pair, probability), max_size=40))


def fit_by_search(n, outcomes):
    """Strengths that maximise the penalised likelihood, written out comparison by comparison."""

    def loss(strengths):
        total = 0.0
        for first, second, p in outcomes:
            lead = strengths[first] - strengths[second]
            total += p * np.logaddexp(0, -lead) + (1 - p) * np.logaddexp(0, lead)
        return total + PRIOR / 2 * (np.logaddexp(0, -strengths) + np.logaddexp(0, strengths)).sum()

    return minimize(loss, np.zeros(n), tol=1e-10).x


def test_win_rates_are_means_of_what_each_response_won():
    rates = win_rates(4, [Outcome(0, 1, 1.0), Outcome(2, 0, 0.25), Outcome(1, 2, 0.5)])
    np.testing.assert_allclose(rates.values, [0.875, 0.25, 0.375, 0.5])
    np.testing.assert_allclose(rates.standard_errors[3], np.sqrt(1 / 12))


@pytest.mark.parametrize("won", [0.0, 1.0])
def test_standard_errors_are_finite_for_responses_that_always_won_or_lost_and_shrink_with_comparisons(won):
    few, many = (win_rates(2, [Outcome(0, 1, won)] * times).standard_errors[0] for times in (2, 20))
    assert 0 < many < few < 0.289


def test_standard_errors_of_win_rates_cover_the_truth():
    rng = np.random.default_rng(0)
    covered = []
    for truth in rng.uniform(size=2000):
        rates = win_rates(2, [Outcome(0, 1, float(won)) for won in rng.random(12) < truth])
        # The interval is centred where the standard error is taken: at the mean of the posterior.
        mean = (12 * rates.values[0] + 1) / 14
        covered.append(abs(mean - truth) < 1.96 * rates.standard_errors[0])
    assert 0.93 < np.mean(covered) < 0.97


@given(groups())
@settings(max_examples=60, deadline=None)
def test_bradley_terry_is_the_maximum_of_the_penalised_likelihood(group):
    n, outcomes = group
    np.testing.assert_allclose(bradley_terry(n, outcomes).values, fit_by_search(n, outcomes), atol=1e-3)


def test_bradley_terry_recovers_strengths_and_their_errors():
    rng = np.random.default_rng(1)
    strengths = np.linspace(-1, 1, 5)
    fits = []
    for _ in range(200):
        pairs = [(i, j) for i in range(5) for j in range(5) if i != j] * 15
        won = [rng.random() < 1 / (1 + np.exp(strengths[j] - strengths[i])) for i, j in pairs]
        fits.append(bradley_terry(5, [Outcome(*pair, float(one)) for pair, one in zip(pairs, won, strict=True)]))
    values = np.array([fit.values - fit.values.mean() for fit in fits])
    np.testing.assert_allclose(values.mean(axis=0), strengths, atol=0.05)
    # The prior pins the common level only weakly, so errors of differences are compared, not those of one strength.
    assert all(np.all(fit.standard_errors > values.std(axis=0)) for fit in fits)


@pytest.mark.parametrize(
    ("n", "outcomes"),
    [
        (1, []),
        (3, []),
        (8, [Outcome(i, j, 1.0) for i in range(8) for j in range(i + 1, 8)]),
        (64, [Outcome(i, i + 1, 1.0) for i in range(63)]),
        (64, [Outcome(i, j, 1.0) for i in range(64) for j in range(i + 1, 64)] * 20),
        (6, [Outcome(0, 1, 1.0), Outcome(2, 3, 0.0)]),
        (2, [Outcome(0, 1, 0.5)] * 3),
    ],
    ids=["one", "none", "separable", "chain", "large and separable", "disconnected", "tied"],
)
def test_bradley_terry_is_finite(n, outcomes):
    scores = bradley_terry(n, outcomes)
    assert np.isfinite(scores.values).all()
    assert np.isfinite(scores.standard_errors).all()
    assert (scores.standard_errors > 0).all()
    never = set(range(n)) - {index for outcome in outcomes for index in outcome[:2]}
    for index in never:
        assert (scores.values[index], scores.standard_errors[index]) == (pytest.approx(0, abs=1e-9), pytest.approx(2))


@given(groups(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_scores_do_not_depend_on_the_numbering_or_on_the_order_of_outcomes(group, random):
    n, outcomes = group
    new = list(range(n))
    random.shuffle(new)
    renumbered = [Outcome(new[first], new[second], p) for first, second, p in outcomes]
    random.shuffle(renumbered)
    for score in (win_rates, bradley_terry):
        before, after = score(n, outcomes), score(n, renumbered)
        np.testing.assert_allclose(after.values[new], before.values, atol=1e-6)
        np.testing.assert_allclose(after.standard_errors[new], before.standard_errors, atol=1e-6)
    assert count_cycles(n, renumbered) == count_cycles(n, outcomes)
    assert count_order_disagreements(renumbered) == count_order_disagreements(outcomes)


@given(groups())
@settings(max_examples=60, deadline=None)
def test_who_is_shown_first_does_not_matter_to_scores(group):
    n, outcomes = group
    turned = [Outcome(second, first, 1 - p) for first, second, p in outcomes]
    np.testing.assert_allclose(win_rates(n, turned).values, win_rates(n, outcomes).values, atol=1e-9)


def test_ties_share_the_mean_of_their_ranks():
    assert ranks([0.2, 0.9, 0.2, 0.5]).tolist() == [3.5, 1, 3.5, 2]
    assert ranks([0.5, 0.5, 0.5]).tolist() == [2, 2, 2]
    assert ranks([]).tolist() == []


@given(groups())
@settings(max_examples=60, deadline=None)
def test_cycles_are_the_triples_that_go_round(group):
    n, outcomes = group
    lead = np.zeros((n, n))
    for first, second, p in outcomes:
        lead[first, second] += 2 * p - 1
        lead[second, first] -= 2 * p - 1
    beats = lead > 1e-9
    expected = sum(
        beats[a, b] and beats[b, c] and beats[c, a]
        for a in range(n)
        for b in range(n)
        for c in range(n)
        if a < min(b, c)
    )
    assert count_cycles(n, outcomes) == expected


def test_a_tie_is_no_cycle():
    circle = [Outcome(0, 1, 1.0), Outcome(1, 2, 1.0), Outcome(2, 0, 0.8)]
    assert count_cycles(3, circle) == 1
    assert count_cycles(3, [*circle, Outcome(0, 2, 0.8)]) == 0


def test_disagreements_are_pairs_whose_verdict_changed_with_the_order():
    always_first = [Outcome(0, 1, 0.9), Outcome(1, 0, 0.6)]
    always_second = [Outcome(3, 2, 0.1), Outcome(2, 3, 0.0)]
    agreed = [Outcome(0, 2, 0.9), Outcome(2, 0, 0.1)]
    tied = [Outcome(1, 2, 0.5), Outcome(2, 1, 1.0)]
    once = [Outcome(0, 3, 1.0)]
    assert count_order_disagreements([*always_first, *always_second, *agreed, *tied, *once]) == 2
    assert count_order_disagreements([]) == 0


@pytest.mark.parametrize("outcome", [(0, 0, 1.0), (0, 3, 1.0), (-1, 0, 1.0), (0, 1, 1.5), (0, 1, float("nan"))])
def test_impossible_outcomes_are_named(outcome):
    for score in (win_rates, bradley_terry, count_cycles):
        with pytest.raises(ValueError, match=r"outcome 1 compares response .* different indices from 0 to 2 .* failed"):
            score(3, [Outcome(0, 1, 1.0), Outcome(*outcome)])


def test_a_group_of_64_takes_milliseconds():
    rng = np.random.default_rng(0)
    outcomes = [Outcome(i, j, float(rng.random())) for i in range(64) for j in range(64) if i != j]
    for score in (win_rates, bradley_terry, count_cycles):
        score(64, outcomes)
        times = []
        for _ in range(5):
            start = time.thread_time()
            score(64, outcomes)
            times.append(time.thread_time() - start)
        assert min(times) < 0.02
