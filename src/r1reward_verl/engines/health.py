"""When a chat server is asked again: rests after failures, outages of a whole service, timeouts for all calls."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import sys
from collections.abc import Callable
from typing import Any

from yarl import URL

logger = logging.getLogger("r1reward_verl.engines.chat")

PROBE_EVERY = 5.0
"""Seconds between two requests that find out whether a service that was given up is back."""

_FIRST_REST, _LONGEST_REST = 0.25, 15.0
_IN_A_ROW = 3
_IN_WORDS = 60.0
_FIRST_RATE, _LOWEST_RATE = 8.0, 0.2  # requests a second
_BURST = 0.05  # seconds of the pace that may be made up for


class Pace:
    """How many requests a second a server with a rate limit gets, found by trying; none until it first replies 429.

    Sent all at once, most requests find the limit used up, and everybody waits as long as the server then asks for.
    So the rate begins low, doubles each second until the limit is met, and then comes back to it slowly from below.
    """

    def __init__(self) -> None:
        self.rate = math.inf
        self.next_begin = self._cut = -math.inf
        self._growth = 2.0  # in a second
        self._answered = False

    def begin(self, now: float) -> None:
        """Count a request that is sent."""
        if self.rate == math.inf:
            return
        if self.next_begin > now - 1 / self.rate:  # a rate that nobody makes use of proves nothing
            self.rate *= self._growth ** (1 / self.rate)
        self.next_begin = max(self.next_begin, now - _BURST) + 1 / self.rate

    def answered(self) -> None:
        """Take note that the server served a request."""
        self._answered = True

    def limited(self, began: float, now: float) -> None:
        """Take note of a 429: what was on the wire together counts once."""
        if began < self._cut:
            return
        if self.rate == math.inf:
            self.rate = _FIRST_RATE
        elif not self._answered or self._growth == 2.0:
            self.rate, self._growth = max(self.rate / 2, _LOWEST_RATE), 1.02
        else:
            self.rate = max(self.rate * 0.85, _LOWEST_RATE)
        self._cut, self._answered = now, False


class ServerHealth:
    """One URL: what is on its wire, and when it may be asked again."""

    def __init__(self, url: str, model: str | None) -> None:
        self.url, self.model = url, model
        self.chat, self.models = URL(f"{url}/chat/completions"), URL(f"{url}/models")
        self.listing = asyncio.Lock()
        self.pace = Pace()
        self.in_flight = 0
        self.last_begun = self.last_failed = self.rests_until = self.asked_until = -math.inf
        self.back_off = 0.0
        self.left_out = self.named = False
        self._corrected = self._unconstrained = 0
        self._in_words_until = -math.inf

    def begin(self, now: float) -> None:
        """Count a request that is sent."""
        self.in_flight += 1
        self.last_begun = now
        self.pace.begin(now)
        if self.back_off:  # one request finds out whether the server is back; the others have better places to be
            self.rests_until = math.inf

    @property
    def ready_at(self) -> float:
        """When the next request may be sent."""
        return max(self.rests_until, self.asked_until, self.pace.next_begin)

    def end(self, began: float, now: float) -> None:
        """Count a request that has ended, however it did."""
        self.in_flight -= 1
        if self.rests_until == math.inf and began >= self.last_failed:  # was that one request, and got cancelled
            self.rests_until = now

    def answered(self, constrained: bool) -> None:
        """Take note of a good answer: the server needs no rest."""
        self.needs_no_rest()
        self.pace.answered()
        self.left_out = False
        self._corrected = 0
        if constrained:
            self._unconstrained = 0

    def alive(self, began: float, now: float) -> None:
        """Take note of an answer that is no good, which may be the request's fault."""
        if self.left_out:
            self.failed(began, now, None)
        else:
            self.needs_no_rest()

    def needs_no_rest(self) -> None:
        """End the time of single requests; a rest that has an end is left to end."""
        self.back_off = 0.0
        if self.rests_until == math.inf:
            self.rests_until = -math.inf

    def wake(self) -> None:
        """End the rest now."""
        self.back_off, self.rests_until = 0.0, -math.inf

    def corrected(self) -> bool:
        """Take note that another server answered what this one could not; whether that is so several times in a row."""
        self._corrected += 1
        return self._corrected >= _IN_A_ROW

    def constrains(self, now: float) -> bool:
        """Return whether the server is to be asked for constrained answers."""
        return now >= self._in_words_until

    def ignored_constraint(self, now: float) -> bool:
        """Take note of a constraint without effect; whether the server, for the first time, is to be asked in words.

        One odd answer proves nothing, and a server may be replaced by one that can: it is tried again every minute.
        """
        self._unconstrained += 1
        if self._unconstrained < _IN_A_ROW:
            return False
        first = self._in_words_until == -math.inf
        self._in_words_until = now + _IN_WORDS
        return first

    def failed(self, began: float, now: float, retry_after: float | None) -> None:
        """Let the server rest after a failure: as long as it asks for, or twice as long as before."""
        if retry_after is not None:
            self.asked_until = max(self.asked_until, now + retry_after)
        if began >= self.last_failed:  # what was on the wire together fails together, and counts once
            self.back_off = min(_LONGEST_REST, max(_FIRST_REST, 2 * self.back_off))
            self.last_failed = now
            self.rests_until = now + (self.back_off * random.uniform(0.5, 1.0) if retry_after is None else 0.0)


class Outage:
    """For how long nobody has had an answer from any server, and whether the service is given up (`open`)."""

    def __init__(self, urls: str, max_wait: float, abandon: Callable[[], None]) -> None:
        self._urls, self._max_wait, self._abandon = urls, max_wait, abandon
        self.open = self._announced = False
        self.next_probe = self._since = math.inf
        self.last_success = -math.inf
        self.error = ""
        self._timer: asyncio.TimerHandle | None = None

    def failed(self, began: float, error: str, loop: asyncio.AbstractEventLoop) -> None:
        """Take note of a failed request; the outage lasts since the first of them."""
        if self.open:
            return
        self.error = error
        if (start := max(began, self.last_success)) < self._since:
            self._stop_timer()
            self._since = start
            self._timer = loop.call_at(start + self._max_wait, self._give_up, loop)
        lasted = loop.time() - self._since
        if not self._announced and lasted >= min(1.0, self._max_wait / 4):  # a single failure is worth no line
            self._announced = True
            logger.warning("no answer from %s for %.1f s, retrying; last: %s", self._urls, lasted, error)

    def answered(self, now: float) -> None:
        """End the outage."""
        self.last_success = now
        if self._announced:
            logger.warning("%s: answers again after %.1f s", self._urls, now - self._since)
        self.open = False
        self.forget()

    def forget(self) -> None:
        """Forget failures that nobody waits behind any more."""
        self._since, self._announced = math.inf, False
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self, loop: asyncio.AbstractEventLoop) -> None:
        lasted = loop.time() - self._since
        self.error = f"no answer from {self._urls} for {lasted:.1f} s, given up; last: {self.error}"
        self.open = self._announced = True
        self.next_probe = loop.time() + PROBE_EVERY
        logger.error("%s", self.error)
        self._abandon()


class Timeout:
    """Ends the enclosed awaits with asyncio.TimeoutError after `seconds`, or when anybody calls `expire`.

    asyncio.timeout would do, from Python 3.11 on.
    """

    def __init__(self, seconds: float, running: set[Timeout]) -> None:
        self._seconds, self._running, self._expired = seconds, running, False

    def __enter__(self) -> None:
        self._task: Any = asyncio.current_task()
        if sys.version_info >= (3, 11):
            self._cancelled_before = self._task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self.expire)
        self._running.add(self)

    def expire(self) -> None:
        """End the enclosed awaits now."""
        if not self._expired:
            self._expired = True
            self._task.cancel()

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        self._running.discard(self)
        if not self._expired:
            return
        if sys.version_info >= (3, 11) and self._task.uncancel() > self._cancelled_before:
            return  # the caller was cancelled at the same moment, which goes first
        if raised is asyncio.CancelledError:
            raise asyncio.TimeoutError
