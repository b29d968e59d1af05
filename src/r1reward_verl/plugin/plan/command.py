"""The plan that `r1reward doctor --plan` prints: a table of parts by phase, the tightest one, and what would help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hydra.errors import HydraException
from omegaconf import DictConfig

from r1reward_verl.plugin.doctor import compose
from r1reward_verl.plugin.plan.memory import GB, PARTS, Setup, cached_tokens, plan_memory, tightest
from r1reward_verl.plugin.plan.settings import MODEL, Gpus, proposals, read_setup, shortfalls
from r1reward_verl.plugin.plan.shapes import Shape, load_shape
from r1reward_verl.plugin.preflight.config import config_value


def split_arguments(arguments: Sequence[str]) -> tuple[Gpus | None, list[str]]:
    """Take `model=` and `gpus=` out of the arguments of the command, and return the GPUs and Hydra's overrides.

    Without a recipe, the overrides are on `+recipe=r1_reward`; `gpus=` comes last, so that it has its way over a
    hardware group.

    Raises:
        ValueError: a `gpus=` of another form.
    """
    named = dict(one.split("=", 1) for one in arguments if one.startswith(("model=", "gpus=")))
    overrides = [one for one in arguments if not one.startswith(("model=", "gpus="))]
    if not any(one.startswith("+recipe=") for one in overrides):
        overrides.insert(0, "+recipe=r1_reward")
    if "model" in named:
        overrides.append(f"{MODEL}.path={named['model']}")
    gpus = Gpus.parse(named["gpus"]) if "gpus" in named else None
    return gpus, overrides + (gpus.overrides if gpus else [])


def print_plan(arguments: Sequence[str]) -> int:
    """Print the plan of what the arguments of the command compose, and return the exit code: 0 if it fits, else 1.

    Raises:
        ValueError: no model, GPUs of unknown memory, overrides that do not fit, or settings whose memory is not known.
        FileNotFoundError: the shape of the model or the judge is not known.
    """
    gpus, overrides = split_arguments(arguments)
    try:
        config = compose(overrides)
    except HydraException as error:
        raise ValueError(f"override {getattr(error, 'override', None) or ' '.join(overrides)}: {error}") from error
    model = config_value(config, f"{MODEL}.path")
    if model is None:
        raise ValueError("the plan needs a model: add model=Qwen2.5-VL-7B, or the folder of a checkpoint")
    setup = read_setup(config, load_shape(str(model)), gpus or _gpus_here(config))
    longest = config_value(config, "data.max_prompt_length") + config_value(config, "data.max_response_length")
    for line in plan_lines(setup, longest):
        print(line)
    return int(bool(shortfalls(setup)))


def _gpus_here(config: DictConfig) -> Gpus:
    """Return the GPUs that a config asks for, with the memory of this machine's."""
    import torch

    if not torch.cuda.is_available():
        raise ValueError("the plan needs the memory of a GPU, and there is none here: add gpus=8x80, or gpus=2x8x80")
    memory = torch.cuda.get_device_properties(0).total_memory / 1024**3  # GiB are about the GB of its name
    per_node = int(config_value(config, "trainer.n_gpus_per_node"))
    return Gpus(int(config_value(config, "trainer.nnodes")), per_node, round(memory))


def plan_lines(setup: Setup, longest: int) -> Iterator[str]:
    """Yield the lines of a plan.

    Args:
        setup: what is planned.
        longest: the longest sample, in tokens.
    """
    phases = plan_memory(setup)
    yield _describe(setup.shape, setup)
    yield ""
    yield from _table(phases)
    yield ""
    phase, part = tightest(phases)
    needed = sum(phases[phase].values())
    yield (
        f"tightest: {phase}, {needed / GB:.1f} of {setup.gpu_bytes / GB:g} GB; "
        f"its largest part: {part}, {phases[phase][part] / GB:.1f} GB"
    )
    for name, engine in (("rollout", setup.rollout), ("judge", setup.judge)):
        if engine is not None:
            tokens = cached_tokens(engine, setup.gpu_bytes)
            yield (
                f"{name}: vLLM's cache holds about {tokens:,} tokens "
                f"a replica; a sequence has up to {engine.max_length:,}"
            )
    if setup.host_bytes:
        yield f"offloaded to the memory of each machine: {setup.host_bytes / GB:.0f} GB"
    problems = shortfalls(setup)
    if not problems:
        yield "fits"
        return
    for problem in problems:
        yield f"PROBLEM  {problem}"
    yield from _advice(*proposals(setup, longest))


def _describe(shape: Shape, setup: Setup) -> str:
    parts = f"{shape.language_parameters / GB:.2f} language, {shape.vision_parameters / GB:.2f} vision"
    trained = f", {setup.trainable / GB:.2f} of LoRA trained" if setup.frozen else ""
    nodes = f"{setup.nodes} nodes of " if setup.nodes > 1 else ""
    gpus = "1 GPU" if setup.gpus_per_node == 1 else f"{setup.gpus_per_node} GPUs"
    return (
        f"{shape.name}: {shape.parameters / GB:.2f} billion parameters ({parts}{trained})\n"
        f"{nodes}{gpus} of {setup.gpu_bytes / GB:g} GB, weights sharded over {setup.shards}, "
        f"micro-batches of {setup.tokens:,} tokens"
    )


def _table(phases: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yield the parts by phase in GB of a GPU, without those that no phase has."""
    yield f"{'GB of each GPU':<21}" + "".join(f"{phase:>10}" for phase in phases)
    for part in PARTS:
        sizes = [parts.get(part, 0.0) / GB for parts in phases.values()]
        if any(size >= 0.05 for size in sizes):
            yield f"{part:<21}" + "".join(f"{size:>10.1f}" if size >= 0.05 else f"{'-':>10}" for size in sizes)
    yield f"{'sum':<21}" + "".join(f"{sum(parts.values()) / GB:>10.1f}" for parts in phases.values())


def _advice(alone: list[str], together: list[str]) -> Iterator[str]:
    if alone:
        yield "Each of these makes it fit:" if len(alone) > 1 else "This makes it fit:"
        yield from (f"  {override}" for override in alone)
    elif together:
        yield "Together these make it fit:"
        yield from (f"  {override}" for override in together)
    else:
        yield "No setting known here makes it fit: use more or larger GPUs, or a smaller model"
