"""A micro-batch of a Qwen-VL runs the vision tower once, whatever media it has, through verl's patched forward."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen3VLConfig
from verl.models.transformers.monkey_patch import apply_monkey_patch

IMAGE, VIDEO, START = 90, 91, 92
TOKENS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": 93}
TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 4}


def qwen2_5_vl() -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = {**VISION, "out_hidden_size": 32, "window_size": 16, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLConfig(text_config={**TEXT, "rope_parameters": rope}, vision_config=vision, **TOKENS)


def qwen3_vl() -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = {**TEXT, "head_dim": 16, "rope_parameters": rope}
    vision = {**VISION, "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    return Qwen3VLConfig(text_config=text, vision_config=vision, **TOKENS)


@pytest.fixture(params=[qwen2_5_vl, qwen3_vl], ids=["qwen2_5_vl", "qwen3_vl"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny model as verl's worker has it; its classes are as before after the test."""
    torch.manual_seed(0)
    built = AutoModelForImageTextToText.from_config(request.param(), attn_implementation="eager")
    for module in (built, built.model, built.model.visual):
        for name in ("forward", "fast_pos_embed_interpolate"):
            if hasattr(type(module), name):
                monkeypatch.setattr(type(module), name, getattr(type(module), name))
    apply_monkey_patch(built, use_remove_padding=False)
    return built


@pytest.fixture
def runs(model: Any) -> list[int]:
    """The number of patches in each run of the vision tower."""
    counts: list[int] = []
    model.model.visual.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    return counts


def micro_batch(media: str) -> dict[str, torch.Tensor]:
    """Two samples, of which the second has a picture and a video of two pairs of frames, or one of them, or none."""
    generator = torch.Generator().manual_seed(1)
    pieces, inputs = [torch.tensor([5, 6])], {}
    for name, token, grid, key in (
        ("picture", IMAGE, [[1, 4, 4]], "pixel_values"),
        ("video", VIDEO, [[2, 4, 2]], "pixel_values_videos"),
    ):
        if name in media:
            thw = torch.tensor(grid)
            inputs[key] = torch.randn(int(thw.prod()), 3 * 2 * 4 * 4, generator=generator)
            inputs["image_grid_thw" if token == IMAGE else "video_grid_thw"] = thw
            pieces += [torch.tensor([START]), torch.full((int(thw.prod()) // 4,), token), torch.tensor([7])]
    second = torch.cat([*pieces, torch.tensor([8, 9, 10])])
    first = torch.arange(20, 20 + len(second))
    positions = torch.arange(len(second)).expand(4, 2, -1)
    return {"input_ids": torch.stack([first, second]), "position_ids": positions, **inputs}


def logits_and_gradients(model: Any, media: str) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    model.zero_grad()
    logits = model(**micro_batch(media)).logits
    logits.log_softmax(-1)[..., 3].sum().backward()
    return logits.detach(), {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize("media", ["", "picture", "video", "picture and video"])
def test_the_vision_tower_runs_once(model: Any, runs: list[int], media: str):
    _, gradients = logits_and_gradients(model, media)
    assert runs == [{"": 16, "picture": 16, "video": 16, "picture and video": 32}[media]]
    tower = {name: gradient for name, gradient in gradients.items() if "visual" in name}
    assert all(gradient is not None for gradient in tower.values())
    # Without media they are zeros: the ranks of FSDP reduce them together.
    assert any(gradient.any() for gradient in tower.values()) == bool(media)
    assert all(gradient.any() for name, gradient in gradients.items() if "layers" in name and name not in tower)


def test_text_alone_is_what_transformers_makes_of_it(model: Any):
    inputs = micro_batch("")
    ours = model(**inputs).logits
    hidden = model.model.language_model(**inputs).last_hidden_state
    assert torch.equal(ours, model.lm_head(hidden))


@pytest.mark.parametrize("media", ["picture", "video", "picture and video"])
def test_media_are_what_verl_makes_of_them(model: Any, media: str, monkeypatch: pytest.MonkeyPatch):
    module = importlib.import_module(type(model).forward.__module__)
    verls: Callable[..., Any] = module._get_input_embeds.__wrapped__
    ours = logits_and_gradients(model, media)
    gradients = {name: gradient.clone() for name, gradient in ours[1].items() if gradient is not None}
    monkeypatch.setattr(module, "_get_input_embeds", verls)
    expected = logits_and_gradients(model, media)
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[1][name], rtol=1e-4, atol=1e-6)


def test_verls_own_function_fails_without_media(model: Any, monkeypatch: pytest.MonkeyPatch):
    """The day this fails for Qwen2.5-VL, verl has mended it; two runs with pictures and videos stay."""
    module = importlib.import_module(type(model).forward.__module__)
    monkeypatch.setattr(module, "_get_input_embeds", module._get_input_embeds.__wrapped__)
    if module.__name__.endswith("qwen3_vl"):
        assert model(**micro_batch("")).logits.isfinite().all()
    else:
        with pytest.raises(AttributeError, match="mean"):
            model(**micro_batch(""))
