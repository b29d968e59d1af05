"""Where tokens of pictures and videos stand, as transformers and vLLM count, in SFT and RL; what rollouts ask vLLM."""

import pytest
import torch
from PIL import Image
from verl.models.transformers import qwen2_vl
from verl.utils import hf_processor as processor_of_verl
from verl.utils.dataset import multiturn_sft_dataset
from verl.utils.tokenizer import build_multimodal_processor_inputs
from verl.workers.config import model as model_config
from verl.workers.rollout import utils as rollout_utils

from r1reward_verl.toy.model import PIXELS, save_model

MEDIA = {
    "no media": [],
    "a picture": [1],
    "two pictures": [1, 1],
    "a video": [6],
    "a long video": [16],
    "a picture and two videos": [1, 4, 6],
}
WITH_VIDEO = [name for name, frames in MEDIA.items() if max(frames, default=1) > 1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {name: tmp_path_factory.mktemp("models") / name for name, pixels in PIXELS.items() if pixels}
    for name, folder in found.items():
        save_model(folder, ["Which is it? <0.5 seconds>", "user\n", "assistant\n"], 0, name)
    return found


def text_of(processor, media: list[int], question="Which is it?", after=False) -> str:
    """A prompt with a placeholder for each picture (1) and video (its frames)."""
    parts = [{"type": "image" if frames == 1 else "video"} for frames in media]
    text = [{"type": "text", "text": question}]
    messages = [{"role": "user", "content": [*text, *parts] if after else [*parts, *text]}]
    return processor.apply_chat_template(messages, tokenize=False)


def inputs_of(processor, media: list[int], *options):
    """What verl's processor makes of such a prompt."""
    side = {"Qwen3VLProcessor": 64}.get(type(processor).__name__, 56)
    text = text_of(processor, media, *options)
    about = {"fps": 2.0, "total_num_frames": 16}
    videos = [(torch.zeros(n, 3, side, side), {**about, "frames_indices": list(range(n))}) for n in media if n > 1]
    images = [Image.new("RGB", (side, side)) for frames in media if frames == 1]
    bounds = {"min_pixels": side * side, "max_pixels": side * side}
    return build_multimodal_processor_inputs(
        processor, text=[text], images=images or None, videos=videos or None, mm_processor_kwargs=bounds
    )


def in_rl(processor, inputs) -> torch.Tensor:
    """Positions of shape (3, tokens), as verl's agent loop asks for them."""
    ids = inputs["input_ids"]
    grids = {name: inputs.get(name) for name in ("image_grid_thw", "video_grid_thw")}
    types = inputs.get("mm_token_type_ids", torch.zeros_like(ids))
    more = getattr(processor, "get_rope_index_kwargs", lambda _: {})(inputs)
    arguments = {"attention_mask": torch.ones_like(ids), "mm_token_type_ids": types, **grids, **more}
    return processor.get_rope_index(input_ids=ids, **arguments)[0][:, 0]


def in_sft(processor, inputs, of=multiturn_sft_dataset.get_rope_index) -> torch.Tensor:
    ids = inputs["input_ids"][0]
    grids = {name: inputs.get(name) for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")}
    return of(processor, input_ids=ids, attention_mask=torch.ones_like(ids), **grids)


@pytest.mark.parametrize("media", MEDIA.values(), ids=MEDIA.keys())
@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3-vl"])
def test_sft_and_rl_place_tokens_alike(folders, name, media):
    processor = model_config.hf_processor(folders[name])
    inputs = inputs_of(processor, media)
    assert torch.equal(in_sft(processor, inputs), in_rl(processor, inputs))


@pytest.mark.parametrize("media", MEDIA.values(), ids=MEDIA.keys())
def test_a_qwen3_vls_media_stand_where_transformers_has_them(folders, media):
    processor = processor_of_verl(folders["qwen3-vl"])
    inputs = inputs_of(processor, media)
    assert torch.equal(in_sft(processor, inputs), in_rl(processor, inputs))


@pytest.mark.parametrize("media", [MEDIA[name] for name in WITH_VIDEO], ids=WITH_VIDEO)
def test_verls_sft_fails_on_videos_of_a_qwen3_vl(folders, media):
    # The day this fails, verl takes the positions of the model, and the correction can go.
    assert multiturn_sft_dataset.get_rope_index.__wrapped__ is qwen2_vl.get_rope_index
    processor = processor_of_verl(folders["qwen3-vl"])
    with pytest.raises(IndexError):
        in_sft(processor, inputs_of(processor, media), of=qwen2_vl.get_rope_index)


def around_the_video(processor, inputs) -> tuple[int, int]:
    """Return how far the last frame stands behind the first one in time, and the text behind the last one."""
    positions = in_rl(processor, inputs)[0]
    frames = (inputs["input_ids"][0] == processor.video_token_id).nonzero()[:, 0]
    first, last = int(frames[0]), int(frames[-1])
    return int(positions[last] - positions[first]), int(positions[last + 1] - positions[last])


def test_text_begins_behind_the_last_frame_of_a_qwen2_5_vl(folders):
    processor = model_config.hf_processor(folders["qwen2.5-vl"])
    inputs = inputs_of(processor, MEDIA["a long video"])
    # Eight pairs of frames, one in a second, and two positions to a second.
    assert around_the_video(processor, inputs) == (7 * 2, 1)
    inputs["second_per_grid_ts"] = torch.tensor([2.5])
    assert around_the_video(processor, inputs) == (7 * 5, 1)


def test_transformers_lets_it_begin_among_the_frames(folders):
    # The day this fails, transformers has mended it, and the correction can go.
    processor = processor_of_verl(folders["qwen2.5-vl"])
    inputs = inputs_of(processor, MEDIA["a long video"])
    assert around_the_video(processor, inputs)[1] < 0


@pytest.mark.parametrize("media", [*MEDIA.values(), [2, 2], [4, 1, 4]], ids=[*MEDIA.keys(), "short", "mixed"])
@pytest.mark.parametrize(
    "options", [(), ("Which is it?", True), ("Write <answer>1</answer>", True)], ids=["before", "after", "after a tag"]
)
def test_rollouts_give_vllm_a_placeholder_for_each_video(folders, media, options):
    """Which it fills as verl's processor has filled it for the training, time stamps and all."""
    processor = processor_of_verl(folders["qwen3-vl"])
    tokens = inputs_of(processor, media, *options)["input_ids"][0].tolist()
    given = rollout_utils.qwen2_5_vl_dedup_image_tokens(tokens, processor)
    assert processor.tokenizer.decode(given) == text_of(processor, media, *options)


def test_verls_own_leave_one_for_each_pair_of_frames(folders):
    # The day this fails, verl has mended it, and the correction can go.
    processor = processor_of_verl(folders["qwen3-vl"])
    tokens = inputs_of(processor, [6])["input_ids"][0].tolist()
    given = rollout_utils.qwen2_5_vl_dedup_image_tokens.__wrapped__(tokens, processor)
    assert given.count(processor.video_token_id) == 3


def test_prompts_of_other_models_are_left_to_verl(folders):
    processor = processor_of_verl(folders["qwen2.5-vl"])
    for media in MEDIA.values():
        tokens = inputs_of(processor, media)["input_ids"][0].tolist()
        ours = rollout_utils.qwen2_5_vl_dedup_image_tokens(tokens, processor)
        assert ours == rollout_utils.qwen2_5_vl_dedup_image_tokens.__wrapped__(tokens, processor)
