"""Which preferences go into which training set, by R1-Reward's rule (arXiv 2505.02835) unless told otherwise.

Pure: from arrays of what decides about each preference to row numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from r1reward_verl.data.rows import UNSOLVED
from r1reward_verl.settings import Settings, setting

Order = Literal["shuffle", "curriculum", "input"]

SETS = ("sft", "rl", "val")

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Difficulties:
    """A set of difficulties: attempts ("2"), a smallest number ("2+"), "unsolved", or "all" for every row."""

    words: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> Difficulties:
        """Read words that are separated by commas.

        Raises:
            ValueError: a word means no difficulty.
        """
        words = {word.strip() for word in text.split(",")}
        numbers = {word for word in words if re.fullmatch(r"[1-9][0-9]{0,3}\+?", word, re.ASCII)}
        if wrong := sorted(words - numbers - {UNSOLVED, "all"}):
            raise ValueError(
                f"{wrong[0]!r} is not a difficulty: give attempts (2), a smallest number (2+), {UNSOLVED} or all"
            )
        ordered = sorted(numbers, key=lambda word: ("+" in word, int(word.rstrip("+"))))
        return cls((*ordered, *sorted(words - numbers, reverse=True)))

    def __str__(self) -> str:
        return ",".join(self.words)

    def has(self, difficulty: int, solved: bool) -> bool:
        """Tell whether a preference with this number of attempts (0: not annotated) is in it."""
        if "all" in self.words or not difficulty:
            return "all" in self.words
        if not solved:
            return UNSOLVED in self.words
        least = [int(word[:-1]) for word in self.words if word.endswith("+")]
        return str(difficulty) in self.words or any(difficulty >= one for one in least)


class Rules(Settings, frozen=True, kw_only=True):
    """What goes into which set; the defaults are R1-Reward's. All draws depend on seed, source and id alone."""

    sft_difficulty: Annotated[
        Difficulties,
        setting(
            "Solved preferences for the cold start, by attempts, such as 1,2 or 2+.",
            metavar="LIST",
            parser=Difficulties.read,
        ),
    ] = Difficulties.read("all")
    rl_difficulty: Annotated[
        Difficulties,
        setting(
            "Preferences for RL: attempts, unsolved, or all for every row, annotated or not.",
            metavar="LIST",
            parser=Difficulties.read,
        ),
    ] = Difficulties.read("2+,unsolved")
    order: Annotated[
        Order,
        setting(
            "Order of the rows: shuffle by a hash of seed, source and id; curriculum from easy to hard, unsolved ones "
            "last; input as they were read."
        ),
    ] = "shuffle"
    sft_size: Annotated[
        int | None, setting("Largest number of rows for the cold start; 0 for no such file.", metavar="N", ge=0)
    ] = None
    rl_size: Annotated[int | None, setting("Largest number of rows for RL; 0 for no such file.", metavar="N", ge=0)] = (
        None
    )
    val: Annotated[
        int,
        setting(
            "Number of preferences held out, and written in both orders. Nothing with their pictures is trained on, so "
            "a few less may be found.",
            metavar="N",
            ge=0,
        ),
    ] = 0
    rl_balance: Annotated[
        Literal["swap", "both", "none"],
        setting(
            "Labels 1:1: swap the responses of few rows, within each category of each source; or write both orders of "
            "each, one after the other, so that half as many preferences fill the size."
        ),
    ] = "swap"
    sft_balance: Annotated[
        Literal["drop", "none"],
        setting("Drop rows for labels 1:1. Responses cannot be swapped here: the traces call them by number."),
    ] = "none"
    seed: Annotated[int, setting("Seed of all draws.")] = 0
    caps: dict[str, int] = msgspec.field(default_factory=dict)  # source -> most rows of it in either training set

    def __post_init__(self) -> None:
        super().__post_init__()
        if UNSOLVED in self.sft_difficulty.words:
            raise ValueError("the SFT set cannot have what no attempt solved: there is no trace to learn from")
        if wrong := [name for name, size in self.caps.items() if size < 0]:
            raise ValueError(f"the cap of {wrong[0]!r} is {self.caps[wrong[0]]}; a number from 0 on is needed")


@dataclass(frozen=True)
class Keys:
    """What decides about each preference: arrays of one value for each, in the order of reading.

    Attributes:
        difficulty: attempts made, 0 where no teacher was asked.
        solved: whether there is a trace.
        label: 1 or 2.
        source: index into the names of the sources.
        category: a number, the same of preferences of the same source and category.
        draws: (n, 3) independent draws of 64 bits by seed, source and id: for the order, for samples, for swaps.
        content: the same of preferences with the same question, responses (in any order) and media.
        group: preferences with equal values have media (without any: the question) in common.
        group_draw: a draw of 64 bits, the same within a group.
    """

    difficulty: np.ndarray
    solved: np.ndarray
    label: np.ndarray
    source: np.ndarray
    category: np.ndarray
    draws: np.ndarray
    content: np.ndarray
    group: np.ndarray
    group_draw: np.ndarray


@dataclass(frozen=True)
class Chosen:
    """The preferences of one set in the order of its file.

    Attributes:
        rows: their numbers.
        swapped: those whose responses are swapped in it.
        both_orders: whether it has each in both orders.
    """

    rows: Indices
    swapped: frozenset[int] = frozenset()
    both_orders: bool = False


def choose(keys: Keys, sources: Sequence[str], rules: Rules) -> dict[str, Chosen]:
    """Return the preferences of the sets `sft`, `rl` and `val`."""
    kept = without_repeats(keys)
    held_out = _held_out(keys, kept, rules.val)
    free = np.zeros(len(keys.label), bool)
    free[kept] = True
    free[held_out] = False
    chosen: dict[str, Chosen] = {
        "val": Chosen(_ordered(held_out, keys, rules.order, curriculum=False), both_orders=True)
    }

    solved = np.flatnonzero(free & keys.solved)
    rows = _capped(solved[_has(rules.sft_difficulty, keys, solved)], keys, sources, rules.caps)
    if rules.sft_balance == "drop":
        halves = [_sample(rows[keys.label[rows] == label], keys, None) for label in (1, 2)]
        most = min(map(len, halves))
        # An odd size has one row more of the label 1.
        sizes = (most, most) if rules.sft_size is None else ((rules.sft_size + 1) // 2, rules.sft_size // 2)
        rows = np.concatenate([half[: min(size, most)] for half, size in zip(halves, sizes, strict=True)])
    chosen["sft"] = Chosen(_ordered(_sample(rows, keys, rules.sft_size), keys, rules.order))

    rows = np.flatnonzero(free)
    rows = _capped(rows[_has(rules.rl_difficulty, keys, rows)], keys, sources, rules.caps)
    both = rules.rl_balance == "both"
    size = rules.rl_size // 2 if both and rules.rl_size is not None else rules.rl_size
    rows = _ordered(_sample(rows, keys, size), keys, rules.order)
    chosen["rl"] = Chosen(rows, _swaps(rows, keys) if rules.rl_balance == "swap" else frozenset(), both)
    return {name: chosen[name] for name in SETS}


def without_repeats(keys: Keys) -> Indices:
    """Return one preference of each content: a solved one, else an annotated one, else the first by its draw."""
    order = np.lexsort((keys.draws[:, 1], keys.difficulty == 0, ~keys.solved))
    return np.sort(order[np.unique(keys.content[order], return_index=True)[1]])


def _has(difficulties: Difficulties, keys: Keys, rows: Indices) -> np.ndarray:
    pairs = zip(keys.difficulty[rows].tolist(), keys.solved[rows].tolist(), strict=True)
    return np.fromiter((difficulties.has(*pair) for pair in pairs), bool, len(rows))


def _sample(rows: Indices, keys: Keys, size: int | None) -> Indices:
    return rows[np.argsort(keys.draws[rows, 1], kind="stable")][:size]


def _capped(rows: Indices, keys: Keys, sources: Sequence[str], caps: Mapping[str, int]) -> Indices:
    pieces = [rows[keys.source[rows] == index] for index in range(len(sources))]
    return np.concatenate([_sample(piece, keys, caps.get(name)) for piece, name in zip(pieces, sources, strict=True)])


def _ordered(rows: Indices, keys: Keys, order: Order, curriculum: bool = True) -> Indices:
    if order == "input":
        return np.sort(rows)
    rows = rows[np.argsort(keys.draws[rows, 0], kind="stable")]
    if order == "curriculum" and curriculum:
        difficulty = keys.difficulty[rows].astype(np.int64)
        rank = np.where(difficulty == 0, 1 << 15, np.where(keys.solved[rows], difficulty, 1 << 16))
        rows = rows[np.argsort(rank, kind="stable")]
    return rows


def _swaps(rows: Indices, keys: Keys) -> frozenset[int]:
    """Return the rows to swap so that labels are 1:1 within each category, and in all.

    What is hard often is so in one order only: a teacher that takes the first response where it does not see a
    difference is wrong where the second is better. Were labels 1:1 in all alone, a policy would learn to tell the
    label by the category.
    """
    rows = rows[np.lexsort((keys.draws[rows, 2], keys.category[rows]))]
    swapped: list[int] = []
    excess = 0  # of the label 1, in the categories before
    for mine in np.split(rows, np.flatnonzero(np.diff(keys.category[rows])) + 1):
        surplus = len(mine) - 2 * int((keys.label[mine] == 2).sum())
        left = surplus % 2 * (-excess or (1 if surplus > 0 else -1))  # an odd row evens out that of another category
        excess += left
        change = surplus - left
        swapped += mine[keys.label[mine] == (1 if change > 0 else 2)][: abs(change) // 2].tolist()
    return frozenset(swapped)


def _held_out(keys: Keys, rows: Indices, size: int) -> Indices:
    """Return whole groups in the order of their draws, as long as they fit."""
    if not size:
        return np.empty(0, np.int64)
    order = rows[np.lexsort((keys.group[rows], keys.group_draw[rows]))]
    starts = np.flatnonzero(np.diff(keys.group[order], prepend=-1))
    taken: list[Indices] = []
    left = size
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        if end - start <= left:
            taken.append(order[start:end])
            left -= end - start
            if not left:
                break
    return np.concatenate(taken) if taken else np.empty(0, np.int64)
