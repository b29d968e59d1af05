"""The map: everything this package registers into verl, one line each.

verl imports this module in every process, drivers and Ray workers alike, at the end of its own `__init__`
(entry point group `verl.plugins`). Importing verl's registries here would cost seconds in each of a dozen
processes, so each registration waits until verl itself first imports the module that holds the registry.
verl reports a plugin that fails to load at DEBUG level only: `r1reward doctor` imports these modules and says
so loudly. `surface` says what each needs of verl; on a verl that lacks it, it is left out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from types import ModuleType

from wrapt import when_imported

from r1reward_verl.engines.video_times import correct_video_times
from r1reward_verl.plugin.surface import PARTS, Part, loaded_faults

logger = logging.getLogger(__name__)


def _estimator(core_algos: ModuleType) -> None:
    from r1reward_verl.plugin import algorithm

    core_algos.register_adv_est("stable_reinforce")(algorithm.adv_estimator)


def _loss(core_algos: ModuleType) -> None:
    from r1reward_verl.plugin import algorithm

    core_algos.register_policy_loss("stable_reinforce")(algorithm.policy_loss)


def _v0_metrics(ray_trainer: ModuleType) -> None:
    from r1reward_verl.plugin import algorithm

    algorithm.install_v0_metrics(ray_trainer)


def _reward_manager(_: ModuleType) -> None:
    # Their decorators register `r1_reward` and `pairwise`.
    import r1reward_verl.plugin.pairwise_manager
    import r1reward_verl.plugin.reward_manager  # noqa: F401


def _step_metrics(trainer_base: ModuleType) -> None:
    from r1reward_verl.plugin import trainer

    trainer.install_step_metrics(trainer_base)


def _scores_on_training_gpus(trainer_base: ModuleType) -> None:
    from r1reward_verl.plugin import trainer

    trainer.install_colocated_reward(trainer_base)


def _validation(trainer_base: ModuleType) -> None:
    from r1reward_verl.plugin import trainer

    trainer.install_validation(trainer_base)


def _judge_replicas(reward_loop: ModuleType) -> None:
    from r1reward_verl.plugin import trainer

    trainer.install_replicas(reward_loop)


def _groups(agent_loop: ModuleType) -> None:
    from r1reward_verl.plugin import group_barrier

    group_barrier.install_group_barrier(agent_loop)


def _kept_groups(replay_buffer: ModuleType) -> None:
    from r1reward_verl.plugin import replay

    replay.install_kept_groups(replay_buffer)


def _preflight(verl_config: ModuleType) -> None:
    from r1reward_verl.plugin import preflight

    preflight.install_preflight(verl_config)


def _early_preflight(device: ModuleType) -> None:
    from r1reward_verl.plugin import preflight

    preflight.install_early_preflight(device)


def _position_ids(tensordict_utils: ModuleType) -> None:
    from r1reward_verl.plugin import fixes

    fixes.install_position_ids_fix(tensordict_utils)


def _one_vision_run(qwen_vl: ModuleType) -> None:
    from r1reward_verl.plugin import fixes

    fixes.install_one_vision_run(qwen_vl)


def _trl(monkey_patch: ModuleType) -> None:
    from r1reward_verl.plugin import fixes

    fixes.install_trl_fix(monkey_patch)


def _sft_rope_index(multiturn_sft_dataset: ModuleType) -> None:
    from r1reward_verl.plugin import videos

    videos.install_sft_rope_index(multiturn_sft_dataset)


def _rl_rope_index(model_config: ModuleType) -> None:
    from r1reward_verl.plugin import videos

    videos.install_rl_rope_index(model_config)


def _video_prompts(rollout_utils: ModuleType) -> None:
    from r1reward_verl.plugin import videos

    videos.install_video_prompts(rollout_utils)


def _export(checkpoint_manager: ModuleType) -> None:
    from r1reward_verl.plugin import fsdp_fixes

    fsdp_fixes.install_export_dtype(checkpoint_manager)


def _timeout(engine_workers: ModuleType) -> None:
    from r1reward_verl.plugin import fsdp_fixes

    fsdp_fixes.install_group_timeout(engine_workers)


def _weight_timeout(transfer: ModuleType) -> None:
    from r1reward_verl.plugin import fixes

    fixes.install_weight_timeout(transfer)


def _fused_head(fsdp_utils: ModuleType) -> None:
    from r1reward_verl.plugin import fsdp_fixes

    fsdp_fixes.install_fused_head_fix(fsdp_utils)


def _platform(_: ModuleType) -> None:
    # Its decorator registers `cpu`.
    import r1reward_verl.cpu.verl_platform  # noqa: F401


def _process_groups(distributed: ModuleType) -> None:
    from r1reward_verl.cpu import verl_fixes

    verl_fixes.install_single_backend(distributed)


def _engines(fsdp: ModuleType) -> None:
    from r1reward_verl.cpu import verl_fixes

    verl_fixes.register_engines(fsdp)


def _weights(transfer: ModuleType) -> None:
    from r1reward_verl.cpu import verl_fixes

    verl_fixes.install_copied_weights(transfer)


# The name of a part in `surface.PARTS`, and what installs it when verl has imported its module.
INSTALL: dict[str, Callable[[ModuleType], None]] = {
    "estimator": _estimator,
    "loss": _loss,
    "metrics of the old trainer": _v0_metrics,
    "reward managers": _reward_manager,
    "step metrics": _step_metrics,
    "scores on the training GPUs": _scores_on_training_gpus,
    "validation": _validation,
    "addresses of replicas": _judge_replicas,
    "groups": _groups,
    "groups in dynamic sampling": _kept_groups,
    "preflight": _preflight,
    "preflight of other trainers": _early_preflight,
    "fix of TRL": _trl,
    "fix of position ids": _position_ids,
    "one vision run, Qwen2-VL": _one_vision_run,
    "one vision run, Qwen3-VL": _one_vision_run,
    "positions of videos in SFT": _sft_rope_index,
    "positions of videos in RL": _rl_rope_index,
    "prompts with videos": _video_prompts,
    "export in the computing type": _export,
    "timeout of the ranks": _timeout,
    "fused kernels with FSDP2": _fused_head,
    "timeout of new weights": _weight_timeout,
}


def guarded(part: Part, install: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    """Return a hook that installs a part where the module of verl is as the part needs it, and elsewhere does nothing.

    The preflight warns of all parts that are left out, once for a run. Where verl has no place for the preflight, this
    does, in each process that imports that place.
    """

    def hook(module: ModuleType) -> None:
        if not (faults := loaded_faults(part, module)):
            install(module)
            return
        level = logging.WARNING if part.name == "preflight" else logging.INFO
        logger.log(level, "r1reward: %s, since this verl differs: %s", part.lost, "; ".join(faults))

    return hook


# In the process of a rollout server.
correct_video_times()

# Only on request: if the CPU were detected by itself, the CPU-only head node of a GPU cluster would choose it.
if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
    INSTALL |= {
        "platform": _platform,
        "process groups on the CPU": _process_groups,
        "engines on the CPU": _engines,
        "weights on the CPU": _weights,
    }

for _name, _install in INSTALL.items():
    when_imported(PARTS[_name].module)(guarded(PARTS[_name], _install))
