"""The chat client among servers of which one is broken, and against servers that send any bytes."""

import asyncio
import json
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat_server import Answer, ChatServer, completion
from r1reward_verl.engines.chat import ChatClient, Constraint
from r1reward_verl.engines.messages import read_answer
from r1reward_verl.engines.wire import unreachable
from r1reward_verl.rewards.judges.model import ModelJudge


def read_text(answer):
    return {"0": "0", "1": "1"}[answer["choices"][0]["message"]["content"]]


def complete(urls, count, **options):
    """The replies to `count` requests at a time."""

    async def main():
        async with ChatClient(urls, **{"model": "judge", "timeout": 5.0, "max_wait": 20.0, **options}) as client:
            return await asyncio.gather(
                *(client.complete([{"role": "user", "content": "1"}], read_text) for _ in range(count))
            )

    return asyncio.run(main())


BROKEN = {
    "404": Answer("no such model", status=404),
    "401": Answer("no such key", status=401),
    "403": Answer("not you", status=403),
    "redirect": Answer(status=302, headers={"Location": "/login"}),
    "HTML": Answer("<html>Welcome</html>"),
    "no completion": Answer({"detail": "ok"}),
    "null": Answer({"choices": None}),
    "always 400": Answer("bad request", status=400),
    "other words": Answer(completion("Sure!")),
    "500": Answer("broken", status=500),
}


class TestOneOfThreeIsBroken:
    @pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
    def test_the_others_answer_everything(self, answer, caplog):
        """The broken one is sixty times as fast as the others, and would be asked by preference."""
        with ExitStack() as stack:
            good = [stack.enter_context(ChatServer(Answer(delay=0.3))) for _ in range(2)]
            broken = stack.enter_context(ChatServer(Answer(answer.body, answer.status, answer.headers, delay=0.005)))
            found = complete([good[0].url, broken.url, good[1].url], 256)
        assert [reply.value for reply in found] == ["1"] * 256
        assert len(broken.requests) < 60  # its share of the first 64, and a trial now and then
        named = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
        assert len(named) == (answer.status != 500)
        assert all(broken.url in line for line in named)

    def test_it_is_asked_again_when_it_is_mended(self):
        mended = threading.Event()
        with ChatServer(Answer(delay=0.05)) as good, ChatServer() as broken:
            broken.script = lambda _: Answer(delay=0.005) if mended.is_set() else Answer(status=404)

            async def go():
                async with ChatClient([good.url, broken.url], model="judge") as client:
                    for _ in range(20):
                        await client.complete([{"role": "user", "content": "1"}], read_text)
                    asked = len(broken.requests)
                    mended.set()
                    await asyncio.sleep(1.0)
                    for _ in range(20):
                        await client.complete([{"role": "user", "content": "1"}], read_text)
                    return asked

            assert asyncio.run(go()) < 5
            assert len(broken.requests) > 10

    @pytest.mark.parametrize("answer", [Answer("no such key", status=401), Answer("<html>")], ids=["401", "HTML"])
    def test_three_broken_ones_are_told_at_once(self, answer):
        with ChatServer(answer) as a, ChatServer(answer) as b, ChatServer(answer) as c:
            found = complete([a.url, b.url, c.url], 64)
        assert {reply.status for reply in found} == {"refused" if answer.status == 401 else "unreadable"}
        assert max(reply.seconds for reply in found) < 5

    def test_the_only_one_that_answers_is_broken_and_the_others_are_down(self):
        with ChatServer(Answer(status=404)) as broken, ChatServer(Answer(status=503)) as down:
            found = complete([broken.url, down.url], 20, timeout=1.0, max_wait=1.5)
        assert {reply.status for reply in found} == {"failed"}
        assert max(reply.seconds for reply in found) < 4

    def test_a_request_that_nobody_takes_rests_no_healthy_server(self):
        """Every tenth request is refused by both servers; the other ones do not wait for it."""

        def script(request):
            return Answer("too long", status=400) if request.number % 10 == 0 else Answer(delay=0.01)

        refused = Answer("too long", status=400)
        with ChatServer(script) as a, ChatServer(script) as b:
            found = complete([a.url, b.url], 300, concurrency=8)
        assert sum(reply.status == "ok" for reply in found) > 250
        with ChatServer(refused) as a, ChatServer(refused) as b:
            found = complete([a.url, b.url], 20)
        assert {(reply.status, reply.code, reply.retries) for reply in found} == {("refused", 400, 1)}


class TestConstraint:
    CONSTRAINT = Constraint({"guided": True}, obeyed=lambda answer: read_text(answer) is not None)

    def asked(self, script, count):
        """What of `count` requests one after the other was asked with the constraint, and the replies."""
        with ChatServer(script) as server:

            async def main():
                async with ChatClient([server.url], model="judge") as client:
                    return [
                        await client.complete(
                            [{"role": "user", "content": "1"}], read_text, constraint=self.CONSTRAINT, max_tokens=8
                        )
                        for _ in range(count)
                    ]

            found = asyncio.run(main())
            return ["guided" in request.body for request in server.requests], found

    @pytest.mark.parametrize("odd", [Answer("what?", status=400), Answer(completion("The"))], ids=["400", "odd"])
    def test_one_odd_answer_does_not_end_it(self, odd):
        asked, found = self.asked(lambda request: odd if request.number in (3, 9) else Answer(), 12)
        assert [reply.value for reply in found] == ["1"] * 12
        assert asked.count(False) == 2  # the odd ones again, in words

    @pytest.mark.parametrize("odd", [Answer("what?", status=422), Answer(completion("The"))], ids=["422", "odd"])
    def test_after_three_in_a_row_that_server_is_asked_in_words(self, odd, caplog):
        asked, found = self.asked(lambda request: odd if "guided" in request.body else Answer(), 10)
        assert [reply.value for reply in found] == ["1"] * 10
        assert asked == [True, False] * 3 + [False] * 7
        assert caplog.text.count("does not constrain its answers") == 1

    def test_each_server_is_found_out_for_itself(self):
        def odd(request):
            return Answer("what?", status=400) if "guided" in request.body else Answer(delay=0.01)

        with ChatServer(odd) as unable, ChatServer(Answer(delay=0.01)) as able:

            async def main():
                async with ChatClient([unable.url, able.url], model="judge", concurrency=4) as client:
                    await asyncio.gather(
                        *(
                            client.complete([{"role": "user", "content": "1"}], read_text, constraint=self.CONSTRAINT)
                            for _ in range(100)
                        )
                    )

            asyncio.run(main())
        assert all("guided" in request.body for request in able.requests[10:])
        assert not any("guided" in request.body for request in unable.requests[20:])


def test_what_a_server_says_reaches_the_log_on_one_line_without_control_characters(caplog):
    forged = "\x1b[2J\x1b]0;owned\x07no\nERROR:root:all keys are public\r\n\u202e"
    with ChatServer(Answer(forged, status=503)) as server:
        (reply,) = complete([server.url], 1, timeout=0.5, max_wait=0.5)
    assert caplog.records
    for text in (reply.error, *(record.getMessage() for record in caplog.records)):
        assert "all keys are public" in text
        assert text.isprintable()


def test_a_host_that_no_resolver_takes_is_told():
    assert asyncio.run(unreachable(["http://a..b/v1"], 1.0)).startswith("http://a..b/v1: ")
    (reply,) = complete(["http://a..b/v1"], 1, timeout=0.2, max_wait=0.2)
    assert reply.status == "failed"


@contextmanager
def raw_server(answers):
    """Sends to each connection the next of `answers`, as bytes, and hangs up; yields its address."""

    def serve(listener):
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(1)
                    connection.recv(65536)
                    connection.sendall(answers.pop() if answers else b"")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)


DATES = ["Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359", "Tue, 32 Foo 2026", "1e999", "-1", "nan"]
header = st.tuples(
    st.sampled_from(
        ["Retry-After", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Location"]
    ),
    st.sampled_from([*DATES, "chunked", "gzip", "9" * 30, "text/html; charset=\x80", "http://[", "-5"]) | st.text(),
)
body = st.binary(max_size=200) | st.sampled_from(
    [json.dumps(completion("1")).encode(), b'{"choices": NaN}', b'{"choices": [{}]}', b"[" * 10_000, b"\xff\xfe{"]
)


@st.composite
def responses(draw):
    status = draw(st.sampled_from([b"200", b"302", b"404", b"429", b"500", b"503", b"999", b"-1", b"abc"]))
    headers = b"".join(f"{name}: {value}\r\n".encode(errors="replace") for name, value in draw(st.lists(header)))
    return draw(st.just(b"HTTP/1.1 ") | st.binary(max_size=9)) + status + b" \r\n" + headers + b"\r\n" + draw(body)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(responses() | st.binary(), min_size=1, max_size=5))
def test_any_bytes_are_told_in_the_reply(answers):
    count = len(answers)
    with raw_server(answers) as url:
        found = complete([url], count, timeout=0.2, max_wait=0.3, retries=0)
    assert {reply.status for reply in found} <= {"ok", "failed", "refused", "unreadable"}
    assert all(reply.error.isprintable() for reply in found)


@pytest.mark.parametrize("date", DATES)
@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_no_clock_can_show(date, status):
    with ChatServer(
        lambda request: Answer(status=status if request.number == 0 else 200, headers={"Retry-After": date})
    ) as server:
        (reply,) = complete([server.url], 1, timeout=1.0, max_wait=1.0)
    assert reply.status == "ok" or reply.seconds > 0.5


@pytest.mark.parametrize("number", [10**400, -(10**400), 1e9, -9999, float("nan"), "1e400", [], None, True])
@pytest.mark.parametrize("place", ["token", "alternative"])
def test_a_log_probability_that_is_none_is_told_in_the_reply(number, place):
    numbers = {"token": -0.1, "alternative": -3.0, place: number}
    token = {"token": "1", "logprob": numbers["token"]}
    logprobs = [{**token, "top_logprobs": [token, {"token": "0", "logprob": numbers["alternative"]}]}]
    choice = {"message": {"content": "1"}, "finish_reason": "stop", "logprobs": {"content": logprobs}}

    async def main(url):
        judge = ModelJudge([url], "judge", confidence=True, retries=0)
        async with ChatClient([url], model="judge", retries=0) as client, judge.client:
            opinion = await judge.judge("So response 1 is better.", 1)
            return opinion, await client.complete([{"role": "user", "content": "1"}], read_answer)

    with ChatServer(Answer({"choices": [choice]})) as server:
        opinion, reply = asyncio.run(main(server.url))
    assert opinion.status in ("judged", "undecided")
    assert -1.0 <= opinion.consistency <= 1.0
    assert reply.status in ("ok", "unreadable")


def test_names_of_models_cannot_write_to_a_terminal():
    forged = "judge\x1b[2J\nERROR: no judge"

    async def main(url):
        async with ChatClient([url]) as client:
            return (await client.models())[url]

    with ChatServer(models=[forged]) as server:
        (name,) = asyncio.run(main(server.url))
    assert name.isprintable()
    assert "judge" in name


numbers = st.sampled_from([-9999, float("nan"), 1e9, -1e999, 10**400, None, "x", True, -0.1]) | st.floats()
token = st.fixed_dictionaries(
    {"token": st.sampled_from(["1", "0", " 1", "", None, 1]), "logprob": numbers},
    optional={"top_logprobs": st.none() | st.lists(st.fixed_dictionaries({"token": st.just("0"), "logprob": numbers}))},
)
content = st.sampled_from(["1", "0", "maybe", None, 1, ["1"], {"text": "1"}, "\ud800"])
choice = st.fixed_dictionaries(
    {"message": st.none() | st.fixed_dictionaries({"content": content})},
    optional={"logprobs": st.none() | st.fixed_dictionaries({"content": st.none() | st.lists(token)})},
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.none() | st.just({}) | st.lists(choice, max_size=2), min_size=1, max_size=8))
def test_whatever_stands_in_a_completion_the_judge_has_an_opinion(choices):
    async def main(url):
        judge = ModelJudge([url], "judge", confidence=True, retries=0, timeout=2, max_wait=2)
        try:
            return [await judge.judge(f"{number}. So response 1 is better.", 1) for number in range(len(choices))]
        finally:
            await judge.close()

    with ChatServer(lambda request: Answer({"choices": choices[request.number % len(choices)]})) as server:
        opinions = asyncio.run(main(server.url))
    assert all(-1.0 <= opinion.consistency <= 1.0 for opinion in opinions)
    assert {opinion.status for opinion in opinions} <= {"judged", "cached", "undecided", "failed"}
