"""Hardware and batch sizes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.config import Problem, config_value, container, is_cpu_hardware, is_positive
from r1reward_verl.plugin.preflight.engine import FSDP, is_fully_async, rollout_sizes


def check_hardware(config: DictConfig) -> Iterator[Problem]:
    """The platform, and GPUs asked for against GPUs there."""
    device = config_value(config, "trainer.device")
    on_cpu = device == "cpu" or is_cpu_hardware(config)
    if problem := platform_problem(device, on_cpu, "+hardware=cpu"):
        yield problem
        return
    if on_cpu and config_value(config, "actor_rollout_ref.model.use_remove_padding"):
        yield Problem(
            "actor_rollout_ref.model.use_remove_padding",
            "True, and packed sequences need flash-attention, which needs a GPU",
            "Put +hardware=cpu behind +recipe=, whose setting it then replaces, or set it to false",
        )
    if device not in ("cuda", "cpu") or ray_cluster(config) is not None:
        return

    nodes, per_node = config_value(config, "trainer.nnodes"), config_value(config, "trainer.n_gpus_per_node")
    if not (is_positive(nodes) and is_positive(per_node)):
        return
    if nodes > 1:
        yield Problem(
            "trainer.nnodes",
            f"{nodes} nodes are asked for, and there is no Ray cluster",
            "Run `ray start` on every node first, or choose a hardware of one node such as +hardware=8gpu",
        )
        return
    asked = per_node + _reward_model_gpus(config) + _rollout_gpus(config)
    logical = config_value(config, "ray_kwargs.ray_init.num_gpus")
    if device == "cpu":
        if asked > (logical or 0):
            yield Problem(
                "ray_kwargs.ray_init.num_gpus",
                f"{logical} logical GPUs do not hold the {asked} ranks that are asked for",
                f"Set it to {asked}",
            )
        return
    import torch

    # What Ray is told can be less than what is there, and is no proof of more.
    there = min(torch.cuda.device_count(), logical) if is_positive(logical) else torch.cuda.device_count()
    if asked > there:
        yield gpu_problem(asked, there, "+hardware=cpu")


def platform_problem(device: Any, on_cpu: bool, choice: str) -> Problem | None:
    """Say that the config asks for the CPU, or does not, where the environment says otherwise."""
    platform = os.environ.get("VERL_PLATFORM", "").strip().lower()
    if on_cpu == (platform == "cpu"):
        return None
    return Problem(
        "trainer.device",
        f"{'cpu' if on_cpu else device!r}, while the environment variable VERL_PLATFORM is "
        f"{repr(platform) if platform else 'not set'}",
        "Start with VERL_PLATFORM=cpu in front of the command"
        if on_cpu
        else f"Add {choice}, or unset VERL_PLATFORM to train on GPUs",
    )


def gpu_problem(asked: int, there: int, choice: str) -> Problem:
    """Say that there are fewer GPUs than are asked for."""
    return Problem(
        "trainer.n_gpus_per_node",
        f"asked for {asked}, there are {there}",
        f"Choose a hardware of at most {there} GPUs"
        if there
        else f"Without GPUs, put VERL_PLATFORM=cpu in front of the command and use {choice}",
    )


def ray_cluster(config: DictConfig) -> str | None:
    """Return the Ray cluster that `ray.init` would join, or None where it would start one of its own."""
    address = config_value(config, "ray_kwargs.ray_init.address") or os.environ.get("RAY_ADDRESS")
    if address:
        return None if address == "local" else str(address)
    started_here = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray", "ray_current_cluster")
    return started_here.read_text().strip() or None if started_here.is_file() else None


def _reward_model_gpus(config: DictConfig) -> int:
    """Return the GPUs of a reward model with a resource pool of its own."""
    pool = container(config, "reward.reward_model") or {}
    if not pool.get("enable_resource_pool"):
        return 0
    return int(pool.get("n_gpus_per_node") or 0) * int(pool.get("nnodes") or 0)


def _rollout_gpus(config: DictConfig) -> int:
    """Return the GPUs that the rollout has for itself."""
    if not is_fully_async(config) and config_value(config, "trainer.v1.trainer_mode") != "separate_async":
        return 0
    nodes, per_node = (config_value(config, key) for key in rollout_sizes(config))
    return nodes * per_node if is_positive(nodes) and is_positive(per_node) else 0


_TRAIN = "data.train_batch_size"
_SIZES = (
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
    _TRAIN,
    "data.max_prompt_length",
    "data.max_response_length",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.tensor_model_parallel_size",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
)


def check_batch_sizes(config: DictConfig) -> Iterator[Problem]:
    """Sizes that must divide one another, or hold the longest sample."""
    sizes = {key: config_value(config, key) for key in _SIZES}
    if is_fully_async(config):
        sizes[_TRAIN] = sizes["actor_rollout_ref.actor.ppo_mini_batch_size"]  # there it is 0
    wrong = {key: value for key, value in sizes.items() if not is_positive(value)}
    for key, value in wrong.items():
        yield Problem(key, f"{value!r} is not a positive whole number", "Give one")
    if wrong:
        return
    nodes, per_node, train, prompt, response, n, tensor, mini = sizes.values()
    gpus = nodes * per_node
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"

    replica = tensor * (config_value(config, f"{rollout}.data_parallel_size") or 1)
    if gpus % replica or replica % min(per_node, replica):
        yield Problem(
            f"{rollout}.tensor_model_parallel_size",
            f"a vLLM replica of {replica} GPUs does not divide {nodes} x {per_node} GPUs",
            "Make it a divisor of trainer.n_gpus_per_node",
        )
    room = config_value(config, f"{rollout}.max_model_len")
    if is_positive(room) and room < prompt + response:
        yield Problem(
            f"{rollout}.max_model_len",
            f"{room} tokens do not hold the longest sample, data.max_prompt_length={prompt} + "
            f"data.max_response_length={response}",
            f"Raise it to {prompt + response} or more",
        )
    if train % mini:
        yield Problem(
            _TRAIN,
            f"{train} is not a multiple of {actor}.ppo_mini_batch_size={mini}",
            f"Use {max(1, train // mini) * mini}, or a mini-batch size that divides {train}",
        )
    if config_value(config, f"{actor}.strategy") not in FSDP:
        return  # other engines count their data-parallel ranks differently, and verl checks them itself

    sequence_parallel = config_value(config, f"{actor}.ulysses_sequence_parallel_size") or 1
    if gpus % sequence_parallel:
        yield Problem(
            f"{actor}.ulysses_sequence_parallel_size",
            f"{sequence_parallel} does not divide {gpus} GPUs",
            "Use a divisor of trainer.nnodes * trainer.n_gpus_per_node",
        )
        return
    ranks = gpus // sequence_parallel
    if mini * n % ranks:
        yield Problem(
            f"{actor}.ppo_mini_batch_size",
            f"{mini} pairs * {rollout}.n={n} responses do not divide among {ranks} GPUs",
            f"Make the product a multiple of {ranks}: change the mini-batch size, n, or the number of GPUs",
        )
        return

    dynamic = bool(config_value(config, f"{actor}.use_dynamic_bsz"))
    if dynamic != bool(config_value(config, f"{rollout}.log_prob_use_dynamic_bsz")):
        yield Problem(
            f"{rollout}.log_prob_use_dynamic_bsz",
            f"{not dynamic} differs from {actor}.use_dynamic_bsz={dynamic}",
            "verl wants the same for both; leave the former out and it follows the latter",
        )
    if dynamic:
        longest = prompt + response
        keys = (f"{actor}.ppo_max_token_len_per_gpu", f"{rollout}.log_prob_max_token_len_per_gpu")
        # The latter follows the former where nobody sets it: one mistake, one problem.
        for key in keys if config_value(config, keys[0]) != config_value(config, keys[1]) else keys[:1]:
            budget = config_value(config, key)
            if not is_positive(budget) or budget * sequence_parallel < longest:
                yield Problem(
                    key,
                    f"{budget} tokens do not hold the longest sample, data.max_prompt_length={prompt} + "
                    f"data.max_response_length={response}",
                    f"Raise it to {-(-longest // sequence_parallel)} or more, or shorten the samples",
                )
        return
    for key, share, of in (
        (f"{actor}.ppo_micro_batch_size_per_gpu", mini * n // ranks, "mini-batch"),
        (f"{rollout}.log_prob_micro_batch_size_per_gpu", train * n // ranks, "batch"),
    ):
        micro = config_value(config, key)
        if micro is not None and (not is_positive(micro) or share % micro):
            yield Problem(
                key,
                f"{micro!r} does not divide the {share} samples that each GPU gets of a {of}",
                f"Use a divisor of {share}, or {actor}.use_dynamic_bsz=true with a token budget",
            )
