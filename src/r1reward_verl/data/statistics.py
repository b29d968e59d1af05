"""Statistics of a set of preferences: counts, lengths and balance."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.rows import NONE, UNSOLVED, Sample, of_preference

CLASSES = 1_000
"""Values of one kind (sources, categories, ...) that are counted apart."""
OTHERS = "(others)"
_KEY = 200  # characters of a source's or category's name
_UNEVEN = 0.55
_FEW = 20
_QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}


def ordered(difficulties: Iterable[str]) -> list[str]:
    """Sort difficulties from easy to hard: numbers, `UNSOLVED`, `NONE`, others."""
    last = {UNSOLVED: 1, NONE: 2}
    return sorted(difficulties, key=lambda name: (last.get(name, 3 - 3 * name.isdecimal()), len(name), name))


def uneven(labels: Mapping[Any, int]) -> tuple[Any, float] | None:
    """Return the label that more than 55% of the rows have, and its share; None if no label has, or in a small set."""
    total = sum(labels.values())
    label = max(labels, key=lambda one: labels[one], default=None)
    if total < _FEW or labels[label] <= _UNEVEN * total:
        return None
    return label, labels[label] / total


class Lengths:
    """Lengths of texts, 8 bytes each."""

    def __init__(self) -> None:
        self._values = array("Q")

    def add(self, length: int) -> None:
        """Count a length, a whole number from 0 on."""
        self._values.append(length)

    @property
    def count(self) -> int:
        """Number of texts."""
        return len(self._values)

    @property
    def total(self) -> int:
        """Sum of all lengths."""
        return sum(self._values)

    @property
    def highest(self) -> int:
        """Greatest length, 0 without texts."""
        return max(self._values, default=0)

    def quantile(self, share: float) -> int | None:
        """Return the length that this share of the texts does not exceed; None without texts."""
        place = max(math.ceil(share * self.count), 1) - 1
        return int(np.partition(np.array(self._values), place)[place]) if self.count else None

    def histogram(self, per_doubling: int = 1) -> list[tuple[int, int, int]]:
        """Return (from, below, count) of the bins that hold all lengths, `per_doubling` bins to each doubling."""
        if not self.count:
            return []
        powers = range(per_doubling * self.highest.bit_length() + 1)
        edges = sorted({0, *(round(2 ** (power / per_doubling)) for power in powers)})
        counts = np.bincount(np.searchsorted(edges, self._values, side="right") - 1, minlength=len(edges) - 1)
        first = int(np.flatnonzero(counts)[0])
        return list(zip(edges, edges[1:], counts.tolist(), strict=False))[first:]

    def card(self) -> dict[str, Any]:
        """Return the figures as JSON holds them; only the count if there are no texts."""
        if not self.count:
            return {"count": 0}
        return {
            "count": self.count,
            "mean": round(self.total / self.count, 1),
            "min": min(self._values),
            **{name: self.quantile(share) for name, share in _QUANTILES.items()},
            "max": self.highest,
            "histogram": [{"from": low, "below": high, "count": many} for low, high, many in self.histogram()],
        }


class Statistics:
    """Counts of what is in a set of preferences.

    Args:
        tokenizer: from a text to its number of tokens; without it, lengths are in characters only.

    Attributes:
        rows: number of rows.
        sources, categories, difficulties, images, frames: group -> rows; those beyond `CLASSES` groups are `OTHERS`.
        preferred: how often the better response is the "shorter", "equal" or "longer" one.
        labels_by: "sources" or "difficulties" -> (group, label) -> rows; rows without a label are left out.
        lengths: "question", "response" or "trace" -> "characters" or "tokens" -> lengths.
    """

    def __init__(self, tokenizer: Callable[[str], int] | None = None) -> None:
        self.rows = 0
        self.sources, self.categories, self.difficulties = Counter[str](), Counter[str](), Counter[str]()
        self.images, self.frames = Counter[str](), Counter[str]()
        self.preferred: Counter[str] = Counter(shorter=0, equal=0, longer=0)
        self.labels_by: dict[str, Counter[tuple[str, int]]] = {"sources": Counter(), "difficulties": Counter()}
        self._units: dict[str, Callable[[str], int]] = {"characters": len}
        if tokenizer is not None:
            self._units["tokens"] = tokenizer
        self.lengths = {text: {unit: Lengths() for unit in self._units} for text in ("question", "response", "trace")}

    def add(self, preference: Preference, difficulty: str | None = None) -> None:
        """Count a preference.

        Args:
            preference: as it stands in the set.
            difficulty: its difficulty before it lost its trace, for example (see `difficulty_of`); None for that of
                the preference itself.
        """
        sample = of_preference(preference)
        self.add_sample(sample if difficulty is None else replace(sample, difficulty=difficulty))

    def add_sample(self, sample: Sample) -> None:
        """Count a row of any kind."""
        self.rows += 1
        _count(self.categories, sample.category)
        _count(self.images, str(len(sample.images)))
        _count(self.frames, str(len(sample.frames)))
        counted = {
            "sources": _count(self.sources, sample.source),
            "difficulties": _count(self.difficulties, sample.difficulty),
        }
        if sample.label is not None:
            for what, group in counted.items():
                self.labels_by[what][group, sample.label] += 1
        texts = {"question": [sample.question], "response": sample.responses or (), "trace": [sample.trace]}
        for name, lengths in self.lengths.items():
            for text in texts[name]:
                if text is not None:
                    for unit, length in self._units.items():
                        lengths[unit].add(length(text))
        if sample.responses is not None and sample.label is not None:
            better, worse = map(len, sample.responses if sample.label == 1 else reversed(sample.responses))
            self.preferred["equal" if better == worse else "longer" if better > worse else "shorter"] += 1

    @property
    def labels(self) -> dict[str, int]:
        """Number of rows in which response "1" is better, and "2"."""
        counts = self.labels_by["difficulties"]
        return {str(label): sum(many for (_, of), many in counts.items() if of == label) for label in (1, 2)}

    def card(self) -> dict[str, Any]:
        """Return all figures as JSON holds them."""
        sources = dict(self.sources.most_common())
        counts = {"difficulty": self.difficulties, "images_per_row": self.images, "frames_per_row": self.frames}
        in_order = {what: {name: count[name] for name in ordered(count)} for what, count in counts.items()}
        groups = {"sources": sources, "difficulties": in_order["difficulty"]}
        labels = {
            what: {name: {"1": self.labels_by[what][name, 1], "2": self.labels_by[what][name, 2]} for name in names}
            for what, names in groups.items()
        }
        return {
            "rows": self.rows,
            "sources": sources,
            "categories": dict(self.categories.most_common()),
            "labels": self.labels,
            "labels_by_source": labels["sources"],
            "labels_by_difficulty": labels["difficulties"],
            **in_order,
            "preferred_response": dict(self.preferred),
            "lengths": {
                text: {unit: lengths.card() for unit, lengths in units.items()} for text, units in self.lengths.items()
            },
        }


def _count(counter: Counter[str], key: str) -> str:
    """Count a key, or `OTHERS` if the counter has `CLASSES` keys already; return which of them was counted."""
    key = key[:_KEY]
    if key not in counter and len(counter) >= CLASSES:
        key = OTHERS
    counter[key] += 1
    return key
