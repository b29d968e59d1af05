"""Groups that nobody could compare are kept from verl's dynamic sampling (`algorithm.filter_groups`).

All rewards of such a group are the neutral one, so that verl would drop it and generate another one, for as long as the
reward model is gone. Kept, it reaches the step, whose share of failed comparisons ends the run.
"""

from __future__ import annotations

import functools
from collections import Counter
from types import ModuleType
from typing import Any


def install_kept_groups(replay_buffer: ModuleType) -> None:
    """Wrap `ReplayBuffer._dapo_filtered_keys`, once."""
    buffer = replay_buffer.ReplayBuffer
    filtered_keys = buffer._dapo_filtered_keys
    if hasattr(filtered_keys, "__wrapped__"):
        return

    @functools.wraps(filtered_keys)
    def wrapped(self: Any, partition_id: str, *args: Any, **kwargs: Any) -> tuple[set[str], Counter[Any]]:
        uids, counts = filtered_keys(self, partition_id, *args, **kwargs)
        keys = [key for key in self.partitions[partition_id] if key.split("_")[0] in uids]
        if not keys:
            return uids, counts
        import transfer_queue as tq  # heavy, and only where groups are filtered

        fields = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["extra_fields"])["extra_fields"]
        failed = {key.split("_")[0] for key, field in zip(keys, list(fields), strict=True) if _has_failed(field)}
        cache = self._dapo_classification_cache[partition_id]
        counts = counts - Counter(cache[uid] for uid in failed)
        for uid in failed:
            cache[uid] = None  # as verl marks a group that stays
        return uids - failed, counts

    buffer._dapo_filtered_keys = wrapped


def _has_failed(field: Any) -> bool:
    extra = getattr(field, "data", field) or {}
    return bool((extra.get("reward_extra_info") or {}).get("group_failed"))
