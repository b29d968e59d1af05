"""What validation during training reports, by the definitions of the evaluation (`evaluation.metrics`).

Only what verl's trainer has of a judgement is needed: its source, its row, and the parts of its reward (see `manager`).
A row may be judged several times (`actor_rollout_ref.rollout.val_kwargs.n`): its samples share its weight, and with one
sample a row each figure is the evaluation's.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = dict[str, NDArray[Any]]

OWN_PARTS = ("label", "pair_id", "supported", "response_tokens", "reasoning_characters", "confidence")
"""Parts of the reward that are there for these figures alone."""

_EVERYTHING = "all"
_TEXTS = ("label", "pred", "pair_id")
_NUMBERS = ("supported", "judged", "consistency", "response_tokens", "reasoning_characters", "confidence")


def validation_metrics(
    sources: Sequence[str],
    rows: Sequence[str],
    infos: Mapping[str, Sequence[Any]],
    expected: Mapping[tuple[str, str], int] | None = None,
) -> dict[str, float]:
    """Compute the figures of each data source, and of all together.

    Args:
        sources: data source of each judgement.
        rows: its row (verl's `uid`), the same for all samples of a row.
        infos: the parts of its reward, by name; None where the reward is not ours (an agent loop may give its own).
            Such judgements are left out.
        expected: how many judgements each (source, row) should have; None if that is not known.

    Returns:
        `val-r1_reward/SOURCE/FIGURE`, and `val-r1_reward/all/FIGURE` of everything. A figure of nothing is left out.

        `accuracy`; `position_bias`, accuracy where the better response stands first minus where it stands second;
        `unparsable`, the share without a verdict; `consistency`, the share of the judgements with a verdict, right or
        wrong, whose reasoning supports it by the rules (`conclusions`); `right_and_consistent`, the share that is right
        and consistent to the run's own judge, who is asked about right ones only: accuracy times the consistent share
        of what was judged; `mean_response_tokens`; `mean_reasoning_characters`. Where judgements state a confidence:
        `confidence_stated`, their share; `brier`, the mean of its squared error; `overconfidence`, its mean minus their
        accuracy.

        Of the pairs judged in both orders, `both_orders_accuracy`, the share right in both, and `flip_rate`, of those
        with a verdict in both the share that names different responses. With several samples each of one order is
        compared with each of the other: how often two judgements drawn one from each order are both right, or differ.

        `failed`, the expected judgements that are missing; no other figure counts them (verl's `acc` does, as wrong).
    """
    ours = [place for place, label in enumerate(infos.get("label", ())) if label is not None]
    if not ours:
        return {}
    source = np.array([str(one) for one in sources], object)
    parts = {key: [infos[key][place] for place in ours] for key in (*_TEXTS, *_NUMBERS)}
    table = _table([str(sources[place]) for place in ours], [rows[place] for place in ours], parts)
    metrics: dict[str, float] = {}
    for name in dict.fromkeys([*source[ours], _EVERYTHING]):
        here = (source == name) | (name == _EVERYTHING)
        figures = _figures({key: column[here[ours]] for key, column in table.items()})
        if expected is not None:
            wanted = sum(count for (of, _), count in expected.items() if name in (of, _EVERYTHING))
            figures["failed"] = float(wanted - here.sum())
        metrics |= {f"val-r1_reward/{name}/{figure}": value for figure, value in figures.items()}
    return metrics


def _table(sources: Sequence[str], rows: Sequence[str], infos: Mapping[str, Sequence[Any]]) -> Table:
    """Return numbers by column: `weight` is a row's 1, shared by its samples; `pair` is -1 where there is none."""
    table: Table = {key: np.array(infos[key], np.float64) for key in _NUMBERS}
    row = _codes(list(zip(sources, rows, strict=True)))
    table["weight"] = 1.0 / np.bincount(row)[row]
    table["label"] = np.array([int(label) for label in infos["label"]])
    table["verdict"] = np.array([int(choice or 0) for choice in infos["pred"]])
    pairs = list(zip(sources, infos["pair_id"], strict=True))
    table["pair"] = np.where([bool(pair) for _, pair in pairs], _codes(pairs), -1)
    return table


def _figures(table: Table) -> dict[str, float]:
    weight, label = table["weight"], table["label"]
    right, parsed = table["verdict"] == label, table["verdict"] != 0
    accuracy = float(right @ weight / weight.sum())
    figures = {
        "accuracy": accuracy,
        "unparsable": _mean(~parsed, weight),
        "consistency": _mean(table["supported"], weight * parsed),
        "mean_response_tokens": _mean(table["response_tokens"], weight),
        "mean_reasoning_characters": _mean(table["reasoning_characters"], weight),
        **_both_orders(table, right, parsed),
    }
    stated = table["confidence"] >= 0
    if stated.any():
        error = table["confidence"] - right
        figures["confidence_stated"] = _mean(stated, weight)
        figures["brier"] = _mean(error**2, weight * stated)
        figures["overconfidence"] = _mean(error, weight * stated)
    first, second = (_mean(right, weight * (label == place)) for place in (1, 2))
    if first is not None and second is not None:
        figures["position_bias"] = first - second
    # A judge that says how sure it is counts by the side it is on, as in `statistics`.
    consistent = _mean(table["consistency"] > 0, weight * table["judged"]) if accuracy else 0.0
    if consistent is not None:
        figures["right_and_consistent"] = accuracy * consistent
    return {name: figure for name, figure in figures.items() if figure is not None}


def _both_orders(table: Table, right: NDArray[np.bool_], parsed: NDArray[np.bool_]) -> dict[str, float]:
    paired = table["pair"] >= 0
    if not paired.any():
        return {}
    _, pair = np.unique(table["pair"][paired], return_inverse=True)
    place, size = 2 * pair + table["label"][paired] - 1, 2 * (int(pair.max()) + 1)

    def by_order(which: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(place, (table["weight"] * which)[paired], size).reshape(-1, 2).astype(np.float64)

    shown = by_order(np.ones(len(right)))
    both = (shown > 0).all(axis=1)
    if not both.any():
        return {}
    better, named = by_order(right)[both] / shown[both], by_order(parsed)[both] / shown[both]
    worse, twice = named - better, named.prod(axis=1).sum()
    figures = {"both_orders_accuracy": float(better.prod(axis=1).mean())}
    if twice:
        figures["flip_rate"] = float((better * worse[:, ::-1]).sum() / twice)
    return figures


def _mean(values: NDArray[Any], weights: NDArray[Any]) -> float | None:
    total = weights.sum()
    return float(values @ weights / total) if total else None


def _codes(names: Sequence[Hashable]) -> NDArray[np.int64]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
