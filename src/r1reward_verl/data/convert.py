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
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from r1reward_verl.data.duplicates import NearDuplicates, content, digest
from r1reward_verl.data.exclusion import Benchmarks
from r1reward_verl.data.files import check_paths
from r1reward_verl.data.media_folder import MediaFolder, MediaSettler
from r1reward_verl.data.preference import SCHEMA, Preference, place, to_row
from r1reward_verl.data.readers import RowError, read_rows
from r1reward_verl.data.sources.base import Skipped, Source
from r1reward_verl.errors import R1RewardError
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import ParquetOutput, Rejects, locked
from r1reward_verl.text import excerpt

_THREADS = 8
_CLASSES = 1_000  # kinds of reasons, categories and sources that are counted apart
_OTHERS = "(others)"

# Values as `excerpt` and other messages write them; what is left of a reason is its class.
_VALUE = re.compile(
    r"""(?<!\w)b?'(?:[^'\\]|\\.)*'(?!\w) | (?<!\w)b?"(?:[^"\\]|\\.)*"(?!\w) | \[.*\] | \{.*\} |
    \\x[0-9a-f]{2} | \b(?:None|True|False|nan)\b | (?<![\w.])-?\d[\w.,]*(?<![.,])""",
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


def _file_names(preference: Preference) -> list[str]:
    media = (*preference.images, *(preference.video or ())[:1])
    return [os.path.basename(one.path.rstrip("/")) for one in media if one.path is not None]


@dataclass
class _Row:
    """A row on its way through the run."""

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
        row.rejected = str(error)
    except Exception as error:  # a user's own source need not foresee every bad row
        row.rejected = f"{type(error).__name__}: {error}"
    if row.rejected is not None:
        row.preferences = []
    row.names = [_file_names(preference) for preference in row.preferences]
    return row


def _settled(rows: Iterable[_Row], settler: MediaSettler, pool: ThreadPoolExecutor) -> Iterator[_Row]:
    """Yield the rows in their order, their media settled by the pool's threads, a few rows ahead at most."""

    def settle(row: _Row) -> None:
        try:
            row.preferences = settler.settle(row.preferences)
        except ValueError as error:
            row.preferences, row.rejected = [], str(error)

    waiting: deque[tuple[_Row, Future[None] | None]] = deque()
    try:
        for row in rows:
            media = [one for found in row.preferences for one in (*found.images, *(found.video or ()))]
            if any(settler.check or one.data is not None for one in media):
                waiting.append((row, pool.submit(settle, row)))
            else:
                waiting.append((row, None))
            while waiting and (waiting[0][1] is None or len(waiting) > 2 * _THREADS):
                yield _done(*waiting.popleft())
        while waiting:
            yield _done(*waiting.popleft())
    finally:
        for _, future in waiting:
            if future is not None:
                future.cancel()


def _done(row: _Row, future: Future[None] | None) -> _Row:
    if future is not None:
        future.result()
    return row


def _reason_class(reason: str) -> str:
    text = " ".join(_VALUE.sub("…", reason[:1000]).split())
    return text if len(text) <= 120 else f"{text[:119]}…"


def _count(counter: Counter[str], key: str, times: int = 1) -> None:
    counter[key if key in counter or len(counter) < _CLASSES else _OTHERS] += times


class _Progress:
    """A bar over the bytes of all input files, on a terminal."""

    def __init__(self, inputs: Sequence[str], visible: bool | None) -> None:
        from tqdm import tqdm

        self.inputs = inputs
        self.sizes = [os.path.getsize(path) for path in inputs]
        # None lets tqdm show it on terminals only.
        hidden = None if visible is None else not visible
        self.bar = tqdm(total=sum(self.sizes), unit="B", unit_scale=True, unit_divisor=1024, disable=hidden)
        self._next = 0.0
        self._parquet_rows: dict[int, int] = {}

    def at(self, file: int, number: int, rejected: int) -> None:
        if self.bar.disable or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 0.5
        self._show(sum(self.sizes[:file]) + min(self._position(file, number), self.sizes[file]))
        self.bar.set_postfix(rejected=rejected, refresh=False)

    def _show(self, position: int) -> None:
        self.bar.update(max(position - int(self.bar.n), 0))

    def _position(self, file: int, number: int) -> int:
        path = self.inputs[file]
        if path.endswith(".parquet"):
            # Read by column: rows tell more about the way that is left than the position in the file.
            if file not in self._parquet_rows:
                from pyarrow import parquet

                with suppress(Exception):
                    self._parquet_rows[file] = parquet.read_metadata(path).num_rows
            return self.sizes[file] * number // max(self._parquet_rows.setdefault(file, 0), number, 1)
        import psutil

        real = os.path.realpath(path)
        with suppress(psutil.Error):
            opened = [file for file in psutil.Process().open_files() if file.path == real]
            return max((getattr(file, "position", 0) for file in opened), default=0)
        return 0

    def finish(self) -> None:
        self._show(sum(self.sizes))

    def close(self) -> None:
        self.bar.close()


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
    out = Path(out)
    names = [os.fspath(path) for path in inputs]
    check_paths(names, out)
    readers = [read_rows(path) for path in names]
    near = None if settings.near_duplicates is None else NearDuplicates(settings.near_duplicates)
    benchmarks = Benchmarks(settings.exclude, settings.media_root) if settings.exclude else None
    report = ConversionReport(benchmark_rows=benchmarks.rows if benchmarks else {})
    card = out.with_name(f"{out.name}.card.json")
    card_partial = out.with_name(f"{card.name}.partial")

    with ExitStack() as stack:
        stack.enter_context(locked(out))
        settler = MediaSettler(
            settings.media_root,
            None if settings.inline else MediaFolder(out.with_name(f"{out.name}.media")),
            settings.frames,
            settings.check_media,
        )
        if settler.store is not None:
            stack.callback(settler.store.discard)
        stack.callback(card_partial.unlink, missing_ok=True)
        rejects = stack.enter_context(closing(Rejects(out.with_name(f"{out.name}.rejects.jsonl"))))
        output = ParquetOutput(out, SCHEMA)
        stack.callback(output.discard)
        bar = stack.enter_context(closing(_Progress(names, progress)))
        # The size is looked at in any case; here, since filters are the process's and not a thread's.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="media"))

        def rows() -> Iterator[_Row]:
            for file, reader in enumerate(readers):
                for item in reader:
                    if isinstance(item, RowError) and item.rows is None:
                        report.lost_files.append(f"{names[file]}:{item.number}")
                    row = _read(source, file, item)
                    bar.at(file, row.number, report.rows["rejected"])
                    yield row

        accept = _acceptor(
            report,
            lambda row, reason: rejects.add(names[row.file], row.number, reason, row.raw),
            lambda preference: output.add(to_row(preference)),
            benchmarks,
            near,
            names,
            settings.seed,
        )
        for row in _settled(rows(), settler, pool):
            accept(row)
        bar.finish()
        rejects.close()
        _check_report(report, settings.max_rejects, rejects.path)
        output.finish()
        about = {"source": source.name, "inputs": names, **msgspec.structs.asdict(settings)}
        about["media_root"] = None if settings.media_root is None else os.path.abspath(settings.media_root)
        text = json.dumps({**about, **vars(report)}, indent=2, ensure_ascii=False) + "\n"
        card_partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        if settler.store is not None:
            settler.store.commit()
        output.commit()
        card_partial.replace(card)
    return report


def _check_report(report: ConversionReport, max_rejects: float, rejects: Path) -> None:
    read, rejected = report.rows["read"], report.rows["rejected"]
    if report.lost_files:
        raise ConversionError(f"cannot be read to the end: {', '.join(report.lost_files)} (see {rejects})", report)
    if rejected > max_rejects * read:
        raise ConversionError(
            f"{rejected:,} of {read:,} rows were rejected, more than {max_rejects:.1%}: see {rejects}, and raise "
            "--max-rejects if the rest is what you want",
            report,
        )
    if not report.preferences["written"]:
        raise ConversionError(f"none of {read:,} rows is left to be written", report)


def _acceptor(
    report: ConversionReport,
    reject: Callable[[_Row, str], None],
    write: Callable[[Preference], None],
    benchmarks: Benchmarks | None,
    near: NearDuplicates | None,
    inputs: Sequence[str],
    seed: int,
) -> Callable[[_Row], None]:
    """Return what decides about a row's preferences, writes and counts them."""
    contents: dict[bytes, int] = {}
    ids: dict[bytes, int] = {}
    if near is not None:
        report.preferences.update(near_duplicates=0, near_duplicates_opposite=0)

    def accept(row: _Row) -> None:
        report.rows["read"] += row.rows
        reasons = [] if row.rejected is None else [row.rejected]
        if row.skipped is not None:
            report.rows["skipped"] += 1
            _count(report.skips, _reason_class(row.skipped))
        here = row.file << 40 | row.number
        for preference, names in zip(row.preferences, row.names, strict=False):
            report.preferences["found"] += 1
            better_first = preference.label == (1 if preference.response_1 < preference.response_2 else 2)
            key = content(preference)
            first = contents.get(key)
            if first is not None:
                report.preferences["duplicates"] += 1
                report.preferences["duplicates_opposite"] += first & 1 != better_first
                continue
            identity = digest(preference.source, preference.id)
            first = ids.get(identity)
            if first is not None:
                where = f"{inputs[first >> 40]}:{first & (1 << 40) - 1}"
                reasons.append(f"id {excerpt(preference.id)} stands already in {where}, with another content")
                continue
            ids[identity] = here
            # Not before: the copy of a row that was rejected for its id is no duplicate.
            contents[key] = here << 1 | better_first
            if benchmarks is not None:
                file = benchmarks.find(preference, names)
                if file is not None:
                    report.preferences["excluded"] += 1
                    report.excluded[file] += 1
                    continue
            if near is not None:
                opposite = near.find(preference)
                if opposite is not None:
                    report.preferences["near_duplicates"] += 1
                    report.preferences["near_duplicates_opposite"] += opposite
                    continue
            if benchmarks is not None:
                report.preferences["same_question"] += benchmarks.asks(preference.question)
            if preference.trace is None:
                preference = place(preference, seed)
            else:
                report.preferences["kept_order"] += 1
            write(preference)
            report.preferences["written"] += 1
            report.labels[str(preference.label)] += 1
            _count(report.sources, preference.source)
            _count(report.categories, preference.category)
        for reason in reasons:
            reject(row, reason)
        if reasons:
            report.rows["rejected"] += row.rows
            _count(report.rejects, _reason_class(reasons[0]), row.rows)

    return accept
