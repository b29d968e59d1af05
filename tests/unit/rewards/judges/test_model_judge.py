"""The judge that is a model, against a real HTTP server on this machine."""

import asyncio
import json
import math

import pytest

from chat_server import Answer, ChatServer, completion, in_turn
from r1reward_verl.rewards.judges.base import Opinion
from r1reward_verl.rewards.judges.model import ModelJudge

REASONING = "The picture shows a green circle.\nSo response 1 is better."


def verdict(text: str, **logprobs: float) -> Answer:
    answer = completion(text)
    if logprobs:
        tokens = [{"token": token.strip("_"), "logprob": math.log(p)} for token, p in logprobs.items()]
        answer["choices"][0]["logprobs"] = {"content": [{**tokens[0], "top_logprobs": tokens}]}
    return Answer(answer)


def ask(server: ChatServer, *questions: tuple[str, int], **options) -> list[Opinion]:
    """Ask one after the other."""

    async def run() -> list[Opinion]:
        judge = ModelJudge([server.url], "judge", **{"timeout": 2, "max_wait": 2, **options})
        try:
            return [await judge.judge(reasoning, choice) for reasoning, choice in questions]
        finally:
            await judge.close()

    return asyncio.run(run())


@pytest.mark.parametrize(("reply", "consistency"), [("1", 1.0), ("0", -1.0)])
def test_one_constrained_token_decides(reply, consistency):
    with ChatServer(verdict(reply)) as server:
        (opinion,) = ask(server, (REASONING, 1))
    assert (opinion.consistency, opinion.status, opinion.retries) == (consistency, "judged", 0)
    assert opinion.seconds > 0
    body = server.requests[0].body
    assert body["model"] == "judge"
    assert body["max_tokens"] == 1
    assert body["structured_outputs"] == {"choice": ["0", "1"]}
    assert body["temperature"] == 0.1
    assert "green circle.; So response 1 is better." in server.requests[0].text
    assert "<choice>response 1 is better</choice>" in server.requests[0].text


def test_the_same_question_is_asked_once():
    with ChatServer(verdict("1")) as server:
        opinions = ask(server, (REASONING, 1), (f"earlier\n\nlines\n{REASONING}", 1), (REASONING, 2), (REASONING, 1))
    statuses = [opinion.status for opinion in opinions]
    assert statuses == ["judged", "judged", "judged", "cached"]  # another choice or other closing lines: another one
    assert len(server.requests) == 3


def test_the_same_question_at_the_same_time_is_asked_once():
    async def run(url: str) -> list[Opinion]:
        judge = ModelJudge([url], "judge", cache_size=0)
        opinions = await asyncio.gather(*(judge.judge(REASONING, 1) for _ in range(50)))
        await judge.close()
        return opinions

    with ChatServer(Answer(completion("0"), delay=0.1)) as server:
        opinions = asyncio.run(run(server.url))
    assert len(server.requests) == 1
    assert {opinion.consistency for opinion in opinions} == {-1.0}
    assert sorted(opinion.status for opinion in opinions) == ["cached"] * 49 + ["judged"]


def test_the_cache_is_bounded():
    with ChatServer(verdict("1")) as server:
        questions = [(f"{number}\n{REASONING}", 1) for number in (1, 2, 3, 1, 3)]
        statuses = [opinion.status for opinion in ask(server, *questions, cache_size=2)]
    assert statuses == ["judged", "judged", "judged", "judged", "cached"]


def test_what_is_undecided_or_failed_is_asked_again():
    with ChatServer(in_turn(*[verdict("maybe")] * 6, verdict("1"))) as server:
        first, second = ask(server, (REASONING, 1), (REASONING, 1))
    assert first.status == "undecided"
    assert second == Opinion(1.0, "judged", second.retries, second.seconds)


def test_unreadable_after_the_retries_is_undecided():
    with ChatServer(verdict("I cannot tell")) as server:
        (opinion,) = ask(server, (REASONING, 1), retries=2)
    assert (opinion.consistency, opinion.status) == (0.0, "undecided")
    assert opinion.retries == len(server.requests) - 1
    # a constraint that was ignored once is not tried again; then three tries in words
    assert [request.body["max_tokens"] for request in server.requests] == [1, 8, 8, 8]


def test_a_server_in_trouble_keeps_its_constraint():
    trouble = [Answer("<html>busy</html>")] * 3
    with ChatServer(in_turn(*trouble, verdict("1"))) as server:
        first, second = ask(server, (REASONING, 1), (REASONING, 2))
    assert (first.status, second.status) == ("undecided", "judged")
    assert all("structured_outputs" in request.body for request in server.requests)


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_the_constraint_is_asked_in_words(status):
    def script(request):
        if "structured_outputs" in request.body:
            return Answer({"error": "extra fields not permitted"}, status=status)
        return verdict("Output: 1")

    with ChatServer(script) as server:
        first, second = ask(server, (REASONING, 1), (REASONING, 2))
    assert (first.consistency, second.consistency) == (1.0, 1.0)
    assert ["structured_outputs" in request.body for request in server.requests] == [True, False] * 2


def test_a_server_that_ignores_the_constraint_is_asked_in_words():
    def script(request):
        return verdict("The" if request.body["max_tokens"] == 1 else "The output is 0.")

    with ChatServer(script) as server:
        opinions = ask(server, (REASONING, 1), (REASONING, 2), retries=0)
    assert [opinion.consistency for opinion in opinions] == [-1.0, -1.0]
    assert [request.body["max_tokens"] for request in server.requests] == [1, 8, 1, 8]


def test_confidence_is_a_soft_verdict():
    with ChatServer(verdict("1", _1=0.8, _0=0.2)) as server:
        (opinion,) = ask(server, (REASONING, 1), confidence=True)
    assert opinion.consistency == pytest.approx(0.6)
    assert server.requests[0].body["logprobs"] is True
    assert server.requests[0].body["top_logprobs"] == 20


def test_confidence_without_log_probabilities_is_undecided():
    with ChatServer(verdict("1")) as server:
        (opinion,) = ask(server, (REASONING, 1), confidence=True, retries=0)
    assert opinion.status == "undecided"


@pytest.mark.parametrize("reasoning", ["", " \n \n"])
def test_reasoning_without_a_word_concludes_nothing(reasoning):
    with ChatServer(verdict("1")) as server:
        assert ask(server, (reasoning, 1)) == [Opinion(-1.0, "judged")]
    assert not server.requests


def test_text_that_is_no_text_is_judged_too():
    with ChatServer(verdict("1")) as server:
        (opinion,) = ask(server, ("So response 1 \ud800 is better.", 1))
    assert opinion.consistency == 1.0


def test_a_refused_request_is_a_failure():
    with ChatServer(Answer("no", status=401)) as server:
        (opinion,) = ask(server, (REASONING, 1))
    assert (opinion.consistency, opinion.status) == (0.0, "failed")
    assert len(server.requests) == 1


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("R1REWARD_JUDGE_API_KEY", "sk-default")
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    with ChatServer(verdict("1")) as server:
        ask(server, (REASONING, 1))
        ask(server, (REASONING, 1), api_key_env="OTHER_KEY")
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer sk-default", "Bearer sk-other"]
    assert all("sk-" not in json.dumps(request.body) for request in server.requests)


def test_cancelling_the_last_who_waits_cancels_the_request():
    async def run(server: ChatServer) -> int:
        judge = ModelJudge([server.url], "judge")
        waiting = [asyncio.ensure_future(judge.judge(REASONING, 1)) for _ in range(3)]
        while not server.requests:
            await asyncio.sleep(0.01)
        waiting[0].cancel()
        await asyncio.sleep(0.05)
        assert server.connections == 1, "two still wait"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0.1)
        left = len(asyncio.all_tasks()) - 1
        opinion = await asyncio.wait_for(judge.judge("Response 2 is better.", 2), 5)  # and the judge still works
        assert opinion.consistency == 1.0
        await judge.close()
        return left

    def script(request):
        return Answer(completion("1"), delay=30.0 if "response 1" in request.text else 0.0)

    with ChatServer(script) as server:
        assert asyncio.run(run(server)) == 0


def test_ten_thousand_at_once_in_order():
    async def run(url: str) -> list[Opinion]:
        judge = ModelJudge([url], "judge", concurrency=32, max_wait=100)
        questions = (judge.judge(f"{number}\nresponse {1 + number % 2} is better", 1) for number in range(10_000))
        opinions = await asyncio.gather(*questions)
        await judge.close()
        return opinions

    def script(request):
        return verdict("1" if "response 1 is better\n</reasoning>" in request.text else "0")

    with ChatServer(script) as server:
        opinions = asyncio.run(run(server.url))
    assert [opinion.consistency for opinion in opinions] == [1.0, -1.0] * 5_000
    assert len(server.requests) == 10_000
    assert server.most_in_flight <= 32
