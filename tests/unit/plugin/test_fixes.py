"""Corrections of verl: position ids on the way to its workers, a TRL that it does not know, a server that is gone."""

import asyncio
import importlib.util
import pickle
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tensordict import TensorDict

from r1reward_verl.plugin import fixes
from r1reward_verl.plugin.fixes import install_position_ids_fix, install_trl_fix, ragged_position_ids


def plain(file: str) -> ModuleType:
    """Verl's module once more, under a name that the plugin does not wait for."""
    origin = Path(importlib.util.find_spec("verl").origin).parent / file
    spec = importlib.util.spec_from_file_location(f"plain_{origin.stem}", origin)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VERL = plain("utils/tensordict_utils.py")
FIXED = plain("utils/tensordict_utils.py")
install_position_ids_fix(FIXED)


def samples(lengths: list[int], rope_dims: int = 4) -> list[torch.Tensor]:
    """Position ids in which every number occurs once."""
    numbers = torch.arange(rope_dims * sum(lengths)).split([rope_dims * length for length in lengths])
    return [part.reshape(rope_dims, length) for part, length in zip(numbers, lengths, strict=True)]


def batch(position_ids: list[torch.Tensor]) -> TensorDict:
    """The batch as `verl.workers.utils.padding` builds it."""
    nested = torch.nested.as_nested_tensor(position_ids, layout=torch.jagged)
    return TensorDict({"position_ids": nested}, batch_size=[len(position_ids)])


def as_built(data: TensorDict) -> TensorDict:
    return data


def pickled(data: TensorDict) -> TensorDict:
    return pickle.loads(pickle.dumps(data))


def consolidated(data: TensorDict) -> TensorDict:
    """The way to a Ray worker; the nested tensor forgets which dimension is ragged."""
    return pickle.loads(pickle.dumps(data.consolidate()))


def chunked(data: TensorDict) -> TensorDict:
    """Split and put together again by verl."""
    parts = VERL.chunk_tensordict(data, len(data))
    nested = VERL.concat_nested_tensors([part["position_ids"] for part in parts])
    return TensorDict({"position_ids": nested}, batch_size=[len(data)])


WAYS = [as_built, pickled, consolidated, chunked]
LENGTHS = {
    "varied": [3, 6, 5],
    "equal": [5, 5, 5],
    "one sample": [7],
    "one sample of one token": [1],
    "equal, tokens as many as rope dims": [4, 4, 4],
    "one sample, tokens as many as rope dims": [4],
    "equal, as many tokens as samples times rope dims": [8, 8],
    "equal, one token": [1, 1, 1, 1, 1],
    "varied, as many tokens in all as rope dims": [1, 3],
    "equal, as many tokens in all as rope dims": [2, 2],
    "a real batch of equal lengths": [128] * 32,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rope_dims", [3, 4])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_every_sample_comes_back_as_it_was(lengths: list[int], rope_dims: int, way: Callable[[TensorDict], TensorDict]):
    expected = samples(lengths, rope_dims)
    data = way(batch(expected))
    for _ in range(2):  # verl's worker and its engine both call it
        FIXED.maybe_fix_3d_position_ids(data)
        position_ids = data["position_ids"]
        assert position_ids.values().shape == (rope_dims, sum(lengths))
        assert all(map(torch.equal, position_ids.unbind(), expected))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lengths", [[5, 5, 5], [7]], ids=["equal", "one sample"])
def test_verls_own_function_fails_on_equal_lengths(lengths: list[int], way: Callable[[TensorDict], TensorDict]):
    # The day this fails, verl (or torch) has mended it, and the fix can go.
    data = way(batch(samples(lengths)))
    VERL.maybe_fix_3d_position_ids(data)
    with pytest.raises(RuntimeError):
        data["position_ids"].unbind()


def test_verls_own_function_mends_varied_lengths_and_so_does_ours():
    expected = samples([3, 6, 5])
    forgotten = consolidated(batch(expected))
    with pytest.raises(RuntimeError):
        forgotten["position_ids"].unbind()
    for module in (VERL, FIXED):
        data = consolidated(batch(expected))
        module.maybe_fix_3d_position_ids(data)
        assert all(map(torch.equal, data["position_ids"].unbind(), expected))


@pytest.mark.parametrize("lengths", [[5, 5, 5], [3, 6, 5]], ids=["equal", "varied"])
def test_what_verls_engine_does_with_them(lengths: list[int]):
    """Reorder, split into micro batches, mend again, pad."""
    expected = samples(lengths)
    data = consolidated(batch(expected))
    FIXED.maybe_fix_3d_position_ids(data)
    data = FIXED.index_select_tensor_dict(data, [2, 0, 1])
    for micro_batch, index in zip(FIXED.chunk_tensordict(data, 3), [2, 0, 1], strict=True):
        FIXED.maybe_fix_3d_position_ids(micro_batch)
        padded = torch.nested.to_padded_tensor(micro_batch["position_ids"], padding=-1, output_size=(1, 4, 8))
        assert torch.equal(padded[0, :, : lengths[index]], expected[index])
        assert (padded[0, :, lengths[index] :] == -1).all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_type_is_kept(dtype: torch.dtype):
    nested = torch.nested.as_nested_tensor([sample.to(dtype) for sample in samples([5, 5])], layout=torch.jagged)
    assert ragged_position_ids(nested).dtype == dtype


def test_other_position_ids_are_left_alone():
    text = torch.nested.as_nested_tensor([torch.arange(3), torch.arange(3)], layout=torch.jagged)
    dense = torch.zeros(2, 4, 3)
    for position_ids in (text, dense):
        data = TensorDict({"position_ids": position_ids}, batch_size=[2])
        FIXED.maybe_fix_3d_position_ids(data)
        assert data["position_ids"] is position_ids
    without = TensorDict({"input_ids": text}, batch_size=[2])
    FIXED.maybe_fix_3d_position_ids(without)
    assert list(without.keys()) == ["input_ids"]


@pytest.mark.parametrize("place", ["trl.experimental.ppo", "trl", None])
def test_a_trl_without_value_heads_is_none_to_verl(place, monkeypatch):
    for name in ("trl", "trl.experimental", "trl.experimental.ppo"):
        module = types.ModuleType(name)
        if name == place:
            module.AutoModelForCausalLMWithValueHead = object
        monkeypatch.setitem(sys.modules, name, module)
    monkey_patch = types.SimpleNamespace(is_trl_available=lambda: True)
    install_trl_fix(monkey_patch)
    assert monkey_patch.is_trl_available() is (place is not None)
    monkey_patch = types.SimpleNamespace(is_trl_available=lambda: False)
    install_trl_fix(monkey_patch)
    assert monkey_patch.is_trl_available() is False


def test_verls_models_are_built_beside_the_trl_that_is_installed():
    from verl.models.transformers import monkey_patch

    if monkey_patch.is_trl_available():
        pytest.importorskip("trl")
    assert monkey_patch.is_trl_available.__name__ == "has_value_heads"


def test_weights_that_no_rollout_server_takes_are_given_up(tmp_path, monkeypatch):
    """Verl alone would wait for ever."""
    transfer = plain("workers/rollout/vllm_rollout/bucketed_weight_transfer.py")
    fixes.install_weight_timeout(transfer)
    monkeypatch.setattr(fixes, "WEIGHT_TIMEOUT", 0.3)
    sender = transfer.BucketedWeightSender(f"ipc://{tmp_path}/weights.sock", bucket_size_mb=1, use_shm=True)
    with pytest.raises(RuntimeError, match="did not take the new weights for 0 s: it has probably died"):
        asyncio.run(sender.async_send_weights(iter([("weight", torch.ones(3))])))
    assert sender.socket is None
    assert sender.shm is None


def test_shared_memory_of_new_weights_is_left_behind_by_nobody_who_is_killed(tmp_path):
    transfer = plain("workers/rollout/vllm_rollout/bucketed_weight_transfer.py")
    fixes.install_weight_timeout(transfer)
    handle = f"ipc://{tmp_path}/weights.sock"
    sender = transfer.BucketedWeightSender(handle, bucket_size_mb=1, use_shm=True)
    receiver = transfer.BucketedWeightReceiver(handle, torch.device("cpu"), use_shm=True)
    left, taken = [], {}

    def weights():
        for number in range(3):
            left.append(Path("/dev/shm", sender.shm.name).exists())  # if it were killed now
            yield f"weight {number}", torch.full((200_000,), float(number))  # 0.8 of a bucket

    def take(bucket, is_last):
        taken.update((name, value.unique().tolist()) for name, value in bucket)

    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(receiver.receive_weights, take)
        asyncio.run(sender.async_send_weights(weights()))
        received.result(timeout=10)
    assert taken == {f"weight {number}": [number] for number in range(3)}
    assert left == [False, False, False]
