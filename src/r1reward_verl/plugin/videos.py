"""Guarded corrections of videos in verl: where their tokens stand in time, height and width, and what vLLM is given.

Pictures and texts are left to verl, which has them right.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch


def install_sft_rope_index(multiturn_sft_dataset: ModuleType) -> None:
    """Let verl's SFT dataset take Qwen3-VL's positions for a Qwen3-VL with videos.

    verl 0.9.1 takes Qwen2-VL's for all. Qwen3-VL has each frame of a video on its own, behind a time stamp; looked for
    as one video, the second frame is out of range, and the row ends the training.
    """
    of_qwen2 = multiturn_sft_dataset.get_rope_index

    @functools.wraps(of_qwen2)
    def get_rope_index(processor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if type(processor).__name__ != "Qwen3VLProcessor" or kwargs.get("video_grid_thw") is None:
            return of_qwen2(processor, *args, **kwargs)
        # It brings transformers' model, which nothing else here needs.
        from verl.models.transformers.qwen3_vl import get_rope_index as of_qwen3

        return of_qwen3(processor, *args, **kwargs)

    multiturn_sft_dataset.get_rope_index = get_rope_index  # type: ignore[attr-defined]


def install_rl_rope_index(model_config: ModuleType) -> None:
    """Let verl's RL place the text behind a video of a Qwen2.5-VL where vLLM places it, and verl's SFT too.

    verl asks transformers, whose releases from 5.3 on let the text begin behind the height or width of a video even if
    that is longer in time (transformers issue 45381): rollouts and training would see different positions. And verl
    does not pass on how many seconds there are between frames.

    Args:
        model_config: `verl.workers.config.model`, whose `hf_processor` gives processors their `get_rope_index`.
    """
    original = model_config.hf_processor

    @functools.wraps(original)
    def hf_processor(*args: Any, **kwargs: Any) -> Any:
        processor = original(*args, **kwargs)
        if type(processor).__name__ == "Qwen2_5_VLProcessor":
            processor.get_rope_index = functools.partial(_place, processor, processor.get_rope_index)
            processor.get_rope_index_kwargs = _seconds
        return processor

    model_config.hf_processor = hf_processor  # type: ignore[attr-defined]


def _seconds(multi_modal_inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"second_per_grid_ts": multi_modal_inputs.get("second_per_grid_ts")}


def _place(
    processor: Any, of_transformers: Callable[..., Any], input_ids: torch.Tensor, **inputs: Any
) -> tuple[torch.Tensor, Any]:
    """Return positions of shape (3, 1, tokens) for `input_ids` of shape (1, tokens), and what verl does not read."""
    if inputs.get("video_grid_thw") is None:
        return of_transformers(input_ids=input_ids, **inputs)
    from verl.models.transformers.qwen2_vl import get_rope_index

    grids = {name: inputs.get(name) for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")}
    mask = inputs.get("attention_mask")
    positions = get_rope_index(processor, input_ids[0], **grids, attention_mask=None if mask is None else mask[0])
    return positions.unsqueeze(1), None


_STAMP = re.compile(r"<(\d+\.\d) seconds>$")
_STAMP_TOKENS = 16


def install_video_prompts(rollout_utils: ModuleType) -> None:
    """Let verl's rollouts give vLLM one placeholder for a video of a Qwen3-VL.

    verl gives vLLM the tokens of its own processor, with one placeholder left of each run of them, for vLLM to fill. A
    video of a Qwen3-VL is a run for each pair of frames, behind a time stamp: vLLM puts the whole video in the place of
    the first, and leaves the others as they are, times and placeholders without frames (verl issue 5024).

    Args:
        rollout_utils: `verl.workers.rollout.utils`, before the server of vLLM imports from it by name.
    """
    original = rollout_utils.qwen2_5_vl_dedup_image_tokens

    @functools.wraps(original)
    def qwen2_5_vl_dedup_image_tokens(prompt_ids: list[int], processor: Any) -> list[int]:
        tokens: list[int] = original(prompt_ids, processor)
        if type(processor).__name__ != "Qwen3VLProcessor" or processor.video_token_id not in tokens:
            return tokens
        return one_placeholder(tokens, processor)

    rollout_utils.qwen2_5_vl_dedup_image_tokens = qwen2_5_vl_dedup_image_tokens  # type: ignore[attr-defined]


def one_placeholder(tokens: list[int], processor: Any) -> list[int]:
    """Return the tokens of a prompt with one placeholder for each video, without the times of its frames.

    Frames belong to one video where each follows the one before it and is later: `qwen_vl_utils` takes two a second.

    Args:
        tokens: with one placeholder for each pair of frames.
        processor: a `Qwen3VLProcessor`.
    """
    frame = [processor.vision_start_token_id, processor.video_token_id, processor.vision_end_token_id]
    kept: list[int] = []
    end, last = 0, 0.0  # of the frames so far
    for start in range(len(tokens) - 2):
        if tokens[start : start + 3] != frame:
            continue
        for count in range(1, _STAMP_TOKENS):
            text = processor.tokenizer.decode(tokens[max(end, start - count) : start])
            if stamp := _STAMP.search(text):
                break
        else:
            continue
        # What the first token of the time stamp may have of the text before it.
        before = tokens[end : start - count] + processor.tokenizer.encode(
            text[: stamp.start()], add_special_tokens=False
        )
        seconds = float(stamp[1])
        kept += before
        if before or seconds <= last:
            kept += frame
        end, last = start + 3, seconds
    return kept + tokens[end:]
