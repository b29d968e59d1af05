"""What an evaluation reports about a reward model, computed from its verdicts (numpy only).

Every pair is judged in both orders, so that a model that always answers 1 scores one half, not one.
A judgement without a verdict is never guessed: it counts as wrong. Intervals are cluster bootstraps over
pairs, since the two orders of one pair share a picture and a question and are not independent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
_Z95 = 1.959964
_BLOCK = 4_000_000  # drawn clusters held at once, so that memory stays bounded for any number of pairs


@dataclass(frozen=True)
class Record:
    """The verdicts on one row: one preference shown in one order.

    Args:
        pair_id: the preference, the same for both its orders.
        order: which order this is; any value that differs between the orders of a pair.
        label: the better response as shown, 1 or 2.
        greedy: verdict of the greedy judgement, 1 or 2; None if it has none.
        sampled: verdicts of the K judgements sampled for voting; None for each that has none.
        tokens: length of the greedy judgement in tokens.
        consistency: what the judge says of the greedy judgement: 1 its reasoning supports its verdict, -1 it
            does not, 0 the judge could not tell.

    Raises:
        ValueError: for a label other than 1 and 2 or a verdict other than 1, 2 and None.
    """

    pair_id: Hashable
    order: Hashable
    label: int
    greedy: int | None
    sampled: tuple[int | None, ...] = ()
    tokens: int = 0
    consistency: int = 0

    def __post_init__(self) -> None:
        if self.label not in (1, 2):
            raise ValueError(f"label of pair {self.pair_id!r} is {self.label!r}; it must be 1 or 2")
        for verdict in (self.greedy, *self.sampled):
            if verdict not in (1, 2, None):
                raise ValueError(f"a verdict on pair {self.pair_id!r} is {verdict!r}; it must be 1, 2 or None")


def vote(verdicts: Sequence[int | None], label: int) -> float:
    """Credit of the majority of K verdicts: 1 right, 0 wrong, 0.5 for a tie.

    Judgements without a verdict have no vote. A tie earns what a coin toss between the two would on average,
    so that no random number enters the result. Where nobody votes the verdict is missing, which is wrong: 0.
    """
    right = sum(verdict == label for verdict in verdicts)
    wrong = sum(verdict is not None for verdict in verdicts) - right
    if right == wrong:
        return 0.5 if right else 0.0
    return float(right > wrong)


def bootstrap_ci95(
    values: ArrayLike,
    weights: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """95% percentile interval of `sum(values) / sum(weights)` when whole clusters are drawn with replacement.

    Where every cluster is all right or every cluster all wrong, resampling shows no spread at all; the interval is then
    Wilson's for that many clusters.

    Args:
        values: (N,) numerators, for example 1 for a right verdict; 0 where the weight is 0.
        weights: (N,) denominators, 0 for rows that do not count.
        clusters: (N,) the cluster of each row.
        resamples: number of resamples; those that drew no weight at all are left out.
        seed: of the resampling, so that the same records give the same interval.

    Raises:
        ValueError: when no row has weight, so that there is nothing to estimate.
    """
    numbers: dict[Hashable, int] = {}
    cluster = np.array([numbers.setdefault(name, len(numbers)) for name in clusters], np.int64)
    numerator = np.bincount(cluster, np.asarray(values, np.float64))
    denominator = np.bincount(cluster, np.asarray(weights, np.float64))
    if not denominator.sum() > 0:
        raise ValueError(f"no interval: the weights of the {len(clusters)} rows sum to {denominator.sum()}")
    counted, total = int((denominator > 0).sum()), denominator.sum()
    if numerator.sum() in (0.0, total) and (numerator >= 0).all() and (numerator <= denominator).all():
        margin = _Z95**2 / (counted + _Z95**2)
        return (0.0, margin) if numerator.sum() == 0.0 else (1.0 - margin, 1.0)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(numbers))
    estimates: list[NDArray[np.float64]] = []
    for start in range(0, resamples, block):
        drawn = rng.integers(len(numbers), size=(min(block, resamples - start), len(numbers)))
        drawn_total = denominator[drawn].sum(axis=1)
        estimates.append(numerator[drawn].sum(axis=1)[drawn_total > 0] / drawn_total[drawn_total > 0])
    low, high = np.quantile(np.concatenate(estimates), [0.025, 0.975])
    return float(low), float(high)


def compute_metrics(records: Sequence[Record], *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Compute every metric of an evaluation; shares lie in [0, 1].

    Returns:
        `rows`, `pairs`, `samples` (K); `accuracy` over all rows, `voting_accuracy` (`vote`, mean over rows)
        and `consistency` (share of greedy judgements with a verdict whose reasoning supports it), each with
        its 95% interval `*_ci95` = [low, high]; `unparsable`, the share of greedy judgements without a
        verdict; `position_bias`, the accuracy where the better response stands first minus the accuracy
        where it stands second (0 for a fair model, 1 for one that always answers 1, -1 for one that always
        answers 2); `both_orders_accuracy`, the share of pairs judged in several orders that are right in
        every one of them; `mean_response_tokens` of the greedy judgements. None where there is nothing to
        compute a figure from.

    Raises:
        ValueError: without records, when a row appears twice, or when rows have different numbers of samples.
    """
    if not records:
        raise ValueError("no records to compute metrics from")
    row, count = Counter((record.pair_id, record.order) for record in records).most_common(1)[0]
    if count > 1:
        raise ValueError(f"pair {row[0]!r} in order {row[1]!r} appears {count} times; each row counts once")
    samples = sorted({len(record.sampled) for record in records})
    if len(samples) > 1:
        raise ValueError(f"rows have different numbers of sampled verdicts: {samples}; votes must be comparable")

    pairs = [record.pair_id for record in records]
    label = np.array([record.label for record in records])
    right = np.array([record.greedy == record.label for record in records], np.float64)
    parsed = np.array([record.greedy is not None for record in records], np.float64)
    supported = np.array([record.consistency == 1 for record in records], np.float64) * parsed
    everything = np.ones(len(records))

    def share(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float | None:
        return float(values.sum() / weights.sum()) if weights.sum() else None

    def interval(values: NDArray[np.float64], weights: NDArray[np.float64]) -> list[float] | None:
        if not weights.sum():
            return None
        return list(bootstrap_ci95(values, weights, pairs, resamples=resamples, seed=seed))

    voting = np.array([vote(record.sampled, record.label) for record in records])
    voters = everything if samples[0] else np.zeros(len(records))
    first, second = (share(right * (label == place), everything * (label == place)) for place in (1, 2))
    by_pair: defaultdict[Hashable, list[float]] = defaultdict(list)
    for pair, is_right in zip(pairs, right, strict=True):
        by_pair[pair].append(is_right)
    both = np.array([min(rights) for rights in by_pair.values() if len(rights) > 1])

    return {
        "rows": len(records),
        "pairs": len(by_pair),
        "samples": samples[0],
        "accuracy": share(right, everything),
        "accuracy_ci95": interval(right, everything),
        "voting_accuracy": share(voting, voters),
        "voting_accuracy_ci95": interval(voting, voters),
        "unparsable": 1.0 - float(parsed.mean()),
        "consistency": share(supported, parsed),
        "consistency_ci95": interval(supported, parsed),
        "position_bias": None if first is None or second is None else first - second,
        "both_orders_accuracy": share(both, np.ones_like(both)),
        "mean_response_tokens": float(np.mean([record.tokens for record in records])),
    }
