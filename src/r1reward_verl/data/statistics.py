"""Statistics of a set of preferences: counts, lengths and balance, in memory that does not grow with the set."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.rows import NONE, UNSOLVED, Sample, of_preference

CLASSES = 1_000
"""Values of one kind (sources, categories, ...) that are counted apart."""
OTHERS = "(others)"
_KEY = 200  # characters of a source's or category's name
_EXACT = 7  # bits of a length that are kept: exact below 128, within 1/64 above
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
    """Lengths of texts as a histogram of some hundred bins, however many texts there are.

    Quantiles are exact below 128, and within 1/64 of the value above.
    """

    def __init__(self) -> None:
        self.count = self.total = self.highest = 0
        self.lowest: int | None = None
        self._bins: Counter[int] = Counter()  # by their lower bound

    def add(self, length: int) -> None:
        """Count a length, a whole number from 0 on."""
        self.count += 1
        self.total += length
        self.highest = max(self.highest, length)
        self.lowest = length if self.lowest is None else min(self.lowest, length)
        self._bins[length >> _shift(length) << _shift(length)] += 1

    def quantile(self, share: float) -> int | None:
        """Return the length that this share of the texts does not exceed; None without texts."""
        left = math.ceil(share * self.count)
        for low in sorted(self._bins):
            left -= self._bins[low]
            if left <= 0:
                return min(low + (1 << _shift(low) >> 1), self.highest)
        return None

    def histogram(self, per_doubling: int = 1) -> list[tuple[int, int, int]]:
        """Return (from, below, count) of the bins that hold all lengths, `per_doubling` bins to each doubling."""
        if not self.count:
            return []
        powers = range(per_doubling * self.highest.bit_length() + 1)
        edges = sorted({0, *(round(2 ** (power / per_doubling)) for power in powers)})
        counts = [0] * len(edges)
        for low, many in self._bins.items():
            counts[bisect.bisect_right(edges, low) - 1] += many
        first = next(place for place, many in enumerate(counts) if many)
        return list(zip(edges, edges[1:], counts, strict=False))[first:]

    def card(self) -> dict[str, Any]:
        """Return the figures as JSON holds them; only the count if there are no texts."""
        if not self.count:
            return {"count": 0}
        return {
            "count": self.count,
            "mean": round(self.total / self.count, 1),
            "min": self.lowest,
            **{name: self.quantile(share) for name, share in _QUANTILES.items()},
            "max": self.highest,
            "histogram": [{"from": low, "below": high, "count": many} for low, high, many in self.histogram()],
        }


def _shift(length: int) -> int:
    return max(0, length.bit_length() - _EXACT)


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
        self.sources: Counter[str] = Counter()
        self.categories: Counter[str] = Counter()
        self.difficulties: Counter[str] = Counter()
        self.images: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
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

        def labels(what: str, names: Iterable[str]) -> dict[str, dict[str, int]]:
            counts = self.labels_by[what]
            return {name: {"1": counts[name, 1], "2": counts[name, 2]} for name in names}

        sources = dict(self.sources.most_common())
        difficulties, images, frames = (
            {name: counts[name] for name in ordered(counts)} for counts in (self.difficulties, self.images, self.frames)
        )
        return {
            "rows": self.rows,
            "sources": sources,
            "categories": dict(self.categories.most_common()),
            "labels": self.labels,
            "labels_by_source": labels("sources", sources),
            "labels_by_difficulty": labels("difficulties", difficulties),
            "difficulty": difficulties,
            "preferred_response": dict(self.preferred),
            "images_per_row": images,
            "frames_per_row": frames,
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
