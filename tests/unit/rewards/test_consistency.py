"""The judges: what counts as a conclusion, and when it agrees with the answer."""

import asyncio
import time

import pytest

from r1reward_verl.rewards import conclusion, make_judge

TOY = "The answer is green. Response 1 says green: yes. Response 2 says white: no. So response {} is better."


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        # plain statements
        (TOY.format(1), 1),
        (TOY.format(2), 2),
        ("response 1 is better", 1),
        ("RESPONSE 2 IS BETTER!", 2),
        ("**Response 2** is better.", 2),
        ("Response #2 is better.", 2),
        ("Response one is better.", 1),
        ("The second response is preferable.", 2),
        ("The second is better.", 2),
        ("Response 2 wins.", 2),
        ("Response 1 beats response 2 and is better.", 1),
        ("Response 2's description is better.", 2),
        # the name comes after
        ("The better one is response 2.", 2),
        ("The winner is the first response", 1),
        ("I prefer response 1.", 1),
        ("I would choose response 2.", 2),
        ("I'd go with response 1.", 1),
        ("My choice is response 2.", 2),
        ("Response 1 is the one I prefer.", 1),
        # comparisons, whichever is named first
        ("Response 1 is worse than response 2.", 2),
        ("Response 1 is inferior to Response 2", 2),
        ("Response 2 is superior to response 1.", 2),
        ("Response 2 is superior to response 1 and stronger.", 2),
        ("I prefer it to response 2.", 1),
        ("I prefer response 1 over response 2.", 1),
        ("I prefer response 2 to response 1.", 2),
        ("Rather than response 1, I prefer response 2.", 2),
        ("Compared to response 1, response 2 is better.", 2),
        ("Response 2, compared to response 1, is better.", 2),
        ("It is better than response 2.", 1),
        ("Response 1 is not as good as response 2.", 2),
        ("Response 2 is better than response 1, which is worse.", 2),
        ("Therefore, response 1 is the better response, while response 2 is worse.", 1),
        ("Response 1 loses.", 2),
        ("First, response 2 is better.", 2),
        # reasons and negations about the other one
        ("Response 1 is better because response 2 is better at nothing.", 1),
        ("Response 1 is not accurate, response 2 is better.", 2),
        ("Response 1 is not accurate and response 2 is better.", 2),
        ("Response 1 is not only accurate but also better.", 1),
        # a marked conclusion decides
        ("Response 1 is better in style. Overall, response 2 is better.", 2),
        ("Response 1 is better in style, but response 2 is better overall.", 2),
        ("Both are correct, but response 2 is better.", 2),
        ("In conclusion,\nresponse 2 is the stronger answer", 2),
        # one quality, where nothing is said of the whole
        ("Overall, response 2 gives a more accurate and detailed answer.", 2),
        ("Response 1 is less relevant than response 2.", 2),
        ("Response 1 is more detailed, but response 2 is better.", 2),
        ("Response 1 is more detailed, but response 2 is more accurate.", "both"),
        # approval of both
        ("Both responses are good.", "both"),
        ("Response 1 and response 2 are equally good.", "both"),
        ("Response 1 and 2 are both better.", "both"),
        ("The first and second responses are equal.", "both"),
        ("Response 1 is as good as response 2.", "both"),
        ("It's a tie.", "both"),
        ("Response 1 is better. Response 2 is better.", "both"),
        ("Response 1 is better. But really, both are equally good.", "both"),
        # no conclusion
        ("", None),
        ("\n\n", None),
        ("Response 1 is good.", None),
        ("Response 1 is not better.", None),
        ("Response 1 isn\u2019t better than response 2.", None),
        ("Response 1 is no better.", None),
        ("I don't think response 1 is better.", None),
        ("Neither response 1 nor response 2 is better.", None),
        ("Is response 1 better?", None),
        ("Whether response 1 or response 2 is better is unclear.", None),
        ("Response 1 would be better if it named the dog.", None),
        ("Response 12 is better.", None),
        ("Response \u0661 is better.", None),
        ("Better safe than sorry.", None),
    ],
)
def test_conclusion(reasoning, expected):
    assert conclusion(reasoning) == expected


def test_only_the_last_three_lines_count():
    assert conclusion("Response 1 is better.\na\nb") == 1
    assert conclusion("Response 1 is better.\na\nb\nc") is None
    assert conclusion("Response 2 is better.\na\nb\nResponse 1 is better.\n\n") == 1


@pytest.mark.parametrize(
    ("reasoning", "choice", "expected"),
    [
        ("So response 1 is better.", 1, 1),
        ("So response 1 is better.", 2, -1),  # the opposite
        ("It is hard to say.", 1, -1),  # ambiguous
        ("Both responses are good.", 1, -1),  # approval of both
        ("Both responses are good.", 2, -1),
    ],
)
def test_rules_judge(reasoning, choice, expected):
    assert asyncio.run(make_judge({"name": "rules"}).judge(reasoning, choice)) == expected


def test_no_judge_has_no_opinion():
    assert asyncio.run(make_judge({"name": "none"}).judge("So response 1 is better.", 1)) == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "oracle"}, "'oracle'; known judges: none, rules"),
        ({}, "one of: none, rules"),
        ({"name": "rules", "temperature": 0.1}, "'rules' does not take .*temperature"),
    ],
)
def test_a_judge_that_cannot_be_built_is_an_error_with_the_way_out(config, message):
    with pytest.raises(ValueError, match=message):
        make_judge(config)


@pytest.mark.parametrize(
    "piece",
    [
        "response 1 is better than response 2 and ",
        "Both are good. Response 1 is better. ",
        "response 1 is better? ",
        "both ",
        "so, ",
        "a",
        "'s",
        "\n",
        "not ",
        "\x00",
    ],
)
def test_time_is_linear_on_hostile_input(piece):
    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        start = time.perf_counter()
        conclusion(text)
        return time.perf_counter() - start

    assert seconds(400_000) < 20 * seconds(100_000) + 0.1  # 4 times is linear; 16 times would be quadratic
    assert seconds(1_000_000) < 10
