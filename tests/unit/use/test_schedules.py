import asyncio
from collections import Counter
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1reward_verl.use.schedules import (
    DEFAULT_SCHEDULE,
    ScheduleName,
    default_comparisons,
    make_rounds,
    run_schedule,
)
from r1reward_verl.use.scores import Outcome, win_rates

NAMES = (*get_args(ScheduleName), "reference")
FIXED = {"all_pairs", "knockout", "pivot", "reference"}


def play(rounds, answer=lambda first, second: 1.0):
    """Return the rounds that a schedule asked for."""
    seen = []

    async def compare(pairs):
        assert pairs
        seen.append(pairs)
        return [answer(*pair) for pair in pairs]

    outcomes = asyncio.run(run_schedule(rounds, compare))
    return seen, outcomes


def pairs_of(*args, answer=lambda first, second: 1.0, **kwargs):
    return [pair for round_ in play(make_rounds(*args, **kwargs), answer)[0] for pair in round_]


def side_surplus(pairs):
    """How often each index was shown first less how often second."""
    surplus = Counter(first for first, _ in pairs)
    surplus.subtract(second for _, second in pairs)
    return surplus


verdicts = st.sampled_from([0.0, 1.0, 0.5, None])


@given(
    st.sampled_from(NAMES),
    st.integers(0, 13),
    st.none() | st.integers(1, 200),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
    st.data(),
)
@settings(max_examples=300, deadline=None)
def test_pairs_are_different_bounded_and_balanced(name, n, comparisons, both_orders, reference, seed, data):
    options = {"comparisons": comparisons, "both_orders": both_orders, "seed": seed, "reference": reference}
    pairs = pairs_of(name, n, **options, answer=lambda first, second: data.draw(verdicts))
    size = n + (reference or name == "reference")
    assert all(first != second and min(first, second) >= 0 and max(first, second) < size for first, second in pairs)
    assert len(set(pairs)) == len(pairs)
    orders = 2 if both_orders else 1
    if both_orders:
        assert {(second, first) for first, second in pairs} == set(pairs)
    surplus = side_surplus(pairs).values()
    assert max(map(abs, surplus), default=0) <= (0 if both_orders else 3 if name in ("swiss", "knockout") else 1)
    if name == "all_pairs":
        assert len(pairs) == size * (size - 1) // 2 * orders
    elif name in FIXED:
        assert len(pairs) == max(size - 1, 0) * orders
    elif size > 1:
        budget = default_comparisons(size, both_orders) if comparisons is None else comparisons
        smallest = {"circulant": size if size > 2 else 1, "swiss": size // 2}[name] * orders
        assert smallest <= len(pairs) <= max(budget, smallest)


@given(st.integers(3, 24), st.data())
def test_circulant_shows_each_response_first_k_times_and_second_k_times(n, data):
    k = data.draw(st.integers(1, (n - 1) // 2))
    pairs = pairs_of("circulant", n, comparisons=k * n + data.draw(st.integers(0, n // 2 - 1)))
    assert Counter(first for first, _ in pairs) == Counter(second for _, second in pairs) == dict.fromkeys(range(n), k)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_circulant_with_too_many_comparisons_is_all_pairs_in_both_orders(n):
    everything = {(i, j) for i in range(n) for j in range(n) if i != j}
    assert set(pairs_of("circulant", n, comparisons=10_000)) == everything
    assert set(pairs_of("circulant", n, comparisons=10_000, both_orders=True)) == everything
    assert set(pairs_of("swiss", n, comparisons=10_000)) == everything


@pytest.mark.parametrize("n", range(3, 20))
def test_circulant_joins_all_responses(n):
    reached, pairs = {0}, pairs_of("circulant", n, comparisons=n)
    for _ in range(n):
        reached |= {index for pair in pairs if reached & set(pair) for index in pair}
    assert reached == set(range(n))


@pytest.mark.parametrize(
    ("n", "expected"), [(0, 0), (1, 0), (2, 1), (4, 6), (8, 28), (13, 78), (15, 105), (16, 112), (64, 448)]
)
def test_default_comparisons(n, expected):
    assert default_comparisons(n) == len(pairs_of(DEFAULT_SCHEDULE, n)) == expected
    assert default_comparisons(n, both_orders=True) == 2 * expected


def test_swiss_pairs_winners_with_winners():
    (one, two), _ = play(make_rounds("swiss", 16, comparisons=16), lambda first, second: float(first > second))
    winners = {max(pair) for pair in one}
    assert len(one) == len(two) == 8
    assert all((first in winners) == (second in winners) for first, second in two)


def test_swiss_lets_others_sit_out_in_turn():
    rounds, _ = play(make_rounds("swiss", 5, comparisons=10))
    assert [len(round_) for round_ in rounds] == [2] * 5
    assert set(Counter(index for round_ in rounds for pair in round_ for index in pair).values()) == {4}


@pytest.mark.parametrize("n", [2, 5, 8, 16, 21])
@pytest.mark.parametrize("both_orders", [False, True])
def test_the_best_response_wins_the_knockout(n, both_orders):
    rounds, outcomes = play(
        make_rounds("knockout", n, both_orders=both_orders, seed=n), lambda first, second: float(first > second)
    )
    assert len(rounds) == int(np.ceil(np.log2(n)))
    assert int(np.argmax(win_rates(n, outcomes).values)) == n - 1
    assert n - 1 in {index for pair in rounds[-1] for index in pair}


def test_a_knockout_in_both_orders_decides_by_both():
    # Response 3 is always better, if shown first by a little; of the others the one shown first wins.
    def answer(first, second):
        return 0.6 if first == 3 else 0.1 if second == 3 else 1.0

    for seed in range(20):
        rounds, _ = play(make_rounds("knockout", 8, both_orders=True, seed=seed), answer)
        assert 3 in rounds[-1][0]


def pivot_of(pairs):
    ((index, _),) = Counter(index for pair in pairs for index in pair).most_common(1)
    return index


def test_the_pivot_meets_all_others_once():
    pairs = pairs_of("pivot", 6, pivot=2)
    assert sorted(first + second - 2 for first, second in pairs) == [0, 1, 3, 4, 5]
    assert all(2 in pair for pair in pairs)
    assert len({pivot_of(pairs_of("pivot", 6, seed=seed)) for seed in range(30)}) > 2


def test_one_response_is_compared_with_the_reference():
    assert sorted(pairs_of("reference", 1, both_orders=True)) == [(0, 1), (1, 0)]
    assert {pairs_of("reference", 1, seed=seed)[0] for seed in range(20)} == {(0, 1), (1, 0)}
    assert sorted(min(pair) for pair in pairs_of("reference", 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_schedules_are_deterministic_in_the_seed(name):
    def answer(first, second):
        return float(hash((first, second)) % 3 == 0)

    def rounds(seed):
        return play(make_rounds(name, 9, comparisons=27, seed=seed), answer)

    assert rounds(3) == rounds(3)
    assert any(rounds(seed) != rounds(3) for seed in range(4, 9))


def test_failed_comparisons_are_no_outcomes():
    _, outcomes = play(
        make_rounds("all_pairs", 4), lambda first, second: None if 0 in (first, second) else float(first > second)
    )
    assert len(outcomes) == 3
    assert all(isinstance(outcome, Outcome) and 0 not in outcome[:2] for outcome in outcomes)


def test_a_compare_that_loses_answers_is_an_error():
    async def compare(pairs):
        return [1.0]

    with pytest.raises(ValueError, match="1 probabilities for 28 pairs: compare must return one for each pair"):
        asyncio.run(run_schedule(make_rounds("all_pairs", 8), compare))


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (("round_robin", 4), {}, "unknown schedule 'round_robin': choose one of circulant, .*reference"),
        (("swiss", -1), {}, "group of -1 responses"),
        (("swiss", 4), {"comparisons": 0}, "comparisons=0: give at least 1"),
        (("pivot", 4), {"pivot": 4}, "pivot=4 in a group of 4 .*0 to 3"),
        (("swiss", 4), {"pivot": 1}, "pivot=1 .*schedule swiss.* with the schedule pivot"),
    ],
)
def test_bad_arguments_are_named_at_once(args, options, message):
    with pytest.raises(ValueError, match=message):
        make_rounds(*args, **options)
