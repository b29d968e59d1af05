"""The run folder of an evaluation: its only reader (`read_run`) and its only writer (`RunFolder`).

run.json            `settings`: what the judgements depend on; `about`: further facts about the run
cases.jsonl         one line a case: row, id, category, question, chosen, rejected, media (absolute paths, or "inline");
                    `reference_category` where the reference's rules give another one
judgements.jsonl    one line a judgement (`engines.base.Judgement`); of repeated ones the last counts
metrics.json        the figures, and under `reference` those of the reference's protocol
missing.txt         media files that were missing when the run was to begin, one path a line

`judgements.jsonl` only grows. The other files are replaced with the first judgement that is added, so a run that ends
before it leaves all files as they were. A killed run loses no judgement; a last line without its end is ignored by
readers and cut off by the next run. If the machine itself goes down, the judgements of the last seconds can be lost.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from r1reward_verl.engines.base import Judgement
from r1reward_verl.errors import R1RewardError
from r1reward_verl.evaluation.benchmarks import Case
from r1reward_verl.evaluation.reading import READINGS, Reading
from r1reward_verl.storage import AppendFile, locked, replaced_folder, write_json
from r1reward_verl.text import excerpt

ORDERS = {"chosen-first": 1, "rejected-first": 2}
"""Order in which a case is shown -> label: which of the two responses is the better one."""
MAX_SAMPLES = 10_000

_RUN, _CASES, _JUDGEMENTS, _METRICS = "run.json", "cases.jsonl", "judgements.jsonl", "metrics.json"
_MISSING = "missing.txt"
_PARTIAL_CASES = f"{_CASES}.partial"
_FORM = 1


class RunFolderError(R1RewardError):
    """A run folder that cannot be resumed: another run writes it, it is damaged, or it holds another evaluation."""


class SavedCase(msgspec.Struct, frozen=True):
    """A line of `cases.jsonl`."""

    row: int
    id: str
    category: str
    question: str = ""
    chosen: str = ""
    rejected: str = ""
    media: list[str] | Literal["inline"] = []
    reference_category: str | None = None


@dataclass(frozen=True)
class SavedRun:
    """A run folder for reading; cases and judgements are read one at a time and not kept."""

    folder: Path  # where it is
    settings: Mapping[str, Any]  # what the judgements depend on; empty without a `run.json`
    about: Mapping[str, Any]  # further facts about the run

    @property
    def reading(self) -> Reading:
        """How the run reads judgements."""
        value = self.about.get("lenient")
        return value if value in READINGS else "strict"

    def cases(self) -> Iterator[SavedCase]:
        """Yield the lines of `cases.jsonl`.

        Raises:
            ValueError: a line that is not a case; the message names it.
        """
        for path, number, line in self._lines(_CASES):
            try:
                yield msgspec.convert(json.loads(line), SavedCase)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not a case ({error}): {excerpt(line)}") from None

    def judgements(self) -> Iterator[Judgement]:
        """Yield the judgements in the order of the file, those that failed included.

        Raises:
            ValueError: a line that is not a judgement; the message names it. A last line without its end is ignored.
        """
        for path, number, line in self._lines(_JUDGEMENTS):
            if line.endswith(b"\n"):
                yield _read_judgement(path, number, line)

    def _lines(self, name: str) -> Iterator[tuple[Path, int, bytes]]:
        path = self.folder / name
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield path, number, line

    @property
    def finished(self) -> bool:
        """Whether there are figures."""
        return (self.folder / _METRICS).is_file()

    def metrics(self) -> dict[str, Any]:
        """Return the figures.

        Raises:
            ValueError: `metrics.json` is missing or damaged.
        """
        return _read_object(self.folder / _METRICS)

    @property
    def cut_off(self) -> bool:
        """Whether the last judgement has no end, because a run was killed while it wrote."""
        with (self.folder / _JUDGEMENTS).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            return file.read(1) not in (b"", b"\n")


def read_run(folder: str | os.PathLike[str]) -> SavedRun:
    """Open a run folder for reading.

    Args:
        folder: what `r1reward eval run` wrote.

    Raises:
        ValueError: there is no such folder, it lacks a file, or its `run.json` is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no run at {str(folder)!r}: give the folder that `r1reward eval run` wrote")
    for name in (_CASES, _JUDGEMENTS):
        if not (folder / name).is_file():
            below = ", ".join(sorted(path.parent.name for path in folder.glob(f"*/{name}")))
            hint = f"; it holds the runs {below}, name one of them" if below else ""
            raise ValueError(
                f"{folder} has no {name}: `r1reward eval run` writes it, and resumes where it stopped{hint}"
            )
    content = _read_object(folder / _RUN) if (folder / _RUN).exists() else {}
    settings, about = (content.get(name, {}) for name in ("settings", "about"))
    samples = settings.get("samples", 0) if isinstance(settings, dict) and isinstance(about, dict) else None
    if type(samples) is not int or not 0 <= samples < MAX_SAMPLES:
        raise ValueError(f"{folder / _RUN}: not what `r1reward eval run` writes: settings are {excerpt(settings)}")
    return SavedRun(folder, settings, about)


def copy_run(saved: SavedRun, folder: str | os.PathLike[str], metrics: Mapping[str, Any]) -> None:
    """Write a copy of a run, with other figures, to a new folder.

    Raises:
        ValueError: there is something at `folder` already.
        LockedError: another process writes there.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists: name a new folder for the copy")
    with locked(folder), replaced_folder(folder) as partial:
        for name in (_CASES, _JUDGEMENTS):
            shutil.copyfile(saved.folder / name, partial / name)
        about = {**saved.about, "lenient": metrics["lenient"], "copy_of": str(saved.folder.resolve())}
        write_json(partial / _RUN, {"settings": saved.settings, "about": about})
        write_json(partial / _METRICS, metrics)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content


def _read_judgement(path: Path, number: int, line: bytes) -> Judgement:
    try:
        # Not msgspec's own reader of JSON, which refuses half characters.
        one = msgspec.convert(json.loads(line), Judgement)
        if one.order not in ORDERS or not 0 <= one.sample < MAX_SAMPLES:
            raise ValueError(f"order {excerpt(one.order)}, sample {one.sample}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}: not a judgement ({error}): {excerpt(line)}") from None
    return one


class RunFolder:
    """A run folder for writing, created or resumed; opened by one process at a time.

    Judgements that all failed do not bind: with other settings they are forgotten.

    Args:
        folder: created if it is missing.
        settings: what the judgements depend on, as JSON holds it; among it `samples` and `limit`.
        other_servers: whether the `urls` may be others than before.

    Raises:
        RunFolderError: see there; the message says what to do.
        OSError: it cannot be read or written.

    Attributes:
        about: further facts about the run, those of earlier attempts included.
        cut_off: whether a last line without its end was removed.
    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: Mapping[str, Any], *, other_servers: bool = False
    ) -> None:
        self.folder = Path(folder)
        self._other_servers = other_servers
        self.settings = {"form": _FORM, **settings}
        self.about: dict[str, Any] = {}
        self.cut_off = False
        self._rows: set[int] = set()  # that were tried
        self._done: set[int] = set()  # keys of the judgements that need no further attempt
        self._cases: IO[str] | None = None
        self._committed = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise RunFolderError(f"{self.folder} is a file; name a folder") from None
        try:
            self._file = AppendFile(self.folder / _JUDGEMENTS)
        except BlockingIOError:
            raise RunFolderError(
                f"another run writes {self.folder}: wait for its end, or name another folder"
            ) from None
        try:
            if not self._file.is_empty():  # else there is nothing to mix with
                earlier = self._read_settings()
                self._read_judgements(int(max(earlier.get("samples", 0), settings["samples"])))
                self._check_settings(earlier)
                self._file.cut()
        except BaseException:
            self._file.close()
            raise

    @property
    def count(self) -> int:
        """Number of judgements that need no further attempt, those of prompts that are too long included."""
        return len(self._done)

    def _read_settings(self) -> dict[str, Any]:
        """Return the settings of the judgements that are there, and take over the facts about the run so far."""
        try:
            content = _read_object(self.folder / _RUN)
            earlier, self.about = dict(content["settings"]), dict(content["about"])
            int(earlier.get("samples", 0))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{self._file.path} holds judgements, but {self.folder / _RUN} does not say with which settings they "
                f"were made ({type(error).__name__}: {error}); name another folder, or remove this one"
            ) from None
        return earlier

    def _read_judgements(self, samples: int) -> None:
        try:
            for number, _, line in self._file.lines():
                one = _read_judgement(self._file.path, number, line)
                if one.sample > samples:
                    raise ValueError(f"{self._file.path}, line {number}: not a judgement (sample {one.sample})")
                self._note(one)
        except ValueError as error:
            raise RunFolderError(f"{error}; remove the line, or the folder") from None
        self.cut_off = self._file.torn

    def _check_settings(self, earlier: Mapping[str, Any]) -> None:
        """Refuse to mix the judgements that are there with those of other settings."""
        changed = [name for name in {**earlier, **self.settings} if self._differs(name, earlier)]
        if changed and not self._done:  # nothing was answered: a wrong name of the model must not block the right one
            self._forget()
        elif changed:
            values = "; ".join(
                f"{name} was {excerpt(earlier.get(name))} and is {excerpt(self.settings.get(name))} now"
                for name in changed
            )
            servers = ", or go on with --other-servers" if changed == ["urls"] else ""
            raise RunFolderError(
                f"{self.folder} holds judgements of another evaluation: {values}. Use the same (--samples and --limit "
                f"can be raised), name another folder, or remove this one{servers}"
            )

    def _forget(self) -> None:
        self._file.size, self.about = 0, {}
        self._file.cut()
        self._rows.clear()

    def _differs(self, name: str, earlier: Mapping[str, Any]) -> bool:
        before, now = earlier.get(name), self.settings.get(name)
        if name == "samples":
            return max((key % MAX_SAMPLES for key in self._done), default=0) > int(now or 0)
        if name == "urls" and (before is None or self._other_servers):  # before there were any in the file
            return False
        return name != "limit" and before != now  # `keep_to` checks which cases a limit leaves

    def keep_to(self, rows: Set[int]) -> None:
        """Refuse to go on if cases were judged that are not among the rows of this attempt.

        Raises:
            RunFolderError: see there.
        """
        others = self._rows - rows
        if others and not self._done:
            self._forget()
        elif others:
            raise RunFolderError(
                f"{self.folder} holds judgements of {len(others):,} cases that --limit {self.settings.get('limit')} "
                "does not draw: raise it, name another folder, or remove this one"
            )

    def _note(self, one: Judgement) -> None:
        self._rows.add(one.row)
        (self._done.discard if one.status == "failed" else self._done.add)(_key(one.row, one.order, one.sample))

    def wanted(self, row: int, order: str) -> tuple[int, ...]:
        """Return the numbers of the judgements of a case that are missing or failed."""
        samples = range(int(self.settings["samples"]) + 1)
        return tuple(sample for sample in samples if _key(row, order, sample) not in self._done)

    def add_case(self, case: Case) -> None:
        """Add a case to the new `cases.jsonl`, which gets its name with `commit`."""
        if self._cases is None:
            self._cases = (self.folder / _PARTIAL_CASES).open("w", encoding="utf-8", errors="replace")
        paths = [one.path for one in (*case.images, *(case.video or ()))]
        line = {name: getattr(case, name) for name in ("row", "id", "category", "question", "chosen", "rejected")}
        line["media"] = "inline" if None in paths else paths
        if case.reference_category != case.category:
            line["reference_category"] = case.reference_category
        self._cases.write(json.dumps(line, ensure_ascii=False) + "\n")

    def add(self, judgements: Sequence[Judgement]) -> None:
        """Append judgements, all or, where the disk is full, none of them.

        Raises:
            OSError: they could not be written; the file is as it was before.
        """
        self.commit()
        self._file.append(b"".join(map(_line, judgements)))
        for one in judgements:
            self._note(one)

    def flush(self) -> None:
        """Bring what was added to the disk."""
        self._file.flush()

    def commit(self) -> None:
        """Replace the settings, facts and cases of earlier attempts by those of this one, and delete old figures."""
        if self._committed:
            return
        (self.folder / _METRICS).unlink(missing_ok=True)
        if self._cases is not None:
            self._cases.close()
            (self.folder / _PARTIAL_CASES).replace(self.folder / _CASES)
        self._committed = True
        self.record()

    def record(self, **about: Any) -> None:
        """Add facts to those about the run; `run.json` holds them from `commit` on."""
        self.about.update(about)
        if self._committed:
            write_json(self.folder / _RUN, {"settings": self.settings, "about": self.about})

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write `metrics.json`."""
        write_json(self.folder / _METRICS, metrics)

    def write_missing(self, paths: Iterable[str]) -> Path:
        """Write the list of missing media files, delete it if there are none, and return its path."""
        path = self.folder / _MISSING
        path.unlink(missing_ok=True)
        if text := "".join(f"{one}\n" for one in paths):
            path.write_text(text, "utf-8", errors="replace")
        return path

    def close(self) -> None:
        """Let others open the folder."""
        try:
            if self._cases is not None:
                self._cases.close()
            (self.folder / _PARTIAL_CASES).unlink(missing_ok=True)
        finally:
            self._file.close()


def _key(row: int, order: str, sample: int) -> int:
    return (2 * row + ORDERS[order] - 1) * MAX_SAMPLES + sample


def _line(judgement: Judgement) -> bytes:
    fields = asdict(judgement)
    del fields["answer_tokens"]  # needed for the rate only
    return json.dumps(fields, ensure_ascii=False).encode(errors="replace") + b"\n"
