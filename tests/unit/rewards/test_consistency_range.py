"""`consistency_range`: what an inconsistent and a consistent judgement count."""

import pytest

from r1reward_verl.rewards import combine
from r1reward_verl.rewards.rules import RewardWeights
from r1reward_verl.rewards.settings import RewardSettings


@pytest.mark.parametrize(
    ("bounds", "consistency", "reward"),
    [
        ((-1.0, 1.0), 1, 2.0),
        ((-1.0, 1.0), -1, 1.0),
        ((0.0, 1.0), -1, 1.5),  # not punished
        ((0.0, 1.0), 1, 2.0),
        ((-1.0, 0.0), 1, 1.5),  # not rewarded
        ((-0.5, 2.0), -1, 1.25),
        ((-0.5, 2.0), 1, 2.5),
        ((-0.5, 2.0), 0, 1.5),  # the judge could not tell
    ],
)
def test_a_right_answer_earns_by_the_range(bounds, consistency, reward):
    assert combine(1.0, consistency, 1.0, RewardWeights(consistency_range=bounds)) == reward


def test_it_is_read_from_the_settings():
    settings = RewardSettings.from_config({"consistency_range": [0, 1]})
    assert combine(1.0, -1, 1.0, settings.weights) == 1.5


@pytest.mark.parametrize("bad", [[1, 2], [-1], [-1, 0, 1], ["low", "high"], 3, [-1, float("inf")], [True, True]])
def test_a_bad_range_is_an_error_that_names_it(bad):
    with pytest.raises(ValueError, match="consistency_range is"):
        RewardSettings.from_config({"consistency_range": bad})
