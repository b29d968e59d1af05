"""The checkpoint that a run would resume from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.config import Problem, config_value, is_positive


def check_resume(config: DictConfig) -> Iterator[Problem]:
    """A checkpoint of FSDP has a file for each rank: verl loads it on as many ranks as wrote it.

    With another number it ends on a missing file `model_world_size_N_rank_M.pt`, after the models are loaded
    (`utils/checkpoint/fsdp_checkpoint_manager.py`).
    """
    folder = checkpoint_to_resume(config)
    sizes = [config_value(config, f"trainer.{name}") for name in ("nnodes", "n_gpus_per_node")]
    if folder is None or not all(map(is_positive, sizes)):
        return
    try:
        ranks = int(json.loads((folder / "actor" / "fsdp_config.json").read_text())["world_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # another engine's, or not written to its end: verl says what it lacks
    if ranks == sizes[0] * sizes[1]:
        return
    weights = folder / "actor" / "huggingface"
    anew = (
        f"start a new training from its weights: actor_rollout_ref.model.path={weights} with another "
        "trainer.default_local_dir"
        if any(weights.glob("*.safetensors"))
        else "start a new training with another trainer.default_local_dir"
    )
    yield Problem(
        "trainer.n_gpus_per_node",
        f"{sizes[0]} x {sizes[1]} GPUs would resume from {folder}, which {ranks} wrote, and verl loads a checkpoint of "
        "FSDP only with as many ranks as wrote it",
        f"Train on {ranks} GPUs, or {anew} (the optimizer begins anew, too)",
    )


def checkpoint_to_resume(config: DictConfig) -> Path | None:
    """Return the folder `global_step_N` that verl's trainer would resume from, None if there is none here."""
    mode = config_value(config, "trainer.resume_mode")
    if mode == "resume_path":
        path = config_value(config, "trainer.resume_from_path")
        return Path(path) if isinstance(path, str) else None
    root = config_value(config, "trainer.default_local_dir")
    if mode != "auto" or not isinstance(root, str):
        return None
    try:
        step = int((Path(root) / "latest_checkpointed_iteration.txt").read_text())
    except (OSError, ValueError):
        return None
    return Path(root) / f"global_step_{step}"
