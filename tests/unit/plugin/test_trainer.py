"""What the plugin adds to verl's trainer; the end-to-end tests run it, here are its decisions."""

import logging
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from r1reward_verl.plugin import trainer
from r1reward_verl.plugin.trainer import too_many_failed
from r1reward_verl.rewards.settings import RewardSettings


@pytest.mark.parametrize(
    ("failed", "asked", "settings", "stops"),
    [
        (0, 0, {}, False),
        (0, 100, {"on_failure": "fail"}, False),
        (25, 100, {}, False),
        (26, 100, {}, True),
        (1, 100, {"on_failure": "fail"}, True),
        (1, 100, {"max_failed_share": 0}, True),
        (100, 100, {"max_failed_share": 1}, False),
    ],
)
def test_when_a_step_ends_the_run(failed, asked, settings, stops):
    reason = too_many_failed({"judge/failed": failed, "judge/asked": asked}, RewardSettings(**settings))
    assert (reason is not None) == stops
    if reason:
        assert f"{failed} of {asked}" in reason
        assert next(iter(settings), "max_failed_share") in reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_failure": "retry"}, "on_failure is 'retry'; known: zero, fail"),
        ({"max_failed_share": 1.5}, "max_failed_share is 1.5"),
        ({"max_failed_share": "10%"}, "max_failed_share is '10%'"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        RewardSettings(**settings)


def config(manager: str = "r1_reward", judge: str = "pool"):
    return OmegaConf.create({"reward": {"reward_manager": {"name": manager}, "r1_reward": {"judge": {"name": judge}}}})


class LoopManager:
    """As verl's: what its workers are started with is in `config`."""

    def __init__(self, config, replicas=("10.0.0.1:1", "10.0.0.2:2")):
        self.config = config
        self.reward_model_manager = SimpleNamespace(server_addresses=list(replicas)) if replicas else None
        self._init_reward_loop_workers()

    def _init_reward_loop_workers(self):
        self.started_with = OmegaConf.to_container(self.config)


@pytest.fixture
def loop_manager():
    module = SimpleNamespace(RewardLoopManager=type("RewardLoopManager", (LoopManager,), {}))
    trainer.install_replicas(module)
    trainer.install_replicas(module)
    return module.RewardLoopManager


def test_workers_are_told_where_the_replicas_are(loop_manager):
    judge = loop_manager(config()).started_with["reward"]["r1_reward"]["judge"]
    assert judge == {"name": "pool", "urls": ["http://10.0.0.1:1/v1", "http://10.0.0.2:2/v1"]}


@pytest.mark.parametrize(
    "settings", [{"config": config("naive")}, {"config": config(judge="rules")}, {"config": config(), "replicas": ()}]
)
def test_other_rewards_are_left_alone(loop_manager, settings):
    before = OmegaConf.to_container(settings["config"])
    assert loop_manager(**settings).started_with == before


# Validation: verl's own function, which the plugin wrapped when verl was imported

INFOS = {
    "reward": [2.0, 0.5, 1.5],
    "acc": [1.0, 0.0, 1.0],
    "pred": ["1", "1", "2"],
    "label": ["1", "2", "2"],
    "pair_id": ["p", "p", ""],
    "supported": [1.0, 0.0, 1.0],
    "judged": [1.0, 0.0, 1.0],
    "consistency": [1.0, 0.0, -1.0],
    "response_tokens": [10.0, 20.0, 30.0],
    "reasoning_characters": [50.0, 60.0, 70.0],
}


def validate(self, infos=INFOS):
    rows = ["0", "1", "2"]
    expected = {("toy", row): 1 for row in rows}
    return PPOTrainer._val_metrics_update(self, ["toy"] * 3, rows, infos, [2, 2, 2], expected_acc_counts=expected)


def test_validation_logs_the_evaluations_figures_beside_verls():
    own = {"label", "pair_id", "supported", "response_tokens", "reasoning_characters"}
    verls = validate(SimpleNamespace(config=config("naive")), {k: v for k, v in INFOS.items() if k not in own})
    assert verls
    assert not any(name.startswith("val-r1_reward/") for name in verls)
    found = validate(SimpleNamespace(config=config()))
    assert {name: value for name, value in found.items() if name in verls} == verls
    ours = {name: value for name, value in found.items() if name not in verls}
    assert {name.rpartition("/")[0] for name in ours} == {"val-r1_reward/toy", "val-r1_reward/all"}
    assert found["val-r1_reward/toy/accuracy"] == pytest.approx(found["val-core/toy/acc/mean@1"])
    assert found["val-r1_reward/toy/both_orders_accuracy"] == 0
    assert found["val-r1_reward/toy/flip_rate"] == 1
    assert found["val-r1_reward/toy/failed"] == 0
    assert all(type(value) is float for value in ours.values())


def test_validation_with_other_rewards_is_left_alone():
    found = validate(SimpleNamespace(config=config("naive")))
    assert "val-aux/toy/supported/mean@1" in found
    assert not any(name.startswith("val-r1_reward/") for name in found)


def test_figures_that_fail_are_said_once_and_end_nothing(caplog):
    trainer = SimpleNamespace(config=config(), global_steps=7)
    broken = {**INFOS, "label": ["left", "2", "2"]}
    with caplog.at_level(logging.ERROR):
        found = [validate(trainer, broken), validate(trainer, broken)]
    assert found[0] == found[1]
    assert found[0]["val-core/toy/acc/mean@1"] == pytest.approx(2 / 3)
    (record,) = caplog.records
    assert "step 7" in record.message
    assert "left" in str(record.exc_info[1])
