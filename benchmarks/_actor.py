"""verl's actor worker as `main_ppo` builds it from the recipe, without Ray, and a batch of random rollouts for it.

The environment variables of `torchrun` (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) say which rank this is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import verl  # noqa: F401  (registers the plugin)
from omegaconf import DictConfig
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.padding import response_from_nested, response_to_nested

from r1reward_verl.plugin.doctor import compose

SMALL = (4, 4)  # height and width of a picture in patches of 14 pixels; 4 patches become one token
NOISE = 0.5  # standard deviation of what the log-probabilities moved since the rollout: some ratios are then clipped


def settings(model: Path, *overrides: str) -> DictConfig:
    """Return verl's `actor_rollout_ref` of the recipe `r1_reward` with `overrides`."""
    config = compose(["+recipe=r1_reward", *overrides, f"actor_rollout_ref.model.path={model}"])
    return config.actor_rollout_ref


def actor(config: DictConfig) -> ActorRolloutRefWorker:
    """Build verl's actor of some settings, with this process as its rank."""
    worker = ActorRolloutRefWorker(config, role="actor")
    worker.init_model()
    return worker


def rollouts(
    worker: ActorRolloutRefWorker, samples: Sequence[tuple[int, int, bool]], patches: tuple[int, int] = SMALL
) -> TensorDict:
    """Return random rollouts in the form in which they reach verl's workers, the same in every call.

    Args:
        worker: the actor, whose processor and vocabulary are used.
        samples: length of the prompt without its picture, length of the response, and whether there is a picture.
        patches: height and width of the pictures.
    """
    generator = torch.Generator().manual_seed(0)
    rows = [_rollout(worker.actor.model_config, *sample, patches, generator) for sample in samples]
    return tu.list_of_dict_to_tensordict(rows)


def _rollout(
    model: Any, prompt: int, response: int, picture: bool, patches: tuple[int, int], generator: torch.Generator
) -> dict[str, Any]:
    config, processor = model.hf_config, model.processor
    words = config.text_config.vocab_size
    reserved = [config.image_token_id, config.video_token_id, config.vision_start_token_id]
    tokens = torch.randint(0, words, (prompt + response,), generator=generator)
    tokens[torch.isin(tokens, torch.tensor(reserved))] = 0
    media: dict[str, Tensor] = {}
    if picture:
        height, width = patches
        vision = config.vision_config
        start, image = config.vision_start_token_id, config.image_token_id
        shown = torch.tensor([start, *[image] * (height * width // vision.spatial_merge_size**2)])
        tokens = torch.cat([tokens[:1], shown, tokens[1:]])
        prompt += len(shown)
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        media["pixel_values"] = torch.randn(height * width, values, generator=generator)
        media["image_grid_thw"] = torch.tensor([[1, height, width]])
    places, _ = processor.get_rope_index(
        input_ids=tokens[None],
        attention_mask=torch.ones_like(tokens)[None],
        image_grid_thw=media.get("image_grid_thw"),
        mm_token_type_ids=(tokens == config.image_token_id).int()[None],
    )
    mask = torch.ones(response, dtype=torch.int64)
    rewards = torch.zeros(response)
    rewards[-1] = (0.0, 0.5, 1.0, 2.0)[int(torch.randint(4, (), generator=generator))]
    return {
        "prompts": tokens[:prompt],
        "responses": tokens[prompt:],
        "input_ids": tokens,
        "position_ids": torch.cat([torch.arange(len(tokens))[None], places[:, 0]]),
        "response_mask": mask,
        "loss_mask": mask,
        "rm_scores": rewards,
        "noise": NOISE * torch.randn(response, generator=generator),
        "multi_modal_inputs": media,
    }


def old_log_probs(worker: ActorRolloutRefWorker, batch: TensorDict) -> Tensor | None:
    """Return what a rank's rollouts had as log-probabilities: those of now, moved by noise; nested over responses.

    Of ranks that share their sequences (Ulysses) the first returns them, the others None.
    """
    data = batch.copy()
    tu.assign_non_tensor(data, calculate_entropy=True, compute_loss=False, temperature=1.0)
    output = worker.compute_log_prob(data)
    if output is None:
        return None
    now = response_from_nested(output["log_probs"], batch["response_mask"])
    return torch.nested.nested_tensor_from_jagged(now.values() + batch["noise"].values(), now.offsets())


def with_advantages(batch: TensorDict, estimator: str = "stable_reinforce") -> TensorDict:
    """Add the advantages of all ranks' rollouts, as the trainer does on the driver."""
    padded = batch.select("rm_scores", "response_mask").to_padded_tensor()
    advantages, _ = get_adv_estimator_fn(estimator)(
        token_level_rewards=padded["rm_scores"], response_mask=padded["response_mask"], config=None
    )
    batch["advantages"] = response_to_nested(advantages, batch["response_mask"])
    return batch


def update(worker: ActorRolloutRefWorker, batch: TensorDict, mini_batch: int) -> dict[str, Any]:
    """Train a rank on its share of the rollouts in mini-batches of `mini_batch` samples over all ranks.

    Returns:
        The metrics; nothing on ranks that share the sequences of another one (Ulysses).
    """
    data = batch.copy()
    tu.assign_non_tensor(
        data,
        calculate_entropy=False,
        global_batch_size=mini_batch,
        mini_batch_size=mini_batch,
        epochs=1,
        seed=0,
        dataloader_kwargs={"shuffle": False},
        temperature=1.0,
    )
    output = worker.update_actor(data)
    return {} if output is None else output["metrics"]
