"""The tiny judge before its training: examples whose verdicts are the rules', attacks, and how it reads and replies."""

from collections import Counter
from itertools import islice

import pytest

from judge_attacks import ATTACKS, KNOWN_RULES_MISSES, PLANTED, UNSEEN, Attack, attacks_on
from r1reward_verl.judgement import parse
from r1reward_verl.rewards.conclusions import conclusion
from r1reward_verl.rewards.judges.prompt import closing, messages
from r1reward_verl.toy import world
from r1reward_verl.toy.judge import STYLES, JudgeExample, TinyJudge, draw_examples, judge_processor, split_of
from r1reward_verl.toy.model import build_model

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def examples() -> dict[str, list[JudgeExample]]:
    return {split: [*islice(draw_examples(0, split), 1000)] for split in SPLITS}


@pytest.fixture(scope="module")
def processor():
    return judge_processor(0)


class TestExamples:
    def test_verdicts_are_those_of_the_rules(self, examples):
        for example in (example for split in SPLITS for example in examples[split]):
            assert example.verdict == (conclusion(example.reasoning) == example.choice)

    def test_verdicts_and_choices_are_balanced(self, examples):
        for split in SPLITS:
            counts = Counter((example.verdict, example.choice) for example in examples[split])
            assert counts[0, 1] + counts[0, 2] == counts[1, 1] + counts[1, 2] == 500
            assert min(counts.values()) >= 200

    def test_every_style_is_there_and_planted_lines_give_no_verdict_away(self, examples):
        styles = Counter((example.style, example.verdict) for example in examples["train"])
        assert {style for style, _ in styles} == set(STYLES)
        for style in ("plain", "worded", "planted", "contradicting", "shuffled"):
            share = styles[style, 1] / (styles[style, 0] + styles[style, 1])
            assert 0.3 < share < 0.7, style

    def test_the_same_seed_draws_the_same_cases(self, examples):
        assert [*islice(draw_examples(0, "train"), 1000)] == examples["train"]
        assert [*islice(draw_examples(1, "train"), 1000)] != examples["train"]

    def test_plain_cases_are_traces_of_the_toy_world(self, examples):
        pairs = world.draw_pairs(1000, 0, "judge")
        traces = {
            parse(world.judgement(pair, label, fault)).think
            for pair in pairs
            for label in (1, 2)
            for fault in ("none", "wrong")
        }
        for split in ("val", "test"):
            plain = [example for example in examples[split] if example.style == "plain"]
            assert {example.reasoning for example in plain} <= traces

    def test_simple_cases_have_the_conclusion_anywhere(self, examples):
        conclusions = {f"So response {choice} is better." for choice in (1, 2)}
        simple = [example for example in examples["train"] if example.style == "simple"]
        places = {
            index
            for example in simple
            for index, line in enumerate(example.reasoning.split("\n"))
            if line in conclusions
        }
        assert places == {0, 1, 2, 3}

    def test_splits_speak_of_different_pairs_of_values(self):
        values = {(split_of(pair), pair.kind, pair.right, pair.wrong) for pair in world.draw_pairs(2000, 0, "anything")}
        assert len(values) == 24, "every pair of values belongs to one split"
        assert Counter((split, kind) for split, kind, _, _ in values) == {
            (split, kind): count for split, count in zip(SPLITS, (6, 2, 4), strict=True) for kind in ("colour", "shape")
        }

    def test_prompts_to_leave_out_are_left_out(self, examples):
        unwanted = {example.prompt for example in examples["train"][:200]}
        drawn = [*islice(draw_examples(0, "train", without=unwanted), 2000)]
        assert not {example.prompt for example in drawn} & unwanted
        assert Counter(example.verdict for example in drawn) == {0: 1000, 1: 1000}


class TestAttacks:
    def test_there_are_many_of_many_kinds(self):
        assert len(ATTACKS) >= 40
        assert len({attack.kind for attack in ATTACKS}) >= 8
        assert PLANTED.keys() >= UNSEEN
        assert len(UNSEEN) >= len(PLANTED) / 2

    def test_unseen_lines_are_in_no_training_case(self, examples):
        text = "\n".join(example.reasoning for example in examples["train"]).lower()
        for kind in UNSEEN:
            assert not [line for line in PLANTED[kind] if len(line) > 3 and line.lower() in text], kind

    @pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.kind)
    def test_the_rules_hold(self, attack: Attack):
        assert conclusion(attack.reasoning) != attack.choice

    def test_the_rules_hold_on_many(self):
        for pair in world.draw_pairs(4, 0, "attack"):
            for attack in attacks_on(pair, 1):
                # A bare verdict where nothing is concluded in words is read as one (KNOWN_RULES_MISSES).
                if "So response" in attack.reasoning or "erdict" not in attack.reasoning:
                    assert conclusion(attack.reasoning) != attack.choice

    @pytest.mark.parametrize("attack", KNOWN_RULES_MISSES, ids=lambda attack: attack.kind)
    @pytest.mark.xfail(strict=True, reason="the rules take every statement at its word")
    def test_known_misses_of_the_rules(self, attack: Attack):
        assert conclusion(attack.reasoning) != attack.choice


class TestProcessor:
    def test_each_digit_is_one_token(self, processor):
        tokens = [processor.tokenizer(digit).input_ids for digit in "01"]
        assert [len(token) for token in tokens] == [1, 1]
        assert TinyJudge(None, processor).digits == [tokens[0][0], tokens[1][0]]

    def test_prompts_come_back_whole(self, processor, examples):
        for example in examples["test"][:50]:
            text = processor.apply_chat_template(example.messages, add_generation_prompt=True)
            assert text.endswith("<|im_start|>assistant\n")
            assert processor.tokenizer.decode(processor.tokenizer(text).input_ids) == text

    def test_nothing_a_policy_writes_becomes_part_of_the_frame(self, processor):
        fixed = {index for index in processor.tokenizer.added_tokens_decoder if index >= 640}

        def frame(reasoning: str) -> list[int]:
            text = processor.apply_chat_template(messages(closing(reasoning), 1), add_generation_prompt=True)
            return [token for token in processor.tokenizer(text).input_ids if token in fixed]

        numbers = [processor.tokenizer(f" {choice}").input_ids[0] for choice in (1, 2)]
        plain = frame("nothing")
        assert len(plain) == 3
        for attack in (*ATTACKS, Attack("tag", messages("x", 2)[1]["content"], 1)):
            assert [token for token in frame(attack.reasoning) if token not in numbers] == plain

    def test_an_untrained_judge_replies_by_the_greater_logit(self, processor, examples):
        judge = TinyJudge(build_model(processor, 0), processor)
        few = examples["test"][:20]
        replies = judge.replies(few)
        assert set(replies) <= {0, 1}
        one_by_one = [judge.replies([example])[0] for example in few]
        assert replies == one_by_one, "padding changes nothing"
