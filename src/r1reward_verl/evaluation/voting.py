"""Majority voting and any-correct for every number of votes, from one set of samples, exactly.

Of K samples of a judgement, r name the better response, w the worse one, and the others none. Voting@k is the credit
that the majority of k of them earns, averaged over all subsets of k (drawn without replacement, so unbiased for every
k); any-correct@k is the share of those subsets that hold a right one. Subsets are counted, not drawn: how many have i
right and j wrong samples is C(r, i) C(w, j) C(K - r - w, k - i - j).

The rule for ties: samples without a verdict have no vote; equally many right and wrong votes earn 0.5, as a coin toss
would on average; where nobody votes, there is no verdict, which earns 0.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray


def voting_curve(right: ArrayLike, wrong: ArrayLike, samples: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the credit of the majority of k samples, and the chance that any of k is right, for k = 1 to K.

    Time and memory beyond the counts do not grow with the cases: those with the same counts are taken together.

    Args:
        right: (N,) how many of the samples of each case are right.
        wrong: (N,) how many are wrong; the others have no verdict.
        samples: K, up to some hundreds.

    Returns:
        Means over all cases, (K,) each.

    Raises:
        ValueError: no cases, or counts that are negative or more than the samples.
    """
    right, wrong = np.asarray(right, np.int64), np.asarray(wrong, np.int64)
    if not len(right):
        raise ValueError("no cases to vote on")
    bad = np.flatnonzero((right < 0) | (wrong < 0) | (right + wrong > samples))
    if len(bad):
        raise ValueError(
            f"case {bad[0]} has {right[bad[0]]} right and {wrong[bad[0]]} wrong of {samples} samples: impossible"
        )
    codes, counts = np.unique(right * (samples + 1) + wrong, return_counts=True)  # at most (K + 1)(K + 2) / 2
    right, wrong = codes // (samples + 1), codes % (samples + 1)
    share = counts / counts.sum()
    choose = _binomials(samples)
    any_correct = 1.0 - choose[samples - right, 1:] / choose[samples, 1:]
    return share @ _majority(right, wrong, samples), share @ any_correct


def majority(right: ArrayLike, wrong: ArrayLike) -> NDArray[np.float64]:
    """Return the credit of the majority of all votes: 1, 0, or 0.5 for a tie; 0 where nobody votes. (N,)."""
    right, wrong = np.asarray(right), np.asarray(wrong)
    return np.where(right == wrong, 0.5 * (right > 0), right > wrong)


@lru_cache(maxsize=8)
def _binomials(samples: int) -> NDArray[np.float64]:
    """Return C(n, k) for n and k from 0 to K."""
    return np.array([[comb(n, k) for k in range(samples + 1)] for n in range(samples + 1)], np.float64)


def _majority(right: NDArray[np.int64], wrong: NDArray[np.int64], samples: int) -> NDArray[np.float64]:
    choose = _binomials(samples)
    of_right, of_wrong, of_others = choose[right], choose[wrong], choose[samples - right - wrong]
    # Column v: subsets of v samples that all vote, each counted with its credit.
    voting = np.zeros((len(right), samples + 1))
    for i in range(1, samples + 1):
        for j in range(min(i, samples - i) + 1):
            voting[:, i + j] += (1.0 if i > j else 0.5) * of_right[:, i] * of_wrong[:, j]
    credit = np.zeros((len(right), samples))
    for k in range(1, samples + 1):
        credit[:, k - 1] = (voting[:, : k + 1] * of_others[:, k::-1]).sum(axis=1) / choose[samples, k]
    return credit
