import base64
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import pytest

from chat_server import ChatServer
from factories import free_port
from r1reward_verl.use.serve.settings import SERVICE_KEY, ServeSettings
from reward_server import reward_model
from serving import ServeProcess, get, metrics, post, running, wait_until

PAIR = {"question": "Which?", "response_1": "quality 3", "response_2": "quality 8"}
LARGE = 100_000_000
KEY, MODEL_KEY = "service-key-2f9a", "model-key-71bc"


@pytest.fixture
def server():
    with ChatServer(reward_model()) as chat:
        yield chat


def place(address):
    host, _, port = address.removeprefix("http://").partition(":")
    return host, int(port)


def send_zeros(address, chunked):
    """POST 100 MB, and return the status; the answer may come before all of it was taken."""
    connection = http.client.HTTPConnection(*place(address), timeout=30)
    piece = bytes(1 << 20)
    body = (piece for _ in range(LARGE >> 20))
    headers = {"Content-Type": "application/json"}
    if not chunked:
        headers["Content-Length"] = str(LARGE >> 20 << 20)
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request("POST", "/v1/judge", body, headers, encode_chunked=chunked)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_large_bodies_are_refused_and_cost_no_memory(server):
    with ServeProcess("--url", server.url, "--port", "0", "--max-body", "4") as service:
        process = psutil.Process(service.process.pid)
        post(service.address, "/v1/judge", PAIR)
        before, most = process.memory_info().rss, 0
        with ThreadPoolExecutor(8) as pool:
            replies = [pool.submit(send_zeros, service.address, number % 2) for number in range(8)]
            while not all(one.done() for one in replies):
                most = max(most, process.memory_info().rss)
                time.sleep(0.005)
        assert [one.result() for one in replies] == [413] * 8
        assert most - before < 60 << 20
        assert post(service.address, "/v1/judge", PAIR).status == 200


def test_open_requests_are_bounded_in_number_and_bytes(server):
    server.script = reward_model(delay=1.0)
    with running(server.url, max_requests=2) as address, ThreadPoolExecutor(3) as pool:
        replies = [pool.submit(post, address, "/v1/judge", PAIR) for _ in range(2)]
        wait_until(lambda: metrics(address)["r1reward_open_requests"] == 2)
        reply = post(address, "/v1/judge", PAIR)
        assert (reply.status, reply.headers["Retry-After"]) == (503, "2")
        assert get(address, "/health").status == 200
        assert [one.result().status for one in replies] == [200, 200]
        assert post(address, "/v1/judge", PAIR).status == 200
    with running(server.url, max_held=1) as address, ThreadPoolExecutor(3) as pool:
        large = {**PAIR, "question": "Which? " * 100_000}
        first = pool.submit(post, address, "/v1/judge", large)
        wait_until(lambda: metrics(address)["r1reward_held_bytes"] > 700_000)
        reply = post(address, "/v1/judge", large)
        assert (reply.status, "bytes" in reply.error["message"]) == (503, True)
        assert first.result().status == 200
        assert metrics(address)["r1reward_held_bytes"] == 0


def test_a_client_that_is_still_sending_gets_its_refusal(server):
    """All of its bytes are taken, so that it does not write into a closed connection; see RFC 9112, section 9.6."""
    body = json.dumps({**PAIR, "question": "Which? " * 500_000}).encode()
    length = f"Content-Length: {len(body)}\r\nConnection: close"
    head = f"POST /v1/judge HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
    with running(server.url, max_body=4, key=KEY) as address:
        for _ in range(20):
            with socket.create_connection(place(address), timeout=10) as client:
                client.sendall(head.encode() + body[:1000])
                time.sleep(0.02)
                client.sendall(body[1000:])
                assert client.recv(100).startswith(b"HTTP/1.1 401")


def test_each_client_has_a_rate(server):
    with running(server.url, rate=0.5) as address:
        replies = [post(address, "/v1/judge", PAIR) for _ in range(3)]
        assert [one.status for one in replies] == [200, 429, 429]
        assert replies[-1].headers["Retry-After"] in "12"
        assert get(address, "/health").status == 200
        time.sleep(2.0)
        assert post(address, "/v1/judge", PAIR).status == 200


def test_a_client_that_does_not_send_its_request_is_let_go(server):
    with (
        running(server.url, body_timeout=0.3) as address,
        socket.create_connection(place(address), timeout=10) as client,
    ):
        client.sendall(
            b"POST /v1/judge HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 408")
        assert metrics(address)["r1reward_open_requests"] == 0


def test_only_json_is_taken_so_that_other_sites_cannot_post(server):
    with running(server.url) as address:
        assert post(address, "/v1/judge", PAIR, Content_Type="text/plain").status == 415
        assert post(address, "/v1/judge", PAIR, Content_Type="application/json; charset=utf-8").status == 200
        assert "Access-Control-Allow-Origin" not in get(address, "/health").headers


def test_work_needs_the_key(server):
    basic = base64.b64encode(f"any:{KEY}".encode()).decode()
    with running(server.url, key=KEY) as address:
        for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": KEY}, {"Authorization": "Basic ???"}):
            reply = post(address, "/v1/judge", PAIR, **headers)
            assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert post(address, "/v1/judge", PAIR, key=KEY).status == 200
        assert post(address, "/v1/judge", PAIR, Authorization=f"Basic {basic}").status == 200  # http://any:KEY@host
        for path in ("/", "/health", "/ready", "/metrics", "/openapi.json"):
            assert get(address, path).status == 200
        assert get(address, "/ready").body["key"] is True
    assert len(server.requests) == 4


def test_keys_are_in_no_log_page_metric_or_answer(server):
    keys = {SERVICE_KEY: KEY, "R1REWARD_MODEL_API_KEY": MODEL_KEY}
    with ServeProcess("--url", server.url, "--port", "0", "--timeout", "0.3", **keys) as service:
        address = service.address
        seen = [post(address, "/v1/judge", PAIR, key=KEY), post(address, "/v1/judge", PAIR, key="wrong")]
        assert server.requests[0].headers["Authorization"] == f"Bearer {MODEL_KEY}"
        assert KEY not in str([(one.headers, one.body) for one in server.requests])
        server.script = lambda request: 1 / 0
        seen.append(post(address, f"/v1/judge?key={KEY}", PAIR, key=KEY))
        server.stop()
        seen += [post(address, "/v1/judge", PAIR, key=KEY), post(address, f"/{KEY}", PAIR, key=KEY)]
        seen += [get(address, path) for path in ("/", "/page.js", "/metrics", "/openapi.json", "/ready")]
        assert service.terminate() == 0
    text = service.log + "".join(f"{one.body}{list(one.headers.items())}" for one in seen)
    assert KEY not in text
    assert MODEL_KEY not in text


def test_a_named_variable_must_hold_a_key(monkeypatch):
    monkeypatch.delenv(SERVICE_KEY, raising=False)
    assert ServeSettings().key() is None
    with pytest.raises(ValueError, match="MY_KEY holds no key"):
        ServeSettings(key_env="MY_KEY").key()
    monkeypatch.setenv(SERVICE_KEY, " ")
    with pytest.raises(ValueError, match="holds no key"):
        ServeSettings().key()


def test_clients_that_leave_free_what_they_held(server):
    server.script = reward_model(delay=60.0)
    with running(server.url, model={"timeout": 90.0}) as address:
        clients = []
        for _ in range(5):
            client = socket.create_connection(place(address))
            body = json.dumps(PAIR).encode()
            head = (
                f"POST /v1/judge HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            )
            client.sendall(f"{head}\r\n\r\n".encode() + body)
            clients.append(client)
        wait_until(lambda: server.in_flight == 10)
        for client in clients:
            client.close()
        wait_until(lambda: server.in_flight == 0)  # the model's servers are spared the work, too
        values = metrics(address)
        assert (values["r1reward_open_requests"], values["r1reward_held_bytes"]) == (0, 0)
        assert values['r1reward_requests_total{route="/v1/judge",status="499"}'] == 5


def test_sigterm_lets_running_requests_finish_and_refuses_new_ones(server):
    server.script = reward_model(delay=1.0)
    with ServeProcess("--url", server.url, "--port", "0") as service, ThreadPoolExecutor(9) as pool:
        address = service.address
        kept = http.client.HTTPConnection(*place(address), timeout=10)
        kept.request("GET", "/health")
        kept.getresponse().read()
        replies = [pool.submit(post, address, "/v1/judge", PAIR) for _ in range(8)]
        wait_until(lambda: server.in_flight == 16)
        end = pool.submit(service.terminate)
        wait_until(lambda: get(address, "/ready").status == 503)
        refused = post(address, "/v1/judge", PAIR)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "2")
        assert [one.result().body["verdict"] for one in replies] == [2] * 8
        assert end.result() == 0
    assert "Traceback" not in service.log


def test_the_drain_has_a_bound(server):
    server.script = reward_model(delay=30.0)
    arguments = ("--url", server.url, "--port", "0", "--drain-timeout", "0.5")
    with ServeProcess(*arguments) as service, ThreadPoolExecutor(1) as pool:
        reply = pool.submit(post, service.address, "/v1/judge", PAIR)
        wait_until(lambda: server.in_flight == 2)
        began = time.monotonic()
        assert service.terminate() == 1
        assert time.monotonic() - began < 6
        assert "1 requests were cut off after 0.5 seconds" in service.log
        assert (reply.result().status, reply.result().headers["Retry-After"]) == (503, "2")


def test_no_answer_is_lost_in_a_restart_under_load(server):
    server.script = reward_model(delay=0.02)
    arguments = ("--url", server.url, "--port", str(free_port()))
    answers, stop = [], threading.Event()

    def client(number):
        while not stop.is_set():
            body = {"question": "Which?", "responses": [f"quality {number}", f"quality {number + 1}", "quality 0"]}
            while True:
                try:
                    reply = post(service.address, "/v1/score", body)
                except OSError:
                    reply = None
                if reply is not None and reply.status == 200:
                    break
                assert reply is None or reply.status == 503
                time.sleep(0.05)
            answers.append(reply.body["scores"])

    with ThreadPoolExecutor(8) as pool:
        service = ServeProcess(*arguments)
        clients = [pool.submit(client, number) for number in range(1, 9)]
        try:
            for _ in range(2):
                count = len(answers)
                wait_until(lambda count=count: len(answers) > count + 40)
                assert service.terminate() == 0
                service = ServeProcess(*arguments)
            count = len(answers)
            wait_until(lambda: len(answers) > count + 40)
        finally:
            stop.set()
            for one in clients:
                one.result()
            service.terminate()
    assert all(answer == [0.5, 1.0, 0.0] for answer in answers)


def test_an_address_that_is_taken_is_an_error(server):
    taken = server.url.rpartition(":")[2].removesuffix("/v1")
    with pytest.raises(AssertionError, match=f"ended with 1: error: cannot listen on 127.0.0.1 port {taken}"):
        ServeProcess("--url", server.url, "--port", taken)
