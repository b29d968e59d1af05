"""verl's dynamic sampling does not drop groups that nobody could compare."""

from collections import Counter, defaultdict
from types import SimpleNamespace

import pytest

from r1reward_verl.plugin.replay import install_kept_groups


class Buffer:
    """What the wrapper sees of verl's replay buffer: two groups of two whose rewards are all equal."""

    def __init__(self):
        self.partitions = {"train": ["equal_0_0", "equal_1_0", "failed_0_0", "failed_1_0", "fine_0_0"]}
        self._dapo_classification_cache = defaultdict(dict, train={"equal": 1.0, "failed": 0.5, "fine": None})

    def _dapo_filtered_keys(self, partition_id):
        cache = self._dapo_classification_cache[partition_id]
        uids = {uid for uid, value in cache.items() if value is not None}
        return uids, Counter(cache[uid] for uid in uids)


@pytest.fixture
def buffer(monkeypatch):
    import transfer_queue as tq

    def kv_batch_get(keys, partition_id, select_fields):
        fields = [{"reward_extra_info": {"group_failed": 3.0 * key.startswith("failed")}} for key in keys]
        return {"extra_fields": fields}

    monkeypatch.setattr(tq, "kv_batch_get", kv_batch_get)
    module = SimpleNamespace(ReplayBuffer=type("ReplayBuffer", (Buffer,), {}))
    install_kept_groups(module)
    install_kept_groups(module)
    return module.ReplayBuffer()


def test_failed_groups_stay_and_equal_ones_go(buffer):
    assert buffer._dapo_filtered_keys("train") == ({"equal"}, Counter({1.0: 1}))
    assert buffer._dapo_filtered_keys("train") == ({"equal"}, Counter({1.0: 1}))


def test_where_nothing_is_filtered_nothing_is_asked(buffer):
    buffer._dapo_classification_cache["train"] = {}
    assert buffer._dapo_filtered_keys("train") == (set(), Counter())


def test_verls_own_buffer_is_wrapped():
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

    assert hasattr(ReplayBuffer._dapo_filtered_keys, "__wrapped__")
