import asyncio
import math
import threading
import time

import pytest

from chat_server import Answer, ChatServer
from factories import free_port, judgement, png
from r1reward_verl.engines.online import OnlineEndpoint
from r1reward_verl.use import ComparisonSettings, Question, RankSettings, Response, RewardModel
from reward_server import pair_of, reward_model


@pytest.fixture
def server():
    with ChatServer(reward_model()) as running:
        yield running


def model_of(server, **options):
    settings = options.pop("settings", None)
    return RewardModel(urls=[server.url], settings=settings, **options)


def test_a_pair_is_judged_in_both_orders(server):
    with model_of(server) as model:
        result = model.judge("Which?", None, "quality 3", "quality 8")
    assert (result.verdict, result.probability, result.orders_disagree, result.disagreement) == (2, 0.0, False, 0.0)
    assert result.reasoning == "Compared. So response 2 is better."
    assert sorted(map(pair_of, server.requests)) == [("quality 3", "quality 8"), ("quality 8", "quality 3")]
    assert [request.body["temperature"] for request in server.requests] == [0.0, 0.0]


def test_one_order_is_one_request(server):
    with model_of(server) as model:
        assert model.judge("Which?", (), "quality 9", "quality 8", both_orders=False).verdict == 1
    assert len(server.requests) == 1


def test_a_judge_that_prefers_the_first_response_gives_no_verdict(server):
    server.script = reward_model(lambda one, other: 1)
    with model_of(server) as model:
        result = model.judge("Which?", None, "a", "b")
    assert (result.verdict, result.probability, result.orders_disagree, result.disagreement) == (None, 0.5, True, 0.5)


def test_samples_vote_in_one_request_for_each_order(server):
    with model_of(server, settings=ComparisonSettings(samples=5, temperature=0.7)) as model:
        result = model.judge("Which?", None, "quality 3", "quality 8")
    assert [(request.body["n"], request.body["temperature"]) for request in server.requests] == [(5, 0.7)] * 2
    assert [len(one.texts) for one in result.comparisons] == [5, 5]


def test_pictures_are_encoded_once_and_sent_with_their_owner(server, tmp_path):
    picture = tmp_path / "q.png"
    picture.write_bytes(png("red"))
    with model_of(server) as model:
        model.judge("Which?", picture, {"text": "1", "images": [png("blue")]}, "2")
    kinds = [
        [part["type"] for part in request.body["messages"][0]["content"]]
        for request in sorted(server.requests, key=pair_of)
    ]
    assert kinds == [["image_url", "text", "image_url", "text"]] * 2


def test_responses_are_ranked(server):
    qualities = [3, 9, 1, 7]
    with model_of(server) as model:
        result = model.rank("Which?", None, [f"quality {one}" for one in qualities], RankSettings(schedule="all_pairs"))
        scores = model.score("Which?", None, ["quality 1", "quality 2"])
    assert (result.order, result.best, result.ranks) == ([1, 3, 0, 2], 1, [3.0, 1.0, 4.0, 2.0])
    assert result.scores == pytest.approx((1 / 3, 1.0, 0.0, 2 / 3))
    assert (result.cycles, result.order_disagreements, result.failed, result.ties) == (0, 0, 0, 0)
    assert scores == [0.0, 1.0]


@pytest.mark.parametrize("schedule", ["circulant", "all_pairs", "swiss", "knockout", "pivot"])
@pytest.mark.parametrize("score", ["win_rate", "bradley_terry"])
def test_every_schedule_finds_the_best(server, schedule, score):
    responses = [f"quality {one}" for one in (4, 2, 8, 6, 1)]
    with model_of(server) as model:
        result = model.rank(
            "Which?", None, responses, RankSettings(schedule=schedule, score=score, both_orders=schedule == "pivot")
        )
    assert result.scores[2] == max(result.scores)
    assert len(server.requests) == len(result.comparisons)


def test_responses_are_compared_with_a_reference(server):
    responses = [f"quality {one}" for one in (1, 5, 9)]
    with model_of(server) as model:
        scores = model.score("Which?", None, responses, RankSettings(both_orders=True), reference="quality 4")
    assert scores == [0.0, 1.0, 1.0]
    assert all("quality 4" in pair_of(request) for request in server.requests)
    assert len(server.requests) == 6


def test_one_response_is_neutral_and_none_is_refused(server):
    with model_of(server) as model:
        assert model.score("Which?", None, ["only"]) == [0.5]
        with pytest.raises(ValueError, match="no responses"):
            model.rank("Which?", None, [])
    assert not server.requests


def test_intransitive_verdicts_are_counted(server):
    beats = {("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")}
    server.script = reward_model(lambda one, other: 1 if (one, other) in beats else 2)
    with model_of(server) as model:
        result = model.rank("Which?", None, ["rock", "paper", "scissors"], RankSettings(schedule="all_pairs"))
    assert result.cycles == 1


def test_a_server_that_is_gone_is_told_in_the_result():
    url = f"http://127.0.0.1:{free_port()}/v1"
    with RewardModel(urls=[url], timeout=0.3) as model:
        began = time.monotonic()
        result = model.judge("Which?", None, "a", "b")
        ranking = model.rank("Which?", None, ["a", "b", "c"])
    assert time.monotonic() - began < 5
    assert (result.verdict, result.probability) == (None, None)
    assert url in result.error
    assert all(one.unavailable for one in result.comparisons)
    assert ranking.scores == (0.5, 0.5, 0.5)
    assert ranking.failed == len(ranking.comparisons) > 0


def test_a_server_that_gives_one_text_at_a_time(server):
    judged = reward_model()

    def script(request):
        return Answer({"error": "n must be 1"}, status=400) if "n" in request.body else judged(request)

    server.script = script
    with model_of(server, settings=ComparisonSettings(samples=3)) as model:
        result = model.judge("Which?", None, "quality 2", "quality 1", both_orders=False)
    assert len(result.comparisons[0].texts) == 3
    assert result.verdict == 1


def test_pictures_that_cannot_be_read_are_refused_before_anything_is_asked(server, tmp_path):
    with model_of(server) as model, pytest.raises(ValueError, match="does not exist"):
        model.judge("Which?", tmp_path / "none.png", "a", "b")
    assert not server.requests


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-1")
    with RewardModel(urls=[server.url], api_key_env="MY_KEY") as model:
        model.judge("Which?", None, "a", "b")
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer secret-1"}
    with pytest.raises(ValueError, match="'NO_KEY', and that environment variable is not set"):
        RewardModel(urls=[server.url], api_key_env="NO_KEY")


def test_asynchronous_use_with_an_engine_of_ones_own(server):
    async def run():
        model = RewardModel(engine=OnlineEndpoint([server.url], "judge"))
        results = await asyncio.gather(
            *(model.ajudge(Question("Which?"), None, Response(f"quality {one}"), "quality 5") for one in range(10))
        )
        await model.aclose()
        return [result.verdict for result in results]

    assert asyncio.run(run()) == [2, 2, 2, 2, 2, None, 1, 1, 1, 1]


def test_log_probabilities_make_probabilities_smooth(server):
    def token(text, **alternatives):
        return {
            "token": text,
            "logprob": 0.0,
            "top_logprobs": [{"token": name[-1], "logprob": value} for name, value in alternatives.items()],
        }

    def script(request):
        assert request.body["logprobs"] is True
        tokens = [token("<answer>"), {**token("1", _2=math.log(0.25)), "logprob": math.log(0.75)}]
        choice = {"message": {"content": judgement(1)}, "finish_reason": "stop", "logprobs": {"content": tokens}}
        return Answer({"choices": [choice]})

    server.script = script
    with model_of(server, settings=ComparisonSettings(logprobs=True)) as model:
        result = model.judge("Which?", None, "a", "b", both_orders=False)
    assert result.probability == pytest.approx(0.75)


def test_a_model_needs_an_engine():
    with pytest.raises(ValueError, match="needs a model, urls or an engine"):
        RewardModel()
    with pytest.raises(ValueError, match="samples would be the same"):
        ComparisonSettings(samples=3, temperature=0.0)


BROKEN = {
    "lying about JSON": Answer("{not json"),
    "HTML": Answer("<html>Welcome</html>"),
    "no choices": Answer({"choices": []}),
    "null": Answer({"choices": None}),
    "500": Answer("broken", status=500),
    "slow": Answer(delay=30.0),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_one_of_three_replicas_is_broken(server, answer):
    responses = [f"quality {one}" for one in (3, 9, 1, 7)]
    with ChatServer(reward_model()) as other, ChatServer(answer) as broken:
        urls = [broken.url, server.url, other.url]
        # A request of a slow server is sent to another one after the timeout.
        with RewardModel("judge", urls=urls, timeout=1.0, max_wait=10.0) as model:
            rankings = [model.rank("Which?", None, responses, RankSettings(schedule="all_pairs")) for _ in range(4)]
    assert [ranking.order for ranking in rankings] == [[1, 3, 0, 2]] * 4
    assert [ranking.failed for ranking in rankings] == [0] * 4


def test_a_server_that_was_killed_is_used_again_when_it_is_back(server):
    with model_of(server, timeout=2.0, max_wait=20.0) as model:
        assert model.judge("Which?", None, "quality 1", "quality 2").verdict == 2
        server.stop()
        back = threading.Timer(1.0, server.start)
        back.start()
        result = model.judge("Which?", None, "quality 3", "quality 2")
        back.join()
    assert (result.verdict, result.error) == (1, "")


def test_hundreds_of_callers_share_one_model(server):
    server.script = reward_model(delay=0.02)

    async def run():
        model = RewardModel("judge", urls=[server.url], concurrency=32)
        results = await asyncio.gather(
            *(model.ajudge("Which?", None, f"quality {n}", f"quality {600 - n}") for n in range(300))
        )
        await model.aclose()
        return [result.verdict for result in results]

    assert asyncio.run(run()) == [2] * 300
    assert server.most_in_flight <= 32
