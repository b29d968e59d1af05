"""Checks of a config of verl's SFT trainer, which validates none itself."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

from omegaconf import DictConfig

from r1reward_verl.data.rows import prompt_fault
from r1reward_verl.plugin.preflight.config import (
    OWN_SFT_DATASET,
    Problem,
    config_value,
    data_files,
    dataset_class,
    is_positive,
)
from r1reward_verl.plugin.preflight.data import FIRST_ROWS, address_faults, missing_data, open_parquet
from r1reward_verl.plugin.preflight.engine import FSDP, check_heads
from r1reward_verl.plugin.preflight.hardware import gpu_problem, platform_problem
from r1reward_verl.plugin.preflight.model import check_checkpoint
from r1reward_verl.plugin.preflight.versions import lacking, missing, with_doubt


def _trains_on_the_cpu(config: DictConfig) -> bool:
    return bool(config_value(config, "trainer.device") == "cpu")


_NEEDED: dict[str, Callable[[DictConfig], bool]] = {
    "datasets": lambda config: dataset_class(config) == OWN_SFT_DATASET,
    **dict.fromkeys(("platform", "process groups on the CPU", "engines on the CPU"), _trains_on_the_cpu),
}


def check_sft(config: DictConfig) -> list[Problem]:
    """Run every check on a composed config of verl's SFT trainer."""
    return [*missing("verl"), *lacking(config, _NEEDED), *with_doubt("the SFT trainer", _check_all, config)]


def _check_all(config: DictConfig) -> Iterator[Problem]:
    yield from _check_hardware(config)
    yield from _check_sizes(config)
    yield from check_checkpoint(config, "model.path")
    yield from check_heads(config, "engine.ulysses_sequence_parallel_size", "model.path")
    yield from _check_data(config)


def _check_hardware(config: DictConfig) -> Iterator[Problem]:
    device = config_value(config, "trainer.device")
    if problem := platform_problem(device, device == "cpu", "+sft_hardware=cpu"):
        yield problem
    elif device == "cuda":
        import torch

        there, asked = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # of torchrun
        if asked > there:
            yield gpu_problem(asked, there, "+sft_hardware=cpu")


def _check_sizes(config: DictConfig) -> Iterator[Problem]:
    """The batch among the ranks, and the longest sample in the token budget."""
    batch, longest = config_value(config, "data.train_batch_size"), config_value(config, "data.max_length")
    nodes, per_node = config_value(config, "trainer.nnodes"), config_value(config, "trainer.n_gpus_per_node")
    together = config_value(config, "engine.ulysses_sequence_parallel_size") or 1
    if config_value(config, "engine.strategy") not in FSDP or not all(map(is_positive, (batch, longest, together))):
        return
    ranks = int(os.environ.get("WORLD_SIZE") or nodes * per_node) // together
    if ranks and batch % ranks:
        yield Problem(
            "data.train_batch_size",
            f"{batch} rows do not divide among {ranks} ranks, and verl would train on fewer without a word",
            f"Use a multiple of {ranks}",
        )
        return
    if config_value(config, "data.use_dynamic_bsz"):
        budget = config_value(config, "data.max_token_len_per_gpu")
        if not is_positive(budget) or budget * together < longest:
            yield Problem(
                "data.max_token_len_per_gpu",
                f"{budget} tokens do not hold the longest sample, data.max_length={longest}",
                f"Raise it to {-(-longest // together)} or more, or lower data.max_length",
            )
        return
    micro = config_value(config, "data.micro_batch_size_per_gpu")
    if ranks and (not is_positive(micro) or (batch // ranks) % micro):
        yield Problem(
            "data.micro_batch_size_per_gpu",
            f"{micro!r} does not divide the {batch // ranks} rows that each rank gets of a batch",
            f"Use a divisor of {batch // ranks}",
        )


def _check_data(config: DictConfig) -> Iterator[Problem]:
    """The data files: that they can be read, their columns, and their first rows; no picture is decoded."""
    for key in ("data.train_files", "data.val_files"):
        paths = data_files(config, key)
        if not paths and key == "data.train_files":
            yield missing_data(key)
        for path in paths:
            yield from _check_file(config, key, path)


def _check_file(config: DictConfig, key: str, path: str) -> Iterator[Problem]:
    if not path.endswith(".parquet"):
        yield Problem(key, f"{path!r} does not end in .parquet", "verl reads no other files here: convert it")
        return
    if "://" in path:
        return
    if isinstance(file := open_parquet(key, path), Problem):
        yield file
        return
    messages = config_value(config, "data.messages_key") or "messages"
    columns = file.schema_arrow.names
    if messages not in columns:
        yield Problem(
            key,
            f"{path!r} lacks the column {messages}; it has {', '.join(columns)}",
            "`r1reward data select` writes such files; name a column of yours with data.messages_key",
        )
        return
    media = {
        "<image>": config_value(config, "data.image_key") or "images",
        "<video>": config_value(config, "data.video_key") or "videos",
    }
    there = [column for column in media.values() if column in columns]
    batch = next(file.iter_batches(batch_size=FIRST_ROWS, columns=[messages, *there]), None)
    for number, row in enumerate([] if batch is None else batch.to_pylist()):
        # Without any media verl leaves the markers alone, as text.
        entries = {marker: (column, row.get(column) or []) for marker, column in media.items()} if there else {}
        if fault := prompt_fault(row[messages], messages, entries):
            yield Problem(f"{key}, {path!r}, row {number}", *fault)
            return
    for number, value, way_out in itertools.islice(address_faults(config, file), 1):
        yield Problem(f"{key}, {path!r}, row {number}", value, way_out)
