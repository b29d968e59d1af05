"""Groups whose responses are sent one by one: each waits for its siblings, then gets its score among them.

The rules:

- A cohort is scored when its last response comes, or `cohort_timeout` seconds after its first one, with the responses
  that are there. A response that stayed alone gets the score of a group of one (a win rate of 0.5).
- What comes after that time forms another cohort of the number that was missing.
- A client that leaves does not take its response away. Sent again, it gets the same place and score. It is recognised
  by the name of the member, or without one by its content, if nobody waits for that place any more.
- A cohort with a name takes no more than its number of responses. One that is told by its question alone makes room
  for the next one, as the same prompt comes again in the next epoch.
- After an error of the engine the cohort is forgotten: its responses can all be sent again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from r1reward_verl.use.comparison import EncodedGroup
from r1reward_verl.use.model import RankResult
from r1reward_verl.use.serve.errors import ServeError, unavailable
from r1reward_verl.use.settings import RankSettings

End = Literal["complete", "timeout", "failed", "drained"]

_REMEMBERED = 10_000  # closed cohorts, for clients that send a response again


@dataclass
class Member:
    """A response of a cohort.

    Attributes:
        name: that the client gave it, or None.
        digest: of its content.
        encoded: a group of this response alone.
        size: bytes of the request.
        waiting: number of requests that wait for its score.
        delivered: whether a request has been given its score.
    """

    name: str | None
    digest: bytes
    encoded: EncodedGroup | None
    size: int
    waiting: int = 0
    delivered: bool = False


@dataclass(frozen=True)
class Standing:
    """What a response gets.

    Attributes:
        score, standard_error, rank: of the response among those that were compared (see `RankResult`).
        size: number of responses that the cohort should have had.
        present: number that were compared.
        compared, failed, cycles, error: of the whole cohort.
    """

    score: float
    standard_error: float
    rank: float
    size: int
    present: int
    compared: int
    failed: int
    cycles: int
    error: str


@dataclass
class Cohort:
    """A group that fills up.

    Attributes:
        key: tells it from others.
        spec: what all of its requests have to agree in, by name: `size`, `question`, `settings`.
        size: number of responses.
        settings: how they are ranked.
        question: the encoded question, a group without responses.
        members: those that have come.
        result: the standings of the members, once they are known.
        end: how it ended; None while it is open.
    """

    key: str
    spec: dict[str, object]
    size: int
    settings: RankSettings
    question: asyncio.Future[EncodedGroup] | None
    result: asyncio.Future[list[Standing]]
    members: list[Member] = field(default_factory=list)
    end: End | None = None
    timer: asyncio.TimerHandle | None = None


class Cohorts:
    """All cohorts of a service, used within one event loop.

    Args:
        rank: ranks an encoded group.
        timeout: seconds that the first response of a cohort waits.
        max_bytes: of the requests whose responses are kept.
        ended: told how each cohort ended.
    """

    def __init__(
        self,
        rank: Callable[[EncodedGroup, RankSettings], Awaitable[RankResult]],
        timeout: float,
        max_bytes: int,
        ended: Callable[[End], None],
    ) -> None:
        self._rank, self._timeout, self._max_bytes, self._ended = rank, timeout, max_bytes, ended
        self._open: dict[str, Cohort] = {}
        self._closed: OrderedDict[str, Cohort] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0

    @property
    def open(self) -> int:
        """Number of cohorts that wait for responses."""
        return len(self._open)

    async def join(
        self,
        key: str,
        spec: dict[str, object],
        settings: RankSettings,
        member: Member,
        encode_question: Callable[[], Awaitable[EncodedGroup]],
        *,
        reopens: bool = False,
    ) -> Standing:
        """Wait for the siblings of a response.

        Args:
            key: of its cohort.
            spec: what its request has to share with those of its siblings; `size` is one of it.
            settings: how the cohort is ranked.
            member: the response.
            encode_question: called once for a cohort.
            reopens: whether a complete cohort makes room for another one with the same key.

        Raises:
            ServeError: the cohort is another one, is full, or holds another response of this name; there is no room; or
                the cohort could not be ranked.
            ValueError: a picture of the question cannot be read.
        """
        cohort, place = self._place(key, spec, settings, member, encode_question, reopens)
        mine = cohort.members[place]
        mine.waiting += 1
        try:
            standings = await asyncio.shield(cohort.result)
            mine.delivered = True
            return standings[place]
        finally:
            mine.waiting -= 1

    def drain(self) -> None:
        """Send those who wait home: their siblings cannot come any more."""
        for cohort in list(self._open.values()):
            self._forget(cohort, "drained", unavailable("the service is about to end: send all responses again"))

    def _place(
        self,
        key: str,
        spec: dict[str, object],
        settings: RankSettings,
        member: Member,
        encode_question: Callable[[], Awaitable[EncodedGroup]],
        reopens: bool,
    ) -> tuple[Cohort, int]:
        """Return the cohort of a response and its position there."""
        size = int(str(spec["size"]))
        for known in (self._open.get(key), self._closed.get(key)):
            if known is None:
                continue
            place = _sent_before(known, member, any_of_them=known.end is not None and not reopens)
            if place is not None:
                return known, place
        cohort = self._open.get(key)
        closed = self._closed.get(key)
        if cohort is None and closed is not None and not reopens:
            missing = closed.size - len(closed.members)
            if not missing:
                raise _conflict(f"cohort {key!r} has had its {size} responses: use another name for another group")
            _check_same(closed, spec)
            size = missing
        if self._bytes + member.size > self._max_bytes:
            raise unavailable("the cohorts that wait hold as many bytes as are taken: try again later")
        if cohort is None:
            loop = asyncio.get_running_loop()
            question = asyncio.ensure_future(encode_question())
            cohort = Cohort(key, spec, size, settings, question, loop.create_future())
            cohort.result.add_done_callback(_seen)
            cohort.timer = loop.call_later(self._timeout, self._close, cohort, "timeout")
            self._open[key] = cohort
        else:
            _check_same(cohort, spec)
        cohort.members.append(member)
        self._bytes += member.size
        if len(cohort.members) == cohort.size:
            self._close(cohort, "complete")
        return cohort, len(cohort.members) - 1

    def _close(self, cohort: Cohort, end: End) -> None:
        """Take no more responses, and rank those that are there."""
        self._leave(cohort, end)
        self._closed[cohort.key] = cohort
        self._closed.move_to_end(cohort.key)
        if len(self._closed) > _REMEMBERED:
            self._closed.popitem(last=False)
        task = asyncio.ensure_future(self._score(cohort))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _leave(self, cohort: Cohort, end: End) -> None:
        cohort.end = end
        del self._open[cohort.key]
        if cohort.timer is not None:
            cohort.timer.cancel()

    async def _score(self, cohort: Cohort) -> None:
        try:
            assert cohort.question is not None
            question = await cohort.question
            groups = [one.encoded for one in cohort.members if one.encoded is not None]
            group = EncodedGroup(
                question.question,
                tuple(one.responses[0] for one in groups),
                question.media,
                tuple(one.response_images[0] for one in groups),
            )
            result = await self._rank(group, cohort.settings)
        except BaseException as error:
            if self._closed.get(cohort.key) is cohort:
                del self._closed[cohort.key]
            self._ended("failed")
            cohort.result.set_exception(error if isinstance(error, Exception) else unavailable("the service has ended"))
            if not isinstance(error, Exception):
                raise
        else:
            self._ended("complete" if cohort.end == "complete" else "timeout")
            cohort.result.set_result(_standings(cohort, result))
        finally:
            self._free(cohort)

    def _forget(self, cohort: Cohort, end: End, error: Exception) -> None:
        self._leave(cohort, end)
        self._ended(end)
        cohort.result.set_exception(error)
        self._free(cohort)

    def _free(self, cohort: Cohort) -> None:
        """Keep of the responses only what tells them apart."""
        self._bytes -= sum(member.size for member in cohort.members)
        cohort.question = None
        for member in cohort.members:
            member.encoded = None


def _seen(result: asyncio.Future[list[Standing]]) -> None:
    """Let a failure that nobody waits for any more pass in silence."""
    if not result.cancelled():
        result.exception()


def _standings(cohort: Cohort, result: RankResult) -> list[Standing]:
    rows = zip(result.scores, result.standard_errors, result.ranks, strict=True)
    compared, failed = len(result.comparisons), result.failed
    return [
        Standing(*row, cohort.size, len(result.scores), compared, failed, result.cycles, result.error) for row in rows
    ]


def _sent_before(cohort: Cohort, member: Member, *, any_of_them: bool) -> int | None:
    """Return the position of a response that is sent again, None for a new one."""
    for place, other in enumerate(cohort.members):
        if member.name is not None and other.name == member.name:
            if other.digest != member.digest:
                raise _conflict(
                    f"member {member.name!r} of cohort {cohort.key!r} is there already, with another response: give "
                    "each response a name of its own",
                    "member",
                )
            return place
        same = member.name is None and other.name is None and other.digest == member.digest
        if same and (any_of_them or not (other.waiting or other.delivered)):
            return place
    return None


def _check_same(cohort: Cohort, spec: dict[str, object]) -> None:
    for name, value in spec.items():
        if cohort.spec[name] != value:
            values = f" ({value}, and it has {cohort.spec[name]})" if name == "size" else ""
            raise _conflict(
                f"cohort {cohort.key!r} has another {name}{values}: its responses must agree, and different groups "
                "need different names",
                name,
            )


def _conflict(message: str, field: str = "cohort") -> ServeError:
    return ServeError(409, "conflict", message, field=field)
