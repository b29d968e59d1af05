"""Guarded corrections of verl bugs that R1-Reward training meets, each with the issue it answers.

Each correction recognises the broken input and leaves everything else to verl, so it turns into a no-op the
day verl ships its own.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

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
