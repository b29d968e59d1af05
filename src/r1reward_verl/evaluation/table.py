"""Figures and comparisons as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r1reward_verl.evaluation.benchmarks import Benchmark
from r1reward_verl.text import aligned


def metrics_table(metrics: Mapping[str, Any], benchmark: Benchmark) -> str:
    """Return the figures of a run as lines of text, shares in percent with their 95% intervals."""
    samples = metrics["samples"]
    rows = [["", "cases", "judged", "accuracy", *[f"vote of {samples}"] * (samples > 0), "unparsable"]]
    rows[0] += ["acc+"] * benchmark.acc_plus

    def add(name: str, of: Mapping[str, Any], cases: str, accuracy: Sequence[str], voting: Sequence[str]) -> None:
        row = [name, f"{of[cases]:,}", f"{of['rows']:,}", _share(*map(of.get, accuracy))]
        row += [_share(*map(of.get, voting))] * (samples > 0)
        rows.append([*row, _share(of["unparsable"]), *[_share(of["acc_plus"])] * benchmark.acc_plus])

    for name, one in metrics["by_category"].items():
        add(name, one, "cases", ("accuracy", "ci95"), ("voting", "voting_ci95"))
    for name, key in (("micro", "accuracy"), ("macro", "macro")):
        add(name, metrics, "pairs", (key, f"{key}_ci95"), (f"voting_{key}", f"voting_{key}_ci95"))
    lines = [*aligned(rows), ""]
    for name, key in (
        ("right in both orders", "both_orders_accuracy"),
        ("verdicts that flip with the order", "flip_rate"),
        ("position bias", "position_bias"),
        ("reasoning supports the verdict", "consistency"),
    ):
        if metrics[key] is not None:
            lines.append(f"{name}: {_share(metrics[key], metrics[f'{key}_ci95'])}")
    if metrics["mean_response_tokens"] is not None:
        lines.append(f"mean length: {metrics['mean_response_tokens']:.1f} tokens")
    if metrics.get("unparsable_reasons"):
        counts = ", ".join(f"{reason} {count:,}" for reason, count in metrics["unparsable_reasons"].items())
        mode = "" if metrics["lenient"] == "strict" else f", read with --lenient {metrics['lenient']}"
        lines.append(f"judgements that break the contract: {counts}, of {metrics['judgements']:,}{mode}")
    if metrics.get("cut_off"):
        lines.append(f"judgements cut off at the limit of tokens: {metrics['cut_off']:.2%}")
    if metrics["too_long"]:
        lines.append(f"prompts longer than the model takes, counted wrong: {metrics['too_long']:,}")
    if metrics["failed"]:
        lines.append(f"not judged yet, in none of these figures: {metrics['failed']:,}")
    return "\n".join(lines)


def summary_table(results: Mapping[str, Mapping[str, Any] | None], protocol: str = "strict") -> str:
    """Return the main figures of several benchmarks, a line each.

    Args:
        results: name of the run -> its metrics, None where nothing was judged.
        protocol: "reference" for the figures of the reference's protocol.
    """
    rows = [["", "cases", "accuracy", "macro", "acc+", "vote", "both orders", "unparsable", "not judged"]]
    for name, metrics in results.items():
        figures = (metrics or {}).get("reference") if protocol == "reference" else metrics
        of: Mapping[str, Any] = figures or {}
        shares = [_share(of.get(key)) for key in ("acc_plus", "voting_accuracy", "both_orders_accuracy", "unparsable")]
        accuracy = [_share(of.get(key), of.get(f"{key}_ci95")) for key in ("accuracy", "macro")]
        rows.append([name, f"{of.get('pairs', 0):,}", *accuracy, *shares, f"{of['failed']:,}" if of else "–"])
    return "\n".join(aligned(rows))


def comparison_table(compared: Mapping[str, Any]) -> str:
    """Return the figures of `compare` as lines of text."""
    rows = [["", "cases", "A", "B", "B - A, points", "95% interval", "only A", "only B", "p by id", "p McNemar"]]
    for name, one in [("all", compared["all"]), *compared["by_category"].items()]:
        if one["rows"]:
            low, high = one["ci95"]
            row = [name, f"{one['cases']:,}", f"{one['accuracy_a']:.1%}", f"{one['accuracy_b']:.1%}"]
            row += [f"{100 * one['difference']:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"]
            row += [f"{one['a_right']:,}", f"{one['b_right']:,}", p_text(one["p_by_id"]), p_text(one["p_mcnemar"])]
            rows.append(row)
    lines = [*aligned(rows), ""]
    for name, title in (("tokens", "tokens"), ("reasoning_characters", "characters of reasoning")):
        length = compared["all"][name]
        if length["change"] is not None:
            low, high = length["ci95"]
            lines.append(
                f"length in {title}: {length['a']:,.0f} -> {length['b']:,.0f}, {length['change']:+.1%} "
                f"(95% interval {low:+.1%} to {high:+.1%})"
            )
    lines.append(
        f"{compared['all']['rows']:,} shown cases that both judged; left out: {compared['only_a']:,} of A, "
        f"{compared['only_b']:,} of B"
    )
    return "\n".join(lines)


def _share(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "–"
    text = f"{100 * value:.2f}"
    return text if interval is None else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def p_text(value: float) -> str:
    """Return a p value as text."""
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"
