"""All checks of a composed config, and what is easily meant otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.config import Problem, select
from r1reward_verl.plugin.preflight.data import check_data
from r1reward_verl.plugin.preflight.hardware import check_batch_sizes, check_hardware
from r1reward_verl.plugin.preflight.judge import check_judge
from r1reward_verl.plugin.preflight.model import check_model, is_hub_name
from r1reward_verl.plugin.preflight.settings import check_options
from r1reward_verl.plugin.preflight.versions import check_versions


def check_config(config: DictConfig) -> list[Problem]:
    """Run every check of `CHECKS` on a composed verl config; an empty list means none found anything.

    With an unsupported version this is the only problem: the other checks could not be trusted.
    """
    return [problem for _, problems in run_checks(config) for problem in problems]


def run_checks(config: DictConfig) -> Iterator[tuple[str, list[Problem]]]:
    """Yield each check of `CHECKS` with what it found, as it is done; none follows an unsupported version."""
    for name, check in CHECKS.items():
        problems = list(check(config))
        yield name, problems
        if problems and name == "versions":
            return


def notes(config: DictConfig) -> list[str]:
    """Return what is not wrong in a config, but easily meant otherwise."""
    found = []
    loss_mode = select(config, "actor_rollout_ref.actor.policy_loss.loss_mode")
    if select(config, "algorithm.adv_estimator") == "stable_reinforce" and loss_mode != "stable_reinforce":
        found.append(
            "algorithm.adv_estimator=stable_reinforce filters the advantages; the loss is still verl's "
            f"{loss_mode!r}, without Pre-CLIP. Switch it with "
            "actor_rollout_ref.actor.policy_loss.loss_mode=stable_reinforce."
        )
    train_files = select(config, "data.train_files")
    if train_files is not None and train_files == select(config, "data.val_files"):
        found.append(
            "data.val_files is data.train_files: what the log calls validation is measured on pairs that are "
            "trained on. Give held-out pairs with data.val_files."
        )
    if select(config, "reward.reward_manager.name") == "r1_reward" and select(config, "trainer.use_v1") is False:
        found.append(
            "trainer.use_v1=false: verl's old trainer logs no judge metrics, does not heed "
            "reward.r1_reward.on_failure, and gives a judge on the training GPUs no labels. Leave it out."
        )
    path = select(config, "actor_rollout_ref.model.path")
    if is_hub_name(path):
        found.append(f"actor_rollout_ref.model.path={path} is no directory here: taken for a Hugging Face model name.")
    return found


CHECKS: dict[str, Callable[[DictConfig], Iterator[Problem]]] = {
    "versions": check_versions,
    "settings": check_options,
    "hardware": check_hardware,
    "batch sizes": check_batch_sizes,
    "model": check_model,
    "judge": check_judge,
    "data": check_data,
}
