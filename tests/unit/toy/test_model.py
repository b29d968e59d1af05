"""The tiny models: what transformers loads from disk without a network, and their form."""

import socket
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from r1reward_verl.judgement import build_prompt
from r1reward_verl.toy import world
from r1reward_verl.toy.model import PIXELS, SPECIAL_TOKENS, build_model, save_model

PAIR = world.draw_pairs(1, 0, "anything")[0]


@pytest.fixture(scope="module", autouse=True)
def _no_network():
    def refuse(self, address) -> None:
        raise AssertionError(f"the network was asked for {address}")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module", params=list(PIXELS))
def name(request):
    return request.param


VISION = pytest.mark.parametrize("name", [name for name, pixels in PIXELS.items() if pixels], indirect=True)


@pytest.fixture(scope="module")
def folder(toy: Path, name, tmp_path_factory) -> Path:
    """The model in the folder of a world, built with the texts of another."""
    if name == "qwen2.5-vl":
        return toy / "model"
    out = tmp_path_factory.mktemp("models") / name
    pairs = world.draw_pairs(50, 3, "train")
    corpus = [world.judgement(pair, 2) for pair in pairs]
    corpus += [build_prompt(pair.described, *pair.responses(1)) for pair in pairs]
    save_model(out, [*corpus, "user\n", "assistant\n"], 3, name)
    return out


@pytest.fixture(scope="module")
def processor(folder: Path):
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path, name):
    auto = AutoModelForImageTextToText if PIXELS[name] else AutoModelForCausalLM
    return auto.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def inputs(processor, name):
    if not PIXELS[name]:
        messages = [{"role": "user", "content": build_prompt(PAIR.described, *PAIR.responses(1))}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return processor([text], return_tensors="pt")
    content = [{"type": "image"}, {"type": "text", "text": build_prompt(PAIR.question, *PAIR.responses(1))}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=[text], images=[world.draw_scene(PAIR)], return_tensors="pt")


def test_auto_classes_find_the_real_ones(processor, model, name):
    assert (type(processor).__name__, type(model).__name__) == {
        "qwen2.5-vl": ("Qwen2_5_VLProcessor", "Qwen2_5_VLForConditionalGeneration"),
        "qwen3-vl": ("Qwen3VLProcessor", "Qwen3VLForConditionalGeneration"),
        "qwen3": ("Qwen2Tokenizer", "Qwen3ForCausalLM"),
    }[name]
    if PIXELS[name]:
        assert "Qwen2VLImageProcessor" in type(processor.image_processor).__name__


def test_form(model, name):
    text = model.config.get_text_config()
    assert text.head_dim == 64
    assert text.hidden_size // text.num_attention_heads == 64
    assert text.hidden_size // text.num_key_value_heads == 64
    if PIXELS[name]:
        assert sum(text.rope_parameters["mrope_section"]) * 2 == 64
        vision = model.config.vision_config
        assert vision.hidden_size // vision.num_heads == 64
        assert vision.out_hidden_size == text.hidden_size
    assert 5e5 < sum(parameter.numel() for parameter in model.parameters()) < 3e6
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@VISION
def test_a_picture_is_four_tokens(inputs, model):
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 4]]
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 4


@VISION
def test_forward_sees_the_picture(inputs, model):
    with torch.no_grad():
        logits = model(**inputs).logits
        other = model(**{**inputs, "pixel_values": -inputs["pixel_values"]}).logits
    assert logits.shape == (1, inputs["input_ids"].shape[1], model.config.get_text_config().vocab_size)
    assert logits.isfinite().all()
    assert not torch.allclose(logits[:, -1], other[:, -1])
    before = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().min()
    assert torch.allclose(logits[:, :before], other[:, :before])


def test_generation_ends_at_the_end_of_a_turn(inputs, model, processor):
    settings = model.generation_config
    tokenizer = getattr(processor, "tokenizer", processor)
    assert settings.eos_token_id == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert settings.pad_token_id == tokenizer.pad_token_id
    with torch.no_grad():
        written = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert 1 <= written.shape[1] - inputs["input_ids"].shape[1] <= 3


def test_tokens_give_the_text_back(folder: Path, model):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = world.judgement(PAIR, 1) + " Grüße ✓\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer) <= model.config.get_text_config().vocab_size
    for token in SPECIAL_TOKENS:
        assert len(tokenizer(token).input_ids) == 1
        assert tokenizer(token).input_ids[0] in tokenizer.all_special_ids


def test_weights_follow_the_seed(processor, name):
    first, again, other = (build_model(processor, seed, name).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


@VISION
def test_the_template_renders_text_pictures_and_turns(processor):
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]},
        {"role": "assistant", "content": "A."},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Which?<|im_end|>\n"
        "<|im_start|>assistant\nA.<|im_end|>\n<|im_start|>assistant\n"
    )
