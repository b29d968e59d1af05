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
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from r1reward_verl import __version__
from r1reward_verl.engines import health
from r1reward_verl.engines.health import Outage, Server, Timeout
from r1reward_verl.errors import R1RewardError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Status = Literal["ok", "unreadable", "refused", "failed"]

# uvicorn drops connections that are idle for 5 s: letting go first spares a request on a dying connection.
_KEEP_ALIVE = 4.0
_EXCERPT = 200


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
    status: Status
    retries: int
    seconds: float
    error: str = ""
    code: int | None = None


class _RequestFailed(Exception):
    """`unserved`: worth another try, not before `wait` seconds if the server says so. Otherwise the server is alive."""

    def __init__(
        self,
        kind: Literal["unserved", "unreadable", "refused"],
        text: str,
        wait: float | None = None,
        code: int | None = None,
    ):
        super().__init__(text)
        self.kind, self.wait, self.code = kind, wait, code


_CAUGHT = (_RequestFailed, aiohttp.ClientError, OSError, asyncio.TimeoutError)


class ChatClient:
    """Sends chat requests to OpenAI-compatible servers; made anywhere, used within one event loop, closed at the end.

    A request goes to the server with the fewest in flight. A server that fails rests for a time that doubles with
    each failure, then gets one request at a time until it answers; its requests go to the others. No redirect is
    followed, no cookie kept, no proxy of the environment used, and the key goes into the Authorization header alone.

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
        bases = check_options(urls, api_key, concurrency, timeout, max_wait, retries, max_bytes)
        self._key, self._timeout, self._max_wait = api_key, timeout, max_wait
        self._retries, self._max_bytes = retries, max_bytes
        self._servers = [Server(url, model) for url in bases]
        self._outage = Outage(", ".join(bases), max_wait, self._abandon)
        self._free = concurrency
        self._calls = 0
        self._queue: deque[asyncio.Future[tuple[Server, float] | None]] = deque()
        self._limits: set[Timeout] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._sessions: list[aiohttp.ClientSession] = []  # one that keeps connections, one that never does
        self._closed = False

    def __repr__(self) -> str:
        return f"ChatClient({[server.url for server in self._servers]})"

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def complete(
        self, messages: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], T | None], **body: Any
    ) -> Reply[T]:
        """Ask for a chat completion; whatever servers and networks do is told in the reply, not raised.

        Args:
            messages: of the chat.
            read: makes the value out of the server's JSON object, which may be any; returning None or raising
                KeyError, IndexError, TypeError, ValueError or AttributeError finds it unreadable.
            **body: further fields of the request, such as `max_tokens=1`.

        Raises:
            TypeError: `messages` or `body` cannot be written as JSON.
            RuntimeError: called within a second event loop.
        """
        loop = self._open()
        called = loop.time()
        requests = failures = unreadable = 0
        told_since = math.inf
        failed_at = math.inf
        error = ""
        code: int | None = None

        def reply(status: Status, value: T | None = None) -> Reply[T]:
            return Reply(value, status, max(requests - 1, 0), loop.time() - called, error, code)

        self._calls += 1
        try:
            while True:
                # Soon again, but not always before the others: if it is this request that fails, only they can tell.
                turn = await self._take(first=requests == 1)
                if turn is None:
                    error = "the client is closed" if self._closed else self._outage.error
                    return reply("failed")
                server, began = turn
                try:
                    # Not before its turn: thousands may be waiting.
                    payload = json.dumps({"messages": messages, **body}).encode()
                    requests += 1
                    with self._limit():
                        value = await self._ask(server, payload, read, self._sessions[requests > 1])
                except _CAUGHT as caught:
                    error = self._describe(server, caught)
                    kind = caught.kind if isinstance(caught, _RequestFailed) else "unserved"
                    code, wait = getattr(caught, "code", None), getattr(caught, "wait", None)
                    if kind == "unserved":
                        now = loop.time()
                        told = code == 429 or wait is not None
                        if told:
                            told_since = min(told_since, now)
                        if self._outage.last_success > min(began, failed_at):
                            failures += not told or now > told_since + self._max_wait
                        failed_at = now
                        server.failed(began, now, wait)
                        self._outage.failed(began, error, loop)
                    else:
                        unreadable += kind == "unreadable"
                        self._answered(server)
                    if kind == "refused":
                        return reply("refused")
                    if failures > self._retries:
                        return reply("failed")
                    if unreadable > self._retries:
                        return reply("unreadable")
                else:
                    self._answered(server)
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
                    found[server.url] = await self._list(server, self._sessions[0])
            except _CAUGHT as caught:
                error = self._describe(server, caught)
            if error:  # raised out here, because aiohttp's exceptions hold the request's headers
                raise ChatError(f"no list of models from {error}; see that the server runs and the address is right")
        return found

    async def close(self) -> None:
        """End all connections; calls still running, and later ones, return as `failed`."""
        self._closed = True
        self._outage.forget()
        self._abandon()
        for session in self._sessions:
            await session.close()

    def _open(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if not self._sessions and not self._closed:
            self._loop = loop
            kept = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
            self._sessions = [self._session(kept), self._session(aiohttp.TCPConnector(limit=0, force_close=True))]
        elif self._sessions and self._loop is not loop:
            raise RuntimeError(f"{self!r} belongs to another event loop; make one client for each loop")
        return loop

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        headers = {"User-Agent": f"r1reward-verl/{__version__}", "Accept-Encoding": "identity"}
        headers |= {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def _take(self, *, first: bool) -> tuple[Server, float] | None:
        """Wait for a free slot and a server that does not rest; None if waiting is of no use."""
        if self._closed:
            return None
        if self._outage.open and self._outage.next_probe < math.inf:
            if (now := self._loop.time()) < self._outage.next_probe:
                return None
            self._outage.next_probe = math.inf  # while this one is on its way, the others wait for what it finds
            return self._begin(min(self._servers, key=lambda server: server.last_begun), now)
        turn: asyncio.Future[tuple[Server, float] | None] = self._loop.create_future()
        (self._queue.appendleft if first else self._queue.append)(turn)
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
            if self._queue[0].done():
                self._queue.popleft()
            elif ready := [server for server in self._servers if max(server.rests_until, server.asked_until) <= now]:
                server = min(ready, key=lambda server: (server.in_flight, server.last_begun))
                self._queue.popleft().set_result(self._begin(server, now))
            else:
                first = min(max(server.rests_until, server.asked_until) for server in self._servers)
                if self._alarm is not None:
                    self._alarm.cancel()
                self._alarm = self._loop.call_at(min(first, now + self._timeout), self._dispatch)
                return

    def _begin(self, server: Server, now: float) -> tuple[Server, float]:
        self._free -= 1
        server.begin(now)
        return server, now

    def _end(self, server: Server, began: float) -> None:
        self._free += 1
        server.end(began, now := self._loop.time())
        if self._outage.open:
            self._outage.next_probe = now + health.PROBE_EVERY
            self._send_home()
        self._dispatch()

    def _answered(self, server: Server) -> None:
        server.answered()
        self._outage.answered(self._loop.time())

    def _limit(self) -> Timeout:
        return Timeout(self._timeout, self._limits)

    def _abandon(self) -> None:
        """Send everybody home: those who wait for their turn, and those on the wire."""
        self._send_home()
        for limit in self._limits:
            limit.expire()

    def _send_home(self) -> None:
        while self._queue:
            if not (turn := self._queue.popleft()).done():
                turn.set_result(None)

    async def _ask(
        self, server: Server, payload: bytes, read: Callable[[Any], T | None], session: aiohttp.ClientSession
    ) -> T:
        if server.model is None:
            async with server.listing:
                if server.model is None and not await self._list(server, session):
                    raise _RequestFailed("unreadable", "lists no model; name one")
        named = f'{{"model": {json.dumps(server.model)}, '.encode() + payload[1:]
        return await self._exchange(session, "POST", server.chat, named, read)

    async def _list(self, server: Server, session: aiohttp.ClientSession) -> list[str]:
        names = await self._exchange(session, "GET", server.models, None, lambda got: [m["id"] for m in got["data"]])
        if names and server.model is None:
            server.model = str(names[0])
        return names

    async def _exchange(
        self, session: aiohttp.ClientSession, method: str, url: URL, data: bytes | None, read: Callable[[Any], T | None]
    ) -> T:
        response = await session.request(method, url, data=data, allow_redirects=False)
        body = bytearray()
        try:
            too_long = (response.content_length or 0) > self._max_bytes
            while not too_long and (chunk := await response.content.read(self._max_bytes + 1 - len(body))):
                body += chunk
                too_long = len(body) > self._max_bytes
        finally:
            response.close()  # ends the connection unless all of the answer has been read
        status = response.status
        good = 200 <= status < 300
        answer = value = None
        if good and not too_long:
            with suppress(ValueError, RecursionError):
                answer = json.loads(body)
            if isinstance(answer, dict):
                with suppress(KeyError, IndexError, TypeError, ValueError, AttributeError):
                    value = read(answer)
            if value is not None:
                return value
        said = self._without_key(body.decode(errors="replace"))[:_EXCERPT]
        if too_long:
            said = f"answer larger than {self._max_bytes} bytes"
        if good:
            raise _RequestFailed("unreadable", said if too_long else f"unreadable answer: {said}")
        if status == 429 and "insufficient_quota" in said:  # how OpenAI says that an account is empty
            raise _RequestFailed("refused", f"status {status}: {said}", code=402)
        if status >= 500 or status in (408, 425, 429):
            told = response.headers.get("Retry-After") if status in (429, 503) else None
            raise _RequestFailed("unserved", f"status {status}: {said}", _retry_after(told, self._max_wait), status)
        raise _RequestFailed("refused", f"status {status}: {said}", code=status)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _describe(self, server: Server, caught: Exception) -> str:
        said = f"{type(caught).__name__}"
        if isinstance(caught, asyncio.TimeoutError):
            said = f"no complete answer within {self._timeout:g} s"
        elif isinstance(caught, _RequestFailed):
            said = str(caught)
        elif isinstance(caught, OSError):  # what else aiohttp says may quote the server, cut in the middle of a key
            said += f": {caught}"
        return self._without_key(f"{server.url}: {said}")


def check_options(
    urls: Sequence[str],
    api_key: str | None,
    concurrency: int,
    timeout: float,
    max_wait: float,
    retries: int,
    max_bytes: int = 1 << 20,
) -> list[str]:
    """Return the addresses without a slash at their end.

    Raises:
        ValueError: an option of `ChatClient` that cannot be used; the message names it.
    """
    if isinstance(urls, str) or not urls:
        raise ValueError(f"urls is {urls!r}; give a list of addresses, such as ['http://host:8000/v1']")
    bases = [_base_url(url, f"urls[{i}]") for i, url in enumerate(urls)]
    if twice := sorted({url for url in bases if bases.count(url) > 1}):
        raise ValueError(f"{twice[0]!r} is given twice; name each server once")
    whole = {"concurrency": (concurrency, 1), "retries": (retries, 0), "max_bytes": (max_bytes, 1)}
    for name, (value, least) in whole.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    if not 0 < timeout <= max_wait < math.inf:
        raise ValueError(f"timeout is {timeout!r} and max_wait {max_wait!r}; it must be 0 < timeout <= max_wait")
    if api_key and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise ValueError("the API key holds characters that no header can carry; look for a space or a line break")
    return bases


def _base_url(url: str, where: str) -> str:
    """Return `url` without a slash at its end; no message quotes a part that may hold a key."""
    if isinstance(url, str) and "@" in url:
        raise ValueError(f"{where} holds a user or password (an @); leave it out and give the key as api_key")
    if isinstance(url, str) and (bare := re.split("[?#]", url)[0]) != url:
        raise ValueError(f"{where} is {bare!r} with a query or fragment; end it at the API version, as in /v1")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not re.search(r"\s", url)
    except (ValueError, AttributeError, TypeError):
        good = False
    if not good:
        raise ValueError(f"{where} is {url!r}, no address of an HTTP server; write it as http://host:8000/v1")
    return url.rstrip("/")


def _retry_after(value: str | None, most: float) -> float | None:
    """Return the seconds of a Retry-After header (seconds or HTTP date), at most `most`; None if it names no time."""
    try:
        seconds = float(value or "")
    except ValueError:
        try:
            until = parsedate_to_datetime(value or "")
        except (ValueError, TypeError):
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=timezone.utc)
        seconds = (until - datetime.now(timezone.utc)).total_seconds()
    return min(seconds, most) if seconds > 0 else None
