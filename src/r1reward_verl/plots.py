"""The look of all plots: figures without pyplot (no global state, no display), axes, grouped bars, legends.

Names of sets, groups and runs come from data: they are cut, and never read as formulas.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from r1reward_verl.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib is imported inside the functions: it takes a second, and modules that draw are imported without drawing.

INK, PALE, CHANCE = "#24292f", "#57606a", "#cf222e"
COLOURS = ("#1f6feb", "#9aa5b1", "#1a7f37", "#bf8700", "#8250df", "#cf222e", "#0a7c86", "#d4569a")
"""Colours of the sets in a plot, in this order."""

Interval = tuple[float, float]


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_plot(title: str, width: float = 7) -> tuple[Figure, Any]:
    """Return a figure with one plot, and its axes."""
    figure = new_figure(width, 4.2)
    axes = figure.subplots()
    tidy(axes, title)
    return figure, axes


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names in scripts that the font lacks: the tables beside the plots have them.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def colour(place: int) -> str:
    """Return the colour of the set at this place, counted from 0."""
    return COLOURS[place % len(COLOURS)]


def short_label(name: str, length: int = 24) -> str:
    """Return a name of at most `length` characters, all of them visible; matplotlib would hide one that begins with _.

    Set `parse_math=False` on the text it becomes.
    """
    name = printable(name)
    name = name if len(name) <= length else f"{name[: length - 1]}…"
    return f" {name}" if name.startswith("_") else name


def tidy(axes: Any, title: str | None = None) -> None:
    """Give axes the look of the reports."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#8b949e")
    axes.tick_params(colors=PALE, labelsize=9)
    axes.grid(axis="y", color="#d8dee4", linewidth=0.8)
    axes.set_axisbelow(True)
    if title is not None:
        axes.set_title(title, fontsize=11, loc="left", color=INK, fontweight="bold")


def write_empty(axes: Any, text: str) -> None:
    """Write into axes why nothing is drawn there."""
    axes.text(0.5, 0.5, text, ha="center", va="center", color=PALE, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def in_percent(axis: Any) -> None:
    """Label an axis of shares in percent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=None))


def draw_chance(axes: Any, *, across: bool = False) -> None:
    """Draw the level of chance, one half, as a dashed line."""
    (axes.axvline if across else axes.axhline)(0.5, color=CHANCE, linewidth=1, linestyle=(0, (4, 3)))


def draw_legend(figure: Figure, names: Sequence[str]) -> None:
    """Name the sets of a figure above it, in the order of their colours, if there are several."""
    from matplotlib.patches import Patch

    if len(names) > 1:
        patches = [Patch(color=colour(place)) for place in range(len(names))]
        labels = [short_label(name, 40) for name in names]
        columns = min(len(names), 4)
        legend = figure.legend(patches, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=10)
        for text in legend.get_texts():
            text.set_parse_math(False)


def draw_bars(
    axes: Any,
    names: Sequence[str],
    sets: Sequence[Sequence[float | None]],
    intervals: Sequence[Sequence[Interval | None]] | None = None,
    *,
    across: bool = False,
) -> None:
    """Draw groups of bars of shares, one bar for each set in each group.

    Args:
        axes: to draw into.
        names: of the groups.
        sets: for each set the share of each group; a dash is written for None.
        intervals: for each set the interval of each group, drawn as a whisker; None for no whisker.
        across: whether the bars lie, which leaves room for long names.
    """
    if not names:
        write_empty(axes, "none")
        return
    width = 0.8 / len(sets)
    for place, shares in enumerate(sets):
        at = [group + (place - (len(sets) - 1) / 2) * width for group in range(len(names))]
        heights = [share or 0 for share in shares]
        (axes.barh if across else axes.bar)(at, heights, width * 0.92, color=colour(place))
        for x, share, interval in zip(at, shares, intervals[place] if intervals else [None] * len(names), strict=True):
            if share is None:  # a gap would look like 0
                axes.annotate(
                    "–",
                    (0, x) if across else (x, 0),
                    xytext=(6, 0) if across else (0, 6),
                    textcoords="offset points",
                    color=colour(place),
                    ha="center",
                    va="center",
                    fontsize=14,
                )
                continue
            low, high = interval or (share, share)
            if interval:
                # A percentile interval need not contain the estimate; a whisker cannot be negative.
                error = [[max(share - low, 0)], [max(high - share, 0)]]
                axes.errorbar(x, share, yerr=error, color=INK, linewidth=1.2, capsize=3)
            if across or len(names) * len(sets) <= 8:
                end, text = max(share, high, 0), f"{100 * share:.1f}%"
                place_of = {"xytext": (3, 0), "va": "center"} if across else {"xytext": (0, 3), "ha": "center"}
                point = (end, x) if across else (x, end)
                axes.annotate(text, point, textcoords="offset points", fontsize=8, color=INK, **place_of)
    if across:
        labels = [short_label(name) for name in names]
        axes.set_yticks(range(len(names)), labels, parse_math=False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.18)
    else:
        labels = [textwrap.fill(short_label(name, 40), 10, break_long_words=False) for name in names]
        axes.set_xticks(range(len(names)), labels, parse_math=False, rotation=45 if len(names) > 8 else 0)
        axes.set_xlim(*((-1.2, 1.2) if len(names) == 1 else (-0.6, len(names) - 0.4)))
        axes.margins(y=0.12)
    in_percent(axes.xaxis if across else axes.yaxis)
