"""vLLM gives a Qwen2.5-VL the pixels, times and positions of a video's frames that verl gives it in training."""

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from verl.models.transformers.qwen2_vl import get_rope_index
from verl.utils.tokenizer import build_multimodal_processor_inputs
from vllm.config import ModelConfig
from vllm.model_executor.models import qwen2_5_vl
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import ProcessorInputs, TimingContext

from r1reward_verl.engines.video_times import correct_video_times
from r1reward_verl.toy.model import build_model, build_processor

BOUNDS = {"min_pixels": 3136, "max_pixels": 3136}


@pytest.fixture(scope="module")
def vllm_processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    processor = build_processor(["Which is it?", "user\n", "assistant\n"])
    model = build_model(processor, 0)
    model.config.vision_config.tokens_per_second = 2  # as Qwen2.5-VL has it
    for part in (model, processor):
        part.save_pretrained(folder)
    for _ in range(2):
        correct_video_times()
    return MULTIMODAL_REGISTRY.create_processor(ModelConfig(model=str(folder), dtype="float32"))


def video(frames: int, fps: float | None) -> Any:
    pixels = (torch.arange(frames * 3 * 56 * 56).reshape(frames, 3, 56, 56) % 256).float()
    about = {"fps": fps, "total_num_frames": frames, "frames_indices": list(range(frames))}
    return pixels if fps is None else (pixels, about)


def apply(processor: Any, prompt: str, media: dict[str, list[Any]]) -> Any:
    inputs = ProcessorInputs(prompt, processor.info.parse_mm_data(media), hf_processor_mm_kwargs=BOUNDS)
    return processor.apply(inputs, TimingContext(enabled=False))


def positions(processor: Any, inputs: Any) -> torch.Tensor:
    """Time, height and width of each token, as vLLM's worker counts them."""
    features = [
        SimpleNamespace(data=item, modality=modality, mm_position=place)
        for modality, items in inputs["mm_kwargs"].items()
        for item, place in zip(items, inputs["mm_placeholders"][modality], strict=True)
    ]
    model = qwen2_5_vl.Qwen2_5_VLForConditionalGeneration
    worker = SimpleNamespace(config=processor.info.get_hf_config())
    worker.iter_mm_grid_thw = functools.partial(model.iter_mm_grid_thw, worker)
    return model.get_mrope_input_positions(worker, inputs["prompt_token_ids"], features)[0]


@pytest.mark.parametrize("fps", [2.0, 1.0, 0.7])
def test_what_vllm_gives_the_model_is_what_verl_gives_it(vllm_processor: Any, fps: float):
    videos, images = [video(4, fps), video(16, 2.0)], [Image.new("RGB", (56, 56), "red")]
    place = "<|vision_start|><|{}_pad|><|vision_end|>"
    prompt = place.format("video") + place.format("image") + "Which is it?" + place.format("video")
    inputs = apply(vllm_processor, prompt, {"video": videos, "image": images})
    processor = vllm_processor.info.get_hf_processor()
    verls = build_multimodal_processor_inputs(
        processor, text=[prompt], images=images, videos=videos, mm_processor_kwargs=BOUNDS
    )
    assert inputs["prompt_token_ids"] == verls["input_ids"][0].tolist()
    ours = inputs["mm_kwargs"].get_data()
    assert ours["second_per_grid_ts"].tolist() == pytest.approx([2 / fps, 1.0])
    for name in ("pixel_values", "pixel_values_videos", "image_grid_thw", "video_grid_thw", "second_per_grid_ts"):
        assert torch.equal(torch.as_tensor(ours[name]).float(), torch.as_tensor(verls[name]).float()), name
    media = {name: verls[name] for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")}
    assert torch.equal(positions(vllm_processor, inputs), get_rope_index(processor, verls["input_ids"][0], **media))


def test_frames_alone_are_two_a_second(vllm_processor: Any):
    prompt = "<|vision_start|><|video_pad|><|vision_end|>"
    found = apply(vllm_processor, prompt, {"video": [video(4, None)]})["mm_kwargs"].get_data()
    assert found["second_per_grid_ts"].tolist() == [1.0]


def test_vllms_own_takes_24_frames_a_second(vllm_processor: Any, monkeypatch: pytest.MonkeyPatch):
    """The day this fails, vLLM passes on the times of frames, and the correction can go."""
    info, processor = qwen2_5_vl.Qwen2_5_VLProcessingInfo, qwen2_5_vl.Qwen2_5_VLMultiModalProcessor
    monkeypatch.setattr(info, "get_data_parser", info.get_data_parser.__wrapped__)
    monkeypatch.setattr(processor, "_call_hf_processor", processor._call_hf_processor.__wrapped__)
    own = MULTIMODAL_REGISTRY.create_processor(vllm_processor.info.ctx.model_config)
    prompt = "<|vision_start|><|video_pad|><|vision_end|>"
    found = apply(own, prompt, {"video": [video(4, 2.0)]})["mm_kwargs"].get_data()
    assert found["second_per_grid_ts"].tolist() == pytest.approx([2 / 24])
