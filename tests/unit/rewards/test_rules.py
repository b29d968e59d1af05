"""The rewards by rules: what each part is worth, and how they add up."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1reward_verl.judgement import parse
from r1reward_verl.rewards import RewardSettings, RewardWeights, combine, format_reward, result_reward

ONE = "<think>a</think><answer>1</answer>"


@pytest.mark.parametrize(
    ("text", "format_", "result"),  # for label 1
    [
        (ONE, 1, 1),
        ("<think>a</think><answer>2</answer>", 1, 0),
        ("<think>a</think><answer>tie</answer>", 1, 0),  # well-formed, as in the reference, but no choice
        ("<think>a</think> <answer>1</answer>", 0, 0),
        ("<answer>1</answer>", 0, 0),
        ("<think>a</think><answer>1", 0, 0),
        ("1", 0, 0),
        ("", 0, 0),
    ],
)
def test_format_and_result(text, format_, result):
    assert format_reward(text) == format_
    assert result_reward(text, 1) == result
    verdict = parse(text)
    assert (format_reward(verdict), result_reward(verdict, 1)) == (format_, result)


def test_lenient_result_is_given_only_on_request_and_brings_no_format_reward():
    text = "I say <answer>1</answer>"
    assert (result_reward(text, "1"), result_reward(text, "1", lenient="answer_tag")) == (0, 1)
    assert result_reward("It is 1", 1, lenient="last_digit") == 1
    assert format_reward(text) == 0


@pytest.mark.parametrize("label", [0, 3, "A", None, ""])
def test_a_label_other_than_1_or_2_is_an_error_even_for_an_unreadable_judgement(label):
    for text in (ONE, ""):
        with pytest.raises(ValueError, match="neither 1 nor 2"):
            result_reward(text, label)


@pytest.mark.parametrize(
    ("result", "consistency", "format_", "reward"),
    [
        (1, 1, 1, 2.0),
        (1, 0, 1, 1.5),  # the judge could not tell
        (1, -1, 1, 1.0),
        (0, 1, 1, 0.5),
        (0, 0, 1, 0.5),
        (0, -1, 1, 0.5),
        (1, 0, 0, 1.0),
        (0, 0, 0, 0.0),
    ],
)
def test_totals_of_the_paper(result, consistency, format_, reward):
    assert combine(result, consistency, format_) == reward


def test_weights_scale_the_two_parts():
    weights = RewardWeights(consistency=0.25, format=2)
    assert combine(1, -1, 1, weights) == 1 * (1 - 0.25) + 2
    assert combine(1, 1, 1, RewardWeights(consistency=0, format=0)) == 1


@given(st.floats(0, 1e3), st.floats(0, 1e3), st.sampled_from([-1, 0, 1]), st.sampled_from([0, 1]))
def test_consistency_never_changes_the_reward_of_a_wrong_answer(
    consistency_weight, format_weight, consistency, format_
):
    weights = RewardWeights(consistency_weight, format_weight)
    assert combine(0, consistency, format_, weights) == combine(0, 0, format_, weights)


class TestSettings:
    def test_absent_means_the_papers_weights_and_the_embedded_judge(self):
        settings = RewardSettings.from_config(None)
        assert settings == RewardSettings(judge={"name": "rules"}, consistency_weight=0.5, format_weight=0.5)
        assert settings.lenient is None
        assert settings == RewardSettings.from_config({})

    def test_are_read(self):
        settings = RewardSettings.from_config(
            {"judge": {"name": "none"}, "consistency_weight": 0, "format_weight": 1, "lenient": "last_digit"}
        )
        assert settings.weights == RewardWeights(0, 1)
        assert (settings.judge["name"], settings.lenient) == ("none", "last_digit")

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            (
                {"format_wieght": 1},
                "unknown setting reward.r1_reward.format_wieght; known: judge, consistency_weight",
            ),
            ({"format_weight": -1}, "reward.r1_reward: format_weight is -1"),
            ({"consistency_weight": math.nan}, "consistency_weight is nan"),
            ({"consistency_weight": math.inf}, "consistency_weight is inf"),
            ({"consistency_weight": "0.5"}, "consistency_weight is '0.5'"),
            ({"format_weight": None}, "format_weight is None"),
            ({"lenient": "yes"}, "reward.r1_reward.lenient is 'yes'; known: null, answer_tag, last_digit"),
            (
                {"judge": {"name": "oracle"}},
                "reward.r1_reward: judge.name is 'oracle'; known judges: none, rules",
            ),
            ({"judge": "rules"}, "judge is 'rules'; it must be a mapping with a name"),
            ({"judge": None}, "judge is None"),
            (["judge"], r"reward.r1_reward is \['judge'\]"),
        ],
    )
    def test_a_wrong_one_is_an_error_that_names_setting_and_value(self, section, message):
        with pytest.raises(ValueError, match=message):
            RewardSettings.from_config(section)
