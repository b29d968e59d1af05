"""A checkpoint of another number of ranks is refused before the models are loaded."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from r1reward_verl.plugin.preflight.checks import CHECKS
from r1reward_verl.plugin.preflight.resume import check_resume


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints as verl leaves them; the one of step 20 was written by two ranks."""
    for step, ranks in ((10, 8), (20, 2)):
        weights = tmp_path / f"global_step_{step}" / "actor" / "huggingface"
        weights.mkdir(parents=True)
        (weights / "model.safetensors").touch()
        (weights.parent / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": ranks}))
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("20")
    return tmp_path


def problems(folder: Path, **trainer) -> list[str]:
    defaults = {"nnodes": 1, "n_gpus_per_node": 2, "resume_mode": "auto", "default_local_dir": str(folder)}
    return [str(problem) for problem in check_resume(OmegaConf.create({"trainer": {**defaults, **trainer}}))]


@pytest.mark.parametrize(
    ("gpus", "asked"), [({"n_gpus_per_node": 1}, "1 x 1"), ({"nnodes": 2}, "2 x 2"), ({"n_gpus_per_node": 8}, "1 x 8")]
)
def test_another_number_of_gpus(folder: Path, gpus: dict, asked: str):
    (problem,) = problems(folder, **gpus)
    step = folder / "global_step_20"
    assert problem.startswith(f"trainer.n_gpus_per_node: {asked} GPUs would resume from {step}, which 2 wrote")
    assert "Train on 2 GPUs" in problem
    assert f"actor_rollout_ref.model.path={step}/actor/huggingface" in problem


def test_as_many_gpus_resume(folder: Path):
    assert problems(folder) == []
    assert problems(folder, nnodes=2, n_gpus_per_node=1) == []
    assert CHECKS["resume"] is check_resume


def test_the_named_checkpoint_counts(folder: Path):
    named = {"resume_mode": "resume_path", "resume_from_path": str(folder / "global_step_10")}
    assert len(problems(folder, **named)) == 1
    assert problems(folder, **named, n_gpus_per_node=8) == []


def test_without_weights_of_its_own_there_is_no_hint_at_them(folder: Path):
    (folder / "global_step_20" / "actor" / "huggingface" / "model.safetensors").unlink()
    (problem,) = problems(folder, n_gpus_per_node=1)
    assert "model.path" not in problem
    assert "a new training with another trainer.default_local_dir" in problem


def test_nothing_to_resume(folder: Path, tmp_path: Path):
    assert problems(folder, n_gpus_per_node=1, resume_mode="disable") == []
    assert problems(tmp_path / "new", n_gpus_per_node=1) == []
    (folder / "global_step_20" / "actor" / "fsdp_config.json").write_text('{"FSDP_vers')
    assert problems(folder, n_gpus_per_node=1) == []
    (folder / "global_step_20" / "actor" / "fsdp_config.json").unlink()
    assert problems(folder, n_gpus_per_node=1) == [], "another engine's checkpoint"
