"""Guarded corrections of verl bugs that R1-Reward training meets, each with the issue it answers.

Each correction recognises the broken input and leaves everything else to verl, so it turns into a no-op the
day verl ships its own.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import zmq

WEIGHT_TIMEOUT = 300.0
"""Seconds for a rollout server to take a bucket of weights."""
# verl's mRoPE position ids have 3 or 4 (time, height and width, and the text's positions before them).
MOST_ROPE_DIMS = 4


def ragged_position_ids(position_ids: torch.Tensor) -> torch.Tensor:
    """Return 3D (mRoPE) position ids as a nested tensor that is ragged in the token dimension.

    Two things go wrong on their way to verl's workers (verl issue 6531). `torch.nested.as_nested_tensor` takes the
    first dimension in which samples differ as the ragged one; where all samples of a batch have the same length,
    or there is one sample, it takes the rope dimension. And a consolidated TensorDict forgets which dimension was
    ragged when it is pickled. verl relabels both; the first then has its values in the wrong order, and the next
    `unbind` fails.

    Args:
        position_ids: jagged nested tensor over samples of shape (rope_dims, tokens).

    Returns:
        The same samples, ragged in tokens: values of shape (rope_dims, total_tokens).
    """
    values, offsets = position_ids.values(), position_ids.offsets()
    rows, columns = values.shape
    samples, total = offsets.numel() - 1, int(offsets[-1])
    # Square values (32 samples of 128 tokens and 4 rope dims) could be ragged in either dimension.
    if rows == total and (columns != total or rows > MOST_ROPE_DIMS):
        rope_dims = rows // samples
        values = values.reshape(samples, rope_dims, columns).transpose(0, 1).reshape(rope_dims, samples * columns)
        offsets = torch.arange(samples + 1, dtype=offsets.dtype, device=offsets.device) * columns
    return torch.nested.nested_tensor_from_jagged(values, offsets, jagged_dim=2)


def install_position_ids_fix(tensordict_utils: ModuleType) -> None:
    """Replace verl's relabelling of 3D position ids before its workers import it by name."""

    def maybe_fix_3d_position_ids(data: Any) -> None:
        if "position_ids" in data.keys():  # noqa: SIM118  (TensorDict defines `in` for nested keys only)
            position_ids = data["position_ids"]
            if position_ids.dim() == 3 and position_ids.is_nested:
                data["position_ids"] = ragged_position_ids(position_ids)

    tensordict_utils.maybe_fix_3d_position_ids = maybe_fix_3d_position_ids  # type: ignore[attr-defined]


def install_trl_fix(monkey_patch: ModuleType) -> None:
    """Let verl take a TRL without its class of models with a value head for no TRL.

    verl 0.9.1 imports that class wherever a package `trl` is installed, for any model, and TRL 1.16.0 does not
    have it: no model of verl could be built beside that.
    """
    is_trl_available = monkey_patch.is_trl_available

    def has_value_heads() -> bool:
        if not is_trl_available():
            return False
        for name in ("trl.experimental.ppo", "trl"):
            try:
                if hasattr(importlib.import_module(name), "AutoModelForCausalLMWithValueHead"):
                    return True
            except ImportError:
                continue
        return False

    monkey_patch.is_trl_available = has_value_heads  # type: ignore[attr-defined]


def install_weight_timeout(transfer: ModuleType) -> None:
    """Let the trainer wait `WEIGHT_TIMEOUT` seconds for a rollout server that is to take a bucket of weights.

    verl 0.9.1 waits for ever: a server that dies between the rollouts and the new weights would leave the run hanging.
    And its shared memory has no name any more once both sides have it, so that it ends with them, whoever is killed.
    """
    sender = transfer.BucketedWeightSender
    init_socket, init_buffer, send_weights = sender._init_socket, sender._init_buffer, sender.async_send_weights

    @functools.wraps(init_socket)
    def _init_socket(self: Any) -> None:
        init_socket(self)
        for option in (zmq.SNDTIMEO, zmq.RCVTIMEO):
            self.socket.setsockopt(option, int(1000 * WEIGHT_TIMEOUT))
        self.socket.setsockopt(zmq.LINGER, 0)  # nor for what nobody takes, when the process ends

    @functools.wraps(init_buffer)
    def _init_buffer(self: Any) -> None:
        init_buffer(self)  # returns when the server has mapped the memory
        if self.shm is not None:
            self.shm.unlink()
            self.shm.unlink = lambda: None  # verl's, at the end, would find no such name

    @functools.wraps(send_weights)
    async def async_send_weights(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            await send_weights(self, *args, **kwargs)
        except zmq.Again:
            raise RuntimeError(
                f"a rollout server did not take the new weights for {WEIGHT_TIMEOUT:.0f} s: it has probably died, see "
                "the log above. Start the same command again; it goes on from the last checkpoint"
            ) from None

    sender._init_socket, sender._init_buffer, sender.async_send_weights = _init_socket, _init_buffer, async_send_weights


def install_one_vision_run(qwen_vl: ModuleType) -> None:
    """Let each micro-batch run the vision tower of a Qwen-VL exactly once, whatever media it has.

    verl 0.9.1 runs it once for the pictures, once more for the videos, and for a micro-batch without either on an empty
    picture, which fails for Qwen2-VL and Qwen2.5-VL on transformers 5 ("'BaseModelOutputWithPooling' object has no
    attribute 'mean'"). FSDP gathers the weights of the tower in each run, so that ranks wait for each other for ever if
    one of them has pictures and videos in a micro-batch and another one has not.

    Args:
        qwen_vl: `verl.models.transformers.qwen2_vl` or `qwen3_vl`. Its `_get_input_embeds` puts the features of
            pictures and videos into the embeddings of the tokens.
    """
    original = qwen_vl._get_input_embeds

    @functools.wraps(original)
    def _get_input_embeds(
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
    ) -> Any:
        videos = None if pixel_values is None or pixel_values_videos is None else (pixel_values_videos, video_grid_thw)
        # What verl reads of the model there.
        stand_in = SimpleNamespace(
            config=model.config,
            get_input_embeddings=model.get_input_embeddings,
            visual=_OneVisionRun(model, qwen_vl.unpack_visual_output, videos),
        )
        return original(
            stand_in, input_ids, attention_mask, pixel_values, pixel_values_videos, image_grid_thw, video_grid_thw
        )

    qwen_vl._get_input_embeds = _get_input_embeds  # type: ignore[attr-defined]


class _OneVisionRun:
    """The vision tower for one call of `_get_input_embeds`; `videos` run with the pictures, which come first."""

    def __init__(
        self,
        model: Any,
        unpack: Callable[[Any], tuple[torch.Tensor, list[torch.Tensor] | None]],
        videos: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        self.dtype = model.visual.dtype
        self._tower = model.visual
        self._unpack = unpack
        self._patches_of_a_token = model.config.vision_config.spatial_merge_size**2
        self._videos = videos
        self._features: list[Any] = []

    def __call__(self, pixels: torch.Tensor, grid_thw: torch.Tensor) -> Any:
        if not self._features:
            grids = [grid_thw]
            if self._videos is not None:
                pixels = torch.cat([pixels, self._videos[0].type(pixels.dtype)])
                grids.append(self._videos[1])
            features, deepstack = self._unpack(self._tower(pixels, grid_thw=torch.cat(grids)))
            tokens = [int(grid.prod(-1).sum()) // self._patches_of_a_token for grid in grids]
            layers = zip(*(layer.split(tokens) for layer in [features, *(deepstack or [])]), strict=True)
            self._features = [(first, rest) if rest else first for first, *rest in layers]
        return self._features.pop(0)
