"""The rewards beyond the paper: what each is worth, and that none is there unless it is asked for."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1reward_verl.judgement import build_prompt, load_template, parse
from r1reward_verl.rewards.scorer import Scorer
from r1reward_verl.rewards.settings import RewardSettings
from r1reward_verl.rewards.terms import Terms, agreement_rewards, calibration_reward, stated_confidence


def judgement(choice, *lines):
    reasoning = "\n".join([*lines, f"So response {choice} is better."])
    return f"<think>{reasoning}</think><answer>{choice}</answer>"


@pytest.mark.parametrize(
    ("text", "confidence"),
    [
        (judgement(1, "Confidence: 80%."), 0.8),
        (judgement(1, "My confidence is 5 %"), 0.05),
        (judgement(1, "Confidence: 20%.", "On a second look, CONFIDENCE: 100%"), 1.0),
        (judgement(1, "Confidence: 0%"), 0.0),
        (judgement(1, "Confidence: 101%"), None),
        (judgement(1, "Confidence: 1000%"), None),
        (judgement(1, "Confidence: high"), None),
        (judgement(1, "Confidence: ٩٠%"), None),
        (judgement(1, "80%"), None),
        (judgement("tie", "Confidence: 80%"), None),
        ("<think>So response 1 is better.</think><answer>1</answer>Confidence: 80%", None),
        ("", None),
    ],
)
def test_the_last_stated_confidence_of_the_reasoning_counts(text, confidence):
    assert stated_confidence(parse(text)) == confidence


@given(st.floats(0, 1), st.floats(0, 1))
def test_no_statement_is_worth_more_than_the_true_probability(probability, statement):
    def expected(stated):
        right, wrong = calibration_reward(stated, right=True), calibration_reward(stated, right=False)
        return probability * right + (1 - probability) * wrong

    assert expected(statement) <= expected(probability) + 1e-12


def info(pair, label, pred):
    return {"pair_id": pair, "label": str(label), "pred": str(pred)}


@pytest.mark.parametrize(
    ("infos", "shares"),
    [
        ([info("p", 1, 1), info("p", 2, 2)], [1, 1]),  # both name the better response
        ([info("p", 1, 2), info("p", 2, 1)], [1, 1]),  # both name the worse one: they agree all the same
        ([info("p", 1, 1), info("p", 2, 1)], [0, 0]),  # always the first
        ([info("p", 1, ""), info("p", 2, 2)], [0, 0]),  # no choice agrees with nothing
        ([info("p", 1, ""), info("p", 2, "")], [0, 0]),
        ([info("p", 1, 1), info("p", 1, 1)], [None, None]),  # the same order twice
        ([info("p", 1, 1), info("q", 2, 2)], [None, None]),
        ([info("", 1, 1), info("", 2, 2)], [None, None]),  # rows that are of no pair
        # Several of each order: the share of the others that agree.
        ([info("p", 1, 1), info("p", 1, 2), info("p", 2, 2), info("p", 2, 2)], [1, 0, 0.5, 0.5]),
        ([], []),
    ],
)
def test_agreement_with_the_other_order(infos, shares):
    assert agreement_rewards(infos) == shares


@pytest.mark.parametrize(
    ("settings", "text", "tokens", "total"),
    [
        ({}, judgement(1, "Confidence: 0%."), 5000, 2.0),
        ({"calibration_weight": 0.5}, judgement(1, "Confidence: 100%."), 0, 2.5),
        ({"calibration_weight": 0.5}, judgement(1, "Confidence: 0%."), 0, 2.0),
        ({"calibration_weight": 0.5}, judgement(1), 0, 2.0),
        ({"calibration_weight": 0.5}, judgement(2, "Confidence: 0%."), 0, 1.0),
        ({"calibration_weight": 0.5}, judgement(2, "Confidence: 50%."), 0, 0.5 + 0.5 * 0.75),
        ({"calibration_weight": 0.5}, "Confidence: 0%", 0, 0.0),
        ({"length_weight": 0.4}, judgement(1), 256, 2.0),
        ({"length_weight": 0.4}, judgement(1), 640, 1.8),
        ({"length_weight": 0.4}, judgement(2), 9999, 0.5 - 0.4),
        ({"length_weight": 0.4, "length_range": [0, 100]}, judgement(1), 25, 1.9),
    ],
)
def test_totals(settings, text, tokens, total):
    reward = asyncio.run(Scorer(RewardSettings(**settings)).reward(text, 1, tokens))
    assert reward.total == pytest.approx(total)
    assert reward.as_info()["score"] == reward.total


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"agreement_weight": -1}, "reward.r1_reward: agreement_weight is -1"),
        ({"calibration_weight": "1"}, "calibration_weight is '1'; it must be a finite number of at least 0"),
        ({"length_weight": math.inf}, "length_weight is inf"),
        ({"length_range": [5, 5]}, r"length_range is \[5, 5\]; it must be two numbers of tokens"),
        ({"length_range": [-1, 5]}, "length_range is"),
        ({"length_range": [1, 2, 3]}, "length_range is"),
        ({"length_range": 7}, r"length_range is \[7\]"),
        ({"length_range": "ab"}, "length_range is"),
    ],
)
def test_a_wrong_setting_is_an_error(section, message):
    with pytest.raises(ValueError, match=message):
        RewardSettings.from_config(section)


def test_none_of_them_is_there_unless_it_is_asked_for():
    assert RewardSettings().terms == Terms()
    assert Terms().of_judgement(0.3, right=False, tokens=10**6) == 0


def test_the_example_prompt_asks_for_what_is_read(pytestconfig):
    template = load_template(pytestconfig.rootpath / "examples" / "prompt_with_confidence.txt")
    prompt = build_prompt("Which?", "This.", "That.", template)
    assert stated_confidence(parse(judgement(1, prompt[prompt.index("Confidence:") :].partition('"')[0]))) == 0.8
