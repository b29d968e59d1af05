"""A run on a Ray cluster: what its nodes lack, and paths that mean the same on all of them."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray.cloudpickle
from omegaconf import DictConfig, OmegaConf

from r1reward_verl.plugin.preflight import node, nodes, paths

VARIABLES = ("VERL_USE_EXTERNAL_PLUGINS", "VERL_PLATFORM", "KEY")
HERE = {
    "host": "head",
    "versions": {**dict.fromkeys(node.PACKAGES), "r1reward-verl": "0.1.0", "verl": "0.9.1", "vllm": "0.24.0"},
    "broken": None,
    "registered": True,
    "environment": {"VERL_USE_EXTERNAL_PLUGINS": None, "VERL_PLATFORM": None, "KEY": "secret"},
    "missing": [],
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"versions": {"r1reward-verl": None}}, ["r1reward-verl is not installed"]),
        ({"broken": "ImportError: no wrapt"}, ["cannot be imported (ImportError: no wrapt)"]),
        ({"registered": False}, ["not registered as a plugin of verl"]),
        ({"versions": {"verl": "0.9.0"}}, ["verl 0.9.0, while it is 0.9.1 here"]),
        ({"versions": {"vllm": None}}, ["vllm is missing, while it is 0.24.0 here"]),
        ({"environment": {"VERL_USE_EXTERNAL_PLUGINS": "none"}}, ["VERL_USE_EXTERNAL_PLUGINS is 'none'"]),
        ({"environment": {"VERL_USE_EXTERNAL_PLUGINS": "other, r1reward_verl"}}, []),
        ({"environment": {"VERL_PLATFORM": "cpu"}}, ["VERL_PLATFORM is cpu, while it is not set here"]),
        ({"environment": {"KEY": None}}, ["KEY is set here only"]),
        ({"missing": ["/data/rl.parquet", "/model"]}, ["'/data/rl.parquet' is not there", "'/model' is not there"]),
    ],
)
def test_what_a_node_lacks_is_named_with_the_node(changes: dict, words: list[str]):
    found = copy.deepcopy(HERE) | {"host": "gpu-2"}
    for name, value in changes.items():
        found[name] = {**found[name], **value} if isinstance(value, dict) else value
    problems = list(nodes.node_problems("10.0.0.2", found, HERE))
    assert [problem.where for problem in problems] == ["node 10.0.0.2 (host gpu-2)"] * len(words)
    assert all(word in problem.value for word, problem in zip(words, problems, strict=True))
    assert "secret" not in str(problems)


def test_a_node_where_no_worker_starts_is_named():
    (problem,) = nodes.node_problems("10.0.0.2", RuntimeError("the runtime environment\ncannot be made"), HERE)
    assert problem.where == "node 10.0.0.2"
    assert "the runtime environment cannot be made" in problem.value


def test_the_report_is_made_where_the_package_is_missing(tmp_path: Path):
    """As Ray does it: the function's code is sent, and run by a Python that cannot import this package."""
    (tmp_path / "r1reward_verl").mkdir()
    (tmp_path / "r1reward_verl" / "__init__.py").write_text("raise ImportError('not on this node')")
    ray.cloudpickle.register_pickle_by_value(node)
    try:
        code = ray.cloudpickle.dumps(node.node_report)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(node)
    (tmp_path / "code").write_bytes(code)
    there = "import json, pickle; print(json.dumps(pickle.load(open('code', 'rb'))(['KEY'], ['code', '/no/such'])))"
    done = subprocess.run(
        [sys.executable, "-c", there],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "KEY": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["broken"] == "ImportError: not on this node"
    assert (report["environment"], report["missing"]) == ({"KEY": "1"}, ["/no/such"])
    assert report["versions"]["verl"] == node.node_report([], [])["versions"]["verl"]


def config(address: str | None = "10.0.0.1:6379", **sections: object) -> DictConfig:
    return OmegaConf.create({"ray_kwargs": {"ray_init": {"address": address, "num_cpus": None}}, **sections})


@pytest.mark.parametrize(("address", "joined"), [("local", False), ("10.0.0.1:6379", True)])
def test_without_a_cluster_and_within_one_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, address: str, joined: bool):
    monkeypatch.setattr(nodes, "_ask", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr("ray.is_initialized", lambda: joined)
    assert list(nodes.check_nodes(config(address))) == []


def test_resources_for_a_ray_of_its_own_are_refused_before_the_cluster_is_joined():
    both = config()
    both.ray_kwargs.ray_init.update(num_cpus=32, num_gpus=8)
    found = list(nodes.check_nodes(both))
    assert [problem.where for problem in found] == ["ray_kwargs.ray_init.num_cpus", "ray_kwargs.ray_init.num_gpus"]
    assert found[1].way_out == "Set it to null"


def test_every_node_is_asked_for_what_the_run_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked = {}

    def ask(config, variables, files):
        asked.update(variables=variables, files=files)
        return {"good": node.node_report(variables, files), "bad": node.node_report(variables, [*files, "/gone"])}

    monkeypatch.setattr(nodes, "_ask", ask)
    (tmp_path / "rl.parquet").touch()
    judge = {"r1_reward": {"judge": {"name": "endpoint", "api_key_env": "MY_KEY"}}}
    files = [str(tmp_path / "rl.parquet")]
    (problem,) = nodes.check_nodes(config(data={"train_files": files, "val_files": "/no/such"}, reward=judge))
    assert problem.where.startswith("node bad")
    assert asked["files"] == files
    assert "MY_KEY" in asked["variables"]


class TestPaths:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "training").mkdir()
        (tmp_path / "training" / "rl.parquet").touch()

    @pytest.mark.parametrize(
        ("key", "value", "absolute"),
        [
            ("data.train_files", "training/rl.parquet", "HERE/training/rl.parquet"),
            ("data.train_files", ["training/rl.parquet", "/x"], ["HERE/training/rl.parquet", "/x"]),
            ("data.val_files", "${data.train_files}", "/train"),
            ("data.custom_cls.path", "pkg://training.rl", "pkg://training.rl"),
            ("actor_rollout_ref.model.path", "training", "HERE/training"),
            ("actor_rollout_ref.model.path", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
            ("trainer.default_local_dir", "checkpoints/${trainer.name}", "HERE/checkpoints/run"),
            ("trainer.rollout_data_dir", "rollouts", "HERE/rollouts"),
            ("trainer.rollout_data_dir", None, None),
            ("trainer.validation_data_dir", "hdfs://there", "hdfs://there"),
        ],
    )
    def test_relative_paths_are_made_absolute(self, tmp_path: Path, key: str, value: object, absolute: object):
        made = config(data={"train_files": "/train"}, trainer={"name": "run"})
        OmegaConf.update(made, key, value, force_add=True)
        OmegaConf.set_struct(made, True)
        paths.make_absolute(made)
        expected = json.loads(json.dumps(absolute).replace("HERE", str(tmp_path)))
        assert OmegaConf.select(made, key) == expected

    @pytest.mark.parametrize(
        ("logger", "environment", "sent"),
        [
            ("console", {}, {}),
            (["console", "tensorboard"], {}, {"TENSORBOARD_DIR": "HERE/tensorboard_log/p/e"}),
            (["tensorboard"], {"TENSORBOARD_DIR": "tb"}, {"TENSORBOARD_DIR": "HERE/tb"}),
            (["file"], {}, {"VERL_FILE_LOGGER_ROOT": "HERE"}),
            (["file"], {"VERL_FILE_LOGGER_PATH": "m.jsonl"}, {"VERL_FILE_LOGGER_PATH": "HERE/m.jsonl"}),
            (["wandb"], {}, {"WANDB_DIR": "HERE"}),
        ],
    )
    def test_logs_are_written_where_the_driver_would_write_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: object, environment: dict, sent: dict
    ):
        for name in ("TENSORBOARD_DIR", "VERL_FILE_LOGGER_PATH", "VERL_FILE_LOGGER_ROOT", "WANDB_DIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        made = config(trainer={"logger": logger, "project_name": "p", "experiment_name": "e"})
        paths.send_log_folders(made)
        expected = {name: value.replace("HERE", str(tmp_path)) for name, value in sent.items()}
        assert (OmegaConf.select(made, "ray_kwargs.ray_init.runtime_env.env_vars") or {}) == expected

    def test_what_the_user_or_a_job_sends_is_not_set_again(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(
            "RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"env_vars": {"WANDB_DIR": "/w"}}})
        )
        trainer = {"logger": ["wandb", "tensorboard"], "project_name": "p", "experiment_name": "e"}
        made = config(trainer=trainer)
        OmegaConf.update(made, "ray_kwargs.ray_init.runtime_env.env_vars.TENSORBOARD_DIR", "/tb", force_add=True)
        paths.send_log_folders(made)
        assert made.ray_kwargs.ray_init.runtime_env.env_vars == {"TENSORBOARD_DIR": "/tb"}
