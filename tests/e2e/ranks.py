"""The ranks of `test_ranks.py`: updates by verl's actor worker as `main_ppo` builds it, on the CPU over gloo."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import flash_attention
import torch
import torch._dynamo  # the first optimizer step would import it, in each rank by itself
from torch.distributed.tensor import DTensor
from verl.models.transformers.monkey_patch import is_trl_available
from verl.protocol import BatchData
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.model import get_hf_auto_model_class
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from _actor import actor, old_log_probs, rollouts, settings, update, with_advantages

BUDGET = 96  # tokens of a micro-batch
# prompt without its picture, response, picture; each rank gets more than one micro-batch of them
MIXED = [(12, 40, True), (30, 8, True), (9, 3, False), (50, 30, True), (22, 17, False), (5, 61, True), (40, 2, True)]
MIXED += [(17, 25, True)]
ONE_SIDED = [(20, 11, True), (41, 33, True), (8, 50, True), (33, 5, True)]
ONE_SIDED += [(60, 20, False), (13, 44, False), (37, 6, False), (10, 9, False)]
SETTINGS = [
    "judge=rules",
    "+hardware=cpu",
    f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={BUDGET}",
    "actor_rollout_ref.actor.optim.total_training_steps=10",
    "actor_rollout_ref.actor.optim.lr=1e-3",
]
LORA = ["actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.model.lora_alpha=8"]
LORA += ["actor_rollout_ref.model.exclude_modules='.*visual.*'"]


# Sequences behind one another, as flash-attention takes them; and these cut in two, each rank computing half the heads.
PACKED = ["actor_rollout_ref.model.use_remove_padding=true"]
PACKED += ["actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2"]
ULYSSES = [*PACKED, "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"]
CASES = {"untied": [], "lora": LORA, "tied": [], "packed": PACKED, "ulysses": ULYSSES}


def balanced(lengths: list[int], ranks: int) -> list[list[int]]:
    """The samples of each rank as the trainer deals them out."""
    workload = calculate_workload(torch.tensor(lengths))
    return get_seqlen_balanced_partitions(workload, k_partitions=ranks, equal_size=True)


def in_blocks(lengths: list[int], ranks: int) -> list[list[int]]:
    """The samples in their order: of `ONE_SIDED`, the second of two ranks gets those without pictures."""
    return torch.arange(len(lengths)).reshape(ranks, -1).tolist()


def all_to_all(
    outputs: list[torch.Tensor], inputs: list[torch.Tensor], group: Any = None, async_op: bool = False
) -> None:
    """`torch.distributed.all_to_all` of equal parts, which gloo does not have."""
    received = torch.empty_like(torch.stack(outputs))
    torch.distributed.all_to_all_single(received, torch.stack(inputs), group=group)
    for output, part in zip(outputs, received, strict=True):
        output.copy_(part)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def weights(worker: Any) -> dict[str, torch.Tensor]:
    return {name: whole(value) for name, value in worker.actor.engine.module.state_dict().items()}


def step(worker: Any, samples: list[tuple[int, int, bool]], deal: Any = balanced) -> dict[str, Any]:
    """One step of the trainer: rollouts dealt out to the ranks, old log-probabilities, advantages, update."""
    engine = worker.actor.engine
    rank, ranks = engine.get_data_parallel_rank(), engine.get_data_parallel_size()
    batch = rollouts(worker, samples)
    parts = deal(batch["input_ids"].offsets().diff().tolist(), ranks)
    order = [index for part in parts for index in part]
    batch = with_advantages(tu.index_select_tensor_dict(batch, order))
    mine = BatchData(batch).chunk(ranks)[rank].copy()
    assert int(mine["input_ids"].offsets()[-1]) > BUDGET, "only one micro-batch"
    scores = old_log_probs(worker, mine)
    if engine.ulysses_sequence_parallel_size > 1:  # the trainer hands them to all ranks of a sequence
        shared = [scores]
        torch.distributed.broadcast_object_list(shared, src=0)
        (scores,) = shared
    mine["old_log_probs"] = scores
    gradients: dict[str, torch.Tensor | None] = {}

    def before_step(*_: Any) -> None:
        for name, parameter in engine.module.named_parameters():
            gradients[name] = None if parameter.grad is None else whole(parameter.grad)

    hook = engine.optimizer.register_step_pre_hook(before_step)
    metrics = update(worker, mine, len(samples))
    hook.remove()
    reported = [name for name in ("loss", "actor/pg_loss", "grad_norm", "lr") if name in metrics]
    return {
        "advantages": batch["advantages"].to_padded_tensor(0.0)[torch.tensor(order).argsort()],
        "old_log_probs": dict(zip(parts[rank], mine["old_log_probs"].unbind(), strict=True)),
        "pictures": sum(samples[index][2] for index in parts[rank]),
        "metrics": {name: float(metrics[name][0]) for name in reported},
        "gradients": gradients,
        "weights": weights(worker),
    }


def run(configs: dict[str, Any], out: Path, rank: int, ranks: int, port: int) -> None:
    """Do all cases as one of `ranks` ranks and write what came of them to `out`."""
    log = os.open(out / f"log-{ranks}-{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    saved = out / f"checkpoint-{ranks}"

    start = time.monotonic()
    for name in ("untied", "lora"):
        worker = actor(configs[name])
        found[name] = step(worker, MIXED)
        worker.save_checkpoint(str(saved / name), global_step=1)
        found[f"{name}, next"] = step(worker, ONE_SIDED, in_blocks)
        worker = actor(configs[name])
        worker.load_checkpoint(str(saved / name))
        found[f"{name}, loaded"] = weights(worker)
        found[f"{name}, resumed"] = step(worker, ONE_SIDED, in_blocks)
        print(f"{name} after {time.monotonic() - start:.1f} s", flush=True)
    found["tied"] = step(actor(configs["tied"]), MIXED)
    # Last, since verl then replaces the model's attention for the whole process.
    flash_attention.in_float32()
    found["packed"] = step(actor(configs["packed"]), MIXED)
    if ranks == 2:
        torch.distributed.all_to_all = all_to_all
        found["ulysses"] = step(actor(configs["ulysses"]), MIXED)
    print(f"done after {time.monotonic() - start:.1f} s", flush=True)
    torch.save(found, out / f"found-{ranks}-{rank}.pt")

    done = f"done-{ranks}-{rank}.txt"
    (out / done).write_text("saved")
    others = [out / f"done-{3 - ranks}-{other}.txt" for other in range(3 - ranks)]
    while not all(other.exists() for other in others):
        time.sleep(0.2)
    try:
        worker.load_checkpoint(str(out / f"checkpoint-{3 - ranks}" / "lora"))
    except Exception as error:
        (out / f"other-{ranks}-{rank}.txt").write_text(f"{type(error).__name__}: {error}")


def main(models: str, out: str, *ports: str) -> int:
    """Run one rank at the first port and beside it two ranks at the second, until all are done or one has failed.

    They are forked from this process, so that what takes long before a rank can start happens once.
    """
    configs = {
        name: settings(Path(models) / ("tied" if name == "tied" else "untied"), *SETTINGS, *own)
        for name, own in CASES.items()
    }
    model = omega_conf_to_dataclass(configs["untied"].model)
    get_hf_auto_model_class(model.hf_config)
    is_trl_available()
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=run, args=(configs, Path(out), rank, ranks, int(port)))
        for ranks, port in zip((1, 2), ports, strict=True)
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        if any(process.exitcode for process in processes):
            for process in processes:
                process.kill()
            return 1
        time.sleep(0.1)
    return max(abs(process.exitcode or 0) for process in processes)
