"""The trained tiny judge: right on held-out traces, deaf to attacks, and a Qwen2.5-VL as vLLM loads it."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from judge_attacks import ATTACKS, attacks_on
from r1reward_verl.rewards.judges.prompt import read_reply
from r1reward_verl.toy import world
from r1reward_verl.toy.judge import JudgeExample, TinyJudge, draw_examples, split_of
from r1reward_verl.toy.model import build_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def as_examples(attacks) -> list[JudgeExample]:
    return [JudgeExample(attack.reasoning, attack.choice, 0, attack.kind) for attack in attacks]


@pytest.fixture(scope="module")
def judge(tiny_judge: Path) -> TinyJudge:
    return TinyJudge.load(tiny_judge)


def test_held_out_traces(judge: TinyJudge):
    examples = [*islice(draw_examples(17, "test"), 1000)]
    assert judge.accuracy(examples) >= 0.95
    assert judge.accuracy([example for example in examples if example.style == "plain"]) >= 0.99


def test_attacks(judge: TinyJudge):
    assert judge.accuracy(as_examples(ATTACKS)) >= 0.95


def test_attacks_on_many_traces(judge: TinyJudge):
    pairs = [pair for pair in world.draw_pairs(24, 0, "attack") if split_of(pair) == "test"]
    attacks = [attack for index, pair in enumerate(pairs) for attack in attacks_on(pair, 1 + index % 2)]
    assert judge.accuracy(as_examples(attacks[::3])) >= 0.95


def test_the_reply_is_one_digit(judge: TinyJudge):
    examples = [*islice(draw_examples(18, "test"), 100)]
    with torch.no_grad():
        tokens = judge.logits(examples)[0].argmax(-1)
    replies = [read_reply(judge.processor.tokenizer.decode(token)) for token in tokens]
    assert None not in replies, "without any constraint on what may be said"
    assert replies == judge.replies(examples)


def test_it_loads_as_qwen_does(judge: TinyJudge):
    assert type(judge.processor).__name__ == "Qwen2_5_VLProcessor"
    assert type(judge.model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    text = judge.model.config.text_config
    assert text.hidden_size // text.num_attention_heads == 64


def test_the_vision_tower_is_untouched(tiny_judge: Path, judge: TinyJudge):
    fresh = build_model(judge.processor, 0).model.visual.state_dict()
    trained = judge.model.model.visual.state_dict()
    assert all(torch.equal(fresh[name], trained[name]) for name in fresh)
    assert load_file(tiny_judge / "model.safetensors")


def test_the_card_tells_what_was_measured(tiny_judge: Path):
    card = json.loads((tiny_judge.parent / "world.json").read_text())["judge"]
    assert card.keys() == {"steps", "held_out", "attacked"}
    assert card["held_out"] >= 0.95
    assert card["attacked"] >= 0.9
