"""`r1reward eval compare RUN_A RUN_B`: what changed between two runs on the same data, and what of it is chance.

Compared are the cases that both runs judged, in the orders in which both did. Right and wrong are those of the greedy
judgements, as in `scores`. Two tests of "both are equally good":

- McNemar's, over shown cases: of those that only one of the two got right, is each as likely to be A's as B's?
- the same over ids, since cases with one id, and the two orders of a case, are not independent: is the difference of
  each id as likely to be in favour of A as of B? Where every id is one shown case this is McNemar's test. This is the
  one to believe.

Both are exact (two-sided binomial; over ids the distribution of the sum under all changes of sign) while the
differences sum to at most 1,000, and normal approximations beyond (for McNemar: chi-squared with continuity
correction). Intervals are paired bootstraps over ids.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from r1reward_verl.evaluation.metrics import FAILED, OK, RESAMPLES, TOO_LONG, Cases, Judged, bootstrap_ci95, resampled
from r1reward_verl.judgement import parse
from r1reward_verl.rewards.conclusions import conclusion
from r1reward_verl.storage import write_json
from r1reward_verl.text import excerpt as quoted

RUN, CASES, JUDGEMENTS = "run.json", "cases.jsonl", "judgements.jsonl"
ORDERS = {"chosen-first": 1, "rejected-first": 2}
"""Order -> label."""

_SAMPLES = 10_000
_EXACT = 1_000  # greatest sum of differences for the exact test
_DRAWS = 100_000_000  # numbers drawn for the interval of a length, so that time stays bounded
_STATUS = {"ok": OK, "failed": FAILED, "too_long": TOO_LONG}
_CONTENT = ("id", "question", "chosen", "rejected")

Floats = NDArray[np.float64]


class Judgement(NamedTuple):
    """A line of the judgements: `text` of the case `case` (an index) shown with `label`; sample 0 is the greedy one.

    `tokens` is -1 where nobody said how many there are.
    """

    case: int
    label: int
    sample: int
    text: str
    tokens: int
    status: int


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        judged: verdicts of the shown cases. Those whose greedy judgement or some sample failed or is missing are
            `FAILED`, and which there must be `run.json` says; without it, what there is of others.
        cases: of the run, in the order of `rows`.
        rows: line numbers in the data.
        content: digests of what each case is.
        lost: lines of the judgements that could not be read: a run was killed while it wrote.
        judgements: yields them from the file, those that failed included; of repeated ones the last counts.
    """

    folder: str
    judged: Judged
    cases: Cases
    rows: NDArray[np.int64]
    content: list[bytes]
    lost: int
    judgements: Callable[[], Iterator[Judgement]]


def load_run(folder: str | os.PathLike[str], *, read: Callable[[str], int | None] | None = None) -> Run:
    """Read a run's folder; texts are read one at a time and not kept.

    Args:
        folder: of `r1reward eval run`.
        read: text -> 1, 2 or None; None for the tags alone.

    Raises:
        ValueError: no such folder, or a file in it is not what a run writes.
    """
    folder = Path(folder)
    order, drawn = _read_settings(folder / RUN)
    cases, rows, content = _read_cases(folder / CASES)
    index = {row: place for place, row in enumerate(rows)}
    lost = 0

    path = folder / JUDGEMENTS

    def judgements() -> Iterator[Judgement]:
        nonlocal lost
        lost = 0
        for number, line in _lines(path):
            if line is None:
                lost += 1
                continue
            try:
                one = Judgement(
                    case=index[line["row"]],
                    label=ORDERS[line["order"]],
                    sample=range(_SAMPLES).index(line["sample"]),
                    text=str(line.get("text") or ""),
                    tokens=-1 if (count := line.get("tokens")) is None else int(count),
                    status=_STATUS[line.get("status", "ok")],
                )
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: no judgement of a case of this run ({error!r})") from None
            yield one

    # One entry a judgement, in columns: a run can have millions.
    keys, samples, tokens, reasonings = array("q"), array("i"), array("i"), array("i")
    verdicts, statuses, consistencies = array("b"), array("b"), array("b")
    for one in judgements():
        verdict = parse(one.text)
        choice = (read(one.text) if read else verdict.choice) if one.status == OK else None
        supported = 0
        if one.sample == 0 and choice is not None:
            supported = 1 if conclusion(verdict.think) == choice else -1
        keys.append(2 * one.case + one.label - 1)
        samples.append(one.sample)
        tokens.append(one.tokens)
        reasonings.append(len(verdict.think))
        verdicts.append(choice or 0)
        statuses.append(one.status)
        consistencies.append(supported)
    if not keys:
        raise ValueError(f"{path} holds no judgements: run `r1reward eval run` first")

    key, numbers = np.array(keys), np.array(samples)
    shown = _shown(key, len(rows), order)
    place = np.searchsorted(shown, key)
    table = np.full((len(shown), max(int(numbers.max()), drawn) + 1), FAILED, np.int8)
    said = np.zeros_like(table)
    table[place, numbers], said[place, numbers] = statuses, verdicts  # of repeated ones the last counts
    unfinished = (table == FAILED).any(axis=1)
    status = np.where(table[:, 0] == TOO_LONG, TOO_LONG, np.where(unfinished, FAILED, OK))
    greedy = numbers == 0

    def of_greedy(values: array[Any]) -> NDArray[np.int64]:
        column = np.zeros(len(shown), np.int64)
        column[place[greedy]] = np.array(values)[greedy]
        return column

    judged = Judged(
        case=(shown // 2).astype(np.int32),
        label=(shown % 2 + 1).astype(np.int8),
        greedy=said[:, 0],
        sampled=said[:, 1:],
        tokens=of_greedy(tokens).astype(np.int32),
        reasoning=of_greedy(reasonings).astype(np.int32),
        consistency=of_greedy(consistencies).astype(np.int8),
        status=status.astype(np.int8),
    )

    return Run(os.fspath(folder), judged, cases, np.array(rows, np.int64), content, lost, judgements)


def _shown(keys: NDArray[np.int64], cases: int, order: str | None) -> NDArray[np.int64]:
    """Return what the run shows: what it has judgements of, and what it has not come to yet.

    Of a case without any judgement one order is to come; both if `order` says so, or, where it says nothing, other
    cases were shown in both.
    """
    shown = np.unique(keys)
    orders = np.bincount(shown // 2, minlength=cases)
    lacking = 2 * np.flatnonzero(orders == 0)
    if order == "both" or (order is None and orders.max() > 1):
        lacking = np.arange(2 * cases)
    return np.union1d(shown, lacking)


def _read_settings(path: Path) -> tuple[str | None, int]:
    """Return the order and the number of samples of a run, None and 0 where nobody says."""
    if not path.is_file():
        return None, 0
    try:
        settings = json.loads(path.read_bytes())["settings"]
        return settings.get("order"), range(_SAMPLES).index(settings.get("samples", 0))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not what `r1reward eval run` writes ({error!r})") from None


def _read_cases(path: Path) -> tuple[Cases, list[int], list[bytes]]:
    ids, categories, rows, content = [], [], [], []
    for number, line in _lines(path):
        try:
            if line is None:
                raise ValueError("cut off")
            ids.append(str(line["id"]))
            categories.append(str(line["category"]))
            rows.append(int(line["row"]))
            digest = hashlib.blake2b(json.dumps([line.get(name) for name in _CONTENT]).encode(), digest_size=16)
            content.append(digest.digest())
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: not a case ({error!r})") from None
    return Cases(ids, categories), rows, content


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield the objects of a JSON Lines file, None for a line that is none."""
    if not path.is_file():
        raise ValueError(f"{path} is not there: name the folder of a run of `r1reward eval run`")
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = json.loads(raw)
            except ValueError:
                line = None
            yield number, line if isinstance(line, dict) else None


def compare(
    first: Judged,
    second: Judged,
    cases: Cases,
    *,
    categories: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two sets of verdicts on the same cases (A and B); differences are B minus A.

    Args:
        first: verdicts of A.
        second: verdicts of B, on the same `cases`.
        cases: what both index into.
        categories: in the order of the table; None for those found, sorted.
        resamples: of the intervals; fewer of the intervals of lengths where there are more than 10,000 ids, at least
            1,000.
        seed: of the resampling.

    Returns:
        `only_a`, `only_b`: shown cases that only one of the two judged, and are left out;
        `all`, and `by_category`: name -> the same for its cases: `rows`, `cases`, `ids`, `accuracy_a`, `accuracy_b`,
        `difference` with `ci95`, `both_right`, `a_right` (only A), `b_right` (only B), `both_wrong`, `p_mcnemar`,
        `p_by_id`; and in `all` also `tokens` and `reasoning_characters` of the greedy judgements, each with the means
        `a` and `b`, `change` (B / A - 1) and its `ci95`. None where there is nothing to count.

    Raises:
        ValueError: no shown case that both judged.
    """
    first, second = first[first.status != FAILED], second[second.status != FAILED]
    keys = [2 * run.case.astype(np.int64) + run.label for run in (first, second)]
    common, in_first, in_second = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    if not len(common):
        raise ValueError(
            f"nothing to compare: A judged {len(keys[0])} shown cases and B {len(keys[1])}, and none is in both"
        )
    a, b = first[in_first], second[in_second]
    category = np.array(cases.category)[a.case]
    numbers: dict[str, int] = {}
    cluster = np.array([numbers.setdefault(name, len(numbers)) for name in cases.id], np.int64)[a.case]
    right_a, right_b = a.greedy == a.label, b.greedy == b.label

    def part(rows: NDArray[np.bool_]) -> dict[str, Any]:
        if not rows.any():
            return {"rows": 0}
        is_a, is_b, members = right_a[rows], right_b[rows], cluster[rows]
        change = is_b.astype(np.int64) - is_a
        by_id = np.bincount(members, change).astype(np.int64)
        return {
            "rows": int(rows.sum()),
            "cases": len(np.unique(a.case[rows])),
            "ids": len(np.unique(members)),
            "accuracy_a": float(is_a.mean()),
            "accuracy_b": float(is_b.mean()),
            "difference": float(change.mean()),
            "ci95": list(_difference_ci95(change, members, resamples, seed)),
            "both_right": int((is_a & is_b).sum()),
            "a_right": int((is_a & ~is_b).sum()),
            "b_right": int((~is_a & is_b).sum()),
            "both_wrong": int((~is_a & ~is_b).sum()),
            "p_mcnemar": sign_test(change),
            "p_by_id": sign_test(by_id),
        }

    everything = part(np.ones(len(common), bool))
    answered = (a.status == OK) & (b.status == OK)
    for name, lengths in (("tokens", (a.tokens, b.tokens)), ("reasoning_characters", (a.reasoning, b.reasoning))):
        known = answered & (lengths[0] >= 0) & (lengths[1] >= 0)
        pair = [length[known].astype(np.float64) for length in lengths]
        everything[name] = _length_change(pair[0], pair[1], cluster[known], resamples, seed)
    names = sorted(set(category.tolist())) if categories is None else categories
    return {
        "only_a": len(keys[0]) - len(common),
        "only_b": len(keys[1]) - len(common),
        "all": everything,
        "by_category": {name: part(category == name) for name in names},
    }


def sign_test(differences: NDArray[np.int64]) -> float:
    """Return the two-sided p value of "each difference is as likely to have the other sign".

    For differences of 1 and -1 this is McNemar's test. Differences of 0 play no part; without any other p is 1.

    Args:
        differences: (N,) whole numbers.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    total, observed = int((sizes * counts).sum()), abs(int(differences.sum()))
    if not observed:
        return 1.0
    if total > _EXACT:
        return math.erfc((observed - 1) / math.sqrt(2 * float((sizes.astype(np.float64) ** 2 * counts).sum())))
    # Distribution of the sum of those that are positive: of each size a binomial, stretched by the size.
    distribution = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        stretched = np.zeros(size * count + 1)
        stretched[::size] = [math.comb(count, k) / 2**count for k in range(count + 1)]
        distribution = np.convolve(distribution, stretched)
    return min(1.0, 2 * float(distribution[: (total - observed) // 2 + 1].sum()))


def _difference_ci95(
    change: NDArray[np.int64], cluster: NDArray[np.int64], resamples: int, seed: int
) -> tuple[float, float]:
    if not change.any():
        # No difference was seen at all, of which resampling can make none: what so many ids leave possible.
        high = bootstrap_ci95(np.zeros(len(change)), np.ones(len(change)), cluster)[1]
        return -high, high
    _, place = np.unique(cluster, return_inverse=True)
    table = np.column_stack([np.bincount(place, change), np.bincount(place)]).astype(np.float64)
    sums = resampled(table, resamples, seed)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return float(low), float(high)


def _length_change(
    lengths_a: Floats, lengths_b: Floats, cluster: NDArray[np.int64], resamples: int, seed: int
) -> dict[str, Any]:
    if not lengths_a.sum() > 0 or not lengths_b.sum() > 0:  # not every endpoint says how many tokens there were
        return {"a": None, "b": None, "change": None, "ci95": None}
    _, place = np.unique(cluster, return_inverse=True)
    table: Floats = np.column_stack([np.bincount(place, lengths_a), np.bincount(place, lengths_b)]).astype(np.float64)
    sums = resampled(table, min(resamples, max(1_000, _DRAWS // len(table))), seed)
    sums = sums[sums[:, 0] > 0]
    low, high = np.quantile(sums[:, 1] / sums[:, 0] - 1, [0.025, 0.975])
    return {
        "a": float(lengths_a.mean()),
        "b": float(lengths_b.mean()),
        "change": float(lengths_b.sum() / lengths_a.sum() - 1),
        "ci95": [float(low), float(high)],
    }


def compare_runs(first: Run, second: Run, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Compare two runs as `compare` does, by the rows of the data that both have.

    Raises:
        ValueError: the runs are not of the same data.
    """
    common, in_first, in_second = np.intersect1d(first.rows, second.rows, return_indices=True)
    differ = [
        (row, one, other)
        for row, one, other in zip(common, in_first, in_second, strict=True)
        if first.content[one] != second.content[other]
    ]
    if differ or not len(common):
        row, one, other = differ[0] if differ else (None, 0, 0)
        what = f"row {row} is one case in A and another in B" if differ else "no row is in both"
        raise ValueError(
            f"not runs of the same data ({what}; {len(differ)} of {len(common)} common rows differ):\n"
            + "\n".join(
                f"  {name}: {_describe(run, int(at))}" for name, run, at in (("A", first, one), ("B", second, other))
            )
        )
    cases = Cases([first.cases.id[at] for at in in_first], [first.cases.category[at] for at in in_first])
    compared = compare(_at(first, in_first), _at(second, in_second), cases, resamples=resamples, seed=seed)
    for name, run in (("only_a", first), ("only_b", second)):
        compared[name] = int((run.judged.status != FAILED).sum()) - compared["all"]["rows"]
    return compared


def _at(run: Run, kept: NDArray[np.int64]) -> Judged:
    """Return the verdicts on the kept cases, which are numbered by their place in `kept`."""
    place = np.full(len(run.rows), -1, np.int32)
    place[kept] = np.arange(len(kept))
    judged = run.judged[place[run.judged.case] >= 0]
    return Judged(**{**vars(judged), "case": place[judged.case]})


def _describe(run: Run, at: int) -> str:
    with open(Path(run.folder) / CASES, "rb") as file:
        line: dict[str, Any] = next((json.loads(raw) for place, raw in enumerate(file) if place == at), {})
    fields = ", ".join(f"{name} {quoted(line.get(name))}" for name in ("row", "id", "question"))
    return f"{run.folder} ({len(run.rows)} cases): {fields}"


def table(compared: dict[str, Any]) -> str:
    """Return what `compare` found as text for a screen."""
    header = ["", "cases", "A", "B", "B - A, points", "95% interval", "only A", "only B", "p by id", "p McNemar"]
    rows = [header]
    for name, one in [("all", compared["all"]), *compared["by_category"].items()]:
        if one["rows"]:
            low, high = one["ci95"]
            rows.append(
                [
                    *(name, f"{one['cases']:,}", f"{one['accuracy_a']:.1%}", f"{one['accuracy_b']:.1%}"),
                    *(f"{100 * one['difference']:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"),
                    *(f"{one['a_right']:,}", f"{one['b_right']:,}", _p(one["p_by_id"]), _p(one["p_mcnemar"])),
                ]
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines.append("")
    for name, title in (("tokens", "tokens"), ("reasoning_characters", "characters of reasoning")):
        length = compared["all"][name]
        if length["change"] is not None:
            low, high = length["ci95"]
            lines.append(
                f"length in {title}: {length['a']:,.0f} -> {length['b']:,.0f}, {length['change']:+.1%} "
                f"(95% interval {low:+.1%} to {high:+.1%})"
            )
    shown = compared["all"]["rows"]
    lines.append(
        f"{shown:,} shown cases that both judged; left out: {compared['only_a']:,} of A, {compared['only_b']:,} of B"
    )
    return "\n".join(lines)


def _p(value: float) -> str:
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two runs from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="r1reward eval compare",
        description="Compare two evaluation runs on the same data: paired tests, differences, lengths.",
    )
    parser.add_argument("run_a", metavar="RUN_A", help="folder of a run of `r1reward eval run`")
    parser.add_argument("run_b", metavar="RUN_B", help="folder of another run on the same data")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    options = parser.parse_args(argv)
    try:
        runs = [load_run(options.run_a), load_run(options.run_b)]
        compared = compare_runs(*runs)
        if options.json:
            write_json(Path(options.json), {"a": runs[0].folder, "b": runs[1].folder, **compared})
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, run in zip("AB", runs, strict=True):
        failed = int((run.judged.status == FAILED).sum())
        notes = [f"{failed:,} shown cases failed or unfinished"] * (failed > 0)
        notes += [f"{run.lost:,} unreadable lines dropped"] * (run.lost > 0)
        print(f"{name}: {run.folder}" + (f" ({'; '.join(notes)})" if notes else ""))
    print(f"\n{table(compared)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
