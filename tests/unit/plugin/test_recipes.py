"""Every shipped recipe, with every judge and every hardware, is a config that verl accepts."""

import copy
import dataclasses
import functools
import importlib.util
import math
from itertools import product
from pathlib import Path

import hydra
import pytest
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from r1reward_verl import recipes
from r1reward_verl.plugin.doctor import compose
from r1reward_verl.plugin.preflight.checks import CHECKS

ROOT = Path(next(iter(recipes.__path__)))


def shipped(group: str) -> list[str]:
    """The choices of a group; files with an underscore are parts of others."""
    return sorted(file.stem for file in (ROOT / group).glob("*.yaml") if not file.stem.startswith("_"))


SFT_HARDWARE = shipped("sft_hardware")
SFT_RECIPES = ["cold_start"]  # for verl's SFT trainer; the others are for main_ppo
PAIRWISE_RECIPES = ["grpo_pairwise", "grpo_pairwise_vlm"]  # whose reward is not a judgement's
RECIPES = ["r1_reward"]
DELTAS = [name for name in shipped("recipe") if name not in SFT_RECIPES + PAIRWISE_RECIPES + RECIPES]
REWARD_MODELS = shipped("reward_model")
HARDWARE, JUDGES = shipped("hardware"), shipped("judge")
COMBINATIONS = list(product(RECIPES, [None, *HARDWARE], JUDGES))
# Only these keys may be new to verl.
OURS = {"data.prompt_template", "algorithm.stable_reinforce", "reward.r1_reward", "reward.pairwise"}
SFT_OURS = {"data.mm_processor_kwargs"}
# Sections that verl hands on as they are (to transformers, vLLM, Ray, a dataclass), which check them.
FREE = {
    "ray_kwargs.ray_init",
    "actor_rollout_ref.model.override_config",
    "data.mm_processor_kwargs",
    "actor_rollout_ref.rollout.engine_kwargs.vllm",
    "reward.reward_model.rollout.engine_kwargs.vllm",
    "actor_rollout_ref.actor.policy_loss",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision",
}
ROLLOUTS = ("actor_rollout_ref.rollout.", "reward.reward_model.rollout.")
SFT_FREE = {"model.override_config", "engine.mixed_precision", "optim.override_optimizer_config"}


def combined(recipe: str, hardware: str | None, judge: str) -> DictConfig:
    return copy.deepcopy(_combined(recipe, hardware, judge))


@functools.cache
def _combined(recipe: str, hardware: str | None, judge: str) -> DictConfig:
    overrides = [f"+recipe={recipe}", f"judge={judge}", *([f"+hardware={hardware}"] if hardware else [])]
    return compose([*overrides, "data.train_files=pairs.parquet", "actor_rollout_ref.model.path=sft"])


def test_groups_are_not_empty():
    assert {name.removeprefix("r1_reward_") for name in DELTAS} == {
        *("3b", "32b", "lora", "lora_24gb", "qwen3_vl_8b", "robust", "video")
    }
    assert set(HARDWARE) >= {"1gpu", "4gpu", "8gpu", "2x8gpu", "4x8gpu", "8x8gpu"}
    assert SFT_HARDWARE == ["cpu"]
    assert set(JUDGES) == {"none", "rules", "pool", "colocated", "endpoint"}


@pytest.mark.parametrize(("recipe", "hardware", "judge"), COMBINATIONS)
def test_composes_and_passes_verls_own_validation(recipe: str, hardware: str | None, judge: str):
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    config = combined(recipe, hardware, judge)
    use_reference_policy, use_critic = need_reference_policy(config), need_critic(config)
    assert not use_reference_policy, "the paper's KL coefficient is 0"
    assert not use_critic

    validate_config.__wrapped__(config, use_reference_policy, use_critic)
    # verl builds these in its workers, where an unknown or misspelt field only then fails
    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    if config.reward.reward_model.enable:
        omega_conf_to_dataclass(config.reward.reward_model.rollout)
    assert config.reward.r1_reward.judge.name == judge


def found_by_preflight(config: DictConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # a cluster with the GPUs
    if config.trainer.device == "cpu":
        monkeypatch.setenv("VERL_PLATFORM", "cpu")
    else:
        monkeypatch.delenv("VERL_PLATFORM", raising=False)
    checks = {name: list(check(config)) for name, check in CHECKS.items()}
    return {name for name, problems in checks.items() if problems}


@pytest.mark.parametrize(("recipe", "hardware", "judge"), COMBINATIONS)
def test_passes_the_preflight(
    recipe: str, hardware: str | None, judge: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    found = found_by_preflight(combined(recipe, hardware, judge), monkeypatch, tmp_path)
    assert found == {"model", "data"} | ({"settings"} if judge == "endpoint" else set()), "the user's part"


@pytest.mark.parametrize(
    "chosen",
    [
        *([f"+recipe={name}"] for name in DELTAS),
        ["+recipe=r1_reward_32b", "+hardware=4x8gpu", "judge=pool"],
        ["+recipe=r1_reward_lora", "+hardware=cpu"],
        ["+recipe=r1_reward", "+attention=sdpa"],
        ["+recipe=r1_reward_lora", "+attention=sdpa"],
    ],
    ids=" ".join,
)
def test_deltas_pass_both_validations(chosen: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    config = compose([*chosen, "data.train_files=pairs.parquet", "actor_rollout_ref.model.path=sft"])
    validate_config.__wrapped__(config, False, False)
    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert found_by_preflight(config, monkeypatch, tmp_path) == {"model", "data"}, "the user's part"

    lengths = config.data.max_prompt_length + config.data.max_response_length
    assert rollout.max_model_len == lengths
    assert actor.ppo_max_token_len_per_gpu * actor.ulysses_sequence_parallel_size >= lengths
    assert rollout.engine_kwargs["vllm"]["mm_processor_kwargs"] == config.data.mm_processor_kwargs


def test_deltas_say_what_makes_them_different():
    lora, small = (compose([f"+recipe=r1_reward_{name}"]) for name in ("lora", "lora_24gb"))
    assert lora.actor_rollout_ref.model.exclude_modules == ".*visual.*"
    assert "hf_model" not in lora.actor_rollout_ref.actor.checkpoint.save_contents
    assert (small.actor_rollout_ref.model.lora_rank, small.reward.r1_reward.judge.name) == (64, "rules")
    assert small.actor_rollout_ref.actor.fsdp_config.model_dtype == "bf16"
    budget = compose(["+recipe=r1_reward_qwen3_vl_8b"]).data.mm_processor_kwargs
    assert budget.max_pixels == 640 * 32 * 32
    large = compose(["+recipe=r1_reward_32b"])
    assert (large.trainer.nnodes, large.trainer.n_gpus_per_node) == (2, 8)
    bucket = large.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes
    assert bucket << 20 >= 152_064 * 5120 * 4, "the embedding"
    limits = compose(["+recipe=r1_reward_video"]).actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt
    assert limits.video.num_frames == 32


def test_without_flash_attention_no_sample_is_padded():
    config = compose(["+recipe=r1_reward", "+attention=sdpa"])
    cold_start = sft("+recipe=cold_start", "+sft_attention=sdpa")
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (actor.use_dynamic_bsz, actor.ppo_micro_batch_size_per_gpu) == (False, 1)
    assert (rollout.log_prob_use_dynamic_bsz, rollout.log_prob_micro_batch_size_per_gpu) == (False, 1)
    assert (cold_start.data.use_dynamic_bsz, cold_start.data.micro_batch_size_per_gpu) == (False, 1)
    for model in (config.actor_rollout_ref.model, cold_start.model):
        assert (model.use_remove_padding, model.override_config.attn_implementation) == (False, "sdpa")


@pytest.mark.parametrize("hardware", [None, *HARDWARE])
@pytest.mark.parametrize("reward_model", [None, *REWARD_MODELS])
@pytest.mark.parametrize("recipe", PAIRWISE_RECIPES)
def test_policies_with_a_reward_model_pass_both_validations(
    recipe: str, hardware: str | None, reward_model: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    chosen = [f"+{group}={name}" for group, name in (("reward_model", reward_model), ("hardware", hardware)) if name]
    config = compose([f"+recipe={recipe}", *chosen, "data.train_files=p.parquet", "actor_rollout_ref.model.path=sft"])
    validate_config.__wrapped__(config, True, False)
    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    if reward_model:
        omega_conf_to_dataclass(config.reward.reward_model.rollout)
    assert config.reward.pairwise.model.name == (reward_model or "endpoint")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("VERL_PLATFORM", "cpu") if hardware == "cpu" else monkeypatch.delenv("VERL_PLATFORM", False)
    found = {name: problems for name, check in CHECKS.items() if (problems := list(check(config)))}
    assert set(found) == {"model", "data", "group reward"}, "the user's part"
    (problem,) = found["group reward"]
    assert problem.where == ("reward.reward_model.model_path" if reward_model else "reward.pairwise.model")


def test_the_pairwise_reward_goes_into_any_config():
    config = compose(["reward=pairwise", "actor_rollout_ref.rollout.n=8"])
    assert (config.reward.reward_manager.name, config.reward.num_workers) == ("pairwise", 8)
    alone, server = CHECKS["group reward"](
        compose(["reward=pairwise", "reward.pairwise.model.urls=[http://127.0.0.1:9]"])
    )
    assert (alone.where, "a single rollout has no siblings" in alone.value) == ("actor_rollout_ref.rollout.n", True)
    assert (server.where, "127.0.0.1:9" in server.value) == ("reward.pairwise.model.urls", True)


@functools.cache
def sft(*overrides: str) -> DictConfig:
    """Compose verl's `sft_trainer_engine`, as `python -m verl.trainer.sft_trainer` does."""
    spec = importlib.util.find_spec("verl")
    assert spec is not None
    with hydra.initialize_config_dir(f"{spec.submodule_search_locations[0]}/trainer/config", version_base=None):
        return hydra.compose("sft_trainer_engine", overrides=list(overrides))


@pytest.mark.parametrize("hardware", [None, *SFT_HARDWARE])
@pytest.mark.parametrize("recipe", [None, *SFT_RECIPES])
def test_the_cold_start_fits_verls_sft_trainer(recipe: str | None, hardware: str | None):
    from verl.utils.config import omega_conf_to_dataclass

    chosen = [f"+recipe={recipe}"] * bool(recipe) + [f"+sft_hardware={hardware}"] * bool(hardware)
    config = sft(*chosen)
    engine, optim = omega_conf_to_dataclass(config.engine), omega_conf_to_dataclass(config.optim)
    checkpoint = omega_conf_to_dataclass(config.checkpoint)
    assert config.trainer.total_epochs == (1 if recipe else sft().trainer.total_epochs)
    assert ("hf_model" in checkpoint.save_contents) == bool(recipe), "what RL starts from"
    assert optim.lr == (1e-5 if recipe else sft().optim.lr)
    # The model's dataclass would load the model, so its fields are compared.
    fields = {field.name for field in dataclasses.fields(hydra.utils.get_class(config.model._target_))}
    assert set(config.model) - fields <= {"_target_"}
    if hardware == "cpu":
        assert (engine.strategy, engine.model_dtype, engine.mixed_precision["param_dtype"]) == ("fsdp2", "fp32", "fp32")
        assert not config.model.use_remove_padding


def test_the_cold_start_carries_the_papers_numbers_and_the_limits_of_rl():
    config, rl = sft("+recipe=cold_start"), combined("r1_reward", None, "rules")
    assert (config.data.train_batch_size, config.optim.lr, config.trainer.total_epochs) == (256, 1e-5, 1)
    assert config.optim.weight_decay == rl.actor_rollout_ref.actor.optim.weight_decay == 0
    assert config.data.max_length == rl.data.max_prompt_length + rl.data.max_response_length
    assert config.data.mm_processor_kwargs == rl.data.mm_processor_kwargs
    assert config.data.max_token_len_per_gpu >= config.data.max_length


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_sets_only_fields_that_verl_has(file: Path):
    # Hydra merges new keys of an appended group without a word, so a misspelt one would just do nothing.
    for_sft = file.parent.name.startswith("sft_") or file.stem in SFT_RECIPES
    verl, free = (sft(), SFT_OURS | SFT_FREE) if for_sft else (compose([]), OURS | FREE)
    unknown = [
        key
        for key in leaves(OmegaConf.load(file), "reward." if file.parent.name == "reward" else "")
        if not inside(key, free) and not has(verl, key) and "defaults" not in key
    ]
    # RolloutConfig fields that verl's YAML leaves out are real too; the test above builds the dataclass.
    assert [key for key in unknown if not key.startswith(ROLLOUTS)] == []


@pytest.mark.parametrize("hardware", [name for name in HARDWARE if name != "cpu"])
def test_order_of_recipe_and_hardware_does_not_matter(hardware: str):
    one = compose(["+recipe=r1_reward", f"+hardware={hardware}"])
    other = compose([f"+hardware={hardware}", "+recipe=r1_reward"])
    assert one == other


@pytest.mark.parametrize("hardware", [name for name in HARDWARE if name != "cpu"])
def test_hardware_is_what_its_name_says(hardware: str):
    config = combined("r1_reward", hardware, "rules")
    nodes, gpus = (1, hardware) if "x" not in hardware else hardware.split("x")
    assert config.trainer.nnodes == int(nodes)
    assert config.trainer.n_gpus_per_node == int(gpus.removesuffix("gpu"))


def test_the_judge_is_the_papers_where_there_is_room_for_it(capfd):
    judges = {
        hardware: compose(["+recipe=r1_reward", *([f"+hardware={hardware}"] if hardware else [])]).reward
        for hardware in (None, *HARDWARE)
    }
    said = capfd.readouterr().err
    for hardware, reward in judges.items():
        assert reward.r1_reward.judge.name == ("rules" if hardware == "cpu" else "colocated")
        if hardware != "cpu":
            assert reward.reward_model.model_path == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert said.count("judge: rules, since hardware=cpu has no room for the paper's judge model") == 1
    for judge in JUDGES:
        assert compose(["+recipe=r1_reward", f"judge={judge}", "+hardware=cpu"]).reward.r1_reward.judge.name == judge
    assert "judge: rules" not in capfd.readouterr().err


def test_the_room_for_the_judge_is_that_of_its_recipe():
    reward = compose(["+recipe=r1_reward", "judge=colocated"]).reward.reward_model
    assert (reward.model_path, reward.rollout.gpu_memory_utilization) == (recipes.JUDGE, recipes.JUDGE_SHARE)


def test_recipe_carries_the_papers_numbers():
    config = combined("r1_reward", None, "rules")
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (config.data.train_batch_size, actor.ppo_mini_batch_size, rollout.n) == (256, 128, 1)
    assert (config.data.max_prompt_length, config.data.max_response_length) == (20480, 1024)
    assert config.data.mm_processor_kwargs.max_pixels == 640 * 28 * 28
    assert (actor.optim.lr, actor.optim.lr_scheduler_type, actor.optim.min_lr_ratio) == (1e-6, "cosine", 0.1)
    assert (actor.optim.lr_warmup_steps_ratio, actor.optim.clip_grad) == (0.03, 1.0)
    assert (list(actor.optim.betas), actor.optim.weight_decay) == ([0.9, 0.95], 0)
    assert (actor.use_kl_loss, config.algorithm.use_kl_in_reward) == (False, False)
    assert (config.trainer.total_epochs, config.trainer.nnodes, config.trainer.n_gpus_per_node) == (5, 1, 8)
    assert (rollout.temperature, rollout.val_kwargs.do_sample) == (1.0, False)
    assert (actor.clip_ratio, actor.loss_agg_mode) == (0.2, "token-mean")
    pre_clip = [math.exp(actor.policy_loss.log_ratio_low), math.exp(actor.policy_loss.log_ratio_high)]
    assert pre_clip == pytest.approx([1e-3, 1e3])
    paper = {"sigma": 3.0, "bounds": "paper", "renormalise": False, "filter": "drop", "deviation_floor": 0.0}
    assert config.algorithm.stable_reinforce == paper
    assert actor.policy_loss.clip_ratio_c is None


def test_memory_is_bounded_where_verls_defaults_are_not():
    config = combined("r1_reward", None, "rules")
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert rollout.max_model_len == config.data.max_prompt_length + config.data.max_response_length
    largest = 151_936 * 4096 * 4  # the embedding of Qwen3-VL-8B
    assert rollout.checkpoint_engine.update_weights_bucket_megabytes << 20 >= largest
    engine = actor.fsdp_config
    assert (engine.entropy_from_logits_with_chunking, engine.use_torch_compile) == (True, False)


def test_image_budget_is_kept_by_the_real_processor():
    from PIL import Image
    from transformers import Qwen2VLImageProcessor

    budget = combined("r1_reward", None, "rules").data.mm_processor_kwargs
    large, small = Image.new("RGB", (2000, 1500)), Image.new("RGB", (56, 56))
    grids = Qwen2VLImageProcessor()(images=[large, small], return_tensors="pt", **budget)["image_grid_thw"]
    tokens = (grids.prod(-1) // 4).tolist()
    assert 600 < tokens[0] <= 640
    assert tokens[1] == 4


def test_a_recipe_needs_no_plus_for_our_settings_and_refuses_misspelt_ones():
    config = compose(["+recipe=r1_reward", "algorithm.stable_reinforce.sigma=2", "reward.r1_reward.format_weight=0"])
    assert config.algorithm.stable_reinforce.sigma == 2
    with pytest.raises(HydraException, match="sigmaa"):
        compose(["+recipe=r1_reward", "algorithm.stable_reinforce.sigmaa=2"])


def leaves(node: DictConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name in node:
        value = node._get_node(name)
        path = f"{prefix}{name}"
        keys += leaves(value, f"{path}.") if OmegaConf.is_dict(value) else [path]
    return keys


def inside(key: str, sections: set[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def has(config: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return OmegaConf.is_dict(node) and name in node.keys()  # noqa: SIM118  (`in` is False for `???`)
