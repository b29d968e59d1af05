"""The judge before Ray starts: its servers answer, and verl is told to serve the model that it is."""

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from chat_server import Answer, ChatServer
from r1reward_verl.plugin.doctor import compose
from r1reward_verl.plugin.preflight.config import Problem
from r1reward_verl.plugin.preflight.judge import check_judge


@pytest.fixture
def server():
    with ChatServer(models=["tiny", "judge"]) as server:
        yield server


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    return str(tmp_path)


def problems(judge: str, *overrides: str) -> list[Problem]:
    return list(check_judge(compose(["+recipe=r1_reward", f"judge={judge}", *overrides])))


def endpoint(*urls: str, **settings: object) -> list[Problem]:
    listed = ",".join(urls)
    others = [f"reward.r1_reward.judge.{name}={value}" for name, value in settings.items()]
    return problems("endpoint", f"reward.r1_reward.judge.urls=[{listed}]", *others)


def test_a_server_that_answers(server):
    assert endpoint(server.url) == []
    assert endpoint(server.url, model="judge") == []


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """Eight GPUs of so many gigabytes, and no Ray cluster."""
    for name in ("RAY_ADDRESS", "VERL_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))

    def make(gigabytes):
        monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
        gpu = SimpleNamespace(total_memory=gigabytes * 10**9)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: gpu)

    return make


@pytest.mark.parametrize(("gigabytes", "judge"), [(80, "colocated"), (24, "rules")])
def test_the_default_judge_fits_the_gpus(gigabytes, judge, gpus, monkeypatch, capfd):
    gpus(gigabytes)
    assert compose(["+recipe=r1_reward", "+hardware=4gpu"]).reward.r1_reward.judge.name == judge
    lines = capfd.readouterr().err
    assert lines.count("judge: rules, since a GPU of 24 GB has no room") == (judge == "rules")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # the GPUs of a cluster are not those of this machine
    assert compose(["+recipe=r1_reward"]).reward.r1_reward.judge.name == "colocated"


@pytest.mark.parametrize(
    ("judge", "gigabytes", "fits"), [("colocated", 80, True), ("colocated", 24, False), ("pool", 24, True)]
)
def test_a_gpu_without_room_for_the_judge(judge, gigabytes, fits, gpus):
    gpus(gigabytes)
    found = problems(judge)
    assert bool(found) != fits
    if not fits:
        assert found[0].value == "0.4 of a GPU of 24 GB does not hold the judge's 16.6 GB"
        assert "judge=rules" in found[0].way_out


def test_an_absent_server_is_named(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        absent = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        (problem,) = endpoint(server.url, absent)
    assert absent in str(problem)
    assert "Start the judge's server" in str(problem)


def test_a_server_of_something_else(monkeypatch):
    monkeypatch.setenv("R1REWARD_JUDGE_API_KEY", "sk-very-secret")
    with ChatServer(models=Answer("no such page, sk-very-secret", status=404)) as server:
        (problem,) = endpoint(server.url)
    assert server.url in str(problem)
    assert "404" in str(problem)
    assert "sk-very-secret" not in str(problem)


def test_a_model_that_is_not_served(server):
    (problem,) = endpoint(server.url, model="Qwen2.5-VL-7B")
    assert "does not serve 'Qwen2.5-VL-7B'; it has tiny, judge" in str(problem)


@pytest.mark.parametrize("judge", ["pool", "colocated"])
def test_a_judge_that_verl_serves(judge, model):
    assert problems(judge, f"reward.reward_model.model_path={model}") == []
    (problem,) = problems(judge, "reward.reward_model.model_path=/no/such/model")
    assert problem.where == "reward.reward_model.model_path"


def without(config: DictConfig, **changes: object) -> list[Problem]:
    with open_dict(config):
        for key, value in changes.items():
            OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    return list(check_judge(config))


def test_a_judge_named_without_its_model(model):
    config = compose(["+recipe=r1_reward", "reward.r1_reward.judge.name=pool"])
    (problem,) = without(config)
    assert problem.where == "reward.reward_model.enable"
    assert "judge=pool" in problem.way_out


def test_a_reward_model_that_verl_would_ask_for_the_score(model):
    config = compose(["+recipe=r1_reward", "judge=pool", f"reward.reward_model.model_path={model}"])
    (problem,) = without(config, reward__custom_reward_function__path=None)
    assert problem.where == "reward.custom_reward_function.path"
    assert "pkg://r1reward_verl.rewards.function" in problem.way_out


def test_judges_that_need_nothing():
    assert problems("rules") == problems("none") == []
