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

import asyncio
import os
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from r1reward_verl.data.annotation import API_KEY, AnnotateSettings, AnnotationReport
from r1reward_verl.data.annotator import AnnotationError, Annotator, read_unique
from r1reward_verl.data.budget import Budget
from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.journal import Journal
from r1reward_verl.data.preference import SCHEMA, to_row
from r1reward_verl.data.readers import RowError
from r1reward_verl.engines.chat import ChatClient
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
        progress: whether to show a bar; None for on terminals only.

    Returns:
        What the card holds. With `rows["left"]` the budget has ended the run, and `out` has what is finished, if
        anything is.

    Raises:
        ValueError, FileNotFoundError: an argument cannot be used, or the journal's calls depend on other settings.
        AnnotationError: the servers are gone or do not accept the calls, or too many rows were rejected.
        LockedError: another run writes the same output.
        JournalError: another run writes the journal, or it is damaged.
        OSError: the disk is full, for example. In the last three cases, and after an interruption, `out` is as it was
            before, and what is finished is in the journal.
    """
    began = time.monotonic()
    path, out = os.fspath(preferences), Path(out)
    _check_paths(path, out)
    read_preferences(path)  # says at once what is wrong with the name
    key = os.environ.get(settings.api_key_env)
    if not key and settings.api_key_env != API_KEY:
        raise ValueError(f"the environment variable {settings.api_key_env!r}, which is to hold the key, is not set")
    client = ChatClient(
        settings.urls,
        model=settings.model,
        api_key=key,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        max_wait=settings.max_wait,
        retries=3,
    )
    # The input is read three times: here for its sha256, which tells whether the journal belongs to it, then as far as
    # calls are needed, and in its own order for the output. None of them keeps it in memory.
    identity = _identity(path)
    with ExitStack() as stack:
        stack.enter_context(locked(out))
        header = {**identity, **settings.of_calls()}
        journal = stack.enter_context(
            closing(Journal(out.with_name(f"{out.name}.journal.jsonl"), header, fresh=settings.fresh))
        )
        budget = Budget(settings.price, settings.budget, journal.tally, settings.max_tokens, settings.max_pixels)
        _check_journal(journal, settings)
        rejects = stack.enter_context(closing(Rejects(out.with_name(f"{out.name}.rejects.jsonl"))))
        bar = stack.enter_context(closing(_bar(path, "annotating", progress)))
        calls_before = journal.tally.calls
        annotator = Annotator(path, settings, journal, budget, rejects, bar)

        async def call() -> None:
            async with client:
                await annotator.run(client)

        try:
            asyncio.run(call())
        except (AnnotationError, OSError) as error:
            reason, calls = " ".join(str(error).split()), journal.tally.calls
            raise AnnotationError(
                f"{reason}. {calls:,} finished calls are in {journal.path}: the same command resumes from there"
            ) from error
        bar.close()

        if _identity(path) != identity:
            raise AnnotationError(f"{path} has changed since the run began: put it back, or start again (--fresh)")
        tally = journal.tally
        report = AnnotationReport(
            calls=tally.calls,
            calls_now=tally.calls - calls_before,
            unparsable=tally.unparsable,
            cut=tally.cut,
            prompt_tokens=tally.prompt_tokens,
            completion_tokens=tally.completion_tokens,
            unmetered=tally.unmetered,
            cost=budget.spent,
            budget_reached=budget.used_up,
        )
        output = _write(annotator, out, report, progress)
        stack.callback(output.discard)
        report.seconds = round(time.monotonic() - began, 3)
        if report.rows["finished"] + report.rows["annotated_before"]:
            output.commit()
        card = {"preferences": path, **msgspec.structs.asdict(settings), **vars(report)}
        write_json(out.with_name(f"{out.name}.card.json"), card)
    return report


def _check_paths(path: str, out: Path) -> None:
    if out.suffix != ".parquet":
        raise ValueError(f"the output {str(out)!r} does not end in .parquet")
    if out.is_dir():
        raise ValueError(f"the output {str(out)!r} is a folder")
    if os.path.realpath(out) == os.path.realpath(path):
        raise ValueError(f"{path!r} is input and output at the same time")


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


def _identity(path: str) -> dict[str, Any]:
    return {"input_size": os.path.getsize(path), "input_sha256": sha256_of(path)}


def _bar(path: str, what: str, visible: bool | None) -> Any:
    from tqdm import tqdm

    rows = None
    if path.endswith(".parquet"):
        from pyarrow import parquet

        with suppress(Exception):  # whatever is wrong with it, reading says it better
            rows = parquet.read_metadata(path).num_rows
    # None lets tqdm show it on terminals only.
    return tqdm(total=rows, desc=what, unit="row", disable=None if visible is None else not visible)


def _write(annotator: Annotator, out: Path, report: AnnotationReport, progress: bool | None) -> ParquetOutput:
    """Write what is finished, still under another name, and count all rows."""
    rows = report.rows
    rows.update(dict.fromkeys(("read", "annotated_before", "finished", "rejected", "left"), 0))
    solved: Counter[int] = Counter()
    output = ParquetOutput(out, SCHEMA)
    try:
        with closing(_bar(annotator.path, "writing", progress)) as bar:
            for item in read_unique(annotator.path):
                bar.update()
                lines = (item.rows or 1) if isinstance(item, RowError) else 1
                rows["read"] += lines
                if isinstance(item, RowError):
                    rows["rejected"] += lines
                    annotator.rejects.add(annotator.path, item.number, item.reason, item.raw)
                    continue
                number, preference = item
                attempts, agreed = annotator.journal.attempts(number), annotator.journal.agreed(number)
                if preference.difficulty is not None:
                    rows["annotated_before"] += 1
                elif agreed or attempts >= annotator.attempts:
                    rows["finished"] += 1
                    solved[attempts if agreed else 0] += 1
                    trace = annotator.journal.agreeing(number)["text"].strip() if agreed else None
                    preference = replace(preference, difficulty=attempts, trace=trace)
                else:
                    rows["rejected" if number in annotator.rejected else "left"] += 1
                    continue
                output.add(to_row(preference))
        report.never = solved.pop(0, 0)
        report.solved = dict(sorted(solved.items()))
        annotator.rejects.close()
        _check_rows(rows, annotator.settings.max_rejects, annotator.rejects.path)
        output.finish()
    except BaseException:
        output.discard()
        raise
    return output


def _check_rows(rows: Mapping[str, int], max_rejects: float, rejects: Path) -> None:
    read, rejected = rows["read"], rows["rejected"]
    if rejected > max_rejects * read:
        raise AnnotationError(
            f"{rejected:,} of {read:,} rows were rejected, more than {max_rejects:.1%}: see {rejects}, and raise "
            "--max-rejects if the rest is what you want"
        )
    if read == rejected:
        raise AnnotationError(f"none of {read:,} rows is left to be written")
