"""Annotation: a teacher writes judgements of preferences until one agrees with the label.

OUT                  parquet in the columns of `preference.SCHEMA`: `difficulty` is the number of attempts made, `trace`
                     the judgement that agrees, null if none did
OUT.journal.jsonl    every answer of the teacher, from which an interrupted run is resumed (see `journal`)
OUT.card.json        settings, counts, tokens and cost
OUT.rejects.jsonl    bad rows, and those whose call was refused or whose pictures cannot be read, with the reason

The teacher is any model behind an OpenAI-compatible endpoint. It sees the question, the pictures and the responses,
never the label. (R1-Reward, arXiv 2505.02835, section 4.1.)
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from r1reward_verl.data.annotation import API_KEY, AnnotateSettings, AnnotationReport
from r1reward_verl.data.annotator import AnnotationError, Annotator, Survey, survey
from r1reward_verl.data.budget import Budget
from r1reward_verl.data.files import check_paths, read_preferences
from r1reward_verl.data.journal import Journal, Tally
from r1reward_verl.data.preference import SCHEMA, to_row
from r1reward_verl.data.readers import RowError
from r1reward_verl.data.rows import UNSOLVED
from r1reward_verl.engines.base import EngineError, Sampling
from r1reward_verl.engines.endpoint import EndpointEngine
from r1reward_verl.progress import progress_bar
from r1reward_verl.storage import ParquetOutput, Rejects, locked, sha256_of, write_json


def annotate(
    preferences: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: AnnotateSettings,
    *,
    progress: bool | None = None,
) -> AnnotationReport:
    """Let a teacher annotate the preferences of a file, and write them with difficulty and trace.

    Args:
        preferences: file in the columns of `preference.SCHEMA`. Rows that have a difficulty stay as they are.
        out: parquet file to write, in the order of the input; files of other names beside it: see above.
        settings: how.
        progress: whether to show a bar; None for a bar on terminals, lines elsewhere.

    Returns:
        What the card holds. With `rows["left"]` the budget or the limit has ended the run, and `out` has what is
        finished, if anything is.

    Raises:
        ValueError, FileNotFoundError: an argument cannot be used, or the journal's calls depend on other settings.
        AnnotationError: the servers are gone or do not accept the calls, or too many rows were rejected.
        LockedError: another run writes the same output.
        JournalError: another run writes the journal, or it is damaged.
        OSError: the disk is full, for example. In these cases, and after an interruption, `out` is as it was before,
            and what is finished is in the journal.
    """
    began = time.monotonic()
    path, out = os.fspath(preferences), Path(out)
    check_paths([path], out)
    read_preferences(path)  # says at once what is wrong with the name
    engine = _engine(settings)
    # The input is read four times, since it may be larger than memory: for its sha256, which tells whether the journal
    # belongs to it; for its labels, sources and bad rows; as far as calls are needed; and in its order for the output.
    identity = _identity(path)
    with ExitStack() as stack:
        stack.enter_context(locked(out))
        rejects = stack.enter_context(closing(Rejects(out.with_name(f"{out.name}.rejects.jsonl"))))
        rows = survey(path, rejects)
        header = {**identity, **settings.of_calls()}
        place = out.with_name(f"{out.name}.journal.jsonl")
        journal = stack.enter_context(
            closing(Journal(place, header, rows.labels, settings.lenient, fresh=settings.fresh))
        )
        _check_journal(journal, settings)
        _check_rejected(rows.read, rows.rejected, settings, rejects)
        budget = Budget(settings.price, settings.budget, journal.tally, settings.max_tokens, settings.max_pixels)
        calls_before = journal.tally.calls
        bar = stack.enter_context(closing(progress_bar(total=rows.read, desc="annotating", unit="row", shown=progress)))
        annotator = Annotator(path, settings, rows, journal, budget, rejects, bar)
        try:
            if settings.calls:
                annotator.run(engine)
        except (AnnotationError, EngineError, OSError) as error:
            reason = " ".join(str(error).split())
            raise AnnotationError(
                f"{reason}. {journal.tally.calls:,} finished calls are in {journal.path}: the same command resumes "
                "from there"
            ) from error
        bar.close()
        if _identity(path) != identity:
            raise AnnotationError(f"{path} has changed since the run began: put it back, or start again (--fresh)")

        calls_now, cost = journal.tally.calls - calls_before, budget.spent
        counted = {**vars(journal.tally), "calls_now": calls_now, "cost": cost, "budget_reached": budget.used_up}
        report = AnnotationReport(**counted)
        seconds = time.monotonic() - began
        output = ParquetOutput(out, SCHEMA)
        stack.callback(output.discard)
        solved = _write(annotator, output, report, progress)
        _check_rejected(rows.read, report.rows["rejected"], settings, rejects)
        rejects.close()
        output.finish()
        if settings.limit is not None:
            report.whole = _extrapolate(rows, solved, journal.tallies, budget, calls_now, seconds)
        report.seconds = round(time.monotonic() - began, 3)
        if report.rows["finished"] + report.rows["annotated_before"]:
            output.commit()
        card = {"preferences": path, **msgspec.structs.asdict(settings), **vars(report)}
        write_json(out.with_name(f"{out.name}.card.json"), card)
    return report


def _engine(settings: AnnotateSettings) -> EndpointEngine:
    key = os.environ.get(settings.api_key_env)
    if not key and settings.api_key_env != API_KEY:
        raise ValueError(f"the environment variable {settings.api_key_env!r}, which is to hold the key, is not set")
    assert settings.temperature is not None
    return EndpointEngine(
        settings.urls,
        settings.model,
        Sampling(settings.temperature, settings.max_tokens, settings.media_position, max_pixels=settings.max_pixels),
        api_key=key,
        key_name=settings.api_key_env,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        max_wait=settings.max_wait,
        body=settings.body,
    )


def _identity(path: str) -> dict[str, Any]:
    return {"input_size": os.path.getsize(path), "input_sha256": sha256_of(path)}


def _check_journal(journal: Journal, settings: AnnotateSettings) -> None:
    if journal.most_attempts > settings.attempts:
        raise ValueError(
            f"{journal.path} holds {journal.most_attempts} attempts at a row, more than --attempts {settings.attempts}"
        )
    if settings.budget is not None and journal.tally.unmetered:
        raise ValueError(
            f"{journal.tally.unmetered:,} calls in {journal.path} have no numbers of tokens, so no budget can be kept: "
            "resume without --budget, or start again (--fresh)"
        )


def _check_rejected(read: int, rejected: int, settings: AnnotateSettings, rejects: Rejects) -> None:
    if rejected > settings.max_rejects * read:
        raise AnnotationError(
            f"{rejected:,} of {read:,} rows were rejected, more than {settings.max_rejects:.1%}: see {rejects.path}, "
            "and raise --max-rejects if the rest is what you want"
        )
    if read == rejected:
        raise AnnotationError(f"none of {read:,} rows is left to be written")


def _write(
    annotator: Annotator, output: ParquetOutput, report: AnnotationReport, progress: bool | None
) -> dict[str, Counter[int]]:
    """Write what is finished and count all rows; return for each source the rows by attempts, 0 for unsolved ones."""
    rows, journal, most = annotator.rows, annotator.journal, annotator.settings.attempts
    counts = report.rows
    counts.update({"read": rows.read, "annotated_before": rows.annotated_before, "finished": 0, "left": 0})
    counts["rejected"] = rows.rejected + len(annotator.rejected)
    solved: dict[str, Counter[int]] = defaultdict(Counter)
    items = progress_bar(read_preferences(annotator.path), total=rows.read, desc="writing", unit="row", shown=progress)
    for item in items:
        if isinstance(item, RowError) or item[0] in rows.repeated:
            continue
        number, preference = item
        if preference.difficulty is None:
            if not journal.is_finished(number, most):
                counts["left"] += number not in annotator.rejected
                continue
            counts["finished"] += 1
            attempts, trace = journal.solved_at(number), journal.trace(number)
            solved[preference.source][attempts] += 1
            report.bare += trace is not None and trace.startswith("<think></think>")
            preference = replace(preference, difficulty=attempts or journal.attempts(number), trace=trace)
        output.add(to_row(preference))
    totals = sum(solved.values(), Counter())
    report.never = totals.pop(0, 0)
    report.solved = dict(sorted(totals.items()))
    return solved


def _extrapolate(
    rows: Survey,
    solved: dict[str, Counter[int]],
    tallies: dict[str, Tally],
    budget: Budget,
    calls_now: int,
    seconds: float,
) -> dict[str, Any]:
    """Return what all rows would come to; sources without a finished row count as the mean of the others."""
    sizes = {name: len(numbers) for name, (numbers, _) in rows.sources.items()}
    total = sum(sizes.values())
    scale = total / (sum(sizes[name] for name in solved) or 1)
    # Rows that stand for each finished row of a source.
    weights = {name: scale * sizes[name] / counts.total() for name, counts in solved.items()}

    def whole(values: Callable[[str], float]) -> float:
        return sum(weight * values(name) for name, weight in weights.items())

    difficulty: Counter[int] = Counter()
    for name, counts in solved.items():
        difficulty.update({attempt: weights[name] * many for attempt, many in counts.items()})
    calls = whole(lambda name: tallies[name].calls)
    return {
        "rows": total,
        "calls": round(calls),
        "prompt_tokens": round(whole(lambda name: tallies[name].prompt_tokens)),
        "completion_tokens": round(whole(lambda name: tallies[name].completion_tokens)),
        "cost": None if budget.spent is None else whole(lambda name: budget.total(tallies[name]) or 0.0),
        "seconds": round(seconds * calls / calls_now) if calls_now else None,
        "difficulty": {
            str(one or UNSOLVED): round(difficulty[one]) for one in sorted(difficulty, key=lambda one: (not one, one))
        },
    }
