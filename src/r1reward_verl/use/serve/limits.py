"""What a request has to pass before it costs anything: rate, key, type, number and size of open requests.

An ASGI application around another one. It reads bodies itself, so that one that is too large is refused by its length
before it is read, and cancels the work of clients that have left.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from r1reward_verl.use.serve.errors import ServeError, unavailable
from r1reward_verl.use.serve.metrics import Metrics
from r1reward_verl.use.serve.settings import ServeSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

BODY = "r1reward.body"
"""Where the scope holds the body for the handler, which takes it out."""

_CLIENTS = 10_000  # whose rate is remembered
_LEFT = 499
_DISCARDED_IN = 2.0  # seconds


class ClientGone(Exception):
    """The client has closed its connection before it sent the whole request."""


class Gate:
    """Lets POST requests through to an application, within bounds; others pass.

    Attributes:
        open: number of POST requests that are being read or worked on.
        held: bytes of their bodies.
        draining: whether new work is refused because the service is about to end.
        drain: called when that begins, for requests that would wait in vain.
    """

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, key: str | None, metrics: Metrics, routes: Collection[str]
    ) -> None:
        self._app, self._settings, self._metrics, self._routes = app, settings, metrics, frozenset(routes)
        self._key = key.encode() if key else None
        self._rates: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.open = self.held = 0
        self.draining = False
        self.drain: Callable[[], None] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), _LEFT

        async def counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, counted)
        except ServeError as error:
            await send_error(error, counted)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            if not self.draining or status != _LEFT:
                raise
            await send_error(unavailable("the service has ended before there was a result: try again"), counted)
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.request(route, status, time.perf_counter() - began)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope, dict(scope["headers"]))
        except ServeError:
            await self._discard(receive)
            raise
        self.open += 1
        body = bytearray()
        try:
            try:
                await asyncio.wait_for(self._read(body, receive), self._settings.body_timeout)
            except asyncio.TimeoutError:
                raise ServeError(
                    408, "timeout", f"the request was not sent within {self._settings.body_timeout:g} seconds"
                ) from None
            scope[BODY] = body
            await self._work(scope, receive, send)
        finally:
            self.held -= len(body)
            self.open -= 1

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raise ServeError for a request that is not even read."""
        self._check_rate(scope["client"][0] if scope.get("client") else "")
        if not self._has_key(headers.get(b"authorization", b"")):
            raise ServeError(401, "unauthorized", "the key is missing or wrong: send Authorization: Bearer KEY")
        if self.draining:
            raise unavailable("the service is about to end: try again, at another address or after its restart")
        if headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
            # Pages of other sites cannot send this type without being asked first.
            raise ServeError(415, "unsupported_type", "the body must be JSON: send Content-Type: application/json")
        if self.open >= self._settings.max_requests:
            raise unavailable(f"{self.open:,} requests are open, the most that are taken: try again later")
        length = headers.get(b"content-length", b"0")
        self._check_size(0, int(length) if length.isdigit() else 0)

    def _check_size(self, read: int, more: int) -> None:
        """Raise ServeError if a body of which `read` bytes are held may not grow by `more`."""
        if read + more > self._settings.max_body << 20:
            limit = f"the limit is {self._settings.max_body} MiB (--max-body)"
            raise ServeError(
                413,
                "too_large",
                f"a request of {read + more:,} bytes or more; {limit}: scale pictures down, or send fewer",
            )
        if self.held + more > self._settings.max_held << 20:
            raise unavailable("the open requests hold as many bytes as are taken: try again later")

    def _check_rate(self, client: str) -> None:
        """Take a token from the client's bucket, which holds those of one second."""
        rate = self._settings.rate
        if rate is None:
            return
        now, most = time.monotonic(), max(rate, 1.0)
        tokens, at = self._rates.pop(client, (most, now))
        tokens = min(tokens + (now - at) * rate, most)
        self._rates[client] = (tokens - (tokens >= 1), now)
        if len(self._rates) > _CLIENTS:
            self._rates.popitem(last=False)
        if tokens < 1:
            raise ServeError(
                429,
                "rate_limit",
                f"more than {rate:g} requests per second from this address: send fewer, or several rows in one",
                retry_after=max(1, math.ceil((1 - tokens) / rate)),
            )

    def _has_key(self, given: bytes) -> bool:
        """Tell whether a header carries the key: as a bearer token, or as the password of an address (`//:KEY@`)."""
        if self._key is None:
            return True
        scheme, _, value = given.partition(b" ")
        if scheme.lower() == b"basic":
            try:
                value = base64.b64decode(value, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(value.strip(), self._key)

    async def _read(self, body: bytearray, receive: Receive) -> None:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece, more = message.get("body", b""), message.get("more_body", False)
            try:
                self._check_size(len(body), len(piece))
            except ServeError:
                if more:
                    await self._discard(receive)
                raise
            body += piece
            self.held += len(piece)

    async def _discard(self, receive: Receive) -> None:
        """Take what the client still sends, for a while: one that writes into a closed connection gets no answer."""
        left = self._settings.max_body << 20

        async def take() -> None:
            nonlocal left
            while left > 0:
                message = await receive()
                if not message.get("more_body", False):
                    return
                left -= len(message["body"])

        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(take(), _DISCARDED_IN)

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application until it has answered or the client has left."""
        work = asyncio.ensure_future(self._app(scope, _nothing, send))
        left = asyncio.ensure_future(receive())  # after the body nothing comes but the end of the connection
        try:
            await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            if not work.done():
                work.cancel()
        try:
            await work
        except asyncio.CancelledError:
            if not left.done() or left.cancelled():
                raise


async def _nothing() -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send_error(error: ServeError, send: Send) -> None:
    """Answer a request with an error."""
    body = error.body()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **error.headers()}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
