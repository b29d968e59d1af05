"""The calls of an annotation run: which preferences need one, and what becomes of the answers."""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from r1reward_verl.data.annotation import AnnotateSettings
from r1reward_verl.data.budget import Budget
from r1reward_verl.data.duplicates import digest
from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.journal import Call, Journal
from r1reward_verl.data.preference import Preference, to_row
from r1reward_verl.data.readers import RowError
from r1reward_verl.engines.base import Judgement, Prompt, Work
from r1reward_verl.engines.endpoint import EndpointEngine
from r1reward_verl.errors import R1RewardError
from r1reward_verl.judgement import build_prompt, parse
from r1reward_verl.storage import Rejects
from r1reward_verl.text import excerpt

_HOPELESS = 20  # calls without one judgement, after which the run ends


class AnnotationError(R1RewardError):
    """The run cannot go on; finished calls are in the journal."""


@dataclass
class Survey:
    """What a first pass over the input has found.

    Attributes:
        labels: by the number of a row, the label of a preference that the teacher may be asked about; 0 for others.
        sources: numbers and draws (64 bits, by source and id) of these rows, by source.
        repeated: numbers of the rows whose id stood in an earlier one.
        read, annotated_before, rejected: numbers of rows.
    """

    labels: bytearray = field(default_factory=lambda: bytearray(1))
    sources: dict[str, tuple[array[int], array[int]]] = field(default_factory=dict)
    repeated: set[int] = field(default_factory=set)
    read: int = 0
    annotated_before: int = 0
    rejected: int = 0

    def sample(self, limit: int) -> set[int]:
        """Return `limit` rows: one of each source first, then of each its share. A larger limit only adds rows."""
        ranked = []
        for rows, draws in self.sources.values():
            drawn = sorted(zip(draws, rows, strict=True))
            ranked += [((place + 0.5 if place else 0.0) / len(rows), *one) for place, one in enumerate(drawn)]
        return {row for _, _, row in sorted(ranked)[:limit]}


def survey(path: str, rejects: Rejects) -> Survey:
    """Read all rows once, before anything is paid for, and write bad ones and repeated ids to the rejects.

    Raises:
        AnnotationError: the rest of the file cannot be read.
    """
    found = Survey()
    ids: dict[bytes, int] = {}
    for item in read_preferences(path):
        if isinstance(item, RowError):
            if item.rows is None:
                raise AnnotationError(f"{path}:{item.number}: {item.reason}")
            found.read += item.rows
            found.rejected += item.rows
            rejects.add(path, item.number, item.reason, item.raw)
            continue
        number, preference = item
        found.read += 1
        key = digest(preference.source, preference.id)
        if (first := ids.setdefault(key, number)) != number:
            reason = f"id {excerpt(preference.id)} of {excerpt(preference.source)} stands already in row {first}"
            found.repeated.add(number)
            found.rejected += 1
            rejects.add(path, number, reason, excerpt(preference.id))
        elif preference.difficulty is not None:
            found.annotated_before += 1
        else:
            found.labels.extend(bytes(number + 1 - len(found.labels)))
            found.labels[number] = preference.label
            rows, draws = found.sources.setdefault(preference.source, (array("I"), array("Q")))
            rows.append(number)
            draws.append(int.from_bytes(key[:8], "little"))
    return found


@dataclass
class _Pending:
    """A preference whose next attempt is due or in progress."""

    number: int
    preference: Preference
    prompt: str
    tokens: int  # of the prompt, as the budget estimates them
    reserved: float = 0.0  # by the budget, for the call in progress
    began: float = 0.0


class Annotator:
    """The calls of one run.

    Attributes:
        rejected: numbers of the rows that have no judgement: a refused call, or pictures that cannot be sent.
    """

    def __init__(
        self,
        path: str,
        settings: AnnotateSettings,
        rows: Survey,
        journal: Journal,
        budget: Budget,
        rejects: Rejects,
        bar: Any,
    ) -> None:
        self.path, self.settings, self.rows = path, settings, rows
        self.journal, self.budget, self.rejects, self.bar = journal, budget, rejects, bar
        self.rejected: set[int] = set()
        self._in_progress: dict[int, _Pending] = {}
        self._again: deque[_Pending] = deque()
        due = [row for row, label in enumerate(rows.labels) if label]
        finished = [row for row in due if journal.is_finished(row, settings.attempts)]
        self._finished, self._agreed = len(finished), sum(journal.solved_at(row) > 0 for row in finished)
        self._update_bar(rows.annotated_before + rows.rejected + len(finished))

    def run(self, engine: EndpointEngine) -> None:
        """Make all calls that are still to be made, as far as the budget reaches.

        Raises:
            EngineError: the servers are gone, or do not want to be asked.
            AnnotationError: not one of the first calls is answered, or a server does not report its tokens.
            OSError: the journal cannot be written.
        """
        with closing(engine.generate(self._work())) as answers:
            for judgements in answers:
                for judgement in judgements:
                    self._take(judgement)

    def _work(self) -> Iterator[Work | None]:
        """Yield the next call; None while one has to wait for an answer, or for what the budget gets back."""
        rows = self._rows()
        pending: _Pending | None = None
        while True:
            if pending is None:
                pending = self._again.popleft() if self._again else next(rows, None)
            reserved = None if pending is None else self.budget.reserve(pending.tokens)
            if pending is not None and reserved is not None:
                number, preference = pending.number, pending.preference
                pending.reserved, pending.began = reserved, time.monotonic()
                self._in_progress[number] = pending
                prompt = Prompt("", pending.prompt, (self.journal.attempts(number) + 1,))
                pending = None
                yield Work(number, preference.images, preference.video, (prompt,))
            elif self._in_progress:
                yield None
            else:
                self.budget.used_up = pending is not None
                return

    def _rows(self) -> Iterator[_Pending]:
        limit, attempts = self.settings.limit, self.settings.attempts
        sample = None if limit is None else self.rows.sample(limit)
        for item in read_preferences(self.path):
            if isinstance(item, RowError):
                continue
            number, preference = item
            due = number < len(self.rows.labels) and self.rows.labels[number]
            if due and not self.journal.is_finished(number, attempts) and (sample is None or number in sample):
                texts = (preference.question, preference.response_1, preference.response_2)
                prompt = build_prompt(*texts, self.settings.prompt)
                pictures = len(preference.images) + len(preference.video or ())
                yield _Pending(number, preference, prompt, self.budget.estimate(prompt, pictures))

    def _take(self, judgement: Judgement) -> None:
        pending = self._in_progress.pop(judgement.row)
        number, preference, journal = pending.number, pending.preference, self.journal
        try:
            if judgement.status != "ok":
                self.rejected.add(number)
                self.rejects.add(self.path, number, judgement.error, to_row(preference))
                self._update_bar(1)
                if not journal.tally.calls and len(self.rejected) >= _HOPELESS:
                    raise AnnotationError(
                        f"{len(self.rejected)} calls and not one judgement; the last: {judgement.error}"
                    )
                return
            verdict = parse(judgement.text, self.settings.lenient)
            journal.add(
                Call(
                    row=number,
                    source=preference.source,
                    id=preference.id,
                    attempt=judgement.sample,
                    choice=verdict.choice,
                    reason=verdict.reason,
                    agrees=verdict.choice == preference.label,
                    finish_reason=judgement.finish_reason,
                    prompt_tokens=judgement.prompt_tokens,
                    completion_tokens=judgement.tokens,
                    cost=self.budget.cost(judgement.prompt_tokens, judgement.tokens),
                    seconds=round(time.monotonic() - pending.began, 3),
                    text=judgement.text,
                )
            )
        finally:
            self.budget.release(pending.reserved, pending.tokens, judgement.prompt_tokens)
        if judgement.prompt_tokens is None and self.budget.limit is not None:
            raise AnnotationError(
                "the server reports no numbers of tokens (usage), so no budget can be kept: go on without --budget, "
                "or take a server that does"
            )
        if journal.is_finished(number, self.settings.attempts):
            self._finished += 1
            self._agreed += journal.solved_at(number) > 0
            self._update_bar(1)
        else:
            self._again.append(pending)

    def _update_bar(self, rows: int) -> None:
        shares = {"solved": f"{self._agreed / self._finished:.1%}"} if self._finished else {}
        if (spent := self.budget.spent) is not None:
            shares["cost"] = f"{spent:.2f}"
        self.bar.set_postfix(shares, refresh=False)
        self.bar.update(rows)
