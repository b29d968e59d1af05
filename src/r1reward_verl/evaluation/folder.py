"""The folder of an evaluation: what it was made with, its cases, and its judgements as they come.

run.json            `settings`: what the judgements depend on; `about`: what else there is to say about the run
cases.jsonl         one line a case: row, id, category, question, chosen, rejected, media (absolute paths, or "inline");
                    `reference_category` where the reference's rules tell another one
judgements.jsonl    one line a judgement, as in `engine.Judgement`; of repeated ones the last counts
metrics.json        the figures, and under `reference` those of the reference's protocol
missing.txt         media that were not there when the run was to begin, one path a line

`judgements.jsonl` only grows. What the others say changes with the first judgement that is added, so that a run that
does not get as far leaves all as it was. A killed run loses no judgement that is there, and
a last line without its end is cut off by the next run. What the operating system has not written when the machine
itself goes down is what came in the last seconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from r1reward_verl.engines.base import Judgement
from r1reward_verl.evaluation.benchmarks import Case
from r1reward_verl.storage import AppendFile, write_json
from r1reward_verl.text import excerpt

RUN, CASES, JUDGEMENTS, METRICS = "run.json", "cases.jsonl", "judgements.jsonl", "metrics.json"
MISSING = "missing.txt"
ORDERS = ("chosen-first", "rejected-first")
GROWING = ("samples", "limit")
"""Settings that may be raised: what is there stays as good as it was. Lowered they may be as far as no judgement that
is there is beyond them."""

_FORM = 1
_PARTIAL = f"{CASES}.partial"
_WHOLE, _FAILED = 1, 2


class StoreError(RuntimeError):
    """A folder that cannot be gone on with: another run writes it, it is damaged, or holds another evaluation."""


class Store:
    """The judgements of one evaluation; opened by one process at a time.

    Memory: about 150 bytes a case, and two for each sample, whatever the model wrote.

    Args:
        folder: made if it is not there.
        settings: what the judgements depend on, as JSON holds it; among it `samples` and `limit`.

    Raises:
        StoreError: see there; the message says what to do.
        OSError: it cannot be read or written.

    Attributes:
        dropped: lines without their end that were cut off.
        whole: judgements that are there, those of prompts that are too long included.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.settings = {"form": _FORM, **settings}
        self.dropped = self.whole = 0
        self._wanted = range(int(settings["samples"]) + 1)
        self._places = len(self._wanted)
        self._states: dict[int, bytearray] = {}
        self._settled = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise StoreError(f"{self.folder} is a file; name a folder") from None
        self._path = self.folder / JUDGEMENTS
        try:
            self._file = AppendFile(self._path)
        except BlockingIOError:
            raise StoreError(f"another run writes {self.folder}: wait for its end, or name another folder") from None
        try:
            there, self.about = self._found()
            self._read()
            self._compare(there)
            self._file.cut()
        except BaseException:
            self._file.close()
            raise

    def _found(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the judgements were made with, and what is known about the run so far."""
        path = self.folder / RUN
        if self._file.is_empty():
            return self.settings, {}  # nothing to mix with
        try:
            found = json.loads(path.read_bytes())
            there, about = dict(found["settings"]), dict(found["about"])
            self._places = max(self._places, int(there.get("samples", 0)) + 1)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self._path} holds judgements, but {path} does not say what they were made with "
                f"({type(error).__name__}: {error}); name another folder, or remove this one"
            ) from None
        return there, about

    def _compare(self, there: Mapping[str, Any]) -> None:
        """Refuse to mix what is there with judgements of other settings."""
        changed = [name for name in {**there, **self.settings} if self._differs(name, there)]
        if changed:
            values = "; ".join(
                f"{name} was {excerpt(there.get(name))} and is {excerpt(self.settings.get(name))} now"
                for name in changed
            )
            growing = " and ".join(f"--{name}" for name in GROWING)
            raise StoreError(
                f"{self.folder} holds judgements of another evaluation: {values}. Use the same ({growing} can be "
                "raised), name another folder, or remove this one"
            )

    def _differs(self, name: str, there: Mapping[str, Any]) -> bool:
        before, now = there.get(name), self.settings.get(name)
        if before == now:
            return False
        if name not in GROWING:
            return True
        if now is None or (before is not None and before < now):  # without a limit there are all cases
            return False
        return bool(now < self._most[name])  # a case's row is at least its number

    def _read(self) -> None:
        """Learn which judgements are there."""
        self._most = dict.fromkeys(GROWING, 0)
        for number, _, line in self._file.lines():
            try:
                entry = json.loads(line)
                self._count(entry["row"], entry["order"], entry["sample"], entry["status"])
                for name, number_of in (("samples", "sample"), ("limit", "row")):
                    self._most[name] = max(self._most[name], entry[number_of])
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise StoreError(
                    f"{self._path}, line {number}: not a judgement ({type(error).__name__}: {error}); remove the "
                    "line, or the folder"
                ) from None
        self.dropped = int(self._file.torn)

    def _count(self, row: int, order: str, sample: int, status: str) -> None:
        if type(row) is not int or type(sample) is not int or not 0 <= sample < self._places:
            raise ValueError(f"row {excerpt(row)}, sample {excerpt(sample)}")
        state = self._states.setdefault(row, bytearray(2 * self._places))
        place = ORDERS.index(order) * self._places + sample
        self.whole -= state[place] == _WHOLE
        state[place] = _FAILED if status == "failed" else _WHOLE
        self.whole += state[place] == _WHOLE

    def wanted(self, row: int, order: str) -> tuple[int, ...]:
        """Return the numbers of the judgements of a case that are not there yet, or failed."""
        start = ORDERS.index(order) * self._places
        state = self._states.get(row)
        if state is None:
            return tuple(self._wanted)
        return tuple(sample for sample in self._wanted if state[start + sample] != _WHOLE)

    def add(self, judgements: Sequence[Judgement]) -> None:
        """Append judgements, all or, where the disk is full, none of them.

        Raises:
            OSError: they could not be written; the file is as it was before.
        """
        self.settle()
        self._file.append(b"".join(map(_line, judgements)))
        for one in judgements:
            self._count(one.row, one.order, one.sample, one.status)

    def flush(self) -> None:
        """Bring what was added to the disk."""
        self._file.flush()

    def settle(self) -> None:
        """Let the other files say what is judged now; figures of before are deleted."""
        if self._settled:
            return
        (self.folder / METRICS).unlink(missing_ok=True)
        if (partial := self.folder / _PARTIAL).exists():
            partial.replace(self.folder / CASES)
        self._settled = True
        self.note()

    def note(self, **about: Any) -> None:
        """Write `run.json` with these facts beside those it has, as soon as it is settled."""
        self.about.update(about)
        if self._settled:
            write_json(self.folder / RUN, {"settings": self.settings, "about": self.about})

    def close(self) -> None:
        """Let others open the folder."""
        try:
            (self.folder / _PARTIAL).unlink(missing_ok=True)
        finally:
            self._file.close()


def _line(judgement: Judgement) -> bytes:
    fields = asdict(judgement)
    del fields["answer_tokens"]  # of the rate alone
    return json.dumps(fields, ensure_ascii=False).encode(errors="replace") + b"\n"


class CasesFile:
    """`cases.jsonl`, written beside until the store is settled."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / _PARTIAL).open("w", encoding="utf-8", errors="replace")

    def add(self, case: Case, reference_category: str) -> None:
        """Write a case down."""
        media = [*case.images, *(case.video or ())]
        line = {name: getattr(case, name) for name in ("row", "id", "category", "question", "chosen", "rejected")}
        line["media"] = "inline" if any(one.path is None for one in media) else [one.path for one in media]
        if reference_category != case.category:
            line["reference_category"] = reference_category
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """End the file."""
        self._file.close()


def reference_categories(folder: Path) -> Iterable[str]:
    """Yield the category of each case by the reference's rules."""
    with open(folder / CASES, "rb") as file:
        for line in file:
            case = json.loads(line)
            yield str(case.get("reference_category", case["category"]))
