"""`r1reward eval run`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from r1reward_verl.cli.groups import with_settings
from r1reward_verl.engines.base import Engine, Sampling
from r1reward_verl.engines.endpoint import EndpointEngine
from r1reward_verl.engines.vllm import VLLMEngine, WorkerPool, gpus_of_workers
from r1reward_verl.evaluation.benchmarks import BENCHMARKS
from r1reward_verl.evaluation.fingerprint import fingerprint_model
from r1reward_verl.evaluation.run import EvaluateSettings, Needs, derived_seed, evaluate
from r1reward_verl.evaluation.scoring import hints
from r1reward_verl.evaluation.table import metrics_table
from r1reward_verl.settings import Settings, setting

app = typer.Typer()


class VLLMSettings(Settings, frozen=True, kw_only=True):
    """Settings of a model in vLLM, in this process."""

    tensor_parallel: Annotated[int, setting("Number of GPUs that share the model (vLLM).", metavar="N", ge=1)] = 1
    data_parallel: Annotated[int, setting("Number of copies of the model (vLLM).", metavar="N", ge=1)] = 1
    gpu_memory_utilization: Annotated[
        float | None, setting("Share of a GPU's memory; by default vLLM's own.", metavar="SHARE", gt=0, le=1)
    ] = None
    max_model_len: Annotated[
        int | None, setting("Largest number of tokens of prompt and judgement together (vLLM).", metavar="N", ge=1)
    ] = None


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
    benchmark: Annotated[
        Literal[tuple(BENCHMARKS)],  # type: ignore[valid-type]
        typer.Argument(help="Benchmark that the file is of."),
    ],
    model: Annotated[
        str, typer.Option(help="Folder of a checkpoint, or its name on the Hugging Face Hub; its name with --url.")
    ],
    data: Annotated[
        Path, typer.Option(metavar="FILE", help="File of the benchmark, or preferences of `r1reward data`.")
    ],
    out: Annotated[Path, typer.Option(metavar="OUT", help="Folder to write to. A run that it holds is resumed.")],
    settings: EvaluateSettings,
    endpoint: EndpointSettings,
    local: VLLMSettings,
    protocol: Annotated[Literal["strict", "reference"], typer.Option(help="Figures to print.")] = "strict",
) -> int:
    """Let a reward model judge every case of a benchmark."""
    if protocol == "reference" and settings.order == "random":
        raise ValueError(
            "--protocol reference needs every case with the better response first; leave out --order random"
        )
    if endpoint.url and local != VLLMSettings():
        raise ValueError(
            "--tensor-parallel, --data-parallel, --max-model-len and --gpu-memory-utilization are for vLLM in this "
            "process, not --url"
        )
    if not endpoint.url and endpoint != EndpointSettings():
        given = next(name for name in msgspec.structs.asdict(EndpointSettings()) if _differ(endpoint, name))
        raise ValueError(f"--{given.replace('_', '-')} is for servers; name them with --url")
    if endpoint.url:
        kind, fingerprint, engine = "endpoint", model, _endpoint(model, endpoint, settings.sampling)
    else:
        kind, engine, fingerprint = "vllm", _vllm(model, local, settings.sampling), fingerprint_model(model)
    result = evaluate(
        benchmark,
        data,
        out,
        settings,
        engine=engine,
        engine_kind=kind,
        model=fingerprint,
        model_name=model,
        max_model_len=local.max_model_len,
        urls=endpoint.url or (),
        other_servers=endpoint.other_servers,
    )
    figures = result.metrics
    if figures is not None and protocol == "reference":
        figures = figures["reference"]
        if figures is None:
            print(
                "no figures of the reference's protocol: they need cases shown with the better response first, and "
                f"none of those has been judged yet; the other figures are in {out}/metrics.json",
                file=sys.stderr,
            )
    if figures is not None:
        print(f"\n{metrics_table(figures, BENCHMARKS[benchmark])}\n\nfigures: {out}/metrics.json")
    for hint in hints(result.metrics or {}):
        print(f"note: {hint}", file=sys.stderr)
    if result.errors:
        print("why judgements failed, the commonest first:", file=sys.stderr)
        for text, count in result.errors:
            print(f"{count:>9,}  {text}", file=sys.stderr)
    if result.error:
        print(f"error: {result.error}", file=sys.stderr)
    if result.missing:
        print(f"{result.missing:,} judgements are missing; the same command resumes the run", file=sys.stderr)
        return 1
    return 0


def _differ(settings: EndpointSettings, name: str) -> bool:
    return bool(getattr(settings, name) != getattr(EndpointSettings(), name))


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
