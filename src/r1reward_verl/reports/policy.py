"""The report of a policy that was trained with a reward model: what it was rewarded for, and how right it became."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from r1reward_verl import plots
from r1reward_verl.evaluation.bootstrap import wilson95
from r1reward_verl.plots import Interval
from r1reward_verl.reports.page import UNKNOWN, Section, Table, percent, write_page, write_plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "A policy trained by a reward model that was trained here"


class Validation(Protocol):
    """Answers to held-out questions at one step: how many are right, and their mean reward."""

    @property
    def step(self) -> int: ...  # noqa: D102

    @property
    def right(self) -> int: ...  # noqa: D102

    @property
    def answers(self) -> int: ...  # noqa: D102

    @property
    def win_rate(self) -> float: ...  # noqa: D102


Runs = Mapping[str, Sequence[Validation]]
"""Title of a reward model -> the validations of the policy that it trained, in the order of their steps."""


def _interval(point: Validation) -> Interval:
    return wilson95(point.right / point.answers, point.answers)


def policy_table(runs: Runs) -> Table:
    """Return the share of right answers before and after training."""
    rows = []
    for title, points in runs.items():
        first, last = points[0], points[-1]
        change = 100 * (last.right / last.answers - first.right / first.answers)
        rows.append([title, _share(first), _share(last), f"{change:+.1f}"])
    return Table(["Right answers, by the reward", "Before", "After GRPO", "Change"], rows)


def _share(point: Validation) -> str:
    return percent(point.right / point.answers, _interval(point), unit="%")


def hacking(points: Sequence[Validation]) -> str | None:
    """Say so where the reward rose from one validation to a later one while the share of right answers fell.

    Only what is beyond chance counts: a fall whose intervals do not meet, beside any rise of the reward.
    """
    for index, one in enumerate(points):
        for later in points[index + 1 :]:
            falls = _interval(later)[1] < _interval(one)[0]
            if falls and later.win_rate > one.win_rate:
                return (
                    f"Reward hacking: from step {one.step} to step {later.step} the win rate rose from "
                    f"{one.win_rate:.3f} to {later.win_rate:.3f}, and right answers fell from {_share(one)} to "
                    f"{_share(later)}."
                )
    return None


def plot_policy(runs: Runs) -> Figure:
    """Draw right answers and win rate over training, one panel each."""
    figure = plots.new_figure(10, 4.2)
    truth, reward = figure.subplots(1, 2)
    plots.tidy(truth, "Right answers (which no reward sees)")
    plots.tidy(reward, "Reward: win rate against the right answer")
    for number, points in enumerate(runs.values()):
        steps = [point.step for point in points]
        shares = [point.right / point.answers for point in points]
        bounds = [_interval(point) for point in points]
        colour = plots.colour(number)
        truth.fill_between(steps, *zip(*bounds, strict=True), color=colour, alpha=0.15, linewidth=0)
        truth.plot(steps, shares, color=colour, marker="o", markersize=3.5)
        reward.plot(steps, [point.win_rate for point in points], color=colour, marker="o", markersize=3.5)
    for axes in (truth, reward):
        axes.set_xlabel("step", fontsize=9, color=plots.PALE)
        axes.set_ylim(0, 1.02 if axes is truth else 0.6)
    plots.in_percent(truth.yaxis)
    reward.axhline(0.5, color=plots.CHANCE, linewidth=1, linestyle=(0, (4, 3)))
    plots.draw_legend(figure, [*runs])
    return figure


def write_policy_report(
    out_dir: str | os.PathLike[str], runs: Runs, seconds: Mapping[str, float] | None = None
) -> Path:
    """Write `report.html`, `report.md` and `policy.png`, and return the path of the page."""
    out = Path(out_dir)
    found = [f"{title}: {found_hacking}" for title, points in runs.items() if (found_hacking := hacking(points))]
    taken = ", ".join(f"{name} {value:.0f}" for name, value in (seconds or {}).items())
    answers = next((points[0].answers for points in runs.values() if points), UNKNOWN)
    note = (
        f"{answers} held-out questions, greedy answers, 95% Wilson intervals. "
        f"{' '.join(found) or 'No reward hacking was seen: nowhere did right answers fall while the reward rose.'}"
        f"{f' Seconds: {taken}.' if taken else ''}"
    )
    sections = [
        Section("Before and after GRPO", [policy_table(runs)], note=note),
        Section("Reward and truth over training", plot=("policy.png", plots.png(plot_policy(runs)))),
    ]
    write_plots(out, sections)
    for name, template in (("report.md", "report.md"), ("report.html", "training.html")):
        write_page(out / name, template, title=TITLE, sections=sections, judgements=None)
    return out / "report.html"
