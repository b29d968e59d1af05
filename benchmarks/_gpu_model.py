"""Models of a given shape with random weights in verl's actor worker, for `_gpu_sections.py`."""

from __future__ import annotations

import copy
import importlib.util
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.device import get_torch_device
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.losses import ppo_loss

from _actor import actor, old_log_probs, rollouts, settings, update, with_advantages
from _bench import Figure
from r1reward_verl.plugin.doctor import compose
from r1reward_verl.toy.model import build_model, build_processor

GB = 1e9
Shape = dict[str, dict[str, Any]]

# config.json of Qwen2.5-VL-7B-Instruct
QWEN_7B: Shape = {
    "text": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "max_position_embeddings": 128000,
    },
    "vision": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
}
TINY: Shape = {"text": {"vocab_size": 640}, "vision": {}}


def _narrow() -> Shape:
    """Return the 7B's shape with 12 layers of width 2048 and a vision tower of 8 layers: 1.7e9 parameters."""
    shape = copy.deepcopy(QWEN_7B)
    shape["text"] |= {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 12}
    shape["text"] |= {"num_attention_heads": 16, "num_key_value_heads": 2}
    shape["vision"] |= {"depth": 8, "out_hidden_size": 2048, "fullatt_block_indexes": [7]}
    return shape


MID_SIZE = {"cuda": _narrow(), "cpu": TINY}
TOKENS = {"cuda": 4096, "cpu": 64}
SAMPLES = {"cuda": [(900 + 40 * i, 200 + 20 * i, True) for i in range(16)], "cpu": [(20, 9, True), (31, 14, True)]}
# The recipe's own budget, with its longest sample: 640 tokens of a picture, its two marks, prompt and response.
LONG_TOKENS = {"cuda": 24576, "cpu": 64}
LONG_SAMPLES = {"cuda": [(20480 - 642, 1024, True), (8192, 1024, True)], "cpu": SAMPLES["cpu"]}
PATCHES = {"cuda": (40, 64), "cpu": (4, 4)}
# Beside weights, gradients and Adam moments: activations, logits with their float32 copies, a layer's copies in bf16.
RESERVE = 48 * GB


def worker_and_batch(folder: Path, device: str) -> tuple[ActorRolloutRefWorker, TensorDict]:
    """Write a mid-size model, load it as verl does, and return the worker and a batch ready for an update."""
    save_random_model(folder, MID_SIZE[device], device)
    worker = actor(settings(folder, *_overrides(device, TOKENS[device])))
    return worker, _ready(worker, rollouts(worker, SAMPLES[device], PATCHES[device]))


def _ready(worker: ActorRolloutRefWorker, batch: TensorDict) -> TensorDict:
    batch = with_advantages(batch)
    batch["old_log_probs"] = old_log_probs(worker, batch)
    return batch


def save_random_model(folder: Path, shape: Shape, device: str) -> None:
    """Write a Qwen2.5-VL with random weights, in bf16 on a GPU, in Hugging Face form."""
    shutil.rmtree(folder, ignore_errors=True)
    processor = build_processor(["0 1 2 3 4 5 6 7 8 9"])
    tiny = build_model(processor, seed=0)
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    with torch.device(device):
        model = type(tiny)(shaped(tiny.config, shape))
    torch.set_default_dtype(torch.float32)
    model.generation_config = tiny.generation_config
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    del model
    if device == "cuda":
        torch.cuda.empty_cache()


def shaped(config: Any, shape: Shape) -> Any:
    """Return the config of the tiny model with another shape and untied embeddings."""
    content = config.to_dict()
    content["text_config"].pop("layer_types")  # one entry for each layer: made anew
    content["text_config"] |= {**shape["text"], "tie_word_embeddings": False}
    content["vision_config"] |= shape["vision"]
    return type(config)(**{**content, "tie_word_embeddings": False})


def loss_function(device: str, loss_mode: str = "stable_reinforce") -> Callable[..., Any]:
    """Return the loss that verl's actor computes with a `loss_mode`."""
    mode = f"actor_rollout_ref.actor.policy_loss.loss_mode={loss_mode}"
    config = compose(["+recipe=r1_reward", *_overrides(device, TOKENS[device]), mode])
    return partial(ppo_loss, config=omega_conf_to_dataclass(config.actor_rollout_ref.actor))


def _overrides(device: str, tokens: int) -> list[str]:
    section = "actor_rollout_ref.actor"
    sizes = [f"{section}.ppo_max_token_len_per_gpu={tokens}", f"{section}.optim.total_training_steps=1000"]
    if device == "cpu":
        return ["judge=rules", "+hardware=cpu", *sizes]
    overrides = ["judge=rules", "+hardware=1gpu", f"{section}.fsdp_config.offload_policy=false", *sizes]
    return overrides + without_flash_attention()


def without_flash_attention() -> list[str]:
    """Return the overrides with which the recipe runs where flash-attention is missing."""
    if importlib.util.find_spec("flash_attn"):
        return []
    print("flash-attn is not installed: sdpa, without packing")
    model = "actor_rollout_ref.model"
    return [f"{model}.use_remove_padding=false", f"++{model}.override_config.attn_implementation=sdpa"]


def parameters(worker: ActorRolloutRefWorker) -> int:
    """Return the number of parameters of the worker's model."""
    return sum(parameter.numel() for parameter in worker.actor.engine.module.parameters())


def layers_that_fit(free: float) -> int:
    """Return how many of 28 layers train in `free` bytes, with fp32 weights, gradients and Adam moments (16 bytes)."""
    text = QWEN_7B["text"]
    width, inner = text["hidden_size"], text["intermediate_size"]
    keys = width * text["num_key_value_heads"] // text["num_attention_heads"]
    layer = 16 * (2 * width * width + 2 * width * keys + 3 * width * inner)
    rest = 16 * (2 * text["vocab_size"] * width + 0.68e9)  # embedding, output and vision tower
    return min(text["num_hidden_layers"], int((free - RESERVE - rest) // layer))


def memory_parts(folder: Path, device: str) -> list[Figure]:
    """Return what an update keeps of weights, gradients, Adam moments and the rest, beside the arithmetic.

    Raises:
        MemoryError: the GPU has no room for one layer beside embedding and vision tower.
    """
    shape = copy.deepcopy(QWEN_7B if device == "cuda" else TINY)
    note = ""
    if device == "cuda":
        layers = layers_that_fit(float(torch.cuda.mem_get_info()[0]))
        if layers < 1:
            raise MemoryError("embedding, vision tower and logits of the 7B leave no room for a layer on this GPU")
        shape["text"]["num_hidden_layers"] = layers
        note = f", {layers} of 28 layers"
    save_random_model(folder, shape, device)
    worker = actor(settings(folder, *_overrides(device, LONG_TOKENS[device])))
    shutil.rmtree(folder)
    memory = get_torch_device()
    count, weights = parameters(worker), memory.memory_allocated()
    memory.reset_peak_memory_stats()
    batch = _ready(worker, rollouts(worker, LONG_SAMPLES[device], PATCHES[device]))
    scoring = memory.max_memory_allocated() - weights

    at_step: list[tuple[int, int]] = []

    def before_step(*_: Any) -> None:
        at_step.append((memory.memory_allocated(), memory.max_memory_allocated()))

    worker.actor.engine.optimizer.register_step_pre_hook(before_step)
    update(worker, batch, len(batch))  # Adam's moments come with the first step
    kept = memory.memory_allocated()
    memory.reset_peak_memory_stats()
    update(worker, batch, len(batch))
    held, peak = at_step[-1]
    longest = max(batch["input_ids"].offsets().diff().tolist())
    return [
        Figure(f"parameters{note}", count / 1e9, "e9"),
        Figure("weights, fp32", weights / GB, "GB", peer=4 * count / GB, compare="ratio"),
        Figure("gradients, fp32", (held - kept) / GB, "GB", peer=4 * count / GB, compare="ratio"),
        Figure("Adam moments, fp32", (kept - weights) / GB, "GB", peer=8 * count / GB, compare="ratio"),
        Figure(f"the rest of an update at its peak, longest sample {longest} tokens", (peak - held) / GB, "GB"),
        Figure("old log-probabilities and entropy at their peak, beside the weights", scoring / GB, "GB"),
    ]
