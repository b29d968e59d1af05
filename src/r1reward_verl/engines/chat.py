"""Asynchronous client for one or several OpenAI-compatible chat servers: bounded, balanced, and never stuck.

What a dead service costs is bounded once, not per request: while no server answers anybody, requests are repeated;
after `max_wait` seconds of that all of them give up together, and later ones fail at once until a probe succeeds. A
request that fails while others succeed gives up after its own `retries`; being told to wait (429, Retry-After) uses up
none of them for `max_wait`. Importing this module imports aiohttp.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import aiohttp

from r1reward_verl.engines import health
from r1reward_verl.engines.health import Outage, ServerHealth, Timeout
from r1reward_verl.engines.wire import RequestFailed, Wire, check_client_options
from r1reward_verl.errors import R1RewardError
from r1reward_verl.text import printable

logger = logging.getLogger(__name__)

T = TypeVar("T")
ReplyStatus = Literal["ok", "unreadable", "refused", "failed"]


class ChatError(R1RewardError):
    """A server does not answer as an OpenAI-compatible server does; the message names its URL."""


@dataclass(frozen=True)
class Reply(Generic[T]):
    """What became of one request.

    Attributes:
        value: what `read` made of the answer; None unless `status` is `ok`.
        status: `unreadable`: a server answers, but not what `read` needs; `refused`: it wants no such request (4xx
            other than 408, 425 and 429, or a redirect); `failed`: no server served the request.
        retries: requests sent beyond the first.
        seconds: from the call to its return, waiting included.
        error: what went wrong last, without the key; empty if nothing did.
        code: HTTP status of the answer that `error` speaks of, if it was one without a completion.
    """

    value: T | None
    status: ReplyStatus
    retries: int
    seconds: float
    error: str = ""
    code: int | None = None


@dataclass(frozen=True)
class Constraint:
    """Fields of a request that make a server constrain its answer, for those servers that can.

    Attributes:
        fields: put over those of the request.
        obeyed: whether an answer keeps to it; may raise what `read` may.
    """

    fields: Mapping[str, Any]
    obeyed: Callable[[Mapping[str, Any]], bool]


_CAUGHT = (RequestFailed, aiohttp.ClientError, OSError, asyncio.TimeoutError)
_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


class ChatClient:
    """Sends chat requests to OpenAI-compatible servers; made anywhere, used within one event loop, closed at the end.

    A request goes to the server with the fewest in flight. A server that fails rests for a time that doubles with
    each failure, then gets one request at a time until it answers; its requests go to the others. So does a server
    that answers, but not with completions (a wrong page, model or key), unless no other does better. What one server
    refuses or answers unreadably is tried at another before it counts; a server whose answers others have to mend
    several times in a row rests, too. No redirect is followed, no cookie kept, no proxy of the environment used, and
    the key goes into the Authorization header alone.

    Args:
        urls: base addresses as OpenAI's own client takes them, such as `http://host:8000/v1`.
        model: name of the model; None: the first that a server lists, asked once for each.
        api_key: sent as a bearer token; None or empty: none is sent.
        concurrency: most requests on the wire at one time, over all servers; the others wait in order.
        timeout: seconds for one request, from connecting to the last byte of its answer.
        max_wait: seconds without an answer to anybody after which the service is given up.
        retries: how often a request that fails while others succeed is repeated, and one whose answer is unreadable.
        max_bytes: of one answer; a longer one is unreadable, and not read to its end.

    Raises:
        ValueError: an address or a number that cannot be meant; the message names it.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        model: str | None = None,
        api_key: str | None = None,
        concurrency: int = 64,
        timeout: float = 30.0,
        max_wait: float = 120.0,
        retries: int = 3,
        max_bytes: int = 1 << 20,
    ) -> None:
        bases = check_client_options(urls, api_key, concurrency, timeout, max_wait, retries, max_bytes)
        self._timeout, self._max_wait, self._retries = timeout, max_wait, retries
        self._wire = Wire(api_key, timeout, max_wait, max_bytes)
        self._servers = [ServerHealth(url, model) for url in bases]
        self._outage = Outage(", ".join(bases), max_wait, self._abandon)
        self._free = concurrency
        self._calls = 0
        self._queue: deque[tuple[asyncio.Future[tuple[ServerHealth, float] | None], ServerHealth | None]] = deque()
        self._limits: set[Timeout] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"ChatClient({[server.url for server in self._servers]})"

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        read: Callable[[Mapping[str, Any]], T | None],
        *,
        constraint: Constraint | None = None,
        **body: Any,
    ) -> Reply[T]:
        """Ask for a chat completion; whatever servers and networks do is told in the reply, not raised.

        Args:
            messages: of the chat.
            read: makes the value out of the server's JSON object, which may be any. An answer for which it returns
                None, or raises what arithmetic, lookups or conversions raise, is unreadable.
            constraint: asked of each server that has not refused or ignored it several times in a row.
            **body: further fields of the request, such as `max_tokens=1`.

        Raises:
            TypeError: `messages` or `body` cannot be written as JSON.
            RuntimeError: called within a second event loop.
        """
        loop = self._open()
        called = loop.time()
        requests = failures = unreadable = refused = 0
        told_since = math.inf
        failed_at = math.inf
        error = ""
        code: int | None = None
        doubted: ServerHealth | None = None  # gave no good answer to this request, which may be the request's fault
        unconstrained: ServerHealth | None = None  # refused or ignored the constraint

        def reply(status: ReplyStatus, value: T | None = None) -> Reply[T]:
            return Reply(value, status, max(requests - 1, 0), loop.time() - called, error, code)

        self._calls += 1
        try:
            while True:
                # Soon again, but not always before the others: if it is this request that fails, only they can tell.
                turn = await self._take(first=requests == 1, avoid=doubted)
                if turn is None:
                    error = "the client is closed" if self._closed else self._outage.error
                    return reply("failed")
                server, began = turn
                asked = constraint if unconstrained is None and server.constrains(began) else None
                try:
                    # Not before its turn: thousands may be waiting.
                    payload = json.dumps({"messages": messages, **body, **(asked.fields if asked else {})}).encode()
                    requests += 1
                    with self._limit():
                        value = await self._ask(server, payload, read, asked, fresh=requests > 1)
                except _CAUGHT as caught:
                    error = self._wire.describe(server.url, caught)
                    now = loop.time()
                    failed = caught if isinstance(caught, RequestFailed) else RequestFailed("unserved", "")
                    code = failed.code
                    if failed.kind == "unserved":
                        told = code == 429 or failed.wait is not None
                        if told:
                            told_since = min(told_since, now)
                        if code == 429:
                            server.pace.limited(began, now)
                        if self._outage.last_success > min(began, failed_at):
                            failures += not told or now > told_since + self._max_wait
                        failed_at = now
                        server.failed(began, now, failed.wait)
                        self._outage.failed(began, error, loop)
                    elif failed.misplaced:
                        if self._left_out(server, began, error):
                            continue
                    else:
                        self._alive(server, began)
                        if asked:
                            unconstrained = server
                            continue
                        doubted = server
                    unreadable += failed.kind == "unreadable"
                    refused += failed.kind == "refused"
                    if refused and (failed.misplaced or refused > 1 or len(self._servers) == 1):
                        return reply("refused")
                    if failures > self._retries:
                        return reply("failed")
                    if unreadable > self._retries:
                        return reply("unreadable")
                else:
                    server.answered(asked is not None)
                    self._outage.answered(loop.time())
                    if doubted is not None and doubted is not server and doubted.corrected():
                        self._left_out(doubted, began, error)
                    if unconstrained is not None and unconstrained.ignored_constraint(loop.time()):
                        logger.warning(
                            "%s does not constrain its answers; it is asked in words (%s)", unconstrained.url, error
                        )
                    return reply("ok", value)
                finally:
                    self._end(server, began)
        finally:
            self._calls -= 1
            if not self._calls and not self._outage.open:
                self._outage.forget()  # while nobody asks, nobody goes without an answer

    @property
    def given_up(self) -> bool:
        """Whether no server has answered anybody for `max_wait`, so that calls fail at once."""
        return self._outage.open

    async def models(self) -> dict[str, list[str]]:
        """Return the names of the models that each server lists, by URL.

        Raises:
            ChatError: a server does not answer, or with something else; the message names it and says what it did.
        """
        self._open()
        found: dict[str, list[str]] = {}
        for server in self._servers:
            error = ""
            try:
                with self._limit():
                    found[server.url] = await self._list(server, fresh=False)
            except _CAUGHT as caught:
                error = self._wire.describe(server.url, caught)
            if error:  # raised out here, because aiohttp's exceptions hold the request's headers
                raise ChatError(f"no list of models from {error}; see that the server runs and the address is right")
        return found

    async def close(self) -> None:
        """End all connections; calls still running, and later ones, return as `failed`."""
        self._closed = True
        self._outage.forget()
        self._abandon()
        await self._wire.close()

    def _open(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if not self._closed and not self._wire.open():
            raise RuntimeError(f"{self!r} belongs to another event loop; make one client for each loop")
        self._loop = loop
        return loop

    async def _take(self, *, first: bool, avoid: ServerHealth | None) -> tuple[ServerHealth, float] | None:
        """Wait for a free slot and a server that does not rest; None if waiting is of no use."""
        if self._closed:
            return None
        if self._outage.open and self._outage.next_probe < math.inf:
            if (now := self._loop.time()) < self._outage.next_probe:
                return None
            self._outage.next_probe = math.inf  # while this one is on its way, the others wait for what it finds
            return self._begin(min(self._servers, key=lambda server: server.last_begun), now)
        turn: asyncio.Future[tuple[ServerHealth, float] | None] = self._loop.create_future()
        (self._queue.appendleft if first else self._queue.append)((turn, avoid))
        self._dispatch()
        try:
            taken = await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and (taken := turn.result()):
                self._end(*taken)
            raise
        if taken and (self._closed or self._outage.open):  # since this turn was given
            self._end(*taken)
            return None
        return taken

    def _dispatch(self) -> None:
        now = self._loop.time()
        while self._free and self._queue and not self._outage.open:
            turn, avoid = self._queue[0]
            if turn.done():
                self._queue.popleft()
            elif ready := [server for server in self._servers if server.ready_at <= now]:
                others = [server for server in ready if server is not avoid]
                server = min(others or ready, key=lambda server: (server.in_flight, server.last_begun))
                self._queue.popleft()
                turn.set_result(self._begin(server, now))
            else:
                first = min(server.ready_at for server in self._servers)
                if self._alarm is not None:
                    self._alarm.cancel()
                self._alarm = self._loop.call_at(min(first, now + self._timeout), self._dispatch)
                return

    def _begin(self, server: ServerHealth, now: float) -> tuple[ServerHealth, float]:
        self._free -= 1
        server.begin(now)
        return server, now

    def _end(self, server: ServerHealth, began: float) -> None:
        self._free += 1
        server.end(began, now := self._loop.time())
        if self._outage.open:
            self._outage.next_probe = now + health.PROBE_EVERY
            self._send_home()
        self._dispatch()

    def _alive(self, server: ServerHealth, began: float) -> None:
        now = self._loop.time()
        server.alive(began, now)
        self._outage.answered(now)

    def _left_out(self, server: ServerHealth, began: float, error: str) -> bool:
        """Leave out a server whose answers are no completions, as long as another may do better; whether one may."""
        now = self._loop.time()
        server.left_out = True
        if all(server.left_out for server in self._servers):
            for each in self._servers:
                each.wake()
            self._outage.answered(now)
            return False
        server.failed(began, now, None)
        if not server.named:
            server.named = True
            logger.warning("left out while other servers answer: %s", error)
        return True

    def _limit(self) -> Timeout:
        return Timeout(self._timeout, self._limits)

    def _abandon(self) -> None:
        """Send everybody home: those who wait for their turn, and those on the wire."""
        self._send_home()
        for limit in self._limits:
            limit.expire()

    def _send_home(self) -> None:
        while self._queue:
            turn, _ = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)

    async def _ask(
        self,
        server: ServerHealth,
        payload: bytes,
        read: Callable[[Any], T | None],
        constraint: Constraint | None,
        *,
        fresh: bool,
    ) -> T:
        if server.model is None:
            async with server.listing:
                if server.model is None and not await self._list(server, fresh=fresh):
                    raise RequestFailed("unreadable", "lists no model; name one", misplaced=True)
        named = f'{{"model": {json.dumps(server.model)}, '.encode() + payload[1:]
        answer, body = await self._wire.exchange("POST", server.chat, named, "choices", fresh=fresh)
        with suppress(*_UNREADABLE):
            if (constraint is None or constraint.obeyed(answer)) and (value := read(answer)) is not None:
                return value
        raise RequestFailed("unreadable", f"unreadable answer: {self._wire.excerpt(body)}")

    async def _list(self, server: ServerHealth, *, fresh: bool) -> list[str]:
        answer, body = await self._wire.exchange("GET", server.models, None, "data", fresh=fresh)
        try:
            names = [str(model["id"]) for model in answer["data"]]
        except _UNREADABLE:
            error = f"unreadable answer: {self._wire.excerpt(body)}"
            raise RequestFailed("unreadable", error, misplaced=True) from None
        if names and server.model is None:
            server.model = names[0]
        return [printable(name) for name in names]
