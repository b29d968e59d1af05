"""Confidence intervals from bootstraps that draw whole clusters with replacement (numpy only).

Cases with one `id` share their question and are not independent, as the two orders of a case are not, so whole ids are
drawn.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000

Floats = NDArray[np.float64]

_Z95 = 1.959964
_BLOCK = 4_000_000  # numbers drawn at once, so that memory stays bounded


def bootstrap_ci95(
    values: ArrayLike,
    weights: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.int64],
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
        clusters: (N,) the cluster of each row. Those without weight are not drawn.
        resamples: number of resamples.
        seed: of the resampling; the same rows give the same interval, whatever their order.

    Raises:
        ValueError: no row has weight.
    """
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    if not weights.sum() > 0:
        raise ValueError(f"no interval: the weights of the {len(weights)} rows sum to {weights.sum()}")
    cluster = clusters if isinstance(clusters, np.ndarray) else id_codes(clusters)
    counted = weights > 0
    table = cluster_sums(cluster[counted], values[counted], weights[counted])
    sure = (table[:, 0] >= 0).all() and (table[:, 0] <= table[:, 1]).all()
    if sure and (edge := table[:, 0].sum() / table[:, 1].sum()) in (0.0, 1.0):
        return wilson95(edge, len(table))
    drawn = resampled(table, resamples, seed)
    return percentiles95(drawn[:, 0] / drawn[:, 1])


def resampled(table: Floats, resamples: int, seed: int | Sequence[int]) -> Floats:
    """Return the column sums of samples of the rows of a table, drawn with replacement, each as large as the table.

    Equal rows are drawn together, by how often each kind of row comes up: the same distribution, and fast, since
    figures that are counts have few kinds of rows.

    Args:
        table: (clusters, columns).
        resamples: number of samples.
        seed: of the draws.

    Returns:
        (resamples, columns).
    """
    kinds, counts = np.unique(table, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(kinds))
    parts = [
        rng.multinomial(len(table), counts / len(table), size=min(block, resamples - start)) @ kinds
        for start in range(0, resamples, block)
    ]
    return np.concatenate(parts)


def cluster_sums(cluster: NDArray[np.int64], *columns: Floats) -> Floats:
    """Return the sums of each column by cluster, (clusters, columns)."""
    _, place = np.unique(cluster, return_inverse=True)
    return np.column_stack([np.bincount(place, column) for column in columns])


def id_codes(names: Sequence[Hashable]) -> NDArray[np.int64]:
    """Return a number for each name, equal ones for equal names."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def percentiles95(estimates: Floats) -> tuple[float, float]:
    """Return the bounds of the middle 95%."""
    low, high = np.quantile(estimates, [0.025, 0.975])
    return float(low), float(high)


def wilson95(share: float, count: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of a share of `count` independent observations."""
    square = 1.959964**2 / count
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return max(centre - half, 0.0), min(centre + half, 1.0)
