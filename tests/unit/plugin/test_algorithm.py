"""StableReinforce in verl: beside verl's own estimator and loss, and through verl's plain `ppo_trainer` config."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import verl  # noqa: F401  (loads the plugin)
from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from torch import Tensor
from torch.testing import assert_close
from verl import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import ray_trainer
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import ActorConfig, PolicyLossConfig
from verl.workers.utils.losses import ppo_loss

from r1reward_verl.plugin import algorithm
from r1reward_verl.plugin.loss_config import StableReinforceLossConfig
from r1reward_verl.plugin.trainer import _log_step

AGGREGATIONS = (
    "token-mean",
    "token-sum",
    "seq-mean-token-sum",
    "seq-mean-token-mean",
    "seq-mean-token-sum-norm",
)
PLAIN = ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",)
OUR_SECTION = "actor_rollout_ref.actor.policy_loss._target_=r1reward_verl.plugin.loss_config.StableReinforceLossConfig"


def ppo_trainer(*overrides: str) -> DictConfig:
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[*PLAIN, *overrides])


def actor_config(**fields: Any) -> ActorConfig:
    return ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **fields)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["right padding", "gaps"])
def mask(request: pytest.FixtureRequest, generator: torch.Generator) -> Tensor:
    if request.param == "gaps":
        return (torch.rand(16, 64, generator=generator) < 0.8).long()
    lengths = torch.randint(1, 65, (16, 1), generator=generator)
    return (torch.arange(64) < lengths).long()


class TestEstimatorBesideVerls:
    @pytest.mark.parametrize("gamma", [0.5, 0.95, 1.0])
    def test_equals_reinforce_plus_plus_where_nothing_is_filtered(
        self, gamma: float, mask: Tensor, generator: torch.Generator
    ):
        rewards = torch.rand(16, 64, generator=generator)
        config = OmegaConf.create({"gamma": gamma, "stable_reinforce": {"sigma": 5.0}})
        with algorithm.collect_filter_statistics() as statistics:
            ours = get_adv_estimator_fn("stable_reinforce")(rewards, mask, config=config)
        verls = get_adv_estimator_fn("reinforce_plus_plus")(rewards, mask, config=config)
        assert algorithm.filter_metrics(statistics)["stable_reinforce/filtered_tokens"] == 0.0
        assert_close(ours, verls, rtol=1e-5, atol=1e-5)

    def test_equals_it_but_for_the_filtered_tokens(self, mask: Tensor, generator: torch.Generator):
        rewards = torch.randn(16, 64, generator=generator).pow(5)
        config = AlgoConfig(gamma=0.3)
        ours, _ = get_adv_estimator_fn("stable_reinforce")(rewards, mask, config=config)
        verls, _ = get_adv_estimator_fn("reinforce_plus_plus")(rewards, mask, config=config)
        outside = verls.abs() > 3
        assert 0 < outside.sum() < 100
        assert_close(ours, verls.masked_fill(outside, 0.0), rtol=1e-5, atol=1e-5)


def loss_and_gradient(name: str, log_prob: Tensor, **arguments: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    log_prob = log_prob.clone().requires_grad_()
    loss, metrics = get_policy_loss_fn(name)(log_prob=log_prob, **arguments)
    loss.backward()
    return loss.detach(), log_prob.grad, metrics


class TestLossBesideVerls:
    @pytest.fixture
    def arguments(self, mask: Tensor, generator: torch.Generator) -> dict[str, Any]:
        old_log_prob = -2.0 * torch.rand(16, 64, generator=generator)
        return {
            "old_log_prob": old_log_prob,
            "log_prob": old_log_prob + 0.5 * (torch.rand(16, 64, generator=generator) - 0.5),
            "advantages": torch.randn(16, 64, generator=generator),
            "response_mask": mask.bool(),
        }

    @pytest.mark.parametrize("loss_agg_mode", AGGREGATIONS)
    @pytest.mark.parametrize("batch_info", ["local", "global"])
    @pytest.mark.parametrize("weighted", [False, True])
    def test_equals_vanilla_where_pre_clip_and_dual_clip_are_not_active(
        self,
        arguments: dict[str, Any],
        generator: torch.Generator,
        loss_agg_mode: str,
        batch_info: str,
        weighted: bool,
    ):
        # Log-ratios to +-0.25: PPO's clip is active on both sides, Pre-CLIP and the dual clip (ratio 3) are not.
        info = {
            "local": {},
            "global": {
                "dp_size": 2,
                "batch_num_tokens": 1500,
                "global_batch_size": 40,
                "loss_scale_factor": 100,
            },
        }[batch_info]
        arguments |= {
            "config": actor_config(loss_agg_mode=loss_agg_mode, global_batch_info=info),
            "loss_agg_mode": loss_agg_mode,
            "rollout_is_weights": 2 * torch.rand(16, 64, generator=generator) if weighted else None,
        }
        ours = loss_and_gradient("stable_reinforce", **arguments)
        verls = loss_and_gradient("vanilla", **arguments)
        assert verls[2]["actor/pg_clipfrac"] > 0.01
        assert_close(ours[:2], verls[:2], rtol=1e-5, atol=1e-7)
        for name in ("actor/pg_clipfrac", "actor/ppo_kl"):
            assert ours[2][name] == pytest.approx(verls[2][name], rel=1e-4, abs=1e-6)

    def test_honours_verls_clip_ratios(self, arguments: dict[str, Any]):
        config = actor_config(clip_ratio_low=0.05, clip_ratio_high=0.1)
        arguments |= {"config": config, "loss_agg_mode": "token-mean"}
        ours, verls = (loss_and_gradient(name, **arguments) for name in ("stable_reinforce", "vanilla"))
        assert_close(ours[:2], verls[:2], rtol=1e-5, atol=1e-7)

    def test_clip_ratio_stands_in_for_the_one_sided_ones(self, arguments: dict[str, Any]):
        config = actor_config(clip_ratio=0.1, clip_ratio_low=None, clip_ratio_high=None)
        arguments |= {"config": config, "loss_agg_mode": "token-mean"}
        ours, verls = (loss_and_gradient(name, **arguments) for name in ("stable_reinforce", "vanilla"))
        assert_close(ours[:2], verls[:2], rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("loss_agg_mode", AGGREGATIONS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_non_finite_values_at_masked_tokens_do_not_leak_through_any_aggregation(
        self, arguments: dict[str, Any], loss_agg_mode: str, dtype: torch.dtype
    ):
        arguments |= {"config": actor_config(), "loss_agg_mode": loss_agg_mode}
        masked = ~arguments["response_mask"]
        for name in ("log_prob", "old_log_prob", "advantages"):
            arguments[name] = arguments[name].to(dtype)
        clean = loss_and_gradient("stable_reinforce", **arguments)
        for name, filler in (("log_prob", math.nan), ("old_log_prob", -math.inf), ("advantages", math.inf)):
            arguments[name] = arguments[name].masked_fill(masked, filler)
        spoilt = loss_and_gradient("stable_reinforce", **arguments)
        assert_close(spoilt, clean, rtol=0.0, atol=0.0)
        assert not spoilt[1][masked].any()
        assert spoilt[1].dtype == dtype

    def test_nan_at_a_valid_token_reaches_the_loss_and_a_metric(self, arguments: dict[str, Any]):
        arguments |= {"config": actor_config(), "loss_agg_mode": "token-mean"}
        valid = arguments["response_mask"].nonzero()[0]
        arguments["log_prob"][tuple(valid)] = math.nan
        loss, _, metrics = loss_and_gradient("stable_reinforce", **arguments)
        assert loss.isnan()
        assert metrics["actor/nan_log_ratio"] == pytest.approx(1 / arguments["response_mask"].sum().item())

    def test_with_the_dual_clip_it_equals_vanilla_on_wide_ratios_too(
        self, arguments: dict[str, Any], generator: torch.Generator
    ):
        arguments["log_prob"] = arguments["old_log_prob"] + 10.0 * (torch.rand(16, 64, generator=generator) - 0.5)
        policy_loss = StableReinforceLossConfig(clip_ratio_c=3.0)
        arguments |= {"config": actor_config(policy_loss=policy_loss), "loss_agg_mode": "token-mean"}
        ours, verls = (loss_and_gradient(name, **arguments) for name in ("stable_reinforce", "vanilla"))
        assert verls[2]["actor/pg_clipfrac_lower"] > 0.1
        assert_close(ours[:2], verls[:2], rtol=1e-5, atol=1e-7)

    def test_settings_of_our_section_are_used(self, arguments: dict[str, Any]):
        policy_loss = StableReinforceLossConfig(log_ratio_low=-0.125, log_ratio_high=0.0625)
        arguments |= {"config": actor_config(policy_loss=policy_loss), "loss_agg_mode": "token-mean"}
        _, _, metrics = loss_and_gradient("stable_reinforce", **arguments)
        log_ratio = (arguments["log_prob"] - arguments["old_log_prob"])[arguments["response_mask"]]
        assert metrics["actor/pre_clip_low"] == pytest.approx((log_ratio < -0.125).float().mean().item())
        assert metrics["actor/pre_clip_high"] == pytest.approx((log_ratio > 0.0625).float().mean().item())


class TestPlainConfig:
    def rollout(self, rewards: list[float], tokens: int = 4) -> DataProto:
        """What verl's trainer holds after the reward: `n` = 2 responses to every prompt."""
        batch = len(rewards)
        scores = torch.zeros(batch, tokens)
        scores[:, -1] = torch.tensor(rewards)
        ones = torch.ones(batch, tokens, dtype=torch.long)
        return DataProto.from_dict(
            tensors={
                "token_level_scores": scores,
                "token_level_rewards": scores,
                "prompts": ones,
                "responses": ones,
                "attention_mask": torch.ones(batch, 2 * tokens, dtype=torch.long),
                "response_mask": ones,
            },
            non_tensors={"uid": np.repeat(np.arange(batch // 2), 2).astype(str).astype(object)},
        )

    def advantages(self, data: DataProto, config: DictConfig) -> Tensor:
        return compute_advantage(
            data,
            adv_estimator=config.algorithm.adv_estimator,
            gamma=config.algorithm.gamma,
            num_repeat=config.actor_rollout_ref.rollout.n,
            config=config.algorithm,
        ).batch["advantages"]

    def test_the_estimator_alone_works_with_the_papers_settings_and_several_responses(self):
        config = ppo_trainer("algorithm.adv_estimator=stable_reinforce", "actor_rollout_ref.rollout.n=2")
        advantages = self.advantages(self.rollout([1.0] * 255 + [0.0]), config)
        # Standardised over the whole batch, not within the pair of responses, and filtered beyond 3.
        assert not advantages[-1].any()
        assert_close(advantages[:-1], torch.full((255, 4), 1 / math.sqrt(255)), rtol=1e-2, atol=0.0)

    def test_the_filters_statistics_are_in_verls_data_metrics(self):
        config = ppo_trainer("algorithm.adv_estimator=stable_reinforce")
        data = self.rollout([1.0] * 255 + [0.0])
        other = self.rollout([1.0, 0.0])
        self.advantages(data, config)
        self.advantages(other, config)  # of another trainer in the process
        metrics = ray_trainer.compute_data_metrics(data, use_critic=False)
        assert ray_trainer.compute_data_metrics(other, use_critic=False)["stable_reinforce/filtered_tokens"] == 0.0
        assert metrics["stable_reinforce/filtered_samples"] == 1 / 256
        assert metrics["stable_reinforce/filtered_tokens"] == 1 / 256
        assert metrics["stable_reinforce/max_abs_z"] == pytest.approx(15.97, abs=0.1)
        assert "critic/advantages/mean" in metrics

    def test_another_estimator_logs_none_of_them(self):
        config = ppo_trainer("algorithm.adv_estimator=reinforce_plus_plus")
        data = self.rollout([1.0, 0.0])
        self.advantages(data, config)
        assert not [name for name in ray_trainer.compute_data_metrics(data, use_critic=False) if "stable" in name]

    def test_settings_are_added_with_hydras_plus(self):
        config = ppo_trainer(
            "algorithm.adv_estimator=stable_reinforce",
            "+algorithm.stable_reinforce.sigma=20",
            "+algorithm.stable_reinforce.renormalise=true",
        )
        assert self.advantages(self.rollout([1.0] * 255 + [0.0]), config)[-1].all()

    def test_a_misspelt_setting_is_refused(self):
        config = ppo_trainer("algorithm.adv_estimator=stable_reinforce", "+algorithm.stable_reinforce.sigmaa=20")
        with pytest.raises(ValueError, match=r"algorithm\.stable_reinforce\.sigmaa: no such option"):
            self.advantages(self.rollout([1.0, 0.0]), config)

    def test_verls_algo_config_dataclass_which_has_no_room_for_settings_works(self):
        config = omega_conf_to_dataclass(ppo_trainer().algorithm)
        assert isinstance(config, AlgoConfig)
        advantages, _ = algorithm.adv_estimator(torch.tensor([[1.0], [0.0]]), torch.ones(2, 1), config=config)
        assert_close(advantages, torch.tensor([[1.0], [-1.0]]) / math.sqrt(2))

    @pytest.mark.parametrize("section", [(), (OUR_SECTION,)])
    def test_the_loss_runs_in_verls_ppo_loss(self, section: tuple[str, ...]):
        config = ppo_trainer("actor_rollout_ref.actor.policy_loss.loss_mode=stable_reinforce", *section)
        actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
        assert isinstance(actor, ActorConfig)
        expected = StableReinforceLossConfig if section else PolicyLossConfig
        assert type(actor.policy_loss) is expected
        loss, metrics = self.ppo_loss(actor, log_ratio=50.0)
        # Two tokens of ratio e^50 and advantage -1: Pre-CLIP stops the ratio at 1e3.
        assert loss.item() == pytest.approx(1e3)
        assert metrics["actor/pre_clip_high"].aggregate() == 1.0
        assert metrics["actor/pre_clip_low"].aggregate() == metrics["actor/nan_log_ratio"].aggregate() == 0.0

    def ppo_loss(self, actor: ActorConfig, log_ratio: float) -> tuple[Tensor, dict[str, Any]]:
        """One sequence of two prompt and two response tokens through verl's actor loss."""

        def nested(values: list[float] | list[int]) -> Tensor:
            return torch.nested.as_nested_tensor([torch.tensor(values)], layout=torch.jagged)

        data = TensorDict(
            {
                "input_ids": nested([5, 6, 7, 8]),
                "prompts": nested([5, 6]),
                "responses": nested([7, 8]),
                "attention_mask": nested([1, 1, 1, 1]),
                "response_mask": nested([1, 1]),
                "old_log_probs": nested([-60.0, -60.0]),
                "advantages": nested([-1.0, -1.0]),
            },
            batch_size=[1],
        )
        for name, value in (("dp_size", 1), ("batch_num_tokens", 2), ("global_batch_size", 1)):
            data.set_non_tensor(name, value)
        log_probs = nested([0.0, -60.0 + log_ratio, -60.0 + log_ratio, 0.0])
        return ppo_loss(actor, {"log_probs": log_probs}, data)


class TestLossConfig:
    def test_defaults_are_the_papers(self):
        config = StableReinforceLossConfig()
        assert config.loss_mode == "stable_reinforce"
        assert (config.log_ratio_low, config.log_ratio_high) == (math.log(1e-3), math.log(1e3))

    def test_bounds_come_from_the_config(self):
        actor = ppo_trainer(
            OUR_SECTION,
            "+actor_rollout_ref.actor.policy_loss.log_ratio_low=-2",
            "+actor_rollout_ref.actor.policy_loss.log_ratio_high=1.5",
        ).actor_rollout_ref.actor
        policy_loss = omega_conf_to_dataclass(actor).policy_loss
        assert (policy_loss.log_ratio_low, policy_loss.log_ratio_high) == (-2, 1.5)
        # The plain config names its loss, so ours has to be asked for beside its section.
        assert policy_loss.loss_mode == "vanilla"

    @pytest.mark.parametrize(
        "bound",
        ["log_ratio_low=0.5", "log_ratio_high=-1", "log_ratio_high=1000", "clip_ratio_c=1", "clip_ratio_c=three"],
    )
    def test_bad_bounds_are_refused_when_verl_builds_the_config(self, bound: str):
        actor = ppo_trainer(OUR_SECTION, f"+actor_rollout_ref.actor.policy_loss.{bound}").actor_rollout_ref.actor
        with pytest.raises(InstantiationException, match=bound.split("=")[0]):
            omega_conf_to_dataclass(actor)

    def test_it_survives_the_conversion_to_a_config_and_back(self):
        config = OmegaConf.structured(StableReinforceLossConfig(log_ratio_low=-1.0))
        assert OmegaConf.to_object(config).log_ratio_low == -1.0


class TestOptions:
    def test_absent_settings_are_the_papers(self):
        paper = {"gamma": 1.0, "sigma": 3.0, "bounds": "paper", "renormalise": False}
        paper |= {"filter": "drop", "deviation_floor": 0.0}
        assert algorithm.advantage_options(None) == paper
        assert algorithm.advantage_options({"stable_reinforce": None}) == paper
        assert algorithm.log_ratio_bounds({}) == (math.log(1e-3), math.log(1e3))

    def test_settings_are_read_from_the_section(self):
        section = {"sigma": 2, "bounds": "reference", "filter": "clip", "deviation_floor": 0.3}
        options = algorithm.advantage_options({"gamma": 0.9, "stable_reinforce": section})
        assert options == {"gamma": 0.9, "renormalise": False, **section}
        assert algorithm.dual_clip({"clip_ratio_c": 3.0}) == 3.0
        assert algorithm.log_ratio_bounds({"log_ratio_low": -2.0, "log_ratio_high": 1}) == (-2.0, 1)

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            ({"sigmma": 3.0}, r"algorithm\.stable_reinforce\.sigmma: no such option, there are sigma, bounds"),
            ({"sigma": "three"}, r"algorithm\.stable_reinforce\.sigma='three'"),
            (
                {"filter": "winsorise"},
                r"algorithm\.stable_reinforce\.filter='winsorise': must be one of drop, clip, none",
            ),
            ({"bounds": "Paper"}, r"algorithm\.stable_reinforce\.bounds='Paper': must be one of paper, reference"),
            (3.0, r"algorithm\.stable_reinforce=3\.0: must be a section"),
        ],
    )
    def test_a_bad_setting_is_named_with_the_way_out(self, section: object, message: str):
        with pytest.raises(ValueError, match=message):
            algorithm.advantage_options({"stable_reinforce": section})

    @pytest.mark.parametrize(
        "bounds",
        [
            {"log_ratio_low": 0.0},
            {"log_ratio_low": -math.inf},
            {"log_ratio_low": math.nan},
            {"log_ratio_high": 0.0},
            {"log_ratio_high": 89.0},
            {"log_ratio_high": math.nan},
            {"log_ratio_high": "6.9"},
        ],
    )
    def test_a_bad_log_ratio_bound_is_named(self, bounds: dict[str, object]):
        ((name, value),) = bounds.items()
        with pytest.raises(ValueError, match=rf"policy_loss\.{name}={value!r}"):
            algorithm.log_ratio_bounds(bounds)


class TestFilterMetrics:
    """Of the V1 trainer, whose `step(metrics, ...)` calls the estimator."""

    class Trainer:
        config = OmegaConf.create({"reward": {"reward_manager": {"name": "naive"}}})

        def compute(self, metrics, batch):
            for rewards in batch:
                column = torch.tensor(rewards)[:, None]
                algorithm.adv_estimator(column, torch.ones_like(column))
            return "advantages"

        step = _log_step(compute)

    def test_they_are_those_of_the_step_and_of_the_trainer(self):
        trainers, logs = [self.Trainer(), self.Trainer()], [{"step": 1.0}, {}]
        assert trainers[0].step(logs[0], [[1.0] * 255 + [0.0]]) == "advantages"
        trainers[1].step(logs[1], batch=[[1.0, 0.0]])
        assert logs[0] == {
            "step": 1.0,
            "stable_reinforce/filtered_tokens": 1 / 256,
            "stable_reinforce/filtered_samples": 1 / 256,
            "stable_reinforce/filtered_below": 1 / 256,
            "stable_reinforce/filtered_above": 0.0,
            "stable_reinforce/max_abs_z": pytest.approx(15.94, abs=0.01),
        }
        assert logs[1]["stable_reinforce/filtered_tokens"] == 0.0
        trainers[0].step(logs[0], [[1.0, 0.0]])
        assert logs[0]["stable_reinforce/filtered_tokens"] == 0.0, "the step before does not count"

    def test_several_calls_in_a_step_are_weighed_by_their_tokens(self):
        metrics = {}
        self.Trainer().step(metrics, [[1.0] * 255 + [0.0], [1.0, 0.0]])
        assert metrics["stable_reinforce/filtered_tokens"] == 1 / 258

    def test_without_our_estimator_there_are_none(self):
        metrics = {}
        self.Trainer().step(metrics, [])
        assert metrics == {}

    def test_verls_v1_trainer_is_wrapped(self):
        from verl.trainer.ppo.v1.trainer_base import PPOTrainer

        assert PPOTrainer.step.__wrapped__
