"""Plots of the statistics of one or several sets of preferences, drawn beside one another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1reward_verl import plots
from r1reward_verl.data.rows import NONE, UNSOLVED
from r1reward_verl.data.statistics import Lengths, Statistics, ordered

Sets = Mapping[str, Statistics]
"""Statistics by the name of their set."""

TITLES = {
    "difficulties": "Attempts of the teacher",
    "labels": "Better response",
    "sources": "Sources",
    "categories": "Categories",
    "preferred": "Length of the better response",
    "images": "Pictures per row",
    "frames": "Video frames per row",
}
"""What `Statistics` counts -> title of its plot."""

_DIFFICULTIES = {UNSOLVED: "never solved", NONE: "not annotated"}
_LARGEST = 10  # groups in a plot


def plot(sets: Sets, path: str | os.PathLike[str]) -> None:
    """Write an overview of sets, as `r1reward data select` puts it beside them, as one PNG file."""
    figure = plots.new_figure(12, 7)
    panels = iter(figure.subplots(2, 3).flat)
    for what in ("difficulties", "labels", "sources", "preferred"):
        draw_counts(next(panels), sets, what)
    for text in ("response", "trace"):
        draw_text_lengths(next(panels), sets, text)
    plots.draw_legend(figure, [*sets])
    Path(path).write_bytes(plots.png(figure))


def groups(sets: Sets, what: str) -> list[str]:
    """Return the groups of a count: largest sources and categories first, the others in their natural order."""
    counts: list[Mapping[str, int]] = [getattr(one, what) for one in sets.values()]
    names = {name for count in counts for name in count}
    if what in ("sources", "categories"):
        # Each set counts as much as the others, whatever its size.
        weights = {name: sum(count.get(name, 0) / (sum(count.values()) or 1) for count in counts) for name in names}
        return sorted(weights, key=lambda name: (-weights[name], name))
    return [*counts[0]] if what in ("labels", "preferred") else ordered(names)


def group_title(what: str, name: str) -> str:
    """Return the name of a group as a reader knows it."""
    return _DIFFICULTIES.get(name, name) if what == "difficulties" else name


def draw_counts(axes: Any, sets: Sets, what: str) -> None:
    """Draw the share of each group among the rows of a set; `what` is one of `TITLES`."""
    names = groups(sets, what)[:_LARGEST]
    counts: list[Mapping[str, int]] = [getattr(one, what) for one in sets.values()]
    shares = [[_share(count.get(name, 0), sum(count.values())) for name in names] for count in counts]
    plots.tidy(axes, TITLES[what])
    plots.draw_bars(axes, [group_title(what, name) for name in names], shares, across=what in ("sources", "categories"))
    if what == "labels" and any(one.rows for one in sets.values()):
        plots.draw_chance(axes)


def draw_balance(axes: Any, sets: Sets, what: str) -> None:
    """Draw the share of rows in which response 1 is better, for each of the `sources` or `difficulties`."""
    names, across = groups(sets, what)[:_LARGEST], what == "sources"
    counts = [one.labels_by[what] for one in sets.values()]
    shares = [[_share(count[name, 1], count[name, 1] + count[name, 2]) for name in names] for count in counts]
    plots.tidy(axes, f"Response 1 is better, by {'source' if across else 'difficulty'}")
    plots.draw_bars(axes, [group_title(what, name) for name in names], shares, across=across)
    if names:
        plots.draw_chance(axes, across=across)


def draw_text_lengths(axes: Any, sets: Sets, text: str) -> None:
    """Draw the lengths of `question`, `response` or `trace`, in tokens where all sets have them."""
    known = [one.lengths[text] for one in sets.values()]
    unit = "tokens" if known and all("tokens" in lengths for lengths in known) else "characters"
    plots.tidy(axes, f"Length of a {text} ({unit})")
    draw_lengths(axes, [lengths[unit] for lengths in known])


def draw_lengths(axes: Any, sets: Sequence[Lengths]) -> None:
    """Draw histograms of lengths on a logarithmic axis, each with its median as a dashed line."""
    if not any(lengths.count for lengths in sets):
        plots.write_empty(axes, "none")
        return
    for place, lengths in enumerate(sets):
        if bins := lengths.histogram(per_doubling=4):
            edges = [low for low, _, _ in bins] + [bins[-1][1]]
            shares = [many / lengths.count for _, _, many in bins]
            axes.stairs(shares, edges, fill=len(sets) == 1, color=plots.colour(place), linewidth=1.6)
            # On the filled histogram of a single set the line takes the colour of the second.
            line = plots.colour(place + (len(sets) == 1))
            axes.axvline(lengths.quantile(0.5), color=line, linewidth=1, linestyle=(0, (2, 2)))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    plots.in_percent(axes.yaxis)


def _share(part: int, total: int) -> float | None:
    return part / total if total else None
