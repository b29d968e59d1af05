"""The reward of a judgement as a whole, and whether the judge is asked for it."""

import asyncio

import pytest

from r1reward_verl.rewards.function import compute_score
from r1reward_verl.rewards.judges.base import Opinion
from r1reward_verl.rewards.scorer import Scorer
from r1reward_verl.rewards.settings import RewardSettings

RIGHT = "<think>So response 1 is better.</think><answer>1</answer>"
INCONSISTENT = "<think>So response 2 is better.</think><answer>1</answer>"
WRONG = "<think>So response 2 is better.</think><answer>2</answer>"
MALFORMED = "So response 1 is better: <answer>1</answer>"


class Spy:
    def __init__(self, opinion: Opinion) -> None:
        self.opinion = opinion
        self.asked: list = []

    async def judge(self, reasoning, choice):
        self.asked.append((reasoning, choice))
        return self.opinion


def score(text: str, opinion: Opinion, **settings):
    spy = Spy(opinion)
    return asyncio.run(Scorer(RewardSettings(**settings), spy).reward(text, 1)), spy.asked


@pytest.mark.parametrize(
    ("opinion", "expected"),
    [
        (Opinion(1.0, "judged"), 2.0),
        (Opinion(1.0, "cached"), 2.0),
        (Opinion(-1.0, "judged"), 1.0),
        (Opinion(0.0, "undecided"), 1.5),
        (Opinion(0.0, "failed"), 1.5),
        (Opinion(0.5, "judged"), 1.75),  # a soft verdict
    ],
)
def test_a_right_answer_is_worth_what_the_judge_says(opinion, expected):
    result, asked = score(RIGHT, opinion)
    assert result.total == expected
    assert asked == [("So response 1 is better.", 1)]
    assert result.opinion == opinion


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        (WRONG, {}, 0.5),
        (MALFORMED, {}, 0.0),
        ("", {}, 0.0),
        (RIGHT, {"consistency_weight": 0.0}, 1.5),
    ],
)
def test_the_judge_is_asked_only_where_it_can_change_the_reward(text, settings, expected):
    result, asked = score(text, Opinion(1.0, "judged"), **settings)
    assert not asked
    assert result.total == expected
    assert result.opinion.status == "skipped"


def test_a_malformed_right_answer_read_leniently_is_judged():
    result, asked = score(MALFORMED, Opinion(-1.0, "judged"), lenient="answer_tag")
    assert asked
    assert result.total == 0.5


def test_the_same_keys_whatever_happened():
    infos = [score(text, Opinion(1.0, "judged"))[0].as_info() for text in (RIGHT, WRONG, MALFORMED, "")]
    assert len({tuple(info) for info in infos}) == 1


def test_the_reward_as_one_function():
    async def scores():
        return [(await compute_score("toy", text, "1"))["score"] for text in (RIGHT, INCONSISTENT, WRONG)]

    assert asyncio.run(scores()) == [2.0, 1.0, 0.5]
