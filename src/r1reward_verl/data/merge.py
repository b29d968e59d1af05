"""Merging: several files of preferences become one, each preference once.

OUT                  parquet in the columns of `preference.SCHEMA`
OUT.card.json        what came from which file, and what was left out
OUT.rejects.jsonl    each row that was left out because something is wrong, with file, line and reason
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from r1reward_verl.data.duplicates import Seen
from r1reward_verl.data.files import check_paths, read_preferences, rejects_fault
from r1reward_verl.data.preference import SCHEMA, to_row
from r1reward_verl.data.readers import RowError
from r1reward_verl.errors import R1RewardError
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import ParquetOutput, Rejects, locked, write_json


class MergeError(R1RewardError):
    """Too little of the input could be used."""


class MergeSettings(Settings, frozen=True, kw_only=True):
    """How files of preferences are merged."""

    max_rejects: Annotated[
        float, setting("Largest share of rows that may be rejected.", metavar="SHARE", ge=0, le=1)
    ] = 0.05


@dataclass
class MergeReport:
    """What became of the rows.

    Attributes:
        files: file -> rows `read`, of these `rejected`, `duplicates` of an earlier row (`duplicates_opposite`: with
            the other response the better one), `written`.
        sources: source -> rows written.
    """

    files: dict[str, Counter[str]] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)

    def total(self, what: str) -> int:
        """Return a count over all files."""
        return sum(counts[what] for counts in self.files.values())

    def __str__(self) -> str:
        lines = [f"{'read':>11} {'rejected':>10} {'duplicates':>11} {'opposite':>10} {'written':>11}"]
        names = ("read", "rejected", "duplicates", "duplicates_opposite", "written")
        for file, counts in [*self.files.items(), ("all", Counter({name: self.total(name) for name in names}))]:
            read, rejected, duplicates, opposite, written = (counts[name] for name in names)
            lines.append(f"{read:>11,} {rejected:>10,} {duplicates:>11,} {opposite:>10,} {written:>11,}  {file}")
        lines += [f"{rows:>11,}  {source}" for source, rows in self.sources.most_common(20)]
        return "\n".join(lines)


def merge(
    inputs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], settings: MergeSettings | None = None
) -> MergeReport:
    """Write the preferences of several files to one parquet file, in their order, whole or not at all.

    Of preferences with the same question, media and responses the first stays, with its order of the responses, its
    difficulty and its trace: name annotated files before others. A row whose source and id an earlier row of another
    content has is rejected. Media stay where and as they are.

    Args:
        inputs: files in the columns of `preference.SCHEMA`.
        out: parquet file to write.
        settings: None for the defaults.

    Raises:
        ValueError, FileNotFoundError: an argument cannot be used; nothing has been written.
        LockedError: another process writes the same output.
        MergeError: more rows were rejected, a file's rest is lost, or nothing is left to write.
        OSError: the disk is full, for example. In the last two cases `out` is as it was before.
    """
    settings = settings or MergeSettings()
    out, names = Path(out), [os.fspath(path) for path in inputs]
    check_paths(names, out)
    readers = [read_preferences(path) for path in names]
    report = MergeReport({name: Counter() for name in names})
    seen = Seen(names)
    with ExitStack() as stack:
        stack.enter_context(locked(out))
        rejects = stack.enter_context(closing(Rejects(out.with_name(f"{out.name}.rejects.jsonl"))))
        output = ParquetOutput(out, SCHEMA)
        stack.callback(output.discard)
        for file, (name, reader) in enumerate(zip(names, readers, strict=True)):
            counts = report.files[name]
            for item in reader:
                if isinstance(item, RowError):
                    if item.rows is None:
                        raise MergeError(f"{name}:{item.number}: {item.reason}")
                    counts["read"] += item.rows
                    counts["rejected"] += item.rows
                    rejects.add(name, item.number, item.reason, item.raw)
                    continue
                number, one = item
                counts["read"] += 1
                try:
                    opposite = seen.add(one, file, number)
                except ValueError as error:
                    counts["rejected"] += 1
                    rejects.add(name, number, str(error), to_row(one))
                    continue
                if opposite is not None:
                    counts["duplicates"] += 1
                    counts["duplicates_opposite"] += opposite
                    continue
                counts["written"] += 1
                report.sources[one.source] += 1
                output.add(to_row(one))
        read, rejected = report.total("read"), report.total("rejected")
        if fault := rejects_fault(rejected, read, settings.max_rejects, rejects.path):
            raise MergeError(fault)
        if not report.total("written"):
            raise MergeError(f"none of {read:,} rows is left to be written")
        output.finish()
        output.commit()
        write_json(out.with_name(f"{out.name}.card.json"), {"inputs": names, **vars(report)})
    return report
