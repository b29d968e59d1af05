import json
import time

import pytest

from chat_server import Answer, ChatServer, completion
from factories import bomb, free_port, judgement, png
from r1reward_verl.engines import health
from r1reward_verl.use import RankSettings
from r1reward_verl.use.serve.errors import ServeError
from r1reward_verl.use.serve.schemas import RankRequest, read_body
from reward_server import pair_of, reward_model
from serving import CHAT, get, metrics, post, running, uri

PAIR = {"question": "Which?", "response_1": "quality 3", "response_2": "quality 8"}


def group(*qualities, **fields):
    return {"question": "Which?", "responses": [f"quality {one}" for one in qualities], **fields}


@pytest.fixture
def server():
    with ChatServer(reward_model()) as chat:
        yield chat


@pytest.fixture
def address(server):
    with running(server.url) as service:
        yield service


def test_a_pair_is_judged_in_both_orders(server, address):
    reply = post(address, "/v1/judge", PAIR)
    assert reply.status == 200
    answer = reply.body
    assert (answer["verdict"], answer["probability"], answer["orders_disagree"], answer["failed"]) == (2, 0.0, False, 0)
    assert answer["reasoning"] == "Compared. So response 2 is better."
    assert [(one["first"], one["second"], one["verdict"]) for one in answer["comparisons"]] == [(0, 1, 1), (1, 0, 1)]
    assert sorted(map(pair_of, server.requests)) == [("quality 3", "quality 8"), ("quality 8", "quality 3")]


def test_one_order_is_one_comparison(server, address):
    assert len(post(address, "/v1/judge", {**PAIR, "both_orders": False}).body["comparisons"]) == 1


def test_orders_that_disagree_are_told(server, address):
    server.script = reward_model(lambda one, other: 1)
    answer = post(address, "/v1/judge", PAIR).body
    assert (answer["verdict"], answer["probability"], answer["orders_disagree"]) == (None, 0.5, True)
    assert [one["verdict"] for one in answer["comparisons"]] == [0, 1]


def test_media_reach_the_model(server, address):
    body = {
        "question": "Which?",
        "media": [uri(png("red")), {"video": [uri(png("blue")), uri(png("green"))]}],
        "response_1": {"text": "quality 1", "images": [uri(png("white"))]},
        "response_2": "quality 2",
        "both_orders": False,
    }
    assert post(address, "/v1/judge", body).body["verdict"] == 2
    (content,) = [request.body["messages"][0]["content"] for request in server.requests]
    kinds = [part["type"] for part in content]
    assert kinds == ["text", "image_url", "text", "image_url", "image_url", "text", "image_url", "text"]


def test_responses_are_ranked_and_scored(server, address):
    body = group(3, 9, 1, 7, settings={"schedule": "all_pairs"})
    answer = post(address, "/v1/rank", body).body
    assert (answer["order"], answer["ranks"], answer["cycles"]) == ([1, 3, 0, 2], [3.0, 1.0, 4.0, 2.0], 0)
    assert len(answer["comparisons"]) == 6
    scored = post(address, "/v1/score", body).body
    assert scored["scores"] == answer["scores"] == pytest.approx([1 / 3, 1.0, 0.0, 2 / 3])
    assert (scored["compared"], scored["failed"]) == (6, 0)


def test_responses_are_scored_against_a_reference(server, address):
    body = group(1, 9, reference="quality 5", settings={"both_orders": True})
    assert post(address, "/v1/score", body).body["scores"] == [0.0, 1.0]


def test_settings_of_a_request_go_over_those_of_the_service(server):
    with running(server.url, rank=RankSettings(schedule="all_pairs", both_orders=True)) as address:
        assert len(post(address, "/v1/rank", group(1, 2, 3)).body["comparisons"]) == 6
        assert len(post(address, "/v1/rank", group(1, 2, 3, settings={"both_orders": False})).body["comparisons"]) == 3


@pytest.mark.parametrize(
    ("path", "body", "status", "field", "message"),
    [
        ("/v1/judge", b"{", 400, None, "no JSON"),
        ("/v1/judge", b"\xff\xfe", 400, None, "no JSON"),
        ("/v1/judge", [], 422, None, "the body"),
        ("/v1/judge", {**PAIR, "question": " "}, 422, "question", "not empty"),
        ("/v1/judge", {"question": "Which?", "response_1": "a"}, 422, "response_2", "missing"),
        ("/v1/judge", {**PAIR, "responce": "a"}, 422, "responce", "response_1, response_2"),
        ("/v1/judge", {**PAIR, "media": ["/etc/passwd"]}, 422, "media[0]", "files are not read"),
        ("/v1/judge", {**PAIR, "media": ["file:///etc/passwd"]}, 422, "media[0]", "data:image/png;base64"),
        ("/v1/judge", {**PAIR, "media": ["http://169.254.169.254/x.png"]}, 422, "media[0]", "not fetched"),
        ("/v1/judge", {**PAIR, "media": ["data:image/png;base64,@@"]}, 422, "media[0]", "cannot be decoded"),
        ("/v1/judge", {**PAIR, "media": [uri(b"GIF89a")]}, 422, "media[0]", "picture"),
        ("/v1/judge", {**PAIR, "media": [{"video": []}]}, 422, "media[0].video", "length >= 1"),
        ("/v1/judge", {**PAIR, "media": [{"video": ["x.mp4"]}]}, 422, "media[0].video[0]", "files are not read"),
        ("/v1/judge", {**PAIR, "response_2": {"text": ""}}, 422, "response_2.text", "not empty"),
        ("/v1/judge", {**PAIR, "response_2": {"images": ["a.png"]}}, 422, "response_2.images[0]", "not read"),
        ("/v1/judge", {**PAIR, "response_2": 5}, 422, "response_2", "got `int`"),
        ("/v1/rank", {"question": "Which?", "responses": []}, 422, "responses", "length >= 1"),
        ("/v1/rank", group(1, 2, settings={"schedule": "best"}), 422, "settings.schedule", "/openapi.json"),
        ("/v1/rank", group(1, 2, settings={"comparisons": 0}), 422, "settings", "comparisons is 0"),
        ("/v1/rank", group(*range(65)), 422, "responses", "--max-responses"),
        ("/v1/rank", {"question": "Which?", "responses": ["a", " "]}, 422, "responses[1]", "not empty"),
    ],
)
def test_errors_name_the_field_and_the_way_out(server, address, path, body, status, field, message):
    reply = post(address, path, body)
    assert (reply.status, reply.error.get("field")) == (status, field)
    assert message in reply.error["message"]
    assert not server.requests


@pytest.mark.parametrize("values", ["1,", '"",', "{},", "[],", '{"a":1},'])
def test_bodies_of_many_values_are_refused_before_they_are_decoded(values):
    """32 MiB of them would become gigabytes of objects."""
    many = values * ((8 << 20) // len(values))
    body = f'{{"question": "Which?", "responses": [{many}"a"]}}'.encode()
    with pytest.raises(ServeError, match="too many values") as refused:
        read_body(RankRequest, body)
    assert refused.value.status == 413


def test_large_texts_with_any_quotes_are_no_many_values():
    text = 'He said: "\\\\", [1, 2]. ' * 100_000
    assert read_body(RankRequest, json.dumps({"question": text, "responses": ["a"]}).encode()).question == text


def test_bombs_and_damaged_pictures_are_refused_by_name(server, address):
    whole = png("red", (300, 300))
    for content, message in ((bomb(), "more than 89,478,485 pixels"), (whole[: len(whole) - 60], "cannot be read")):
        body = {**PAIR, "response_2": {"text": "b", "images": [uri(png("red")), uri(content)]}}
        reply = post(address, "/v1/judge", body)
        assert (reply.status, reply.error["field"]) == (422, "response_2.images[1]")
        assert message in reply.error["message"]


def test_unknown_routes_and_methods_are_errors_of_the_same_form(address):
    assert get(address, "/nowhere").status == 404
    assert get(address, "/v1/judge").status == 405
    assert post(address, "/nowhere", {}).error["type"] == "http_error"


def test_sizes_of_cohorts_in_an_address_have_bounds(address):
    for size in ("0", "many", "65"):
        reply = post(address, f"/get_reward?cohort={size}", {"query": [], "prompts": []})
        assert (reply.status, reply.error["field"]) == (422, "cohort")


def test_a_dead_model_server_is_503_with_the_reason_and_back_without_a_restart(server, monkeypatch):
    monkeypatch.setattr(health, "PROBE_EVERY", 0.2)
    with running(server.url, model={"timeout": 0.3}) as address:
        assert get(address, "/ready").status == 200
        server.stop()
        reply = post(address, "/v1/judge", PAIR)
        assert (reply.status, reply.headers["Retry-After"]) == (503, "2")
        assert "cannot be reached" in reply.error["message"]
        assert server.url in reply.error["message"]
        assert post(address, "/v1/rank", group(1, 2, 3)).status == 503
        assert (get(address, "/ready").status, get(address, "/health").status) == (503, 200)
        assert metrics(address)["r1reward_model_available"] == 0
        server.start()
        end = time.monotonic() + 30
        while get(address, "/ready").status != 200:  # which finds out by itself
            assert time.monotonic() < end
            time.sleep(0.1)
        assert post(address, "/v1/judge", PAIR).body["verdict"] == 2


def test_one_of_three_replicas_may_be_dead_slow_or_lie(server):
    liar = ChatServer(Answer("<html>all is well</html>", headers={"Content-Type": "text/html"}))
    slow = ChatServer(reward_model(delay=0.2))
    with liar, slow:
        dead = f"http://127.0.0.1:{free_port()}/v1"
        for other in (liar.url, slow.url, dead):
            with running(server.url, server.url.replace("127.0.0.1", "localhost"), other) as address:
                for _ in range(3):
                    answer = post(address, "/v1/rank", group(3, 9, 1, 7, settings={"schedule": "all_pairs"})).body
                    assert (answer["order"], answer["failed"]) == ([1, 3, 0, 2], 0)


def test_a_server_that_only_lies_is_502(server, address):
    server.script = lambda _: Answer({"choices": []})
    reply = post(address, "/v1/judge", PAIR)
    assert (reply.status, reply.error["type"]) == (502, "model_error")


def test_partial_failures_are_stated(server, address):
    def script(request):
        return Answer(status=400) if "quality 1" in pair_of(request) else reward_model()(request)

    server.script = script
    answer = post(address, "/v1/rank", group(1, 5, 9, settings={"schedule": "all_pairs"})).body
    assert (answer["failed"], [bool(one["error"]) for one in answer["comparisons"]].count(True)) == (2, 2)
    assert "400" in answer["error"]
    assert answer["scores"] == [0.5, 0.0, 1.0]


def test_unreadable_judgements_are_shown_as_they_are(server, address):
    server.script = lambda _: Answer(completion("No idea."))
    answer = post(address, "/v1/judge", PAIR).body
    assert (answer["verdict"], answer["probability"], answer["failed"]) == (None, None, 2)
    assert [one["reasoning"] for one in answer["comparisons"]] == ["No idea."] * 2


def test_metrics_count_what_was_done(server, address):
    server.script = reward_model(lambda one, other: 1)
    post(address, "/v1/judge", PAIR)
    post(address, "/v1/judge", {})
    server.script = lambda _: Answer(completion(judgement(1)[:-9]))
    post(address, "/v1/judge", {**PAIR, "both_orders": False})
    values = metrics(address)
    assert values['r1reward_requests_total{route="/v1/judge",status="200"}'] == 2
    assert values['r1reward_requests_total{route="/v1/judge",status="422"}'] == 1
    assert values['r1reward_request_seconds_count{route="/v1/judge"}'] == 3
    assert (values["r1reward_comparisons_total"], values["r1reward_comparisons_failed_total"]) == (3, 1)
    assert values["r1reward_order_disagreements_total"] == 1
    assert values['r1reward_tokens_total{kind="prompt"}'] == 200
    assert (values["r1reward_open_requests"], values["r1reward_held_bytes"]) == (0, 0)


def test_cycles_are_counted(server, address):
    beats = {("a", "b"), ("b", "c"), ("c", "a")}
    server.script = reward_model(lambda one, other: 1 if (one, other) in beats else 2)
    body = {"question": "Which?", "responses": ["a", "b", "c"], "settings": {"schedule": "all_pairs"}}
    assert post(address, "/v1/rank", body).body["cycles"] == 1
    assert metrics(address)["r1reward_cycles_total"] == 1


def test_openapi_describes_bodies_and_answers(address):
    schema = get(address, "/openapi.json").body
    text = json.dumps(schema)
    names = set(schema["components"]["schemas"])
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in names
    for path, request in (
        ("/v1/judge", "JudgeRequest"),
        ("/v1/cohort", "CohortRequest"),
        ("/get_reward", "RemoteRequest"),
    ):
        body = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert body["$ref"].endswith(request)
    assert "schedule" in schema["components"]["schemas"]["RankOptions"]["properties"]


def test_openrlhf_gets_rewards_against_reference_answers(server, address):
    body = {
        "query": [f"{CHAT}quality {one}<|im_end|>\n" for one in (2, 8)],
        "prompts": [CHAT] * 2,
        "labels": ["quality 5"] * 2,
    }
    answer = post(address, "/get_reward", body).body
    assert answer["rewards"] == answer["scores"] == [0.0, 1.0]
    assert answer["extra_logs"]["r1reward/comparisons"] == [2.0, 2.0]
    asked = server.requests[0].text
    assert "How many?" in asked
    assert "im_start" not in asked
    assert "Be kind" not in asked


def test_openrlhf_with_several_addresses_sends_empty_lists(address):
    assert post(address, "/get_reward", {"query": [], "prompts": [], "labels": []}).body["rewards"] == []


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"labels": ["quality 5", None]}, "labels[1]", "?cohort=N"),
        ({"query": [f"{CHAT}a", "b"]}, "query[1]", "does not start with its prompt"),
        ({"labels": ["a"]}, None, "are not equal"),
    ],
)
def test_errors_for_openrlhf_name_the_row(address, change, field, message):
    body = {"query": [f"{CHAT}a", f"{CHAT}b"], "prompts": [CHAT] * 2, "labels": ["quality 5"] * 2}
    reply = post(address, "/get_reward", {**body, **change})
    assert (reply.status, reply.error.get("field")) == (422, field)
    assert message in reply.error["message"]
    assert reply.error.get("row") == (None if field is None else 1)
