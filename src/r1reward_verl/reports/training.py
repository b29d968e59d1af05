"""The report of a training run: curves over training, and figures before and after RL.

`write_training_report` writes `report.html`, one file that loads nothing, `report.md` and the plots as PNG files. The
judgements are in the report of the evaluation, which it links to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1reward_verl import plots
from r1reward_verl.reports.page import UNKNOWN, Section, Table, percent, write_page, write_plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Series = list[tuple[int, float]]
"""Values over training: (step, value), steps ascending."""

TITLE = "A reward model before and after StableReinforce"
STAGES = {"sft": "SFT", "rl": "SFT + RL"}

_CURVES = {
    "reward": ("Reward", "critic/score/mean"),
    "accuracy": ("Held-out accuracy", "val-r1_reward/all/accuracy"),
    "consistency": ("Reasoning supports the verdict", "val-r1_reward/all/consistency"),
    "response_length": ("Response length (tokens)", "response_length/mean"),
    "grad_norm": ("Gradient norm", "actor/grad_norm"),
    "filtered": ("Share of filtered advantages", "stable_reinforce/filtered_tokens"),
}
"""Curve -> its title and the name of its values in verl's log."""
_SHARES = {"accuracy", "consistency", "filtered"}
_FIGURES = {
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

    return {
        name: [(step, steps[step][key]) for step in sorted(steps) if key in steps[step]]
        for name, (_, key) in _CURVES.items()
    }


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Return the figures before and after RL, and their change.

    Args:
        summary: `sft` and `rl`, each as `metrics.compute_metrics` returns it.
    """
    before, after = summary["sft"], summary["rl"]
    rows = []
    for name, title in _FIGURES.items():
        change = UNKNOWN
        if before.get(name) is not None and after.get(name) is not None:
            scale = 1 if name == "mean_response_tokens" else 100
            change = f"{scale * (after[name] - before[name]):+.1f}"
        title = title.format(samples=after.get("samples", "K"))
        rows.append([title, _cell(before, name), _cell(after, name), change])
    return Table(["", *STAGES.values(), "Change"], rows)


def _cell(metrics: Mapping[str, Any], name: str) -> str:
    value = metrics.get(name)
    if value is None:
        return UNKNOWN
    if name == "mean_response_tokens":
        return f"{value:.1f}"
    if name == "position_bias":
        return f"{100 * value:+.1f}"
    return percent(value, metrics.get(f"{name}_ci95"), unit="%")


def summary_note(summary: Mapping[str, Any]) -> str:
    """Return what the figures rest on, as a sentence: pairs, steps, duration of the stages."""
    parts = [f"{summary['rl'].get('pairs', '?')} held-out pairs in both orders, with 95% intervals in brackets"]
    if summary.get("steps") is not None:
        parts.append(f"{summary['steps']} RL steps")
    seconds = {name: value for name, value in (summary.get("seconds") or {}).items() if value is not None}
    if seconds:
        parts.append("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    return "; ".join(parts)


def plot_training(curves: Mapping[str, Series]) -> Figure:
    """Draw the six curves of a training run, one panel each."""
    from matplotlib.ticker import MaxNLocator  # heavy, as all of matplotlib

    figure = plots.new_figure(11, 5.8)
    for axes, (name, (title, _)) in zip(figure.subplots(2, 3).flat, _CURVES.items(), strict=True):
        plots.tidy(axes, title)
        points = curves.get(name)
        if not points:
            plots.write_empty(axes, "not logged")
            continue
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) <= 40 else ""
        axes.plot(steps, values, color=plots.colour(0), linewidth=1.8, marker=marker, markersize=3.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step", fontsize=9, color=plots.PALE)
        axes.margins(x=0.03, y=0.12)
        if name in _SHARES:
            plots.in_percent(axes.yaxis)
        if min(values) == max(values):
            half = 0.05 if name in _SHARES else max(0.1 * abs(values[0]), 0.1)
            axes.set_ylim(values[0] - half, values[0] + half)
        if name in ("grad_norm", "filtered"):
            axes.set_ylim(bottom=0)
    return figure


def plot_before_after(summary: Mapping[str, Any]) -> Figure:
    """Draw accuracy, voting accuracy and consistency of both stages with their 95% intervals."""
    figure = plots.new_figure(8, 4.4)
    axes = figure.subplots()
    plots.tidy(axes)
    names = [_FIGURES[name].format(samples=summary["rl"].get("samples", "K")) for name in _BARS]
    stages = [summary[stage] for stage in STAGES]
    shares = [[stage.get(name) for name in _BARS] for stage in stages]
    plots.draw_bars(axes, names, shares, [[stage.get(f"{name}_ci95") for name in _BARS] for stage in stages])
    # Chance is one half for the accuracies; consistency, the last, has no such level.
    axes.hlines(0.5, -0.6, 1.5, color=plots.CHANCE, linewidth=1, linestyles=(0, (4, 3)))
    axes.text(1.5, 0.51, "chance", color=plots.CHANCE, fontsize=9, ha="center", va="bottom")
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    plots.draw_legend(figure, [*STAGES.values()])
    return figure


def write_training_report(
    out_dir: str | os.PathLike[str],
    summary: Mapping[str, Any],
    curves: Mapping[str, Series],
    judgements: str | None = None,
) -> Path:
    """Write `report.html`, `report.md`, `training.png` and `before_after.png`.

    Args:
        out_dir: folder, created if it is missing.
        summary: `sft` and `rl`, each as `metrics.compute_metrics` returns it, `steps` and `seconds`.
        curves: from `training_curves`.
        judgements: path of the page that shows the judgements, seen from `out_dir`; None for no link.

    Returns:
        The path of `report.html`.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    bars = ("before_after.png", plots.png(plot_before_after(summary)))
    sections = [
        Section("Before and after RL", [summary_table(summary)], bars, summary_note(summary)),
        Section("Over training", plot=("training.png", plots.png(plot_training(curves)))),
    ]
    write_plots(out, sections)
    for name, template in (("report.md", "report.md"), ("report.html", "training.html")):
        write_page(out / name, template, title=TITLE, sections=sections, judgements=judgements)
    return out / "report.html"
