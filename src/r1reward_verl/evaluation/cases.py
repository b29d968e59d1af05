"""Checks all cases of a benchmark and their media before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

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
    """What the check learned about the cases.

    Attributes:
        ids, categories: of each case.
        images: largest number of pictures of a case.
        frames: largest number of frames of a video, 0 without any.
        pictures: number of all pictures and frames.
        resized: number of those over the pixel budget.
        rejected: number of rows that are not cases.
        rejects: reasons of the first of them.
    """

    ids: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    images: int = 0
    frames: int = 0
    pictures: int = 0
    resized: int = 0
    rejected: int = 0
    rejects: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _PictureCheck:
    """The result of the check of a picture file."""

    pixels: int = 0
    sha256: str | None = None
    missing: str = ""
    fault: str = ""


def first_cases(items: Iterable[Case | RowError], limit: int | None) -> Iterator[Case | RowError]:
    """Yield items until there are `limit` cases; all of them without a limit."""
    cases = 0
    for item in items:
        yield item
        cases += isinstance(item, Case)
        if cases == limit:
            return


def validate_cases(
    items: Iterable[Case | RowError], run: RunFolder, max_rejects: float, max_pixels: int, progress: bool | None
) -> ValidCases:
    """Check all cases, and their media as far as the headers, and write `cases.jsonl`.

    Args:
        items: of a benchmark's file.
        run: gets the cases, and the list of missing media.
        max_rejects: largest share of rows that may not be cases.
        max_pixels: pixel budget of a picture.
        progress: whether to show a bar; None for a bar on terminals and lines elsewhere.

    Raises:
        EvaluationError: too many rows are not cases, or media are missing or cannot be used; the message has all of
            it.
    """
    valid = ValidCases()
    lost = False
    missing: dict[str, str] = {}
    faults: dict[str, str] = {}
    check_file = lru_cache(maxsize=1 << 14)(_check_picture)

    def check(media: Media) -> _PictureCheck:
        # Bytes are not kept: thousands of pictures would stay in memory.
        return check_file(str(media.path)) if media.data is None else _check_picture(media.data)

    with (
        ThreadPoolExecutor(_THREADS, thread_name_prefix="media") as pool,
        progress_bar(shown=progress, desc="reading", unit="cases", leave=False) as bar,
    ):
        items = iter(items)
        while chunk := list(islice(items, _CHUNK)):
            media = [() if isinstance(item, RowError) else (*item.images, *(item.video or ())) for item in chunk]
            checks = iter(list(pool.map(check, [one for several in media for one in several])))
            for item, several in zip(chunk, media, strict=True):
                if isinstance(item, RowError):
                    valid.rejected += item.rows or 1
                    lost = lost or item.rows is None
                    if len(valid.rejects) < _LISTED:
                        valid.rejects.append(f"row {item.number}: {item.reason}")
                    continue
                valid.ids.append(item.id)
                valid.categories.append(item.category)
                valid.images = max(valid.images, len(item.images))
                valid.frames = max(valid.frames, len(item.video or ()))
                for one, found in zip(several, checks, strict=False):
                    valid.pictures += 1
                    valid.resized += found.pixels > max_pixels
                    name = one.path or f"row {item.row}, picture {valid.pictures}"
                    fault = found.fault
                    if one.sha256 is not None and found.sha256 not in (None, one.sha256):
                        fault = f"the picture {excerpt(one.path or one.data)} has changed: its sha256 is another"
                    if found.missing:
                        missing.setdefault(name, f"row {item.row}: {found.missing}")
                    elif fault:
                        faults.setdefault(name, f"row {item.row}: {fault}")
                run.add_case(item)
            bar.update(len(chunk))

    problems = []
    rows = len(valid.ids) + valid.rejected
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
