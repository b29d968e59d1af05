"""The sections of `gpu_check.py`: `python _gpu_sections.py SECTION DEVICE FOLDER` writes FOLDER/SECTION.json.

`numbers` and `loss` need torch and `r1reward_verl.stable_reinforce` alone; the others import what they need themselves.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from _bench import Figure, peak_bytes, seconds
from r1reward_verl.stable_reinforce import stable_reinforce_advantage, stable_reinforce_loss

GB = 1e9
LOSS_SHAPE = {"cuda": (32, 16384), "cpu": (8, 256)}
LOSS_RATIO = 1.05
STEP_RATIO = 1.01
RELATIVE_ERROR = 1e-4  # float32 arithmetic on ratios up to 1e3, beside float64


class NotHere(Exception):
    """The machine lacks what a section needs."""


def random_batch(rows: int, tokens: int, device: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return log-probabilities, advantages, rewards on the last token and a mask, responses of random length."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(tokens // 8, tokens + 1, (rows, 1), generator=generator)
    totals = torch.tensor([0.0, 0.5, 1.0, 2.0])[torch.randint(0, 4, (rows, 1), generator=generator)]
    old = -torch.rand(rows, tokens, generator=generator)
    batch = {
        "rewards": torch.zeros(rows, tokens).scatter_(1, lengths - 1, totals),
        "old_log_prob": old,
        # Most ratios near 1, some beyond PPO's clip and a few beyond Pre-CLIP.
        "log_prob": old + 0.1 * torch.randn(rows, tokens, generator=generator) ** 5,
        "advantages": torch.randn(rows, tokens, generator=generator),
    }
    batch = {name: value.to(device, dtype) for name, value in batch.items()}
    return {**batch, "mask": (torch.arange(tokens) < lengths).to(device)}


# --- torch alone ---


def numbers(device: str, folder: Path) -> list[Figure]:
    """Estimator, loss and gradient on inputs in bf16, beside float64 on the same inputs on the CPU."""
    low = random_batch(64, 257, device, torch.bfloat16)
    exact = {
        name: value.cpu().to(torch.float64 if value.is_floating_point() else value.dtype) for name, value in low.items()
    }
    results = []
    for batch in (low, exact):
        log_prob = batch["log_prob"].float() if batch is low else batch["log_prob"]
        log_prob.requires_grad_()
        advantages, _, _ = stable_reinforce_advantage(batch["rewards"], batch["mask"], gamma=0.99)
        losses, _ = stable_reinforce_loss(log_prob, batch["old_log_prob"], advantages, batch["mask"])
        losses.sum().backward()
        results.append((advantages, losses.detach(), log_prob.grad))
    figures = []
    for name, value, reference in zip(("advantages", "loss", "gradient"), *results, strict=True):
        difference = (value.cpu().double() - reference).abs() / reference.abs().clamp(min=1.0)
        figures.append(
            _bounded(f"{name}, bf16 inputs beside float64", difference.max().item(), "relative", RELATIVE_ERROR)
        )
    return figures


def loss(device: str, folder: Path) -> list[Figure]:
    """Time, memory and kernels of the loss by itself, forward and backward."""
    rows, tokens = LOSS_SHAPE[device]
    batch = random_batch(rows, tokens, device)
    log_prob = batch["log_prob"].requires_grad_()

    def step() -> None:
        log_prob.grad = None
        losses, _ = stable_reinforce_loss(log_prob, batch["old_log_prob"], batch["advantages"], batch["mask"])
        (losses.sum() / batch["mask"].sum()).backward()

    return beside({"ours": step}, f"loss {rows}x{tokens}", device, log_prob.nbytes)


# --- with verl ---


def vanilla(device: str, folder: Path) -> list[Figure]:
    """The loss beside verl's `vanilla`, both as verl's workers call them."""
    import verl  # noqa: F401  (registers the plugin)
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.workers.config import ActorConfig

    rows, tokens = LOSS_SHAPE[device]
    batch = random_batch(rows, tokens, device)
    log_prob = batch["log_prob"].requires_grad_()
    config = ActorConfig(strategy="fsdp2", rollout_n=1, ppo_micro_batch_size_per_gpu=1)

    def step_of(name: str) -> Callable[[], None]:
        function = get_policy_loss_fn(name)

        def step() -> None:
            log_prob.grad = None
            value, _ = function(
                old_log_prob=batch["old_log_prob"],
                log_prob=log_prob,
                advantages=batch["advantages"],
                response_mask=batch["mask"],
                loss_agg_mode="token-mean",
                config=config,
                rollout_is_weights=None,
            )
            value.backward()

        return step

    rivals = {"ours": step_of("stable_reinforce"), "peer": step_of("vanilla")}
    return beside(rivals, f"loss {rows}x{tokens}", device, log_prob.nbytes)


def step(device: str, folder: Path) -> list[Figure]:
    """Updates of a mid-size model with random weights by verl's FSDP2 engine, with our loss and `vanilla` in turns."""
    import _actor
    import _gpu_model

    worker, batch = _gpu_model.worker_and_batch(folder / "mid-size", device)
    losses = {"ours": _gpu_model.loss_function(device), "peer": _gpu_model.loss_function(device, "vanilla")}

    def update(name: str) -> None:
        worker.set_loss_fn(losses[name])
        _actor.update(worker, batch, len(batch))

    updates: dict[str, Callable[[], None]] = {name: lambda name=name: update(name) for name in losses}  # type: ignore[misc]
    times = milliseconds(updates, device, rounds=15 if device == "cuda" else 2)
    peaks = {name: peak(call, device) / GB for name, call in updates.items()}
    tokens = int(batch["input_ids"].offsets()[-1])
    size = f"{_gpu_model.parameters(worker) / 1e9:.2f}e9 parameters, {len(batch)} samples, {tokens} tokens"
    bound = STEP_RATIO if device == "cuda" else None
    return [_ratio(f"FSDP2 step, {size}", times, "ms", bound), _ratio("its peak memory", peaks, "GB", bound)]


def memory(device: str, folder: Path) -> list[Figure]:
    """Parts of the memory of an update of Qwen2.5-VL-7B's shape, with as many of its layers as this GPU holds."""
    import _gpu_model

    return _gpu_model.memory_parts(folder / "7b", device)


# --- with vLLM ---


def rules(device: str, folder: Path) -> list[Figure]:
    """Two steps of the recipe, judged by rules."""
    return _training(device, folder, "rules")


def colocated(device: str, folder: Path) -> list[Figure]:
    """Two steps of the recipe with a judge model that is woken and put to sleep on the same GPU."""
    return _training(device, folder, "colocated")


def pool(device: str, folder: Path) -> list[Figure]:
    """Two steps of the recipe with a judge model on a GPU of its own."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        raise NotHere("a judge beside the training needs a second GPU")
    return _training(device, folder, "pool")


def _training(device: str, folder: Path, judge: str) -> list[Figure]:
    from _gpu_model import without_flash_attention

    _require("vllm")
    from r1reward_verl.toy.build import Sizes, build

    served = judge != "rules"
    toy = build(folder / "toy", Sizes(preferences=64, val_pairs=32, test_pairs=32), judge=served)
    out = folder / judge
    metrics = folder / f"{judge}-metrics.jsonl"
    metrics.unlink(missing_ok=True)
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=r1_reward", f"judge={judge}"]
    command += ["+hardware=cpu"] if device == "cpu" else ["+hardware=1gpu", *without_flash_attention()]
    command += [f"reward.reward_model.model_path={toy}/judge"] if served else []
    command += [f"data.train_files={toy}/val.parquet", f"data.val_files={toy}/val.parquet"]
    command += ["data.max_prompt_length=256", "data.max_response_length=64", "data.train_batch_size=32"]
    command += ["data.mm_processor_kwargs.max_pixels=3136", "data.filter_overlong_prompts=false"]
    command += [f"actor_rollout_ref.model.path={toy}/model", "actor_rollout_ref.actor.ppo_mini_batch_size=16"]
    command += ["actor_rollout_ref.rollout.max_model_len=320", "trainer.total_training_steps=2"]
    command += ["trainer.save_freq=2", "trainer.test_freq=2", "trainer.val_before_train=false"]
    command += [f"trainer.default_local_dir={out}", "trainer.resume_mode=disable", "trainer.logger=[console,file]"]
    command += ["hydra.run.dir=.", "hydra.output_subdir=null"]
    environment = {**os.environ, "VERL_FILE_LOGGER_PATH": str(metrics), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True)
    logged = {entry["step"]: entry["data"] for entry in map(json.loads, metrics.read_text().splitlines())}
    apart = max(logged[number]["training/rollout_probs_diff_mean"] for number in (1, 2))
    failed = sum(logged[number]["judge/failed"] for number in (1, 2))
    saved = out / "global_step_2" / "actor" / "huggingface" / "config.json"
    return [
        Figure(f"judge={judge}: second step", logged[2]["timing_s/step"], "s"),
        _bounded("probabilities of rollout and actor, mean difference", apart, "", 0.02),  # bf16
        _bounded("judgements that the judge failed on", float(failed), "", 0.0),
        Figure("checkpoints saved", float(saved.exists()), "", target=1.0),
    ]


def evaluate(device: str, folder: Path) -> list[Figure]:
    """`r1reward eval run` with the checkpoint of `rules`, or without one with the toy's untrained model."""
    _require("vllm")
    from r1reward_verl.toy.build import Sizes, build

    toy = build(folder / "toy", Sizes(preferences=64, val_pairs=32, test_pairs=32))
    trained = folder / "rules" / "global_step_2" / "actor" / "huggingface"
    model = trained if (trained / "config.json").exists() else toy / "model"
    out = folder / f"evaluation-{time.time_ns()}"
    command = [sys.executable, "-m", "r1reward_verl.cli", "eval", "run", "preferences", "--model", str(model)]
    command += ["--data", str(toy / "test.parquet"), "--out", str(out), "--samples", "3", "--max-tokens", "64"]
    start = time.monotonic()
    subprocess.run([*command, "--max-pixels", "3136"], cwd=folder, check=True)
    figures = json.loads((out / "metrics.json").read_text())
    print(json.dumps(figures, indent=1))
    return [Figure("eval run of 32 pairs, with vLLM's start", time.monotonic() - start, "s")]


def _require(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


# --- measuring ---


def beside(rivals: Mapping[str, Callable[[], None]], name: str, device: str, tensor: int) -> list[Figure]:
    """Return time, peak memory and kernels of `ours`, beside those of `peer` where it is there."""
    times = milliseconds(rivals, device)
    peaks = {rival: peak(call, device) / tensor for rival, call in rivals.items()}
    counts = {rival: float(kernels(call, device)) for rival, call in rivals.items()}
    bound = LOSS_RATIO if device == "cuda" and "peer" in rivals else None
    launched = "kernels and copies on the GPU" if device == "cuda" else "operators"
    return [
        _ratio(f"{name}, forward and backward", times, "ms", bound),
        _ratio(f"{name}, peak memory in (B, T) float32 tensors", peaks, "tensors", bound),
        _ratio(f"{name}, {launched}", counts, "", bound),
    ]


def milliseconds(rivals: Mapping[str, Callable[[], None]], device: str, rounds: int = 51) -> dict[str, float]:
    """Median milliseconds of a call of each rival, in turns; on a GPU between CUDA events."""
    if device == "cpu":
        return {name: value * 1e3 for name, value in seconds(rivals, rounds=min(rounds, 5), warm_up=1).items()}
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for round_ in range(3 + rounds):
        for name, call in rivals.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            if round_ >= 3:
                times[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def peak(call: Callable[[], None], device: str) -> int:
    """Bytes that were allocated during `call` beyond what was before, at most."""
    call()
    if device == "cpu":
        return peak_bytes(call)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def kernels(call: Callable[[], None], device: str) -> int:
    """Number of kernels and copies that a call launches on the GPU, or of torch operators on the CPU."""
    call()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        call()
        if device == "cuda":
            torch.cuda.synchronize()
    events = profiler.events()
    if device == "cuda":
        return sum(event.device_type == DeviceType.CUDA for event in events)
    return sum(event.name.startswith("aten::") for event in events)


def _ratio(name: str, values: Mapping[str, float], unit: str, bound: float | None) -> Figure:
    peer = values.get("peer")
    compare = "value" if peer is None else "ratio"
    return Figure(name, values["ours"], unit, peer=peer, target=bound, at_least=False, compare=compare)


def _bounded(name: str, value: float, unit: str, bound: float) -> Figure:
    return Figure(name, value, unit, target=bound, at_least=False)


# --- one section ---

SECTIONS = {f.__name__: f for f in (numbers, loss, vanilla, step, memory, rules, colocated, pool, evaluate)}


def outcome(name: str, device: str, folder: Path) -> dict[str, Any]:
    """Run a section here and return its figures, or a sentence on the package it lacks or the error it ended with."""
    try:
        figures = [asdict(figure) for figure in SECTIONS[name](device, folder)]
    except ModuleNotFoundError as error:
        traceback.print_exc()
        missing = (error.name or "?").partition(".")[0]
        return {"status": "skipped", "sentence": f"Not run: the package {missing} is not installed.", "figures": []}
    except NotHere as error:
        return {"status": "skipped", "sentence": f"Not run: {error}.", "figures": []}
    except Exception as error:
        traceback.print_exc()
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return {"status": "failed", "sentence": f"Failed with {said}.", "figures": []}
    return {"status": "measured", "sentence": (SECTIONS[name].__doc__ or "").strip(), "figures": figures}


def main(name: str, device: str, folder: str) -> None:
    """Run a section as the only rank of its own process group and write what came of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(rank)
    content = outcome(name, device, Path(folder))
    Path(folder, f"{name}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main(*sys.argv[1:])
