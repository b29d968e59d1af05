"""All checks of a composed config, and what is easily meant otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.attention import check_attention
from r1reward_verl.plugin.preflight.config import Problem, config_value
from r1reward_verl.plugin.preflight.data import check_data
from r1reward_verl.plugin.preflight.engine import check_engine, check_own_rollout
from r1reward_verl.plugin.preflight.hardware import check_batch_sizes, check_hardware
from r1reward_verl.plugin.preflight.judge import check_judge
from r1reward_verl.plugin.preflight.media import check_media
from r1reward_verl.plugin.preflight.model import check_model, is_hub_name
from r1reward_verl.plugin.preflight.pairwise import check_group_reward
from r1reward_verl.plugin.preflight.resume import check_resume
from r1reward_verl.plugin.preflight.settings import check_settings
from r1reward_verl.plugin.preflight.versions import check_versions, version_note, with_doubt


def check_config(config: DictConfig) -> list[Problem]:
    """Run every check of `CHECKS` on a composed verl config; an empty list means none found anything."""
    return [problem for _, problems in run_checks(config) for problem in problems]


def run_checks(config: DictConfig) -> Iterator[tuple[str, list[Problem]]]:
    """Yield each check of `CHECKS` with what it found, as it is done.

    Most know the rules of the tested verl. What they find with another one is a `Doubt`.
    """
    for name, check in CHECKS.items():
        yield name, list(check(config) if check is check_versions else with_doubt(name, check, config))


def notes(config: DictConfig) -> list[str]:
    """Return what is not wrong in a config, but easily meant otherwise."""
    found = list(filter(None, [version_note()]))
    loss_mode = config_value(config, "actor_rollout_ref.actor.policy_loss.loss_mode")
    if config_value(config, "algorithm.adv_estimator") == "stable_reinforce" and loss_mode != "stable_reinforce":
        found.append(
            "algorithm.adv_estimator=stable_reinforce filters the advantages; the loss is still verl's "
            f"{loss_mode!r}, without Pre-CLIP. Switch it with "
            "actor_rollout_ref.actor.policy_loss.loss_mode=stable_reinforce."
        )
    train_files = config_value(config, "data.train_files")
    if train_files is not None and train_files == config_value(config, "data.val_files"):
        found.append(
            "data.val_files is data.train_files: what the log calls validation is measured on pairs that are "
            "trained on. Give held-out pairs with data.val_files."
        )
    if (
        config_value(config, "reward.reward_manager.name") == "r1_reward"
        and config_value(config, "trainer.use_v1") is False
    ):
        found.append(
            "trainer.use_v1=false: verl's old trainer logs no judge metrics, does not heed "
            "reward.r1_reward.on_failure, and gives a judge on the training GPUs no labels. Leave it out."
        )
    saved = config_value(config, "actor_rollout_ref.actor.checkpoint.save_contents") or []
    if config_value(config, "actor_rollout_ref.model.lora_rank") and "hf_model" in saved:
        found.append(
            "actor_rollout_ref.actor.checkpoint.save_contents has hf_model, which verl 0.9.1 writes with names that "
            "nothing can load where actor_rollout_ref.model.lora_rank is set. Leave it out, and make an adapter of a "
            "checkpoint with `python -m verl.model_merger merge --backend fsdp`."
        )
    path = config_value(config, "actor_rollout_ref.model.path")
    if is_hub_name(path):
        found.append(f"actor_rollout_ref.model.path={path} is no directory here: taken for a Hugging Face model name.")
    return found


CHECKS: dict[str, Callable[[DictConfig], Iterator[Problem]]] = {
    "versions": check_versions,
    "settings": check_settings,
    "hardware": check_hardware,
    "attention": check_attention,
    "batch sizes": check_batch_sizes,
    "engine": check_engine,
    "own rollout": check_own_rollout,
    "resume": check_resume,
    "model": check_model,
    "judge": check_judge,
    "group reward": check_group_reward,
    "data": check_data,
    "pictures and videos": check_media,
}
