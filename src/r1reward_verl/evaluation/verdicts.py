"""The verdicts of a run in arrays: its folder is read once, one text at a time.

Words: a *case* is a row of a benchmark, two responses to one question. It is *shown* with the better response first
(label 1), second (label 2), or both ways in turn.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from r1reward_verl.evaluation.folder import ORDERS, SavedRun, read_run
from r1reward_verl.evaluation.reading import OF_WORDS, Reading, read_judgement
from r1reward_verl.judgement import Choice
from r1reward_verl.rewards.conclusions import conclusion

OK, FAILED, TOO_LONG = 0, 1, 2
"""Values of `Verdicts.status`."""

Digits = Literal["last", "first_line"]

_STATUS = {"ok": OK, "failed": FAILED, "too_long": TOO_LONG}


@dataclass(frozen=True)
class Cases:
    """The `id` and the `category` of each case."""

    id: Sequence[str]
    category: Sequence[str]


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Verdicts of a model on N shown cases, in arrays of one entry each.

    Raises:
        ValueError: arrays that do not fit together, values other than these, a case shown twice in one order.
    """

    case: NDArray[np.int32]  # index into `Cases`
    label: NDArray[np.int8]  # 1 where the better response was shown first, 2 where it was second
    greedy: NDArray[np.int8]  # verdict of the greedy judgement, 1 or 2; 0 if it has none
    sampled: NDArray[np.int8]  # (N, K) verdicts of the samples drawn for voting
    tokens: NDArray[np.int32]  # of the greedy judgement, -1 unknown
    reasoning: NDArray[np.int32]  # characters of its reasoning
    consistency: NDArray[np.int8]  # 1 if its reasoning supports its verdict, -1 if not, 0 unknown
    # `OK`, `FAILED` (there is no judgement, or not yet, or not all samples) or `TOO_LONG` (the prompt is longer than
    # the model takes)
    status: NDArray[np.int8]

    def __post_init__(self) -> None:
        count = len(self.case)
        for field in fields(self):
            shape = np.shape(getattr(self, field.name))
            if len(shape) != 1 + (field.name == "sampled") or shape[0] != count:
                raise ValueError(f"{field.name} has the shape {shape} for {count} shown cases")
        bounds = {"label": (1, 2), "greedy": (0, 2), "sampled": (0, 2), "consistency": (-1, 1), "status": (0, 2)}
        for name, (low, high) in bounds.items():
            values = getattr(self, name)
            bad = values[(values < low) | (values > high)]
            if len(bad):
                raise ValueError(f"{name} holds {bad[0]}; it must be from {low} to {high}")
        shown, times = np.unique(2 * np.asarray(self.case, np.int64) + self.label, return_counts=True)
        if (times > 1).any():
            code = int(shown[times > 1][0]) - 1
            raise ValueError(f"case {code // 2} appears more than once with label {code % 2 + 1}; it counts once")

    def __getitem__(self, which: Any) -> Verdicts:
        """Return the shown cases that an index or a mask selects."""
        return Verdicts(*(getattr(self, field.name)[which] for field in fields(self)))


@dataclass(frozen=True)
class JudgedRun:
    """A run folder with its verdicts."""

    saved: SavedRun  # the folder
    # of the shown cases. Those of which the greedy judgement or a sample failed or is missing are `FAILED`;
    # `run.json` says which there must be, without it the judgements of other cases do
    verdicts: Verdicts
    reference: Verdicts | None  # the verdicts as the reference reads them; None if they were not asked for
    cases: Cases  # of the run, in the order of `rows`
    reference_category: list[str]  # the category of each case by the reference's rules
    rows: NDArray[np.int64]  # their line numbers in the data
    content: list[bytes]  # a digest of each case
    judged: int  # number of judgements that there are
    cut_off: int  # number of those that the limit of tokens cut off
    # how many of the judgements break the contract for which reason (see `judgement.Failure`), a lenient reading of
    # them included
    unparsable: dict[str, int]


def load_run(
    folder: str | os.PathLike[str], *, reference: Digits | None = None, reading: Reading | None = None
) -> JudgedRun:
    """Read the verdicts of a run.

    Args:
        folder: of `r1reward eval run`.
        reading: of the judgements; None: as the run itself does.
        reference: how the reference's verdicts are read besides (see `reference_verdict`).

    Raises:
        ValueError: there is no such folder, or a file in it is damaged.
    """
    saved = read_run(folder)
    reading = reading or saved.reading
    ids, categories, reference_categories, rows, content = [], [], [], [], []
    for case in saved.cases():
        ids.append(case.id)
        categories.append(case.category)
        reference_categories.append(case.reference_category or case.category)
        rows.append(case.row)
        texts = json.dumps([case.id, case.question, case.chosen, case.rejected])
        content.append(hashlib.blake2b(texts.encode(), digest_size=16).digest())
    index = {row: place for place, row in enumerate(rows)}

    # One entry a judgement, in columns: a run can have millions.
    keys, samples, tokens, lengths, statuses = array("q"), array("i"), array("i"), array("i"), array("b")
    ways = 2 if reference else 1  # the strict verdict, and the reference's
    choices, supports = [array("b") for _ in range(ways)], [array("b") for _ in range(ways)]
    judged = cut_off = 0
    unparsable: Counter[str] = Counter()
    for one in saved.judgements():
        if one.row not in index:
            raise ValueError(f"row {one.row} is judged in {saved.folder}, but its cases.jsonl has no such case")
        status = _STATUS[one.status]
        verdict = read_judgement(one.text, reading)
        if status == OK:
            judged += 1
            cut_off += one.finish_reason == "length"
            if verdict.reason:
                unparsable[verdict.reason] += 1
        keys.append(2 * index[one.row] + ORDERS[one.order] - 1)
        samples.append(one.sample)
        tokens.append(-1 if one.tokens is None else one.tokens)
        lengths.append(len(verdict.think))
        statuses.append(status)
        concluded = conclusion(verdict.think) if one.sample == 0 and status == OK else None
        read = [verdict.choice]
        if reference:  # its reading is of numbers; what the other judges' own cannot read is wrong there, too
            theirs = verdict.choice or 2 if reading in OF_WORDS else reference_verdict(one.text, digits=reference)
            read.append(theirs)
        for way, choice in enumerate(read):
            choice = choice if status == OK else None
            choices[way].append(choice or 0)
            supports[way].append(0 if one.sample or choice is None else 1 if concluded == choice else -1)
    if not keys:
        raise ValueError(f"{saved.folder} holds no judgements: run `r1reward eval run` first")

    key, sample = np.array(keys), np.array(samples)
    shown = _all_showings(key, len(rows), saved.settings.get("order"))
    place = np.searchsorted(shown, key)
    table = np.full((len(shown), max(int(sample.max()), saved.settings.get("samples", 0)) + 1), FAILED, np.int8)
    table[place, sample] = statuses  # of repeated ones the last counts
    unfinished = (table == FAILED).any(axis=1)
    shown_status = np.where(table[:, 0] == TOO_LONG, TOO_LONG, np.where(unfinished, FAILED, OK)).astype(np.int8)

    def of_greedy(values: array[Any], dtype: Any) -> NDArray[Any]:
        column = np.zeros(len(shown), dtype)
        column[place[sample == 0]] = np.array(values)[sample == 0]
        return column

    def verdicts(way: int) -> Verdicts:
        voted = np.zeros_like(table)
        voted[place, sample] = choices[way]
        return Verdicts(
            case=(shown // 2).astype(np.int32),
            label=(shown % 2 + 1).astype(np.int8),
            greedy=voted[:, 0],
            sampled=voted[:, 1:],
            tokens=of_greedy(tokens, np.int32),
            reasoning=of_greedy(lengths, np.int32),
            consistency=of_greedy(supports[way], np.int8),
            status=shown_status,
        )

    return JudgedRun(
        saved=saved,
        verdicts=verdicts(0),
        reference=verdicts(1) if reference else None,
        cases=Cases(ids, categories),
        reference_category=reference_categories,
        rows=np.array(rows, np.int64),
        content=content,
        judged=judged,
        cut_off=cut_off,
        unparsable=dict(unparsable.most_common()),
    )


def _all_showings(keys: NDArray[np.int64], cases: int, order: str | None) -> NDArray[np.int64]:
    """Return the shown cases of a run (2 * case + label - 1), those without a judgement yet included.

    Of a case without any judgement one order is to come; both if `order` is "both", or, where it is unknown, if other
    cases were shown in both.
    """
    shown = np.unique(keys)
    orders = np.bincount(shown // 2, minlength=cases)
    lacking = 2 * np.flatnonzero(orders == 0)
    if order == "both" or (order is None and orders.max() > 1):
        lacking = np.arange(2 * cases)
    return np.union1d(shown, lacking)


def reference_verdict(text: str, *, digits: Literal["last", "first_line"] = "last") -> Choice:
    """Read a verdict as the reference's evaluation does, in linear time: 1, and 2 for everything else.

    The first answer block counts if there is one, and is 1 if Python reads the number 1 in it. Otherwise a digit 1 or 2
    of the text does. What cannot be read means 2, which is wrong, since the reference shows the better response first.
    Nearly `judgement.parse(text, lenient="last_digit")`, which does not read "1." or "01" as an answer.

    Args:
        text: of the judgement.
        digits: which digit counts: the last (VL-RewardBench, Multimodal RewardBench), or the last of the first line
            that has one (MM-RLHF-RewardBench, where a dot of the reference's pattern matches no line end).
    """
    block, closed, _ = text.partition("<answer>")[2].partition("</answer>")
    if closed:
        answer = block.strip()
    else:
        lines = text.split("\n") if digits == "first_line" else [text]
        answer = next((line[max(line.rfind("1"), line.rfind("2"))] for line in lines if "1" in line or "2" in line), "")
    try:
        return 1 if float(answer) == 1 else 2
    except ValueError:
        return 2
