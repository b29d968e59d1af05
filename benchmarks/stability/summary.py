"""What the runs of the study say: figures with intervals, the primary comparisons, tables and plots."""

import datetime
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arms import LEARNING_RATES, PRIMARY, tuning
from scipy import stats

from r1reward_verl.plots import colour, in_percent, new_figure, png, tidy

sys.path.insert(0, str(Path(__file__).parents[1]))

from _bench import circumstances

PACKAGES = ("torch", "verl", "r1reward-verl")

MEANS = (
    "accuracy",
    "seen",
    "seen_start",
    "consistency",
    "format",
    "length",
    "pre_clip_share",
    "filtered_share",
    "filtered_below_share",
)


def best_rates(runs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the learning rate of each neighbour: the one with the highest mean accuracy in the tuning."""
    accuracies: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        accuracies[run["arm"]].append(run["accuracy"])
    names = dict.fromkeys(arm.name.split("/")[0] for arm in tuning())
    return {
        name: max(LEARNING_RATES, key=lambda rate: statistics.fmean(accuracies[f"tuning/{name}/{rate:g}"]))
        for name in names
    }


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95% interval by Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> dict[str, Any] | None:
    """Return the mean paired difference over the seeds that both have, its interval and p (signs permuted)."""
    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < 2:
        return None
    apart = [one[seed] - other[seed] for seed in seeds]
    mean, low, high = interval(apart)
    permuted = stats.permutation_test(
        (apart,), np.mean, permutation_type="samples", n_resamples=99_999, vectorized=True, rng=np.random.default_rng(0)
    )
    p = float(permuted.pvalue) if any(apart) else 1.0
    return {"seeds": len(seeds), "difference": mean, "ci95": [low, high], "p": p}


def holm(p_values: Sequence[float], number: int) -> list[float]:
    """Return the p-values corrected for the number of comparisons, by Holm's method."""
    corrected, running = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values)):
        running = max(running, min(1.0, (number - rank) * p_values[place]))
        corrected[place] = running
    return corrected


def summarise(runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the content of `stability.json`."""
    by_arm: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for run in runs:
        by_arm[run["arm"]][run["seed"]] = run
    listed: dict[str, Any] = {}
    for name, of_seed in sorted(by_arm.items()):
        of_arm = list(of_seed.values())
        mean, low, high = interval([run["accuracy"] for run in of_arm])
        listed[name] = {
            "settings": of_arm[0]["settings"],
            "seeds": len(of_arm),
            **{key: statistics.fmean(run[key] for run in of_arm) for key in MEANS},
            "accuracy": mean,
            "accuracy_ci95": [low, high],
            "accuracies": [round(of_seed[seed]["accuracy"], 4) for seed in sorted(of_seed)],
            "start": statistics.fmean(run["start"] for run in of_arm),
            "collapsed": sum(run["collapsed"] for run in of_arm),
            "skipped_updates": sum(run["skipped"] for run in of_arm),
            "largest_gradient": max(run["largest_gradient"] for run in of_arm),
            "curve": np.mean([run["curve"] for run in of_arm], axis=0).round(4).tolist(),
        }
    accuracies = {name: {seed: run["accuracy"] for seed, run in of_seed.items()} for name, of_seed in by_arm.items()}
    primary = [
        {"arm": one, "against": other, **found}
        for one, other in PRIMARY
        if (found := difference(accuracies.get(one, {}), accuracies.get(other, {})))
    ]
    for comparison, corrected in zip(primary, holm([one["p"] for one in primary], len(PRIMARY)), strict=True):
        comparison["p_holm"] = corrected
    return {
        "benchmark": "stability",
        "primary": primary,
        "arms": listed,
        "processor_seconds": round(sum(run["seconds"] for of_seed in by_arm.values() for run in of_seed.values())),
        "date": datetime.date.today().isoformat(),
        **circumstances(PACKAGES),
    }


def print_tables(summary: Mapping[str, Any]) -> None:
    """Print the primary comparisons and one line an arm."""
    print("\nprimary comparisons: held-out accuracy, paired differences in points, p corrected by Holm")
    for one in summary["primary"]:
        low, high = one["ci95"]
        verdict = "significant" if one["p_holm"] < 0.05 else "not significant"
        print(
            f"  {one['arm']} - {one['against']}: {100 * one['difference']:+.2f} "
            f"[{100 * low:+.2f}, {100 * high:+.2f}], p {one['p_holm']:.3g}: {verdict}"
        )
    titles = ("start", "accuracy", "95% interval", "collapsed", "skipped", "gradient")
    print("\n{:48} {:>6} {:>8} {:>16} {:>9} {:>8} {:>9}".format("arm", *titles))
    for name, arm in summary["arms"].items():
        low, high = arm["accuracy_ci95"]
        print(
            f"{name:48} {100 * arm['start']:6.1f} {100 * arm['accuracy']:8.2f} {100 * low:7.2f} {100 * high:8.2f} "
            f"{arm['collapsed']:5}/{arm['seeds']:<3} {arm['skipped_updates']:8} {arm['largest_gradient']:9.3g}"
        )


MISMATCHES = ("exact", "bf16", "stale", "heavy6", "heavy10")
LOSSES = ("raw", "pre_clip", "vanilla", "both", "recomputed", "tis", "icepop")
STARTS = tuple(f"{start}/{labels}" for start in ("70%", "90%", "99%") for labels in ("clean", "noisy"))
FILTERS = (
    *("no_filter", "stable_reinforce", "reference_bounds", "winsorised"),
    *("no_division", "floor", "grpo", "drop_equal_groups"),
)


def write_tables(summary: Mapping[str, Any], page: Path) -> None:
    """Write the tables of the study between the markers `<!-- NAME -->` and `<!-- end -->` of a page."""
    arms = summary["arms"]
    tuned = {name: arm for name, arm in arms.items() if name.startswith("neighbours/")}
    settings = dict.fromkeys(name.split("/")[1] for name in arms if name.startswith("training/"))
    plain = [name for name in settings if f"training/{name}/plain" in arms]
    seeds = sorted({arm["seeds"] for name, arm in arms.items() if not name.startswith("tuning/")})
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    tables = {
        "run": f"Run on {summary['date']} with {' to '.join(map(str, seeds))} seeds an arm ({versions}).\n",
        "primary": _primary(summary["primary"]),
        "mismatch": _grid(arms, "mismatch", MISMATCHES, LOSSES),
        "gradients": _grid(arms, "mismatch", MISMATCHES, LOSSES, _gradient),
        "no_gradient_clip": _grid(arms, "training", ["heavy10_no_gradient_clip"], LOSSES[:3]),
        "filter": _grid(arms, "filter", STARTS, FILTERS),
        "filtered": _grid(arms, "filter", STARTS, FILTERS[1:3], _filtered),
        "rare": _grid(arms, "rare", ("binary", "paper"), ("no_filter", "stable_reinforce", "winsorised")),
        "training": _grid(arms, "training", plain, ("plain", "stable_reinforce")),
        "neighbours": _rows(
            ("loss", "learning rate", "accuracy"),
            [(name.split("/")[1], f"{arm['settings']['lr']:g}", _accuracy(arm)) for name, arm in tuned.items()],
        ),
    }
    text = page.read_text("utf-8")
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda found, table=table: f"{found[1]}\n{table}\n{found[2]}", text)  # type: ignore[misc]
    page.write_text(text, "utf-8")


def _rows(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _grid(
    arms: Mapping[str, Any],
    group: str,
    settings: Sequence[str],
    ways: Sequence[str],
    cell: Callable[[Mapping[str, Any]], str] | None = None,
) -> str:
    shown = cell or _accuracy
    rows = [
        (setting, *(shown(arms[name]) if (name := f"{group}/{setting}/{way}") in arms else "" for way in ways))
        for setting in settings
    ]
    return _rows(("", *(f"`{way}`" for way in ways)), rows)


def _accuracy(arm: Mapping[str, Any]) -> str:
    """Return accuracy in percent, half of its 95% interval, and how many runs collapsed."""
    half = arm["accuracy_ci95"][1] - arm["accuracy"]
    collapsed = f", **{arm['collapsed']} collapse**" if arm["collapsed"] else ""
    return f"{100 * arm['accuracy']:.1f} ± {100 * half:.1f}{collapsed}"


def _gradient(arm: Mapping[str, Any]) -> str:
    skipped = f", {arm['skipped_updates']} skipped" if arm["skipped_updates"] else ""
    return f"{arm['largest_gradient']:.2g}{skipped}"


def _filtered(arm: Mapping[str, Any]) -> str:
    return f"{100 * arm['filtered_share']:.1f}%, below {100 * arm['filtered_below_share']:.1f}%"


def _primary(comparisons: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in comparisons:
        low, high = one["ci95"]
        verdict = "**significant**" if one["p_holm"] < 0.05 else "not significant"
        if one["difference"] == low == high == 0:
            verdict = "identical"
        apart = f"{100 * one['difference']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
        rows.append((f"`{one['arm']}`", f"`{one['against']}`", apart, f"{one['p_holm']:.2g}", verdict))
    return _rows(("arm", "against", "difference, points", "p", ""), rows)


def draw_plots(summary: Mapping[str, Any], folder: Path) -> None:
    """Write the plots of the page about stability: mismatch, filter and learning rates."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("mismatch", _draw_mismatch), ("filter", _draw_filter), ("rates", _draw_rates)):
        figure = draw(summary["arms"])
        (folder / f"stability-{name}.png").write_bytes(png(figure))


def _draw_mismatch(arms: Mapping[str, Any]) -> Any:
    return _draw_groups(arms, "mismatch", MISMATCHES, LOSSES, "Wrong log-probabilities")


def _draw_filter(arms: Mapping[str, Any]) -> Any:
    title = "The filter and its alternatives"
    return _draw_groups(arms, "filter", STARTS, FILTERS, title)


def _draw_groups(arms: Mapping[str, Any], group: str, settings: Sequence[str], ways: Sequence[str], title: str) -> Any:
    """Draw the accuracy of each way in each setting, side by side."""
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    for number, way in enumerate(ways):
        offset = 0.75 / len(ways) * (number - (len(ways) - 1) / 2)
        found = [(x + offset, arms.get(f"{group}/{setting}/{way}")) for x, setting in enumerate(settings)]
        kept = [(x, arm) for x, arm in found if arm]
        _points(axes, [x for x, _ in kept], [arm for _, arm in kept], number, way)
        for x, arm in kept:
            if arm["collapsed"]:
                axes.annotate(f"{arm['collapsed']}", (x, arm["accuracy"]), fontsize=7, ha="center", va="bottom")
    axes.set_xticks(range(len(settings)), [setting.replace("/", "\n") for setting in settings])
    axes.set_ylabel("held-out accuracy")
    in_percent(axes.yaxis)
    seeds = max((arm["seeds"] for name, arm in arms.items() if name.startswith(f"{group}/")), default=0)
    collapsed = any(arm["collapsed"] for name, arm in arms.items() if name.startswith(f"{group}/"))
    tidy(axes, f"{title}; numbers: collapsed runs of {seeds}" if collapsed else title)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _draw_rates(arms: Mapping[str, Any]) -> Any:
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    rates = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    for number, way in enumerate(("plain", "stable_reinforce")):
        named = [(rate, f"training/lr={rate:g}/{way}") for rate in rates]
        found = [(rate, arms[name]) for rate, name in named if name in arms]
        _points(axes, [rate * (0.97 + 0.06 * number) for rate, _ in found], [arm for _, arm in found], number, way)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("held-out accuracy")
    in_percent(axes.yaxis)
    tidy(axes, "Learning rates from a start of 90%")
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def _points(axes: Any, xs: Sequence[float], arms: Sequence[Mapping[str, Any]], number: int, label: str) -> None:
    values = [arm["accuracy"] for arm in arms]
    errors = np.array(
        [[arm["accuracy"] - arm["accuracy_ci95"][0], arm["accuracy_ci95"][1] - arm["accuracy"]] for arm in arms]
    ).T.reshape(2, -1)
    axes.errorbar(xs, values, errors, fmt="o", markersize=4, linewidth=1, color=colour(number), label=label)
