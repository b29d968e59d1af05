"""The report of a training run: curves over training, and figures before and after RL.

`write_report` makes `report.html`, one file that needs nothing beside it, `report.md` and the plots as PNG. The
judgements are in the report of the evaluation (`report`), which it links to.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1reward_verl.reports.page import COLOURS, html_page, html_table, img, new_figure, png, say_empty, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Series = list[tuple[int, float]]
"""Values over training: (step, value), steps ascending."""

STAGES = {"sft": "SFT", "rl": "SFT + RL"}
_COLOURS = {"sft": COLOURS[1], "rl": COLOURS[0]}

_LOGGED = {
    "reward": r"critic/score/mean",
    "accuracy": r"val-r1_reward/all/accuracy",
    "consistency": r"val-r1_reward/all/consistency",
    "response_length": r"response_length/mean",
    "grad_norm": r"actor/grad_norm",
    "filtered": r"stable_reinforce/(?=.*filter)(?=.*token).*",
}
_PANELS = {
    "reward": "Reward",
    "accuracy": "Held-out accuracy",
    "consistency": "Reasoning supports the verdict",
    "response_length": "Response length (tokens)",
    "grad_norm": "Gradient norm",
    "filtered": "Share of filtered advantages",
}
_SHARES = {"accuracy", "consistency", "filtered"}
_ROWS = {
    "accuracy": "Accuracy, both orders",
    "voting_accuracy": "Accuracy, voting@{samples}",
    "both_orders_accuracy": "Pairs right in both orders",
    "consistency": "Reasoning supports the verdict",
    "unparsable": "Judgements without a verdict",
    "position_bias": "Position bias (points)",
    "mean_response_tokens": "Tokens per judgement",
}
_BARS = ("accuracy", "voting_accuracy", "consistency")


def training_curves(*log_files: str | os.PathLike[str]) -> dict[str, Series]:
    """Read the curves of a run from the files of verl's `file` logger.

    Args:
        log_files: jsonl files of one run in the order they were written. verl begins a new file when a run is
            resumed; a step that several files hold counts as the last one has it. A last line that was cut
            off is left out.

    Returns:
        `reward`, `accuracy` and `consistency` (validation: share of the judgements with a verdict whose reasoning
        supports it), `response_length`, `grad_norm` and `filtered` (share of tokens whose advantage was set to zero);
        empty where a run did not log it.

    Raises:
        ValueError: when a line is not what verl writes.
    """
    steps: dict[int, dict[str, float]] = {}
    for log_file in log_files:
        lines = Path(log_file).read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                logged = {key: value for key, value in entry["data"].items() if isinstance(value, int | float)}
                steps.setdefault(int(entry["step"]), {}).update(logged)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if number == len(lines):
                    continue
                raise ValueError(f"{log_file}, line {number}: not a line of verl's file logger: {error}") from error

    curves: dict[str, Series] = {}
    for name, pattern in _LOGGED.items():
        points = []
        for step in sorted(steps):
            values = [value for key, value in steps[step].items() if re.fullmatch(pattern, key)]
            if values:
                points.append((step, sum(values) / len(values)))
        curves[name] = points
    return curves


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def _cell(metrics: Mapping[str, Any], name: str) -> str:
    value = metrics.get(name)
    if value is None:
        return "–"
    if name == "mean_response_tokens":
        return f"{value:.1f}"
    if name == "position_bias":
        return f"{100 * value:+.1f}"
    interval = metrics.get(f"{name}_ci95")
    return _percent(value) + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")


def _change(before: float | None, after: float | None, name: str) -> str:
    if before is None or after is None:
        return "–"
    scale = 1 if name == "mean_response_tokens" else 100
    return f"{scale * (after - before):+.1f}"


def _table_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    sft, rl = summary["sft"], summary["rl"]
    return [
        [
            title.format(samples=rl.get("samples", "K")),
            _cell(sft, name),
            _cell(rl, name),
            _change(sft.get(name), rl.get(name), name),
        ]
        for name, title in _ROWS.items()
    ]


_HEADER = ["", STAGES["sft"], STAGES["rl"], "Change"]


def _caption(summary: Mapping[str, Any]) -> str:
    seconds = {name: value for name, value in (summary.get("seconds") or {}).items() if value is not None}
    parts = [f"{summary['rl'].get('pairs', '?')} held-out pairs in both orders, 95% intervals in brackets"]
    if summary.get("steps") is not None:
        parts.append(f"{summary['steps']} RL steps")
    if seconds:
        parts.append("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    return "; ".join(parts)


def table(summary: Mapping[str, Any]) -> str:
    """Return the figures before and after RL as text in aligned columns.

    Args:
        summary: `sft` and `rl`, each as `metrics.compute_metrics` returns it, `steps` and `seconds`.
    """
    rows = [_HEADER, *_table_rows(summary)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)])
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*lines, "", _caption(summary)])


def plot_training(curves: Mapping[str, Series]) -> Figure:
    """Draw the six curves of a training run, one panel each."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = new_figure(11, 5.8)
    for axes, (name, title) in zip(figure.subplots(2, 3).flat, _PANELS.items(), strict=True):
        tidy(axes, title)
        points = curves.get(name) or []
        if not points:
            say_empty(axes, "not logged")
            continue
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) <= 40 else ""
        axes.plot(steps, values, color=_COLOURS["rl"], linewidth=1.8, marker=marker, markersize=3.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step", fontsize=9, color="#57606a")
        axes.margins(x=0.03, y=0.12)
        if name in _SHARES:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        if min(values) == max(values):
            half = 0.05 if name in _SHARES else max(0.1 * abs(values[0]), 0.1)
            axes.set_ylim(values[0] - half, values[0] + half)
        if name in ("grad_norm", "filtered"):
            axes.set_ylim(bottom=0)
    return figure


def plot_before_after(summary: Mapping[str, Any]) -> Figure:
    """Draw accuracy, voting accuracy and consistency of both stages with their 95% intervals."""
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(8, 4.4)
    axes = figure.subplots()
    tidy(axes)
    width = 0.36
    for side, (stage, title) in zip((-0.5, 0.5), STAGES.items(), strict=True):
        label: str | None = title
        for place, name in enumerate(_BARS):
            value, interval = summary[stage].get(name), summary[stage].get(f"{name}_ci95")
            x = place + side * (width + 0.04)
            if value is None:
                axes.text(x, 0.02, "none", ha="center", va="bottom", fontsize=9, color="#57606a")
                continue
            axes.bar(x, value, width, color=_COLOURS[stage], label=label)
            label = None
            top = value
            if interval:
                # A percentile interval need not contain the estimate; a whisker cannot be negative.
                whiskers = [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]
                axes.errorbar(x, value, yerr=whiskers, color="#24292f", capsize=4, linewidth=1.2)
                top = max(value, interval[1])
            axes.text(x, top + 0.015, _percent(value), ha="center", va="bottom", fontsize=10, color="#24292f")
    titles = [_ROWS[name].format(samples=summary["rl"].get("samples", "K")) for name in _BARS]
    axes.set_xticks(range(len(_BARS)), titles, fontsize=10, color="#24292f")
    # Chance is one half for the accuracies; consistency, the last, has no such level.
    axes.hlines(0.5, -0.5, 1.5, color="#cf222e", linewidth=1, linestyles=(0, (4, 3)))
    axes.text(1.5, 0.51, "chance", color="#cf222e", fontsize=9, ha="center", va="bottom")
    axes.set_xlim(-0.55, len(_BARS) - 0.45)
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=10)
    return figure


def write_report(
    out_dir: str | os.PathLike[str],
    summary: Mapping[str, Any],
    curves: Mapping[str, Series],
    judgements: str | None = None,
) -> Path:
    """Write `report.html`, `report.md`, `training.png` and `before_after.png`.

    Args:
        out_dir: folder, created where needed.
        summary: `sft` and `rl`, each as `metrics.compute_metrics` returns it, `steps` and `seconds`.
        curves: from `training_curves`.
        judgements: path of the page that shows the judgements, seen from `out_dir`; None for no link.

    Returns:
        The path of `report.html`.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    plots = {"before_after.png": plot_before_after(summary), "training.png": plot_training(curves)}
    pngs: dict[str, bytes] = {}
    for name, figure in plots.items():
        pngs[name] = png(figure)
        (out / name).write_bytes(pngs[name])

    title = "A reward model before and after StableReinforce"
    link = f'<p><a href="{html.escape(judgements)}">The judgements, to read and filter</a></p>' if judgements else ""
    body = (
        f"{html_table(_HEADER, _table_rows(summary))}"
        f'<p class="note">{html.escape(_caption(summary))}</p>'
        f"{img(pngs['before_after.png'], 'accuracy and consistency before and after RL', 'plot')}"
        f"<h2>Over training</h2>{img(pngs['training.png'], 'six curves over training', 'plot')}"
        f"{link}"
    )
    report = out / "report.html"
    report.write_text(html_page(title, body), encoding="utf-8")

    rows = [_HEADER, ["---", "---:", "---:", "---:"], *_table_rows(summary)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    (out / "report.md").write_text(
        f"# {title}\n\n" + "\n".join(lines) + f"\n\n{_caption(summary)}\n\n"
        "![Before and after](before_after.png)\n\n![Over training](training.png)\n"
        + (f"\n[The judgements]({judgements})\n" if judgements else ""),
        encoding="utf-8",
    )
    return report
