"""What differs between two runs on the same data, and how much of it is chance.

Compared are the cases that both runs judged, in the orders in which both did. Right and wrong are those of the greedy
judgements. Two tests of "both are equally good":

- McNemar's, over shown cases: of those that only one of the two got right, is each as likely to be A's as B's?
- the same over ids, since cases with one id, and the two orders of a case, are not independent: is the difference of
  each id as likely to be in favour of A as of B? Where every id is one shown case this is McNemar's test. This is the
  one to believe.

Both are exact (two-sided binomial; over ids the distribution of the sum under all changes of sign) while the
differences sum to at most 1,000, and normal approximations beyond (for McNemar: chi-squared with continuity
correction). Intervals are paired bootstraps over ids.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r1reward_verl.evaluation.bootstrap import (
    RESAMPLES,
    Floats,
    bootstrap_ci95,
    cluster_sums,
    id_codes,
    percentiles95,
    resampled,
)
from r1reward_verl.evaluation.verdicts import FAILED, OK, Cases, JudgedRun, Verdicts
from r1reward_verl.text import excerpt

_EXACT = 1_000  # greatest sum of differences for the exact test
_DRAWS = 100_000_000  # numbers drawn for the interval of a length, so that time stays bounded


def compare(
    first: Verdicts,
    second: Verdicts,
    cases: Cases,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two sets of verdicts on the same cases (A and B); differences are B minus A.

    Args:
        first: verdicts of A.
        second: verdicts of B.
        cases: what both index into.
        resamples: of the intervals; fewer of the intervals of lengths where there are more than 10,000 ids, at least
            1,000.
        seed: of the resampling.

    Returns:
        `only_a`, `only_b`: shown cases that only one of the two judged, and are left out; `all`, and `by_category`:
        name -> the figures of its cases (see `part`), of which `all` also has those of the lengths of the greedy
        judgements. None where there is nothing to count.

    Raises:
        ValueError: no shown case that both judged.
    """
    first, second = first[first.status != FAILED], second[second.status != FAILED]
    keys = [2 * run.case.astype(np.int64) + run.label for run in (first, second)]
    common, in_first, in_second = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    if not len(common):
        raise ValueError(
            f"nothing to compare: A judged {len(keys[0])} shown cases and B {len(keys[1])}, and none is in both"
        )
    a, b = first[in_first], second[in_second]
    category = np.array(cases.category)[a.case]
    cluster = id_codes(cases.id)[a.case]
    right_a, right_b = a.greedy == a.label, b.greedy == b.label

    def part(rows: NDArray[np.bool_]) -> dict[str, Any]:
        if not rows.any():
            return {"rows": 0}
        is_a, is_b, members = right_a[rows], right_b[rows], cluster[rows]
        change = is_b.astype(np.int64) - is_a
        by_id = np.bincount(members, change).astype(np.int64)
        return {
            "rows": int(rows.sum()),
            "cases": len(np.unique(a.case[rows])),
            "ids": len(np.unique(members)),
            "accuracy_a": float(is_a.mean()),
            "accuracy_b": float(is_b.mean()),
            "difference": float(change.mean()),
            "ci95": list(_difference_ci95(change, members, resamples, seed)),
            "both_right": int((is_a & is_b).sum()),
            "a_right": int((is_a & ~is_b).sum()),
            "b_right": int((~is_a & is_b).sum()),
            "both_wrong": int((~is_a & ~is_b).sum()),
            "p_mcnemar": sign_test(change),
            "p_by_id": sign_test(by_id),
        }

    everything = part(np.ones(len(common), bool))
    answered = (a.status == OK) & (b.status == OK)
    for name, lengths in (("tokens", (a.tokens, b.tokens)), ("reasoning_characters", (a.reasoning, b.reasoning))):
        known = answered & (lengths[0] >= 0) & (lengths[1] >= 0)
        pair = [length[known].astype(np.float64) for length in lengths]
        everything[name] = _length_change(pair[0], pair[1], cluster[known], resamples, seed)
    return {
        "only_a": len(keys[0]) - len(common),
        "only_b": len(keys[1]) - len(common),
        "all": everything,
        "by_category": {name: part(category == name) for name in sorted(set(category.tolist()))},
    }


def sign_test(differences: NDArray[np.int64]) -> float:
    """Return the two-sided p value of "each difference is as likely to have the other sign".

    For differences of 1 and -1 this is McNemar's test. Differences of 0 play no part; without any other p is 1.

    Args:
        differences: (N,) whole numbers.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    total, observed = int((sizes * counts).sum()), abs(int(differences.sum()))
    if not observed:
        return 1.0
    if total > _EXACT:
        return math.erfc((observed - 1) / math.sqrt(2 * float((sizes.astype(np.float64) ** 2 * counts).sum())))
    # Distribution of the sum of those that are positive: of each size a binomial, stretched by the size.
    distribution = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        stretched = np.zeros(size * count + 1)
        stretched[::size] = [math.comb(count, k) / 2**count for k in range(count + 1)]
        distribution = np.convolve(distribution, stretched)
    return min(1.0, 2 * float(distribution[: (total - observed) // 2 + 1].sum()))


def _difference_ci95(
    change: NDArray[np.int64], cluster: NDArray[np.int64], resamples: int, seed: int
) -> tuple[float, float]:
    if not change.any():
        # No difference was seen at all, of which resampling can make none: what so many ids leave possible.
        high = bootstrap_ci95(np.zeros(len(change)), np.ones(len(change)), cluster)[1]
        return -high, high
    table = cluster_sums(cluster, change.astype(np.float64), np.ones(len(change)))
    sums = resampled(table, resamples, seed)
    return percentiles95(sums[:, 0] / sums[:, 1])


def _length_change(
    lengths_a: Floats, lengths_b: Floats, cluster: NDArray[np.int64], resamples: int, seed: int
) -> dict[str, Any]:
    if not lengths_a.sum() > 0 or not lengths_b.sum() > 0:  # not every endpoint says how many tokens there were
        return {"a": None, "b": None, "change": None, "ci95": None}
    table = cluster_sums(cluster, lengths_a, lengths_b)
    sums = resampled(table, min(resamples, max(1_000, _DRAWS // len(table))), seed)
    sums = sums[sums[:, 0] > 0]
    return {
        "a": float(lengths_a.mean()),
        "b": float(lengths_b.mean()),
        "change": float(lengths_b.sum() / lengths_a.sum() - 1),
        "ci95": list(percentiles95(sums[:, 1] / sums[:, 0] - 1)),
    }


def compare_runs(first: JudgedRun, second: JudgedRun, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Compare two runs as `compare` does, by the rows of the data that both have.

    Raises:
        ValueError: the runs are not of the same data.
    """
    common, in_first, in_second = np.intersect1d(first.rows, second.rows, return_indices=True)
    differ = [
        (row, one, other)
        for row, one, other in zip(common, in_first, in_second, strict=True)
        if first.content[one] != second.content[other]
    ]
    if differ or not len(common):
        row, one, other = differ[0] if differ else (None, 0, 0)
        reason = f"row {row} is one case in A and another in B" if differ else "no row is in both"
        raise ValueError(
            f"not runs of the same data ({reason}; {len(differ)} of {len(common)} common rows differ):\n"
            f"  A: {_describe(first, int(one))}\n  B: {_describe(second, int(other))}"
        )
    cases = Cases([first.cases.id[at] for at in in_first], [first.cases.category[at] for at in in_first])
    compared = compare(_at(first, in_first), _at(second, in_second), cases, resamples=resamples, seed=seed)
    for name, run in (("only_a", first), ("only_b", second)):
        compared[name] = int((run.verdicts.status != FAILED).sum()) - compared["all"]["rows"]
    return compared


def _at(run: JudgedRun, kept: NDArray[np.int64]) -> Verdicts:
    """Return the verdicts on the kept cases, which are numbered by their place in `kept`."""
    place = np.full(len(run.rows), -1, np.int32)
    place[kept] = np.arange(len(kept))
    verdicts = run.verdicts[place[run.verdicts.case] >= 0]
    return replace(verdicts, case=place[verdicts.case])


def _describe(run: JudgedRun, at: int) -> str:
    case = next(islice(run.saved.cases(), at, None))
    described = f"row {case.row}, id {excerpt(case.id)}, question {excerpt(case.question)}"
    return f"{run.saved.folder} ({len(run.rows)} cases): {described}"
