"""A small OpenAI-compatible chat server on 127.0.0.1 that does what a test tells it, in a thread of its own.

    with ChatServer(in_turn(Answer(status=503), Answer())) as server:
        ...  # ask server.url
    assert server.requests[0].body["model"] == "judge"

By default each request is answered at once with the text of its last message. What it has seen is kept in `requests`
(chat completions), `listings` (of its models), `most_in_flight` and `connections`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Received:
    """A request for a chat completion; `number` counts them from 0, `client_port` tells connections apart."""

    number: int
    headers: Mapping[str, str]
    body: Any
    client_port: int

    @property
    def text(self) -> str:
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True)
class Answer:
    """What a request gets, `delay` seconds after it came.

    Attributes:
        body: sent as it is (str, bytes) or as JSON; None: a completion with the text of the request's last message.
        repeat: the body is sent so often in one answer, in chunks and without a Content-Length, every `pause` seconds.
        close: the connection is closed instead of an answer; with a body, in the middle of an answer of twice the
            length.
    """

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    repeat: int = 1
    pause: float = 0.0
    close: bool = False


Script = Callable[[Received], Answer]


def completion(text: str) -> dict[str, Any]:
    """A chat completion as an OpenAI-compatible server writes it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "chatcmpl-0", "object": "chat.completion", "choices": [choice]}


def in_turn(*answers: Answer) -> Script:
    """The answers one after the other, and the last one to all further requests."""
    return lambda request: answers[min(request.number, len(answers) - 1)]


class ChatServer:
    """Runs from `start` to `stop` (or within `with`); started again, it has the same port and counts on.

    Args:
        script: the answer to each request, called in the server's thread; one `Answer` for all; None: the default.
        models: the names it lists, or the `Answer` to a request for them.
    """

    def __init__(self, script: Script | Answer | None = None, *, models: Sequence[str] | Answer = ("judge",)) -> None:
        self.script: Script = script if callable(script) else lambda _: script or Answer()
        self.models = models
        self.requests: list[Received] = []
        self.listings = 0
        self.in_flight = self.most_in_flight = 0
        self.port = 0
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """What a client calls the base address."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._runner.server.connections) if self._thread and self._runner.server else 0

    def start(self) -> ChatServer:
        """Listen; returns when it does."""
        started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(started),), daemon=True)
        self._thread.start()
        if not started.wait(10):
            raise RuntimeError(f"the server does not listen on port {self.port}")
        return self

    def stop(self) -> None:
        """Close the port and all connections, whatever is on them; returns when that is done."""
        if self._thread:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(10)
            self._thread = None

    def __enter__(self) -> ChatServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=4096)
        await site.start()
        self.port = self._runner.addresses[0][1]
        started.set()
        await self._stopped.wait()
        await site.stop()
        for handler in self._runner.server.connections:
            if handler.transport:
                handler.transport.abort()
        await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.StreamResponse:
        self.listings += 1
        if isinstance(self.models, Answer):
            return await self._send(request, self.models, default={})
        listed = [{"id": name, "object": "model"} for name in self.models]
        return web.json_response({"object": "list", "data": listed})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        client_port = request.get_extra_info("peername", (None, 0))[1]
        received = Received(len(self.requests), dict(request.headers), body, client_port)
        self.requests.append(received)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._send(request, self.script(received), default=completion(received.text))
        finally:
            self.in_flight -= 1

    async def _send(self, request: web.Request, answer: Answer, *, default: Any) -> web.StreamResponse:
        if answer.delay:
            await asyncio.sleep(answer.delay)
        body = default if answer.body is None else answer.body
        raw = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else json.dumps(body).encode()
        if answer.close and answer.body is None:
            request.transport.abort()
            return web.Response()
        if not answer.close and answer.repeat == 1:
            kind = None if isinstance(body, str | bytes) else "application/json"
            return web.Response(body=raw, status=answer.status, headers=answer.headers, content_type=kind)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        if answer.close:
            response.content_length = 2 * len(raw)
        await response.prepare(request)
        for _ in range(answer.repeat):
            await response.write(raw)
            if answer.pause:
                await asyncio.sleep(answer.pause)
        if answer.close:
            request.transport.close()
        return response
