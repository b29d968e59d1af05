"""`r1reward eval run`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.cli.model_options import VLLMOptions
from r1reward_verl.engines.base import Engine, Sampling
from r1reward_verl.engines.endpoint import EndpointEngine
from r1reward_verl.engines.vllm import VLLMEngine, gpus_of_workers
from r1reward_verl.engines.worker_pool import WorkerPool
from r1reward_verl.evaluation.benchmarks import BENCHMARKS
from r1reward_verl.evaluation.fingerprint import fingerprint_model
from r1reward_verl.evaluation.run import EvaluateSettings, EvaluationResult, Needs, Task, derived_seed, evaluate
from r1reward_verl.evaluation.scoring import hints
from r1reward_verl.evaluation.table import metrics_table, summary_table
from r1reward_verl.settings import Settings, setting

app = typer.Typer()


class VLLMSettings(VLLMOptions, frozen=True, kw_only=True):
    """Settings of a model in vLLM, in this process."""

    data_parallel: Annotated[int, setting("Number of copies of the model (vLLM).", metavar="N", ge=1)] = 1


class EndpointSettings(Settings, frozen=True, kw_only=True):
    """Settings of a model behind OpenAI-compatible endpoints."""

    url: Annotated[
        list[str] | None, setting("OpenAI-compatible endpoint, such as http://host:8000/v1; may be repeated.")
    ] = None
    api_key_env: Annotated[str | None, setting("Environment variable with the endpoints' key.", metavar="NAME")] = None
    concurrency: Annotated[int, setting("Number of requests at a time, over all endpoints.", metavar="N", ge=1)] = 64
    timeout: Annotated[float, setting("Seconds for one request.", metavar="SECONDS", gt=0)] = 600.0
    max_wait: Annotated[
        float | None,
        setting("Seconds without any answer before the run ends; by default those for one request.", gt=0),
    ] = None
    other_servers: Annotated[bool, setting("Resume a run that began on other endpoints.")] = False


@app.command(
    epilog="Exit codes: 0 everything is judged, 1 not everything is, or the run failed, 2 wrong arguments, 130 "
    "interrupted. The same command resumes a run and tries failed judgements again."
)
@with_settings
def run(
    benchmarks: Annotated[
        list[str],
        typer.Argument(
            metavar="BENCHMARK...",
            help=f"Benchmarks to run: {', '.join(BENCHMARKS)}.",
            autocompletion=lambda: [*BENCHMARKS],
        ),
    ],
    model: Annotated[
        str, typer.Option(help="Folder of a checkpoint, or its name on the Hugging Face Hub; its name with --url.")
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE", help="File of the benchmark, or preferences of `r1reward data`; one for each benchmark."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="OUT",
            help="Folder to write to, with a folder for each of several benchmarks. A run that it holds is resumed.",
        ),
    ],
    settings: EvaluateSettings,
    endpoint: EndpointSettings,
    local: VLLMSettings,
    media: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the pictures and videos, one for all or for each benchmark; by default that of its file.",
        ),
    ] = None,
    protocol: Annotated[Literal["strict", "reference"], typer.Option(help="Figures to print.")] = "strict",
) -> int:
    """Let a reward model judge every case of one or several benchmarks."""
    if protocol == "reference" and settings.order == "random":
        raise ValueError(
            "--protocol reference needs every case with the better response first; leave out --order random"
        )
    if endpoint.url and local != VLLMSettings():
        raise ValueError(
            "--tensor-parallel, --data-parallel, --max-model-len and --gpu-memory-utilization are for vLLM in this "
            "process, not --url"
        )
    given, default = msgspec.structs.asdict(endpoint), msgspec.structs.asdict(EndpointSettings())
    if not endpoint.url and given != default:
        name = next(name for name, value in given.items() if value != default[name])
        raise ValueError(f"--{name.replace('_', '-')} is for servers; name them with --url")
    tasks = _tasks(benchmarks, data, media or [], out)
    if endpoint.url:
        kind, fingerprint, engine = "endpoint", model, _endpoint(model, endpoint, settings.sampling)
    else:
        kind, engine, fingerprint = "vllm", _vllm(model, local, settings.sampling), fingerprint_model(model)
    results = evaluate(
        tasks,
        settings,
        engine=engine,
        engine_kind=kind,
        model=fingerprint,
        model_name=model,
        max_model_len=local.max_model_len,
        urls=endpoint.url or (),
        other_servers=endpoint.other_servers,
    )
    for task, result in zip(tasks, results, strict=True):
        _print_result(task, result, protocol)
    if len(tasks) > 1:
        by_name = {Path(task.out).name: result.metrics for task, result in zip(tasks, results, strict=True)}
        print(f"\n{summary_table(by_name, protocol)}")
    missing = sum(result.missing for result in results)
    for error in dict.fromkeys(result.error for result in results if result.error):
        print(f"error: {error}", file=sys.stderr)
    if missing:
        print(f"{missing:,} judgements are missing; the same command resumes the run", file=sys.stderr)
        return 1
    return 0


def _tasks(benchmarks: Sequence[str], data: Sequence[Path], media: Sequence[Path], out: Path) -> list[Task]:
    """Return what is to be run.

    Raises:
        ValueError: files or folders that do not fit the benchmarks.
    """
    count = len(benchmarks)
    if unknown := [name for name in benchmarks if name not in BENCHMARKS]:
        raise ValueError(f"the benchmark is {unknown[0]!r}; known: {', '.join(BENCHMARKS)}")
    if len(data) != count:
        raise ValueError(f"{count} benchmarks and {len(data)} files: give --data once for each, in the same order")
    if len(media) not in (0, 1, count):
        raise ValueError(f"{count} benchmarks and {len(media)} folders: give --media once for all, or for each")
    roots = [None] * count if not media else [*media] * (count // len(media))
    names = [
        name if benchmarks.count(name) == 1 else f"{name}-{benchmarks[:place].count(name) + 1}"
        for place, name in enumerate(benchmarks)
    ]
    folders = [out / name for name in names] if count > 1 else [out]
    return [Task(*one) for one in zip(benchmarks, data, folders, roots, strict=True)]


def _print_result(task: Task, result: EvaluationResult, protocol: str) -> None:
    """Print the figures of a run, and what they suggest to do."""
    figures = result.metrics
    if figures is not None and protocol == "reference":
        figures = figures["reference"]
        if figures is None:
            print(
                "no figures of the reference's protocol: they need cases shown with the better response first, and "
                f"none of those has been judged yet; the other figures are in {task.out}/metrics.json",
                file=sys.stderr,
            )
    if figures is not None:
        print(f"\n{metrics_table(figures, BENCHMARKS[task.benchmark])}\n\nfigures: {task.out}/metrics.json")
    for hint in hints(result.metrics or {}):
        print(f"note: {hint}", file=sys.stderr)
    if result.errors:
        print("why judgements failed, the commonest first:", file=sys.stderr)
        for text, count in result.errors:
            print(f"{count:>9,}  {text}", file=sys.stderr)


def _endpoint(model: str, settings: EndpointSettings, sampling: Sampling) -> Callable[[Needs], Engine]:
    name = settings.api_key_env
    if name is not None and not os.environ.get(name):
        raise ValueError(f"the environment variable {name!r}, which --api-key-env names, is not set")
    max_wait = settings.timeout if settings.max_wait is None else settings.max_wait
    engine = EndpointEngine(
        settings.url or [],
        model,
        sampling,
        api_key=os.environ[name] if name else None,
        key_name=name or "of --api-key-env",
        concurrency=settings.concurrency,
        timeout=min(settings.timeout, max_wait),
        max_wait=max_wait,
    )
    return lambda needs: engine


def _vllm(model: str, settings: VLLMSettings, sampling: Sampling) -> Callable[[Needs], Engine]:
    gpus = gpus_of_workers(settings.tensor_parallel, settings.data_parallel)
    # On a CPU vLLM repeats warnings that nobody can act on, dozens at a time.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

    def make(needs: Needs) -> Engine:
        builders: list[Callable[[], Engine]] = [
            partial(
                VLLMEngine,
                model,
                sampling,
                images=needs.images,
                frames=needs.frames,
                max_model_len=settings.max_model_len,
                tensor_parallel=settings.tensor_parallel,
                gpu_memory_utilization=settings.gpu_memory_utilization,
                seed=derived_seed(needs.seed, worker) if worker else needs.seed,
            )
            for worker in range(len(gpus))
        ]
        return WorkerPool(builders, gpus) if len(gpus) > 1 else builders[0]()

    return make
