"""Files of questions with responses, judged or ranked into a folder.

OUT/results.log.jsonl   what every finished row gave, from which an interrupted run is resumed; its first line holds the
                        settings
OUT/results.jsonl       the same in the order of the input
OUT/summary.json        settings, counts, tokens and cost
OUT/rejects.jsonl       rows that cannot be read, with the reason; there if there are any

and what `exports` makes of them.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from r1reward_verl.data.readers import RowError
from r1reward_verl.errors import R1RewardError
from r1reward_verl.progress import progress_bar
from r1reward_verl.storage import AppendFile, Rejects, locked, sha256_of, whole_file, write_json
from r1reward_verl.text import excerpt
from r1reward_verl.use.comparison import Comparison
from r1reward_verl.use.model import JudgeResult, RankResult, RewardModel
from r1reward_verl.use.rows import Group, read_groups
from r1reward_verl.use.settings import RankSettings

FORMAT = 1
_LOG = "results.log.jsonl"
_AT_A_TIME = 64  # rows, whose comparisons share the engine's concurrency
_HOPELESS = 8  # rows in a row that the engine did not serve


class UseError(R1RewardError):
    """A file cannot be judged or ranked to its end; finished rows are on disk."""


@dataclass
class FileReport:
    """How a run over a file ended.

    Attributes:
        rows: number of rows that have a result.
        failed: number of rows whose comparisons all failed; the same command tries them again.
        rejected: number of rows that cannot be read.
        prompt_tokens, tokens: read and written, in all runs together.
        cost: of these tokens; None without a price.
        errors: the commonest errors, with their numbers.
    """

    rows: int = 0
    failed: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    cost: float | None = None
    errors: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class FileTask:
    """What is done with each row.

    Attributes:
        name: "judge" or "rank".
        settings: what the results depend on beside the data, as JSON holds it.
        check: raises ValueError for a group that cannot be taken.
        run: makes the result of a group.
    """

    name: str
    settings: Mapping[str, Any]
    check: Callable[[Group], None]
    run: Callable[[RewardModel, Group], Awaitable[tuple[dict[str, Any], tuple[Comparison, ...]]]]


def judge_task(*, both_orders: bool = True) -> FileTask:
    """Return the task that judges pairs."""

    def check(group: Group) -> None:
        if len(group.responses) != 2:
            raise ValueError(f"{len(group.responses)} responses; `judge` takes pairs, `rank` takes any number")

    async def run(model: RewardModel, group: Group) -> tuple[dict[str, Any], tuple[Comparison, ...]]:
        result = await model.ajudge(group.question, None, *group.responses, both_orders=both_orders)
        return judged(result, group.label), result.comparisons

    return FileTask("judge", {"both_orders": both_orders}, check, run)


def rank_task(settings: RankSettings) -> FileTask:
    """Return the task that ranks groups."""

    def check(group: Group) -> None:
        if len(group.responses) < 2:
            raise ValueError("one response; at least two are needed to rank")

    async def run(model: RewardModel, group: Group) -> tuple[dict[str, Any], tuple[Comparison, ...]]:
        result = await model.arank(group.question, None, group.responses, settings)
        return ranked(result, group.label), result.comparisons

    return FileTask("rank", msgspec.to_builtins(settings), check, run)


def judged(result: JudgeResult, label: int | None = None) -> dict[str, Any]:
    """Return a verdict as a row of `results.jsonl`."""
    return {
        "verdict": result.verdict,
        "probability": result.probability,
        "orders_disagree": result.orders_disagree,
        "disagreement": result.disagreement,
        "agrees_with_label": None if label is None or result.verdict is None else result.verdict == label + 1,
        "reasoning": result.reasoning,
        "comparisons": [_compared(one) for one in result.comparisons],
    }


def ranked(result: RankResult, label: int | None = None) -> dict[str, Any]:
    """Return a ranking as a row of `results.jsonl`."""
    return {
        "order": result.order,
        "scores": list(result.scores),
        "standard_errors": list(result.standard_errors),
        "best": result.best,
        "agrees_with_label": None if label is None else result.best == label,
        "cycles": result.cycles,
        "order_disagreements": result.order_disagreements,
        "ties": result.ties,
        "failed_comparisons": result.failed,
        "comparisons": [_compared(one) for one in result.comparisons],
    }


def _compared(one: Comparison) -> dict[str, Any]:
    return {
        "first": one.first,
        "second": one.second,
        "probability": one.probability,
        "judgements": list(one.texts),
        **({"error": one.error} if one.error else {}),
    }


def process_file(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: RewardModel,
    task: FileTask,
    *,
    about_model: Mapping[str, Any],
    media: str | os.PathLike[str] | None = None,
    price: tuple[float, float] | None = None,
    max_rejects: float = 0.0,
    progress: bool | None = None,
) -> FileReport:
    """Judge or rank every row of a file.

    Args:
        data: the file; see `rows`.
        out: folder to write; that of an earlier run with the same settings is resumed.
        model: the reward model.
        task: `judge_task` or `rank_task`.
        about_model: what tells the model from others, such as its name.
        media: folder of relative media paths; None for that of the file.
        price: of a million tokens read and of a million written, in any currency.
        max_rejects: largest share of rows that may be unreadable.
        progress: whether to show a bar; None for a bar on terminals and lines elsewhere.

    Raises:
        ValueError, FileNotFoundError: an argument cannot be used, or `out` holds other results.
        UseError: too many rows cannot be read, or the engine serves nobody; what is finished is on disk.
        LockedError: another run writes `out`.
        OSError: the disk is full, for example.
    """
    out = Path(out)
    header = {
        "results": f"r1reward {task.name}",
        "format": FORMAT,
        "data_sha256": sha256_of(data),
        "model": dict(about_model),
        "task": dict(task.settings),
        "comparison": {**msgspec.to_builtins(model.settings), "template": model.template},
    }
    with locked(out), closing(_Log(out, header)) as log:
        total, rejected = _validate(data, media, task, out, max_rejects)
        report = FileReport(rejected=rejected)
        errors: Counter[str] = Counter()
        with progress_bar(shown=progress, desc=task.name, unit="rows", total=total, initial=len(log.places)) as bar:
            run = _Run(model, task, log, bar, errors, price)
            try:
                model.wait_for(run.process(read_groups(data, media)))
            finally:
                report.rows, report.failed = len(log.places), run.failed
                report.prompt_tokens, report.tokens = log.prompt_tokens, log.tokens
                report.cost, report.errors = cost(price, log), errors.most_common(5)
        log.write_results(out / "results.jsonl")
        about = {name: header[name] for name in ("results", "model", "task", "comparison")}
        about |= {"data": os.path.abspath(data), **msgspec.to_builtins(report), **_shares(log)}
        write_json(out / "summary.json", about)
    return report


def _validate(
    data: str | os.PathLike[str], media: str | os.PathLike[str] | None, task: FileTask, out: Path, max_rejects: float
) -> tuple[int, int]:
    """Return the numbers of rows that can be taken and that cannot, before anything is asked."""
    rejects = Rejects(out / "rejects.jsonl")
    taken = rejected = 0
    first = ""
    with closing(rejects):
        for group in read_groups(data, media):
            try:
                if isinstance(group, RowError):
                    raise ValueError(group.reason)
                task.check(group)
            except ValueError as error:
                number = group.number if isinstance(group, RowError) else group.row
                raw = group.raw if isinstance(group, RowError) else dict(group.fields)
                first = first or f"row {number}: {error}"
                rejects.add(os.fspath(data), number, str(error), raw)
                rejected += 1
            else:
                taken += 1
    if not taken:
        raise ValueError(f"{os.fspath(data)!r} holds nothing to {task.name}: {first or 'it has no rows'}")
    if rejected > max_rejects * (taken + rejected):
        raise UseError(
            f"{rejected:,} of {taken + rejected:,} rows cannot be taken, such as {first}; all are in {rejects.path}. "
            "Correct them, or allow them with --max-rejects"
        )
    return taken, rejected


class _Run:
    """The rows of one run, a bounded number at a time."""

    def __init__(
        self,
        model: RewardModel,
        task: FileTask,
        log: _Log,
        bar: Any,
        errors: Counter[str],
        price: tuple[float, float] | None,
    ) -> None:
        self._model, self._task, self._log, self._bar = model, task, log, bar
        self._errors, self._price = errors, price
        self.failed = 0
        self._unserved = 0  # rows in a row that the engine did not serve

    async def process(self, groups: Iterator[Group | RowError]) -> None:
        """Give every row that has no result one."""
        running: set[asyncio.Task[None]] = set()
        try:
            for group in groups:
                if isinstance(group, RowError) or group.row in self._log.places or not self._takes(group):
                    continue
                running.add(asyncio.create_task(self._row(group)))
                if len(running) >= _AT_A_TIME:
                    running = await self._wait(running)
            while running:
                running = await self._wait(running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self._log.flush()

    def _takes(self, group: Group) -> bool:
        try:
            self._task.check(group)
        except ValueError:
            return False
        return True

    async def _wait(self, running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if self._unserved >= _HOPELESS:
            raise UseError(
                f"the model serves nobody: {self._errors.most_common(1)[0][0]}. Finished rows are on disk, and the "
                "same command resumes"
            )
        return running

    async def _row(self, group: Group) -> None:
        try:
            result, comparisons = await self._task.run(self._model, group)
        except ValueError as error:  # a picture that cannot be read
            self._errors[f"row {group.row}: {error}"] += 1
            self.failed += 1
            return
        self._errors.update(one.error for one in comparisons if one.error)
        if not any(one.texts for one in comparisons):
            self.failed += 1
            self._unserved += any(one.unavailable for one in comparisons)
            return
        self._unserved = 0
        tokens = [sum(one.prompt_tokens for one in comparisons), sum(one.tokens for one in comparisons)]
        self._log.add({"row": group.row, "id": group.id, **result, "prompt_tokens": tokens[0], "tokens": tokens[1]})
        spent = cost(self._price, self._log)
        self._bar.set_postfix({} if spent is None else {"cost": f"{spent:.4g}"}, refresh=False)
        self._bar.update()


def cost(price: tuple[float, float] | None, log: _Log) -> float | None:
    """Return what the tokens of all results cost; None without a price."""
    return None if price is None else (log.prompt_tokens * price[0] + log.tokens * price[1]) / 1e6


class _Log:
    """The log of finished rows.

    Attributes:
        places: number of a row -> where its result stands in the file.
        prompt_tokens, tokens: of all results.

    Raises:
        ValueError: it holds the results of another command, model, data or settings.
        UseError: it is damaged.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = AppendFile(folder / _LOG)
        self.places: dict[int, int] = {}
        self.prompt_tokens = self.tokens = 0
        header = json.loads(json.dumps(header))  # as it is read back
        try:
            for number, place, line in self._file.lines():
                self._read(number, place, line, header)
            if self._file.torn:
                self._file.cut()
            if not self._file.size:
                self._file.append(json.dumps(header, ensure_ascii=False).encode() + b"\n")
        except BaseException:
            self._file.close()
            raise

    def _read(self, number: int, place: int, line: bytes, header: Mapping[str, Any]) -> None:
        try:
            content = json.loads(line)
            if number > 1:
                self._count(content, place)
        except (ValueError, KeyError, TypeError):
            raise UseError(
                f"line {number} of {self._file.path} is damaged: {excerpt(line)}; remove the line, or write to another "
                "folder"
            ) from None
        if number == 1 and content != header:
            name = next((name for name in header if content.get(name) != header[name]), "form")
            raise ValueError(
                f"{self._file.path.parent} holds results of another run: {name} was {excerpt(content.get(name))} and "
                f"is {excerpt(header.get(name))}; write to another folder"
            )

    def _count(self, content: Mapping[str, Any], place: int) -> None:
        self.places[content["row"]] = place
        self.prompt_tokens += content["prompt_tokens"]
        self.tokens += content["tokens"]

    def add(self, result: Mapping[str, Any]) -> None:
        """Append the result of a row."""
        line = json.dumps(result, ensure_ascii=False).encode(errors="replace") + b"\n"
        self._count(result, self._file.append(line))

    def results(self) -> Iterator[dict[str, Any]]:
        """Yield the results in the order of the input."""
        with self._file.path.open("rb") as file:
            for _, place in sorted(self.places.items()):
                file.seek(place)
                yield json.loads(file.readline())

    def write_results(self, path: Path) -> None:
        """Write the results in the order of the input."""
        with whole_file(path) as file:
            for result in self.results():
                file.write(json.dumps(result, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Bring what was appended to the disk."""
        self._file.flush()

    def close(self) -> None:
        """Let others open the log."""
        self._file.close()


def _shares(log: _Log) -> dict[str, Any]:
    """Return shares over the finished rows."""
    agreed: Counter[Any] = Counter()
    disagreements = comparisons = 0
    for result in log.results():
        agreed[result["agrees_with_label"]] += 1
        comparisons += len(result["comparisons"])
        disagreements += int(result.get("orders_disagree", result.get("order_disagreements", 0)))
    labelled = agreed[True] + agreed[False]
    return {
        "comparisons": comparisons,
        "order_disagreements": disagreements,
        "labelled_rows": labelled,
        "agreement_with_labels": agreed[True] / labelled if labelled else None,
    }
