"""The finished calls of an annotation: a file that only grows, from which an interrupted run is resumed.

The first line says what the calls depend on, each further one is a finished call. A line is written with one system
call as soon as the answer is there, so that a killed process loses no finished call; a last line without its end
(killed within that system call, disk full) is cut off by the next run. What the operating system has not yet written
when the machine itself goes down is lost.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1reward_verl.errors import R1RewardError
from r1reward_verl.storage import AppendFile
from r1reward_verl.text import excerpt

_FORM = {"journal": "r1reward data annotate", "version": 1}
_PIECE = 1 << 16


class JournalError(R1RewardError):
    """A journal that cannot be resumed: another run writes it, or it is damaged."""


@dataclass(frozen=True)
class Call:
    """An answered call: one attempt at one preference.

    Attributes:
        row: number of the preference in its file.
        source, id: of the preference.
        attempt: 1 for the first.
        choice: the better response as the judgement says, None if it cannot be read.
        reason: why it cannot be read (`judgement.Failure`).
        agrees: whether the choice is the label.
        finish_reason: as the server says, "length" if it was cut off at the most tokens.
        prompt_tokens, completion_tokens: as the server says, None if it does not.
        cost: of these tokens, None without a price.
        seconds: from the request to the answer, waiting and repeating included.
        text: the judgement.
    """

    row: int
    source: str
    id: str
    attempt: int
    choice: int | None
    reason: str | None
    agrees: bool
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost: float | None
    seconds: float
    text: str


@dataclass
class Tally:
    """Counts of calls, of earlier runs and of this one.

    Attributes:
        calls: all; `agreeing`, `cut` off at the most tokens, and `unmetered`, without numbers of tokens, of them.
        unparsable: reason -> calls.
        prompt_tokens, completion_tokens: of those that have them.
        cost: of those that have one.
        unpriced: prompt and completion tokens of those without a cost.
    """

    calls: int = 0
    agreeing: int = 0
    cut: int = 0
    unmetered: int = 0
    unparsable: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unpriced: tuple[int, int] = (0, 0)

    def add(self, call: Mapping[str, Any]) -> None:
        """Count a call, given as it stands in the journal."""
        self.calls += 1
        self.agreeing += call["agrees"]
        self.cut += call["finish_reason"] == "length"
        if call["reason"] is not None:
            self.unparsable[call["reason"]] += 1
        read, written = call["prompt_tokens"], call["completion_tokens"]
        if read is None or written is None:
            self.unmetered += 1
            return
        self.prompt_tokens += read
        self.completion_tokens += written
        if call["cost"] is None:
            self.unpriced = self.unpriced[0] + read, self.unpriced[1] + written
        else:
            self.cost += call["cost"]


class Journal:
    """The finished calls of one output; opened by one process at a time. One without calls takes any settings.

    Memory: 10 bytes for each row of the input, whatever the teacher wrote.

    Args:
        path: of the file; made if it is not there.
        settings: what the calls depend on, as JSON holds it.
        fresh: begin a new one; one that is there is kept under another name.

    Raises:
        ValueError: the calls in it depend on other settings; the message names both values.
        JournalError: another process has it open, or it is damaged.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = path
        self.tally = Tally()
        self._attempts = array("H")
        self._places = array("Q")  # of the agreeing line; 0, where the header stands, for none
        self._file = self._opened()
        try:
            if fresh and not self._file.is_empty():
                self._put_aside()
            self._read(settings)
            self._file.cut()
            if not self._file.size:
                self._append({**_FORM, **settings})
        except BaseException:
            self._file.close()
            raise

    def _opened(self) -> AppendFile:
        try:
            return AppendFile(self.path)
        except BlockingIOError:
            raise JournalError(f"another run writes {self.path}: wait for its end, or name another output") from None

    def _put_aside(self) -> None:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(aside)
        old, self._file = self._file, self._opened()
        old.close()

    def _read(self, settings: Mapping[str, Any]) -> None:
        """Count what is there."""
        header: dict[str, Any] = {}
        for number, place, line in self._file.lines():
            try:
                entry = json.loads(line)
                if number == 1:
                    if {name: entry[name] for name in _FORM} != _FORM:
                        raise ValueError("another form")
                    header = entry
                else:
                    self._count(entry, place)
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise JournalError(
                    f"{self.path}:{number} is not a line of a journal ({type(error).__name__}: {error}): put back a "
                    "whole copy, or start a new one (--fresh; the old one is kept under another name)"
                ) from None
            if number == 2:
                self._compare(header, settings)
        if not self.tally.calls:
            self._file.size = 0  # the header is written anew, with the settings of now

    def _compare(self, header: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        differ = [name for name in settings if header.get(name) != settings[name]]
        if differ:
            values = "; ".join(
                f"{name} was {excerpt(header.get(name))} and is {excerpt(settings[name])} now" for name in differ
            )
            raise ValueError(
                f"the calls in {self.path} were made with other settings: {values}. Use the same, name another output, "
                "or start again (--fresh; the old journal is kept under another name)"
            )

    def attempts(self, row: int) -> int:
        """Return how many calls for a row are finished."""
        return self._attempts[row] if row < len(self._attempts) else 0

    def agreed(self, row: int) -> bool:
        """Tell whether the last of them agrees with the label."""
        return row < len(self._places) and self._places[row] > 0

    @property
    def most_attempts(self) -> int:
        """The greatest number of calls for one row."""
        return max(self._attempts, default=0)

    def finished(self, attempts: int) -> int:
        """Return the number of rows that need no further call within `attempts`."""
        pairs = zip(self._attempts, self._places, strict=True)
        return sum(place > 0 or made >= attempts for made, place in pairs)

    def add(self, call: Call) -> None:
        """Write a call down.

        Raises:
            OSError: it could not be written whole; the journal is as it was before.
        """
        self._count(vars(call), self._append(vars(call)))

    def _count(self, call: Mapping[str, Any], place: int) -> None:
        row, attempt = call["row"], call["attempt"]
        if row < 1 or attempt != self.attempts(row) + 1 or self.agreed(row):
            raise ValueError(f"attempt {attempt} of row {row} after {self.attempts(row)}")
        if row >= len(self._attempts):
            more = max(row + 1 - len(self._attempts), len(self._attempts) // 8)
            self._attempts.frombytes(bytes(2 * more))
            self._places.frombytes(bytes(8 * more))
        self._attempts[row] = attempt
        if call["agrees"]:
            self._places[row] = place
        self.tally.add(call)

    def _append(self, entry: Mapping[str, Any]) -> int:
        return self._file.append(json.dumps(entry, ensure_ascii=False).encode() + b"\n")

    def agreeing(self, row: int) -> dict[str, Any]:
        """Return the agreeing call of a row as it stands in the file."""
        place, line = self._places[row], b""
        while not line.endswith(b"\n"):
            piece = os.pread(self._file.descriptor, _PIECE, place + len(line))
            if not piece:
                raise JournalError(f"{self.path} has become shorter")
            end = piece.find(b"\n")
            line += piece if end < 0 else piece[: end + 1]
        return dict(json.loads(line))

    def close(self) -> None:
        """Bring everything to the disk and let others open it."""
        self._file.close()
