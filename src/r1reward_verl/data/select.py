"""`r1reward data select PREFERENCES... OUT_DIR`: from annotated preferences to the files that verl trains on.

OUT_DIR/sft.parquet    what the teacher solved, with its trace, for verl's SFT trainer
OUT_DIR/rl.parquet     what was hard, for `main_ppo`: solved at a later attempt than the first, or never
OUT_DIR/val.parquet    with --val: held-out preferences in both orders, for validation in `main_ppo`
OUT_DIR/held_out.parquet  the same as preferences, for `r1reward eval run preferences`
OUT_DIR/card.json      what stands in them, and what became of every row that was read; card.png shows it
OUT_DIR/rejects.jsonl  each bad row with its file, line and reason; absent if there is none

The default is R1-Reward's rule (arXiv 2505.02835). OUT_DIR appears when all of it is written; where the run ends with
an error the rejects are OUT_DIR.rejects.jsonl. In memory is of each row what decides about it, some hundred bytes; its
texts wait in a file beside OUT_DIR.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np

from r1reward_verl.data.duplicates import Seen, digest
from r1reward_verl.data.export import MEDIA_POSITIONS, MediaPosition, rl_row, rl_schema, sft_row, sft_schema, swap
from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.preference import Preference, from_row, to_row
from r1reward_verl.data.readers import RowError
from r1reward_verl.data.rows import NONE, UNSOLVED, difficulty_of
from r1reward_verl.data.statistics import Statistics, ordered, uneven
from r1reward_verl.data.statistics_plots import plot
from r1reward_verl.judgement import PROMPT, load_template, parse
from r1reward_verl.media import Media, check_picture
from r1reward_verl.storage import ParquetOutput, Rejects, replaced_folder, write_json
from r1reward_verl.text import excerpt

Order = Literal["shuffle", "curriculum", "input"]
ORDERS: tuple[str, ...] = get_args(Order)

_WRITTEN_BY = "r1reward data select"
_SETS = ("sft", "rl", "val")
_FILES = {*(f"{name}.parquet" for name in (*_SETS, "held_out")), "card.json", "card.png", "rejects.jsonl"}
_FRAME = re.compile(r"\.(?:jpe?g|png|gif|webp|bmp|tiff?)$", re.IGNORECASE)

Indices = np.ndarray[Any, np.dtype[np.int64]]


class SelectionError(RuntimeError):
    """Nothing was written, and the message says why and the way out."""


@dataclass(frozen=True)
class Difficulties:
    """A set of difficulties: "2,3,unsolved", or "2+,unsolved" for two or more attempts.

    Attributes:
        attempts: that were made until one agreed with the label.
        least: so many attempts, or more; None for none of these.
        unsolved: whether those that no attempt solved are in it.
        everything: whether all are in it, annotated or not.
    """

    attempts: frozenset[int] = frozenset()
    least: int | None = None
    unsolved: bool = False
    everything: bool = False

    @classmethod
    def read(cls, text: str) -> Difficulties:
        """Read numbers, `N+`, `unsolved` and `all`, separated by commas.

        Raises:
            ValueError: anything else.
        """
        words = {word.strip() for word in text.split(",")}
        numbers = {word for word in words if re.fullmatch(r"[1-9][0-9]{0,3}\+?", word, re.ASCII)}
        if wrong := sorted(words - numbers - {UNSOLVED, "all"}):
            raise ValueError(
                f"{wrong[0]!r} is no difficulty: give attempts (2), so many or more (2+), {UNSOLVED} or all"
            )
        return cls(
            frozenset(int(word) for word in numbers if word.isdecimal()),
            min((int(word[:-1]) for word in numbers if not word.isdecimal()), default=None),
            UNSOLVED in words,
            "all" in words,
        )

    def __str__(self) -> str:
        words = [*map(str, sorted(self.attempts)), *([] if self.least is None else [f"{self.least}+"])]
        return ",".join([*words, *([UNSOLVED] * self.unsolved), *(["all"] * self.everything)])

    def has(self, difficulty: int, solved: bool) -> bool:
        """Tell whether a preference with so many attempts (0: not annotated) is in it."""
        if self.everything or not difficulty:
            return self.everything
        if not solved:
            return self.unsolved
        return difficulty in self.attempts or (self.least is not None and difficulty >= self.least)


@dataclass(frozen=True)
class Rules:
    """What `select` puts where.

    Attributes:
        sft_difficulty: which of the solved preferences are for the cold start.
        rl_difficulty: which preferences are for RL.
        order: "shuffle" by a hash of seed, source and id, so that one row more leaves the others in their order;
            "curriculum" from easy to hard, shuffled within a difficulty, unsolved ones last and those nobody
            annotated before them; "input" as they were read. Held-out pairs are shuffled, unless by "input".
        caps: source -> at most so many rows of it in either training set.
        sft_size, rl_size: at most so many rows; 0 for no such file, None for all.
        val: preferences held out, with everything that has a picture in common with them (without media: the
            question). They are never divided, so a few less may be found.
        rl_balance: "swap" makes the labels 1:1 by swapping the responses of as few rows as possible.
        sft_balance: "drop" makes the labels 1:1 by leaving out rows of the more frequent one. Responses cannot be
            swapped there, since the traces call them by number.
        seed: of all draws, which depend on seed, source and id alone.

    Raises:
        ValueError: a value that is none of these.
    """

    sft_difficulty: Difficulties = Difficulties(everything=True)
    rl_difficulty: Difficulties = Difficulties(least=2, unsolved=True)
    order: Order = "shuffle"
    caps: Mapping[str, int] = field(default_factory=dict)
    sft_size: int | None = None
    rl_size: int | None = None
    val: int = 0
    rl_balance: Literal["swap", "none"] = "swap"
    sft_balance: Literal["drop", "none"] = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sft_difficulty.unsolved:
            raise ValueError("the SFT set cannot have what no attempt solved: there is no trace to learn from")
        if self.order not in ORDERS:
            raise ValueError(f"order {self.order!r} is none of {', '.join(ORDERS)}")
        sizes = {"the size of the SFT set": self.sft_size, "the size of the RL set": self.rl_size}
        sizes |= {"the held-out set": self.val, **{f"the cap of {name!r}": cap for name, cap in self.caps.items()}}
        for name, size in sizes.items():
            if size is not None and size < 0:
                raise ValueError(f"{name} is {size}; a number from 0 on is needed")
        if self.rl_balance not in ("swap", "none") or self.sft_balance not in ("drop", "none"):
            raise ValueError(
                f"balance {self.rl_balance!r} (RL), {self.sft_balance!r} (SFT): swap or none, drop or none"
            )


@dataclass(frozen=True)
class Keys:
    """What decides about each preference: arrays of one value for each, in the order of reading.

    Attributes:
        difficulty: attempts made, 0 where no teacher was asked.
        solved: whether there is a trace.
        label: 1 or 2.
        source: index into the names of the sources.
        draws: (n, 3) independent draws of 64 bits by seed, source and id: for the order, for samples, for swaps.
        group: preferences with equal values have media (without any: the question) in common.
        group_draw: a draw of 64 bits, the same within a group.
    """

    difficulty: np.ndarray
    solved: np.ndarray
    label: np.ndarray
    source: np.ndarray
    draws: np.ndarray
    group: np.ndarray
    group_draw: np.ndarray


@dataclass(frozen=True)
class Chosen:
    """The preferences of one set in the order of its file, and those whose responses are swapped in it."""

    rows: Indices
    swapped: frozenset[int] = frozenset()


def choose(keys: Keys, sources: Sequence[str], rules: Rules) -> dict[str, Chosen]:
    """Return the preferences of the sets `sft`, `rl` and `val`."""
    held_out = _held_out(keys, rules.val)
    free = np.ones(len(keys.label), bool)
    free[held_out] = False
    chosen: dict[str, Chosen] = {"val": Chosen(_ordered(held_out, keys, rules.order, curriculum=False))}

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
    rows = _ordered(_sample(rows, keys, rules.rl_size), keys, rules.order)
    chosen["rl"] = Chosen(rows, _swaps(rows, keys) if rules.rl_balance == "swap" else frozenset())
    return {name: chosen[name] for name in _SETS}


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
    first, second = (rows[keys.label[rows] == label] for label in (1, 2))
    many, few = (first, second) if len(first) > len(second) else (second, first)
    drawn = many[np.argsort(keys.draws[many, 2], kind="stable")]
    return frozenset(drawn[: (len(many) - len(few)) // 2].tolist())


def _held_out(keys: Keys, size: int) -> Indices:
    """Return whole groups in the order of their draws, as long as they fit."""
    if not size:
        return np.empty(0, np.int64)
    order = np.lexsort((keys.group, keys.group_draw))
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


class _Spool:
    """Preferences on the disk, to be read again in another order."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("w+b")
        self._end = 0
        self._offsets = array("Q")

    def add(self, preference: Preference) -> None:
        row = to_row(preference)
        line = (
            json.dumps(row, ensure_ascii=False, default=lambda data: base64.b64encode(data).decode()).encode() + b"\n"
        )
        self._offsets.append(self._end)
        self._end += self._file.write(line)

    def get(self, index: int) -> Preference:
        self._file.seek(self._offsets[index])
        row = json.loads(self._file.readline())
        for media in (*row["images"], *(row["video"] or ())):
            if media["bytes"] is not None:
                media["bytes"] = base64.b64decode(media["bytes"])
        return from_row(row)

    def close(self) -> None:
        self._file.close()


class _Reading:
    """All that is known after the input has been read once.

    Args:
        spool: where the preferences go.
        inputs: names of the files.
        rules: of the selection.
        inline: whether pictures are to be embedded, which have to be there then.
    """

    def __init__(self, spool: _Spool, inputs: Sequence[str], rules: Rules, inline: bool) -> None:
        self.spool = spool
        self.inputs = inputs
        self.rules = rules
        self.inline = inline
        self.rows: Counter[str] = Counter()
        self.lost_files: list[str] = []
        self.sources: dict[str, int] = {}
        self.difficulties: Counter[str] = Counter()
        self.media: Counter[str] = Counter()
        self._ids = Seen()
        self._columns = {name: array(code) for name, code in zip(_COLUMNS, "hbbIQQQQq", strict=True)}
        self._groups: dict[int, int] = {}
        self._checked = lru_cache(maxsize=4096)(check_picture)

    def add(self, file: int, number: int, preference: Preference) -> None:
        """Take a preference.

        Raises:
            ValueError: it cannot be used.
        """
        self._check(preference)
        first = self._ids.first(digest(preference.source, preference.id), file << 40 | number)
        if first is not None:
            where = f"{self.inputs[first >> 40]}:{first & (1 << 40) - 1}"
            raise ValueError(
                f"id {excerpt(preference.id)} of source {excerpt(preference.source)} stands already in {where}"
            )
        self.spool.add(preference)
        self.difficulties[difficulty_of(preference)] += 1
        media = (*preference.images, *(preference.video or ()))
        forms = {"paths" if one.data is None else "bytes" for one in media}
        self.media["both" if len(forms) > 1 else next(iter(forms), "none")] += 1
        seed = str(self.rules.seed)
        drawn = hashlib.blake2b("\0".join((seed, preference.source, preference.id)).encode(), digest_size=24)
        values = (
            preference.difficulty or 0,
            preference.trace is not None,
            preference.label,
            self.sources.setdefault(preference.source, len(self.sources)),
            *struct.unpack("<3Q", drawn.digest()),
            *(self._grouped(preference) if self.rules.val else (0, 0)),
        )
        for name, value in zip(_COLUMNS, values, strict=True):
            self._columns[name].append(value)

    def _check(self, preference: Preference) -> None:
        if preference.trace is not None:
            verdict = parse(preference.trace)
            if verdict.reason is not None:
                raise ValueError(f"the trace is no judgement ({verdict.reason}): {excerpt(preference.trace[-200:])}")
            if verdict.choice != preference.label:
                raise ValueError(f"the trace says {verdict.choice}, the label {preference.label}")
        video = preference.video or ()
        for media in (*preference.images, *video):
            if media.path is not None and not os.path.isabs(media.path):
                raise ValueError(
                    f"the media path {excerpt(media.path)} is relative, and verl would look for it wherever it runs: "
                    "`r1reward data convert --media ROOT` makes paths absolute"
                )
        if len(video) == 1 and video[0].path is not None and not _FRAME.search(video[0].path):
            raise ValueError(
                f"the video {excerpt(video[0].path)} is not cut into frames: convert it without --no-check-media"
            )
        if self.inline:
            for media in (*preference.images, *video):
                if media.path is not None and media.sha256 not in (None, self._checked(media.path)):
                    raise ValueError(f"{excerpt(media.path)} is not the file any more whose sha256 stands in the row")

    def _grouped(self, preference: Preference) -> tuple[int, int]:
        """Return a draw, and the number of the first preference that has something in common with this one."""
        own = len(self._columns["group"])
        names = list(_identities(preference))
        identities = [int.from_bytes(digest(str(self.rules.seed), name)[:8], "little") for name in names]
        roots = {_root(self._columns["group"], self._groups[one]) for one in identities if one in self._groups}
        root = min(roots, default=own)
        for other in roots:
            self._columns["group"][other] = root
        for one in identities:
            self._groups[one] = root
        # By contents where they are known: files may be moved.
        draws = [one for one, name in zip(identities, names, strict=True) if not name.startswith("path ")]
        return min(draws or identities), root

    def keys(self) -> Keys:
        """Return what decides about the preferences."""
        group = self._columns["group"]
        roots = np.fromiter((_root(group, index) for index in range(len(group))), np.int64, len(group))
        columns = {name: np.frombuffer(column, column.typecode) for name, column in self._columns.items()}
        group_draw = columns["group_draw"].copy()
        np.minimum.at(group_draw, roots, columns["group_draw"])
        return Keys(
            columns["difficulty"],
            columns["solved"].astype(bool),
            columns["label"],
            columns["source"],
            np.stack([columns[f"draw_{index}"] for index in range(3)], axis=1),
            roots,
            group_draw[roots],
        )


_COLUMNS = ("difficulty", "solved", "label", "source", "draw_0", "draw_1", "draw_2", "group_draw", "group")


def _root(parents: array[int], index: int) -> int:
    while index < len(parents) and parents[index] != index:
        index = parents[index]
    return index


def _identities(preference: Preference) -> Iterator[str]:
    """Yield names of what a preference must not have in common with a held-out one."""
    for media in preference.images:
        yield from _names(media)
    if preference.video is not None:
        # The first and the last frame are there however many were sampled. One alone may be black.
        ends = zip(_names(preference.video[0]), _names(preference.video[-1]), strict=False)
        yield from (f"{first} {last}" for first, last in ends)
    if not preference.images and preference.video is None:
        yield "question " + " ".join(preference.question.casefold().split())


def _names(media: Media) -> list[str]:
    sha256 = media.sha256 if media.data is None else hashlib.sha256(media.data).hexdigest()
    names = [] if sha256 is None else [f"content {sha256}"]
    return names if media.path is None else [*names, f"path {media.path}"]


def select(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    rules: Rules | None = None,
    *,
    template: str = PROMPT,
    media_position: MediaPosition = "before",
    inline: bool = False,
    max_rejects: float = 0.05,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Write the training files of a folder, all or none.

    Args:
        inputs: files of preferences, as `read_preferences` reads them.
        out: folder to make; one that an earlier run made is replaced at the end.
        rules: what goes where; None for R1-Reward's.
        template: prompt with `{question}`, `{response_1}` and `{response_2}`.
        media_position: pictures before or after the text.
        inline: embed the pictures. Those that are data in the input are so in any case.
        max_rejects: greatest share of rows that may be rejected.
        progress: whether to show bars; None for on terminals only.

    Returns:
        The content of card.json.

    Raises:
        ValueError, FileNotFoundError: an argument cannot be used; nothing has been written.
        SelectionError: more rows were rejected, a file's rest is lost, or a set would be empty.
        OSError: the disk is full, for example. In the last two cases `out` is as it was before.
    """
    from r1reward_verl.data.preference import SCHEMA

    folder = Path(os.path.realpath(out))
    names = [os.fspath(path) for path in inputs]
    rules = rules or Rules()
    _check_arguments(names, folder, media_position, max_rejects)
    readers = [read_preferences(path) for path in names]
    rejects = folder.with_name(f"{folder.name}.rejects.jsonl")
    rejects.unlink(missing_ok=True)
    with (
        replaced_folder(folder) as partial,
        _kept(partial / "rejects.jsonl", rejects),
        ExitStack() as stack,
    ):
        spool = stack.enter_context(closing(_Spool(partial / "spool")))
        reading = _Reading(spool, names, rules, inline)
        _read(reading, readers, partial / "rejects.jsonl", progress)
        _check_read(reading, max_rejects, rejects)
        inline = inline or reading.media["bytes"] > 0
        keys = reading.keys()
        chosen = choose(keys, list(reading.sources), rules)
        notes = _check_chosen(reading, keys, chosen)
        statistics, swapped = {}, {"rl": {"swapped": len(chosen["rl"].swapped)}}
        row_arguments = {"template": template, "media_position": media_position}
        for name, one in chosen.items():
            if len(one.rows):
                output = ParquetOutput(
                    partial / f"{name}.parquet", (sft_schema if name == "sft" else rl_schema)(inline)
                )
                stack.callback(output.discard)
                statistics[name] = _write(name, one, spool, output, inline, row_arguments, progress)
        if len(chosen["val"].rows):
            output = ParquetOutput(partial / "held_out.parquet", SCHEMA)
            stack.callback(output.discard)
            for row in chosen["val"].rows.tolist():
                output.add(to_row(spool.get(row)))
            output.finish()
            output.commit()
        (partial / "spool").unlink()
        card = {
            "written_by": _WRITTEN_BY,
            "inputs": names,
            "settings": {
                **vars(rules),
                "sft_difficulty": str(rules.sft_difficulty),
                "rl_difficulty": str(rules.rl_difficulty),
                "media_position": media_position,
                "inline": inline,
                "max_rejects": max_rejects,
                "template": template,
            },
            "rows": {"read": reading.rows["read"], "rejected": reading.rows["rejected"]},
            "difficulty": {name: reading.difficulties[name] for name in ordered(reading.difficulties)},
            "notes": [*notes, *_uneven(statistics)],
            "sets": {name: one.card() | swapped.get(name, {}) for name, one in statistics.items()},
        }
        write_json(partial / "card.json", card)
        plot(statistics, partial / "card.png")
    return card


@contextmanager
def _kept(file: Path, place: Path) -> Iterator[None]:
    """Move a file to a place where it stays if the block ends with an error."""
    try:
        yield
    except BaseException:
        if file.exists():
            file.replace(place)
        raise


def _check_arguments(inputs: Sequence[str], out: Path, media_position: str, max_rejects: float) -> None:
    if not inputs:
        raise ValueError("there is no input file")
    real = [os.path.realpath(path) for path in inputs]
    if twice := [path for path, times in Counter(real).items() if times > 1]:
        raise ValueError(f"the input {twice[0]!r} is given twice")
    if out.exists() and not out.is_dir():
        raise ValueError(f"the output {str(out)!r} is a file; a folder is written")
    found = sorted(os.listdir(out)) if out.is_dir() else []
    if found and not _is_ours(out, found):
        foreign = next((name for name in found if name not in _FILES), found[0])
        raise ValueError(
            f"the folder {str(out)!r} holds {foreign!r}, and only what an earlier run wrote is replaced: name another"
        )
    if media_position not in MEDIA_POSITIONS:
        raise ValueError(f"media position {media_position!r} is none of {', '.join(MEDIA_POSITIONS)}")
    if not 0 <= max_rejects <= 1:
        raise ValueError(f"the greatest share of rejects is {max_rejects}, not between 0 and 1")


def _is_ours(folder: Path, found: Sequence[str]) -> bool:
    if not _FILES.issuperset(found) or "card.json" not in found:
        return False
    try:
        card = json.loads((folder / "card.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(card, dict) and card.get("written_by") == _WRITTEN_BY


def _read(reading: _Reading, readers: Sequence[Iterator[Any]], rejects_path: Path, progress: bool | None) -> None:
    from tqdm import tqdm

    hidden = None if progress is None else not progress
    with (
        closing(Rejects(rejects_path)) as rejects,
        tqdm(total=_count_rows(reading.inputs), desc="reading", unit="row", disable=hidden) as bar,
    ):
        for file, reader in enumerate(readers):
            for item in reader:
                number, rows, raw, reason = _taken(reading, file, item)
                bar.update(rows)
                reading.rows["read"] += rows
                if reason is not None:
                    reading.rows["rejected"] += rows
                    rejects.add(reading.inputs[file], number, reason, raw)


def _taken(reading: _Reading, file: int, item: tuple[int, Preference] | RowError) -> tuple[int, int, Any, str | None]:
    """Hand a row to the reading, and return its number, how many rows it stands for, itself and what is wrong."""
    if isinstance(item, RowError):
        if item.rows is None:
            reading.lost_files.append(f"{reading.inputs[file]}:{item.number}")
        return item.number, item.rows or 1, item.raw, item.reason
    number, preference = item
    try:
        reading.add(file, number, preference)
    except ValueError as error:
        return number, 1, to_row(preference), str(error)
    return number, 1, None, None


def _count_rows(inputs: Sequence[str]) -> int | None:
    """Return how many rows the files have, where that is known without reading them."""
    from pyarrow import ArrowException, parquet

    try:
        return sum(parquet.read_metadata(path).num_rows for path in inputs)
    except (ArrowException, OSError):
        return None


def _check_read(reading: _Reading, max_rejects: float, rejects: Path) -> None:
    read, rejected = reading.rows["read"], reading.rows["rejected"]
    if reading.lost_files:
        raise SelectionError(f"cannot be read to the end: {', '.join(reading.lost_files)} (see {rejects})")
    if rejected > max_rejects * read:
        raise SelectionError(
            f"{rejected:,} of {read:,} rows were rejected, more than {max_rejects:.1%}: see {rejects}, and raise "
            "--max-rejects if the rest is what you want"
        )
    if read == rejected:
        raise SelectionError(f"there is no preference in {', '.join(reading.inputs)}")
    if unknown := sorted(set(reading.rules.caps) - set(reading.sources)):
        raise SelectionError(f"--cap {unknown[0]}: there is no such source, but {', '.join(sorted(reading.sources))}")
    media = reading.media
    if not reading.inline and (media["both"] or (media["bytes"] and media["paths"])):
        raise SelectionError(
            f"{media['bytes'] + media['both']:,} preferences hold pictures themselves, {media['paths']:,} name files, "
            "and verl reads no file with both: add --inline to embed all"
        )


def _check_chosen(reading: _Reading, keys: Keys, chosen: Mapping[str, Chosen]) -> list[str]:
    """Return what the user should know, and raise where a set is empty that should not be."""
    rules = reading.rules
    sizes = {name: len(one.rows) for name, one in chosen.items()}
    there_are = ", ".join(f"{name}: {reading.difficulties[name]:,}" for name in ordered(reading.difficulties))
    unannotated = reading.difficulties[NONE]
    annotated = bool(keys.solved.any()) or unannotated < len(keys.label)
    notes = []
    if not annotated and not rules.rl_difficulty.everything:
        raise SelectionError(
            f"none of {len(keys.label):,} preferences is annotated: run `r1reward data annotate` first, or take every "
            "row for RL with --rl-difficulty all"
        )
    if rules.val and not sizes["val"]:
        raise SelectionError(
            f"no {rules.val:,} preferences can be held out: more than that have one picture in common. Raise --val"
        )
    options = {"sft": (rules.sft_size, rules.sft_difficulty), "rl": (rules.rl_size, rules.rl_difficulty)}
    for name, (wanted, difficulty) in options.items():
        if not sizes[name] and wanted != 0:
            if name == "sft" and not annotated:
                notes.append("no SFT set, since nothing is annotated")
                continue
            raise SelectionError(
                f"no preference is left for the {name.upper()} set (by difficulty: {there_are}; held out: "
                f"{sizes['val']:,}; wanted: {difficulty}): choose others with --{name}-difficulty, or do without it by "
                f"--{name}-size 0"
            )
        if wanted is not None and sizes[name] < wanted:
            notes.append(f"{name}: {sizes[name]:,} rows, of {wanted:,} that --{name}-size asks for")
    if not any(sizes.values()):
        raise SelectionError("every size is 0: there is nothing to write")
    if sizes["val"] < rules.val:
        notes.append(
            f"val: {sizes['val']:,} preferences, of {rules.val:,} that --val asks for: those with a picture in common "
            "stay together"
        )
    if annotated and unannotated and not rules.rl_difficulty.everything:
        notes.append(f"{unannotated:,} preferences are not annotated, and without a trace in no training set")
    if rules.order == "curriculum":
        notes.append("the order of rl.parquet counts with data.shuffle=false only; verl's SFT trainer always shuffles")
    return notes


def _uneven(statistics: Mapping[str, Statistics]) -> list[str]:
    notes = []
    for name, one in statistics.items():
        if (found := uneven(one.labels)) is not None:
            label, share = found
            way_out = "--sft-balance drop" if name == "sft" else "--rl-balance swap"
            notes.append(f"{name}: {share:.0%} of the labels are {label}, which a model learns: see {way_out}")
    return notes


def _write(
    name: str,
    chosen: Chosen,
    spool: _Spool,
    output: ParquetOutput,
    inline: bool,
    row_arguments: Mapping[str, Any],
    progress: bool | None,
) -> Statistics:
    from tqdm import tqdm

    statistics = Statistics()
    hidden = None if progress is None else not progress
    index = 0
    for row in tqdm(chosen.rows.tolist(), desc=f"writing {name}", unit="row", disable=hidden):
        preference = spool.get(row)
        if inline:
            preference = _embedded(preference)
        difficulty, solved = difficulty_of(preference), None
        if preference.difficulty is not None:
            solved = preference.trace is not None
        if name == "sft":
            written = [preference]
        elif name == "rl":
            written = [swap(preference) if row in chosen.swapped else replace(preference, trace=None)]
        else:
            written = sorted((replace(preference, trace=None), swap(preference)), key=lambda one: one.label)
        for one in written:
            if name == "sft":
                output.add(sft_row(one, index=index, **row_arguments))
            else:
                split = "train" if name == "rl" else "val"
                output.add(rl_row(one, index=index, split=split, solved=solved, **row_arguments))
            statistics.add(one, difficulty)
            index += 1
    output.finish()
    output.commit()
    return statistics


def _embedded(preference: Preference) -> Preference:
    def embedded(media: Media) -> Media:
        if media.path is None:
            return media
        try:
            return Media(data=Path(media.path).read_bytes(), sha256=media.sha256)
        except OSError as error:
            raise SelectionError(f"a picture that was there a while ago cannot be read: {error}") from error

    video = None if preference.video is None else tuple(map(embedded, preference.video))
    return replace(preference, images=tuple(map(embedded, preference.images)), video=video)


def _summary(card: Mapping[str, Any], out: str) -> str:
    lines = [f"rows  {card['rows']['read']:,} read, {card['rows']['rejected']:,} rejected"]
    lines.append(f"      {_counts(card['difficulty'])}")
    for name, one in card["sets"].items():
        swapped = f", {one['swapped']:,} swapped" if "swapped" in one else ""
        labels = f"labels {one['labels']['1']:,} : {one['labels']['2']:,}{swapped}"
        lines.append(f"{name:<5} {one['rows']:,} rows, {labels}; by difficulty {_counts(one['difficulty'])}")
        lines += [f"      {rows:>9,}  {source}" for source, rows in [*one["sources"].items()][:20]]
    lines += [f"note: {note}" for note in card["notes"]]
    if card["rows"]["rejected"]:
        lines.append(f"rejected rows: {os.path.join(out, 'rejects.jsonl')}")
    return "\n".join(lines)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())


def _read_with(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a type for argparse which keeps the reason that `read` gives."""

    def type_(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return type_


def _cap(text: str) -> tuple[str, int]:
    name, equals, size = text.rpartition("=")
    if not equals or not name or not size.isdecimal():
        raise ValueError(f"{text!r} is not SOURCE=N")
    return name, int(size)


def _parser() -> argparse.ArgumentParser:
    default = Rules()
    parser = argparse.ArgumentParser(
        prog="r1reward data select",
        description="Write verl's training files from annotated preferences: what the teacher solved for the cold "
        "start, what was hard for RL.",
        usage="%(prog)s [options] PREFERENCES... OUT_DIR",
    )
    parser.add_argument("inputs", metavar="PREFERENCES", nargs="+", help="files of `r1reward data annotate`")
    parser.add_argument("out", metavar="OUT_DIR", help="folder to write")
    parser.add_argument(
        "--sft-difficulty",
        type=_read_with(Difficulties.read),
        default=default.sft_difficulty,
        metavar="LIST",
        help="of the solved preferences those of so many attempts, such as 1,2 or 2+ (default: all)",
    )
    parser.add_argument(
        "--rl-difficulty",
        type=_read_with(Difficulties.read),
        default=default.rl_difficulty,
        metavar="LIST",
        help="attempts, unsolved, or all for every row, annotated or not (default: %(default)s)",
    )
    parser.add_argument("--order", choices=ORDERS, default=default.order, help="of the rows (default: %(default)s)")
    parser.add_argument(
        "--cap",
        type=_read_with(_cap),
        action="append",
        default=[],
        metavar="SOURCE=N",
        help="at most N rows of a source in either set; may be repeated",
    )
    parser.add_argument(
        "--sft-size", type=int, metavar="N", help="at most N rows for the cold start; 0 for no such file"
    )
    parser.add_argument("--rl-size", type=int, metavar="N", help="at most N rows for RL; 0 for no such file")
    parser.add_argument(
        "--val",
        type=int,
        default=0,
        metavar="N",
        help="hold N preferences out, written in both orders; nothing with their pictures is trained on",
    )
    parser.add_argument(
        "--rl-balance",
        choices=("swap", "none"),
        default=default.rl_balance,
        help="swap responses so that the labels are 1:1 (default: %(default)s)",
    )
    parser.add_argument(
        "--sft-balance",
        choices=("drop", "none"),
        default=default.sft_balance,
        help="drop rows so that the labels are 1:1 (default: %(default)s)",
    )
    parser.add_argument("--prompt-template", metavar="FILE", help="file with {question}, {response_1}, {response_2}")
    parser.add_argument(
        "--media-position",
        choices=MEDIA_POSITIONS,
        default="before",
        help="pictures before or after the text (default: %(default)s)",
    )
    parser.add_argument("--inline", action="store_true", help="embed the pictures instead of naming their files")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (default: %(default)s)")
    parser.add_argument(
        "--max-rejects",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="greatest share of bad rows that is no error (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `r1reward data select`."""
    parser = _parser()
    # PREFERENCES... and OUT_DIR may stand on both sides of an option.
    options = vars(parser.parse_intermixed_args(argv))
    caps = options.pop("cap")
    own = ("inputs", "out", "prompt_template", "media_position", "inline", "max_rejects")
    inputs, out, template, media_position, inline, max_rejects = (options.pop(name) for name in own)
    if len(dict(caps)) < len(caps):
        parser.error("--cap: a source is given twice")
    try:
        card = select(
            inputs,
            out,
            Rules(caps=dict(caps), **options),
            template=load_template(template) if template else PROMPT,
            media_position=media_position,
            inline=inline,
            max_rejects=max_rejects,
        )
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    except (SelectionError, OSError) as error:
        print(f"error: {error}; {out} was not written", file=sys.stderr)
        return 1
    print(_summary(card, out))
    print(f"written: {out}")
    return 0
