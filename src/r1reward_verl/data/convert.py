"""Conversion: from the files of a data set to one file of preferences.

OUT                  parquet in the columns of `preference.SCHEMA`
OUT.card.json        what stands in it, and what became of every row that was read
OUT.rejects.jsonl    each bad row with its file, line and reason; absent if there is none
OUT.media/           pictures that came as bytes, and frames of video files, named after their content

OUT and its card appear when all of it is written; the rejects stay also where the run ends with an error.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from r1reward_verl.data.duplicates import NearDuplicates, Seen
from r1reward_verl.data.exclusion import Benchmarks
from r1reward_verl.data.files import check_paths, rejects_fault
from r1reward_verl.data.media_folder import MediaFolder, MediaSettler
from r1reward_verl.data.preference import SCHEMA, Preference, place, to_row
from r1reward_verl.data.readers import RowError, read_rows
from r1reward_verl.data.sources.base import Skipped, Source
from r1reward_verl.errors import R1RewardError
from r1reward_verl.progress import progress_bar
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import ParquetOutput, Rejects, locked, whole_file
from r1reward_verl.text import excerpt

_THREADS = 8
_CLASSES = 1_000  # kinds of reasons, categories and sources that are counted apart
_OTHERS = "(others)"

# Values as `excerpt` and other messages write them, but for names of columns; what is left of a reason is its class.
_VALUE = re.compile(
    r"""(?<!\w)(?<!column\ )b?'(?:[^'\\]|\\.)*'(?!\w) | (?<!\w)b?"(?:[^"\\]|\\.)*"(?!\w) |
    \[.*\] | \{.*\} |
    \\x[0-9a-f]{2} | \b(?:None|True|False|nan)\b | (?<![\w.-])-?\d[\w.,]*(?<![.,])""",
    re.VERBOSE | re.DOTALL,
)


class ConversionError(R1RewardError):
    """Too little of the input could be converted; what became of it is in `report`."""

    def __init__(self, message: str, report: ConversionReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass
class ConversionReport:
    """What became of the rows of a run, and what was written.

    Attributes:
        rows: rows `read`; of these `rejected`, and `skipped` wholly or in part.
        lost_files: files whose rest could not be read.
        preferences: those `found` in the rows; `duplicates` of an earlier one (`duplicates_opposite`: with the other
            response the better one), `near_duplicates` likewise if they were looked for, `excluded`, `written`; of the
            latter those that `kept_order` because of their trace, and the `same_question` as a benchmark's with
            another picture.
        rejects, skips: kind of reason -> rows.
        excluded: benchmark file -> preferences that stand in it.
        benchmark_rows: benchmark file -> rows; those of them that were `unusable` hold no question or no usable media.
        labels, sources, categories: of what was written.
    """

    rows: Counter[str] = field(default_factory=Counter)
    lost_files: list[str] = field(default_factory=list)
    preferences: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)
    skips: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    benchmark_rows: dict[str, dict[str, int]] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        rows, found = self.rows, self.preferences
        lines = [
            f"rows         {rows['read']:,} read, {rows['rejected']:,} rejected, {rows['skipped']:,} skipped",
            f"preferences  {found['found']:,} found, {found['duplicates']:,} duplicates "
            f"({found['duplicates_opposite']:,} with the opposite label), {found['excluded']:,} excluded, "
            f"{found['written']:,} written",
        ]
        if "near_duplicates" in found:
            lines.append(
                f"             {found['near_duplicates']:,} near-duplicates "
                f"({found['near_duplicates_opposite']:,} with the opposite label)"
            )
        if found["kept_order"]:
            lines.append(f"             {found['kept_order']:,} kept in their order, since a trace speaks of it")
        if found["same_question"]:
            lines.append(
                f"             {found['same_question']:,} ask a benchmark's question about a picture that is not "
                "known to be the same; kept"
            )
        for name in ("labels", "sources", "categories", "rejects", "skips", "excluded"):
            total = sum(getattr(self, name).values())
            for position, (value, count) in enumerate(getattr(self, name).most_common(20)):
                lines.append(f"{'' if position else name:<12} {count:>9,}  {count / total:6.1%}  {value}")
        for file, counts in self.benchmark_rows.items():
            if counts["unusable"]:
                lines.append(f"{file}: {counts['unusable']:,} of {counts['rows']:,} rows cannot be compared")
        return "\n".join(lines)


@dataclass
class _Row:
    """A row on its way through the run; `names` are those of the media of each preference, as the source has them."""

    file: int
    number: int
    raw: Any
    preferences: list[Preference] = field(default_factory=list)
    names: list[list[str]] = field(default_factory=list)
    rejected: str | None = None
    skipped: str | None = None
    rows: int = 1


def _read(source: Source, file: int, item: Any) -> _Row:
    if isinstance(item, RowError):
        return _Row(file, item.number, item.raw, rejected=item.reason, rows=item.rows or 1)
    number, raw = item
    row = _Row(file, number, raw)
    try:
        for preference in source.read(raw, number):
            if not isinstance(preference, Preference):
                raise ValueError(f"the source made {excerpt(preference)} of it, which is no Preference")
            row.preferences.append(preference)
    except Skipped as reason:
        row.skipped = str(reason)
    except ValueError as error:
        row.preferences, row.rejected = [], str(error)
    except Exception as error:  # a user's own source need not foresee every bad row
        row.preferences, row.rejected = [], f"{type(error).__name__}: {error}"
    for one in row.preferences:
        media = (*one.images, *(one.video or ())[:1])
        row.names.append([os.path.basename(medium.path.rstrip("/")) for medium in media if medium.path is not None])
    return row


def _settled(rows: Iterable[_Row], settler: MediaSettler, pool: ThreadPoolExecutor) -> Iterator[_Row]:
    """Yield the rows in their order, their media settled by the pool's threads, a few rows ahead at most."""

    def settle(row: _Row) -> _Row:
        try:
            row.preferences = settler.settle(row.preferences)
        except ValueError as error:
            row.preferences, row.rejected = [], str(error)
        return row

    waiting: deque[_Row | Future[_Row]] = deque()
    for row in rows:
        media = (one for found in row.preferences for one in (*found.images, *(found.video or ())))
        waiting.append(pool.submit(settle, row) if any(map(settler.has_work, media)) else row)
        while waiting and (isinstance(waiting[0], _Row) or len(waiting) > 2 * _THREADS):
            yield _result(waiting.popleft())
    yield from map(_result, waiting)


def _result(row: _Row | Future[_Row]) -> _Row:
    return row if isinstance(row, _Row) else row.result()


class ConvertSettings(Settings, frozen=True, kw_only=True):
    """How a data set is converted."""

    media_root: Annotated[
        str | None,
        setting(
            "Folder below which the paths in the data are meant. Checked paths become absolute.",
            flag="--media",
            metavar="ROOT",
        ),
    ] = None
    check_media: Annotated[
        bool,
        setting(
            "Open and hash each file. Otherwise paths stay as they are, and videos are not sampled.",
            flag="--check-media/--no-check-media",
        ),
    ] = True
    inline: Annotated[bool, setting("Write the pictures into OUT instead of their paths.")] = False
    frames: Annotated[int, setting("Largest number of frames of a video, evenly sampled.", metavar="N", ge=1)] = 32
    seed: Annotated[int, setting("Seed of which response comes first. Preferences with a trace keep their order.")] = 0
    exclude: Annotated[
        list[str],
        setting(
            "Benchmark file whose questions and pictures are left out. Repeat it for several.", metavar="BENCHMARK_FILE"
        ),
    ] = msgspec.field(default_factory=list)
    near_duplicates: Annotated[
        float | None,
        setting(
            "Also drop preferences with the same media as an earlier one and nearly the same texts: from this Jaccard "
            "similarity on, 0.5 to 1, for example 0.9. Takes about 2 kB a row, and half a second for 1,000 rows.",
            metavar="THRESHOLD",
        ),
    ] = None
    max_rejects: Annotated[
        float, setting("Largest share of rows that may be rejected.", metavar="SHARE", ge=0, le=1)
    ] = 0.05


def convert(
    source: Source,
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: ConvertSettings | None = None,
    *,
    progress: bool | None = None,
) -> ConversionReport:
    """Write the preferences in the files of a source to one parquet file, whole or not at all.

    Args:
        source: how rows become preferences.
        inputs: files as `read_rows` reads them.
        out: parquet file to write, in the order of the input; one that is there is replaced at the end. Files of
            other names beside it: see above.
        settings: how; None for the defaults.
        progress: whether to show a bar; None for on terminals only.

    Returns:
        Counts of everything, as in the card.

    Raises:
        ValueError, FileNotFoundError: an argument cannot be used; nothing has been written.
        LockedError: another process writes the same output.
        ConversionError: more rows were rejected, a file's rest is lost, or nothing is left to write.
        NoMediaRoot: a row names a file, and there is no `media_root`.
        OSError: the disk is full, for example. In the last three cases `out` is as it was before.
    """
    from PIL import Image

    settings = settings or ConvertSettings()
    out, names = Path(out), [os.fspath(path) for path in inputs]
    check_paths(names, out)
    readers = [read_rows(path, lambda size: bar.update(size)) for path in names]
    near = None if settings.near_duplicates is None else NearDuplicates(settings.near_duplicates)
    benchmarks = Benchmarks(settings.exclude, settings.media_root) if settings.exclude else None
    report = ConversionReport(benchmark_rows=benchmarks.rows if benchmarks else {})
    with ExitStack() as stack:
        stack.enter_context(locked(out))
        store = None if settings.inline else MediaFolder(out.with_name(f"{out.name}.media"))
        settler = MediaSettler(settings.media_root, store, settings.frames, settings.check_media)
        if store is not None:
            stack.callback(store.discard)
        rejects = stack.enter_context(closing(Rejects(out.with_name(f"{out.name}.rejects.jsonl"))))
        output = ParquetOutput(out, SCHEMA)
        stack.callback(output.discard)
        size = sum(map(os.path.getsize, names))
        bar = progress_bar(total=size, unit="B", unit_scale=True, unit_divisor=1024, shown=progress)
        stack.callback(bar.close)
        # The size is looked at in any case; here, since filters are the process's and not a thread's.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="media")
        stack.callback(pool.shutdown, cancel_futures=True)

        def rows() -> Iterator[_Row]:
            for file, reader in enumerate(readers):
                for item in reader:
                    if isinstance(item, RowError) and item.rows is None:
                        report.lost_files.append(f"{names[file]}:{item.number}")
                    yield _read(source, file, item)
                bar.set_postfix(rejected=report.rows["rejected"], refresh=False)

        writer = _Writer(report, output, rejects, names, benchmarks, near, settings.seed)
        for row in _settled(rows(), settler, pool):
            writer.add(row)
        rejects.close()
        _check_report(report, settings.max_rejects, rejects.path)
        output.finish()
        about = {"source": source.name, "inputs": names, **msgspec.structs.asdict(settings)}
        about["media_root"] = None if settings.media_root is None else os.path.abspath(settings.media_root)
        with whole_file(out.with_name(f"{out.name}.card.json")) as card:
            card.write(json.dumps({**about, **vars(report)}, indent=2, ensure_ascii=False) + "\n")
            card.flush()  # a full disk shows here, before anything gets its name
            if store is not None:
                store.commit()
            output.commit()
    return report


def _check_report(report: ConversionReport, max_rejects: float, rejects: Path) -> None:
    read, rejected = report.rows["read"], report.rows["rejected"]
    if report.lost_files:
        raise ConversionError(f"cannot be read to the end: {', '.join(report.lost_files)} (see {rejects})", report)
    if fault := rejects_fault(rejected, read, max_rejects, rejects):
        raise ConversionError(fault, report)
    if not report.preferences["written"]:
        raise ConversionError(f"none of {read:,} rows is left to be written", report)


class _Writer:
    """Decides about the preferences of each row, writes and counts them."""

    def __init__(
        self,
        report: ConversionReport,
        output: ParquetOutput,
        rejects: Rejects,
        inputs: Sequence[str],
        benchmarks: Benchmarks | None,
        near: NearDuplicates | None,
        seed: int,
    ) -> None:
        self.report, self.output, self.rejects = report, output, rejects
        self.inputs, self.benchmarks, self.near, self.seed = inputs, benchmarks, near, seed
        self.seen = Seen(inputs)
        if near is not None:
            report.preferences.update(near_duplicates=0, near_duplicates_opposite=0)

    def add(self, row: _Row) -> None:
        """Write what a row holds."""
        report = self.report
        report.rows["read"] += row.rows
        reasons = [] if row.rejected is None else [row.rejected]
        if row.skipped is not None:
            report.rows["skipped"] += 1
            _count(report.skips, _reason_class(row.skipped))
        for preference, names in zip(row.preferences, row.names, strict=False):
            report.preferences["found"] += 1
            try:
                if self._is_new(preference, names, row):
                    self._write(preference)
            except ValueError as error:
                reasons.append(str(error))
        for reason in reasons:
            self.rejects.add(self.inputs[row.file], row.number, reason, row.raw)
        if reasons:
            report.rows["rejected"] += row.rows
            _count(report.rejects, _reason_class(reasons[0]), row.rows)

    def _is_new(self, preference: Preference, names: Sequence[str], row: _Row) -> bool:
        counts = self.report.preferences
        opposite = self.seen.add(preference, row.file, row.number)
        if opposite is not None:
            counts["duplicates"] += 1
            counts["duplicates_opposite"] += opposite
            return False
        if self.benchmarks is not None and (file := self.benchmarks.find(preference, names)) is not None:
            counts["excluded"] += 1
            self.report.excluded[file] += 1
            return False
        if self.near is not None and (opposite := self.near.find(preference)) is not None:
            counts["near_duplicates"] += 1
            counts["near_duplicates_opposite"] += opposite
            return False
        return True

    def _write(self, preference: Preference) -> None:
        report = self.report
        if self.benchmarks is not None:
            report.preferences["same_question"] += self.benchmarks.asks(preference.question)
        if preference.trace is None:
            preference = place(preference, self.seed)
        else:
            report.preferences["kept_order"] += 1
        self.output.add(to_row(preference))
        report.preferences["written"] += 1
        report.labels[str(preference.label)] += 1
        _count(report.sources, preference.source)
        _count(report.categories, preference.category)


def _reason_class(reason: str) -> str:
    text = " ".join(_VALUE.sub("…", reason[:1000]).split())
    return text if len(text) <= 120 else f"{text[:119]}…"


def _count(counter: Counter[str], key: str, times: int = 1) -> None:
    counter[key if key in counter or len(counter) < _CLASSES else _OTHERS] += times
