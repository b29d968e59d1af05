"""One HTTP exchange with a chat server: bounded, without redirects or cookies, and with every failure classed."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from r1reward_verl import __version__
from r1reward_verl.text import printable

# uvicorn drops connections that are idle for 5 s: letting go first spares a request on a dying connection.
_KEEP_ALIVE = 4.0
_EXCERPT = 300
_ABOUT_CONTENT = (400, 413, 422)


class RequestFailed(Exception):
    """A request without a usable answer.

    Attributes:
        kind: `unserved`: worth another try, not before `wait` seconds if the server says so; `unreadable`: answered,
            but not with a completion that can be read; `refused`: another status.
        code: HTTP status, where it is not 2xx.
        misplaced: whether the fault is the server's, as when there is no such model, key or page: another server may
            answer. Otherwise it may be the request's own.
    """

    def __init__(
        self,
        kind: Literal["unserved", "unreadable", "refused"],
        text: str,
        wait: float | None = None,
        code: int | None = None,
        misplaced: bool = False,
    ):
        super().__init__(text)
        self.kind, self.wait, self.code, self.misplaced = kind, wait, code, misplaced


class Wire:
    """The connections of a client, made for the first request.

    Args:
        api_key: sent as a bearer token, and taken out of all texts; None or empty: none is sent.
        timeout: seconds, named in the text of a timeout.
        max_wait: seconds; a server that asks for a longer wait gets no longer one.
        max_bytes: of one answer.
    """

    def __init__(self, api_key: str | None, timeout: float, max_wait: float, max_bytes: int) -> None:
        self._key, self._timeout, self._max_wait, self._max_bytes = api_key, timeout, max_wait, max_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sessions: list[aiohttp.ClientSession] = []  # one that keeps connections, one that never does

    def open(self) -> bool:
        """Make the connections if there are none; False if they belong to another event loop than the running one."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            kept = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
            self._sessions = [self._session(kept), self._session(aiohttp.TCPConnector(limit=0, force_close=True))]
        return self._loop is loop

    async def close(self) -> None:
        """End all connections."""
        for session in self._sessions:
            await session.close()

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

    async def exchange(
        self, method: str, url: URL, data: bytes | None, expected: str, *, fresh: bool
    ) -> tuple[Any, bytes]:
        """Return an answer's JSON object, which has a list under `expected`, and its bytes.

        Args:
            method: of the request.
            url: where it goes.
            data: its body.
            expected: an answer without a list under this key is none of a chat server.
            fresh: whether it goes out on a connection of its own.

        Raises:
            RequestFailed, aiohttp.ClientError, OSError, asyncio.TimeoutError: there is none.
        """
        try:
            status, headers, body = await self._send(method, url, data, fresh)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
            raise
        except Exception as error:  # aiohttp lets some of what a hostile header does to its parser through
            raise RequestFailed("unserved", type(error).__name__) from None
        good = 200 <= status < 300
        answer = None
        if good and body is not None:
            with suppress(ValueError, RecursionError):
                answer = json.loads(body)
            if isinstance(answer, dict) and isinstance(answer.get(expected), list):
                return answer, body
        excerpt = f"answer larger than {self._max_bytes} bytes" if body is None else self.excerpt(body)
        if good:
            text = excerpt if body is None else f"unreadable answer: {excerpt}"
            raise RequestFailed("unreadable", text, misplaced=body is not None)
        if status == 429 and "insufficient_quota" in excerpt:  # how OpenAI says that an account is empty
            raise RequestFailed("refused", f"status {status}: {excerpt}", code=402, misplaced=True)
        if status >= 500 or status in (408, 425, 429):
            told = headers.get("Retry-After") if status in (429, 503) else None
            raise RequestFailed("unserved", f"status {status}: {excerpt}", _retry_after(told, self._max_wait), status)
        raise RequestFailed(
            "refused", f"status {status}: {excerpt}", code=status, misplaced=status not in _ABOUT_CONTENT
        )

    async def _send(self, method: str, url: URL, data: bytes | None, fresh: bool) -> tuple[int, Any, bytes | None]:
        """Return status, headers and body; None instead of a body that is too long."""
        response = await self._sessions[fresh].request(method, url, data=data, allow_redirects=False)
        body = bytearray()
        try:
            too_long = (response.content_length or 0) > self._max_bytes
            while not too_long and (chunk := await response.content.read(self._max_bytes + 1 - len(body))):
                body += chunk
                too_long = len(body) > self._max_bytes
        finally:
            response.close()  # ends the connection unless all of the answer has been read
        return response.status, response.headers, None if too_long else bytes(body)

    def excerpt(self, body: bytes) -> str:
        """Return the start of an answer on one line, without the key."""
        return printable(self._without_key(body.decode(errors="replace"))[: 4 * _EXCERPT])[:_EXCERPT]

    def describe(self, url: str, caught: Exception) -> str:
        """Return what went wrong at `url`, on one line and without the key."""
        error_text = f"{type(caught).__name__}"
        if isinstance(caught, asyncio.TimeoutError):
            error_text = f"no complete answer within {self._timeout:g} s"
        elif isinstance(caught, RequestFailed):
            error_text = str(caught)
        elif isinstance(caught, OSError):  # what else aiohttp says may quote the server, cut in the middle of a key
            error_text += f": {caught}"
        return printable(self._without_key(f"{url}: {error_text}"))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


async def unreachable(urls: Sequence[str], seconds: float) -> str:
    """Return why no connection to any server can be opened within `seconds`; empty if one can."""

    async def attempt(url: str) -> str:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, port), seconds)
        except asyncio.TimeoutError:
            return f"{url}: no connection within {seconds:g} s"
        except (OSError, ValueError) as error:  # ValueError: no name of a host
            return printable(f"{url}: {getattr(error, 'strerror', None) or error}")
        writer.close()
        return ""

    found = await asyncio.gather(*map(attempt, urls))
    return "" if "" in found else "; ".join(found)


def check_client_options(
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
            until = until if until.tzinfo else until.replace(tzinfo=timezone.utc)
            seconds = (until - datetime.now(timezone.utc)).total_seconds()
        except (ValueError, TypeError, ArithmeticError, LookupError):  # no date, or one that no datetime can hold
            return None
    return min(seconds, most) if seconds > 0 else None
