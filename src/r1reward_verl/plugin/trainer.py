"""The reward in verl's trainer: its metrics in the step's log, the evaluation's in validation, a stop when the judge is
gone, labels for a judge that shares the training GPUs, and the addresses of the judge's replicas.

verl has no door for any of these, so methods of its `PPOTrainer` (the V1 trainer, in the task runner's process) and of
its `RewardLoopManager` are wrapped. Runs without the reward manager `r1_reward` pass through untouched.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from omegaconf import OmegaConf

from r1reward_verl.plugin.algorithm import log_filter_metrics
from r1reward_verl.rewards.judges import SERVED_BY_VERL
from r1reward_verl.rewards.settings import RewardSettings
from r1reward_verl.rewards.statistics import reward_metrics
from r1reward_verl.rewards.validation import OWN_PARTS, validation_metrics

logger = logging.getLogger(__name__)

_MARK = "_r1reward"


class JudgeFailed(RuntimeError):
    """The judge could not be reached for too many judgements of a step."""


def install(trainer_base: ModuleType) -> None:
    """Wrap the methods of verl's `PPOTrainer`, once."""
    trainer = trainer_base.PPOTrainer
    if hasattr(trainer, _MARK):
        return
    setattr(trainer, _MARK, True)
    for name, wrapper in (
        ("_compute_advantage", log_filter_metrics),
        ("step", _log_rewards),
        ("_balance_batch", _watch_rewards),
        ("_compute_reward_colocate", _reward_colocated),
        ("_val_metrics_update", _log_validation),
    ):
        original = getattr(trainer, name)
        setattr(trainer, name, functools.wraps(original)(wrapper(original)))


def install_replicas(reward_loop: ModuleType) -> None:
    """Tell the reward workers where the replicas of a judge that verl serves are.

    verl's router sends a request that a dead replica refused to that same replica again, and the next one as well:
    an idle dead replica is always the least loaded. The judge's own client leaves it out.
    """
    manager = reward_loop.RewardLoopManager
    if hasattr(manager, _MARK):
        return
    setattr(manager, _MARK, True)
    start_workers = manager._init_reward_loop_workers

    @functools.wraps(start_workers)
    def wrapped(self: Any) -> None:
        judge = OmegaConf.select(self.config, "reward.r1_reward.judge.name")
        if self.reward_model_manager is not None and _is_ours(self) and judge in SERVED_BY_VERL:
            urls = [f"http://{address}/v1" for address in self.reward_model_manager.server_addresses]
            OmegaConf.update(self.config, "reward.r1_reward.judge.urls", urls, force_add=True)
        start_workers(self)

    manager._init_reward_loop_workers = wrapped


def too_many_failed(metrics: Mapping[str, float], settings: RewardSettings) -> str | None:
    """Say why a step with these `reward_metrics` ends the run by the user's settings, or None."""
    failed, asked = metrics.get("judge/failed", 0.0), metrics.get("judge/asked", 0.0)
    if not failed or (settings.on_failure == "zero" and failed <= settings.max_failed_share * asked):
        return None
    limit = (
        "reward.r1_reward.on_failure=fail allows none"
        if settings.on_failure == "fail"
        else f"reward.r1_reward.max_failed_share={settings.max_failed_share} allows {settings.max_failed_share:.0%}"
    )
    return f"the judge could not be reached for {failed:.0f} of {asked:.0f} judgements of this step; {limit}"


def _is_ours(trainer: Any) -> bool:
    return bool(trainer.config.reward.reward_manager.name == "r1_reward")


def _log_rewards(step: Callable[..., Any]) -> Callable[..., Any]:
    """Log a step's rewards, and keep the place in the data where it begins, to go back to if it is given up."""

    def wrapped(self: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not _is_ours(self):
            return step(self, metrics, *args, **kwargs)
        if not hasattr(self, "_r1reward_first_step"):
            self._r1reward_first_step = self.global_steps
        if self.trainer_mode == "sync":
            self._r1reward_data = self.train_dataloader.state_dict()
        self._r1reward_infos = []
        batch = step(self, metrics, *args, **kwargs)
        metrics.update(reward_metrics(self._r1reward_infos))
        return batch

    return wrapped


def _watch_rewards(balance_batch: Callable[..., Any]) -> Callable[..., Any]:
    """Collect the rewards of the step's batches, and stop before training on them if the judge is gone.

    verl balances a batch as soon as all its rewards are there, and before it is padded.
    """

    def wrapped(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_ours(self):
            infos = _infos(batch)
            self._r1reward_infos += infos
            found = reward_metrics(infos)
            settings = RewardSettings.from_config(self.config.reward.get("r1_reward"))
            if reason := too_many_failed(found, settings):
                raise JudgeFailed(f"{reason}. {_save(self)}")
            if lost := found.get("judge/failed", 0.0) + found.get("judge/undecided", 0.0):
                logger.error(
                    "step %d: no verdict on %.0f of %.0f judgements (%.0f times the judge could not be reached); their "
                    "consistency is 0",
                    self.global_steps,
                    lost,
                    found["judge/asked"],
                    found["judge/failed"],
                )
        return balance_batch(self, batch, *args, **kwargs)

    return wrapped


def _log_validation(update: Callable[..., Any]) -> Callable[..., Any]:
    """Add the evaluation's figures to verl's of a validation. If they cannot be computed, training goes on."""

    def wrapped(
        self: Any, sources: Any, rows: Any, infos: Any, turns: Any, expected_acc_counts: Any = None
    ) -> dict[str, Any]:
        if not _is_ours(self):
            return update(self, sources, rows, infos, turns, expected_acc_counts)
        # verl logs means of all that it is given, and bootstraps it row by row where rows have several samples.
        verls = {name: values for name, values in infos.items() if name not in OWN_PARTS}
        metrics: dict[str, Any] = update(self, sources, rows, verls, turns, expected_acc_counts)
        try:
            metrics |= validation_metrics(sources, rows, infos, expected_acc_counts)
        except Exception:
            if not hasattr(self, "_r1reward_no_validation"):
                logger.exception("step %d: no val-r1_reward figures (said once)", self.global_steps)
            self._r1reward_no_validation = True
        return metrics

    return wrapped


def _infos(batch: Any) -> list[Mapping[str, Any]]:
    import transfer_queue as tq

    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    fields = list(data["extra_fields"])
    infos = [(field or {}).get("reward_extra_info") or {} for field in fields]
    return [info for info in infos if "judge_status" in info]  # an agent loop may have given its own reward


def _save(trainer: Any) -> str:
    """Save what was trained before this step, unless verl just did, and say where training can go on."""
    import torch

    settings = trainer.config.trainer
    if trainer.trainer_mode != "sync":
        # What of the failed batch is still in verl's queue, and what is not, is no state to go on from.
        return (
            f"Bring the judge back; the same command goes on from the last checkpoint in {settings.default_local_dir}"
        )
    done = trainer.global_steps - 1
    if done < trainer._r1reward_first_step:
        return "Nothing was trained since the start, so there is nothing to save: bring the judge back and start again"
    if settings.save_freq <= 0 or done % settings.save_freq:
        trainer.global_steps = done
        trainer._save_checkpoint()
        # This step's pairs are still to be trained on.
        torch.save(trainer._r1reward_data, os.path.join(settings.default_local_dir, f"global_step_{done}", "data.pt"))
    return (
        f"The checkpoint of step {done} is saved in {settings.default_local_dir}: bring the judge back, and the same "
        "command goes on from there"
    )


def _reward_colocated(compute_reward: Callable[..., Any]) -> Callable[..., Any]:
    """Give a reward model on the training GPUs the labels too; verl hands it the texts only.

    The parts of the reward go where those of a streamed reward are, so that validation and the step's log find them.
    """

    def wrapped(self: Any, batch: Any, metrics: dict[str, Any] | None = None) -> Any:
        return _score_batch(self, batch) if _is_ours(self) else compute_reward(self, batch, metrics)

    return wrapped


_ROW = ("reward_model", "data_source", "extra_info")


def _score_batch(trainer: Any, batch: Any) -> Any:
    import torch
    import transfer_queue as tq
    from verl import DataProto
    from verl.utils import tensordict_utils as tu

    where = {"keys": batch.keys, "partition_id": batch.partition_id}
    data = tq.kv_batch_get(**where, select_fields=["prompts", "responses", "extra_fields", *_ROW])
    lengths = {name: data[name].offsets().diff() for name in ("prompts", "responses")}
    padded = {name: data[name].to_padded_tensor(padding=trainer.tokenizer.pad_token_id) for name in lengths}
    masks = [trainer._lengths_to_mask(lengths[name], padded[name].size(1)) for name in lengths]
    rows = {name: _objects(list(data[name])) for name in _ROW}
    scored = trainer.reward_loop_manager.compute_rm_score(
        DataProto.from_dict(tensors={**padded, "attention_mask": torch.cat(masks, dim=1)}, non_tensors=rows)
    )
    scores = scored.batch["rm_scores"]
    infos = {key: scored.non_tensor_batch[key] for key in scored.meta_info["reward_extra_keys"]}
    fields = [
        {**(old or {}), "reward_extra_info": {key: values[index].item() for key, values in infos.items()}}
        for index, old in enumerate(list(data["extra_fields"]))
    ]
    rewards = torch.nested.as_nested_tensor(
        [scores[index, :length] for index, length in enumerate(lengths["responses"].tolist())], layout=torch.jagged
    )
    tq.kv_batch_put(**where, fields=tu.get_tensordict({"rm_scores": rewards, "extra_fields": fields}))
    return batch


def _objects(values: Sequence[Any]) -> Any:
    import numpy as np

    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
