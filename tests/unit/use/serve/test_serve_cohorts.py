import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from chat_server import Answer, ChatServer
from factories import png
from reward_server import reward_model
from serving import CHAT, ServeProcess, metrics, post, running, uri, wait_until


@pytest.fixture
def server():
    with ChatServer(reward_model()) as chat:
        yield chat


def one(quality, size=4, **fields):
    return {"question": "Which?", "size": size, "response": f"quality {quality}", **fields}


def all_at_once(address, bodies, path="/v1/cohort"):
    with ThreadPoolExecutor(max(len(bodies), 1)) as pool:
        return list(pool.map(lambda body: post(address, path, body), bodies))


def leave_behind(address, body):
    """POST a request, and close the connection without waiting for the answer."""
    host, _, port = address.removeprefix("http://").partition(":")
    raw = json.dumps(body).encode()
    before = metrics(address)["r1reward_open_requests"]
    with socket.create_connection((host, int(port))) as client:
        head = f"POST /v1/cohort HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}"
        client.sendall(f"{head}\r\n\r\n".encode() + raw)
        wait_until(lambda: metrics(address)["r1reward_open_requests"] > before)
        time.sleep(0.05)
    wait_until(lambda: metrics(address)["r1reward_open_requests"] == before)


@pytest.mark.parametrize("name", [{}, {"cohort": "step-1/prompt-7"}])
def test_siblings_wait_for_each_other_and_each_gets_its_score(server, name):
    settings = {"settings": {"schedule": "all_pairs"}}
    with running(server.url) as address, ThreadPoolExecutor(3) as pool:
        first = [pool.submit(post, address, "/v1/cohort", one(quality, **name, **settings)) for quality in (3, 9, 1)]
        wait_until(lambda: metrics(address)["r1reward_open_requests"] == 3)
        assert not server.requests
        assert metrics(address)["r1reward_open_cohorts"] == 1
        last = post(address, "/v1/cohort", one(7, **name, **settings))
        replies = [*(reply.result() for reply in first), last]
        assert [reply.body["score"] for reply in replies] == pytest.approx([1 / 3, 1.0, 0.0, 2 / 3])
        assert [reply.body["rank"] for reply in replies] == [3.0, 1.0, 4.0, 2.0]
        counts = [(body["size"], body["present"], body["partial"], body["compared"]) for _, body, _ in replies]
        assert counts == [(4, 4, False, 6)] * 4
        values = metrics(address)
        assert values['r1reward_cohorts_total{end="complete"}'] == 1
        assert values["r1reward_open_cohorts"] == 0
        assert values["r1reward_comparisons_total"] == 6


def test_cohorts_do_not_mix(server):
    bodies = [
        one(quality, 2, question=f"Question {number}?") for number in range(10) for quality in (number, number + 1)
    ]
    with running(server.url) as address:
        scores = [reply.body["score"] for reply in all_at_once(address, bodies)]
    assert scores == [0.0, 1.0] * 10


def test_a_cohort_that_does_not_fill_up_is_scored_without_the_missing(server):
    with running(server.url, cohort_timeout=0.5) as address:
        replies = all_at_once(address, [one(quality) for quality in (3, 9)])
        assert [(body["score"], body["present"], body["partial"]) for _, body, _ in replies] == [
            (0, 2, True),
            (1, 2, True),
        ]
        alone = post(address, "/v1/cohort", one(5, cohort="other"))
        assert (alone.status, alone.body["score"], alone.body["present"], alone.body["compared"]) == (200, 0.5, 1, 0)
        assert metrics(address)['r1reward_cohorts_total{end="timeout"}'] == 2


def test_what_comes_too_late_waits_for_the_other_late_ones(server):
    with running(server.url, cohort_timeout=0.5) as address:
        all_at_once(address, [one(quality, cohort="a") for quality in (3, 9)])
        late = all_at_once(address, [one(quality, cohort="a") for quality in (4, 5)])
        assert [(body["score"], body["present"], body["partial"]) for _, body, _ in late] == [
            (0, 2, True),
            (1, 2, True),
        ]
        full = post(address, "/v1/cohort", one(6, cohort="a"))
        assert (full.status, "has had its" in full.error["message"]) == (409, True)


def test_the_same_question_may_come_again_without_a_name(server):
    with running(server.url) as address:
        for _ in range(3):
            replies = all_at_once(address, [one(quality, 2) for quality in (3, 9)])
            assert [reply.body["score"] for reply in replies] == [0.0, 1.0]


def test_equal_responses_are_different_siblings(server):
    with running(server.url) as address:
        replies = all_at_once(address, [one(5, 2, cohort="a"), one(5, 2, cohort="a")])
        assert [reply.body["present"] for reply in replies] == [2, 2]


def test_a_client_that_leaves_keeps_its_place_and_may_come_back(server):
    with running(server.url) as address:
        leave_behind(address, one(9, 2))
        replies = all_at_once(address, [one(9, 2), one(1, 2)])  # it is no third response
        assert [reply.body["score"] for reply in replies] == [1.0, 0.0]
        leave_behind(address, one(3, 2, cohort="a", member="x"))
        assert post(address, "/v1/cohort", one(8, 2, cohort="a", member="y")).body["score"] == 1.0
        for _ in range(2):  # after the end, and as often as one likes
            assert post(address, "/v1/cohort", one(3, 2, cohort="a", member="x")).body["score"] == 0.0
        assert metrics(address)["r1reward_comparisons_total"] == 2


def test_a_complete_cohort_answers_again(server):
    with running(server.url) as address:
        all_at_once(address, [one(quality, 2, cohort="a") for quality in (3, 9)])
        assert post(address, "/v1/cohort", one(9, 2, cohort="a")).body["score"] == 1.0


@pytest.mark.parametrize(
    ("second", "field", "message"),
    [
        (one(8, 3, cohort="a"), "size", "3, and it has 2"),
        (one(8, 2, cohort="a", question="What?"), "question", "another question"),
        (one(8, 2, cohort="a", media=[uri(png())]), "question", "another question"),
        (one(8, 2, cohort="a", settings={"score": "bradley_terry"}), "settings", "another settings"),
        (one(8, 2, cohort="a", member="x"), "member", "name of its own"),
    ],
)
def test_contradictions_are_conflicts_and_leave_the_cohort_as_it_was(server, second, field, message):
    with running(server.url) as address, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, address, "/v1/cohort", one(3, 2, cohort="a", member="x"))
        wait_until(lambda: metrics(address)["r1reward_open_cohorts"] == 1)
        reply = post(address, "/v1/cohort", second)
        assert (reply.status, reply.error["field"]) == (409, field)
        assert message in reply.error["message"]
        assert post(address, "/v1/cohort", one(9, 2, cohort="a", member="y")).body["score"] == 1.0
        assert first.result().body["score"] == 0.0


@pytest.mark.parametrize("size", [0, 65])
def test_sizes_have_bounds(server, size):
    with running(server.url) as address:
        reply = post(address, "/v1/cohort", one(3, size))
        assert (reply.status, reply.error["field"]) == (422, "size")


def test_a_damaged_picture_is_its_senders_error_alone(server):
    whole = png("red", (300, 300))
    damaged = {"text": "quality 9", "images": [uri(whole[:-60])]}
    with running(server.url) as address, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, address, "/v1/cohort", one(3, 2))
        wait_until(lambda: metrics(address)["r1reward_open_cohorts"] == 1)
        reply = post(address, "/v1/cohort", {**one(9, 2), "response": damaged})
        assert (reply.status, reply.error["field"]) == (422, "response.images[0]")
        good = {"text": "quality 9", "images": [uri(whole)]}
        assert post(address, "/v1/cohort", {**one(9, 2), "response": good}).body["score"] == 1.0
        assert first.result().body["score"] == 0.0


def test_pictures_of_the_question_are_sent_once_a_comparison(server):
    with running(server.url) as address:
        bodies = [one(quality, 2, media=[uri(png("red"))]) for quality in (3, 9)]
        assert [reply.body["score"] for reply in all_at_once(address, bodies)] == [0.0, 1.0]
    (content,) = [request.body["messages"][0]["content"] for request in server.requests]
    assert [part["type"] for part in content] == ["image_url", "text"]


def test_after_an_outage_the_whole_cohort_can_be_sent_again(server):
    with running(server.url, model={"timeout": 0.3}) as address:
        server.stop()
        assert [reply.status for reply in all_at_once(address, [one(3, 2, cohort="a"), one(9, 2, cohort="a")])] == [
            503
        ] * 2
        server.start()
        end = time.monotonic() + 20
        while True:
            replies = all_at_once(address, [one(3, 2, cohort="a"), one(9, 2, cohort="a")])
            if replies[0].status == 200:
                break
            assert time.monotonic() < end
            time.sleep(0.2)
        assert [reply.body["score"] for reply in replies] == [0.0, 1.0]


def test_cohorts_that_wait_hold_a_bounded_number_of_bytes(server):
    with running(server.url, max_held=1) as address:
        for number in range(4):
            leave_behind(address, one(number, 8, cohort=str(number), question="Which? " * 30_000))
        reply = post(address, "/v1/cohort", one(5, 8, cohort="5", question="Which? " * 30_000))
        assert (reply.status, "cohorts" in reply.error["message"]) == (503, True)
        assert post(address, "/v1/judge", {"question": "a", "response_1": "1", "response_2": "2"}).status == 200


def test_at_the_end_of_the_service_nobody_waits_for_siblings(server):
    with ServeProcess("--url", server.url, "--port", "0") as service, ThreadPoolExecutor(1) as pool:
        reply = pool.submit(post, service.address, "/v1/cohort", one(3))
        wait_until(lambda: metrics(service.address)["r1reward_open_cohorts"] == 1)
        began = time.monotonic()
        assert service.terminate() == 0
        assert time.monotonic() - began < 5
        assert (reply.result().status, "send all responses again" in reply.result().error["message"]) == (503, True)


def test_many_trainers_and_departures_leave_nothing_behind(server):
    rows = [(prompt, quality) for prompt in range(40) for quality in range(4)]

    def trainer(row):
        prompt, quality = row
        body = one(quality, 4, cohort=f"p{prompt}", member=str(quality), settings={"schedule": "all_pairs"})
        if (prompt + quality) % 3 == 0:
            raw = json.dumps(body).encode()
            with socket.create_connection((host, int(port))) as client:
                head = "POST /v1/cohort HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                client.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        return post(address, "/v1/cohort", body).body["score"]

    with running(server.url) as address, ThreadPoolExecutor(len(rows)) as pool:
        host, _, port = address.removeprefix("http://").partition(":")
        scores = list(pool.map(trainer, rows))
        assert scores == pytest.approx([quality / 3 for _, quality in rows])
        wait_until(lambda: metrics(address)["r1reward_open_requests"] == 0)
        values = metrics(address)
    assert values['r1reward_cohorts_total{end="complete"}'] == 40
    assert (values["r1reward_open_cohorts"], values["r1reward_held_bytes"]) == (0, 0)


def rollouts(*qualities, **fields):
    queries = [f"{CHAT}quality {quality}<|im_end|>\n" for quality in qualities]
    return {"query": queries, "prompts": [CHAT] * len(qualities), "labels": [None] * len(qualities), **fields}


def test_openrlhf_gets_rewards_within_cohorts(server):
    with running(server.url) as address:
        path = "/get_reward?cohort=4"
        replies = all_at_once(address, [rollouts(quality) for quality in (3, 9, 1, 7)], path)
        rewards = [reply.body["rewards"][0] for reply in replies]
        assert sorted(range(4), key=rewards.__getitem__) == [2, 0, 3, 1]
        logs = [reply.body["extra_logs"] for reply in replies]
        assert sum(log["r1reward/comparisons"][0] for log in logs) == 6
        assert post(address, path, rollouts(3, 9, 1, 7)).body["rewards"] == rewards  # in one request, in the next step


def test_a_row_that_fails_does_not_leave_its_siblings_waiting(server):
    with running(server.url, cohort_timeout=30) as address:
        reply = post(
            address,
            "/get_reward?cohort=2",
            rollouts(3, query=["nothing"] + rollouts(3)["query"], prompts=[CHAT] * 2, labels=None),
        )
        assert (reply.status, reply.error["row"]) == (422, 0)
        both = all_at_once(address, [rollouts(3), rollouts(9)], "/get_reward?cohort=2")
        assert [answer.body["rewards"] for answer in both] == [[0.0], [1.0]]


def test_a_slow_model_keeps_nobody_from_other_cohorts(server):
    release = threading.Event()
    server.script = lambda request: (
        Answer(status=503, headers={"Retry-After": "1"})
        if "slow" in request.text and not release.is_set()
        else reward_model()(request)
    )
    with running(server.url) as address, ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(post, address, "/v1/cohort", one(q, 2, question="A slow one?")) for q in (1, 2)]
        wait_until(lambda: bool(server.requests))
        release.set()
        assert [reply.body["score"] for reply in all_at_once(address, [one(3, 2), one(9, 2)])] == [0.0, 1.0]
        assert [reply.result().body["score"] for reply in slow] == [0.0, 1.0]
