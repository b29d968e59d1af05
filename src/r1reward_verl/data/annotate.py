"""`r1reward data annotate PREFERENCES OUT`: a teacher writes judgements until one agrees with the label.

OUT                  parquet in the columns of `preference.SCHEMA`: `difficulty` is the number of attempts made, `trace`
                     the judgement that agrees, null if none did
OUT.journal.jsonl    every answer of the teacher, from which a run that was ended goes on (see `journal`)
OUT.card.json        settings, counts, tokens and cost
OUT.rejects.jsonl    bad rows, and those whose call was refused or whose pictures cannot be read, with the reason

The teacher is any model behind an OpenAI-compatible endpoint. It sees the question, the pictures and the responses,
never the label.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1reward_verl.data.duplicates import Seen, digest
from r1reward_verl.data.export import MEDIA_POSITIONS
from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.journal import Call, Journal, JournalError, Tally
from r1reward_verl.data.preference import Preference, to_row
from r1reward_verl.data.readers import RowError
from r1reward_verl.judgement import PROMPT, build_prompt, load_template, parse
from r1reward_verl.media import MAX_PIXELS, Media, data_uri
from r1reward_verl.storage import ParquetOutput, Rejects, sha256_of, write_json
from r1reward_verl.text import excerpt

if TYPE_CHECKING:
    from r1reward_verl.engines.chat import ChatClient, Reply

API_KEY = "R1REWARD_TEACHER_API_KEY"

_THREADS = 8
_CHUNK = 32
_HOPELESS = 20
_STOPPING = {
    401: "the key is not accepted; set the environment variable {key} to a valid one",
    402: "the account is empty",
    403: "the key does not give access to this model; set the environment variable {key} to one that does",
    404: "no such model or address; see --model and --url",
    405: "no chat server at this address; see --url",
}


class AnnotationError(RuntimeError):
    """The run cannot go on; what was finished is in the journal."""


@dataclass
class Report:
    """What became of the preferences, and what the teacher cost.

    Attributes:
        rows: rows `read`; of them `annotated_before`, `finished`, `rejected` and `left` for another run.
        solved: attempts -> preferences whose judgement agreed at that attempt; `never` are those with none.
        unparsable: reason -> calls.
        cut: calls cut off at the most tokens.
        calls: of this run and of earlier ones; `calls_now` of this one.
        prompt_tokens, completion_tokens: of all calls; `unmetered` calls came without.
        cost: of all calls; None without a price.
        seconds: of this run.
        budget_reached: whether it ended because of its budget.
    """

    rows: Counter[str] = field(default_factory=Counter)
    solved: dict[int, int] = field(default_factory=dict)
    never: int = 0
    calls: int = 0
    calls_now: int = 0
    unparsable: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unmetered: int = 0
    cost: float | None = None
    seconds: float = 0.0
    budget_reached: bool = False

    def __str__(self) -> str:
        rows, finished = self.rows, max(self.rows["finished"], 1)
        lines = [
            f"rows       {rows['read']:,} read, {rows['annotated_before']:,} annotated before, {rows['finished']:,} "
            f"finished, {rows['rejected']:,} rejected, {rows['left']:,} left"
        ]
        for attempt, count in sorted(self.solved.items()):
            lines.append(f"{'solved':<9}{count:>11,}  {count / finished:6.1%}  at attempt {attempt}")
        lines.append(f"{'never':<9}{self.never:>11,}  {self.never / finished:6.1%}")
        unparsable = sum(self.unparsable.values())
        reasons = "".join(f", {reason} {count:,}" for reason, count in self.unparsable.most_common())
        lines.append(
            f"calls      {self.calls:,}, {self.calls_now:,} of them now; {unparsable:,} unparsable "
            f"({unparsable / max(self.calls, 1):.1%}{reasons}), {self.cut:,} cut off at --max-tokens"
        )
        unmetered = f"; {self.unmetered:,} calls without numbers" if self.unmetered else ""
        lines.append(f"tokens     {self.prompt_tokens:,} read, {self.completion_tokens:,} written{unmetered}")
        if self.cost is not None:
            lines.append(f"cost       {self.cost:,.4f}")
        lines.append(f"seconds    {self.seconds:,.1f}")
        return "\n".join(lines)


# What is sent


def message_content(
    preference: Preference, *, prompt: str = PROMPT, media_position: str = "before", max_pixels: int = MAX_PIXELS
) -> str | list[dict[str, Any]]:
    """Return the content of the chat message that asks the teacher: the text, and the pictures before or after it.

    Raises:
        ValueError: a picture cannot be sent (see `media.data_uri`).
    """
    text = build_prompt(preference.question, preference.response_1, preference.response_2, prompt)
    media = _media(preference)
    if not media:
        return text
    pictures: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": data_uri(one, max_pixels)}} for one in media
    ]
    parts = [{"type": "text", "text": text}]
    return [*pictures, *parts] if media_position == "before" else [*parts, *pictures]


def _media(preference: Preference) -> tuple[Media, ...]:
    return (*preference.images, *(preference.video or ()))


# What comes back


@dataclass(frozen=True)
class _Answer:
    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


def _read(answer: Mapping[str, Any]) -> _Answer:
    choice = answer["choices"][0]
    text = choice["message"].get("content")
    # None where all tokens went into what the server does not show, or the model declined.
    if text is not None and not isinstance(text, str):
        raise TypeError(f"content is {text!r}")
    finish = choice.get("finish_reason")
    usage = answer.get("usage") or {}
    read, written = (usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
    metered = all(type(tokens) is int and 0 <= tokens < 2**40 for tokens in (read, written))
    return _Answer(
        _utf8(text or ""),
        None if finish is None else _utf8(str(finish))[:100],
        read if metered else None,
        written if metered else None,
    )


def _utf8(text: str) -> str:
    """Replace half characters, which JSON can escape and no file can hold."""
    return text.encode(errors="replace").decode()


class _Purse:
    """What has been spent and is set aside for calls on the wire.

    What a call will cost is known when it is answered. Until then the most tokens it may write are set aside, and
    its prompt by an estimate, which answers correct upwards.
    """

    def __init__(
        self, price: tuple[float, float] | None, budget: float | None, tally: Tally, max_tokens: int, max_pixels: int
    ) -> None:
        self.price, self.budget = price, budget
        self.empty = False
        self._tally, self._max_tokens, self._max_pixels = tally, max_tokens, max_pixels
        self._set_aside = 0.0
        self._on_the_wire = 0
        self._most = 1.0  # times the estimate
        self._returned = asyncio.Event()

    def cost(self, read: int | None, written: int | None) -> float | None:
        if self.price is None or read is None or written is None:
            return None
        return (read * self.price[0] + written * self.price[1]) / 1e6

    @property
    def spent(self) -> float | None:
        """All calls in the journal; those without a cost at the price of now."""
        priced = self.cost(*self._tally.unpriced)
        return None if priced is None else self._tally.cost + priced

    def estimate(self, prompt: str, pictures: int) -> int:
        """Return about how many tokens a prompt has, rather too many."""
        return len(prompt.encode(errors="replace")) // 2 + pictures * (self._max_pixels // 784 + 2)

    async def take(self, tokens: int) -> float | None:
        """Set the cost of a call aside as soon as there is enough; None if there will never be."""
        if self.budget is None:
            return 0.0
        while not self.empty:
            needed = self.cost(math.ceil(tokens * self._most), self._max_tokens) or 0.0
            if (self.spent or 0.0) + self._set_aside + needed <= self.budget:
                self._set_aside += needed
                self._on_the_wire += 1
                return needed
            if not self._on_the_wire:
                self.empty = True
                self._wake()
            else:
                await self._returned.wait()
        return None

    def give_back(self, needed: float, tokens: int, read: int | None) -> None:
        """End what `take` began, after the call is in the journal."""
        if self.budget is None:
            return
        self._set_aside -= needed
        self._on_the_wire -= 1
        self._most = max(self._most, (read or 0) / max(tokens, 1))
        self._wake()

    def _wake(self) -> None:
        self._returned.set()
        self._returned = asyncio.Event()


# The run


@dataclass(frozen=True)
class _Settings:
    """What the calls depend on."""

    model: str
    temperature: float
    prompt: str
    max_tokens: int
    media_position: str
    max_pixels: int
    body: Mapping[str, Any]

    def request(self) -> dict[str, Any]:
        """Return the fields of a request besides the messages; a null of `body` leaves a field out."""
        fields = {"temperature": self.temperature, "max_tokens": self.max_tokens, **self.body}
        return {name: value for name, value in fields.items() if value is not None}


def _preferences(path: str) -> Iterator[tuple[int, Preference] | RowError]:
    """Read preferences; one whose id was there before is a `RowError`."""
    ids = Seen()
    for item in read_preferences(path):
        if not isinstance(item, RowError):
            number, preference = item
            first = ids.first(digest(preference.source, preference.id), number)
            if first is not None:
                reason = f"id {excerpt(preference.id)} of {excerpt(preference.source)} stands already in row {first}"
                yield RowError(number, reason, excerpt(preference.id))
                continue
        yield item


class _Run:
    """The calls of one run: a fixed number of workers, each with one preference at a time."""

    def __init__(
        self, path: str, settings: _Settings, attempts: int, journal: Journal, purse: _Purse, rejects: Rejects, bar: Any
    ) -> None:
        self.path, self.settings, self.attempts = path, settings, attempts
        self.journal, self.purse, self.rejects, self.bar = journal, purse, rejects, bar
        self.rejected: set[int] = set()
        self._unanswered = 0
        self._waiting = 0  # rows that were read, and that no worker has begun
        self._all_read = False
        self._stopping = False
        self._skipped = 0  # rows that need no call
        self._finished = journal.finished(attempts)
        self._show()

    async def go(self, client: ChatClient, concurrency: int, key: str) -> None:
        """Make all calls that are still to be made, as far as the budget reaches.

        Raises:
            AnnotationError: the servers are gone, or do not want to be asked.
            OSError: the journal cannot be written.
        """
        self._preparing = min(concurrency, _THREADS)
        rows: asyncio.Queue[Any] = asyncio.Queue(concurrency)
        ready: asyncio.Queue[Any] = asyncio.Queue(self._preparing + concurrency // 4)
        pool = ThreadPoolExecutor(_THREADS + 1, thread_name_prefix="annotate")
        tasks = [asyncio.ensure_future(self._feed(rows, pool))]
        tasks += [asyncio.ensure_future(self._prepare(rows, ready, pool, concurrency)) for _ in range(self._preparing)]
        tasks += [asyncio.ensure_future(self._work(ready, client, key)) for _ in range(concurrency)]
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
            self._show()
            for item in chunk:
                self._waiting += 1
                await rows.put(item)
        self._all_read = True
        await rows.put(None)

    def _pending(self) -> Iterator[tuple[int, Preference]]:
        for item in _preferences(self.path):
            if self._stopping or self.purse.empty:
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
                content = None if self.purse.empty else await self._content(preference, pool)
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

    async def _work(self, ready: asyncio.Queue[Any], client: ChatClient, key: str) -> None:
        while (item := await ready.get()) is not None:
            self._waiting -= 1
            if not self.purse.empty:
                number, preference, content = item
                await self._annotate(number, preference, content, client, key)
                self._show()

    def _reject(self, number: int, preference: Preference, reason: str) -> None:
        self.rejected.add(number)
        self.rejects.add(self.path, number, reason, to_row(preference))
        self._show()

    async def _annotate(self, number: int, preference: Preference, content: Any, client: ChatClient, key: str) -> None:
        settings, journal, purse = self.settings, self.journal, self.purse
        texts = (preference.question, preference.response_1, preference.response_2)
        tokens = purse.estimate(build_prompt(*texts, settings.prompt), len(_media(preference)))
        while not journal.agreed(number) and journal.attempts(number) < self.attempts:
            if (needed := await purse.take(tokens)) is None:
                return
            read = None
            try:
                reply = await client.complete(
                    [{"role": "user", "content": content}],
                    _read,
                    **settings.request(),
                )
                if (answer := reply.value) is None:
                    await self._no_answer(client, reply, key)
                    self._reject(number, preference, f"no judgement ({reply.status}): {reply.error}")
                    return
                read = answer.prompt_tokens
                journal.add(self._call(number, preference, answer, reply.seconds))
                if read is None and purse.budget is not None:
                    raise AnnotationError(
                        "the server reports no numbers of tokens (usage), so no budget can be kept: go on without "
                        "--budget, or take a server that does"
                    )
            finally:
                purse.give_back(needed, tokens, read)
        self._finished += 1

    async def _content(self, preference: Preference, pool: ThreadPoolExecutor) -> Any:
        settings = self.settings

        def make() -> Any:
            return message_content(
                preference,
                prompt=settings.prompt,
                media_position=settings.media_position,
                max_pixels=settings.max_pixels,
            )

        return await asyncio.get_running_loop().run_in_executor(pool, make) if _media(preference) else make()

    def _call(self, number: int, preference: Preference, answer: _Answer, seconds: float) -> Call:
        verdict = parse(answer.text)
        return Call(
            row=number,
            source=preference.source,
            id=preference.id,
            attempt=self.journal.attempts(number) + 1,
            choice=verdict.choice,
            reason=verdict.reason,
            agrees=verdict.choice == preference.label,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost=self.purse.cost(answer.prompt_tokens, answer.completion_tokens),
            seconds=round(seconds, 3),
            text=answer.text,
        )

    async def _no_answer(self, client: ChatClient, reply: Reply[Any], key: str) -> None:
        """End the run where the next calls would fare no better."""
        from r1reward_verl.engines.chat import ChatError

        code = reply.code or 0
        if code in _STOPPING or 300 <= code < 400:
            why = _STOPPING.get(code, "the server sends elsewhere; see --url").format(key=key)
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

    def _show(self) -> None:
        if self.bar.disable:
            return
        done = self._finished + self._skipped + len(self.rejected)
        shares: dict[str, str] = {}
        if self._finished:
            shares["solved"] = f"{self.journal.tally.agreeing / self._finished:.1%}"
        if (spent := self.purse.spent) is not None:
            shares["cost"] = f"{spent:.2f}"
        self.bar.set_postfix(shares, refresh=False)
        self.bar.update(done - self.bar.n)


def annotate(
    preferences: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    urls: Sequence[str],
    model: str,
    prompt: str = PROMPT,
    attempts: int = 3,
    temperature: float = 1.0,
    max_tokens: int = 1024,
    body: Mapping[str, Any] | None = None,
    media_position: str = "before",
    max_pixels: int = MAX_PIXELS,
    concurrency: int = 64,
    timeout: float = 120.0,
    max_wait: float = 300.0,
    api_key_env: str = API_KEY,
    price: tuple[float, float] | None = None,
    budget: float | None = None,
    max_rejects: float = 0.05,
    fresh: bool = False,
    progress: bool | None = None,
) -> Report:
    """Let a teacher annotate the preferences of a file, and write them with difficulty and trace.

    Args:
        preferences: file in the columns of `preference.SCHEMA`. Rows that have a difficulty stay as they are.
        out: parquet file to write, in the order of the input; files of other names beside it: see above.
        urls: addresses of the teacher's servers, with the API version; they share the work.
        model: name under which they serve it.
        prompt: template of the prompt (see `build_prompt`).
        attempts: at most so many for one preference.
        temperature: of the sampling. At 0 a second attempt repeats the first.
        max_tokens: of one judgement.
        body: further fields of each request, as JSON has them; None as a value leaves a field out that is sent else.
        media_position: whether the pictures stand "before" or "after" the text.
        max_pixels: of a picture; larger ones are scaled down.
        concurrency: calls on the wire at a time.
        timeout: seconds for one request.
        max_wait: seconds without an answer from any server after which the run ends.
        api_key_env: environment variable with the servers' key. Without it in the environment none is sent, unless
            another name than the default is given.
        price: of a million tokens read and written, in any currency.
        budget: no call begins that could make the cost of all in the journal exceed it.
        max_rejects: greatest share of rows that may be rejected.
        fresh: begin anew instead of going on from the journal, which is kept under another name.
        progress: whether to show a bar; None for on terminals only.

    Returns:
        What the card holds. With `rows["left"]` the budget has ended the run, and `out` has what is finished, if
        anything is.

    Raises:
        ValueError, FileNotFoundError: an argument cannot be used, or the journal's calls were made otherwise.
        AnnotationError: the servers are gone or do not accept the calls, or too many rows were rejected.
        JournalError: another run writes the same output, or the journal is damaged.
        OSError: the disk is full, for example. In the last three cases, and when it is interrupted, `out` is as it
            was before, and what is finished is in the journal.
    """
    from r1reward_verl.engines.chat import ChatClient

    began = time.monotonic()
    path, out = os.fspath(preferences), Path(out)
    settings = _Settings(model, temperature, prompt, max_tokens, media_position, max_pixels, dict(body or {}))
    _check_arguments(path, out, settings, attempts, price, budget, max_rejects)
    read_preferences(path)  # says at once what is wrong with the name
    key = os.environ.get(api_key_env)
    if not key and api_key_env != API_KEY:
        raise ValueError(f"the environment variable {api_key_env!r}, which is to hold the key, is not set")
    client = ChatClient(
        urls, model=model, api_key=key, concurrency=concurrency, timeout=timeout, max_wait=max_wait, retries=3
    )
    identity, rows = _identity(path)
    out.parent.mkdir(parents=True, exist_ok=True)

    with ExitStack() as stack:
        header = {**identity, **asdict(settings)}
        journal = Journal(out.with_name(f"{out.name}.journal.jsonl"), header, fresh=fresh)
        stack.callback(journal.close)
        if journal.most_attempts > attempts:
            raise ValueError(
                f"{journal.path} holds {journal.most_attempts} attempts at a row, more than --attempts {attempts}"
            )
        purse = _Purse(price, budget, journal.tally, max_tokens, max_pixels)
        if budget is not None and journal.tally.unmetered:
            raise ValueError(
                f"{journal.tally.unmetered:,} calls in {journal.path} have no numbers of tokens, so no budget can be "
                "kept: go on without --budget, or begin anew (--fresh)"
            )
        rejects = stack.enter_context(closing(Rejects(out.with_name(f"{out.name}.rejects.jsonl"))))
        bar = stack.enter_context(closing(_bar(rows, "annotating", progress)))
        before = journal.tally.calls
        run = _Run(path, settings, attempts, journal, purse, rejects, bar)

        async def call() -> None:
            async with client:
                await run.go(client, concurrency, api_key_env)

        try:
            asyncio.run(call())
        except (AnnotationError, OSError) as error:
            said, calls = " ".join(str(error).split()), journal.tally.calls
            raise AnnotationError(
                f"{said}. {calls:,} finished calls are in {journal.path}: the same command goes on from there"
            ) from error
        bar.close()

        if _identity(path)[0] != identity:
            raise AnnotationError(f"{path} has changed since the run began: put it back, or begin anew (--fresh)")
        tally = journal.tally
        report = Report(
            calls=tally.calls,
            calls_now=tally.calls - before,
            unparsable=tally.unparsable,
            cut=tally.cut,
            prompt_tokens=tally.prompt_tokens,
            completion_tokens=tally.completion_tokens,
            unmetered=tally.unmetered,
            cost=purse.spent,
            budget_reached=purse.empty,
        )
        output = _write(run, out, report, rows, max_rejects, progress)
        stack.callback(output.discard)
        report.seconds = round(time.monotonic() - began, 3)
        if report.rows["finished"] + report.rows["annotated_before"]:
            output.commit()
        shown_settings = {
            "preferences": path,
            "urls": list(urls),
            **asdict(settings),
            "attempts": attempts,
            "concurrency": concurrency,
            "price": price,
            "budget": budget,
            "max_rejects": max_rejects,
        }
        write_json(out.with_name(f"{out.name}.card.json"), {**shown_settings, **vars(report)})
    return report


def _check_arguments(
    path: str,
    out: Path,
    settings: _Settings,
    attempts: int,
    price: tuple[float, float] | None,
    budget: float | None,
    max_rejects: float,
) -> None:
    if out.suffix != ".parquet":
        raise ValueError(f"the output {str(out)!r} does not end in .parquet")
    if out.is_dir():
        raise ValueError(f"the output {str(out)!r} is a folder")
    if os.path.realpath(out) == os.path.realpath(path):
        raise ValueError(f"{path!r} is input and output at the same time")
    if not settings.model:
        raise ValueError("the model has no name")
    if not 1 <= attempts < 2**15:
        raise ValueError(f"{attempts} attempts cannot be made; at least 1")
    if not 0 <= settings.temperature <= 2:
        raise ValueError(f"the temperature is {settings.temperature}, not between 0 and 2")
    for name, number in (("max_tokens", settings.max_tokens), ("max_pixels", settings.max_pixels)):
        if number < 1:
            raise ValueError(f"{name} is {number}, not at least 1")
    if taken := sorted({"messages", "model", "n", "stream"} & settings.body.keys()):
        raise ValueError(f"the body sets {taken[0]!r}, which is not for it: only one judgement is read from an answer")
    if settings.media_position not in MEDIA_POSITIONS:
        raise ValueError(f"the media position is {settings.media_position!r}; known: {', '.join(MEDIA_POSITIONS)}")
    if price is not None and not all(0 <= one < math.inf for one in price):
        raise ValueError(f"the price is {price}, not two numbers of at least 0")
    if budget is not None and price is None:
        raise ValueError("a budget needs a price: what a million tokens read and a million written cost (--price)")
    if budget is not None and not 0 <= budget < math.inf:
        raise ValueError(f"the budget is {budget}, not a number of at least 0")
    if not 0 <= max_rejects <= 1:
        raise ValueError(f"the greatest share of rejects is {max_rejects}, not between 0 and 1")


def _identity(path: str) -> tuple[dict[str, Any], int | None]:
    """Return size and sha256 of a file, and the number of its rows if that is quickly told."""
    rows = None
    if path.endswith(".parquet"):
        from pyarrow import parquet

        with suppress(Exception):  # whatever is wrong with it, reading says it better
            rows = parquet.read_metadata(path).num_rows
    return {"input_size": os.path.getsize(path), "input_sha256": sha256_of(path)}, rows


def _bar(rows: int | None, what: str, visible: bool | None) -> Any:
    from tqdm import tqdm

    # None lets tqdm show it on terminals only.
    return tqdm(total=rows, desc=what, unit="row", disable=None if visible is None else not visible)


def _write(
    run: _Run, out: Path, report: Report, total: int | None, max_rejects: float, progress: bool | None
) -> ParquetOutput:
    """Write what is finished, still under another name, and count all rows."""
    from r1reward_verl.data.preference import SCHEMA

    rows = report.rows
    rows.update(dict.fromkeys(("read", "annotated_before", "finished", "rejected", "left"), 0))
    solved: Counter[int] = Counter()
    output = ParquetOutput(out, SCHEMA)
    try:
        with closing(_bar(total, "writing", progress)) as bar:
            for item in _preferences(run.path):
                bar.update()
                lines = (item.rows or 1) if isinstance(item, RowError) else 1
                rows["read"] += lines
                if isinstance(item, RowError):
                    rows["rejected"] += lines
                    run.rejects.add(run.path, item.number, item.reason, item.raw)
                    continue
                number, preference = item
                attempts, agreed = run.journal.attempts(number), run.journal.agreed(number)
                if preference.difficulty is not None:
                    rows["annotated_before"] += 1
                elif agreed or attempts >= run.attempts:
                    rows["finished"] += 1
                    solved[attempts if agreed else 0] += 1
                    trace = run.journal.agreeing(number)["text"].strip() if agreed else None
                    preference = replace(preference, difficulty=attempts, trace=trace)
                else:
                    rows["rejected" if number in run.rejected else "left"] += 1
                    continue
                output.add(to_row(preference))
        report.never = solved.pop(0, 0)
        report.solved = dict(sorted(solved.items()))
        run.rejects.close()
        _check_rows(rows, max_rejects, run.rejects.path)
        output.finish()
    except BaseException:
        output.discard()
        raise
    return output


def _check_rows(rows: Mapping[str, int], max_rejects: float, rejects: Path) -> None:
    read, rejected = rows["read"], rows["rejected"]
    if rejected > max_rejects * read:
        raise AnnotationError(
            f"{rejected:,} of {read:,} rows were rejected, more than {max_rejects:.1%}: see {rejects}, and raise "
            "--max-rejects if the rest is what you want"
        )
    if read == rejected:
        raise AnnotationError(f"none of {read:,} rows is left to be written")


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object, such as {{"top_p": 0.9}}')
    return fields


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="r1reward data annotate",
        description="Let a teacher model write judgements of preferences until one agrees with the label.",
        epilog="exit codes: 0 all is written, 1 the run failed, 2 a wrong argument, 3 the budget has ended it (what is "
        "finished is written), 130 interrupted. The same command goes on where a run was ended.",
    )
    add = parser.add_argument
    add("preferences", metavar="PREFERENCES", help="file of `r1reward data convert`")
    add("out", metavar="OUT", help="parquet file to write")
    add("--url", action="append", required=True, help="address of a server, as http://host:8000/v1; may be repeated")
    add("--model", required=True, metavar="NAME", help="name under which the servers have the teacher")
    add("--prompt", metavar="FILE", help="template of the prompt with {question}, {response_1} and {response_2}")
    add(
        "--attempts", type=int, default=3, metavar="N", help="at most so many for one preference (default: %(default)s)"
    )
    add(
        "--temperature",
        type=float,
        default=1.0,
        help="of the sampling; at 0 a second attempt repeats the first (default: %(default)s)",
    )
    add("--max-tokens", type=int, default=1024, metavar="N", help="of a judgement (default: %(default)s)")
    add("--body", type=_fields, metavar="JSON", help="further fields of each request; null leaves one out")
    add(
        "--media-position",
        choices=MEDIA_POSITIONS,
        default="before",
        help="where the pictures stand, seen from the text (default: %(default)s)",
    )
    add(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="larger pictures are scaled down (default: %(default)s)",
    )
    add("--concurrency", type=int, default=64, metavar="N", help="calls at a time (default: %(default)s)")
    add("--timeout", type=float, default=120.0, metavar="SECONDS", help="for one call (default: %(default)s)")
    add(
        "--max-wait",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="without an answer from any server, after which the run ends (default: %(default)s)",
    )
    add(
        "--api-key-env",
        default=API_KEY,
        metavar="NAME",
        help="environment variable with the servers' key (default: %(default)s)",
    )
    add(
        "--price",
        type=float,
        nargs=2,
        metavar=("INPUT", "OUTPUT"),
        help="of a million tokens read and a million written, in any currency",
    )
    add("--budget", type=float, metavar="COST", help="stop before all calls together cost more; needs --price")
    add(
        "--max-rejects",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="greatest share of bad or refused rows that is no error (default: %(default)s)",
    )
    add("--fresh", action="store_true", help="begin anew; the journal that is there is kept under another name")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `r1reward data annotate`."""
    parser = _parser()
    options = parser.parse_args(argv)
    journal = f"{options.out}.journal.jsonl"
    try:
        report = annotate(
            options.preferences,
            options.out,
            urls=options.url,
            model=options.model,
            prompt=PROMPT if options.prompt is None else load_template(options.prompt),
            attempts=options.attempts,
            temperature=options.temperature,
            max_tokens=options.max_tokens,
            body=options.body,
            media_position=options.media_position,
            max_pixels=options.max_pixels,
            concurrency=options.concurrency,
            timeout=options.timeout,
            max_wait=options.max_wait,
            api_key_env=options.api_key_env,
            price=None if options.price is None else tuple(options.price),
            budget=options.budget,
            max_rejects=options.max_rejects,
            fresh=options.fresh,
        )
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    except (AnnotationError, JournalError, OSError) as error:
        print(f"error: {error}; {options.out} was not written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"interrupted; every finished call is in {journal}, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    print(report)
    if report.rows["finished"] + report.rows["annotated_before"]:
        print(f"written: {options.out}")
    if report.budget_reached:
        print(
            f"the budget of {options.budget:g} is used up: {report.rows['left']:,} rows are left, and the same command "
            "with a larger --budget goes on",
            file=sys.stderr,
        )
        return 3
    return 0
