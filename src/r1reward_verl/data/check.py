"""Check: everything that is wrong with a data file, row by row.

A file is what `r1reward data` writes, or another one in one of its forms: preferences, rows for verl's `main_ppo`, rows
for verl's SFT trainer. Its columns tell which.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Annotated

import msgspec

from r1reward_verl.data.columns import column_faults
from r1reward_verl.data.duplicates import digest
from r1reward_verl.data.prompt_length import Limits, PromptLength, Size, limits_of
from r1reward_verl.data.readers import read_rows
from r1reward_verl.data.row_checks import WAYS_OUT, CheckedRow, MediaCheck, RowProblem, check_row
from r1reward_verl.data.rows import KINDS, MARKS, Kind, columns_of, kind_of, number_of_rows
from r1reward_verl.data.statistics import uneven
from r1reward_verl.progress import progress_bar
from r1reward_verl.recipes import data_section
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import locked, whole_file

_THREADS = 8
_TOGETHER = 16  # rows whose pictures are looked at at the same time
_VALUE, _REASON = 32, 400  # characters of a value and of a reason in the table
_RL, _SFT = data_section("r1_reward"), data_section("cold_start")
_PIXELS = _RL["mm_processor_kwargs"]


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        kind: what the file holds; None if its columns do not tell.
        problems: number of problems of each kind; `shown` are the first of each.
        warnings: what is not wrong, but easily meant otherwise.
        labels: how often each response is the better one.
        longest: tokens and number of the longest row, None if none was measured; `bound` is what a row may have.
    """

    file: str
    kind: Kind | None = None
    rows: int = 0
    seconds: float = 0.0
    problems: Counter[str] = field(default_factory=Counter)
    shown: list[RowProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)
    longest: tuple[int, int] | None = None
    bound: int | None = None

    def __str__(self) -> str:
        lines = [*_table(self.shown)]
        for kind, many in self.problems.most_common():
            there = sum(problem.kind == kind for problem in self.shown)
            more = f" (the first {there:,} are shown)" if there < many else ""
            lines.append(f"{many:>9,}  {kind}{more}. {WAYS_OUT[kind]}.")
        lines += [f"warning: {warning}" for warning in self.warnings]
        if labelled := sum(self.labels.values()):
            shares = ", ".join(f"{label}: {self.labels[label] / labelled:.1%}" for label in (1, 2))
            lines.append(f"labels   {shares}")
        if self.longest is not None:
            tokens, row = self.longest
            lines.append(f"longest  {tokens:,} tokens (row {row:,}) of {self.bound:,}")
        what = KINDS[self.kind] if self.kind else "unknown"
        speed = f"{self.rows / self.seconds:,.0f} rows/s" if self.seconds else ""
        total = sum(self.problems.values())
        verdict = f"{total:,} problem{'s' * (total != 1)}" if total else "no problems"
        lines.append(f"{self.file}: {what}, {self.rows:,} rows, {verdict} ({self.seconds:.1f} s, {speed})")
        return "\n".join(lines)


def _table(problems: Iterable[RowProblem]) -> Iterator[str]:
    rows = [
        (f"{problem.row:,}" if problem.row else "", problem.column, _cut(problem.value, _VALUE), problem)
        for problem in sorted(problems, key=lambda problem: problem.row)
    ]
    if not rows:
        return
    header = ("row", "column", "value")
    widths = [max(len(str(row[place])) for row in (header, *rows)) for place in range(3)]
    yield f"{header[0]:>{widths[0]}}  {header[1]:<{widths[1]}}  {header[2]:<{widths[2]}}  problem"
    for number, column, value, problem in rows:
        text = f"{_cut(problem.reason, _REASON)}. {problem.way_out}."
        yield f"{number:>{widths[0]}}  {column:<{widths[1]}}  {value:<{widths[2]}}  {text}"
    yield ""


def _cut(text: str, length: int) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


class Checker:
    """Compares each row with those before it, measures it and counts what is wrong."""

    def __init__(self, result: CheckReport, limit: int, file: IO[str] | None) -> None:
        self.result, self.limit, self.file = result, limit, file
        self.length: PromptLength | None = None
        self.contents: dict[bytes, tuple[int, int | None, bool | None, int]] = {}
        self.ids: dict[bytes, int] = {}
        self.unmeasured = self.addresses = 0

    def add(self, problem: RowProblem) -> None:
        """Count a problem, and keep or write it."""
        self.result.problems[problem.kind] += 1
        if self.result.problems[problem.kind] <= self.limit:
            self.result.shown.append(problem)
        if self.file is not None:
            self.file.write(json.dumps({**asdict(problem), "way_out": problem.way_out}, ensure_ascii=False) + "\n")

    def finish(self, row: CheckedRow) -> None:
        """Compare a row with those before it, measure it, and take its problems."""
        self.result.rows += row.rows
        if row.label is not None:
            self.result.labels[row.label] += 1
        if row.texts:
            self._compare(row)
        self.addresses += any(picture.remote for picture in row.pictures)
        if self.length is not None and row.messages is not None:
            self._measure(row, self.length)
        for problem in row.problems:
            self.add(problem)

    def _compare(self, row: CheckedRow) -> None:
        keys = [picture.content or picture.sha256 or str(picture.source) for picture in row.pictures]
        pair = hash(row.identity[:2]) if row.identity else -row.number
        here = row.number, row.label, row.better_first, pair
        first = self.contents.setdefault(digest(*row.texts, *keys), here)
        number, label, better_first, first_pair = first
        # Validation rows stand there in both orders, under one id.
        other_order = pair == first_pair and label != row.label and better_first == row.better_first is not None
        if first is not here and not other_order:
            swapped = better_first is not None and (label == row.label) != (better_first == row.better_first)
            how = ", with the responses swapped" * swapped
            how += ", with the opposite label" * (better_first != row.better_first)
            row.add_problem("duplicate", "", None, f"the same as row {number:,}{how}")
        elif row.identity is not None:
            earlier = self.ids.setdefault(digest(*row.identity), row.number)
            if earlier != row.number:
                row.add_problem("id", "", row.identity[1], f"row {earlier:,} has this id, with another content")

    def _measure(self, row: CheckedRow, length: PromptLength) -> None:
        images: list[tuple[Size, Limits]] = []
        videos: list[list[Size]] = [[] for _ in row.videos]
        for picture in row.pictures:
            if picture.size is None:
                self.unmeasured += not row.problems
                return
            if picture.video is None:
                images.append((picture.size, limits_of(picture.entry)))
            else:
                videos[picture.video].append(picture.size)
        frames = [(tuple(sizes), limits_of(video)) for sizes, video in zip(videos, row.videos, strict=True)]
        assert row.messages is not None
        try:
            tokens = length.count(row.messages, images, frames)
        except Exception as error:  # whatever a chat template or processor makes of it; verl would drop the row
            row.add_problem("length", "", None, f"the model's processor cannot read it: {error}")
            return
        if self.result.longest is None or tokens > self.result.longest[0]:
            self.result.longest = tokens, row.number
        if self.result.bound is not None and tokens > self.result.bound:
            row.add_problem("length", "", None, f"{tokens:,} tokens, more than {self.result.bound:,}")

    def warn(self) -> None:
        """Add the warnings that hold for the file as a whole."""
        result = self.result
        if result.kind and (found := uneven(result.labels)):
            result.warnings.append(
                f"{found[1]:.1%} of the labels are {found[0]}, which a model learns; 50% are meant "
                "(`r1reward data select` balances)"
            )
        if self.unmeasured:
            result.warnings.append(f"{self.unmeasured:,} rows were not measured: not all of their media are pictures")
        if self.addresses:
            result.warnings.append(f"{self.addresses:,} rows have pictures at addresses, which were not looked at")


def _limit(description: str, default: int) -> msgspec.Meta:
    return setting(f"{description} [default: the recipe's {default}].", metavar="N")


class CheckSettings(Settings, frozen=True, kw_only=True):
    """How a data file is checked."""

    model: Annotated[
        str | None,
        setting("Folder or name of the model whose processor measures the rows; without it none is measured."),
    ] = None
    max_prompt_length: Annotated[
        int | None, _limit("Largest number of tokens of a prompt", _RL["max_prompt_length"])
    ] = None
    max_length: Annotated[
        int | None, _limit("Largest number of tokens of an SFT row, prompt and judgement", _SFT["max_length"])
    ] = None
    min_pixels: Annotated[
        int | None, _limit("Smallest number of pixels that the processor makes of a picture", _PIXELS["min_pixels"])
    ] = None
    max_pixels: Annotated[
        int | None, _limit("Largest number of pixels that the processor makes of a picture", _PIXELS["max_pixels"])
    ] = None
    media_root: Annotated[
        str | None,
        setting(
            "Folder below which relative paths are meant; without it the working directory, as in verl.",
            flag="--media",
            metavar="ROOT",
        ),
    ] = None
    open_media: Annotated[
        bool,
        setting("Open pictures as far as their headers, and hash them.", flag="--open-media/--no-media"),
    ] = True
    decode: Annotated[bool, setting("Decode pictures, which also finds those that are cut off, and takes longer.")] = (
        False
    )
    limit: Annotated[int, setting("Largest number of problems of each kind to show.", metavar="N", ge=0)] = 20
    json_file: Annotated[
        str | None, setting("File to write all problems to, as jsonl.", flag="--json", metavar="OUT")
    ] = None


def check(
    path: str | os.PathLike[str], settings: CheckSettings | None = None, *, progress: bool | None = None
) -> CheckReport:
    """Look at every row of a data file. A file whose columns do not fit is looked at no further.

    Args:
        path: file as `read_rows` reads it.
        settings: how; None for the defaults.
        progress: whether to show a bar; None for on terminals only.

    Raises:
        ValueError, FileNotFoundError, OSError: an argument cannot be used, or `json_file` not be written.
    """
    from PIL import Image  # heavy, as is what decodes with it

    settings = settings or CheckSettings()
    start = time.monotonic()
    rows = read_rows(path)
    if settings.model is not None and not settings.open_media:
        raise ValueError("prompts are measured with their pictures: leave out either the model or --no-media")
    if settings.decode and not settings.open_media:
        raise ValueError("pictures that are not opened cannot be decoded: leave out either --decode or --no-media")
    root = settings.media_root
    if root is not None and not os.path.isdir(root):
        raise ValueError(f"the media root {root!r} is not a folder")
    result = CheckReport(os.fspath(path))
    with ExitStack() as stack:
        file = None if settings.json_file is None else stack.enter_context(_written(Path(settings.json_file)))
        run = Checker(result, settings.limit, file)
        for problem in _file_problems(result):
            run.add(problem)
        if result.kind is not None and not result.problems:
            if settings.model is not None:
                run.length, result.bound = _length(result.kind, settings.model, settings)
            media = MediaCheck(None if root is None else os.path.realpath(root), settings.open_media, settings.decode)
            # Their sizes are looked at in any case; here, since filters are the process's and not a thread's.
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            pool = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="media"))
            bar = stack.enter_context(closing(progress_bar(total=number_of_rows(path), unit="row", shown=progress)))
            checked = (check_row(item, result.kind) for item in rows)
            while some := list(islice(checked, _TOGETHER)):
                for row in pool.map(media.look, some) if any(row.pictures for row in some) else some:
                    run.finish(row)
                    bar.update()
            if not result.rows and not result.problems:
                run.add(RowProblem("file", 0, "", "", "it has no rows"))
            run.warn()
    result.seconds = time.monotonic() - start
    return result


@contextmanager
def _written(path: Path) -> Iterator[IO[str]]:
    """Yield a file that has its name when all of it is written, and that no other process writes."""
    with locked(path), whole_file(path) as file:
        yield file


def _file_problems(result: CheckReport) -> Iterator[RowProblem]:
    """Find out what the file holds, and yield why its rows cannot be looked at, if so."""
    try:
        columns = columns_of(result.file)
    except ValueError as error:
        yield RowProblem("file", 0, "", "", str(error))
        return
    result.kind = kind_of(columns)
    if result.kind is None:
        known = "; ".join(f"{what}: {', '.join(MARKS[kind])}" for kind, what in KINDS.items())
        reason = f"its columns are of no known kind (there are: {', '.join(columns)}; {known})"
        yield RowProblem("columns", 0, "", "", reason)
    elif result.file.endswith(".parquet"):
        from pyarrow import parquet

        for name, reason in column_faults(parquet.read_schema(result.file), result.kind):
            yield RowProblem("columns", 0, name, "", reason)


def _length(kind: Kind, model: str, settings: CheckSettings) -> tuple[PromptLength, int]:
    """Return what measures the rows of a file, and the bound of their lengths."""
    given, name = (_SFT, "max_length") if kind == "sft" else (_RL, "max_prompt_length")
    defaults = {name: given[name], **given["mm_processor_kwargs"]}
    bound, least, most = (
        defaults[one] if getattr(settings, one) is None else getattr(settings, one)
        for one in (name, "min_pixels", "max_pixels")
    )
    if not 0 < least <= most:
        raise ValueError(f"pictures of {least:,} to {most:,} pixels: the bounds must be positive, the lower one first")
    try:
        return PromptLength(model, least, most, whole=kind == "sft"), bound
    except (OSError, ValueError) as error:
        raise ValueError(f"the processor of {model!r} cannot be loaded: {error}") from error
