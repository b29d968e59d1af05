"""The finished calls of an annotation: a file that only grows, from which an interrupted run is resumed.

The first line says what the calls depend on, each further one is a finished call. A line is written with one system
call as soon as the answer is there, so that a killed process loses no finished call; a last line without its end is
cut off by the next run. Whether an answer agrees with the label is read anew from its text whenever a journal is
opened, so that another reader of choices costs no calls.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1reward_verl.errors import R1RewardError
from r1reward_verl.judgement import Lenient, parse
from r1reward_verl.storage import AppendFile
from r1reward_verl.text import excerpt

_FORM = {"journal": "r1reward data annotate", "version": 1}


class JournalError(R1RewardError):
    """A journal that cannot be resumed: another run writes it, or it is damaged."""


@dataclass(frozen=True)
class Call:
    """An answered call: one attempt, counted from 1, at the preference in a row of the input.

    Attributes:
        choice: the better response as the judgement says, None if it cannot be read; `agrees`: whether it is the label.
        reason: in what way the text breaks the strict contract (`judgement.Failure`), None if it does not.
        finish_reason, prompt_tokens, completion_tokens: as the server says, None if it does not.
        cost: of these tokens, None without a price.
        seconds: from the request to the answer, retries included.
        text: the judgement as the teacher wrote it.
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
        calls: all; `cut` (their text was cut off) and `unmetered` (without numbers of tokens) are some of them.
        unparsable: calls without a choice that can be read, by reason.
        malformed: calls whose choice was read although they break the strict contract, by reason.
        prompt_tokens, completion_tokens: of those that have them.
        cost: of those that have one; `unpriced` are the tokens of the others.
    """

    calls: int = 0
    cut: int = 0
    unmetered: int = 0
    unparsable: Counter[str] = field(default_factory=Counter)
    malformed: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unpriced: tuple[int, int] = (0, 0)

    def add(self, call: Mapping[str, Any], choice: int | None, reason: str | None) -> None:
        """Count a call, given as it stands in the journal, and what was read from its text."""
        self.calls += 1
        self.cut += call["finish_reason"] == "length"
        if reason is not None:
            (self.unparsable if choice is None else self.malformed)[reason] += 1
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
    """The finished calls of one output, opened by one process at a time. One without calls takes any settings.

    Memory: 10 bytes for each row of the input, whatever the teacher wrote.

    Args:
        path: of the file, which is made if it does not exist.
        settings: what the calls depend on, as JSON holds it.
        labels: label of each row by its number; 0 for rows that a teacher is not asked about.
        lenient: how the choice of a malformed judgement is read (see `judgement.parse`).
        fresh: begin a new journal, and keep an existing one under another name.

    Raises:
        ValueError: the calls in it depend on other settings; the message names both values.
        JournalError: another process has it open, or it is damaged.
        OSError: it cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        labels: Sequence[int],
        lenient: Lenient | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        self.path, self.tally = path, Tally()
        self.tallies: dict[str, Tally] = defaultdict(Tally)  # by source
        self._labels, self._lenient = labels, lenient
        self._made = array("H", bytes(2 * len(labels)))
        self._solved = array("H", bytes(2 * len(labels)))  # the first attempt that agrees, 0 for none
        self._places = array("Q", bytes(8 * len(labels)))  # of its line
        self._file = self._open()
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

    def _open(self) -> AppendFile:
        try:
            return AppendFile(self.path)
        except BlockingIOError:
            raise JournalError(f"another run writes {self.path}: wait for its end, or name another output") from None

    def _put_aside(self) -> None:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(aside)
        old, self._file = self._file, self._open()
        old.close()

    def _read(self, settings: Mapping[str, Any]) -> None:
        header: dict[str, Any] = {}
        for number, place, line in self._file.lines():
            if number == 2:
                self._compare(header, settings)
            try:
                entry = json.loads(line)
                if number > 1:
                    self._count(entry, place)
                elif {name: entry[name] for name in _FORM} != _FORM:
                    raise ValueError("another form")
                else:
                    header = entry
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise JournalError(
                    f"{self.path}:{number} is not a line of a journal ({type(error).__name__}: {error}): put back a "
                    "whole copy, or start a new one (--fresh; the old one is kept under another name)"
                ) from None
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
        return self._made[row]

    def solved_at(self, row: int) -> int:
        """Return the first attempt at a row that agrees with the label, 0 if none does."""
        return self._solved[row]

    def is_finished(self, row: int, attempts: int) -> bool:
        """Tell whether a row needs no further call within `attempts`."""
        return self._solved[row] > 0 or self._made[row] >= attempts

    @property
    def most_attempts(self) -> int:
        """The greatest number of calls for one row."""
        return max(self._made, default=0)

    def add(self, call: Call) -> None:
        """Write a call down.

        Raises:
            OSError: it could not be written whole; the journal is as it was before.
        """
        self._count(vars(call), self._append(vars(call)))

    def _count(self, call: Mapping[str, Any], place: int) -> None:
        row, attempt = call["row"], call["attempt"]
        if row < 1 or not self._labels[row] or attempt != self._made[row] + 1:
            raise ValueError(f"attempt {attempt} of row {row}")
        verdict = parse(call["text"], self._lenient)
        self._made[row] = attempt
        if verdict.choice == self._labels[row] and not self._solved[row]:
            self._solved[row], self._places[row] = attempt, place
        for tally in (self.tally, self.tallies[call["source"]]):
            tally.add(call, verdict.choice, verdict.reason)

    def _append(self, entry: Mapping[str, Any]) -> int:
        return self._file.append(json.dumps(entry, ensure_ascii=False).encode() + b"\n")

    def trace(self, row: int) -> str | None:
        """Return the first judgement that agrees with the label of a row, in the strict form; None if none does."""
        if not self._solved[row]:
            return None
        with open(self._file.descriptor, "rb", closefd=False) as file:
            file.seek(self._places[row])
            return strict_form(json.loads(file.readline())["text"], self._lenient)

    def close(self) -> None:
        """Bring everything to the disk and let others open it."""
        self._file.close()


def strict_form(text: str, lenient: Lenient | None) -> str:
    """Return a judgement, whose choice can be read, in the form of the strict contract: nothing outside the tags."""
    verdict = parse(text, lenient)
    if verdict.reason is None:
        return text.strip()
    think = verdict.think.replace("</answer>", "").strip()
    return f"<think>{think}</think><answer>{verdict.choice}</answer>"
