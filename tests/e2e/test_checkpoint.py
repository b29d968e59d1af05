"""What verl leaves of its checkpoints when the disk is full: the one before is whole, and is resumed from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

# verl's own saving, of one rank. A file that outgrows the limit fails as on a full disk.
SAVE = """
import hashlib, json, os, resource, sys
from pathlib import Path
from types import SimpleNamespace

import torch
import verl
from omegaconf import OmegaConf
from torch.distributed.fsdp import fully_shard
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
from verl.utils.distributed import initialize_global_process_group_ray

from r1reward_verl.toy.model import save_model

folder = Path(sys.argv[1])
initialize_global_process_group_ray()
save_model(folder / "model", ["Which response is better?"], 0)
processor = AutoProcessor.from_pretrained(folder / "model")
model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters())
for parameter in model.parameters():
    parameter.grad = torch.zeros_like(parameter)
optimizer.step()
contents = ["model", "optimizer", "extra", "hf_model"]
manager = FSDPCheckpointManager(
    model=model,
    optimizer=optimizer,
    lr_scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer),
    processing_class=processor,
    checkpoint_config=OmegaConf.create({"save_contents": contents, "load_contents": contents}),
)
settings = {"default_local_dir": str(folder), "default_hdfs_dir": None, "max_actor_ckpt_to_keep": 2}
trainer = SimpleNamespace(
    config=OmegaConf.create({"trainer": settings, "actor_rollout_ref": {"actor": {}}}),
    use_critic=False,
    trainer_mode="sync",
    actor_rollout_wg=manager,
    train_dataloader=SimpleNamespace(state_dict=lambda: {"step": trainer.global_steps}),
    checkpoint_callback=SimpleNamespace(on_save=lambda **_: None),
)


def save(step, limit):
    trainer.global_steps = step
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        PPOTrainer._save_checkpoint(trainer)
        return "saved"
    except Exception as error:
        return repr(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def state():
    whole = {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((folder / "global_step_1").rglob("*")) if file.is_file()
    }
    return {"latest": find_latest_ckpt_path(str(folder)), "files": whole}


found = [(save(1, resource.RLIM_INFINITY), state())]
actor = folder / "global_step_1" / "actor"
for file in ("model_world_size_1_rank_0.pt", "optim_world_size_1_rank_0.pt", "huggingface/model.safetensors"):
    found.append((save(2, (actor / file).stat().st_size - 1), state()))
found.append((save(2, resource.RLIM_INFINITY), state()))
manager.load_checkpoint(str(folder / "global_step_2" / "actor"))
print(json.dumps(found))
"""


def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path: Path):
    rank = {"RANK": "0", "WORLD_SIZE": "1", "DIST_INIT_METHOD": f"file://{tmp_path}/meet"}
    done = subprocess.run(
        [sys.executable, "-c", SAVE, str(tmp_path / "checkpoints")],
        env={**os.environ, **rank, "VERL_PLATFORM": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    first, *failed, last = json.loads(done.stdout.splitlines()[-1])
    assert (first[0], first[1]["latest"]) == ("saved", f"{tmp_path}/checkpoints/global_step_1")
    assert len(first[1]["files"]) > 5
    for outcome, state in failed:
        assert "rror" in outcome
        assert state == first[1]
    assert (last[0], last[1]["latest"]) == ("saved", f"{tmp_path}/checkpoints/global_step_2")
