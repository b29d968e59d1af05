"""The report of evaluations.

DIR/report.html   one file that loads nothing: figures beside the paper's, plots, and a gallery of judgements to filter
DIR/report.md     the figures and plots alone
DIR/*.png         the plots

Anything in a run folder may be missing or of another type: what is no figure is shown as unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from r1reward_verl import plots
from r1reward_verl.evaluation.compare import compare_runs
from r1reward_verl.evaluation.folder import SavedRun, read_run
from r1reward_verl.evaluation.scoring import FAULTS, figures_of, hints
from r1reward_verl.evaluation.table import p_text
from r1reward_verl.evaluation.verdicts import JudgedRun, load_run
from r1reward_verl.reports.gallery import (
    GalleryIndex,
    choose_cases,
    find_inline_media,
    index_judgements,
    make_gallery,
    read_cases,
    take_turns,
)
from r1reward_verl.reports.page import UNKNOWN, Line, Section, Table, percent, short_names, write_page, write_plots
from r1reward_verl.reports.published import PUBLISHED, SOURCE
from r1reward_verl.storage import locked
from r1reward_verl.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GALLERY_SIZE = 12 << 20  # characters of HTML
_NOT_RUN = "published, not run here"
_FIGURES = {
    "accuracy": ("Accuracy (micro)", "%"),
    "macro": ("Accuracy (mean of the categories)", "%"),
    "acc_plus": ("acc+ (all pairs of an id right)", "%"),
    "voting_accuracy": ("Accuracy of the vote of all samples", "%"),
    "voting_macro": ("… mean of the categories", "%"),
    "voting_acc_plus": ("… acc+", "%"),
    "any_correct": ("Any of the samples right", "%"),
    "both_orders_accuracy": ("Right in both orders", "%"),
    "flip_rate": ("Verdicts that flip with the order", "%"),
    "position_bias": ("Position bias (better first minus better second)", "+%"),
    "unparsable": ("Unparsable (counted wrong)", "%"),
    "cut_off": ("Judgements cut off at the limit of tokens", "%"),
    "consistency": ("Reasoning supports the verdict", "%"),
    "rows": ("Judged (cases times orders)", ",.0f"),
    "pairs": ("Cases", ",.0f"),
    "ids": ("Ids", ",.0f"),
    "samples": ("Samples for voting", ",.0f"),
    "failed": ("Failed (left out of all figures)", ",.0f"),
    "too_long": ("Prompt too long (counted wrong)", ",.0f"),
    "mean_response_tokens": ("Mean tokens of a judgement", ".1f"),
    "mean_reasoning_characters": ("Mean characters of its reasoning", ".1f"),
    "tokens_per_second": ("Tokens per second", ",.0f"),
    "resized_pictures": ("Pictures scaled down", ",.0f"),
}
"""Figure -> its title and format; "%" is a share in percent with its interval."""
_MOST_PAIRS = 10
_SIGNIFICANT = 0.05
_ORDER_FIGURES = {
    "accuracy": "accuracy",
    "both_orders_accuracy": "right in both orders",
    "flip_rate": "verdicts that flip",
    "position_bias": "position bias",
    "unparsable": "unparsable",
}
_NOTES = {
    "figures": "Shares in percent, with 95% intervals that resample whole ids.",
    "published": (
        f"Rows marked “{_NOT_RUN}” are figures of the paper ({SOURCE}). Its evaluation code shows the better response "
        "first in every case: compare what it measured with a run's reference protocol."
    ),
    "voting": (
        "Solid: accuracy of the majority of k samples, averaged over all choices of k samples. Dotted: share of rows "
        "with at least one right verdict among k. Dashed: accuracy of the greedy judgement."
    ),
    "orders": (
        "A fair judge has a position bias of 0. A judge that always prefers response 1 has +100% and flips every "
        "verdict."
    ),
    "lengths": "Tokens of the greedy judgements; the line is the median.",
    "pairs": (
        "On the cases that both judged, in the orders in which both did. p is the probability that chance alone shows "
        "a difference as large, with whole ids as the unit; from 0.05 on the difference is not called clear."
    ),
    "faults": "Greedy judgements and samples, and their share of all. They are wrong unless --lenient reads them.",
}


class Figures:
    """Figures as `metrics.json` holds them, of which any may be missing or of another type."""

    def __init__(self, content: Any) -> None:
        self._content: Mapping[str, Any] = content if isinstance(content, Mapping) else {}

    def __bool__(self) -> bool:
        return bool(self._content)

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def number(self, name: str) -> float | None:
        """Return a figure."""
        return _number(self._content.get(name))

    def interval(self, name: str) -> plots.Interval | None:
        """Return an interval."""
        bounds = self.numbers(name)
        low, high = bounds if len(bounds) == 2 else (None, None)
        return None if low is None or high is None else (low, high)

    def numbers(self, name: str) -> list[float | None]:
        """Return a list of figures."""
        values = self._content.get(name)
        return [_number(value) for value in values] if isinstance(values, list) else []

    def text(self, name: str, form: str = "%", interval: str = "") -> str:
        """Return a figure as text: in percent with its interval by the name `interval`, or in another format."""
        value = self.number(name)
        if form.endswith("%"):
            return percent(value, self.interval(interval), f"{form[:-1]}.1f")
        return UNKNOWN if value is None else format(value, form)

    def part(self, name: str) -> Figures:
        """Return the figures below a name."""
        return Figures(self._content.get(name))

    def hints(self) -> list[str]:
        """Return what they suggest to do."""
        reasons = {name: int(self.part("unparsable_reasons").number(name) or 0) for name in FAULTS}
        known = {name: self.number(name) for name in ("judgements", "cut_off")}
        return hints({**known, "unparsable_reasons": reasons, "lenient": self._content.get("lenient")})


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


@dataclass
class LoadedRun:
    """What a report needs of a run folder."""

    name: str  # of the folder, unique in a report
    saved: SavedRun  # the folder
    settings: dict[str, Any]  # all that `run.json` says
    figures: Figures  # `metrics.json`
    index: GalleryIndex  # of its judgements
    judged: JudgedRun  # its verdicts

    @property
    def benchmark(self) -> str:
        """The name of its benchmark."""
        return printable(str(self.settings.get("benchmark"))) or "unknown benchmark"

    @property
    def corrections(self) -> str:
        """How many of its judgements correct themselves."""
        share = percent(self.index.corrections / max(self.index.judgements, 1), unit="%")
        return f"{self.index.corrections:,} of {self.index.judgements:,} ({share})"


def load_runs(folders: Sequence[Path]) -> list[LoadedRun]:
    """Read what a report needs of each run folder.

    Raises:
        ValueError: no run folder, a damaged one, one without a judgement, or one given twice.
        OSError: a file cannot be read.
    """
    runs = []
    for name, folder in short_names([folder.resolve() for folder in folders], lambda folder: folder.name).items():
        saved = read_run(folder)
        settings = {**saved.about, **saved.settings}
        figures = figures_of(saved) | {name: settings.get(name) for name in ("tokens_per_second", "resized_pictures")}
        index = index_judgements(saved)
        runs.append(LoadedRun(printable(name), saved, settings, Figures(figures), index, load_run(folder)))
    return runs


def figures_table(runs: Sequence[LoadedRun]) -> Table:
    """Return the figures of all runs, one a line, shares in percent with their 95% intervals."""
    rows = [
        [title, *(run.figures.text(name, form, f"{name}_ci95") for run in runs)]
        for name, (title, form) in _FIGURES.items()
    ]
    rows.append(["Judgements that correct themselves", *(run.corrections for run in runs)])
    return Table(["", *(run.name for run in runs)], [row for row in rows if {*row[1:]} != {UNKNOWN}])


def published_table(benchmark: str, runs: Sequence[LoadedRun]) -> Table | None:
    """Return the paper's table of a benchmark below the runs' own figures, in percent; None if it has none."""
    table = PUBLISHED.get(benchmark)
    if table is None:
        return None
    rows: list[list[str]] = []
    for run in runs:
        samples = run.figures.number("samples") or 0
        reference = run.figures.part("reference")
        for figures, protocol in [(run.figures, "")] + [(reference, ", reference protocol")] * bool(reference):
            categories = figures.part("by_category")
            for vote in (False, True)[: 1 + bool(samples)]:
                row = [run.name + (f", voting@{samples:.0f}" if vote else "") + protocol]
                for column in table.columns:
                    if name := table.figures.get(column):
                        share = figures.number(f"voting_{name}" if vote else name)
                    else:
                        share = categories.part(column).number("voting" if vote else "accuracy")
                    row.append(percent(share, form=".2f"))
                rows.append(row)
    rows += [
        [f"{name} ({_NOT_RUN})", *(UNKNOWN if value is None else f"{value:.2f}" for value in row)]
        for name, row in table.rows.items()
    ]
    return Table(["Accuracy, %", *table.columns], rows)


def categories_of(runs: Sequence[LoadedRun]) -> dict[str, list[Figures]]:
    """Return the categories of runs of one benchmark, in its order, with the figures of each run."""
    parts = [run.figures.part("by_category") for run in runs]
    return {
        name: [part.part(name) for part in parts] for name in dict.fromkeys(name for part in parts for name in part)
    }


def categories_table(runs: Sequence[LoadedRun]) -> Table:
    """Return accuracy and rows by category, for runs of one benchmark."""
    header = ["Category", *(title for run in runs for title in (f"{run.name}: accuracy", "voting", "judged"))]
    rows = []
    for name, found in categories_of(runs).items():
        row = [name]
        for figures in found:
            row += [figures.text("accuracy", interval="ci95"), figures.text("voting", interval="voting_ci95")]
            row.append(figures.text("rows", ",.0f"))
        rows.append(row)
    return Table(header, rows)


def plot_categories(runs: Sequence[LoadedRun]) -> Figure:
    """Draw accuracy by category with 95% intervals, for runs of one benchmark."""
    categories = categories_of(runs)
    by_run = [*zip(*categories.values(), strict=True)]
    figure, axes = plots.new_plot("Accuracy by category", max(7, 1.4 * len(categories)))
    shares = [[figures.number("accuracy") for figures in found] for found in by_run]
    plots.draw_bars(axes, [*categories], shares, [[figures.interval("ci95") for figures in found] for found in by_run])
    plots.draw_chance(axes)
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    plots.draw_legend(figure, [run.name for run in runs])
    return figure


def plot_orders(runs: Sequence[LoadedRun]) -> Figure | None:
    """Draw what the order of the responses does to each run; None if no run has both."""
    if all(run.figures.number("both_orders_accuracy") is None for run in runs):
        return None
    figure, axes = plots.new_plot("Effect of the order of the responses")
    shares = [[run.figures.number(name) for name in _ORDER_FIGURES] for run in runs]
    intervals = [[run.figures.interval(f"{name}_ci95") for name in _ORDER_FIGURES] for run in runs]
    plots.draw_bars(axes, [*_ORDER_FIGURES.values()], shares, intervals)
    axes.axhline(0, color=plots.PALE, linewidth=1)
    plots.draw_legend(figure, [run.name for run in runs])
    return figure


def plot_voting(runs: Sequence[LoadedRun]) -> Figure | None:
    """Draw the accuracy of the vote of k samples, and the share of rows of which any of k samples is right, over k."""
    from matplotlib.ticker import MaxNLocator  # heavy, as all of matplotlib

    figure, axes = plots.new_plot("Accuracy over the number of samples k")
    for place, run in enumerate(runs):
        name, voting = plots.short_label(run.name, 40), run.figures.part("voting")
        k: Any = voting.numbers("k")
        for curve, line, title in (("accuracy", "o-", "vote of k"), ("any_correct", "o:", "any of k right")):
            values: Any = voting.numbers(curve)
            if k and len(values) == len(k) and None not in k + values:
                axes.plot(k, values, line, markersize=3, color=plots.colour(place), label=f"{name}: {title}")
        if k and (greedy := run.figures.number("accuracy")) is not None:
            axes.axhline(greedy, color=plots.colour(place), linewidth=1, linestyle="--", label=f"{name}: greedy")
    if not axes.lines:
        return None
    axes.set_xlabel("k", color=plots.PALE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plots.in_percent(axes.yaxis)
    legend = figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def plot_lengths(runs: Sequence[LoadedRun]) -> Figure | None:
    """Draw the lengths of the greedy judgements, a panel for each run above the same axis."""
    known = [(place, run) for place, run in enumerate(runs) if run.index.lengths.count]
    if not known:
        return None
    figure = plots.new_figure(7, 1.2 + 1.2 * len(known))
    panels = figure.subplots(len(known), sharex=True, sharey=True, squeeze=False).flat
    for (place, run), axes in zip(known, panels, strict=True):
        lengths = run.index.lengths
        plots.tidy(axes)
        axes.set_title(plots.short_label(run.name, 60), fontsize=9, loc="left", color=plots.INK, parse_math=False)
        bins = lengths.histogram(per_doubling=4)
        edges = [low for low, _, _ in bins] + [bins[-1][1]]
        axes.stairs([many / lengths.count for *_, many in bins], edges, fill=True, color=plots.colour(place))
        axes.axvline(lengths.quantile(0.5), color=plots.INK, linewidth=1.4)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        plots.in_percent(axes.yaxis)
    figure.supxlabel("tokens", fontsize=9, color=plots.PALE)
    return figure


def headlines(runs: Sequence[LoadedRun]) -> list[Line]:
    """Return the main figures of each run as a sentence, with what they suggest to do."""
    lines = []
    for run in runs:
        figures = run.figures
        accuracy = percent(figures.number("accuracy"), figures.interval("accuracy_ci95"), unit="%")
        model = printable(str(run.settings.get("model") or run.settings.get("model_fingerprint")))[:200]
        text = f"{accuracy} right on {run.benchmark}, {figures.text('pairs', ',.0f')} cases (model {model})"
        for name, title in (("both_orders_accuracy", "right in both orders"), ("voting_accuracy", "right by vote")):
            if figures.number(name) is not None:
                text += f"; {figures.text(name)}% {title}"
        if left := figures.number("failed"):
            text += f"; incomplete: {left:,.0f} not judged"
        lines.append(Line(run.name, f"{text}.", [f"{hint}." for hint in figures.hints()]))
    return lines


def pairs_table(runs: Sequence[LoadedRun]) -> Table | None:
    """Return the test of each run against each other one of its benchmark; against the first if there are many."""
    pairs = [pair for pair in combinations(runs, 2) if pair[0].benchmark == pair[1].benchmark]
    if len(pairs) > _MOST_PAIRS:
        pairs = [(first, second) for first, second in pairs if first is runs[0]]
    rows = []
    for first, second in pairs:
        name = f"{first.name} → {second.name}"
        try:
            both = compare_runs(first.judged, second.judged)["all"]
        except ValueError as error:
            rows.append([name, *[UNKNOWN] * 5, str(error).split(":")[0]])
            continue
        p = both["p_by_id"]
        verdict = "no clear difference" if p >= _SIGNIFICANT else "better" if both["difference"] > 0 else "worse"
        change = percent(both["difference"], both["ci95"], "+.1f")
        rights = [percent(both[f"accuracy_{side}"]) for side in "ab"]
        rows.append([name, *rights, change, p_text(p), f"{both['rows']:,}", verdict])
    header = ["Accuracy, %", "first", "second", "difference, points", "p", "judged by both", ""]
    return Table(header, rows) if rows else None


def faults_table(runs: Sequence[LoadedRun]) -> Table | None:
    """Return how many judgements of each run break the contract in which way; None if none does."""
    counts = [run.figures.part("unparsable_reasons") for run in runs]
    rows = []
    for reason, title in FAULTS.items():
        cells = []
        for run, count in zip(runs, counts, strict=True):
            number, judged = count.number(reason) or 0, run.figures.number("judgements") or 0
            cells.append(f"{number:,.0f} ({number / judged:.1%})" if judged else UNKNOWN)
        if any(count.number(reason) for count in counts):
            rows.append([f"{reason}: {title.split(';')[0]}", *cells])
    return Table(["", *(run.name for run in runs)], rows) if rows else None


def report_sections(runs: Sequence[LoadedRun]) -> list[Section]:
    """Return the parts of the report that have figures, the most important first."""

    def section(
        title: str, tables: Sequence[Table | None] = (), plot: Any = None, file: str = "", note: str = ""
    ) -> None:
        filled = [table for table in tables if table is not None]
        if filled or plot is not None:
            image = None if plot is None else (f"{file}.png", plots.png(plot))
            parts.append(Section(title, filled, image, note))

    parts = [Section("Results", lines=headlines(runs))]
    section("Run against run", [pairs_table(runs)], note=_NOTES["pairs"])
    for number, benchmark in enumerate(dict.fromkeys(run.benchmark for run in runs), start=1):
        of_it = [run for run in runs if run.benchmark == benchmark]
        if categories_of(of_it):
            plain = re.fullmatch("[a-z0-9-]{1,40}", benchmark)
            file = f"categories-{benchmark if plain else number}"
            section(f"{benchmark}: categories", [categories_table(of_it)], plot_categories(of_it), file)
        if (table := published_table(benchmark, of_it)) is not None:
            note = " ".join([_NOTES["published"], PUBLISHED[benchmark].note]).strip()
            section(f"{benchmark}: beside the paper", [table], note=note)
    section("Figures", [figures_table(runs)], note=_NOTES["figures"])
    section("Judgements that break the contract", [faults_table(runs)], note=_NOTES["faults"])
    section("Voting", plot=plot_voting(runs), file="voting", note=_NOTES["voting"])
    section("Order", plot=plot_orders(runs), file="orders", note=_NOTES["orders"])
    section("Length of a judgement", plot=plot_lengths(runs), file="lengths", note=_NOTES["lengths"])
    return parts


def _gallery(runs: Sequence[LoadedRun], count: int) -> dict[str, Any]:
    """Return the gallery of all runs, which share its places."""
    by_run, left = [], count
    for place, run in enumerate(runs):
        rows = choose_cases(run.index, -(-left // (len(runs) - place)))
        left -= len(rows)
        cases = read_cases(run.name, run.saved, rows, run.index)
        find_inline_media(cases, run.benchmark, run.settings.get("data"), run.settings.get("media"))
        by_run.append(cases)
    cases = tqdm(take_turns(*by_run), desc="gallery", unit=" cases", disable=None, leave=False)
    gallery = make_gallery(cases, _GALLERY_SIZE)
    return gallery | {
        "judged": sum(len(run.index.outcomes) for run in runs),
        "failures": sum(run.index.failures(run.index.outcomes) for run in runs),
        "failures_shown": sum("right" not in case.kinds for case in gallery["cases"]),
    }


def write_evaluation_report(runs: Sequence[LoadedRun], out: Path, gallery: int = 200) -> Path:
    """Write the files of a report.

    Args:
        runs: from `load_runs`.
        out: folder, created if it is missing.
        gallery: largest number of cases to look at, 0 for no gallery.

    Returns:
        The path of `report.html`.

    Raises:
        OSError: something cannot be written or read.
        ValueError: a run's judgements and cases do not fit together.
    """
    sections = report_sections(runs)
    context = {"title": "Evaluation of " + ", ".join(run.name for run in runs), "sections": sections}
    shown = _gallery(runs, gallery) if gallery else None
    with locked(out):
        out.mkdir(parents=True, exist_ok=True)
        write_plots(out, sections)
        write_page(out / "report.md", "report.md", **context, judgements="report.html")
        write_page(out / "report.html", "evaluation.html", **context, runs=runs, gallery=shown)
    return out / "report.html"
