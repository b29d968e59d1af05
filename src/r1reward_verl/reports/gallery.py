"""The gallery of an evaluation's report: judgements with their pictures, chosen by a rule that the page states.

Judgements are read once to learn what every case came to, and again for the texts of the cases that are shown, which
alone are kept in memory.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any, Literal

from tqdm import tqdm

from r1reward_verl.data.statistics import Lengths
from r1reward_verl.engines.base import GREEDY, Judgement
from r1reward_verl.evaluation.benchmarks import BENCHMARKS, Case
from r1reward_verl.evaluation.folder import ORDERS, SavedCase, SavedRun
from r1reward_verl.evaluation.reading import Reading, read_judgement
from r1reward_verl.evaluation.reflection import find_reflections
from r1reward_verl.reports.page import cut, render, small_pictures
from r1reward_verl.text import printable

Outcome = Literal["right", "wrong", "none"]
MarkedText = list[tuple[str, bool]]
"""A text in parts, and whether each is marked."""

TITLES = {"chosen-first": "Better response first", "rejected-first": "Worse response first"}
KINDS = ("wrong", "right", "flipped", "unparsable", "self-correcting")

_EXCERPTS = 6
_AROUND = 160  # characters of an excerpt before and after its turn


@dataclass
class GalleryIndex:
    """What the first pass over the judgements of a run keeps of them."""

    # row -> order -> what its greedy judgement came to
    outcomes: dict[int, dict[str, Outcome]] = field(default_factory=dict)
    correcting: set[int] = field(default_factory=set)  # rows of which a judgement, greedy or sampled, corrects itself
    lengths: Lengths = field(default_factory=Lengths)  # of the greedy judgements, in tokens
    judgements: int = 0  # number of judgements read, greedy ones and samples
    corrections: int = 0  # number of those that correct themselves
    # the first few of these: row, order, sample, and the text around the turn
    excerpts: list[tuple[int, str, int, MarkedText]] = field(default_factory=list)

    def kinds(self, row: int) -> tuple[str, ...]:
        """Return which of `KINDS` a case is."""
        outcomes = {*self.outcomes[row].values()}
        holds = {
            "wrong": "wrong" in outcomes,
            "right": outcomes == {"right"},
            "flipped": outcomes == {"right", "wrong"},
            "unparsable": "none" in outcomes,
            "self-correcting": row in self.correcting,
        }
        return tuple(kind for kind in KINDS if holds[kind])

    def failures(self, rows: Iterable[int]) -> int:
        """Return how many of the rows are not right."""
        return sum("right" not in self.kinds(row) for row in rows)


def index_judgements(run: SavedRun) -> GalleryIndex:
    """Read the judgements of a run for the first time.

    Raises:
        OSError, ValueError: as `SavedRun.judgements`.
    """
    index = GalleryIndex()
    for one in tqdm(run.judgements(), desc=run.folder.name, unit=" judgements", disable=None, leave=False):
        if one.status == "failed":
            continue
        text = one.text
        if one.sample == GREEDY:
            index.outcomes.setdefault(one.row, {})[one.order] = _outcome(one, run.reading)
            if one.tokens is not None:
                index.lengths.add(max(one.tokens, 0))
        index.judgements += 1
        if turns := find_reflections(text):
            index.corrections += 1
            index.correcting.add(one.row)
            if len(index.excerpts) < _EXCERPTS:
                start, end, _ = turns[0]
                before, after = text[max(0, start - _AROUND) : start], text[end : end + _AROUND]
                before = f"…{before}" if start > _AROUND else before
                after = f"{after}…" if end + _AROUND < len(text) else after
                parts = [(before, False), (text[start:end], True), (after, False)]
                index.excerpts.append((one.row, one.order, one.sample, parts))
    return index


def _outcome(one: Judgement, reading: Reading) -> Outcome:
    choice = read_judgement(one.text, reading).choice
    return "none" if choice is None else "right" if choice == ORDERS[one.order] else "wrong"


def choose_cases(index: GalleryIndex, count: int, seed: int = 0) -> list[int]:
    """Return at most `count` rows, in the order in which the page shows them and by the rule that it states."""
    rows = sorted(index.outcomes)
    random.Random(seed).shuffle(rows)
    queues: dict[str, list[int]] = {kind: [] for kind in ("flipped", "unparsable", "wrong", "self-correcting", "right")}
    for row in rows:
        kinds = index.kinds(row)
        queues[next(kind for kind in queues if kind in kinds)].append(row)
    failures = take_turns(queues["flipped"], queues["unparsable"], queues["wrong"])
    others = take_turns(queues["self-correcting"], queues["right"])
    if len(failures) > count:
        failures = failures[: count - min(count // 10, len(others))]
    return (failures + others)[:count]


def take_turns(*queues: Sequence[Any]) -> list[Any]:
    """Return the first of each queue, then the second of each, and so on."""
    return [one for turn in zip_longest(*queues) for one in turn if one is not None]


@dataclass
class GalleryCase:
    """One case of the gallery, as `case.html` shows it."""

    run: str  # name of its run
    case: SavedCase  # its line of `cases.jsonl`
    kinds: tuple[str, ...]  # which of `KINDS` it is
    reading: Reading  # of its judgements
    media: Sequence[str | bytes | None]  # its pictures and frames, "inline" where they are in the run's data file
    greedy: dict[str, Judgement] = field(default_factory=dict)  # order -> the greedy judgement
    votes: dict[str, Counter[Outcome]] = field(default_factory=dict)  # order -> the outcomes of its samples
    sample: Judgement | None = None  # the first sample that corrects itself

    @property
    def category(self) -> str:
        """The category as a name that stays the same in an attribute of the page and in a text."""
        return printable(self.case.category) or "no category"

    @property
    def pictures(self) -> list[tuple[str, bytes | str]] | None:
        """A few of its pictures (see `small_pictures`), None if they are gone."""
        if self.media == "inline":
            return None
        return small_pictures(self.media, 6, 360 if len(self.media) <= 2 else 160)

    @property
    def judgements(self) -> Iterator[dict[str, Any]]:
        """The greedy judgement of each order, with the votes of its samples."""
        for order in ORDERS:
            if order in self.greedy or order in self.votes:
                missing = Judgement(self.case.row, order, GREEDY, status="failed", error="not judged yet")
                one = self.greedy.get(order, missing)
                text = one.text if one.status == "ok" else ""
                yield {
                    "title": TITLES[order],
                    "status": one.status,
                    "outcome": _outcome(one, self.reading) if text else "none",
                    "verdict": read_judgement(one.text, self.reading),
                    "parts": marked(text),
                    "error": one.error,
                    "votes": self.votes.get(order),
                }

    @property
    def correction(self) -> dict[str, Any] | None:
        """The sample that corrects itself, where no greedy judgement does."""
        if self.sample is None or any(find_reflections(one.text) for one in self.greedy.values()):
            return None
        title = f"Sample {self.sample.sample}, {TITLES[self.sample.order].lower()}, corrects itself"
        return {"title": title, "parts": marked(self.sample.text)}


def marked(text: str) -> MarkedText:
    """Return a judgement, long ones without their middle, with the turns marked at which it corrects itself."""
    text, parts, end = cut(text), [], 0
    for start, stop, _ in find_reflections(text):
        parts += [(text[end:start], False), (text[start:stop], True)]
        end = stop
    return [*parts, (text[end:], False)] if text else []


def read_cases(name: str, run: SavedRun, rows: Sequence[int], index: GalleryIndex) -> list[GalleryCase]:
    """Read cases of a run, which has them, with their judgements.

    Raises:
        OSError, ValueError: as `SavedRun`.
    """
    wanted = {
        case.row: GalleryCase(name, case, index.kinds(case.row), run.reading, case.media)
        for case in run.cases()
        if case.row in rows
    }
    for judgement in run.judgements():
        if judgement.row not in wanted:
            continue
        one, order, text = wanted[judgement.row], judgement.order, judgement.text
        if judgement.sample == GREEDY:
            one.greedy[order] = judgement
        elif judgement.status != "failed":
            one.votes.setdefault(order, Counter())[_outcome(judgement, run.reading)] += 1
            if one.sample is None and find_reflections(text):
                one.sample = judgement
    return [wanted[row] for row in rows]


def find_inline_media(cases: Sequence[GalleryCase], benchmark: str, data: Any, media_root: Any) -> None:
    """Take media that are in the data file of a run from there; if the file is gone or has changed, they stay "inline".

    Args:
        cases: of one run.
        benchmark: that the run was made with.
        data: file or folder that the run was made with.
        media_root: that the run was made with.
    """
    left = {one.case.row: one for one in cases if one.media == "inline"}
    if not left or benchmark not in BENCHMARKS or not isinstance(data, str):
        return
    with suppress(OSError, ValueError):
        for case in BENCHMARKS[benchmark].read(data, media_root):
            if isinstance(case, Case) and case.row in left:
                one = left.pop(case.row)
                if (case.question, case.chosen) == (one.case.question, one.case.chosen):
                    one.media = [media.data or media.path for media in (*case.images, *(case.video or ()))]
            if not left:
                return


def make_gallery(cases: Iterable[GalleryCase], limit: int) -> dict[str, Any]:
    """Return the cases as HTML, and what the page needs to filter them.

    Args:
        cases: what to show, in this order.
        limit: largest number of characters of HTML; the first case that would exceed it ends the gallery.
    """
    used: list[GalleryCase] = []
    cards: list[str] = []
    size = 0
    for number, case in enumerate(cases, start=1):
        card = render("case.html", case=case, number=number)
        size += len(card)
        if size > limit:
            break
        used.append(case)
        cards.append(card)
    counts = Counter(chain.from_iterable(case.kinds for case in used))
    choices = [("category", sorted({case.category for case in used})), ("run", sorted({case.run for case in used}))]
    return {
        "cases": used,
        "cards": cards,
        "counts": {"all": len(used), **{kind: counts[kind] for kind in KINDS}},
        "choices": [(name, values) for name, values in choices if len(values) > 1],
    }
