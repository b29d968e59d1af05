"""What the plugin adds to verl's trainer; the end-to-end tests run it, here are its decisions."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from r1reward_verl.rewards import trainer
from r1reward_verl.rewards.settings import RewardSettings
from r1reward_verl.rewards.trainer import too_many_failed


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
