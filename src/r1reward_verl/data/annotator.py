"""The calls of an annotation run: which preferences need one, in which order, and what ends the run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

from r1reward_verl.data.annotation import AnnotateSettings
from r1reward_verl.data.budget import Budget
from r1reward_verl.data.duplicates import digest
from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.journal import Call, Journal
from r1reward_verl.data.preference import Preference, to_row
from r1reward_verl.data.readers import RowError
from r1reward_verl.engines.chat import ChatClient, ChatError, Reply
from r1reward_verl.engines.messages import ChatAnswer, Parts, media_parts, message_content, read_answer
from r1reward_verl.errors import R1RewardError
from r1reward_verl.judgement import build_prompt, parse
from r1reward_verl.media import Media
from r1reward_verl.storage import Rejects
from r1reward_verl.text import excerpt

_THREADS = 8
_CHUNK = 32
_HOPELESS = 20  # calls without one judgement, after which the run ends
_STOPPING = {
    401: "the key is not accepted; set the environment variable {key} to a valid one",
    402: "the account is empty",
    403: "the key does not give access to this model; set the environment variable {key} to one that does",
    404: "no such model or address; see --model and --url",
    405: "no chat server at this address; see --url",
}


class AnnotationError(R1RewardError):
    """The run cannot go on; finished calls are in the journal."""


def read_unique(path: str) -> Iterator[tuple[int, Preference] | RowError]:
    """Read preferences; one whose id was there before is a `RowError`."""
    ids: dict[bytes, int] = {}
    for item in read_preferences(path):
        if not isinstance(item, RowError):
            number, preference = item
            first = ids.setdefault(digest(preference.source, preference.id), number)
            if first != number:
                reason = f"id {excerpt(preference.id)} of {excerpt(preference.source)} stands already in row {first}"
                yield RowError(number, reason, excerpt(preference.id))
                continue
        yield item


def _media(preference: Preference) -> tuple[Media, ...]:
    return (*preference.images, *(preference.video or ()))


def _prompt(preference: Preference, settings: AnnotateSettings) -> str:
    return build_prompt(preference.question, preference.response_1, preference.response_2, settings.prompt)


class Annotator:
    """The calls of one run: a fixed number of workers, each with one preference at a time."""

    def __init__(
        self, path: str, settings: AnnotateSettings, journal: Journal, budget: Budget, rejects: Rejects, bar: Any
    ) -> None:
        self.path, self.settings, self.attempts = path, settings, settings.attempts
        self.journal, self.budget, self.rejects, self.bar = journal, budget, rejects, bar
        self.rejected: set[int] = set()
        self._unanswered = 0
        self._waiting = 0  # rows that were read, and that no worker has begun
        self._all_read = False
        self._stopping = False
        self._skipped = 0  # rows that need no call
        self._finished = journal.finished(self.attempts)
        self._update_bar()

    async def run(self, client: ChatClient) -> None:
        """Make all calls that are still to be made, as far as the budget reaches.

        Raises:
            AnnotationError: the servers are gone, or do not want to be asked.
            OSError: the journal cannot be written.
        """
        concurrency = self.settings.concurrency
        self._preparing = min(concurrency, _THREADS)
        rows: asyncio.Queue[Any] = asyncio.Queue(concurrency)
        ready: asyncio.Queue[Any] = asyncio.Queue(self._preparing + concurrency // 4)
        pool = ThreadPoolExecutor(_THREADS + 1, thread_name_prefix="annotate")
        tasks = [asyncio.ensure_future(self._feed(rows, pool))]
        tasks += [asyncio.ensure_future(self._prepare(rows, ready, pool, concurrency)) for _ in range(self._preparing)]
        tasks += [asyncio.ensure_future(self._work(ready, client)) for _ in range(concurrency)]
        try:
            await asyncio.gather(*tasks)
        finally:
            self._stopping = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            pool.shutdown(cancel_futures=True)

    async def _feed(self, rows: asyncio.Queue[Any], pool: ThreadPoolExecutor) -> None:
        """Read the rows that need a call, in a thread."""
        pending = self._pending()
        loop = asyncio.get_running_loop()
        while chunk := await loop.run_in_executor(pool, lambda: list(islice(pending, _CHUNK))):
            self._update_bar()
            for item in chunk:
                self._waiting += 1
                await rows.put(item)
        self._all_read = True
        await rows.put(None)

    def _pending(self) -> Iterator[tuple[int, Preference]]:
        for item in read_unique(self.path):
            if self._stopping or self.budget.used_up:
                return
            if isinstance(item, RowError) and item.rows is None:
                raise AnnotationError(f"{self.path}:{item.number}: {item.reason}")
            if isinstance(item, RowError) or item[1].difficulty is not None:
                self._skipped += 1
            elif not self.journal.agreed(item[0]) and self.journal.attempts(item[0]) < self.attempts:
                yield item

    async def _prepare(
        self, rows: asyncio.Queue[Any], ready: asyncio.Queue[Any], pool: ThreadPoolExecutor, workers: int
    ) -> None:
        """Read the pictures of a few rows ahead, in threads: when a call ends, the next is to begin at once."""
        while (item := await rows.get()) is not None:
            number, preference = item
            try:
                content = None if self.budget.used_up else await self._content(preference, pool)
            except ValueError as error:
                self._waiting -= 1
                self._reject(number, preference, str(error))
            else:
                await ready.put((number, preference, content))
        await rows.put(None)  # for the others
        self._preparing -= 1
        if not self._preparing:
            for _ in range(workers):
                await ready.put(None)

    async def _work(self, ready: asyncio.Queue[Any], client: ChatClient) -> None:
        while (item := await ready.get()) is not None:
            self._waiting -= 1
            if not self.budget.used_up:
                number, preference, content = item
                await self._annotate(number, preference, content, client)
                self._update_bar()

    def _reject(self, number: int, preference: Preference, reason: str) -> None:
        self.rejected.add(number)
        self.rejects.add(self.path, number, reason, to_row(preference))
        self._update_bar()

    async def _annotate(self, number: int, preference: Preference, content: Any, client: ChatClient) -> None:
        settings, journal, budget = self.settings, self.journal, self.budget
        tokens = budget.estimate(_prompt(preference, settings), len(_media(preference)))
        while not journal.agreed(number) and journal.attempts(number) < self.attempts:
            if (needed := await budget.reserve(tokens)) is None:
                return
            read = None
            try:
                reply = await client.complete(
                    [{"role": "user", "content": content}],
                    read_answer,
                    **settings.request(),
                )
                if (answer := reply.value) is None:
                    await self._no_answer(client, reply)
                    self._reject(number, preference, f"no judgement ({reply.status}): {reply.error}")
                    return
                read = answer.prompt_tokens
                journal.add(self._call(number, preference, answer, reply.seconds))
                if read is None and budget.limit is not None:
                    raise AnnotationError(
                        "the server reports no numbers of tokens (usage), so no budget can be kept: go on without "
                        "--budget, or take a server that does"
                    )
            finally:
                budget.release(needed, tokens, read)
        self._finished += 1

    async def _content(self, preference: Preference, pool: ThreadPoolExecutor) -> str | Parts:
        settings, media = self.settings, _media(preference)
        parts: Parts = []
        if media:
            make = partial(media_parts, media, settings.max_pixels)
            parts = await asyncio.get_running_loop().run_in_executor(pool, make)
        return message_content(_prompt(preference, settings), parts, settings.media_position)

    def _call(self, number: int, preference: Preference, answer: ChatAnswer, seconds: float) -> Call:
        text, finish_reason = answer.texts[0]
        verdict = parse(text)
        return Call(
            row=number,
            source=preference.source,
            id=preference.id,
            attempt=self.journal.attempts(number) + 1,
            choice=verdict.choice,
            reason=verdict.reason,
            agrees=verdict.choice == preference.label,
            finish_reason=finish_reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost=self.budget.cost(answer.prompt_tokens, answer.completion_tokens),
            seconds=round(seconds, 3),
            text=text,
        )

    async def _no_answer(self, client: ChatClient, reply: Reply[ChatAnswer]) -> None:
        """End the run where the next calls would fare no better."""
        code = reply.code or 0
        if code in _STOPPING or 300 <= code < 400:
            why = _STOPPING.get(code, "the server sends elsewhere; see --url").format(key=self.settings.api_key_env)
            if code == 404:
                with suppress(ChatError):
                    names = {name for names in (await client.models()).values() for name in names}
                    why += f" (models there: {', '.join(sorted(names)[:20]) or 'none'})"
            raise AnnotationError(f"{reply.error}: {why}")
        if reply.status == "failed" and client.given_up:
            # With no other row to be answered, a row that no server can bear looks like servers that are gone.
            last = self._all_read and not self._waiting
            alive = last and reply.code is not None
            if last and not alive:
                with suppress(ChatError):
                    alive = bool(await client.models())
            if not alive:
                raise AnnotationError(f"the servers are gone: {reply.error}")
        self._unanswered += 1
        if not self.journal.tally.calls and self._unanswered >= _HOPELESS:
            raise AnnotationError(f"{self._unanswered} calls and not one judgement; the last: {reply.error}")

    def _update_bar(self) -> None:
        if self.bar.disable:
            return
        done = self._finished + self._skipped + len(self.rejected)
        shares: dict[str, str] = {}
        if self._finished:
            shares["solved"] = f"{self.journal.tally.agreeing / self._finished:.1%}"
        if (spent := self.budget.spent) is not None:
            shares["cost"] = f"{spent:.2f}"
        self.bar.set_postfix(shares, refresh=False)
        self.bar.update(done - self.bar.n)
