"""What a benchmark is: how its file becomes cases, and what is published about it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from operator import attrgetter
from typing import Any, Literal

from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.preference import Preference
from r1reward_verl.data.readers import Row, RowError, read_rows
from r1reward_verl.data.sources.plain import Plain
from r1reward_verl.evaluation.benchmarks.places import MediaFinder
from r1reward_verl.media import Media
from r1reward_verl.text import excerpt

Average = Literal["micro", "macro"]

FRAMES = 32
"""Frames of a video, as in both projects' evaluation of MM-RLHF-RewardBench."""

_PEEKED = 20


class UnknownCategoryError(Exception):
    """A category that the benchmark does not have: not one bad row, but another benchmark or another version."""


@dataclass(frozen=True, slots=True)
class Case:
    """A question of a benchmark with a better and a worse response."""

    # its identity, since ids repeat: the number of its row in the file, as `read_rows` counts, or, where a row holds
    # several pairs, its own number among all pairs
    row: int
    # as in the file; cases with the same id belong together (the same picture, in MM-RLHF-RewardBench also the same
    # question)
    id: str
    category: str  # one of `Benchmark.categories`, if the benchmark has fixed ones
    reference_category: str  # the category by the reference's rules
    question: str  # without `<image>` and `<video>`
    chosen: str  # the better response
    rejected: str  # the worse one
    images: tuple[Media, ...]  # pictures, their paths absolute
    # None, or frames in time order. A path that is a folder stands for frames that are missing
    video: tuple[Media, ...] | None


@dataclass(frozen=True, slots=True)
class Showing:
    """A case in one order: which response was the better one (`label`), which the model chose, and what it wrote."""

    label: int
    choice: int | None
    text: str

    @property
    def right(self) -> bool:
        """Whether the better response was chosen."""
        return self.choice == self.label


@dataclass(frozen=True, slots=True)
class Release:
    """How many cases a published state of a benchmark has."""

    name: str  # which state
    cases: int  # in all
    categories: Mapping[str, int] = field(default_factory=dict)  # by category; empty where nobody has published them
    ids: int | None = None  # different ids, None where unknown


@dataclass(frozen=True, eq=False)
class Benchmark:
    """An evaluation benchmark."""

    name: str  # as on the command line
    categories: tuple[str, ...]  # in the order of the paper's table (arXiv 2505.02835); empty where the file decides
    forms: tuple[tuple[str, ...], ...]  # columns of each form of its file
    # yields the preferences in a row of one of these forms, with the benchmark's category; mostly one. A ValueError
    # rejects the row. None for files of preferences
    read_row: Callable[[Row], Iterable[Preference]] | None = None
    several: bool = False  # whether a row holds several pairs
    # tells the category by the reference's rules, where they differ
    reference_category: Callable[[Preference], str] = attrgetter("category")
    overall: Average = "micro"  # how the benchmark itself averages over categories
    paper_overall: Average = "micro"  # what the R1-Reward paper's table calls overall
    acc_plus: bool = False  # whether it counts ids of which every case is right, besides cases
    # which digit of a text without an answer the reference reads (see `reference_verdict`)
    reference_digits: Literal["last", "first_line"] = "last"
    releases: tuple[Release, ...] = ()  # what is published of it
    prefixes: tuple[str, ...] = ()  # what its ids begin with, up to the first `_` or `-`; empty where that says nothing
    # makes lines for the benchmark's own script of a case (`folder.SavedCase`) and what the model said to it
    export: Callable[[Any, Sequence[Showing]], Iterator[dict[str, Any]]] | None = None
    doubtful: Mapping[str, str] = field(default_factory=dict)  # beginning of ids -> what is doubtful about these cases

    def read(
        self, path: str | os.PathLike[str], media_root: str | os.PathLike[str] | None = None, *, frames: int = FRAMES
    ) -> Iterator[Case | RowError]:
        """Yield the cases of a benchmark's file, and a `RowError` for each row that is not one.

        Media are not opened. Relative and absolute paths are looked for below `media_root`, then below the folder of
        the file, by the longest end of theirs that exists there. A missing one becomes the path it should have (see
        `missing`).

        Args:
            path: in one of `forms`, of any format of `read_rows`.
            media_root: folder of the media; None for that of the file, and in a preference file for absolute paths as
                they are.
            frames: largest number of frames of a video, taken evenly from the first to the last.

        Raises:
            FileNotFoundError, PermissionError: at once.
            ValueError: at once: `media_root` is not a folder, no frames, or a file of another form; while reading: a
                category that the benchmark does not have.
        """
        if frames < 1:
            raise ValueError(f"frames is {frames}; at least 1 is needed")
        # Preferences come from `r1reward data convert`, which wrote absolute paths.
        finder = MediaFinder(path, media_root, keep_absolute=self.read_row is None and media_root is None)
        self._check_form(path)
        return self._cases(path, finder, frames)

    def summary(self, ids: Sequence[str], categories: Sequence[str]) -> list[str]:
        """Return lines that say how many cases there are, whether so many are published, and what is doubtful.

        Args:
            ids: of each case.
            categories: of each case.
        """
        counts = Counter(categories)
        by_category = {name: counts[name] for name in self.categories or sorted(counts)}
        distinct = len(set(ids))
        lines = [f"{self.name}: {_counted(len(ids), distinct, by_category)}"]
        same = [
            release
            for release in self.releases
            if len(ids) == release.cases and release.ids in (None, distinct) and release.categories in ({}, by_category)
        ]
        if same:
            lines.append(f"as many as published: {same[0].name}")
        elif self.releases:
            lines += [
                f"published: {_counted(release.cases, release.ids, release.categories)}, {release.name}"
                for release in self.releases
            ]
            lines.append("these are other cases, so figures are not comparable with published ones")
        unknown = [identity for identity in ids if self.prefixes and id_prefix(identity) not in self.prefixes]
        if unknown:
            known = ", ".join(self.prefixes)
            lines.append(f"{len(unknown):,} ids, such as {excerpt(unknown[0])}, begin with none of {known}")
        for beginning, doubt in self.doubtful.items():
            if number := sum(identity.startswith(beginning) for identity in ids):
                lines.append(f"{number:,} cases of {beginning}: {doubt}")
        return lines

    def _check_form(self, path: str | os.PathLike[str]) -> None:
        rows = [item[1] for item in islice(read_rows(path), _PEEKED) if not isinstance(item, RowError)]
        if not rows:
            return
        if not any(set(form) <= row.keys() for form in self.forms for row in rows):
            wanted = " or ".join(f"({', '.join(form)})" for form in self.forms)
            raise ValueError(
                f"{os.fspath(path)}: not a file of {self.name}: it has the columns "
                f"({', '.join(map(str, rows[0])) or 'none'}), and {wanted} are needed"
            )
        # A file of another benchmark can have the same columns, and then all of it would be "general".
        if self.prefixes and not any(id_prefix(str(row.get("id"))) in self.prefixes for row in rows):
            raise ValueError(
                f"{os.fspath(path)}: not a file of {self.name}: its ids are such as {excerpt(rows[0].get('id'))}, and "
                f"the benchmark's begin with {', '.join(self.prefixes)}"
            )

    def _cases(self, path: str | os.PathLike[str], finder: MediaFinder, frames: int) -> Iterator[Case | RowError]:
        for item in self._preferences(path):
            if isinstance(item, RowError):
                yield item
                continue
            number, preference = item
            responses = preference.response_1, preference.response_2
            chosen, rejected = responses if preference.label == 1 else reversed(responses)
            try:
                case = Case(
                    row=number,
                    id=preference.id,
                    category=preference.category,
                    reference_category=self.reference_category(preference),
                    question=preference.question,
                    chosen=chosen,
                    rejected=rejected,
                    images=tuple(map(finder.media, preference.images)),
                    video=None if preference.video is None else finder.frames(preference.video, frames),
                )
            except ValueError as error:
                yield RowError(number, str(error))
            else:
                yield case

    def _preferences(self, path: str | os.PathLike[str]) -> Iterator[tuple[int, Preference] | RowError]:
        if self.read_row is None:
            yield from read_preferences(path)
            return
        cases = count(1)
        for item in read_rows(path):
            if isinstance(item, RowError):
                yield item
                continue
            number, row = item
            try:
                found = list(self.read_row(row))
            except UnknownCategoryError as error:
                raise ValueError(f"{os.fspath(path)}:{number}: {self.name}: {error}") from None
            except ValueError as error:
                yield RowError(number, str(error), excerpt(row))
                continue
            for preference in found:
                yield next(cases) if self.several else number, preference


def missing(cases: Iterable[Case]) -> dict[str, list[int]]:
    """Return the media files that do not exist: path -> rows of the cases that need it, in their order."""
    rows: dict[str, list[int]] = {}
    for case in cases:
        for media in (*case.images, *(case.video or ())):
            if media.path is not None and not os.path.isfile(media.path):
                rows.setdefault(media.path, []).append(case.row)
    return rows


def make_preference(row: Row, category: str, **columns: str) -> Preference:
    """Return the preference in some columns of a row; no other column has an effect.

    Args:
        row: of a benchmark's file.
        category: of the preference.
        columns: field ("question", "chosen", "rejected", "id", and "image" or "video", unless the benchmark has
            neither) -> column.

    Raises:
        ValueError: a column is missing, or a value cannot be used.
    """
    if absent := [column for column in columns.values() if column not in row]:
        raise ValueError(f"no column {absent[0]!r} (there are: {', '.join(map(str, row)) or 'none'})")
    values = {column: row[column] for column in columns.values()}
    (preference,) = Plain(columns).read({**values, "category": category}, 0)
    column = columns.get("image") or columns.get("video")
    if column is not None and not preference.images and preference.video is None:
        raise ValueError(f"{column} is {excerpt(row[column])}; a picture or video is needed")
    return preference


def required_text(row: Row, name: str) -> str:
    """Return a column that must hold a text.

    Raises:
        ValueError: it holds something else, or nothing.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {excerpt(value)}; a text that is not empty is needed")
    return value


def id_prefix(identity: str) -> str:
    """Return an id up to its first `_` or `-`."""
    return re.split("[_-]", identity, maxsplit=1)[0]


def _counted(cases: int, ids: int | None, categories: Mapping[str, int]) -> str:
    of_ids = "" if ids is None else f" of {ids:,} ids"
    listed = ", ".join(f"{name} {count:,}" for name, count in categories.items())
    return f"{cases:,} cases{of_ids}{f' ({listed})' if listed else ''}"
