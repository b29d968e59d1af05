"""The reward in verl's trainer: its metrics in the step's log, the evaluation's in validation, a stop when the judge is
gone, labels for a judge that shares the training GPUs, and the addresses of the judge's replicas.

verl has no door for any of these, so methods of its `PPOTrainer` (the V1 trainer, in the task runner's process) and of
its `RewardLoopManager` are wrapped. Runs without the reward manager `r1_reward` pass through untouched.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from omegaconf import OmegaConf

from r1reward_verl.plugin.algorithm import collect_filter_statistics, filter_metrics
from r1reward_verl.plugin.group_barrier import MANAGER, group_batch
from r1reward_verl.plugin.preflight.config import container
from r1reward_verl.rewards.judges import SERVED_BY_VERL
from r1reward_verl.rewards.settings import RewardSettings
from r1reward_verl.rewards.statistics import reward_metrics
from r1reward_verl.rewards.terms import agreement_rewards
from r1reward_verl.rewards.validation import OWN_PARTS, validation_metrics
from r1reward_verl.use.group import GroupSettings, group_failure, group_metrics

logger = logging.getLogger(__name__)

_MARK = "_r1reward"
_JUDGED = "judge_status"


class JudgeFailed(RuntimeError):
    """The judge could not be reached for too many judgements of a step."""


class RolloutsLost(RuntimeError):
    """Prompts of a step have no rollout, since a process is gone that they needed."""


def install_step_metrics(trainer_base: ModuleType) -> None:
    """Wrap what computes a step of verl's `PPOTrainer`, once."""
    _wrap(trainer_base.PPOTrainer, step=_log_step, _balance_batch=_watch_rewards)


def install_colocated_reward(trainer_base: ModuleType) -> None:
    """Wrap where verl's `PPOTrainer` asks a reward model on the training GPUs, once."""
    _wrap(trainer_base.PPOTrainer, _compute_reward_colocate=_reward_colocated)


def install_validation(trainer_base: ModuleType) -> None:
    """Wrap where verl's `PPOTrainer` computes the figures of a validation, once."""
    _wrap(trainer_base.PPOTrainer, _val_metrics_update=_log_validation)


def _wrap(owner: type, **wrappers: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    for name, wrapper in wrappers.items():
        original = getattr(owner, name)
        if not hasattr(original, _MARK):
            wrapped = functools.wraps(original)(wrapper(original))
            setattr(wrapped, _MARK, True)
            setattr(owner, name, wrapped)


def install_replicas(reward_loop: ModuleType) -> None:
    """Tell the reward workers where the replicas of a judge that verl serves are.

    verl's router sends a request that a dead replica refused to that same replica again, and the next one as well:
    an idle dead replica is always the least loaded. The judge's own client leaves it out.
    """
    _wrap(reward_loop.RewardLoopManager, _init_reward_loop_workers=_tell_of_replicas)


def _tell_of_replicas(start_workers: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        reward = _reward_of(self)
        model = reward and OmegaConf.select(self.config, f"{reward.model}.name")
        if reward is not None and self.reward_model_manager is not None and model in SERVED_BY_VERL:
            urls = [f"http://{address}/v1" for address in self.reward_model_manager.server_addresses]
            OmegaConf.update(self.config, f"{reward.model}.urls", urls, force_add=True)
        return start_workers(self, *args, **kwargs)

    return wrapped


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


@dataclass(frozen=True)
class _OurReward:
    """A reward manager of this package, as the trainer sees it.

    Attributes:
        mark: a part of the reward that every judgement has that it scored.
        model: the section of the config that says where its model is.
        metrics: what a step's log gets of the parts of its rewards.
        failure: why a step with these metrics ends the run by the user's settings, None if it does not.
        score_batch: scores a batch where the model is on the training GPUs.
    """

    mark: str
    model: str
    metrics: Callable[[Sequence[Mapping[str, Any]]], dict[str, float]]
    failure: Callable[[Mapping[str, float], Any], str | None]
    score_batch: Callable[[Any, Any], Any]


def _reward_of(trainer: Any) -> _OurReward | None:
    return _REWARDS.get(str(trainer.config.reward.reward_manager.name))


def _log_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Log what a step filtered, and its rewards; keep the place in the data where it begins, in case it is given up."""

    def wrapped(self: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if (reward := _reward_of(self)) is not None:
            if not hasattr(self, "_r1reward_first_step"):
                self._r1reward_first_step = self.global_steps
            if self.trainer_mode == "sync":
                self._r1reward_data = self.train_dataloader.state_dict()
            self._r1reward_infos = []
        with collect_filter_statistics() as statistics:
            batch = step(self, metrics, *args, **kwargs)
        metrics.update(filter_metrics(statistics))
        if reward is not None:
            metrics.update(reward.metrics(self._r1reward_infos))
        return batch

    return wrapped


def _watch_rewards(balance_batch: Callable[..., Any]) -> Callable[..., Any]:
    """Collect the rewards of the step's batches, and stop before training on them if the judge or a worker is gone.

    verl balances a batch as soon as all its rewards are there, and before it is padded. It would go on with the prompts
    that were finished when a rollout server or reward worker died, save that step, and fail in the next one.
    """

    def wrapped(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if (reward := _reward_of(self)) is not None:
            if self.trainer_mode == "sync" and (lost := _lost_prompts(self, batch)) and (dead := _dead_workers(self)):
                raise RolloutsLost(
                    f"{lost} prompts of step {self.global_steps} have no rollout, since {dead} of the rollout servers "
                    f"and reward workers have died. {_save(self)}. Give the same command again"
                )
            if reward.mark == _JUDGED:
                _reward_agreement(self, batch)
            infos = _infos(batch, reward.mark)
            self._r1reward_infos += infos
            found = reward.metrics(infos)
            if reason := reward.failure(found, self.config.reward):
                raise JudgeFailed(f"{reason}. {_save(self)}. Bring the judge back, and give the same command again")
            _log_lost(self.global_steps, found)
        return balance_batch(self, batch, *args, **kwargs)

    return wrapped


def _lost_prompts(trainer: Any, batch: Any) -> int:
    wanted = trainer.config.data.train_batch_size // trainer.parameter_sync_step
    return int(wanted) - len({key.split("_")[0] for key in batch.keys})


def _dead_workers(trainer: Any) -> int:
    workers = trainer.reward_loop_manager.reward_loop_workers
    return dead_actors([*workers, *trainer.llm_server_manager.server_handles])


def dead_actors(actors: Sequence[Any]) -> int:
    """Return how many of these actors of Ray have died; one that is busy for half a minute has not."""
    import ray

    answers, _ = ray.wait([actor.__ray_ready__.remote() for actor in actors], num_returns=len(actors), timeout=30)
    dead = 0
    for answer in answers:
        try:
            ray.get(answer)
        except ray.exceptions.RayActorError:
            dead += 1
    return dead


def _log_lost(step: int, metrics: Mapping[str, float]) -> None:
    if lost := metrics.get("judge/failed", 0.0) + metrics.get("judge/undecided", 0.0):
        logger.error(
            "step %d: no verdict on %.0f of %.0f judgements (%.0f times the judge could not be reached); their "
            "consistency is 0",
            step,
            lost,
            metrics["judge/asked"],
            metrics["judge/failed"],
        )
    if lost := metrics.get("pairwise/failed", 0.0) + metrics.get("pairwise/undecided", 0.0):
        logger.error(
            "step %d: no verdict in %.0f of %.0f comparisons (%.0f times nobody answered)",
            step,
            lost,
            metrics["pairwise/comparisons"],
            metrics["pairwise/failed"],
        )


def _judge_failure(metrics: Mapping[str, float], config: Any) -> str | None:
    return too_many_failed(metrics, RewardSettings.from_config(config.get("r1_reward")))


def _group_failure(metrics: Mapping[str, float], config: Any) -> str | None:
    return group_failure(metrics, GroupSettings.from_config(container(config, "pairwise")))


def _log_validation(update: Callable[..., Any]) -> Callable[..., Any]:
    """Add the evaluation's figures to verl's of a validation. If they cannot be computed, training goes on."""

    def wrapped(self: Any, sources: Any, rows: Any, infos: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if self.config.reward.reward_manager.name == MANAGER:
            few = {name: values for name, values in infos.items() if name in ("reward", "score")}
            verls_own: dict[str, Any] = update(self, sources, rows, few, *args, **kwargs)
            return verls_own | _log_comparisons(self.global_steps, sources, infos)
        if self.config.reward.reward_manager.name != "r1_reward":
            return update(self, sources, rows, infos, *args, **kwargs)
        # verl logs means of all that it is given, and bootstraps it row by row where rows have several samples.
        verls = {name: values for name, values in infos.items() if name not in OWN_PARTS}
        metrics: dict[str, Any] = update(self, sources, rows, verls, *args, **kwargs)
        try:
            metrics |= validation_metrics(sources, rows, infos, kwargs.get("expected_acc_counts"))
        except Exception:
            if not hasattr(self, "_r1reward_no_validation"):
                logger.exception("step %d: no val-r1_reward figures (said once)", self.global_steps)
            self._r1reward_no_validation = True
        return metrics

    return wrapped


def _log_comparisons(step: int, sources: Any, infos: Any) -> dict[str, float]:
    """Return the figures of a validation against reference answers, and log what nobody answered."""
    marked = [(str(source), status) for source, status in zip(sources, infos.get("rank_status", ()), strict=False)]
    if failed := sum(status == "failed" for _, status in marked):
        logger.error("step %d: validation: no verdict on %d of %d responses", step, failed, len(marked))
    metrics: dict[str, float] = {}
    for source in sorted({source for source, status in marked if status is not None}):
        places = [index for index, (of, status) in enumerate(marked) if of == source and status is not None]
        compared = [float(infos["comparison_score"][index]) for index in places if marked[index][1] == "reference"]
        for name in ("neutral", "failed"):
            share = sum(marked[index][1] == name for index in places) / len(places)
            metrics[f"val-pairwise/{source}/{name}"] = share
        if compared:  # neutral rewards would dilute it
            metrics[f"val-pairwise/{source}/win_rate"] = sum(compared) / len(compared)
    return metrics


def _infos(batch: Any, mark: str) -> list[Mapping[str, Any]]:
    import transfer_queue as tq

    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    fields = list(data["extra_fields"])
    infos = [(fields[index] or {}).get("reward_extra_info") or {} for index in _final_outputs(batch.keys).values()]
    return [info for info in infos if mark in info]  # an agent loop may have given its own reward


def _reward_agreement(trainer: Any, batch: Any) -> None:
    """Add what judgements gain by naming the same response as those of the other order, if that is asked for."""
    weight = RewardSettings.from_config(container(trainer.config, "reward.r1_reward")).agreement_weight
    if not weight:
        return
    import transfer_queue as tq

    data = tq.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=["rm_scores", "extra_fields"]
    )
    fields = list(data["extra_fields"])
    final = _final_outputs(batch.keys)
    infos = {rollout: (fields[place] or {}).get("reward_extra_info") or {} for rollout, place in final.items()}
    ours = {rollout: info for rollout, info in infos.items() if _JUDGED in info}
    shares = dict(zip(ours, agreement_rewards(list(ours.values())), strict=True))
    rollouts = [key.rpartition("_")[0] for key in batch.keys]
    gained = [weight * (shares.get(rollout) or 0.0) for rollout in rollouts]
    # -1: the step has no judgement of the other order.
    noted = {rollout: {**ours[rollout], "agreement": -1.0 if one is None else one} for rollout, one in shares.items()}
    scores = [float(row.sum()) + more for row, more in zip(data["rm_scores"].unbind(), gained, strict=True)]
    lengths = [len(row) for row in data["rm_scores"].unbind()]
    _put_rewards(batch, data, lengths, scores, [noted.get(rollout, infos[rollout]) for rollout in rollouts])


def _save(trainer: Any) -> str:
    """Save what was trained before this step, unless verl just did, and say where it is."""
    import torch

    settings = trainer.config.trainer
    if trainer.trainer_mode != "sync":
        # What of the failed batch is still in verl's queue, and what is not, is no state to go on from.
        return f"The last checkpoint is in {settings.default_local_dir}"
    done = trainer.global_steps - 1
    if done < trainer._r1reward_first_step:
        return "Nothing was trained since the start, so there is nothing to save"
    if settings.save_freq <= 0 or done % settings.save_freq:
        trainer.global_steps = done
        trainer._save_checkpoint()
        # This step's pairs are still to be trained on.
        torch.save(trainer._r1reward_data, os.path.join(settings.default_local_dir, f"global_step_{done}", "data.pt"))
    return f"The checkpoint of step {done} is saved in {settings.default_local_dir}"


def _reward_colocated(compute_reward: Callable[..., Any]) -> Callable[..., Any]:
    """Give a reward model on the training GPUs the labels too; verl hands it the texts only.

    The parts of the reward go where those of a streamed reward are, so that validation and the step's log find them.
    """

    def wrapped(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        reward = _reward_of(self)
        return compute_reward(self, batch, *args, **kwargs) if reward is None else reward.score_batch(self, batch)

    return wrapped


_ROW = ("reward_model", "data_source", "extra_info")


def _score_judgements(trainer: Any, batch: Any) -> Any:
    """Score each judgement of a batch by itself."""
    import torch
    import transfer_queue as tq
    from verl import DataProto

    data = tq.kv_batch_get(
        keys=batch.keys,
        partition_id=batch.partition_id,
        select_fields=["prompts", "responses", "extra_fields", *_ROW],
    )
    lengths = {name: data[name].offsets().diff() for name in ("prompts", "responses")}
    padded = {name: data[name].to_padded_tensor(padding=trainer.tokenizer.pad_token_id) for name in lengths}
    masks = [trainer._lengths_to_mask(lengths[name], padded[name].size(1)) for name in lengths]
    rows = {name: _objects(list(data[name])) for name in _ROW}
    scored = trainer.reward_loop_manager.compute_rm_score(
        DataProto.from_dict(tensors={**padded, "attention_mask": torch.cat(masks, dim=1)}, non_tensors=rows)
    )
    names = scored.meta_info["reward_extra_keys"]
    infos = [{name: scored.non_tensor_batch[name][index].item() for name in names} for index in range(len(batch.keys))]
    scores = scored.batch["rm_scores"].sum(dim=1).tolist()
    return _put_rewards(batch, data, lengths["responses"].tolist(), scores, infos)


def _score_groups(trainer: Any, batch: Any) -> Any:
    """Score the siblings of each prompt together; verl's own way divides a batch without regard to prompts."""
    import ray
    import transfer_queue as tq

    names = ["responses", "extra_fields", "raw_prompt", "uid", *_ROW]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
    responses = [response.tolist() for response in data["responses"].unbind()]
    columns = {name: list(data[name]) for name in ("raw_prompt", "uid", *_ROW)}
    final = _final_outputs(batch.keys)
    groups: dict[str, list[int]] = {}
    for index in final.values():
        groups.setdefault(str(columns["uid"][index]), []).append(index)

    def sibling(index: int) -> dict[str, Any]:
        row = {name: columns[name][index] for name in ("raw_prompt", *_ROW)}
        return {"response_ids": responses[index], **row}

    manager = trainer.reward_loop_manager
    workers = manager.reward_loop_workers
    if manager.reward_model_manager is not None:
        manager.reward_model_manager.wake_up()
    try:
        scored = ray.get(
            [
                workers[number % len(workers)].compute_score.remote(
                    group_batch([sibling(index) for index in members], batch.partition_id == "val")
                )
                for number, members in enumerate(groups.values())
            ]
        )
    finally:
        if manager.reward_model_manager is not None:
            manager.reward_model_manager.sleep()
    by_index = dict(zip(itertools.chain(*groups.values()), itertools.chain(*scored), strict=True))
    ordered = [by_index[final[key.rpartition("_")[0]]] for key in batch.keys]
    scores, infos = [one["reward_score"] for one in ordered], [one["reward_extra_info"] for one in ordered]
    return _put_rewards(batch, data, list(map(len, responses)), scores, infos)


def _final_outputs(keys: Sequence[str]) -> dict[str, int]:
    """Return where the last output of each rollout stands among keys UID_SESSION_NUMBER; it counts, as in verl."""
    places = sorted(range(len(keys)), key=lambda place: int(keys[place].rpartition("_")[2]))
    return {keys[place].rpartition("_")[0]: place for place in places}


def _put_rewards(
    batch: Any, data: Any, lengths: Sequence[int], scores: Sequence[float], infos: Sequence[Mapping[str, Any]]
) -> Any:
    """Store rewards where verl stores streamed ones: at the last token, the parts in the extra fields."""
    import torch
    import transfer_queue as tq
    from verl.utils import tensordict_utils as tu

    rewards = [torch.zeros(length) for length in lengths]
    for reward, score in zip(rewards, scores, strict=True):
        reward[-1:] = score
    fields = [
        {**(old or {}), "reward_extra_info": info} for old, info in zip(list(data["extra_fields"]), infos, strict=True)
    ]
    nested = torch.nested.as_nested_tensor(rewards, layout=torch.jagged)
    put = tu.get_tensordict({"rm_scores": nested, "extra_fields": fields})
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=put)
    return batch


_REWARDS = {
    "r1_reward": _OurReward(_JUDGED, "reward.r1_reward.judge", reward_metrics, _judge_failure, _score_judgements),
    MANAGER: _OurReward("rank_status", "reward.pairwise.model", group_metrics, _group_failure, _score_groups),
}


def _objects(values: Sequence[Any]) -> Any:
    import numpy as np

    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
