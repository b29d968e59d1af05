"""`r1reward eval report RUN... [--out DIR]`: what evaluations found, to read and to look at.

DIR/report.html   one file that loads nothing: figures beside the paper's, plots, and a gallery of judgements to filter
DIR/report.md     the figures and plots alone
DIR/*.png         the plots

A RUN is a folder that `r1reward eval run` wrote.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1reward_verl.reports import gallery
from r1reward_verl.reports.page import COLOURS, INK, PALE, html_page, html_table, img, new_figure, png, say_empty, tidy
from r1reward_verl.reports.published import PUBLISHED, SOURCE
from r1reward_verl.storage import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUN, METRICS = "run.json", "metrics.json"
GALLERY = 200
"""Cases of the gallery."""

_PAGE = 12 << 20  # characters of the gallery
_UNKNOWN = "–"
_NOT_RUN = "published, not run here"
_SHARES = {
    "accuracy": "Accuracy (micro)",
    "macro": "Accuracy (mean of the categories)",
    "acc_plus": "acc+ (all pairs of an id right)",
    "voting_accuracy": "Accuracy of the vote of all samples",
    "voting_macro": "… mean of the categories",
    "voting_acc_plus": "… acc+",
    "both_orders_accuracy": "Right in both orders",
    "flip_rate": "Verdicts that flip with the order",
    "unparsable": "Unparsable (counted wrong)",
    "consistency": "Reasoning supports the verdict",
}
_NUMBERS = {
    "rows": ("Judged (cases times orders)", ",.0f"),
    "pairs": ("Cases", ",.0f"),
    "ids": ("Ids", ",.0f"),
    "samples": ("Samples for voting", ",.0f"),
    "failed": ("Failed (in no figure)", ",.0f"),
    "too_long": ("Prompt too long (counted wrong)", ",.0f"),
    "mean_response_tokens": ("Mean tokens of a judgement", ".1f"),
    "mean_reasoning_characters": ("Mean characters of its reasoning", ".1f"),
}

Table = tuple[list[str], list[list[str]]]
"""Header and rows, as text."""


@dataclass
class Run:
    """A folder of `r1reward eval run`.

    Attributes:
        name: of the folder, unique in a report.
        folder: where it is.
        about: `run.json`, flat: "name" or "part.name" -> value.
        metrics: `metrics.json`.
        scan: of its judgements.
    """

    name: str
    folder: Path
    about: dict[str, Any]
    metrics: dict[str, Any]
    scan: gallery.Scan

    @property
    def benchmark(self) -> str:
        """The name of the benchmark it judged."""
        return gallery.printable(str(self.setting("benchmark"))) or "unknown benchmark"

    def setting(self, name: str) -> Any:
        """Return a value of `run.json`, in whichever part of it, or None."""
        return next((value for key, value in self.about.items() if key.split(".")[-1] == name), None)

    def figure(self, name: str) -> float | None:
        """Return a figure of the metrics, None where there is none."""
        return _number(self.metrics.get(name))


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """Read what a report needs of each run.

    Raises:
        ValueError: a folder without the files of a finished run, or one of them is damaged; a folder given twice.
        OSError: a file cannot be read.
    """
    if twice := [path for path, times in Counter(path.resolve() for path in folders).items() if times > 1]:
        raise ValueError(f"the run {str(twice[0])!r} is given twice")
    short = Counter(path.resolve().name for path in folders)
    runs = []
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"no run at {str(folder)!r}: give the folder that `r1reward eval run` wrote")
        for name in (RUN, gallery.CASES, gallery.JUDGEMENTS, METRICS):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} has no {name}: `r1reward eval run` writes it, and goes on where it stopped")
        name = folder.resolve().name
        name = gallery.printable(name if short[name] == 1 else str(folder))
        about = dict(_flat(_read_object(folder / RUN)))
        runs.append(Run(name, folder, about, _read_object(folder / METRICS), gallery.scan(folder)))
    return runs


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content


def _flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value == value else None


def _percent(value: Any, interval: Any = None, digits: int = 1) -> str:
    """Return a share in percent, with its interval where there is one."""
    number = _number(value)
    if number is None:
        return _UNKNOWN
    text = f"{100 * number:.{digits}f}"
    if (bounds := _bounds(interval)) is not None:
        text += f" [{100 * bounds[0]:.{digits}f}, {100 * bounds[1]:.{digits}f}]"
    return text


def _bounds(interval: Any) -> tuple[float, float] | None:
    if not isinstance(interval, list) or len(interval) != 2:
        return None
    low, high = map(_number, interval)
    return None if low is None or high is None else (low, high)


def runs_table(runs: Sequence[Run]) -> Table:
    """Return what was run: benchmark, model, order."""
    header = ["Run", "Benchmark", "Model", "Order", "State"]
    rows = []
    for run in runs:
        left = run.figure("failed") or 0
        state = f"incomplete: {left:,.0f} not judged" if left else "complete"
        model = run.setting("model") or run.setting("model_fingerprint") or _UNKNOWN
        rows.append([run.name, run.benchmark, str(model)[:200], str(run.setting("order") or _UNKNOWN), state])
    return header, rows


def figures_table(runs: Sequence[Run]) -> Table:
    """Return the figures of all runs, one a line, shares in percent with their 95% intervals."""
    rows = [
        [title, *(_percent(run.metrics.get(name), run.metrics.get(f"{name}_ci95")) for run in runs)]
        for name, title in _SHARES.items()
    ]
    rows.append(["Any of the samples right", *(_percent(_last(run, "any_correct")) for run in runs)])
    rows.append(["Position bias (better first minus better second)", *(_signed(run, "position_bias") for run in runs)])
    for name, (title, form) in _NUMBERS.items():
        figures = [run.figure(name) for run in runs]
        rows.append([title, *(_UNKNOWN if figure is None else format(figure, form) for figure in figures)])
    for run_name, title in (("tokens_per_second", "Tokens a second"), ("resized_pictures", "Pictures made smaller")):
        figures = [_number(run.setting(run_name)) for run in runs]
        rows.append([title, *(_UNKNOWN if figure is None else f"{figure:,.0f}" for figure in figures)])
    rows.append(["Judgements that correct themselves", *(_share_of(run.scan) for run in runs)])
    known = [row for row in rows if {*row[1:]} != {_UNKNOWN}]
    return ["", *(run.name for run in runs)], known


def _last(run: Run, curve: str) -> Any:
    values = _curve(run, curve)
    return values[-1] if values else None


def _curve(run: Run, name: str) -> list[Any]:
    voting = run.metrics.get("voting")
    values = voting.get(name) if isinstance(voting, Mapping) else None
    return values if isinstance(values, list) else []


def _signed(run: Run, name: str) -> str:
    value, interval = run.figure(name), run.metrics.get(f"{name}_ci95")
    return _UNKNOWN if value is None else ("+" if value > 0 else "") + _percent(value, interval)


def _share_of(found: gallery.Scan) -> str:
    share = 100 * found.correcting / max(found.judgements, 1)
    return f"{found.correcting:,} of {found.judgements:,} ({share:.1f}%)"


def published_table(benchmark: str, runs: Sequence[Run]) -> Table | None:
    """Return the paper's table of a benchmark below the runs' own figures, in percent; None if it has none."""
    table = PUBLISHED.get(benchmark)
    if table is None:
        return None
    rows: list[list[str]] = []
    for run in runs:
        samples = run.figure("samples") or 0
        reference = run.metrics.get("reference")
        lines: list[tuple[str, Mapping[str, Any], bool]] = [(run.name, run.metrics, False)]
        lines += [(f"{run.name}, voting@{samples:.0f}", run.metrics, True)] if samples else []
        if isinstance(reference, Mapping):
            lines.append((f"{run.name}, reference protocol", reference, False))
            lines += [(f"{run.name}, voting@{samples:.0f}, reference protocol", reference, True)] if samples else []
        for name, metrics, voting in lines:
            cells = [_column(metrics, column, table.figures.get(column), voting) for column in table.columns]
            rows.append([name, *(_percent(cell, digits=2) for cell in cells)])
    rows += [
        [f"{name} ({_NOT_RUN})", *(_UNKNOWN if value is None else f"{value:.2f}" for value in row)]
        for name, row in table.rows.items()
    ]
    return ["Accuracy, %", *table.columns], rows


def _column(metrics: Mapping[str, Any], column: str, figure: str | None, voting: bool) -> Any:
    if figure is not None:
        return metrics.get(f"voting_{figure}" if voting else figure)
    return _categories(metrics).get(column.casefold(), {}).get("voting" if voting else "accuracy")


def _categories(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = metrics.get("by_category")
    items = found.items() if isinstance(found, Mapping) else ()
    return {name.casefold(): figures for name, figures in items if isinstance(figures, Mapping)}


def categories_table(runs: Sequence[Run]) -> Table:
    """Return accuracy and rows by category, for runs of one benchmark."""
    header = ["Category"]
    for run in runs:
        header += [f"{run.name}: accuracy", "voting", "judged"]
    rows = []
    for name in _names(runs):
        row = [name]
        for run in runs:
            figures = _categories(run.metrics).get(name.casefold(), {})
            row.append(_percent(figures.get("accuracy"), figures.get("ci95")))
            row.append(_percent(figures.get("voting"), figures.get("voting_ci95")))
            row.append(_UNKNOWN if (count := _number(figures.get("rows"))) is None else f"{count:,.0f}")
        rows.append(row)
    return header, rows


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the categories of runs of one benchmark, in its order."""
    found = (run.metrics.get("by_category") for run in runs)
    names = [name for categories in found if isinstance(categories, Mapping) for name in categories]
    return list({name.casefold(): name for name in reversed(names)}.values())[::-1]


def _bars(axes: Any, runs: Sequence[Run], groups: Mapping[str, Sequence[tuple[float | None, Any]]]) -> None:
    """Draw groups of bars, one bar a run: name -> share and interval of each run."""
    width = 0.8 / len(runs)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    for place, run in enumerate(runs):
        drawn = [
            (position - 0.4 + (place + 0.5) * width, value, _bounds(interval))
            for position, (value, interval) in enumerate(group[place] for group in groups.values())
            if value is not None
        ]
        positions, shares = [x for x, _, _ in drawn], [100 * value for _, value, _ in drawn]
        axes.bar(positions, shares, 0.9 * width, color=COLOURS[place % len(COLOURS)], label=_plain(run.name))
        for x, value, bounds in drawn:
            if bounds is not None:
                error = [[100 * max(value - bounds[0], 0)], [100 * max(bounds[1] - value, 0)]]
                axes.errorbar(x, 100 * value, yerr=error, color=INK, linewidth=1.2, capsize=3)
    axes.set_xticks(range(len(groups)), [_plain(name) for name in groups])
    _legend(axes)


def plot_categories(runs: Sequence[Run]) -> Figure:
    """Draw accuracy by category with 95% intervals, for runs of one benchmark."""
    names = _names(runs)
    figure = new_figure(max(7, 1.4 * len(names)), 4.2)
    axes = figure.subplots()
    tidy(axes, "Accuracy by category, %")
    by_run = [_categories(run.metrics) for run in runs]
    figures = {name: [found.get(name.casefold(), {}) for found in by_run] for name in names}
    axes.axhline(50, color=PALE, linewidth=1, linestyle="--")
    axes.set_ylim(0, 100)
    _bars(
        axes,
        runs,
        {n: [(_number(one.get("accuracy")), one.get("ci95")) for one in found] for n, found in figures.items()},
    )
    return figure


def plot_voting(runs: Sequence[Run]) -> Figure:
    """Draw the accuracy of the vote of k samples, and the share of rows of which any of k samples is right, over k."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    tidy(axes, "Accuracy over the number of samples k, %")
    for place, run in enumerate(runs):
        colour = COLOURS[place % len(COLOURS)]
        k = _curve(run, "k")
        for name, style, title in (("accuracy", "-", "vote of k"), ("any_correct", ":", "any of k right")):
            values = [_number(value) for value in _curve(run, name)]
            if k and len(values) == len(k) and None not in values:
                percents = [100 * value for value in values if value is not None]
                axes.plot(
                    k, percents, style, marker="o", markersize=3, color=colour, label=f"{_plain(run.name)}: {title}"
                )
        if k and (greedy := run.figure("accuracy")) is not None:
            axes.axhline(100 * greedy, color=colour, linewidth=1, linestyle="--", label=f"{_plain(run.name)}: greedy")
    if axes.lines:
        axes.set_xlabel("k", color=PALE)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes)
    else:
        say_empty(axes, "no samples were drawn (--samples K)")
    return figure


def plot_orders(runs: Sequence[Run]) -> Figure:
    """Draw what the order of the responses does to each run."""
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    tidy(axes, "What the order of the responses does, %")
    names = {
        "accuracy": "accuracy",
        "both_orders_accuracy": "right in both orders",
        "flip_rate": "verdicts that flip",
        "position_bias": "position bias",
        "unparsable": "unparsable",
    }
    axes.axhline(0, color=PALE, linewidth=1)
    found = {
        title: [(run.figure(name), run.metrics.get(f"{name}_ci95")) for run in runs] for name, title in names.items()
    }
    _bars(axes, runs, found)
    return figure


def plot_lengths(runs: Sequence[Run]) -> Figure:
    """Draw how long the greedy judgements are."""
    import numpy as np

    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    tidy(axes, "Length of a judgement")
    tokens = [np.frombuffer(run.scan.tokens, run.scan.tokens.typecode) for run in runs]
    longest = max((int(values.max()) for values in tokens if len(values)), default=0)
    if not longest:
        say_empty(axes, "no lengths recorded")
        return figure
    bins = np.linspace(0, longest + 1, min(longest + 1, 40) + 1).tolist()
    for place, (run, values) in enumerate(zip(runs, tokens, strict=True)):
        if len(values):
            weights = np.full(len(values), 100 / len(values))
            axes.hist(
                values,
                bins,
                weights=weights,
                histtype="step",
                linewidth=1.8,
                color=COLOURS[place % len(COLOURS)],
                label=_plain(run.name),
            )
    axes.set_xlabel("tokens", color=PALE)
    axes.set_ylabel("% of the greedy judgements", color=PALE)
    _legend(axes)
    return figure


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _plain(name: str) -> str:
    """Return a name for a plot, where `$` begins a formula and `_` at the start hides a label."""
    name = gallery.printable(name)
    name = (name if len(name) <= 40 else f"{name[:39]}…").replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#&~$])")


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _markdown_table(table: Table) -> str:
    header, rows = table
    head, *body = ["| " + " | ".join(map(_markdown, row)) + " |" for row in [header, *rows]]
    return "\n".join([head, "|---" + "|---:" * (len(header) - 1) + "|", *body])


_NOTES = {
    "figures": "Shares in percent, with 95% intervals that resample whole ids.",
    "published": (
        f"Rows marked “{_NOT_RUN}” are those of the paper ({SOURCE}). Its evaluation code shows the better response "
        "first in every case: beside them belongs a run's reference protocol."
    ),
    "voting": (
        "Solid: accuracy of the majority of k samples, over all choices of k of those drawn. Dotted: share of rows of "
        "which any of the k is right. Dashed: the greedy judgement."
    ),
    "orders": "A fair judge has a position bias of 0; one that always says 1 has +100, and flips every verdict.",
}


@dataclass
class Section:
    """A part of the report: its heading, a table, a plot (file name and PNG), notes."""

    title: str
    table: Table | None = None
    plot: tuple[str, bytes] | None = None
    note: str = ""

    def markdown(self) -> str:
        """Return it as Markdown."""
        parts = [f"## {_markdown(self.title)}"]
        parts += [_markdown_table(self.table)] if self.table else []
        parts += [f"![{_markdown(self.title)}]({self.plot[0]})"] if self.plot else []
        parts += [self.note] if self.note else []
        return "\n\n".join(parts)

    def html(self) -> str:
        """Return it as HTML."""
        return (
            f"<h2>{html.escape(self.title)}</h2>"
            + (f'<div class="wide">{html_table(*self.table)}</div>' if self.table else "")
            + (img(self.plot[1], self.title, "plot") if self.plot else "")
            + (f'<p class="note">{html.escape(self.note)}</p>' if self.note else "")
        )


def sections(runs: Sequence[Run]) -> list[Section]:
    """Return the report but for its gallery."""
    parts = [
        Section("Runs", runs_table(runs)),
        Section("Figures", figures_table(runs), note=_NOTES["figures"]),
    ]
    for number, benchmark in enumerate(dict.fromkeys(run.benchmark for run in runs), start=1):
        of_it = [run for run in runs if run.benchmark == benchmark]
        if (table := published_table(benchmark, of_it)) is not None:
            parts.append(Section(f"{benchmark}: beside the paper", table, note=_NOTES["published"]))
        if _names(of_it):
            plain = re.fullmatch("[a-z0-9-]{1,40}", benchmark)
            plot = (f"categories-{benchmark if plain else number}.png", png(plot_categories(of_it)))
            parts.append(Section(f"{benchmark}: categories", categories_table(of_it), plot))
    parts += [
        Section("Voting", plot=("voting.png", png(plot_voting(runs))), note=_NOTES["voting"]),
        Section("Order", plot=("orders.png", png(plot_orders(runs))), note=_NOTES["orders"]),
        Section("Length", plot=("lengths.png", png(plot_lengths(runs)))),
    ]
    return parts


def _reflection(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        parts.append(f"<p>{html.escape(run.name)}: {_share_of(run.scan)}.</p>")
        for row, order, sample, around in run.scan.excerpts:
            which = "greedy" if sample == 0 else f"sample {sample}"
            parts.append(
                f'<p class="excerpt"><span class="note">row {row}, {html.escape(order)}, {which}:</span> '
                f"{gallery.marked_excerpt(around)}</p>"
            )
    return "".join(parts)


def _gallery(runs: Sequence[Run], count: int) -> str:
    """Return the gallery of all runs, who share its places."""
    from tqdm import tqdm

    chosen: list[list[tuple[str, gallery.Shown]]] = []
    left = count
    for place, run in enumerate(runs):
        rows = gallery.choose(run.scan, -(-left // (len(runs) - place)))
        left -= len(rows)
        shown = gallery.read_shown(run.folder, rows, run.scan)
        _take_media_from_data(run, shown)
        chosen.append([(run.name, one) for one in shown])
    cards = [card for turn in _turns(chosen) for card in turn]
    content, used = gallery.gallery(tqdm(cards, desc="gallery", unit=" cases", disable=None, leave=False), _PAGE)
    judged = sum(len(run.scan.states) for run in runs)
    bad = sum("right" not in run.scan.kinds(row) for run in runs for row in run.scan.states)
    bad_used = sum("right" not in one.kinds for _, one in cards[:used])
    told = f"{used:,} of {judged:,} judged cases are shown, {bad_used:,} of the {bad:,} that went wrong among them."
    return f'<h2>Judgements</h2><p class="note">{told} {html.escape(gallery.RULE)}</p>{content}'


def _take_media_from_data(run: Run, shown: Sequence[gallery.Shown]) -> None:
    """Look in the data file for media that stand there; where it is gone or is another one, they are not shown."""
    from r1reward_verl.evaluation.benchmarks import BENCHMARKS, Case

    left = {one.row: one for one in shown if one.case.get("media") == "inline"}
    benchmark, data = BENCHMARKS.get(run.benchmark), run.setting("data")
    if not left or benchmark is None or not isinstance(data, str):
        return
    with suppress(OSError, ValueError):
        for case in benchmark.read(data, run.setting("media")):
            if not left:
                return
            if isinstance(case, Case) and case.row in left:
                one = left.pop(case.row)
                if (case.question, case.chosen) == (one.case.get("question"), one.case.get("chosen")):
                    one.case["media"] = [media.data or media.path for media in (*case.images, *(case.video or ()))]


def _turns(lists: Sequence[list[Any]]) -> Iterator[list[Any]]:
    for place in range(max(map(len, lists), default=0)):
        yield [one[place] for one in lists if place < len(one)]


_STYLE = """
.wide { overflow-x: auto; } .excerpt { border-left: 3px solid #d8dee4; padding-left: .8rem; overflow-wrap: anywhere; }
.settings td { text-align: left; }
.plot { max-width: 820px; }
"""


def write_report(runs: Sequence[Run], out: Path, count: int = GALLERY) -> Path:
    """Write the files of a report.

    Args:
        runs: from `load_runs`.
        out: folder, created where needed.
        count: of cases in the gallery, 0 for none.

    Returns:
        The path of `report.html`.

    Raises:
        OSError: something cannot be written or read.
        ValueError: a run's judgements and cases do not fit together.
    """
    parts = sections(runs)
    title = "Evaluation of " + ", ".join(run.name for run in runs)
    settings = "".join(
        f"<h3>{html.escape(run.name)}</h3>"
        + html_table(["Setting", "Value"], [[key, str(value)[:1000]] for key, value in run.about.items()])
        for run in runs
    )
    body = (
        "".join(part.html() for part in parts)
        + f'<h2>Self-correction</h2><p class="note">{html.escape(gallery.REFLECTION)}</p>{_reflection(runs)}'
        + f'<details class="settings"><summary>Settings of the runs</summary>{settings}</details>'
        + (_gallery(runs, count) if count else "")
    )
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if part.plot is not None:
            (out / part.plot[0]).write_bytes(part.plot[1])
    counts = "\n".join(f"- {_markdown(run.name)}: {_share_of(run.scan)}" for run in runs)
    write_text(
        out / "report.md",
        f"# {_markdown(title)}\n\n"
        + "\n\n".join(part.markdown() for part in parts)
        + f"\n\n## Self-correction\n\n{counts}\n\nThe judgements themselves: report.html\n",
    )
    page = html_page(title, body, style=gallery.STYLE + _STYLE, script=gallery.SCRIPT if count else "")
    write_text(out / "report.html", page)
    return out / "report.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `r1reward eval report`; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="r1reward eval report",
        description="Report what evaluations found: tables beside the paper's, plots, a page to look at judgements.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder that `r1reward eval run` wrote")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the report goes (default: `report` in the first RUN)"
    )
    parser.add_argument(
        "--gallery", type=int, default=GALLERY, metavar="N", help="cases to look at (default %(default)s)"
    )
    options = parser.parse_intermixed_args(argv)
    if options.gallery < 0:
        parser.error(f"--gallery {options.gallery}: a number from 0 on is needed")
    try:
        runs = load_runs(options.runs)
        path = write_report(runs, options.out or options.runs[0] / "report", options.gallery)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    header, rows = figures_table(runs)
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, _widths([header, *rows]), strict=True)).rstrip())
    print(f"written: {path}")
    return 0


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
