"""The tiny Qwen2.5-VL: what transformers loads from disk without a network, and its form."""

import socket
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from r1reward_verl.judgement import build_prompt
from r1reward_verl.toy import world
from r1reward_verl.toy.model import SPECIAL_TOKENS, build_model

PAIR = world.draw_pairs(1, 0, "anything")[0]


@pytest.fixture(scope="module", autouse=True)
def _no_network():
    def refuse(self, address) -> None:
        raise AssertionError(f"the network was asked for {address}")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module")
def processor(toy: Path):
    return AutoProcessor.from_pretrained(toy / "model")


@pytest.fixture(scope="module")
def model(toy: Path):
    return AutoModelForImageTextToText.from_pretrained(toy / "model").eval()


@pytest.fixture(scope="module")
def inputs(processor):
    content = [{"type": "image"}, {"type": "text", "text": build_prompt(PAIR.question, *PAIR.responses(1))}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=[text], images=[world.render(PAIR)], return_tensors="pt")


def test_auto_classes_find_the_real_ones(processor, model):
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    assert "Qwen2VLImageProcessor" in type(processor.image_processor).__name__
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"


def test_form(model):
    text = model.config.text_config
    assert text.hidden_size // text.num_attention_heads == 64
    assert text.hidden_size // text.num_key_value_heads == 64
    assert sum(text.rope_parameters["mrope_section"]) * 2 == 64
    vision = model.config.vision_config
    assert vision.hidden_size // vision.num_heads == 64
    assert vision.out_hidden_size == text.hidden_size
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 3e6
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_picture_is_four_tokens(inputs, model):
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 4]]
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 4


def test_forward_sees_the_picture(inputs, model):
    with torch.no_grad():
        logits = model(**inputs).logits
        other = model(**{**inputs, "pixel_values": -inputs["pixel_values"]}).logits
    assert logits.shape == (1, inputs["input_ids"].shape[1], model.config.text_config.vocab_size)
    assert logits.isfinite().all()
    assert not torch.allclose(logits[:, -1], other[:, -1])
    before = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().min()
    assert torch.allclose(logits[:, :before], other[:, :before])


def test_generation_ends_at_the_end_of_a_turn(inputs, model, processor):
    settings = model.generation_config
    ends = processor.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert settings.eos_token_id == ends
    assert settings.pad_token_id == processor.tokenizer.pad_token_id
    with torch.no_grad():
        written = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert 1 <= written.shape[1] - inputs["input_ids"].shape[1] <= 3


def test_tokens_give_the_text_back(toy: Path, model):
    tokenizer = AutoTokenizer.from_pretrained(toy / "model")
    text = world.judgement(PAIR, 1) + " Grüße ✓\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer) <= model.config.text_config.vocab_size
    for token in SPECIAL_TOKENS:
        assert len(tokenizer(token).input_ids) == 1
        assert tokenizer(token).input_ids[0] in tokenizer.all_special_ids


def test_a_prompt_and_a_judgement_fit_the_demo(inputs, toy: Path):
    from r1reward_verl.toy.demo import PROMPT_TOKENS, RESPONSE_TOKENS

    tokenizer = AutoTokenizer.from_pretrained(toy / "model")
    assert inputs["input_ids"].shape[1] <= PROMPT_TOKENS
    lengths = [len(tokenizer(world.judgement(pair, 2)).input_ids) for pair in world.draw_pairs(50, 1, "length")]
    assert max(lengths) < RESPONSE_TOKENS, "one token is the end of the turn"


def test_weights_follow_the_seed(processor):
    first, again, other = (build_model(processor, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_the_template_renders_text_pictures_and_turns(processor):
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]},
        {"role": "assistant", "content": "A."},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Which?<|im_end|>\n"
        "<|im_start|>assistant\nA.<|im_end|>\n<|im_start|>assistant\n"
    )
