"""Which responses of a group are compared with each other, and which of the two is shown first.

A schedule is a generator of rounds. It yields the pairs of a round, which can be compared at the same time, and is sent
one probability for each of them. Schedules that do not look at outcomes have one round.

docs/explanation/schedules.md compares them; the default follows from `benchmarks/bench_schedules.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from r1reward_verl.use.scores import Outcome, win_rates

Pair: TypeAlias = tuple[int, int]
"""Index of the response that is shown first, index of the one that is shown second."""

Rounds: TypeAlias = Generator[list[Pair], Sequence[float | None], None]
"""Yields the pairs of a round and receives the probabilities that the responses shown first are better; None counts as
no outcome."""

ScheduleName: TypeAlias = Literal["circulant", "all_pairs", "swiss", "knockout", "pivot"]

DEFAULT_SCHEDULE: ScheduleName = "circulant"

DEFAULT_OPPONENTS = 14
"""Number of others that each response meets by default; all of them in smaller groups."""


def default_comparisons(n: int, both_orders: bool = False) -> int:
    """Return how many comparisons a group of n gets by default: n / 2 times `DEFAULT_OPPONENTS`, or all its pairs.

    Both orders of a pair count as two comparisons.
    """
    return min(DEFAULT_OPPONENTS, max(n - 1, 0)) * n // 2 * (2 if both_orders else 1)


def make_rounds(
    name: ScheduleName | Literal["reference"],
    n: int,
    *,
    comparisons: int | None = None,
    both_orders: bool = False,
    seed: int = 0,
    pivot: int | None = None,
    reference: bool = False,
) -> Rounds:
    """Return the rounds of a schedule. The same arguments and outcomes give the same rounds.

    - `circulant`: on a circle of the responses in random order, each meets the one a step ahead, for as many sizes of
      the step as `comparisons` has room for, at least one. With k sizes each response is shown k times first and k
      times second; a step of half the circle makes n / 2 pairs. All pairs come once before any comes in its second
      order. The most are n (n - 1) comparisons.
    - `all_pairs`: every pair once. `comparisons` does not change it.
    - `swiss`: in each round, responses with similar win rates that have not met. As many rounds of n / 2 pairs as
      `comparisons` has room for, at least one.
    - `knockout`: the loser of a pair leaves, until one is left: n - 1 pairs. A pair that is tied or has no outcome
      is decided by lot. `comparisons` does not change it.
    - `pivot`: one response against all others: n - 1 pairs. `comparisons` does not change it.
    - `reference`: each of the n responses against index n, the reference answer: n pairs. `comparisons` does not change
      it.

    No pair is repeated in the same order. Each response is about as often shown first as second (the pivot and the
    reference included).

    Args:
        name: of the schedule.
        n: number of responses. Fewer than two give no rounds, except against a reference.
        comparisons: about the most comparisons of the group, see above; None for `default_comparisons`.
        both_orders: each pair is shown in both orders, in the same round, which counts as two comparisons.
        seed: of all that is random.
        pivot: index of the response that meets all others; None for a random one.
        reference: the reference answer, index n, is one more response of the schedule.

    Raises:
        ValueError: an unknown schedule, or a value outside its range.
    """
    known = (*get_args(ScheduleName), "reference")
    if name not in known:
        raise ValueError(f"unknown schedule {name!r}: choose one of {', '.join(known)}")
    if n < 0:
        raise ValueError(f"a group of {n} responses: n must be at least 0")
    if comparisons is not None and comparisons < 1:
        raise ValueError(f"comparisons={comparisons}: give at least 1, or None for the default")
    size = n + (reference and name != "reference")
    if pivot is not None and not (name == "pivot" and 0 <= pivot < size):
        raise ValueError(
            f"pivot={pivot} in a group of {size} with the schedule {name}: give an index from 0 to {size - 1} with the "
            "schedule pivot, or None"
        )
    rng = np.random.default_rng(seed)
    if name == "reference":
        return _one_round(_against(n, range(n), both_orders, rng))
    if size < 2:
        return _one_round([])
    budget = default_comparisons(size, both_orders) if comparisons is None else comparisons
    if name == "swiss":
        return _swiss(size, budget, both_orders, rng)
    if name == "knockout":
        return _knockout(size, both_orders, rng)
    if name == "pivot":
        centre = int(rng.integers(size)) if pivot is None else pivot
        return _one_round(_against(centre, (i for i in range(size) if i != centre), both_orders, rng))
    if name == "all_pairs":
        budget = size * (size - 1) // (1 if both_orders else 2)
    return _one_round(_circulant(size, budget, both_orders, rng))


async def run_schedule(
    rounds: Rounds, compare: Callable[[list[Pair]], Awaitable[Sequence[float | None]]]
) -> list[Outcome]:
    """Compare the pairs of each round, and return the outcomes of all rounds, without those that are None.

    Args:
        rounds: from `make_rounds`.
        compare: gets the pairs of a round and returns, for each, the probability that the one shown first is better.

    Raises:
        ValueError: `compare` returned more or fewer probabilities than pairs. What `compare` raises is passed on.
    """
    outcomes: list[Outcome] = []
    pairs = next(rounds, None)
    while pairs is not None:
        probabilities = await compare(pairs)
        if len(probabilities) != len(pairs):
            raise ValueError(
                f"{len(probabilities)} probabilities for {len(pairs)} pairs: compare must return one for each pair, "
                "None for one without an outcome"
            )
        outcomes += _outcomes(pairs, probabilities)
        try:
            pairs = rounds.send(probabilities)
        except StopIteration:
            pairs = None
    return outcomes


def _outcomes(pairs: Iterable[Pair], probabilities: Iterable[float | None]) -> list[Outcome]:
    decided = zip(pairs, probabilities, strict=True)
    return [Outcome(*pair, probability) for pair, probability in decided if probability is not None]


def _one_round(pairs: list[Pair]) -> Rounds:
    if pairs:
        yield pairs


def _reversed(pairs: list[Pair]) -> list[Pair]:
    return [(second, first) for first, second in pairs]


def _circulant(n: int, budget: int, both_orders: bool, rng: np.random.Generator) -> list[Pair]:
    circle = rng.permutation(n).tolist()
    # A step of 1 joins the circle into one piece; larger steps come in random order.
    steps = [*range(1, min(2, (n + 1) // 2)), *rng.permutation(np.arange(2, (n + 1) // 2)).tolist()]
    turns = [[(circle[i], circle[(i + step) % n]) for i in range(n)] for step in steps]
    if n % 2 == 0:  # a step of half the circle meets each pair twice
        turns.append([(circle[i], circle[i + n // 2]) for i in range(n // 2)])
    if both_orders:
        turns = [turn + _reversed(turn) for turn in turns]
    else:
        turns += [_reversed(turn) for turn in reversed(turns)]
    pairs = turns[0]
    for turn in turns[1:]:
        if len(pairs) + len(turn) <= budget:
            pairs = pairs + turn
    return pairs


def _against(centre: int, others: Iterable[int], both_orders: bool, rng: np.random.Generator) -> list[Pair]:
    pairs = [(centre, other) for other in rng.permutation(list(others)).tolist()]
    if both_orders:
        return pairs + _reversed(pairs)
    start = int(rng.integers(2))
    return [pair if (i + start) % 2 else pair[::-1] for i, pair in enumerate(pairs)]


def _swiss(n: int, budget: int, both_orders: bool, rng: np.random.Generator) -> Rounds:
    outcomes: list[Outcome] = []
    shown = np.zeros((n, n), np.int64)  # how often the row was shown before the column
    while True:
        pairs = _swiss_round(win_rates(n, outcomes).values, shown, rng)
        if both_orders:
            pairs = pairs + _reversed(pairs)
        compared = int(shown.sum())
        if not pairs or (compared and compared + len(pairs) > budget):
            return
        for pair in pairs:
            shown[pair] += 1
        outcomes += _outcomes(pairs, (yield pairs))


def _swiss_round(scores: NDArray[np.float64], shown: NDArray[np.int64], rng: np.random.Generator) -> list[Pair]:
    """Pair each response with the nearest one that it met least: first those with the fewest comparisons."""
    lot = rng.permutation(len(scores))
    met = shown + shown.T
    surplus = shown.sum(axis=1) - shown.sum(axis=0)
    free = np.ones(len(scores), bool)
    pairs = []
    for one in np.lexsort((lot, -scores, met.sum(axis=1))).tolist():
        if not free[one]:
            continue
        free[one] = False
        others = np.flatnonzero(free & ((shown[one] == 0) | (shown[:, one] == 0)))
        if len(others):
            nearest = np.lexsort((lot[others], np.abs(scores[others] - scores[one]), met[one, others]))[0]
            other = int(others[nearest])
            free[other] = False
            first, second = sorted((one, other), key=lambda index: (surplus[index], lot[index]))
            pairs.append((second, first) if shown[first, second] else (first, second))
    return pairs


def _knockout(n: int, both_orders: bool, rng: np.random.Generator) -> Rounds:
    left = rng.permutation(n).tolist()
    surplus = [0] * n  # how often a response was shown first less how often second
    while len(left) > 1:
        pairs = [
            tuple(sorted(match, key=lambda index: surplus[index])) for match in zip(left[::2], left[1::2], strict=False)
        ]
        without_opponent = left[2 * len(pairs) :]
        for first, second in pairs:
            surplus[first] += 1
            surplus[second] -= 1
        shown = pairs + _reversed(pairs) if both_orders else pairs
        outcomes = _outcomes(shown, (yield shown))
        lead = dict.fromkeys(pairs, 0.0)
        for first, second, probability in outcomes:
            if (first, second) in lead:
                lead[first, second] += probability - 0.5
            else:
                lead[second, first] -= probability - 0.5
        winners = [
            pair[0] if value > 0 or (value == 0 and rng.integers(2)) else pair[1] for pair, value in lead.items()
        ]
        left = without_opponent + winners  # in front, so that it meets someone in the next round
