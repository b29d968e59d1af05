"""The figures of an evaluation, computed from arrays of verdicts (numpy only).

What counts how: a judgement without a verdict is never guessed, it is wrong, and so is a prompt longer than the model
takes. Shown cases that failed (the engine gave no judgement) say nothing about the model: no figure counts them, and
`complete` is false while there are any. All intervals resample whole ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

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
    wilson95,
)
from r1reward_verl.evaluation.verdicts import FAILED, OK, TOO_LONG, Cases, Verdicts
from r1reward_verl.evaluation.voting import majority, voting_curve

Overall = Literal["micro", "macro"]
Estimate = tuple[float | None, list[float] | None]
"""A share with its 95% interval."""

_NOT_SHOWN = -2


def compute_metrics(
    verdicts: Verdicts,
    cases: Cases,
    *,
    categories: Sequence[str] | None = None,
    overall: Overall = "micro",
    acc_plus: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute every figure of an evaluation; shares lie in [0, 1], and None stands where there is nothing to count.

    Args:
        verdicts: of the model.
        cases: what the verdicts are about.
        categories: those of the benchmark, in the order of its table; None for those of the verdicts, sorted.
        overall: how the benchmark averages: over shown cases ("micro") or over categories ("macro").
        acc_plus: whether the benchmark reports acc+.
        resamples: of the intervals (see `bootstrap_ci95`).
        seed: of the resampling.

    Returns:
        The figures of `docs/reference/benchmarks.md`. Outside `by_category` each share but `unparsable` has its 95%
        interval `*_ci95` = [low, high]. `voting` is `{"k": [1, ..., K], "accuracy": [...], "any_correct": [...]}`.

    Raises:
        ValueError: nothing was judged, or a shown case's category is not one of `categories`.
    """
    failed = verdicts.status == FAILED
    if failed.all():
        raise ValueError(f"no figures: of {len(failed)} shown cases {failed.sum()} failed, so that none is left")
    shown = verdicts[~failed]
    found = sorted({cases.category[case] for case in np.unique(shown.case)})
    categories = found if categories is None else categories
    if unknown := [name for name in found if name not in categories]:
        raise ValueError(f"unknown category {unknown[0]!r}; known: {', '.join(map(repr, categories))}")
    places = {name: place for place, name in enumerate(categories)}
    category = np.array([places.get(name, -1) for name in cases.category])[shown.case]
    ids = id_codes(cases.id)
    cluster = ids[shown.case]
    cut_ids = np.unique(ids[verdicts.case[failed]])

    right = (shown.greedy == shown.label).astype(np.float64)
    parsed = (shown.greedy != 0).astype(np.float64)
    unparsable = (shown.greedy == 0) & (shown.status == OK)
    everything = np.ones(len(right))
    samples = shown.sampled.shape[1]
    votes_right = (shown.sampled == shown.label[:, None]).sum(axis=1)
    votes_wrong = (shown.sampled != 0).sum(axis=1) - votes_right

    def share(values: Floats, weights: Floats, clusters: NDArray[np.int64] = cluster) -> Estimate:
        if not weights.sum():
            return None, None
        interval = bootstrap_ci95(values, weights, clusters, resamples=resamples, seed=seed)
        return float(values.sum() / weights.sum()), list(interval)

    def ids_all_right(values: Floats, rows: NDArray[np.bool_]) -> Estimate:
        if not acc_plus:
            return None, None
        members, place = np.unique(cluster[rows], return_inverse=True)
        product = np.ones(len(members))
        np.multiply.at(product, place, values[rows])
        whole = ~np.isin(members, cut_ids)
        return share(product[whole], np.ones(whole.sum()), members[whole])

    metrics: dict[str, Any] = {
        "rows": len(right),
        "pairs": len(np.unique(shown.case)),
        "ids": len(np.unique(cluster)),
        "samples": samples,
        "failed": int(failed.sum()),
        "too_long": int((shown.status == TOO_LONG).sum()),
        "complete": not failed.any(),
    }

    def put(name: str, estimate: Estimate) -> None:
        metrics[name], metrics[f"{name}_ci95"] = estimate

    by_category: dict[str, dict[str, Any]] = {name: {} for name in categories}
    ways = {"": (right, everything), "voting_": (majority(votes_right, votes_wrong), everything * (samples > 0))}
    for prefix, (values, weights) in ways.items():
        put(f"{prefix}accuracy", share(values, weights))
        put(f"{prefix}macro", _macro(values, weights, cluster, category, resamples, seed))
        average = f"{prefix}accuracy" if overall == "micro" else f"{prefix}macro"
        put(f"{prefix}overall", (metrics[average], metrics[f"{average}_ci95"]))
        put(f"{prefix}acc_plus", ids_all_right(values, weights > 0))
        for name, place in places.items():
            rows = category == place
            one = by_category[name]
            if not prefix:
                one["rows"], one["cases"] = int(rows.sum()), len(np.unique(shown.case[rows]))
                one["unparsable"] = float(unparsable[rows].mean()) if rows.any() else None
            accuracy, interval = share(values[rows], weights[rows], cluster[rows])
            one[prefix.rstrip("_") or "accuracy"], one[f"{prefix}ci95"] = accuracy, interval
            one[f"{prefix}acc_plus"] = ids_all_right(values, rows & (weights > 0))[0]
    curves = voting_curve(votes_right, votes_wrong, samples)
    metrics["voting"] = {
        "k": list(range(1, samples + 1)),
        "accuracy": curves[0].tolist(),
        "any_correct": curves[1].tolist(),
    }

    metrics["any_correct"] = float(curves[1][-1]) if samples else None
    metrics["unparsable"] = float(unparsable.mean())
    put("consistency", share((shown.consistency == 1) * parsed, parsed))
    put("position_bias", _position_bias(right, shown.label, cluster, resamples, seed))
    # 1 where the verdict names the better response, -1 where the worse, 0 where none.
    named = np.full((len(ids), 2), _NOT_SHOWN, np.int8)
    named[shown.case, shown.label - 1] = np.where(shown.greedy == 0, 0, 2 * right - 1)
    both = (named != _NOT_SHOWN).all(axis=1).astype(np.float64)
    twice = both * (named != 0).all(axis=1)
    put("both_orders_accuracy", share(both * (named == 1).all(axis=1), both, ids))
    put("flip_rate", share(twice * (named[:, 0] != named[:, 1]), twice, ids))
    read = shown.status == OK
    for name, lengths in (("response_tokens", shown.tokens), ("reasoning_characters", shown.reasoning)):
        known = lengths[read & (lengths >= 0)]
        metrics[f"mean_{name}"] = float(known.mean()) if len(known) else None
    metrics["by_category"] = by_category
    return metrics


def reference_metrics(verdicts: Verdicts, cases: Cases, **options: Any) -> dict[str, Any]:
    """Compute the figures of the reference protocol, to compare with published numbers; they flatter.

    Only cases shown with the better response first count, so a model that always answers 1 scores 100%. Averages
    are those of the reference's scripts (yfzhang114/r1_reward at 3693413, inference/*/get_acc.py and
    1_get_accuracy.py; the paper's overall of Multimodal RewardBench is the mean of its columns: `overall="macro"`).

    Args:
        verdicts: read with `reference_verdict`.
        cases: with the reference's categories.
        options: as for `compute_metrics`.

    Returns:
        As `compute_metrics`, but `unparsable` is None: what cannot be read means 2.

    Raises:
        ValueError: as `compute_metrics`, or a case was not shown with the better response first.
    """
    first = verdicts[verdicts.label == 1]
    lacking = np.setdiff1d(verdicts.case, first.case)
    if len(lacking):
        raise ValueError(
            f"the reference protocol needs every case with the better response first; {len(lacking)} of "
            f"{len(lacking) + len(first.case)} were shown only with it second (the first of them has the id "
            f"{cases.id[int(lacking[0])]!r})"
        )
    metrics = compute_metrics(first, cases, **options)
    for one in (metrics, *metrics["by_category"].values()):
        one["unparsable"] = None
    return metrics


def _macro(
    values: Floats,
    weights: Floats,
    cluster: NDArray[np.int64],
    category: NDArray[np.int64],
    resamples: int,
    seed: int,
) -> Estimate:
    """Return the mean over categories with its interval; the ids of each category are resampled apart."""
    shares: list[float] = []
    drawn = np.zeros(resamples)
    clusters = 0
    for place in np.unique(category[weights > 0]):
        rows = (category == place) & (weights > 0)
        table = cluster_sums(cluster[rows], values[rows], weights[rows])
        shares.append(float(values[rows].sum() / weights[rows].sum()))
        sums = resampled(table, resamples, (seed, int(place)))
        drawn += sums[:, 0] / sums[:, 1]
        clusters += len(table)
    if not shares:
        return None, None
    mean = float(np.mean(shares))
    return mean, list(wilson95(mean, clusters) if mean in (0.0, 1.0) else percentiles95(drawn / len(shares)))


def _position_bias(
    right: Floats, label: NDArray[np.int8], cluster: NDArray[np.int64], resamples: int, seed: int
) -> Estimate:
    first, second = (label == 1).astype(np.float64), (label == 2).astype(np.float64)
    if not first.any() or not second.any():
        return None, None
    table = cluster_sums(cluster, right * first, first, right * second, second)

    def bias(sums: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]

    drawn = bias(resampled(table, resamples, seed))
    return float(bias(table.sum(axis=0)[None])[0]), list(percentiles95(drawn[np.isfinite(drawn)]))
