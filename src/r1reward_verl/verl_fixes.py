"""Guarded corrections of verl bugs that R1-Reward training meets, each with the issue it answers.

Each correction recognises the broken input and leaves everything else to verl, so it turns into a no-op the
day verl ships its own.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch


def ragged_position_ids(position_ids: torch.Tensor) -> torch.Tensor:
    """Return 3D (mRoPE) position ids as a nested tensor that is ragged in the token dimension.

    `torch.nested.as_nested_tensor` takes the first dimension in which samples differ as the ragged one. Where all
    samples of a batch have the same length, or there is one sample, nothing differs and it takes the rope
    dimension instead; verl then relabels the ragged dimension without rearranging the values, and the next
    `unbind` fails with "split_with_sizes expects split_sizes to sum exactly" (verl issue 6531).

    Args:
        position_ids: jagged nested tensor over samples of shape (rope_dims, tokens).

    Returns:
        The same samples, ragged in tokens: values of shape (rope_dims, total_tokens).
    """
    values, offsets = position_ids.values(), position_ids.offsets()
    samples = offsets.numel() - 1
    total = int(offsets[-1])
    if values.shape[0] == total and total % samples == 0 and values.shape[-1] * samples != total:
        rope_dims, tokens = total // samples, values.shape[-1]
        stacked = values.reshape(samples, rope_dims, tokens).permute(1, 0, 2).reshape(rope_dims, samples * tokens)
        starts = torch.arange(samples + 1, dtype=offsets.dtype, device=offsets.device) * tokens
        position_ids = torch.nested.nested_tensor_from_jagged(values=stacked, offsets=starts)
    position_ids._ragged_idx = 2
    return position_ids


def install_position_ids_fix(tensordict_utils: ModuleType) -> None:
    """Replace verl's relabelling of 3D position ids before its workers import it by name."""

    def maybe_fix_3d_position_ids(data: Any) -> None:
        if "position_ids" in data.keys():  # noqa: SIM118  (TensorDict defines `in` for nested keys only)
            position_ids = data["position_ids"]
            if position_ids.dim() == 3 and position_ids.is_nested:
                data["position_ids"] = ragged_position_ids(position_ids)

    tensordict_utils.maybe_fix_3d_position_ids = maybe_fix_3d_position_ids
