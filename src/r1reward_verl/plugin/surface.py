"""What this package uses of verl, in one table, and which of it a verl has.

The plugin asks `loaded_faults` before it registers or wraps something, and leaves it out where verl differs;
`verl_tree` asks the same of files. Free of everything but the standard library: each process of a run imports it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import Parameter
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Symbol:
    """A function, class or method of verl.

    Attributes:
        module: where it is looked for.
        name: its name in the module, that of a method behind its class.
        takes: its first parameters without self or cls, None where any are fine.
        alone: whether those are all that it needs: true of what we call, and of what verl calls of ours in its place; a
            wrapper passes on whatever comes besides.
    """

    module: str
    name: str
    takes: tuple[str, ...] | None = None
    alone: bool = False

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Part:
    """A part of this package that works with a verl that has all of its symbols.

    Attributes:
        name: what doctor calls it.
        module: module of verl; when verl imports it, the plugin installs the part.
        lost: what a run does without, as a clause.
        symbols: what it needs of verl. The plugin looks at those of `module` only, since it imports nothing.
        mentions: names of attributes that it reads, which occur in the text of `module`; for `Tree` only.
    """

    name: str
    module: str
    lost: str
    symbols: tuple[Symbol, ...]
    mentions: tuple[str, ...] = ()


def wrapped(module: str, name: str, *takes: str) -> Symbol:
    """Return a function that is wrapped: what follows the parameters that the wrapper reads is passed on."""
    return Symbol(module, name, takes)


def called(module: str, name: str, *takes: str) -> Symbol:
    """Return a function that is called with these arguments, or whose arguments a function of ours gets from verl."""
    return Symbol(module, name, takes, alone=True)


ALGORITHMS = "verl.trainer.ppo.core_algos"
MANAGERS = "verl.experimental.reward_loop.reward_manager"
REWARD_LOOP = "verl.experimental.reward_loop.reward_loop"
TRAINER = "verl.trainer.ppo.v1.trainer_base"
OLD_TRAINER = "verl.trainer.ppo.ray_trainer"
AGENT_LOOP = "verl.experimental.agent_loop.agent_loop"
REPLAY = "verl.trainer.ppo.v1.replay_buffer"
CONFIG = "verl.utils.config"
RL_DATA = "verl.utils.dataset.rl_dataset"
SFT_DATA = "verl.utils.dataset.multiturn_sft_dataset"
DISTRIBUTED = "verl.utils.distributed"
ENGINES = "verl.workers.engine.fsdp.transformer_impl"
QWEN_2 = "verl.models.transformers.qwen2_vl"
QWEN_3 = "verl.models.transformers.qwen3_vl"
CHECKPOINTS = "verl.utils.checkpoint.fsdp_checkpoint_manager"
WORKERS = "verl.workers.engine_workers"
FSDP = "verl.utils.fsdp_utils"
ROLLOUTS = "verl.workers.rollout.utils"
TRANSFER = "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer"

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part(
            "discovery",
            "verl",
            "verl does not find the plugin by itself: set VERL_USE_EXTERNAL_MODULES=r1reward_verl.plugin",
            (),
            mentions=("verl.plugins",),
        ),
        Part(
            "estimator",
            ALGORITHMS,
            "there is no algorithm.adv_estimator=stable_reinforce",
            (Symbol(ALGORITHMS, "ADV_ESTIMATOR_REGISTRY"), called(ALGORITHMS, "register_adv_est", "name_or_enum")),
        ),
        Part(
            "loss",
            ALGORITHMS,
            "there is no policy_loss.loss_mode=stable_reinforce",
            (
                Symbol(ALGORITHMS, "POLICY_LOSS_REGISTRY"),
                called(ALGORITHMS, "register_policy_loss", "name"),
                # What verl gives its own loss it gives ours.
                called(
                    *(ALGORITHMS, "compute_policy_loss_vanilla"),
                    *("old_log_prob", "log_prob", "advantages", "response_mask"),
                    *("loss_agg_mode", "config", "rollout_is_weights"),
                ),
                called(
                    *(ALGORITHMS, "agg_loss", "loss_mat", "loss_mask", "loss_agg_mode", "dp_size"),
                    *("batch_num_tokens", "global_batch_size", "loss_scale_factor"),
                ),
            ),
        ),
        Part(
            "loss config",
            "verl.workers.config",
            "the bounds of Pre-CLIP cannot be set, and the recipes do not start",
            (Symbol("verl.workers.config", "PolicyLossConfig"),),
        ),
        Part(
            "reward managers",
            MANAGERS,
            "there is no reward_manager.name=r1_reward or pairwise",
            (
                called(MANAGERS, "register", "name"),
                Symbol(f"{MANAGERS}.registry", "REWARD_MANAGER"),
                called(f"{MANAGERS}.base", "RewardManagerBase.__init__", "config", "tokenizer", "compute_score"),
                called(f"{MANAGERS}.base", "RewardManagerBase.run_single", "data"),
                Symbol("verl", "DataProto"),
            ),
        ),
        Part(
            "metrics of the old trainer",
            OLD_TRAINER,
            "trainer.use_v1=false logs no stable_reinforce/... figures",
            (wrapped(OLD_TRAINER, "compute_advantage", "data"), wrapped(OLD_TRAINER, "compute_data_metrics", "batch")),
        ),
        Part(
            "step metrics",
            TRAINER,
            "steps log no stable_reinforce/..., judge/... and pairwise/... figures, go on without their judge, and pay "
            "nothing for agreement",
            (wrapped(TRAINER, "PPOTrainer.step", "metrics"), wrapped(TRAINER, "PPOTrainer._balance_batch", "batch")),
            mentions=(
                *(
                    "kv_batch_get",
                    "kv_batch_put",
                    "rm_scores",
                    "train_dataloader",
                    "trainer_mode",
                    "_save_checkpoint",
                    "default_local_dir",
                ),
                *("parameter_sync_step", "llm_server_manager", "reward_loop_manager"),
            ),
        ),
        Part(
            "scores on the training GPUs",
            TRAINER,
            "judge=colocated and +reward_model=colocated cannot score",
            (
                wrapped(TRAINER, "PPOTrainer._compute_reward_colocate", "batch"),
                called(TRAINER, "PPOTrainer._lengths_to_mask", "lengths", "width"),
                called(REWARD_LOOP, "RewardLoopManager.compute_rm_score", "data"),
                called("verl.utils.tensordict_utils", "get_tensordict", "tensor_dict"),
            ),
            mentions=("kv_batch_get", "kv_batch_put", "reward_loop_manager", "rm_scores"),
        ),
        Part(
            "validation",
            TRAINER,
            "validation logs no val-r1_reward/... and val-pairwise/... figures",
            (
                wrapped(
                    *(TRAINER, "PPOTrainer._val_metrics_update"),
                    *("data_sources", "sample_uids", "reward_extra_infos_dict"),
                ),
            ),
        ),
        Part(
            "addresses of replicas",
            REWARD_LOOP,
            "a judge or reward model that verl serves is asked by way of verl's router, which keeps to dead replicas",
            (wrapped(REWARD_LOOP, "RewardLoopManager._init_reward_loop_workers"),),
            mentions=("reward_model_manager",),
        ),
        Part(
            "groups",
            AGENT_LOOP,
            "reward_manager.name=pairwise does not see the other responses to a prompt",
            (wrapped(AGENT_LOOP, "AgentLoopWorker._run_agent_loop", "sampling_params", "trajectory"),),
            mentions=("reward_loop_worker_handles",),
        ),
        Part(
            "groups in dynamic sampling",
            REPLAY,
            "algorithm.filter_groups drops groups that the reward model could not compare, and generates others",
            (wrapped(REPLAY, "ReplayBuffer._dapo_filtered_keys", "partition_id"),),
            mentions=("partitions", "_dapo_classification_cache"),
        ),
        Part(
            "preflight",
            CONFIG,
            "no setting is checked before Ray starts",
            (
                wrapped(CONFIG, "validate_config", "config"),
                called(CONFIG, "omega_conf_to_dataclass", "config"),
                called("verl.trainer.ppo.utils", "need_critic", "config"),
                called("verl.trainer.ppo.utils", "need_reference_policy", "config"),
                Symbol("verl.trainer.config", "AlgoConfig"),
            ),
        ),
        Part(
            "preflight of other trainers",
            "verl.utils.device",
            "no setting of the SFT trainer and of the fully asynchronous trainer is checked before it starts",
            (called("verl.utils.device", "auto_set_device", "config"),),
        ),
        Part(
            "fix of position ids",
            "verl.utils.tensordict_utils",
            "Qwen-VL samples of equal length may fail (verl issue 6531)",
            (called("verl.utils.tensordict_utils", "maybe_fix_3d_position_ids", "data"),),
        ),
        *(
            Part(
                f"one vision run, {family}",
                module,
                f"a micro-batch of {family} without pictures, or with pictures and videos, may fail or hang",
                (
                    called(
                        *(module, "_get_input_embeds", "model", "input_ids", "attention_mask"),
                        *("pixel_values", "pixel_values_videos", "image_grid_thw", "video_grid_thw"),
                    ),
                    Symbol(module, "unpack_visual_output"),
                ),
            )
            for family, module in (("Qwen2-VL", QWEN_2), ("Qwen3-VL", QWEN_3))
        ),
        Part(
            "positions of videos in SFT",
            SFT_DATA,
            "the SFT trainer may fail on videos for Qwen3-VL",
            (wrapped(SFT_DATA, "get_rope_index", "processor"), Symbol(QWEN_3, "get_rope_index")),
        ),
        Part(
            "positions of videos in RL",
            "verl.workers.config.model",
            "the text behind a video for Qwen2.5-VL stands elsewhere in training than in rollouts",
            (wrapped("verl.workers.config.model", "hf_processor"), Symbol(QWEN_2, "get_rope_index")),
            mentions=("processor",),
        ),
        Part(
            "fix of TRL",
            "verl.models.transformers.monkey_patch",
            "no model loads beside a TRL that verl does not know",
            (called("verl.models.transformers.monkey_patch", "is_trl_available"),),
        ),
        Part(
            "prompts with videos",
            ROLLOUTS,
            "rollouts of Qwen3-VL see a video with placeholders that hold nothing (verl issue 5024)",
            (called(ROLLOUTS, "qwen2_5_vl_dedup_image_tokens", "prompt_ids", "processor"),),
        ),
        Part(
            "export in the computing type",
            CHECKPOINTS,
            "a checkpoint's hf_model is written in float32, which takes twice the bytes",
            (wrapped(CHECKPOINTS, "get_fsdp_full_state_dict", "model"),),
        ),
        Part(
            "timeout of the ranks",
            WORKERS,
            "ranks wait for torch's own half an hour, whatever actor_rollout_ref.nccl_timeout says",
            (
                wrapped(WORKERS, "ActorRolloutRefWorker.init_model"),
                Symbol(WORKERS, "initialize_global_process_group_ray"),
            ),
            mentions=("config",),
        ),
        Part(
            "fused kernels with FSDP2",
            FSDP,
            "fused kernels with FSDP2 may crash, or leave the gradient of an untied output layer unsummed",
            (wrapped(FSDP, "_select_fsdp2_wrap_targets", "model"),),
        ),
        Part(
            "timeout of new weights",
            TRANSFER,
            "a rollout server that dies before it takes new weights leaves the run hanging",
            (
                wrapped(TRANSFER, "BucketedWeightSender._init_socket"),
                wrapped(TRANSFER, "BucketedWeightSender._init_buffer"),
                wrapped(TRANSFER, "BucketedWeightSender.async_send_weights"),
            ),
            mentions=("socket",),
        ),
        Part(
            "datasets",
            RL_DATA,
            "PreferenceDataset and JudgementDataset do not work; the recipes name them",
            (
                called(RL_DATA, "RLHFDataset.maybe_filter_out_long_prompts", "dataframe"),
                called(RL_DATA, "RLHFDataset._build_messages", "example", "key"),
                called(RL_DATA, "RLHFDataset._process_multi_modal_info", "messages", "image_patch_size", "config"),
                called(
                    *(SFT_DATA, "MultiTurnSFTDataset.__init__"),
                    *("parquet_files", "tokenizer", "config", "processor", "max_samples"),
                ),
                called(SFT_DATA, "MultiTurnSFTDataset._read_files_and_process"),
                called(SFT_DATA, "MultiTurnSFTDataset._build_messages", "example"),
                wrapped(SFT_DATA, "MultiTurnSFTDataset._process_single_message", "index", "message", "full_message"),
                wrapped(SFT_DATA, "MultiTurnSFTDataset.sanity_check", "input_ids", "messages"),
                Symbol(SFT_DATA, "convert_nested_value_to_list_recursive"),
            ),
        ),
        Part(
            "platform",
            "verl.plugin.platform.platform_manager",
            "there is no VERL_PLATFORM=cpu",
            (
                called("verl.plugin.platform.platform_manager", "PlatformRegistry.register", "platform"),
                Symbol("verl.plugin.platform.platform_base", "PlatformBase"),
            ),
        ),
        Part(
            "process groups on the CPU",
            DISTRIBUTED,
            "VERL_PLATFORM=cpu starts no training",
            (
                called(DISTRIBUTED, "initialize_global_process_group_ray", "timeout_second", "backend"),
                called(DISTRIBUTED, "initialize_global_process_group", "timeout_second"),
            ),
        ),
        Part(
            "engines on the CPU",
            ENGINES,
            "VERL_PLATFORM=cpu builds no model",
            (
                Symbol(ENGINES, "FSDPEngineWithLMHead"),
                Symbol(ENGINES, "FSDPEngineWithValueHead"),
                called("verl.workers.engine.base", "EngineRegistry.register", "model_type", "backend", "device"),
            ),
        ),
        Part(
            "weights on the CPU",
            TRANSFER,
            "VERL_PLATFORM=cpu brings no new weights to vLLM",
            (called(TRANSFER, "BucketedWeightReceiver.receive_weights", "on_bucket_received"),),
        ),
    )
}


def fault(symbol: Symbol, parameters: Sequence[Parameter] | None) -> str | None:
    """Return how the parameters of a symbol differ from what is needed, None if they do not.

    Args:
        symbol: what is needed.
        parameters: without self or cls; None where the symbol is not one that can be called.
    """
    if symbol.takes is None or parameters is None:
        return None
    kinds = {parameter.kind for parameter in parameters}
    if {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD} <= kinds:
        return None  # somebody else's wrapper
    names = [parameter.name for parameter in parameters]
    needed = [one.name for one in parameters[len(symbol.takes) :] if one.default is Parameter.empty]
    variable = {one.name for one in parameters if one.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)}
    if tuple(names[: len(symbol.takes)]) == symbol.takes and not (symbol.alone and set(needed) - variable):
        return None
    return f"{symbol} takes ({', '.join(names)}), not ({', '.join(symbol.takes)}{'' if symbol.alone else ', ...'})"


def loaded_faults(part: Part, module: ModuleType) -> list[str]:
    """Return in what the module of a part that verl has just imported differs from what the part needs."""
    found = []
    for symbol in part.symbols:
        if symbol.module != part.module:
            continue
        try:
            value: Any = functools.reduce(getattr, symbol.name.split("."), module)
        except AttributeError:
            found.append(f"{symbol} is missing")
            continue
        if symbol.takes is not None and callable(value):
            parameters = list(inspect.signature(value).parameters.values())
            # A method that is read from its class has its self still.
            if parameters and parameters[0].name == "self" and "." in symbol.name:
                parameters = parameters[1:]
            found += filter(None, [fault(symbol, parameters)])
    return found
