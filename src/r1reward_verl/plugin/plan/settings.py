"""From a composed config to the arithmetic's setup, and the settings that would make it fit."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from r1reward_verl.plugin.plan.memory import GB, Engine, Setup, cached_tokens, plan_memory
from r1reward_verl.plugin.plan.shapes import Shape, load_shape
from r1reward_verl.plugin.preflight.config import config_value, container

ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
JUDGE = "reward.reward_model"
BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2}
# Text of the shortest sample that has a picture: the instructions are about 140 tokens (560 characters), and a
# question, two short responses and a short judgement are about 200 more.
SHORT_TEXT = 350


@dataclass(frozen=True)
class Gpus:
    """Nodes, GPUs of each, and their memory in GB."""

    nodes: int
    per_node: int
    memory: float

    @classmethod
    def parse(cls, text: str) -> Gpus:
        """Read "8x80", 8 GPUs of 80 GB on one node, or "2x8x80", two such nodes.

        Raises:
            ValueError: another form, or a 0.
        """
        match = re.fullmatch(r"(?:(\d+)x)?(\d+)x(\d+(?:\.\d+)?)", text)
        if match is None or not all(float(number) for number in match.groups("1")):
            raise ValueError(
                f"gpus={text}: write gpus=8x80 for 8 GPUs of 80 GB on one node, gpus=2x8x80 for two such nodes"
            )
        nodes, per_node, memory = match.groups("1")
        return cls(int(nodes), int(per_node), float(memory))

    @property
    def overrides(self) -> list[str]:
        """The same as Hydra overrides."""
        return [f"trainer.nnodes={self.nodes}", f"trainer.n_gpus_per_node={self.per_node}"]


def read_setup(config: DictConfig, shape: Shape, gpus: Gpus) -> Setup:
    """Return what the arithmetic needs of a composed config.

    Raises:
        ValueError: another engine than FSDP2, whose memory is not known here.
        FileNotFoundError: the judge's shape is not known.
    """
    strategy = config_value(config, f"{ACTOR}.strategy")
    if strategy != "fsdp2":
        raise ValueError(f"{ACTOR}.strategy={strategy}: the plan knows fsdp2 only")
    fsdp = container(config, f"{ACTOR}.fsdp_config")
    model = container(config, MODEL)
    ranks = gpus.nodes * gpus.per_node
    fsdp_size = fsdp["fsdp_size"] if 0 < fsdp["fsdp_size"] < ranks else ranks
    mixed = {"param_dtype": "bf16", "reduce_dtype": "fp32", **(fsdp.get("mixed_precision") or {})}
    lora = model.get("lora_rank") or 0
    adapters = shape.lora_parameters(lora, model["target_modules"], model["exclude_modules"]) if lora else 0
    length = config_value(config, "data.max_prompt_length") + config_value(config, "data.max_response_length")
    dynamic = config_value(config, f"{ACTOR}.use_dynamic_bsz")
    parallel = config_value(config, f"{ACTOR}.ulysses_sequence_parallel_size") or 1

    def tokens(budget: str, micro_batch: str) -> int:
        if dynamic:
            return int(config_value(config, budget))
        samples = config_value(config, micro_batch)
        if samples is None:
            raise ValueError(f"{micro_batch} is not set, nor {ACTOR}.use_dynamic_bsz=true with a token budget")
        return math.ceil(int(samples) * length / parallel)

    attention = (model.get("override_config") or {}).get("attn_implementation", "flash_attention_2")
    chunked = fsdp["entropy_from_logits_with_chunking"]
    judge = config_value(config, f"{JUDGE}.enable") and not config_value(config, f"{JUDGE}.enable_resource_pool")
    return Setup(
        shape=shape,
        nodes=gpus.nodes,
        gpus_per_node=gpus.per_node,
        gpu_bytes=gpus.memory * GB,
        shards=fsdp_size,
        trainable=adapters or shape.parameters,
        frozen=shape.parameters if lora else 0,
        tokens=tokens(f"{ACTOR}.ppo_max_token_len_per_gpu", f"{ACTOR}.ppo_micro_batch_size_per_gpu"),
        log_prob_tokens=tokens(
            f"{ROLLOUT}.log_prob_max_token_len_per_gpu", f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu"
        ),
        sequence_parallel=parallel,
        picture_share=_picture_share(config, shape),
        master_bytes=BYTES[fsdp["model_dtype"] or "fp32"],
        compute_bytes=BYTES[mixed["param_dtype"]],
        reduce_bytes=BYTES[mixed["reduce_dtype"]],
        checkpointing=model["enable_gradient_checkpointing"],
        activation_offload=model["enable_activation_offload"],
        offload_policy=fsdp["offload_policy"],
        param_offload=fsdp["param_offload"] and not fsdp["offload_policy"],
        optimizer_offload=fsdp["optimizer_offload"] and not fsdp["offload_policy"],
        flash=attention.startswith("flash"),
        fused=model["use_fused_kernels"],
        entropy_in_loss=bool(
            config_value(config, f"{ACTOR}.entropy_coeff") or config_value(config, f"{ACTOR}.calculate_entropy")
        ),
        entropy_chunk=fsdp["entropy_from_logits_chunk_size"] if chunked else None,
        compiled=fsdp["use_torch_compile"],
        scaled=config_value(config, f"{ROLLOUT}.temperature") != 1,
        bucket=config_value(config, f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes") * 1024**2,
        rollout=_read_engine(config, ROLLOUT, shape),
        judge=_read_engine(config, f"{JUDGE}.rollout", load_shape(str(config_value(config, f"{JUDGE}.model_path"))))
        if judge
        else None,
    )


def _read_engine(config: DictConfig, key: str, shape: Shape) -> Engine:
    section = config_value(config, key)
    return Engine(
        shape=shape,
        utilization=section.gpu_memory_utilization,
        tensor_parallel=section.tensor_model_parallel_size,
        # verl takes the model's longest sequence where nothing is set (vllm_async_server.py, _validate_configs).
        max_length=section.max_model_len or shape.max_positions,
        batched_tokens=section.max_num_batched_tokens,
        sequences=section.max_num_seqs,
        sleeps=section.free_cache_engine,
    )


def _picture_share(config: DictConfig, shape: Shape) -> float:
    """Return the largest share of a micro-batch's tokens that come from pictures: many short samples, each with one."""
    if shape.vision is None:
        return 0.0
    limits = container(config, f"{ROLLOUT}.engine_kwargs.vllm.limit_mm_per_prompt") or {}
    prompt = config_value(config, "data.max_prompt_length")
    pixels = config_value(config, "data.mm_processor_kwargs.max_pixels")
    pictures = prompt
    if pixels and not limits.get("video"):
        pictures = min(prompt, int(limits.get("image") or 1) * math.ceil(pixels / shape.vision.pixels_per_token))
    return float(pictures / (pictures + SHORT_TEXT))


# -----------------------------------------------------------------------------
# Settings that help
# -----------------------------------------------------------------------------


def shortfalls(setup: Setup) -> list[str]:
    """Return a sentence for each phase that a GPU does not hold, and each vLLM that would not start."""
    found = []
    for phase, parts in plan_memory(setup).items():
        needed = sum(parts.values())
        if needed > setup.gpu_bytes:
            found.append(f"{phase} needs {needed / GB:.1f} GB, {(needed - setup.gpu_bytes) / GB:.1f} too much")
    for name, engine in (("rollout", setup.rollout), ("judge", setup.judge)):
        if engine is not None and cached_tokens(engine, setup.gpu_bytes) < engine.max_length:
            found.append(
                f"the {name}'s vLLM does not start: its cache holds {cached_tokens(engine, setup.gpu_bytes):,} tokens, "
                f"less than a sequence of {engine.max_length:,}"
            )
    return found


def _candidates(setup: Setup, longest: int) -> Iterator[tuple[str, Callable[[Setup], Setup]]]:
    """Yield overrides, those that cost least first, each with what it makes of a setup."""

    def change(**values: Any) -> Callable[[Setup], Setup]:
        return lambda old: dataclasses.replace(old, **values)

    def change_rollout(**values: Any) -> Callable[[Setup], Setup]:
        return lambda old: dataclasses.replace(old, rollout=dataclasses.replace(old.rollout, **values))

    if setup.rollout.max_length > longest:
        yield f"{ROLLOUT}.max_model_len={longest}", change_rollout(max_length=longest)
    if not setup.fused and setup.entropy_chunk is None:
        yield f"{ACTOR}.entropy_from_logits_with_chunking=true", change(entropy_chunk=2048)
    # With FSDP2, verl 0.9.1 fails on the fused kernels where the output matrix is not the embedding.
    if not setup.fused and setup.shape.tied:
        yield f"{MODEL}.use_fused_kernels=true", change(fused=True)
    if not setup.checkpointing:
        yield f"{MODEL}.enable_gradient_checkpointing=true", change(checkpointing=True)
    needed = math.ceil(longest / setup.sequence_parallel)
    if setup.tokens > needed:
        yield f"{ACTOR}.ppo_max_token_len_per_gpu={needed}", change(tokens=needed, log_prob_tokens=needed)
    ranks = setup.nodes * setup.gpus_per_node
    if setup.shards < ranks:
        yield f"{ACTOR}.fsdp_config.fsdp_size=-1", change(shards=ranks)
    for parallel in (2, 4, 8):
        if parallel > setup.rollout.tensor_parallel and setup.gpus_per_node % parallel == 0:
            yield f"{ROLLOUT}.tensor_model_parallel_size={parallel}", change_rollout(tensor_parallel=parallel)
            break
    if (share := _utilization(setup, setup.rollout, "rollout")) is not None:
        yield f"{ROLLOUT}.gpu_memory_utilization={share}", change_rollout(utilization=share)
    if setup.judge is not None and (share := _utilization(setup, setup.judge, "judge")) is not None:
        judge = dataclasses.replace(setup.judge, utilization=share)
        yield f"{JUDGE}.rollout.gpu_memory_utilization={share}", change(judge=judge)
    if not setup.optimizer_offload and not setup.offload_policy:
        yield f"{ACTOR}.fsdp_config.optimizer_offload=true", change(optimizer_offload=True)
    if not setup.offload_policy:
        offloaded = change(offload_policy=True, optimizer_offload=False, param_offload=False)
        yield f"{ACTOR}.fsdp_config.offload_policy=true", offloaded
    if setup.frozen == 0:
        adapters = setup.shape.lora_parameters(64, "all-linear", ".*visual.*")
        yield (
            f"{MODEL}.lora_rank=64 {MODEL}.lora_alpha=64 {MODEL}.exclude_modules=.*visual.*",
            change(trainable=adapters, frozen=setup.shape.parameters),
        )


def _utilization(setup: Setup, engine: Engine, phase: str) -> float | None:
    """Return the share of a GPU for an engine that fits beside the training state, if another one is needed."""
    parts = plan_memory(setup)[phase]
    beside = sum(parts.values()) - max(engine.weights, engine.utilization * setup.gpu_bytes)
    most = math.floor(20 * (setup.gpu_bytes - beside) / setup.gpu_bytes) / 20
    least = (engine.weights + engine.working + engine.max_length * engine.bytes_per_token) / setup.gpu_bytes
    wanted = round(min(most, max(engine.utilization, math.ceil(20 * least) / 20)), 2)
    return wanted if wanted > 0 and wanted != engine.utilization else None


def proposals(setup: Setup, longest: int) -> tuple[list[str], list[str]]:
    """Return the overrides each of which makes the setup fit, else some that do so together.

    Args:
        setup: one that does not fit.
        longest: the longest sample, in tokens.

    Returns:
        The single ones and, where there is none, a set of several; both are empty where nothing here helps.
    """
    alone = [name for name, change in _candidates(setup, longest) if not shortfalls(change(setup))]
    if alone:
        return alone, []
    together: dict[str, str] = {}
    while shortfalls(setup):
        changed = [(name, change(setup)) for name, change in _candidates(setup, longest)]
        name, best = min(changed, key=lambda one: _missing(one[1]), default=("", setup))
        if _missing(best) >= _missing(setup):
            return [], []
        # A later value of the same setting takes the place of the one before.
        together[name.partition("=")[0]] = name
        setup = best
    if setup.offload_policy:
        together.pop(f"{ACTOR}.fsdp_config.optimizer_offload", None)
    return [], list(together.values())


def _missing(setup: Setup) -> float:
    """Return what a setup lacks: bytes of all phases beyond the GPU, and of both caches below one sequence."""
    needed = [sum(parts.values()) - setup.gpu_bytes for parts in plan_memory(setup).values()]
    for engine in filter(None, (setup.rollout, setup.judge)):
        tokens = engine.max_length * engine.bytes_per_token
        needed.append(engine.weights + engine.working + tokens - engine.utilization * setup.gpu_bytes)
    return sum(lacking for lacking in needed if lacking > 0)
