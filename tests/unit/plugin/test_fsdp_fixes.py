"""Corrections of verl's FSDP engine, on FSDP2 over gloo with one rank."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl
from verl.models.transformers.monkey_patch import apply_monkey_patch
from verl.trainer.config import CheckpointConfig
from verl.utils import fsdp_utils
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
from verl.workers import engine_workers

WORDS, IMAGE = 64, 60
TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": WORDS}
TEXT |= {"num_attention_heads": 2, "num_key_value_heads": 1}
TEXT |= {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}
VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}


@pytest.fixture
def group():
    dist.init_process_group("cpu:gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


@pytest.fixture
def build(group, monkeypatch):
    """Build a tiny Qwen2.5-VL whose output layer is not its embedding, in verl's FSDP2."""
    for module, name in ((modeling_qwen2_5_vl, "Qwen2_5_VL"), (modeling_qwen2_vl, "Qwen2VL")):
        for part in ("Model", "ForConditionalGeneration"):  # whose forward verl replaces
            kind = getattr(module, f"{name}{part}")
            monkeypatch.setattr(kind, "forward", kind.forward)

    def build(fused: bool = False, dtype: torch.dtype | None = None):
        config = Qwen2_5_VLConfig(
            text_config=TEXT, vision_config=VISION, image_token_id=IMAGE, tie_word_embeddings=False
        )
        config.architectures, config._attn_implementation = ["Qwen2_5_VLForConditionalGeneration"], "eager"
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config)
        apply_monkey_patch(
            model, use_remove_padding=False, use_fused_kernels=fused, fused_kernels_backend="torch" if fused else None
        )
        policy = MixedPrecisionPolicy(param_dtype=dtype)
        settings = {"mesh": init_device_mesh("cpu", (1,)), "mp_policy": policy, "reshard_after_forward": True}
        fsdp_utils.apply_fsdp2(model, settings, {})
        return model

    return build


def log_probs(model) -> torch.Tensor:
    """Log-probabilities of each next token of a prompt with a picture."""
    ids = torch.arange(12)[None] + 5
    ids[0, 2:6] = IMAGE
    vision = model.config.vision_config
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    out = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        position_ids=torch.arange(12).expand(4, 1, -1),
        pixel_values=torch.linspace(-1, 1, 16 * pixels).reshape(16, pixels),
        image_grid_thw=torch.tensor([[1, 4, 4]]),
    )
    if hasattr(out, "log_probs"):
        return out.log_probs[:, :-1]
    return out.logits.float().log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]


def test_fused_kernels_compute_what_the_logits_do(build):
    found = []
    for fused in (False, True):
        model = build(fused)
        result = log_probs(model)
        result.square().sum().backward()
        gradients = {name: one.grad.full_tensor() for name, one in model.named_parameters() if one.grad is not None}
        found.append((result.detach(), gradients))
    assert found[0][1].keys() == found[1][1].keys() >= {"lm_head.weight"}
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_verls_own_wrapping_crashes_with_them(build, monkeypatch):
    # The day this fails, verl has mended it, and the fix can go.
    monkeypatch.setattr(fsdp_utils, "_select_fsdp2_wrap_targets", fsdp_utils._select_fsdp2_wrap_targets.__wrapped__)
    with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
        log_probs(build(fused=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_the_export_has_the_type_in_which_the_model_computes(build, tmp_path, dtype):
    model = build(dtype=dtype)
    contents = CheckpointConfig(save_contents=["model", "hf_model"], load_contents=["model"])
    manager = FSDPCheckpointManager(model, checkpoint_config=contents)
    manager.save_checkpoint(str(tmp_path))
    exported = load_file(tmp_path / "huggingface" / "model.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {dtype or torch.float32}
    resumed = torch.load(tmp_path / "model_world_size_1_rank_0.pt", weights_only=False)
    assert resumed["lm_head.weight"].dtype == torch.float32
    again = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "huggingface", dtype=torch.float32)
    torch.testing.assert_close(
        again.lm_head.weight, resumed["lm_head.weight"].full_tensor(), rtol=0, atol=1e-3 if dtype else 0
    )


@pytest.mark.parametrize(("asked", "seconds"), [(7200, 7200), (600, 1800), (None, 1800)])
def test_ranks_wait_as_long_as_the_config_says(monkeypatch, asked, seconds):
    from verl.single_controller.base.decorator import MAGIC_ATTR

    assert hasattr(engine_workers.ActorRolloutRefWorker.init_model, MAGIC_ATTR), "verl dispatches it"
    worker = object.__new__(engine_workers.ActorRolloutRefWorker)
    worker.config = OmegaConf.create({"nccl_timeout": asked, "model": {"_target_": "builtins.dict"}})
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    try:
        with pytest.raises(AttributeError, match="role"):  # what verl asks for next
            worker.init_model()
        (options,) = {dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout}
        assert options == timedelta(seconds=seconds)
    finally:
        dist.destroy_process_group()
