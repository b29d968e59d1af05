"""Scores of the responses of a group from the outcomes of comparisons, and how far the outcomes contradict each other.

The Bradley-Terry model gives response i a strength s_i; it beats j with probability 1 / (1 + exp(s_j - s_i))
[Bradley and Terry, 1952, Biometrika 39, 324-345]. choix fits it [https://choix.lum.li].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

PRIOR = 1.0
"""Weight of the tied comparison with an average response that `bradley_terry` gives to each response."""

_MAX_STEPS = 10_000  # of the fit; some tens suffice
_ROUNDING = 1e-9  # wins that differ by less are equal


class Outcome(NamedTuple):
    """Outcome of a comparison of two responses."""

    first: int
    """Index of the response that was shown first."""
    second: int
    """Index of the response that was shown second."""
    probability: float
    """Probability that the response shown first is better, from 0 to 1."""


class Scores(NamedTuple):
    """Scores of the n responses of a group; higher is better."""

    values: NDArray[np.float64]
    """The scores, (n,)."""
    standard_errors: NDArray[np.float64]
    """Their standard errors, (n,), in the same unit."""


def win_rates(n: int, outcomes: Sequence[Outcome]) -> Scores:
    """Return the mean probability with which each response was better, from 0 to 1, over its comparisons.

    A response without an outcome gets 0.5. Standard errors are the standard deviations of the Beta distribution that
    follows from a uniform prior, so that they are finite for responses that always won, and 0.289 without an outcome.
    They are too large where probabilities are not 0 or 1.

    Args:
        n: number of responses.
        outcomes: of comparisons between the indices 0 to n - 1.

    Raises:
        ValueError: an index or a probability outside its range, or a response compared with itself.
    """
    wins = _win_matrix(n, outcomes)
    won, lost = wins.sum(axis=1), wins.sum(axis=0)
    compared = won + lost
    values = np.divide(won, compared, out=np.full(n, 0.5), where=compared > 0)
    mean = (won + 1) / (compared + 2)
    return Scores(values, np.sqrt(mean * (1 - mean) / (compared + 3)))


def bradley_terry(n: int, outcomes: Sequence[Outcome]) -> Scores:
    """Return the Bradley-Terry strengths of the responses, in natural log odds.

    An outcome of probability p counts as p wins of the response shown first and 1 - p wins of the other. Each response
    also has `PRIOR` tied comparisons with an imaginary response of strength 0. That keeps strengths finite for
    responses that always won or lost, and connects responses that were not compared; one without an outcome gets 0.
    Standard errors come from the information matrix at the fit; without an outcome they are 2.

    Args:
        n: number of responses.
        outcomes: of comparisons between the indices 0 to n - 1.

    Raises:
        ValueError: see `win_rates`.
    """
    wins = np.pad(_win_matrix(n, outcomes), (0, 1))
    wins[n, :n] = wins[:n, n] = PRIOR / 2
    if n == 0:
        return Scores(np.zeros(0), np.zeros(0))
    import choix  # imports scipy.optimize, which takes half a second

    fitted = choix.ilsr_pairwise_dense(wins, max_iter=_MAX_STEPS)
    values = fitted[:n] - fitted[n]
    difference = np.abs(fitted[:, None] - fitted)
    variance = (wins + wins.T) * np.exp(-difference) / (1 + np.exp(-difference)) ** 2
    information = (np.diag(variance.sum(axis=1)) - variance)[:n, :n]
    return Scores(values, np.sqrt(np.diag(np.linalg.inv(information))))


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return the rank of each score, 1 for the highest; equal scores share the mean of their ranks. (n,) to (n,)."""
    _, places, counts = np.unique(-np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def count_cycles(n: int, outcomes: Sequence[Outcome]) -> int:
    """Return the number of intransitive triples: A beats B, B beats C, C beats A.

    Of two responses the one with more wins in their comparisons with each other beats the other, in whatever order they
    were shown; equally many wins are a tie, which is part of no cycle.

    Raises:
        ValueError: see `win_rates`.
    """
    wins = _win_matrix(n, outcomes)
    beats = (wins - wins.T > _ROUNDING).astype(np.float64)
    return round(np.trace(beats @ beats @ beats) / 3)


def count_order_disagreements(outcomes: Sequence[Outcome]) -> int:
    """Return the number of pairs that were compared in both orders and whose verdict changed with the order.

    Such a pair has the response shown first as the better one in both orders, or the one shown second; a tie in one of
    the orders is no disagreement.

    Raises:
        ValueError: see `win_rates`.
    """
    first, second, probability = _columns(outcomes)
    n = int(max(first.max(initial=-1), second.max(initial=-1))) + 1
    _check(n, first, second, probability)
    lead = np.zeros((n, n))
    np.add.at(lead, (first, second), probability - 0.5)
    return int((np.triu(lead) * np.triu(lead.T) > 0).sum())


def _win_matrix(n: int, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """Return how often each response (row) won against each other (column), (n, n)."""
    first, second, probability = _columns(outcomes)
    _check(n, first, second, probability)
    wins = np.zeros((n, n))
    np.add.at(wins, (first, second), probability)
    np.add.at(wins, (second, first), 1 - probability)
    return wins


def _columns(outcomes: Sequence[Outcome]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    table = np.fromiter(chain.from_iterable(outcomes), np.float64, 3 * len(outcomes)).reshape(-1, 3)
    return table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2]


def _check(n: int, first: NDArray[np.int64], second: NDArray[np.int64], probability: NDArray[np.float64]) -> None:
    low, high = np.minimum(first, second), np.maximum(first, second)
    wrong = (low < 0) | (high >= n) | (low == high) | ~((probability >= 0) & (probability <= 1))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"outcome {i} compares response {first[i]} with {second[i]}, probability {probability[i]}: outcomes need "
            f"two different indices from 0 to {n - 1} and a probability from 0 to 1; leave out failed comparisons"
        )
