"""A trajectory as verl's agent loop hands it to a reward manager."""

from __future__ import annotations

from typing import Any


def response_of(item: Any) -> Any:
    """Return the response tokens of a `DataProtoItem` without its padding, a tensor of shape (length,)."""
    response = item.batch["responses"]
    # In a multi-turn trajectory prompts and responses are padded apart, and only `response_len` is right.
    length = item.non_tensor_batch.get("response_len")
    if length is None:
        length = item.batch["attention_mask"][-len(response) :].sum()
    return response[: int(length)]
