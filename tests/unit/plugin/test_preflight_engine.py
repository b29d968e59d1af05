"""What verl refuses of engines, and of trainings whose rollout has GPUs of its own, is refused before Ray starts."""

import copy
import functools
import json
from pathlib import Path

import pytest
import verl
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from r1reward_verl.plugin.doctor import compose
from r1reward_verl.plugin.preflight.engine import check_engine, check_own_rollout
from r1reward_verl.plugin.preflight.hardware import check_batch_sizes, check_hardware


@functools.cache
def composed(*overrides: str) -> DictConfig:
    return compose(["+recipe=r1_reward", *overrides])


@functools.cache
def fully_async() -> DictConfig:
    folder = Path(verl.__file__).parent / "experimental/fully_async_policy/config"
    with initialize_config_dir(str(folder), version_base=None):
        return hydra_compose("fully_async_ppo_trainer", overrides=["+recipe=r1_reward"])


def changed(config: DictConfig, changes: dict[str, object]) -> DictConfig:
    config = copy.deepcopy(config)
    with open_dict(config):
        for key, value in changes.items():
            OmegaConf.update(config, key, value)
    return config


@pytest.mark.parametrize(
    ("overrides", "strategy", "way_out"),
    [
        ((), "fsdp2", None),
        ((), "fsdp", None),
        ((), "megatron", "fsdp or fsdp2"),
        (("model_engine=megatron",), "fsdp2", "Leave model_engine out"),
        (("model_engine=megatron",), "megatron", None),
        (("model_engine=veomni",), "fsdp2", "Leave model_engine out"),
        (("model_engine=veomni",), "megatron", "Set it to veomni"),
    ],
)
def test_the_strategy_is_that_of_the_engine(overrides: tuple[str, ...], strategy: str, way_out: str | None):
    found = list(check_engine(changed(composed(*overrides), {"actor_rollout_ref.actor.strategy": strategy})))
    assert [problem.where for problem in found] == ["actor_rollout_ref.actor.strategy"] * bool(way_out)
    if way_out:
        assert way_out in found[0].way_out


SHAPE = {"num_attention_heads": 28, "num_key_value_heads": 4}


@pytest.mark.parametrize("model", [SHAPE, {"text_config": SHAPE, "vision_config": {"num_heads": 16}}])
@pytest.mark.parametrize(("size", "fits"), [(1, True), (4, True), (14, False), (28, True), (7, False), (8, False)])
def test_sequence_parallel_divides_the_attention_heads(tmp_path: Path, model: dict, size: int, fits: bool):
    (tmp_path / "config.json").write_text(json.dumps(model))
    key = "actor_rollout_ref.actor.ulysses_sequence_parallel_size"
    config = changed(composed(), {key: size, "actor_rollout_ref.model.path": str(tmp_path)})
    problems = list(check_engine(config))
    assert [problem.where for problem in problems] == [key] * (not fits)
    if problems:
        assert "28 attention heads (4 of keys and values)" in problems[0].value
        assert problems[0].way_out == "Use one of 1, 2, 4, 28"


def test_a_model_that_is_not_here_says_nothing_of_its_heads():
    key = "actor_rollout_ref.actor.ulysses_sequence_parallel_size"
    config = changed(composed(), {key: 8, "actor_rollout_ref.model.path": "Qwen/Qwen2.5-VL-7B-Instruct"})
    assert list(check_engine(config)) == []


ROLLOUT = "actor_rollout_ref.rollout"
SEPARATE = {
    "trainer.v1.trainer_mode": "separate_async",
    "trainer.v1.separate_async.parameter_sync_step": 2,
    f"{ROLLOUT}.nnodes": 1,
    f"{ROLLOUT}.checkpoint_engine.backend": "nccl",
}


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({}, None, ""),
        ({"trainer.v1.trainer_mode": "sync", f"{ROLLOUT}.nnodes": 0}, None, ""),
        (
            {"trainer.v1.separate_async.parameter_sync_step": 4},
            "data.train_batch_size",
            "Set trainer.v1.separate_async.parameter_sync_step=2, or use data.train_batch_size=512",
        ),
        ({f"{ROLLOUT}.checkpoint_engine.backend": "naive"}, f"{ROLLOUT}.checkpoint_engine.backend", "nccl"),
        ({f"{ROLLOUT}.nnodes": 0}, f"{ROLLOUT}.nnodes", "GPUs for the rollout alone"),
        ({f"{ROLLOUT}.n_gpus_per_node": 0}, f"{ROLLOUT}.n_gpus_per_node", "GPUs for the rollout alone"),
        ({"reward.reward_model.enable": True}, "reward.reward_model.enable_resource_pool", "judge=pool"),
    ],
)
def test_separate_async_needs_what_verl_asserts(changes: dict[str, object], where: str | None, words: str):
    found = list(check_own_rollout(changed(composed("judge=rules"), {**SEPARATE, **changes})))
    assert [problem.where for problem in found] == ([where] if where else [])
    assert all(words in str(problem) for problem in found)


FULLY = {"data.train_batch_size": 0, "actor_rollout_ref.hybrid_engine": False, "reward.reward_model.enable": False}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({}, None),
        ({"data.train_batch_size": 256}, "data.train_batch_size"),
        ({"data.gen_batch_size": 2}, "data.gen_batch_size"),
        ({"actor_rollout_ref.hybrid_engine": True}, "actor_rollout_ref.hybrid_engine"),
        ({"rollout.nnodes": 0}, "rollout.nnodes"),
        ({"reward.reward_model.enable": True}, "reward.reward_model.enable_resource_pool"),
    ],
)
def test_fully_asynchronous_training_needs_what_verl_asserts(changes: dict[str, object], where: str | None):
    config = changed(fully_async(), {**FULLY, **changes})
    assert [problem.where for problem in check_own_rollout(config)] == ([where] if where else [])
    assert list(check_batch_sizes(config)) == []  # its batch of 0 is verl's own


def test_gpus_of_the_rollout_alone_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for name in ("RAY_ADDRESS", "VERL_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    gpus = {"trainer.n_gpus_per_node": 4, f"{ROLLOUT}.n_gpus_per_node": 4}
    assert list(check_hardware(changed(composed("judge=rules"), {**SEPARATE, **gpus}))) == []
    (problem,) = check_hardware(changed(composed("judge=rules"), {**SEPARATE, **gpus, f"{ROLLOUT}.nnodes": 2}))
    assert problem.value == "asked for 12, there are 8"
