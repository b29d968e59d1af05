"""Checks all cases of a benchmark and their media before a model is loaded."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from r1reward_verl.data.readers import RowError
from r1reward_verl.errors import R1RewardError
from r1reward_verl.evaluation.benchmarks import Case
from r1reward_verl.evaluation.folder import RunFolder
from r1reward_verl.media import Media, look_at, missing_file
from r1reward_verl.progress import progress_bar
from r1reward_verl.text import excerpt

_LISTED = 20  # problems of one kind in a message
_THREADS = 8
_CHUNK = 128  # cases whose media are checked together
_MAX_RATIO = 200  # of the sides of a picture; qwen_vl_utils takes no other


class EvaluationError(R1RewardError):
    """The run cannot begin or go on; its judgements are kept."""


@dataclass
class ValidCases:
    """What the check learned about the cases."""

    rows: set[int] = field(default_factory=set)  # numbers of the chosen ones
    ids: list[str] = field(default_factory=list)  # of each chosen case
    categories: list[str] = field(default_factory=list)  # of each chosen case
    images: int = 0  # largest number of pictures of a case
    frames: int = 0  # largest number of frames of a video, 0 without any
    pictures: int = 0  # number of all pictures and frames
    resized: int = 0  # number of those over the pixel budget
    rejected: int = 0  # number of rows that are not cases
    rejects: list[str] = field(default_factory=list)  # reasons of the first of them


class _PictureCheck(NamedTuple):
    """The result of the check of a picture file."""

    pixels: int = 0
    sha256: str | None = None
    missing: str = ""
    fault: str = ""


def hashed(*values: object) -> int:
    """Return a number of 64 bits that depends on these values alone."""
    digest = hashlib.sha256("\0".join(map(str, values)).encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big")


def sample_rows(items: Iterable[Case | RowError], limit: int, seed: int, *, whole_ids: bool) -> set[int]:
    """Draw cases from each category in proportion to its size, and return their rows.

    A larger limit with the same seed draws the same cases and more.

    Args:
        items: of a benchmark's file.
        limit: largest number of cases; the first id is drawn even if it has more.
        seed: of the draw.
        whole_ids: whether an id is drawn with all of its cases, as figures over ids need it.
    """
    categories: dict[str, dict[object, list[int]]] = defaultdict(lambda: defaultdict(list))
    for case in items:
        if isinstance(case, Case):
            categories[case.category][case.id if whole_ids else case.row].append(case.row)
    queue: list[tuple[float, int, list[int]]] = []
    for category, units in categories.items():
        drawn = sorted((hashed(seed, category, unit), rows) for unit, rows in units.items())
        queue += [((place + 0.5) / len(drawn), number, rows) for place, (number, rows) in enumerate(drawn)]
    chosen: set[int] = set()
    for _, _, rows in sorted(queue):
        if chosen and len(chosen) + len(rows) > limit:
            break
        chosen.update(rows)
    return chosen


def validate_cases(
    items: Iterable[Case | RowError],
    run: RunFolder,
    max_rejects: float,
    max_pixels: int,
    progress: bool | None,
    chosen: Container[int] | None = None,
) -> ValidCases:
    """Check all cases, and their media as far as the headers, and write `cases.jsonl`.

    Args:
        items: of a benchmark's file.
        run: gets the cases, and the list of missing media.
        max_rejects: largest share of rows that may not be cases.
        max_pixels: pixel budget of a picture.
        progress: whether to show a bar; None for a bar on terminals and lines elsewhere.
        chosen: rows of the cases that are to be judged; None for all.

    Raises:
        EvaluationError: too many rows are not cases, or media are missing or cannot be used; the message has all of
            it.
    """
    valid = ValidCases()
    rows, lost = 0, False
    missing: dict[str, str] = {}
    faults: dict[str, str] = {}
    check_file = lru_cache(maxsize=1 << 14)(_check_picture)

    def check(case: Case) -> list[tuple[Media, _PictureCheck]]:
        # Bytes are not kept: thousands of pictures would stay in memory.
        media = (*case.images, *(case.video or ()))
        return [(one, check_file(str(one.path)) if one.data is None else _check_picture(one.data)) for one in media]

    with (
        ThreadPoolExecutor(_THREADS, thread_name_prefix="media") as pool,
        progress_bar(shown=progress, desc="reading", unit="cases", leave=False) as bar,
    ):
        items = iter(items)
        while chunk := list(islice(items, _CHUNK)):
            for error in (one for one in chunk if isinstance(one, RowError)):
                rows += error.rows or 1
                valid.rejected += error.rows or 1
                lost = lost or error.rows is None
                if len(valid.rejects) < _LISTED:
                    valid.rejects.append(f"row {error.number}: {error.reason}")
            cases = [one for one in chunk if isinstance(one, Case)]
            rows += len(cases)
            cases = [case for case in cases if chosen is None or case.row in chosen]
            for case, checks in zip(cases, pool.map(check, cases), strict=True):
                valid.rows.add(case.row)
                valid.ids.append(case.id)
                valid.categories.append(case.category)
                valid.images = max(valid.images, len(case.images))
                valid.frames = max(valid.frames, len(case.video or ()))
                for one, found in checks:
                    valid.pictures += 1
                    valid.resized += found.pixels > max_pixels
                    name = one.path or f"row {case.row}, picture {valid.pictures}"
                    fault = found.fault
                    if one.sha256 is not None and found.sha256 not in (None, one.sha256):
                        fault = f"the picture {excerpt(one.path or one.data)} has changed: its sha256 is another"
                    if found.missing:
                        missing.setdefault(name, f"row {case.row}: {found.missing}")
                    elif fault:
                        faults.setdefault(name, f"row {case.row}: {fault}")
                run.add_case(case)
            bar.update(len(cases))

    problems = []
    if lost or valid.rejected > max_rejects * rows:
        hint = "" if lost else "; correct them, or leave them out with --max-rejects"
        title = f"{valid.rejected:,} of {rows:,} rows are no cases{hint}"
        problems.append(_listed(title, valid.rejects, valid.rejected))
    path = run.write_missing(missing)
    if missing:
        title = f"{len(missing):,} media files are missing (see --media), all of them listed in {path}"
        problems.append(_listed(title, [*missing.values()], len(missing)))
    if faults:
        problems.append(_listed(f"{len(faults):,} media cannot be used", [*faults.values()], len(faults)))
    if not problems and not valid.ids:
        problems.append("the file has no cases")
    if problems:
        raise EvaluationError("\n".join(problems))
    return valid


def _check_picture(source: str | bytes) -> _PictureCheck:
    if isinstance(source, str) and (reason := missing_file(source)):
        return _PictureCheck(missing=reason)
    try:
        sha256, (width, height) = look_at(source)
    except ValueError as error:
        return _PictureCheck(fault=str(error))
    if max(width, height) > _MAX_RATIO * min(width, height):
        return _PictureCheck(fault=f"a picture of {width} x {height} pixels, which is too narrow ({excerpt(source)})")
    return _PictureCheck(width * height, sha256)


def _listed(title: str, examples: Sequence[str], count: int) -> str:
    examples = examples[:_LISTED]
    more = [f"  … and {count - len(examples):,} more"] * (count > len(examples))
    return "\n".join([f"{title}:", *(f"  {one}" for one in examples), *more])
