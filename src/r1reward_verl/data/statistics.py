"""What a set of preferences looks like: counts, lengths and balance in bounded memory, as a card and as plots."""

from __future__ import annotations

import bisect
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.rows import NONE, UNSOLVED, Sample, difficulty_of, of_preference
from r1reward_verl.reports.page import COLOURS, INK, new_figure, png, say_empty, tidy

__all__ = [
    "CLASSES",
    "NONE",
    "OTHERS",
    "UNSOLVED",
    "Lengths",
    "Statistics",
    "difficulty_of",
    "ordered",
    "plot",
    "uneven",
]

CLASSES = 1_000
"""Values of one kind (sources, categories, ...) that are counted apart."""
OTHERS = "(others)"
_KEY = 200  # characters of a source's or category's name
_EXACT = 7  # bits of a length that are kept: exact below 128, within 1/64 above
_SHOWN_CLASSES = 10
_UNEVEN = 0.55
_FEW = 20
_TEXTS = ("question", "response", "trace")
_TITLES = {UNSOLVED: "never", NONE: "not asked"}
_QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}


def count(counter: Counter[str], key: str) -> str:
    """Count a key apart, or with `OTHERS` where the counter has `CLASSES` of them already; return which it was."""
    key = key[:_KEY]
    if key not in counter and len(counter) >= CLASSES:
        key = OTHERS
    counter[key] += 1
    return key


def ordered(difficulties: Iterable[str]) -> list[str]:
    """Sort difficulties from easy to hard: numbers, `UNSOLVED`, `NONE`, others."""
    last = {UNSOLVED: 1, NONE: 2}
    return sorted(difficulties, key=lambda name: (last.get(name, 3 - 3 * name.isdecimal()), len(name), name))


def uneven(labels: Mapping[Any, int]) -> tuple[Any, float] | None:
    """Return the label that more than 55% of a set have, and its share; None where none has or the rows are too few."""
    total = sum(labels.values())
    label = max(labels, key=lambda one: labels[one], default=None)
    if total < _FEW or labels[label] <= _UNEVEN * total:
        return None
    return label, labels[label] / total


class Lengths:
    """How long texts are: a histogram of some hundred bins, whatever comes.

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
        """Return the length that so large a share of all does not exceed; None without any."""
        left = math.ceil(share * self.count)
        for low in sorted(self._bins):
            left -= self._bins[low]
            if left <= 0:
                return min(low + (1 << _shift(low) >> 1), self.highest)
        return None

    def histogram(self, per_doubling: int = 1) -> list[tuple[int, int, int]]:
        """Return (from, below, how many) of bins from the lowest to the highest, so many to each doubling."""
        if self.lowest is None:
            return []
        powers = range(per_doubling * self.highest.bit_length() + 1)
        edges = sorted({0, *(round(2 ** (power / per_doubling)) for power in powers)})
        counts = [0] * len(edges)
        for low, many in self._bins.items():
            counts[bisect.bisect_right(edges, low) - 1] += many
        bins = list(zip(edges, edges[1:], counts, strict=False))
        return bins[bisect.bisect_right(edges, self.lowest) - 1 :]

    def card(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them; only the count where there is nothing."""
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
    """Counts of what is in a set of preferences, in memory that does not grow with it.

    Args:
        tokenizer: from a text to its number of tokens; without, lengths are in characters only.
    """

    def __init__(self, tokenizer: Callable[[str], int] | None = None) -> None:
        self.rows = 0
        self.sources: Counter[str] = Counter()
        self.categories: Counter[str] = Counter()
        self.difficulties: Counter[str] = Counter()
        # By (group, label); rows whose label is not known are in neither.
        self.labels_by_source: Counter[tuple[str, int]] = Counter()
        self.labels_by_difficulty: Counter[tuple[str, int]] = Counter()
        self.images: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.preferred: Counter[str] = Counter(shorter=0, longer=0, equal=0)
        self.tokenizer = tokenizer
        units = ("characters", "tokens") if tokenizer else ("characters",)
        self.lengths = {text: {unit: Lengths() for unit in units} for text in _TEXTS}

    def add(self, preference: Preference, difficulty: str | None = None) -> None:
        """Count a preference.

        Args:
            preference: as it stands in the set.
            difficulty: what `difficulty_of` said before the preference lost its trace, for example; None for now.
        """
        sample = of_preference(preference)
        self.add_sample(sample if difficulty is None else replace(sample, difficulty=difficulty))

    def add_sample(self, sample: Sample) -> None:
        """Count a row of any kind."""
        self.rows += 1
        source = count(self.sources, sample.source)
        count(self.categories, sample.category)
        difficulty = count(self.difficulties, sample.difficulty)
        if sample.label is not None:
            self.labels_by_source[source, sample.label] += 1
            self.labels_by_difficulty[difficulty, sample.label] += 1
        count(self.images, str(len(sample.images)))
        count(self.frames, str(len(sample.frames)))
        texts = {"question": (sample.question,), "response": sample.responses or (), "trace": (sample.trace,)}
        for name, lengths in self.lengths.items():
            for text in texts[name]:
                if text is not None:
                    lengths["characters"].add(len(text))
                    if self.tokenizer is not None:
                        lengths["tokens"].add(self.tokenizer(text))
        if sample.responses is not None and sample.label is not None:
            better, worse = map(len, sample.responses if sample.label == 1 else reversed(sample.responses))
            self.preferred["equal" if better == worse else "longer" if better > worse else "shorter"] += 1

    @property
    def labels(self) -> dict[str, int]:
        """How often each response is the better one."""
        totals = {1: 0, 2: 0}
        for (_, label), many in self.labels_by_difficulty.items():
            totals[label] += many
        return {str(label): many for label, many in totals.items()}

    def card(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""

        def labels(names: Iterable[str], counts: Counter[tuple[str, int]]) -> dict[str, dict[str, int]]:
            return {name: {"1": counts[name, 1], "2": counts[name, 2]} for name in names}

        sources = dict(self.sources.most_common())
        difficulties = {name: self.difficulties[name] for name in ordered(self.difficulties)}
        return {
            "rows": self.rows,
            "sources": sources,
            "categories": dict(self.categories.most_common()),
            "labels": self.labels,
            "labels_by_source": labels(sources, self.labels_by_source),
            "labels_by_difficulty": labels(difficulties, self.labels_by_difficulty),
            "difficulty": difficulties,
            "preferred_response": dict(self.preferred),
            "images_per_row": {name: self.images[name] for name in ordered(self.images)},
            "frames_per_row": {name: self.frames[name] for name in ordered(self.frames)},
            "lengths": {
                text: {unit: lengths.card() for unit, lengths in units.items()} for text, units in self.lengths.items()
            },
        }


Sets = Mapping[str, Statistics]
"""Sets of preferences by their names, to be drawn beside one another."""


def plot(statistics: Sets, path: str | os.PathLike[str]) -> None:
    """Draw one or several sets beside one another, as one PNG file.

    Args:
        statistics: by the names that the legend gives them.
        path: file to write.
    """
    figure = new_figure(12, 7)
    panels = iter(figure.subplots(2, 3).flat)
    for draw in (draw_difficulty, draw_labels, draw_sources, draw_preferred):
        draw(next(panels), statistics)
    for axes, text in zip(panels, ("response", "trace"), strict=True):
        draw_lengths(axes, statistics, text)
    legend(figure, statistics)
    Path(path).write_bytes(png(figure))


def legend(figure: Any, sets: Sets) -> None:
    """Name the sets above a figure, if there are several."""
    if len(sets) < 2:
        return
    from matplotlib.patches import Patch

    patches = [Patch(color=_colour(place)) for place in range(len(sets))]
    # A name that begins with "_" would be left out.
    names = [f" {_plain(name)}" for name in sets]
    made = figure.legend(patches, names, loc="outside upper left", ncols=len(sets), frameon=False, fontsize=10)
    for text in made.get_texts():
        text.set_parse_math(False)


def draw_difficulty(axes: Any, sets: Sets) -> None:
    """Draw the share of rows of each difficulty."""
    names = ordered({name for one in sets.values() for name in one.difficulties})
    shares = [_shares(one.difficulties, names) for one in sets.values()]
    _bars(axes, "Teacher's attempts", [_TITLES.get(name, name) for name in names], shares)


def draw_labels(axes: Any, sets: Sets, groups: str | None = None) -> None:
    """Draw the share of rows in which response 1 is the better one.

    Args:
        axes: to draw into.
        sets: by name.
        groups: None for all rows and of each response; or of each of the `sources` or `difficulties` by itself.
    """
    if groups is None:
        shares = [_shares(one.labels, ["1", "2"]) for one in sets.values()]
        _bars(axes, "Better response", ["1", "2"], shares)
    else:
        by_source = groups == "sources"
        totals = [getattr(one, groups) for one in sets.values()]
        names = _largest(totals) if by_source else ordered({name for one in totals for name in one})
        counts = [one.labels_by_source if by_source else one.labels_by_difficulty for one in sets.values()]
        shares = [[_share(one[name, 1], one[name, 1] + one[name, 2]) for name in names] for one in counts]
        title = f"Response 1 is better, by {'source' if by_source else 'difficulty'}"
        _bars(axes, title, [_TITLES.get(name, name) for name in names], shares, across=by_source)
    if sum(one.rows for one in sets.values()):
        line = axes.axvline if groups == "sources" else axes.axhline
        line(0.5, color="#cf222e", linewidth=1, linestyle=(0, (4, 3)))


def draw_sources(axes: Any, sets: Sets, groups: str = "sources") -> None:
    """Draw the share of rows of the largest `sources` or `categories`."""
    totals = [getattr(one, groups) for one in sets.values()]
    names = _largest(totals)
    shares = [_shares(total, names) for total in totals]
    _bars(axes, groups.capitalize(), names, shares, across=True)


def draw_preferred(axes: Any, sets: Sets) -> None:
    """Draw how often the better response is the shorter and the longer one."""
    names = ["shorter", "equal", "longer"]
    _bars(axes, "The better response is", names, [_shares(one.preferred, names) for one in sets.values()])


def draw_media(axes: Any, sets: Sets, kind: str) -> None:
    """Draw the share of rows with so many `images` or `frames`."""
    totals = [getattr(one, kind) for one in sets.values()]
    names = sorted(_largest(totals), key=lambda name: (not name.isdecimal(), len(name), name))
    shares = [_shares(total, names) for total in totals]
    _bars(axes, {"images": "Pictures per row", "frames": "Video frames per row"}[kind], names, shares)


def draw_lengths(axes: Any, sets: Sets, text: str) -> None:
    """Draw the histogram of the lengths of `question`, `response` or `trace`, in tokens where they are known."""
    known = [one.lengths[text] for one in sets.values()]
    unit = "tokens" if all("tokens" in lengths for lengths in known) and known else "characters"
    tidy(axes, f"{text.capitalize()} length ({unit})")
    if not any(lengths[unit].count for lengths in known):
        say_empty(axes, "none")
        return
    for place, lengths in enumerate(known):
        if bins := lengths[unit].histogram(per_doubling=4):
            edges = [low for low, _, _ in bins] + [bins[-1][1]]
            shares = [many / lengths[unit].count for _, _, many in bins]
            colour = _colour(place)
            axes.stairs(shares, edges, fill=len(known) == 1, color=colour, linewidth=1.6)
            axes.axvline(lengths[unit].quantile(0.5), color=colour, linewidth=1, linestyle=(0, (2, 2)))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _percent(axes.yaxis)


def _bars(
    axes: Any, title: str, names: Sequence[str], sets: Sequence[Sequence[float | None]], across: bool = False
) -> None:
    """Draw groups of bars, one bar of each set; None leaves a gap."""
    tidy(axes, title)
    if not names:
        say_empty(axes, "none")
        return
    width = 0.8 / len(sets)
    for place, values in enumerate(sets):
        at = [group + (place - (len(sets) - 1) / 2) * width for group in range(len(names))]
        heights = [value or 0 for value in values]
        bars = (axes.barh if across else axes.bar)(at, heights, width * 0.92, color=_colour(place))
        if across or len(names) * len(sets) <= 8:
            texts = ["" if value is None else f"{100 * value:.1f}%" for value in values]
            axes.bar_label(bars, texts, padding=2, fontsize=7, color=INK)
    labels = [_plain(name) for name in names]
    if across:
        axes.set_yticks(range(len(names)), labels, parse_math=False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.18)
    else:
        axes.set_xticks(range(len(names)), labels, parse_math=False, rotation=45 if len(names) > 8 else 0)
        axes.margins(y=0.12)
        if len(names) == 1:
            axes.set_xlim(-1.2, 1.2)
    _percent(axes.xaxis if across else axes.yaxis)


def _percent(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=None))


def _shares(counts: Mapping[str, int], names: Sequence[str]) -> list[float | None]:
    total = sum(counts.values())
    return [_share(counts.get(name, 0), total) for name in names]


def _share(part: int, total: int) -> float | None:
    return part / total if total else None


def _largest(totals: Sequence[Mapping[str, int]]) -> list[str]:
    """Return the names that stand for most rows, each set counted as much as the others."""
    weights: dict[str, float] = {}
    for total in totals:
        for name, many in total.items():
            weights[name] = weights.get(name, 0) + many / sum(total.values())
    return sorted(weights, key=lambda name: -weights[name])[:_SHOWN_CLASSES]


def _plain(name: str) -> str:
    """Return a name as an axis has room for it, with nothing in it that is no character to be seen."""
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    return name if len(name) <= 24 else f"{name[:23]}…"


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]
