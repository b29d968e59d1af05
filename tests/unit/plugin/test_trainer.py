"""What the plugin adds to verl's trainer; the end-to-end tests run it, here are its decisions."""

import inspect
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
    "confidence": [0.9, -1.0, 0.5],
}


def validate(self, infos=INFOS):
    return update(self, ["toy"] * 3, ["0", "1", "2"], infos, [2, 2, 2])


def update(self, sources, rows, infos, turns):
    """Call verl's function as verl does, which tells it what to expect from 0.9.1 on."""
    expected = {"expected_acc_counts": dict.fromkeys(zip(sources, rows, strict=True), 1)}
    known = inspect.signature(PPOTrainer._val_metrics_update).parameters
    return PPOTrainer._val_metrics_update(
        self, sources, rows, infos, turns, **{name: value for name, value in expected.items() if name in known}
    )


def test_validation_logs_the_evaluations_figures_beside_verls():
    own = {"label", "pair_id", "supported", "response_tokens", "reasoning_characters", "confidence"}
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
    assert found.get("val-r1_reward/toy/failed", 0) == 0  # verl 0.9.1 alone says how many it expects
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


# Groups of rollouts


def pairwise(**section):
    reward = {"reward_manager": {"name": "pairwise"}, "pairwise": {"model": {"name": "pool", "urls": []}, **section}}
    return OmegaConf.create({"reward": reward})


def group_infos(size=4, failed=0, comparisons=6):
    one = dict.fromkeys(
        ("comparison_score", "length_penalty", "rule", "response_tokens", "group_ties", "group_cycles"), 0.0
    )
    one |= {"rank_status": "ranked", "group_size": float(size), "group_comparisons": float(comparisons)}
    one |= {
        "group_failed": float(failed),
        "group_undecided": 0.0,
        "group_order_disagreements": 0.0,
        "group_pairs_in_both_orders": 0.0,
    }
    return [{**one, "group_seconds": 0.1, "group_signal": 1.0} for _ in range(size)]


def test_reward_workers_are_told_where_the_reward_models_replicas_are(loop_manager):
    model = loop_manager(pairwise()).started_with["reward"]["pairwise"]["model"]
    assert model == {"name": "pool", "urls": ["http://10.0.0.1:1/v1", "http://10.0.0.2:2/v1"]}
    endpoint = pairwise(model={"name": "endpoint", "urls": ["http://mine/v1"]})
    assert loop_manager(endpoint).started_with["reward"]["pairwise"]["model"]["urls"] == ["http://mine/v1"]


@pytest.mark.parametrize(
    ("failed", "section", "stops"),
    [
        (0, {}, False),
        (1, {}, False),
        (3, {}, True),
        (1, {"on_failure": "fail"}, True),
        (6, {"max_failed_share": 1}, False),
    ],
)
def test_a_step_with_too_many_failed_comparisons_ends_the_run_before_it_is_trained_on(
    failed, section, stops, monkeypatch, caplog
):
    balanced = []
    watched = trainer._watch_rewards(lambda self, batch: balanced.append(batch))
    monkeypatch.setattr(trainer, "_infos", lambda batch, mark: group_infos(failed=failed))
    monkeypatch.setattr(trainer, "_save", lambda self: "The checkpoint of step 4 is saved.")
    self = SimpleNamespace(
        config=pairwise(**section), global_steps=5, trainer_mode="separate_async", _r1reward_infos=[]
    )
    if stops:
        with pytest.raises(trainer.JudgeFailed, match=f"answered {failed} of 6 comparisons.*checkpoint of step 4"):
            watched(self, "batch")
    else:
        watched(self, "batch")
    assert balanced == ([] if stops else ["batch"])
    assert ("step 5: no verdict in" in caplog.text) == (bool(failed) and not stops)


@pytest.mark.parametrize(
    ("mode", "keys", "dead", "stops"),
    [
        ("sync", ["a_0_0", "b_0_0", "b_1_0"], 1, True),
        ("sync", ["a_0_0", "b_0_0", "b_1_0"], 0, False),  # verl logs why a prompt failed, and pads
        ("sync", ["a_0_0", "b_0_0", "c_0_0"], 1, False),  # it died behind the step's last rollout
        ("separate_async", ["a_0_0"], 1, False),  # verl takes other prompts in their place
    ],
)
def test_a_step_that_a_dead_worker_left_without_rollouts_is_not_trained_on(mode, keys, dead, stops, monkeypatch):
    watched = trainer._watch_rewards(lambda self, batch: batch)
    monkeypatch.setattr(trainer, "_infos", lambda batch, mark: [])
    monkeypatch.setattr(trainer, "_dead_workers", lambda self: dead)
    monkeypatch.setattr(trainer, "_save", lambda self: "The checkpoint of step 4 is saved in there")
    settings = config()
    settings.data = {"train_batch_size": 6}
    self = SimpleNamespace(
        config=settings, global_steps=5, trainer_mode=mode, parameter_sync_step=2, _r1reward_infos=[]
    )
    batch = SimpleNamespace(keys=keys)
    if stops:
        with pytest.raises(trainer.RolloutsLost, match=r"1 prompts of step 5 .* since 1 of .*checkpoint of step 4"):
            watched(self, batch)
    else:
        assert watched(self, batch) is batch


def test_the_steps_log_has_the_groups(monkeypatch):
    def step(self, metrics):
        self._r1reward_infos += group_infos() + group_infos(size=2, comparisons=1)
        return "batch"

    metrics: dict[str, float] = {}
    self = SimpleNamespace(config=pairwise(), global_steps=1, trainer_mode="separate_async")
    assert trainer._log_step(step)(self, metrics) == "batch"
    assert (metrics["pairwise/groups"], metrics["pairwise/comparisons"]) == (pytest.approx(2), pytest.approx(7))


def test_validation_says_how_often_the_reference_answers_lose(caplog):
    infos = {
        "reward": [1.0, 0.0, 0.5, 0.5],
        "score": [1.0, 0.0, 0.5, 0.5],
        "comparison_score": [1.0, 0.0, 0.5, 0.5],
        "rank_status": ["reference", "reference", "neutral", "failed"],
        "response_tokens": [1.0] * 4,
    }
    self = SimpleNamespace(config=pairwise(), global_steps=7)
    found = update(self, ["toy"] * 4, [*"0123"], infos, [2] * 4)
    ours = {name: value for name, value in found.items() if name.startswith("val-pairwise/")}
    assert ours == {"val-pairwise/toy/win_rate": 0.5, "val-pairwise/toy/neutral": 0.25, "val-pairwise/toy/failed": 0.25}
    assert "val-core/toy/reward/mean@1" in found
    assert not any("response_tokens" in name for name in found)
    assert "step 7: validation: no verdict on 1 of 4 responses" in caplog.text


def test_of_a_rollout_with_several_outputs_the_last_one_counts():
    assert trainer._final_outputs(["a_0_1", "a_0_0", "a_1_0", "b_0_10", "b_0_9"]) == {"a_0": 0, "a_1": 2, "b_0": 3}


# Agreement of both orders


@pytest.fixture
def queue(monkeypatch):
    """The queue between rollouts and trainer, for a step of two pairs; one rollout has two outputs."""
    import torch
    import transfer_queue as tq

    def output(pair, label, pred):
        parts = {"judge_status": "skipped", "pair_id": pair, "label": label, "pred": pred}
        return {"reward_extra_info": parts, "turns": 1}

    kept = {
        "a_0_0": (3, 1.5, output("p", "1", "1")),
        "b_0_0": (2, 0.5, output("p", "2", "2")),
        "c_0_0": (4, 0.5, output("q", "1", "1")),
        "d_0_0": (1, 0.5, output("q", "2", "1")),
        "d_0_1": (5, 0.5, output("q", "2", "1")),
        "e_0_0": (2, 2.0, output("alone", "1", "1")),
        "f_0_0": (2, 7.0, None),  # scored by an agent loop of the user's
    }

    def kv_batch_get(keys, partition_id, select_fields):
        assert partition_id == "train"
        scores = []
        for key in keys:
            length, score, _ = kept[key]
            scores.append(torch.tensor([0.0] * (length - 1) + [score]))
        whole = {"extra_fields": [kept[key][2] for key in keys]}
        whole["rm_scores"] = torch.nested.as_nested_tensor(scores, layout=torch.jagged)
        return {name: whole[name] for name in select_fields}

    def kv_batch_put(keys, partition_id, fields):
        for key, scores, extra in zip(keys, fields["rm_scores"].unbind(), list(fields["extra_fields"]), strict=True):
            kept[key] = (len(scores), scores.tolist(), extra)

    monkeypatch.setattr(tq, "kv_batch_get", kv_batch_get)
    monkeypatch.setattr(tq, "kv_batch_put", kv_batch_put)
    return kept


def watch(queue, **section):
    settings = config()
    settings.reward.r1_reward.update(section)
    self = SimpleNamespace(config=settings, global_steps=5, trainer_mode="separate_async", _r1reward_infos=[])
    batch = SimpleNamespace(keys=list(queue), partition_id="train")
    trainer._reward_agreement(self, batch)
    return batch


def test_judgements_gain_by_agreeing_with_those_of_the_other_order(queue):
    watch(queue, agreement_weight=0.25)
    scores = {key: scores for key, (_, scores, _) in queue.items()}
    assert scores == {
        "a_0_0": [0, 0, 1.75],
        "b_0_0": [0, 0.75],
        "c_0_0": [0, 0, 0, 0.5],
        "d_0_0": [0.5],
        "d_0_1": [0, 0, 0, 0, 0.5],
        "e_0_0": [0, 2],
        "f_0_0": [0, 7],
    }
    noted = {key: extra["reward_extra_info"].get("agreement") for key, (_, _, extra) in queue.items()}
    assert noted == {"a_0_0": 1, "b_0_0": 1, "c_0_0": 0, "d_0_0": 0, "d_0_1": 0, "e_0_0": -1, "f_0_0": None}
    assert queue["a_0_0"][2]["turns"] == 1


def test_without_that_reward_nothing_is_read(queue):
    before = dict(queue)
    watch(queue)
    assert queue == before
