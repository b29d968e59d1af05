"""A config of verl's SFT trainer, and one of its fully asynchronous trainer, is checked before anything starts."""

import copy
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import verl
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from r1reward_verl.plugin import preflight
from r1reward_verl.plugin.preflight.sft import check_sft

ROW = {
    "messages": [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": "1"}],
    "images": [{"bytes": b"..."}],
}


@functools.cache
def cold_start() -> DictConfig:
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer/config"), version_base=None):
        return compose("sft_trainer_engine", overrides=["+recipe=cold_start", "+sft_hardware=cpu"])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    heads = {"num_attention_heads": 28, "num_key_value_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(heads))
    pq.write_table(pa.Table.from_pylist([ROW] * 4), tmp_path / "sft.parquet")
    paths = {"model.path": str(tmp_path), "data.train_files": str(tmp_path / "sft.parquet")}
    return change(copy.deepcopy(cold_start()), paths)


def change(config: DictConfig, changes: dict[str, object]) -> DictConfig:
    with open_dict(config):
        for key, value in changes.items():
            OmegaConf.update(config, key, value, force_add=True)
    return config


def test_the_recipe_has_no_problems(config: DictConfig):
    assert check_sft(config) == []


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"model.path": "/no/model"}, "model.path", "'/no/model' does not exist"),
        ({"data.train_files": None}, "data.train_files", "not set"),
        ({"data.train_files": "/no/sft.parquet"}, "data.train_files", "'/no/sft.parquet' does not exist"),
        ({"data.val_files": "sft.jsonl"}, "data.val_files", "does not end in .parquet"),
        ({"data.messages_key": "chat"}, "data.train_files", "lacks the column chat; it has messages, images"),
        ({"data.image_key": "pictures"}, None, ""),
        ({"engine.ulysses_sequence_parallel_size": 8}, "engine.ulysses_sequence_parallel_size", "28 attention heads"),
        ({"data.use_dynamic_bsz": True, "data.max_token_len_per_gpu": 1024}, "data.max_token_len_per_gpu", "21504"),
        ({"data.micro_batch_size_per_gpu": 3}, "data.micro_batch_size_per_gpu", "256 rows that each rank"),
        ({"trainer.n_gpus_per_node": 3}, "data.train_batch_size", "Use a multiple of 3"),
        ({"trainer.device": "cuda"}, "trainer.device", "Add +sft_hardware=cpu"),
    ],
)
def test_what_would_end_the_training_later(config: DictConfig, changes: dict[str, object], where: str, words: str):
    found = check_sft(change(config, changes))
    assert [problem.where for problem in found] == ([where] if where else [])
    assert all(words in str(problem) for problem in found)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**ROW, "images": []}, "1 <image> and the column images 0 pictures"),
        ({**ROW, "messages": "Which?"}, "no list of messages"),
        ({**ROW, "images": [{"path": "http://h/a.png"}]}, "is an address"),
        ({"messages": ROW["messages"]}, None),  # without any media the marker is text
    ],
)
def test_rows_are_looked_at(config: DictConfig, tmp_path: Path, row: dict, words: str | None):
    pq.write_table(pa.Table.from_pylist([row] * 2), tmp_path / "sft.parquet")
    found = check_sft(config)
    assert [problem.where.rpartition(", ")[2] for problem in found] == ["row 0"] * bool(words)
    assert all(str(words) in str(problem) for problem in found)


def test_ranks_are_those_of_torchrun(config: DictConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [problem.where for problem in check_sft(config)] == ["data.micro_batch_size_per_gpu"]
    assert check_sft(change(config, {"data.micro_batch_size_per_gpu": 64})) == []


class TestEarly:
    """`install_early_preflight` on a module with an `auto_set_device`, as verl's `verl.utils.device` is one."""

    @pytest.fixture
    def device(self) -> ModuleType:
        module = ModuleType("verl.utils.device")
        module.seen = []
        module.auto_set_device = lambda config: module.seen.append(config)
        preflight.install_early_preflight(module)
        preflight.install_early_preflight(module)  # twice is once
        return module

    @pytest.mark.parametrize("rank", ["0", "1"])
    def test_the_first_process_of_a_node_checks(
        self, device: ModuleType, config: DictConfig, rank: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("LOCAL_RANK", rank)
        device.auto_set_device(config)
        assert device.seen == [config]
        change(config, {"model.path": "/no/model"})
        if rank == "0":
            with pytest.raises(SystemExit, match=r"model\.path: '/no/model' does not exist"):
                device.auto_set_device(config)
        else:
            device.auto_set_device(config)

    def test_fully_asynchronous_training_has_the_checks_of_main_ppo(self, device: ModuleType):
        ours = OmegaConf.create({"async_training": {}, "algorithm": {"adv_estimator": "stable_reinforce"}})
        with pytest.raises(SystemExit, match=r"actor_rollout_ref\.model\.path: not set"):
            device.auto_set_device(ours)

    @pytest.mark.parametrize(
        "other",
        [
            {"async_training": {}, "algorithm": {"adv_estimator": "grpo"}},
            {"algorithm": {"adv_estimator": "stable_reinforce"}},  # main_ppo's, which validate_config sees
            {"engine": {}, "model": {"path": "/no/model"}, "trainer": {"device": "cuda"}},
        ],
    )
    def test_other_configs_are_left_alone(self, device: ModuleType, other: dict):
        device.auto_set_device(OmegaConf.create(other))
        assert len(device.seen) == 1


def test_verls_sft_trainer_ends_before_anything_starts(tmp_path: Path):
    """The whole way: verl's entry point, its plugin discovery, Hydra."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "verl.trainer.sft_trainer",
            "+recipe=cold_start",
            "+sft_hardware=cpu",
            "hydra.run.dir=.",
        ],
        cwd=tmp_path,
        env={**os.environ, "VERL_PLATFORM": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "model.path: not set" in output
    assert "nothing was started" in output
    assert "Traceback" not in output
