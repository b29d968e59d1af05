"""What each evaluation benchmark is: the forms of its file, its categories and their counts, how it averages.

Read from public code, and where marked so counted in public data, at these commits:

- VL-RewardBench: github.com/vl-rewardbench/VL_RewardBench at 9b10abd, `cal.py`, `inference_hf.py`; the card of Hugging
  Face `MMInstruction/VL-RewardBench`; `inference/VL-Reward-Bench/data.jsonl` of the reference (counted).
- MM-RLHF-RewardBench: github.com/Kwai-YuanQi/MM-RLHF at 7c8af1d, `llava/eval/cal_performance_mmreweard_bench.py`,
  `llava/eval/eval_mm_reward_bench.py`; `inference/MM-RLHF-Reward/mm_reward_bench.jsonl` of the reference (counted).
- Multimodal RewardBench: github.com/facebookresearch/multimodal_rewardbench at b4b92cd, `scripts/0_download_data.py`,
  `scripts/2_get_accuracy.py`, README; arXiv 2502.14191v1, the table of its sources.
- The reference: github.com/yfzhang114/r1_reward at 3693413, `get_acc.py` and `1_get_accuracy.py` below `inference`.

What differs between a benchmark's own rules and the reference's stands in `docs/evaluation.md`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, get_args

from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.preference import Preference
from r1reward_verl.data.readers import Row, RowError, read_rows
from r1reward_verl.data.sources import Plain
from r1reward_verl.media import Media, frame_names, resolve, sampled
from r1reward_verl.text import excerpt

Average = Literal["micro", "macro"]
CategoryProtocol = Literal["benchmark", "reference"]
CATEGORY_PROTOCOLS: tuple[str, ...] = get_args(CategoryProtocol)

FRAMES = 32
"""Frames of a video, as in both projects' evaluation of MM-RLHF-RewardBench."""

_PEEKED = 20


@dataclass(frozen=True, slots=True)
class Case:
    """A question of a benchmark with a better and a worse response.

    Attributes:
        row: where it stands in its file, as `read_rows` counts: its identity, since ids repeat.
        id: as in the file; cases with the same id belong together (the same picture, in MM-RLHF-RewardBench also the
            same question).
        category: one of `Benchmark.categories`, if the benchmark has fixed ones.
        question: without `<image>` and `<video>`.
        chosen, rejected: the better response and the worse one.
        images: pictures, their paths absolute.
        video: None, or frames in time order. A path that is a folder stands for frames that are not there.
    """

    row: int
    id: str
    category: str
    question: str
    chosen: str
    rejected: str
    images: tuple[Media, ...]
    video: tuple[Media, ...] | None


@dataclass(frozen=True, slots=True)
class Release:
    """How many cases a published state of a benchmark has.

    Attributes:
        name: which state.
        cases: in all.
        categories: by category, with the benchmark's own rules; empty where nobody has published them.
        reference: the same with the reference's rules, where they differ.
        ids: different ids, None where unknown.
    """

    name: str
    cases: int
    categories: Mapping[str, int] = field(default_factory=dict)
    reference: Mapping[str, int] = field(default_factory=dict)
    ids: int | None = None

    def counts(self, category_protocol: CategoryProtocol) -> Mapping[str, int]:
        """Return the cases by category, told by these rules."""
        return (category_protocol == "reference" and self.reference) or self.categories


@dataclass(frozen=True, eq=False)
class Benchmark:
    """An evaluation benchmark.

    Attributes:
        name: as on the command line.
        categories: in the order of the paper's table (arXiv 2505.02835); empty where the file decides.
        forms: columns of each form of its file.
        to_preference: makes a preference of a row of one of these forms, better response first or by its label.
        overall: how the benchmark itself averages over categories.
        paper_overall: what the R1-Reward paper's table calls overall.
        acc_plus: whether it counts ids of which every case is right, besides cases.
        releases: what is published of it.
        prefixes: what its ids begin with, up to the first `_` or `-`; empty where that says nothing.
        doubtful: beginning of ids -> what is doubtful about these cases.
    """

    name: str
    categories: tuple[str, ...]
    forms: tuple[tuple[str, ...], ...]
    to_preference: Callable[[Row, CategoryProtocol], Preference] | None
    overall: Average = "micro"
    paper_overall: Average = "micro"
    acc_plus: bool = False
    releases: tuple[Release, ...] = ()
    prefixes: tuple[str, ...] = ()
    doubtful: Mapping[str, str] = field(default_factory=dict)

    def read(
        self,
        path: str | os.PathLike[str],
        media_root: str | os.PathLike[str] | None = None,
        *,
        frames: int = FRAMES,
        category_protocol: CategoryProtocol = "benchmark",
    ) -> Iterator[Case | RowError]:
        """Yield the cases of a benchmark's file, and a `RowError` for each row that is none.

        Media are not opened. Relative and absolute paths are looked for below `media_root`, then below the folder of
        the file, by the longest end of theirs that exists there: published copies keep the same files in different
        folders. One that is not found becomes the path it should have (see `missing`).

        Args:
            path: in one of `forms`, of any format of `read_rows`.
            media_root: folder of the media; None for that of the file, and in a preference file for absolute paths as
                they stand there.
            frames: at most so many of a video, evenly from the first to the last.
            category_protocol: whose rules tell the category, the benchmark's own or the reference's.

        Raises:
            FileNotFoundError, PermissionError: at once.
            ValueError: at once: `media_root` is no folder, an unknown protocol, no frames, or a file of another form;
                while reading: a category that the benchmark does not have.
        """
        if category_protocol not in CATEGORY_PROTOCOLS:
            raise ValueError(
                f"category protocol {category_protocol!r} is unknown; known: {', '.join(CATEGORY_PROTOCOLS)}"
            )
        if frames < 1:
            raise ValueError(f"frames is {frames}; at least 1 is needed")
        if media_root is not None and not os.path.isdir(media_root):
            raise ValueError(f"the media root {os.fspath(media_root)!r} is no folder")
        self._check_form(path)
        # Preferences were settled by `r1reward data convert`, which wrote absolute paths.
        place = _Places(path, media_root, as_they_stand=self.to_preference is None and media_root is None)
        return self._cases(path, place, frames, category_protocol)

    def summary(
        self, ids: Sequence[str], categories: Sequence[str], category_protocol: CategoryProtocol = "benchmark"
    ) -> list[str]:
        """Return lines that say how many cases there are, whether so many are published, and what is doubtful.

        Args:
            ids: of each case.
            categories: of each case.
            category_protocol: that these categories were read with.
        """
        counts = Counter(categories)
        found = {name: counts[name] for name in self.categories or sorted(counts)}
        distinct = len(set(ids))
        lines = [f"{self.name}: {_counted(len(ids), distinct, found)}"]
        for release in self.releases:
            expected = release.counts(category_protocol)
            if len(ids) == release.cases and release.ids in (None, distinct) and expected in ({}, found):
                lines.append(f"as many as published: {release.name}")
                break
        else:
            lines += [
                f"published: {_counted(release.cases, release.ids, release.counts(category_protocol))}, {release.name}"
                for release in self.releases
            ]
            if self.releases:
                lines.append("these are other cases, so figures are not comparable with published ones")
        unknown = [identity for identity in ids if self.prefixes and _prefix(identity) not in self.prefixes]
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
        if self.prefixes and not any(_prefix(str(row.get("id"))) in self.prefixes for row in rows):
            raise ValueError(
                f"{os.fspath(path)}: not a file of {self.name}: its ids are such as {excerpt(rows[0].get('id'))}, and "
                f"the benchmark's begin with {', '.join(self.prefixes)}"
            )

    def _cases(
        self, path: str | os.PathLike[str], place: _Places, frames: int, protocol: CategoryProtocol
    ) -> Iterator[Case | RowError]:
        for item in self._preferences(path, protocol):
            if isinstance(item, RowError):
                yield item
                continue
            number, preference = item
            chosen, rejected = preference.response_1, preference.response_2
            if preference.label == 2:
                chosen, rejected = rejected, chosen
            try:
                case = Case(
                    row=number,
                    id=preference.id,
                    category=preference.category,
                    question=preference.question,
                    chosen=chosen,
                    rejected=rejected,
                    images=tuple(map(place.media, preference.images)),
                    video=None if preference.video is None else place.frames(preference.video, frames),
                )
            except ValueError as error:
                yield RowError(number, str(error))
            else:
                yield case

    def _preferences(
        self, path: str | os.PathLike[str], protocol: CategoryProtocol
    ) -> Iterator[tuple[int, Preference] | RowError]:
        if self.to_preference is None:
            yield from read_preferences(path)
            return
        for item in read_rows(path):
            if isinstance(item, RowError):
                yield item
                continue
            number, row = item
            try:
                yield number, self.to_preference(row, protocol)
            except _UnknownCategory as error:
                raise ValueError(f"{os.fspath(path)}:{number}: {self.name}: {error}") from None
            except ValueError as error:
                yield RowError(number, str(error), excerpt(row))


def missing(cases: Iterable[Case]) -> dict[str, list[int]]:
    """Return the media that are not there: path -> rows of the cases that need it, in the order they were met."""
    found: dict[str, list[int]] = {}
    for case in cases:
        for media in (*case.images, *(case.video or ())):
            if media.path is not None and not os.path.isfile(media.path):
                found.setdefault(media.path, []).append(case.row)
    return found


class _UnknownCategory(Exception):
    """A category that the benchmark does not have: not one bad row, but another benchmark or another version."""


class _Places:
    """Finds what the paths of a benchmark's file mean."""

    def __init__(
        self, path: str | os.PathLike[str], media_root: str | os.PathLike[str] | None, as_they_stand: bool
    ) -> None:
        folder = os.path.dirname(os.path.realpath(path))
        self.roots = [folder] if media_root is None else [os.path.realpath(media_root), folder]
        self.as_they_stand = as_they_stand

    def media(self, media: Media) -> Media:
        """Return the medium with the path that it has."""
        return media if media.path is None else replace(media, path=self.find(media.path)[0])

    def find(self, path: str) -> tuple[str, str | None]:
        """Return the file or folder that a path means and the root it lies in, None if it is not there.

        Raises:
            ValueError: it leads out of the root.
        """
        if self.as_they_stand and os.path.isabs(path):
            return path, None
        # As `resolve` treats absolute paths: of these the longest end that exists counts.
        relative = path.lstrip("/")
        for root in self.roots:
            with suppress(ValueError):
                return resolve(root, "/" + relative), root
        root = self.roots[0]
        expected = os.path.join(root, relative)
        if os.path.commonpath([root, os.path.realpath(expected)]) != root:
            raise ValueError(f"{excerpt(path)} leads out of the media root {root!r}")
        return expected, None

    def frames(self, video: tuple[Media, ...], count: int) -> tuple[Media, ...]:
        """Return at most so many frames of a video: of these, or of the folder that the only one of them is."""
        if len(video) > 1 or video[0].path is None:
            return tuple(self.media(video[position]) for position in sampled(len(video), count))
        folder, root = self.find(video[0].path)
        if os.path.isdir(folder):
            root = root or os.path.realpath(folder)
            with suppress(ValueError):
                names = frame_names(folder, count)
                return tuple(Media(path=resolve(root, os.path.join(folder, name))) for name in names)
        return (replace(video[0], path=folder),)


def _counted(cases: int, ids: int | None, categories: Mapping[str, int]) -> str:
    of_ids = "" if ids is None else f" of {ids:,} ids"
    listed = ", ".join(f"{name} {count:,}" for name, count in categories.items())
    return f"{cases:,} cases{of_ids}{f' ({listed})' if listed else ''}"


def _preference(row: Row, category: str, **columns: str) -> Preference:
    """Return the preference in the columns that these fields stand in, and in no other of the row."""
    if absent := [column for column in columns.values() if column not in row]:
        raise ValueError(f"no column {absent[0]!r} (there are: {', '.join(map(str, row)) or 'none'})")
    values = {column: row[column] for column in columns.values()}
    (preference,) = Plain(columns).read({**values, "category": category}, 0)
    if not preference.images and preference.video is None:
        column = columns.get("image") or columns["video"]
        raise ValueError(f"{column} is {excerpt(row[column])}; a picture or video is needed")
    return preference


def _id(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {excerpt(value)}; a text that is not empty is needed")
    return value


# VL-RewardBench

_VL_CATEGORIES = {
    "RLAIF": "hallucination",
    "RLHF": "hallucination",
    "hallucination": "hallucination",
    "mathverse": "reasoning",
    "mmmu": "reasoning",
}
_VL_PREFIXES = (*_VL_CATEGORIES, "wildvision", "jailbreak", "LRVInstruction", "politics", "svit")


def _prefix(identity: str) -> str:
    return re.split("[_-]", identity, maxsplit=1)[0]


def _vl_category(identity: str, protocol: CategoryProtocol) -> str:
    if protocol == "benchmark":
        return _VL_CATEGORIES.get(_prefix(identity), "general")
    if "mmmu" in identity or "mathverse" in identity:
        return "reasoning"
    # In lower case, which no id but those with "hallucination" is: RLAIF-V and RLHF-V rows become general.
    return "hallucination" if any(word in identity for word in ("hallucination", "rlhf", "rlaif")) else "general"


def _vl_preference(row: Row, protocol: CategoryProtocol) -> Preference:
    category = _vl_category(_id(row, "id"), protocol)
    if "query" not in row:
        return _preference(
            row, category, question="prompt", chosen="chosen", rejected="rejected", image="image", id="id"
        )
    responses, ranking = row.get("response"), row.get("human_ranking")
    if ranking not in ([0, 1], [1, 0]):
        raise ValueError(f"human_ranking is {excerpt(ranking)}; [0, 1] (the first is better) or [1, 0] is needed")
    if not isinstance(responses, list) or len(responses) != 2:
        raise ValueError(f"response is {excerpt(responses)}; a list of two texts is needed")
    better, worse = responses if ranking == [0, 1] else reversed(responses)
    row = {**row, "better response": better, "worse response": worse}
    columns = {"question": "query", "chosen": "better response", "rejected": "worse response"}
    return _preference(row, category, **columns, image="image", id="id")


# MM-RLHF-RewardBench

_MM_CATEGORIES = ("mcq", "long", "short", "safety", "video")


def _mm_preference(row: Row, protocol: CategoryProtocol) -> Preference:
    _id(row, "id")
    # In parquet each row has both columns.
    filled = [name for name in ("image", "video") if row.get(name) not in (None, "", [])]
    if len(filled) != 1:
        raise ValueError(
            f"image is {excerpt(row.get('image'))}, video is {excerpt(row.get('video'))}: one of them is needed"
        )
    (name,) = filled
    columns = {"question": "prompt", "chosen": "chosen", "rejected": "rejected", "id": "id", name: name}
    preference = _preference(row, "-", **columns)
    media = preference.images or preference.video or ()
    path = media[0].path
    if path is None:
        raise ValueError(f"{name} has no path, which is what tells the category")
    return replace(preference, category=_mm_category(path, name, protocol))


def _mm_category(path: str, name: str, protocol: CategoryProtocol) -> str:
    if protocol == "reference":
        rule, found = "a path that contains", [word for word in _MM_CATEGORIES if word in path]
    else:
        # Folders only, the nearest first: the words may also stand in the path to the data, or in a file's name.
        rule, folders = "a folder of its path called", path.split("/")[-2::-1]
        found = [name] if name == "video" else [folder for folder in folders if folder in _MM_CATEGORIES]
    if not found:
        raise _UnknownCategory(
            f"{name} {excerpt(path)} is of no category; {rule} {', '.join(_MM_CATEGORIES)} is needed"
        )
    return found[0]


# Multimodal RewardBench

_MULTIMODAL_CATEGORIES = {
    "open_generation/correctness_task": "correctness",
    "open_generation/preference_task": "preference",
    "knowledge": "knowledge",
    "reasoning": "",  # math or coding, which the ID tells
    "safety": "safety",
    "vqa": "VQA",
}


def _multimodal_preference(row: Row, protocol: CategoryProtocol) -> Preference:
    identity = _id(row, "ID")
    given = _id(row, "Category")
    category = _MULTIMODAL_CATEGORIES.get(given.lower())
    if category is None:
        known = ", ".join(_MULTIMODAL_CATEGORIES)
        raise _UnknownCategory(f"Category is {given!r}, which is none of {known}")
    better = row.get("Better")
    if better not in ("Output1", "Output2"):
        raise ValueError(f"Better is {excerpt(better)}, neither Output1 nor Output2")
    if row.get("Text") in (None, ""):
        raise ValueError("no Text: the benchmark's scripts/0_download_data.py fills it in, where it gets the source")
    return _preference(
        row,
        category or ("math" if identity.lower().startswith("math") else "coding"),
        question="Text",
        chosen=better,
        rejected="Output2" if better == "Output1" else "Output1",
        image="Image",
        id="ID",
    )


# The first five are printed in the paper. Safety and VQA follow: 1,706 are left of the 4,711 public cases, and of all
# 5,211 the eight overall figures in the README allow 993 to 1,020 for safety (here 1,008, 500 of them Hateful Memes).
_MULTIMODAL_COUNTS = {
    "correctness": 623,
    "preference": 654,
    "knowledge": 630,
    "math": 514,
    "coding": 584,
    "safety": 508,
    "VQA": 1198,
}
_PREFERENCE_COLUMNS = (
    *("id", "source", "category", "question", "response_1", "response_2", "label", "images", "video"),
    *("difficulty", "trace"),
)

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="vl-rewardbench",
            categories=("general", "hallucination", "reasoning"),
            forms=(
                ("id", "prompt", "chosen", "rejected", "image"),
                ("id", "query", "response", "image", "human_ranking"),
            ),
            to_preference=_vl_preference,
            releases=(
                Release(
                    "the release before 2025-05-13, with its old labels (the file of the reference)",
                    1250,
                    {"general": 183, "hallucination": 749, "reasoning": 318},
                    {"general": 484, "hallucination": 448, "reasoning": 318},
                ),
                Release("the release since 2025-05-13, with corrected labels", 1247),
            ),
            prefixes=_VL_PREFIXES,
        ),
        Benchmark(
            name="mm-rlhf-rewardbench",
            categories=_MM_CATEGORIES,
            forms=tuple(("id", "prompt", "chosen", "rejected", name) for name in ("image", "video")),
            to_preference=_mm_preference,
            acc_plus=True,
            releases=(
                Release(
                    "the file of the reference",
                    170,
                    {"mcq": 42, "long": 37, "short": 34, "safety": 32, "video": 25},
                    ids=46,
                ),
            ),
        ),
        Benchmark(
            name="multimodal-rewardbench",
            categories=tuple(_MULTIMODAL_COUNTS),
            forms=(("ID", "Category", "Image", "Output1", "Output2", "Better"),),
            to_preference=_multimodal_preference,
            paper_overall="macro",
            releases=(
                Release("the public cases, whose safety is bias (PAIRS) alone", 4711, _MULTIMODAL_COUNTS),
                Release(
                    "with the cases from Hateful Memes, which are not public",
                    5211,
                    {**_MULTIMODAL_COUNTS, "safety": 1008},
                ),
            ),
            doubtful={
                "visitbench": "questions that may not belong to their responses, says issue 8 of "
                "facebookresearch/multimodal_rewardbench"
            },
        ),
        Benchmark(name="preferences", categories=(), forms=(_PREFERENCE_COLUMNS,), to_preference=None),
    )
}
"""The benchmarks by name; `preferences` is any file that `r1reward data` writes, with the categories that it has."""
