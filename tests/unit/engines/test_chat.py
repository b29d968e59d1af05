"""The chat client against real servers that answer, refuse, stall, lie, die and come back."""

import asyncio
import gc
import gzip
import json
import logging
import re
import socket
import threading
import time
import tracemalloc
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import pairwise

import pytest

import r1reward_verl
from chat_server import Answer, ChatServer, completion, in_turn
from r1reward_verl.engines import health
from r1reward_verl.engines.chat import ChatClient, ChatError

KEY = "sk-b2c1+very/secret"
GARBAGE = {
    "empty": "",
    "no JSON": "the first one, I think",
    "truncated JSON": json.dumps(completion("1"))[:40],
    "HTML": "<html><body>502 Bad Gateway</body></html>",
    "no object": "[1, 2]",
    "no UTF-8": b"\xff\xfe\x00\x80",
    "compressed unasked": b"\x1f\x8b\x08\x00\x00\x00",
    "too deep": "[" * 100_000,
}


def read_text(answer):
    return answer["choices"][0]["message"]["content"]


def ask(client, text="1", read=read_text, **body):
    return client.complete([{"role": "user", "content": text}], read, **body)


def run(coroutine_function, urls, **options):
    """Run `coroutine_function(client)` in a loop of its own; nothing may be left when it ends."""
    options = {"model": "judge", "timeout": 1.0, "max_wait": 2.0, **options}

    async def main():
        async with ChatClient(urls, **options) as client:
            result = await coroutine_function(client)
        await asyncio.sleep(0.02)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left
        return result

    return asyncio.run(main())


def replies(urls, *texts, together=True, **options):
    async def go(client):
        if together:
            return await asyncio.gather(*(ask(client, text) for text in texts))
        return [await ask(client, text) for text in texts]

    return run(go, urls, **options)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def deaf_server():
    """Accepts connections and never says a word; yields its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def soon(condition, seconds=2.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def server():
    with ChatServer() as running:
        yield running


class TestRequest:
    def test_an_answer_is_read_and_returned(self, server):
        (reply,) = replies([server.url], "0")
        assert (reply.value, reply.status, reply.retries, reply.error) == ("0", "ok", 0, "")
        assert 0 < reply.seconds < 5

    def test_the_body_holds_model_messages_and_the_further_fields(self, server):
        run(lambda client: ask(client, 'ä "q"', max_tokens=1, logprobs=True), [server.url], model='a "b"')
        assert server.requests[0].body == {
            "model": 'a "b"',
            "messages": [{"role": "user", "content": 'ä "q"'}],
            "max_tokens": 1,
            "logprobs": True,
        }

    def test_the_headers_say_who_asks_and_ask_for_plain_bytes(self, server):
        replies([server.url], "1", api_key=KEY)
        headers = server.requests[0].headers
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert headers["User-Agent"] == f"r1reward-verl/{r1reward_verl.__version__}"
        assert headers["Accept-Encoding"] == "identity"
        assert headers["Content-Type"] == "application/json"

    @pytest.mark.parametrize("key", [None, ""])
    def test_without_a_key_none_is_sent(self, server, key):
        replies([server.url + "/"], "1", api_key=key)
        assert "Authorization" not in server.requests[0].headers

    def test_connections_are_kept_and_retries_use_a_fresh_one(self):
        with ChatServer(in_turn(Answer(), Answer(), Answer(status=500), Answer())) as server:
            found = replies([server.url], "a", "b", "c", "d", together=False)
            first, second, failed, again, after = (request.client_port for request in server.requests)
        assert [reply.retries for reply in found] == [0, 0, 1, 0]
        assert first == second == failed == after != again

    def test_cookies_are_not_kept(self):
        with ChatServer(Answer(headers={"Set-Cookie": "session=1; Path=/"})) as server:
            by_name = server.url.replace("127.0.0.1", "localhost")  # a cookie jar takes none from a bare address
            replies([by_name], "1", "2", together=False)
            assert all("Cookie" not in request.headers for request in server.requests)

    def test_proxies_of_the_environment_are_not_used(self, server, monkeypatch):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        assert replies([server.url], "1")[0].status == "ok"

    def test_what_cannot_be_written_as_json_is_the_callers_mistake_and_frees_its_slot(self, server):
        async def go(client):
            with pytest.raises(TypeError, match="not JSON serializable"):
                await ask(client, object())
            return await ask(client)

        assert run(go, [server.url], concurrency=1).status == "ok"

    def test_a_client_belongs_to_one_event_loop(self, server):
        client = ChatClient([server.url])
        asyncio.run(ask(client))
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(ask(client))


class TestModels:
    def test_lists_the_models_of_each_server(self):
        with ChatServer(models=("a", "b")) as first, ChatServer(models=["c"]) as second:
            found = run(lambda client: client.models(), [first.url, second.url])
            assert found == {first.url: ["a", "b"], second.url: ["c"]}

    def test_without_a_name_the_first_listed_is_used_and_asked_for_once_per_server(self):
        with ChatServer(models=("a", "b")) as first, ChatServer(models=["c"]) as second:
            replies([first.url, second.url], *"12345678", model=None, concurrency=4)
            for server, name in ((first, "a"), (second, "c")):
                assert {request.body["model"] for request in server.requests} == {name}
                assert server.listings == 1

    def test_a_server_without_models_is_unreadable(self):
        with ChatServer(models=()) as server:
            (reply,) = replies([server.url], "1", model=None, retries=1)
        assert (reply.status, server.listings) == ("unreadable", 2)
        assert "lists no model" in reply.error

    def test_an_absent_server_is_named(self, server):
        absent = f"http://127.0.0.1:{free_port()}/v1"
        with pytest.raises(ChatError, match=re.escape(absent) + ".*Connect"):
            run(lambda client: client.models(), [server.url, absent])

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (Answer({}, status=401), "status 401"),
            (Answer({}, status=503), "status 503"),
            (Answer("<html>"), "unreadable answer: <html>"),
            (Answer({"models": []}), 'unreadable answer: {"models": []}'),
            (Answer({}, delay=9), "no complete answer within 0.2 s"),
        ],
    )
    def test_a_server_that_answers_otherwise_is_named_with_what_it_does(self, answer, said):
        with (
            ChatServer(models=answer) as server,
            pytest.raises(ChatError, match=re.escape(f"no list of models from {server.url}: {said}")),
        ):
            run(lambda client: client.models(), [server.url], timeout=0.2)


class TestArguments:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("localhost:8000/v1", "'localhost:8000/v1', no address of an HTTP server"),
            ("ftp://h/v1", "'ftp://h/v1', no address of an HTTP server"),
            ("http:///v1", "'http:///v1', no address of an HTTP server"),
            ("http://h:port/v1", "'http://h:port/v1', no address"),
            ("http://h h/v1", "'http://h h/v1', no address"),
            ("http://h/v1?x=1", "'http://h/v1' with a query or fragment"),
            ("http://h/v1#x", "'http://h/v1' with a query or fragment"),
            ("", "'', no address"),
            (None, "None, no address"),
        ],
    )
    def test_an_address_that_cannot_be_meant_is_named(self, url, said):
        with pytest.raises(ValueError, match=re.escape(f"urls[1] is {said}")):
            ChatClient(["http://good/v1", url])

    @pytest.mark.parametrize(
        "url", [f"http://me:{KEY}@h/v1", f"http://{KEY}@h/v1", f"http://h/v1?key={KEY}", f"http://h?to=a@b&key={KEY}"]
    )
    def test_secrets_in_an_address_are_refused_and_not_repeated(self, url):
        with pytest.raises(ValueError, match=re.escape("urls[0]")) as caught:
            ChatClient([url])
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("urls", [[], (), "http://h/v1"])
    def test_a_list_of_addresses_is_needed(self, urls):
        with pytest.raises(ValueError, match=re.escape(repr(urls))):
            ChatClient(urls)

    def test_an_address_given_twice_is_named(self):
        with pytest.raises(ValueError, match="'http://h/v1' is given twice"):
            ChatClient(["http://h/v1", "http://h/v1/"])

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("concurrency", 0),
            ("concurrency", 1.5),
            ("retries", -1),
            ("max_bytes", 0),
            ("timeout", 0),
            ("timeout", float("nan")),
            ("timeout", 121.0),
            ("max_wait", 29.0),
            ("max_wait", float("inf")),
        ],
    )
    def test_a_number_that_cannot_be_meant_is_named(self, option, value):
        with pytest.raises(ValueError, match=rf"{option} (is )?{value!r}"):
            ChatClient(["http://h/v1"], **{option: value})

    @pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY} ", f"{KEY}ä", f"{KEY}\r\nX-Evil: 1"])
    def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(self, key):
        with pytest.raises(ValueError, match="no header can carry") as caught:
            ChatClient(["http://h/v1"], api_key=key)
        assert "secret" not in str(caught.value)


class TestUnreadable:
    @pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
    def test_garbage_is_asked_again_and_then_unreadable(self, body):
        with ChatServer(Answer(body)) as server:
            (reply,) = replies([server.url], "1", retries=2)
        assert (reply.value, reply.status, reply.retries, len(server.requests)) == (None, "unreadable", 2, 3)
        assert "unreadable answer" in reply.error

    def test_a_later_readable_answer_counts(self):
        with ChatServer(in_turn(Answer("<html>"), Answer({}), Answer())) as server:
            (reply,) = replies([server.url], "1")
        assert (reply.value, reply.status, reply.retries) == ("1", "ok", 2)

    @pytest.mark.parametrize("error", [KeyError, IndexError, TypeError, ValueError, AttributeError, None])
    def test_what_read_makes_nothing_of_is_unreadable(self, server, error):
        def read(_):
            if error:
                raise error("no")

        reply = run(lambda client: ask(client, read=read), [server.url], retries=1)
        assert (reply.status, reply.retries) == ("unreadable", 1)
        assert "chat.completion" in reply.error

    def test_a_mistake_in_read_is_raised_and_frees_the_slot(self, server):
        def mistaken(_):
            raise AssertionError

        async def go(client):
            with pytest.raises(AssertionError):
                await ask(client, read=mistaken)
            return await ask(client)

        assert run(go, [server.url], concurrency=1).status == "ok"

    @pytest.mark.parametrize("value", [0, 0.0, "", False])
    def test_a_value_may_be_false(self, server, value):
        reply = run(lambda client: ask(client, read=lambda _: value), [server.url])
        assert (reply.status, reply.value) == ("ok", value)

    def test_a_compressed_answer_stays_compressed(self):
        body = gzip.compress(json.dumps(completion("1")).encode())
        with ChatServer(Answer(body, headers={"Content-Encoding": "gzip"})) as server:
            assert replies([server.url], "1")[0].status == "unreadable"

    def test_100_mb_are_not_read(self):
        with ChatServer(Answer(b"x" * 100_000, repeat=1000)) as server:
            replies([server.url], "warm up", retries=0)
            tracemalloc.start()
            try:
                (reply,) = replies([server.url], "1", retries=1)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert (reply.status, reply.retries) == ("unreadable", 1)
        assert "answer larger than 1048576 bytes" in reply.error
        assert peak < 10e6

    def test_a_long_answer_is_not_even_begun_if_it_says_so(self):
        with ChatServer(Answer(b" " * 50_000 + json.dumps(completion("1")).encode(), close=True)) as server:
            (reply,) = replies([server.url], "1", retries=0, max_bytes=60_000)
        assert "answer larger than 60000 bytes" in reply.error

    def test_an_answer_of_just_the_limit_is_read(self):
        size = len(json.dumps(completion("1")))
        with ChatServer() as server:
            assert replies([server.url], "1", max_bytes=size)[0].status == "ok"
            assert replies([server.url], "1", max_bytes=size - 1, retries=0)[0].status == "unreadable"
        with ChatServer(Answer(b" " * 8, repeat=size)) as server:
            (reply,) = replies([server.url], "1", max_bytes=8 * size, retries=0)
            assert "unreadable answer" in reply.error


class TestRefused:
    @pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 404, 413, 422])
    def test_is_told_at_once_with_status_and_the_start_of_the_body(self, status):
        answer = Answer("why " + "x" * 500, status=status, headers={"Location": "/v1/chat/completions"})
        with ChatServer(answer) as server:
            (reply,) = replies([server.url], "1")
            assert reply.error == f"{server.url}: status {status}: why {'x' * 296}"
        assert (reply.status, reply.code, reply.retries, len(server.requests)) == ("refused", status, 0, 1)


class TestRetried:
    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
    def test_a_status_that_may_pass(self, status):
        with ChatServer(in_turn(Answer("later", status=status), Answer())) as server:
            (reply,) = replies([server.url], "1")
        assert (reply.value, reply.status, reply.retries) == ("1", "ok", 1)
        assert reply.error.endswith(f"status {status}: later")

    @pytest.mark.parametrize(
        "cut",
        [Answer(close=True), Answer(json.dumps(completion("1")), close=True), Answer(delay=5)],
        ids=["no answer", "in mid-body", "too slow"],
    )
    def test_a_broken_connection_or_a_slow_answer(self, cut):
        with ChatServer(in_turn(cut, Answer())) as server:
            (reply,) = replies([server.url], "1", timeout=0.3)
        assert (reply.value, reply.status, reply.retries) == ("1", "ok", 1)
        assert server.url in reply.error

    def test_the_time_limit_covers_a_body_that_drips(self):
        with ChatServer(Answer(" ", repeat=200, pause=0.02)) as server:
            (reply,) = replies([server.url], "1", timeout=0.2, max_wait=0.5)
        assert "no complete answer within 0.2 s" in reply.error

    def test_goes_before_those_who_still_wait(self):
        with ChatServer(in_turn(Answer(status=500), Answer())) as server:
            replies([server.url], *"123", concurrency=1)
            assert [request.text for request in server.requests] == ["1", "1", "2", "3"]

    def test_a_request_gives_up_after_its_own_retries_while_others_succeed(self):
        def script(request):
            return Answer("no", status=500, delay=0.1) if request.text == "poison" else Answer(delay=0.01)

        async def go(client):
            async def others():
                while True:
                    assert (await ask(client)).status in ("ok", "failed")

            busy = [asyncio.ensure_future(others()) for _ in range(4)]
            reply = await ask(client, "poison")
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
            return reply

        with ChatServer(script) as first, ChatServer(script) as second:
            reply = run(go, [first.url, second.url], retries=2, max_wait=30.0)
        assert (reply.status, reply.retries) == ("failed", 2)
        assert reply.error.endswith("status 500: no")

    def test_a_request_that_fails_at_once_does_not_keep_the_only_server_from_others(self):
        def script(request):
            return Answer("no", status=500) if request.text == "poison" else Answer(delay=0.01)

        texts = ["1", "2", "poison", *map(str, range(3, 200))]
        with ChatServer(script) as server:
            found = replies([server.url], *texts, concurrency=4, max_wait=5.0)
        assert [reply.value for reply in found] == [text if text != "poison" else None for text in texts]
        assert found[2].status == "failed"
        assert max(reply.seconds for reply in found if reply.value) < 4.0

    def test_rests_double_up_to_a_bound_and_end_with_a_success(self, monkeypatch):
        monkeypatch.setattr(health, "_FIRST_REST", 0.05)
        monkeypatch.setattr(health, "_LONGEST_REST", 0.5)
        came = []

        def script(request):
            came.append(time.monotonic())
            return Answer() if request.number in (7, 9) else Answer(status=500)

        with ChatServer(script) as server:
            replies([server.url], "1", "2", together=False, max_wait=20.0)
        rests = [after - before for before, after in pairwise(came)]
        for rest, back_off in zip(rests[:7], (0.05, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5), strict=True):
            assert rest >= 0.49 * back_off
        assert max(rests) < 1.0  # unbounded, the last would be of 1.6 s at least
        assert 0.02 < rests[8] < 0.24  # without an end, of 0.25 s at least

    def test_requests_that_fail_together_lengthen_the_rest_once(self):
        def script(request):
            return Answer(status=500) if request.number < 32 else Answer()

        with ChatServer(script) as server:
            found = replies([server.url], *map(str, range(32)), concurrency=32)
        assert {reply.status for reply in found} == {"ok"}
        assert max(reply.seconds for reply in found) < 1.0

    def test_one_request_at_a_time_finds_out_whether_a_server_is_back(self):
        at_once = []

        def script(request):
            at_once.append(server.in_flight)
            return Answer(status=500 if request.number < 10 else 200, delay=0.1)

        with ChatServer(script) as server:
            found = replies([server.url], *"12345678", max_wait=20.0)
        assert {reply.status for reply in found} == {"ok"}
        assert max(at_once[:8]) == 8
        assert at_once[8:11] == [1, 1, 1]  # two failures and the success that lets all others go
        assert max(at_once[11:]) == 7


class TestRetryAfter:
    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize("form", ["seconds", "date"])
    def test_the_server_rests_so_long(self, status, form):
        came = []

        def script(request):
            came.append(time.monotonic())
            # A date has whole seconds: two ahead are between one and two.
            date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=2), usegmt=True)
            wait = "1" if form == "seconds" else date
            return Answer(status=status, headers={"Retry-After": wait}) if request.number == 0 else Answer()

        with ChatServer(script) as server:
            (reply,) = replies([server.url], "1", max_wait=5.0)
        assert reply.status == "ok"
        assert 0.95 <= came[1] - came[0] < 4

    def test_another_server_is_asked_at_once(self):
        with ChatServer(Answer(status=429, headers={"Retry-After": "60"})) as busy, ChatServer() as idle:
            found = replies([busy.url, idle.url], *map(str, range(50)), concurrency=4)
        assert [reply.value for reply in found] == [str(i) for i in range(50)]
        assert len(busy.requests) <= 4
        assert max(reply.seconds for reply in found) < 20

    @pytest.mark.parametrize("wait", ["soon", "0", "-5", "nan", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
    def test_a_wait_that_says_nothing_leaves_the_ordinary_rest(self, wait):
        with ChatServer(in_turn(Answer(status=429, headers={"Retry-After": wait}), Answer())) as server:
            (reply,) = replies([server.url], "1")
        assert reply.status == "ok"
        assert 0.1 <= reply.seconds < 4

    @pytest.mark.parametrize("wait", ["100000", "inf"])
    def test_it_is_bounded_by_max_wait(self, wait):
        with ChatServer(in_turn(Answer(status=429, headers={"Retry-After": wait}), Answer())) as server:
            (reply,) = replies([server.url], "1", max_wait=1.0)
            assert reply.seconds < 4

    def test_nor_does_it_keep_a_server_from_work_for_longer(self):
        told = Answer(status=429, headers={"Retry-After": "100000"})
        with ChatServer(in_turn(told, Answer())) as busy, ChatServer() as other:

            async def go(client):
                before = [await ask(client) for _ in range(4)]
                await asyncio.sleep(1.1)
                return before + [await ask(client) for _ in range(4)]

            assert {reply.status for reply in run(go, [busy.url, other.url], max_wait=1.0)} == {"ok"}
            assert len(busy.requests) > 1

    @pytest.mark.parametrize("headers", [{"Retry-After": "0.1"}, {}])
    def test_a_rate_limit_uses_up_no_retries(self, headers):
        window: dict[int, int] = {}

        def script(request):
            now = int(time.monotonic() * 5)
            window[now] = window.get(now, 0) + 1
            return Answer() if window[now] <= 4 else Answer("slower", status=429, headers=headers)

        with ChatServer(script) as server:
            found = replies([server.url], *map(str, range(60)), concurrency=30, retries=1, max_wait=20.0)
        assert {reply.status for reply in found} == {"ok"}
        assert max(reply.retries for reply in found) > 1

    def test_a_limiter_with_a_short_burst_is_paced_instead_of_stampeded(self):
        """100 requests a second, 20 at once, and a second of silence asked for each time that is too much."""
        lock = threading.Lock()
        left, last, refused = 20.0, time.monotonic(), 0

        def script(request):
            nonlocal left, last, refused
            with lock:
                now = time.monotonic()
                left, last = min(20.0, left + 100 * (now - last)), now
                if left >= 1:
                    left -= 1
                    return Answer(delay=0.1)
                refused += 1
                return Answer("slower", status=429, headers={"Retry-After": "1"})

        with ChatServer(script) as server:
            began = time.monotonic()
            found = replies([server.url], *map(str, range(300)), concurrency=64, max_wait=30.0)
            passed = time.monotonic() - began
        assert {reply.status for reply in found} == {"ok"}
        assert refused < 120  # all at once, again and again: about 600
        assert passed < 10  # 20 a second: 15

    def test_a_request_that_gets_nothing_but_429_gives_up_after_max_wait(self):
        told = Answer("too long for you", status=429, headers={"Retry-After": "0.05"})

        async def go(client):
            async def others():
                while True:
                    await ask(client)

            busy = [asyncio.ensure_future(others()) for _ in range(2)]
            reply = await asyncio.wait_for(ask(client, "poison"), 10)
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
            return reply, client.given_up

        def script(request):
            return told if request.text == "poison" else Answer(delay=0.01)

        with ChatServer(script) as server:
            reply, given_up = run(go, [server.url], retries=1, max_wait=1.0)
        assert (reply.status, given_up) == ("failed", False)
        assert 1.0 <= reply.seconds < 5.0

    def test_a_server_that_only_ever_says_429_is_an_outage(self):
        with ChatServer(Answer(status=429, headers={"Retry-After": "0.2"})) as server:
            found = replies([server.url], *"123", max_wait=1.0)
        assert {reply.status for reply in found} == {"failed"}
        assert all(0.9 < reply.seconds < 5 for reply in found)


class TestBalance:
    def test_idle_servers_take_turns(self):
        with ChatServer() as a, ChatServer() as b, ChatServer() as c:
            replies([a.url, b.url, c.url], *"123456789", together=False)
            assert [len(server.requests) for server in (a, b, c)] == [3, 3, 3]

    def test_a_slow_server_gets_less(self):
        with ChatServer(Answer(delay=0.2)) as slow, ChatServer(Answer(delay=0.01)) as fast:
            replies([slow.url, fast.url], *map(str, range(100)), concurrency=8)
            assert len(fast.requests) > 2 * len(slow.requests)

    def test_two_of_three_gone_the_third_serves_all(self):
        gone = f"http://127.0.0.1:{free_port()}/v1"
        with deaf_server() as deaf, ChatServer(Answer(delay=0.01)) as last:
            texts = [str(i) for i in range(300)]
            found = replies([gone, deaf, last.url], *texts, concurrency=12, timeout=0.5, max_wait=5.0)
        assert [reply.value for reply in found] == texts
        # Past the first disappointment, a dead server holds one slot at most.
        assert sum(reply.seconds for reply in found) / len(found) < 2.0


class TestConcurrency:
    def test_10_000_at_once_are_bounded_complete_and_in_order(self):
        with ChatServer(Answer(delay=0.01)) as server:
            texts = [str(i) for i in range(10_000)]
            found = replies([server.url], *texts, concurrency=32, timeout=30.0, max_wait=60.0)
            assert [reply.value for reply in found] == texts
            assert [reply.retries for reply in found] == [0] * 10_000
            assert 16 <= server.most_in_flight <= 32
            assert len({request.client_port for request in server.requests}) <= 32

    def test_those_who_wait_take_no_memory_for_their_requests(self):
        text = "x" * 100_000

        async def go(client):
            tracemalloc.start()
            try:
                calls = [asyncio.ensure_future(ask(client, text)) for _ in range(2000)]
                await asyncio.sleep(0.3)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
                await client.close()
                await asyncio.gather(*calls)

        with deaf_server() as url:
            assert run(go, [url], concurrency=4) < 20e6

    def test_a_resting_server_holds_no_slot(self):
        with ChatServer(Answer(status=429, headers={"Retry-After": "2"})) as busy, ChatServer() as idle:

            async def go(client):
                waiting = asyncio.ensure_future(ask(client, "first"))
                await asyncio.sleep(0.05)
                served = await asyncio.wait_for(ask(client, "second"), 1.5)
                await waiting
                return served

            assert run(go, [busy.url, idle.url], concurrency=1).status == "ok"


class TestOutage:
    @pytest.mark.parametrize("count", [1, 500])
    def test_an_absent_server_costs_max_wait_however_many_wait(self, count):
        started = time.monotonic()
        found = replies([f"http://127.0.0.1:{free_port()}/v1"], *map(str, range(count)), concurrency=8, max_wait=1.0)
        assert {(reply.status, reply.code) for reply in found} == {("failed", None)}
        assert 0.9 < time.monotonic() - started < 10
        assert "given up; last: " in found[0].error
        assert "Connect call failed" in found[0].error

    def test_a_server_that_never_answers_costs_no_more_on_the_wire_included(self):
        async def go(client):
            early = asyncio.ensure_future(ask(client))
            await asyncio.sleep(0.6)  # still on the wire when the first, and with it the service, is given up
            late = asyncio.ensure_future(ask(client))
            return await asyncio.gather(early, late)

        with deaf_server() as url:
            early, late = run(go, [url], timeout=1.0, max_wait=1.0)
        assert (early.status, late.status) == ("failed", "failed")
        assert 0.9 < early.seconds < 1.9
        assert late.seconds < 0.95

    def test_a_server_that_dies_and_comes_back_answers_everything(self, caplog):
        with ChatServer(Answer(delay=0.02)) as server:

            async def go(client):
                calls = asyncio.gather(*(ask(client, str(i)) for i in range(400)))
                await asyncio.sleep(0.2)
                await asyncio.to_thread(server.stop)
                await asyncio.sleep(0.7)
                await asyncio.to_thread(server.start)
                return await calls

            found = run(go, [server.url], concurrency=16, max_wait=10.0)
        assert [reply.value for reply in found] == [str(i) for i in range(400)]
        assert sum(reply.retries for reply in found) >= 16

    def test_then_calls_fail_at_once_but_for_a_probe_that_can_end_it(self, monkeypatch, caplog):
        monkeypatch.setattr(health, "PROBE_EVERY", 0.4)
        server = ChatServer(Answer(delay=0.05))
        server.port = free_port()

        async def go(client):
            assert not client.given_up
            given_up = await asyncio.gather(*(ask(client) for _ in range(20)))
            assert client.given_up
            at_once = await asyncio.gather(*(ask(client) for _ in range(20)))
            await asyncio.sleep(0.45)
            probed = await asyncio.gather(*(ask(client) for _ in range(20)))
            server.start()
            too_early = await ask(client)
            await asyncio.sleep(0.45)
            probe = asyncio.ensure_future(ask(client, "probe"))
            await asyncio.sleep(0.01)
            meanwhile = await asyncio.gather(*(ask(client, "meanwhile") for _ in range(20)))
            assert not client.given_up
            return given_up, at_once, probed, too_early, await probe, meanwhile

        try:
            with caplog.at_level(logging.DEBUG, logger="r1reward_verl"):
                given_up, at_once, probed, too_early, probe, meanwhile = run(go, [server.url], max_wait=1.0)
        finally:
            server.stop()
        assert {reply.status for reply in (*given_up, *at_once, *probed, too_early)} == {"failed"}
        assert max(reply.seconds for reply in (*at_once, *probed, too_early)) < 0.9
        assert sum(reply.retries for reply in (*at_once, *probed, too_early)) == 0
        assert (probe.status, probe.value) == ("ok", "probe")
        # Those who come while the probe is on its way wait for what it finds: a burst is not lost to its first call.
        assert {(reply.status, reply.value) for reply in meanwhile} == {("ok", "meanwhile")}
        assert [request.text for request in server.requests] == ["probe", *["meanwhile"] * 20]
        assert "no answer from" in at_once[0].error

        assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR", "WARNING"]
        began, gave_up, over = caplog.messages
        assert all(server.url in message for message in caplog.messages)
        assert "retrying; last: " in began
        assert re.search(r"for 1\.\d s, given up; last: .*Connect call failed", gave_up)
        assert "answers again after" in over

    def test_a_probe_has_its_normal_time(self, monkeypatch):
        monkeypatch.setattr(health, "PROBE_EVERY", 0.1)
        with ChatServer(lambda request: Answer(delay=9 if request.number == 0 else 0.5)) as server:

            async def go(client):
                await ask(client)
                await asyncio.sleep(0.15)
                return await ask(client, "probe")

            assert run(go, [server.url], timeout=1.0, max_wait=1.0).value == "probe"

    @pytest.mark.parametrize("alive", [Answer("<html>"), Answer(status=404)], ids=["unreadable", "refused"])
    def test_a_server_that_answers_nonsense_is_alive(self, alive, caplog):
        with ChatServer(alive) as server:
            found = replies([server.url], *"12345678", retries=0, timeout=0.5, max_wait=0.5, together=False)
            assert len(server.requests) == len(found) == 8
        assert not caplog.records

    def test_single_failures_are_not_logged(self, caplog):
        with ChatServer(lambda request: Answer(status=500 if request.number % 5 == 0 else 200)) as server:
            found = replies([server.url], *map(str, range(10)), together=False, max_wait=10.0, retries=20)
        assert {reply.status for reply in found} == {"ok"}
        assert sum(reply.retries for reply in found) >= 2
        assert not caplog.records

    def test_is_counted_from_the_last_success(self):
        def script(request):
            return Answer(delay=(9.0, 0.6, 0.1)[min(request.number, 2)])

        with ChatServer(script) as server:  # the first ends unanswered after 0.9 s, 0.3 s after the success of another
            first, second = replies([server.url], "first", "second", timeout=0.9, max_wait=1.0)
        assert (first.status, second.status) == ("ok", "ok")
        assert first.seconds > 1.0  # counted from its own start, the service would have been given up

    def test_time_in_which_nobody_asks_is_no_outage(self):
        with ChatServer(in_turn(Answer(status=500), Answer(status=500), Answer())) as server:

            async def go(client):
                abandoned = asyncio.ensure_future(ask(client))
                await asyncio.sleep(0.05)
                abandoned.cancel()
                await asyncio.sleep(1.2)
                return await ask(client)

            assert run(go, [server.url], max_wait=1.0).status == "ok"


class TestEnd:
    def test_a_cancelled_call_frees_its_slot_and_its_connection(self):
        def script(request):
            return Answer(delay=0.0 if request.text == "next" else 30.0)

        with ChatServer(script) as server:

            async def go(client):
                calls = [asyncio.ensure_future(ask(client, "hang")) for _ in range(6)]  # two on the wire, four waiting
                await asyncio.sleep(0.2)
                assert server.connections == 2
                for call in calls:
                    call.cancel()
                ended = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(end, asyncio.CancelledError) for end in ended)
                reply = await asyncio.wait_for(ask(client, "next"), 1.0)
                assert asyncio.all_tasks() == {asyncio.current_task()}
                return reply

            assert run(go, [server.url], concurrency=2, timeout=60.0, max_wait=60.0).value == "next"
            assert soon(lambda: server.connections == 0)
            assert soon(lambda: server.in_flight == 0)

    def test_a_cancelled_trial_leaves_the_trial_to_another(self):
        answers = (Answer(status=500), Answer(delay=30.0), Answer())
        with ChatServer(in_turn(*answers)) as server:

            async def go(client):
                trial = asyncio.ensure_future(ask(client))
                while len(server.requests) < 2:
                    await asyncio.sleep(0.01)
                waiting = asyncio.ensure_future(ask(client))
                await asyncio.sleep(0.05)
                trial.cancel()
                return await asyncio.wait_for(waiting, 1.0)

            assert run(go, [server.url], timeout=60.0, max_wait=60.0).status == "ok"

    def test_close_ends_calls_that_are_running_and_waiting(self):
        with ChatServer(Answer(delay=30.0)) as server:

            async def go(client):
                calls = [asyncio.ensure_future(ask(client)) for _ in range(5)]
                await asyncio.sleep(0.1)
                await client.close()
                ended = await asyncio.wait_for(asyncio.gather(*calls), 1.0)
                return [*ended, await ask(client)]

            found = run(go, [server.url], concurrency=2, timeout=60.0, max_wait=60.0)
            assert {(reply.status, reply.error) for reply in found} == {("failed", "the client is closed")}
            assert soon(lambda: server.connections == 0)

    def test_a_call_whose_turn_comes_as_the_client_closes_ends(self, server):
        async def go(client):
            async def first():
                await ask(client)
                await client.close()

            return (await asyncio.gather(first(), ask(client)))[1]

        reply = run(go, [server.url], concurrency=1)
        assert (reply.status, reply.error) == ("failed", "the client is closed")

    def test_a_call_cancelled_as_its_turn_comes_gives_it_to_the_next(self, server):
        async def go(client):
            async def first():
                await ask(client)
                second.cancel()

            before = asyncio.ensure_future(first())
            await asyncio.sleep(0)
            second = asyncio.ensure_future(ask(client, "second"))
            await before
            return await asyncio.wait_for(ask(client, "third"), 1.0)

        assert run(go, [server.url], concurrency=1).value == "third"
        assert [request.text for request in server.requests] == ["1", "third"]

    def test_an_ended_loop_leaves_no_socket_and_no_complaint(self, recwarn, caplog):
        endless = Answer(b"x" * 100_000, repeat=100)
        script = in_turn(Answer(), Answer(close=True), endless, Answer("x"), Answer(status=500), Answer())
        with ChatServer(script) as server:
            replies([server.url], *"123456", concurrency=3)
            assert soon(lambda: server.connections == 0)
        gc.collect()
        assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning)]
        assert not [record for record in caplog.records if record.name == "asyncio"]


class TestKey:
    def test_is_in_no_error_log_or_repr(self, caplog):
        """The server echoes the header in every way it can, also where an error text is cut."""
        echo = {"error": f"{'x' * 160} Bearer {KEY} {KEY}"}
        answers = [
            Answer(echo, status=401),
            Answer(echo, status=500),
            Answer(echo),
            Answer(f"<p>{KEY}</p>"),
            Answer(f"{KEY}" * 40),
            Answer(echo, status=302, headers={"Location": f"http://127.0.0.1/{KEY}"}),
        ]
        said = []
        with caplog.at_level(logging.DEBUG):
            for answer in answers:
                with ChatServer(answer, models=answer) as server:

                    async def go(client):
                        reply = await ask(client)
                        with pytest.raises(ChatError) as caught:
                            await client.models()
                        error = caught.value
                        return [repr(thing) for thing in (client, reply, error, error.__cause__, error.__context__)]

                    told = run(go, [server.url], api_key=KEY, max_wait=0.4, timeout=0.4, retries=0)
                    assert "status" in told[1] or "***" in told[1]
                    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
                    said += told
        for text in (*said, caplog.text):
            assert "sk-b2" not in text
            assert "secret" not in text

    def test_half_a_key_in_a_broken_answer_is_not_quoted(self):
        raw = f"HTTP/1.1 200 OK\r\nno header {KEY[:9]}\r\n\r\n".encode()

        def serve(listener):
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(raw)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            (reply,) = replies([url], "1", api_key=KEY, timeout=0.4, max_wait=0.4)
            listener.shutdown(socket.SHUT_RDWR)
        assert "sk-b2" not in reply.error
        assert "ClientResponseError" in reply.error
