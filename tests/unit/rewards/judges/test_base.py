"""The judges that need no model, and how a judge is chosen."""

import asyncio

import pytest

from r1reward_verl.rewards import make_judge
from r1reward_verl.rewards.judges.base import Opinion


@pytest.mark.parametrize(
    ("reasoning", "choice", "expected"),
    [
        ("So response 1 is better.", 1, 1.0),
        ("So response 1 is better.", 2, -1.0),  # the opposite
        ("It is hard to say.", 1, -1.0),  # ambiguous
        ("Both responses are good.", 1, -1.0),  # approval of both
        ("Both responses are good.", 2, -1.0),
    ],
)
def test_rules_judge(reasoning, choice, expected):
    opinion = asyncio.run(make_judge({"name": "rules"}).judge(reasoning, choice))
    assert opinion == Opinion(expected, "judged")


def test_no_judge_has_no_opinion():
    opinion = asyncio.run(make_judge({"name": "none"}).judge("So response 1 is better.", 1))
    assert opinion == Opinion(0.0, "skipped")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "oracle"}, "'oracle'; known judges: none, rules, pool, colocated, endpoint"),
        ({}, "one of: none, rules"),
        ({"name": "rules", "temperature": 0.1}, "'rules' does not take .*temperature"),
        ({"name": "endpoint"}, "'endpoint' does not take .*urls"),
        ({"name": "endpoint", "urls": []}, r"judge: urls is \[\]; give a list of addresses"),
        ({"name": "endpoint", "urls": ["host:8000"]}, "host:8000"),
        ({"name": "endpoint", "urls": ["http://h/v1"], "lines": 0}, "judge.lines is 0"),
        ({"name": "endpoint", "urls": ["http://h/v1"], "temperature": -1}, "judge.temperature is -1"),
        ({"name": "endpoint", "urls": ["http://h/v1"], "confidence": "yes"}, "judge.confidence is 'yes'"),
        ({"name": "endpoint", "urls": ["http://h/v1"], "cache_size": -1}, "judge.cache_size is -1"),
        ({"name": "endpoint", "urls": ["http://h/v1"], "timeout": 60, "max_wait": 30}, "timeout is 60"),
        ({"name": "endpoint", "urls": ["http://h/v1"], "api_key_env": "NOWHERE_SET"}, "'NOWHERE_SET'.*is not set"),
        ({"name": "pool", "concurrency": 0}, "concurrency is 0"),
    ],
)
def test_a_judge_that_cannot_be_built_is_an_error_with_the_way_out(config, message):
    with pytest.raises(ValueError, match=message):
        make_judge(config)


def test_a_judge_that_verl_serves_is_checked_before_its_address_is_known():
    make_judge({"name": "pool", "lines": "all", "confidence": True})
    make_judge({"name": "colocated", "urls": ["http://10.0.0.1:1234/v1"], "model": "judge"})
