"""Judgements from OpenAI-compatible chat servers, for evaluations: the greedy one, and K samples with one request.

Pictures are sent as `r1reward data annotate` sends them: as data URIs, larger ones scaled down; of a video the frames
in order. The client retries; what it gives up is a failed judgement, and servers that are gone end the run.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from r1reward_verl.engines.base import GREEDY, EngineError, Judgement, Prompt, Sampling, Status, Work, without
from r1reward_verl.engines.chat import ChatClient, Reply
from r1reward_verl.engines.messages import Parts, media_parts, message_content, read_answer
from r1reward_verl.engines.wire import unreachable

_THREADS = 4
_REACHED_IN = 5.0  # seconds
_ANSWER_BYTES = 1 << 20  # of one judgement
_MALFORMED = (400, 413, 422)
_STOPPING = (401, 402, 403, 404, 405)
_TOO_LONG = re.compile(r"context[ _]length|(maximum|max) (model|context)|too long|too many tokens", re.IGNORECASE)
# How vLLM, OpenAI and servers like theirs name the tokens that they have, and those of the prompt.
_CONTEXT = re.compile(r"(?:context|model) length\D{0,8}(\d+)", re.IGNORECASE)
_PROMPT = re.compile(
    r"(?<!at least )\b(\d+) (?:tokens )?(?:in (?:the messages|your prompt|the prompt)|input tokens)"
    r"|(?:messages resulted in|input length|prompt contains|prompt \(length)\D{0,3}(\d+)",
    re.IGNORECASE,
)


class EndpointEngine:
    """Asks servers that share the work.

    Args:
        urls: addresses, with the API version.
        model: name under which they serve it.
        sampling: how judgements are generated. Servers bound pictures from below themselves.
        api_key: sent as a bearer token; None or empty: none is sent.
        concurrency: requests on the wire at a time.
        timeout: seconds for one request.
        max_wait: seconds without an answer from any server after which `generate` gives up.
        retries: of a request that fails while others succeed.

    Raises:
        ValueError: an address or a key that cannot be meant.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str,
        sampling: Sampling,
        *,
        api_key: str | None = None,
        concurrency: int = 64,
        timeout: float = 600.0,
        max_wait: float = 600.0,
        retries: int = 3,
    ) -> None:
        self._sampling, self._concurrency = sampling, concurrency
        self._options: dict[str, Any] = {
            "model": model,
            "api_key": api_key,
            "concurrency": concurrency,
            "timeout": timeout,
            "max_wait": max_wait,
            "retries": retries,
        }
        self._urls = list(urls)
        self._said: deque[list[Judgement]] = deque()
        self._stop = ""
        self._several = True  # choices in one answer
        self._client(1)

    def _client(self, samples: int) -> ChatClient:
        return ChatClient(self._urls, **self._options, max_bytes=max(samples, 1) * _ANSWER_BYTES)

    def generate(self, work: Iterator[Work]) -> Generator[Sequence[Judgement], None, None]:
        """Yield the judgements of each request when it is answered; see `engine.Engine`.

        Raises:
            EngineError: the servers are gone, or want no such requests.
        """
        loop = asyncio.new_event_loop()
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="media")
        client: ChatClient | None = None
        tasks: set[asyncio.Task[None]] = set()
        ended = False
        self._stop = ""
        try:
            if refused := loop.run_until_complete(unreachable(self._urls, min(_REACHED_IN, self._options["max_wait"]))):
                raise EngineError(f"no server can be reached: {refused}; start one, or correct --url")
            while True:
                while not (ended or self._stop) and len(tasks) < self._concurrency:
                    if (case := next(work, None)) is None:
                        ended = True
                        break
                    client = client or self._client(max(len(prompt.samples) for prompt in case.prompts))
                    tasks.add(loop.create_task(self._judge(client, case, pool)))
                if not tasks:
                    break
                # Not until a whole case is done: what is answered is to be on the disk soon.
                waiting = asyncio.wait(tasks, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                done, tasks = loop.run_until_complete(waiting)
                while self._said:
                    yield self._said.popleft()
                for task in done:
                    task.result()
            if self._stop:
                raise EngineError(self._stop)
        finally:
            loop.run_until_complete(_end(tasks, client))
            loop.close()
            pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Do nothing: connections end with `generate`."""

    async def _judge(self, client: ChatClient, work: Work, pool: ThreadPoolExecutor) -> None:
        media = [*work.images, *(work.video or ())]

        parts: Parts = []
        if media:
            try:
                make = partial(media_parts, media, self._sampling.max_pixels)
                parts = await asyncio.get_running_loop().run_in_executor(pool, make)
            except ValueError as error:
                self._said.extend(without(work, prompt, "failed", str(error)) for prompt in work.prompts)
                return
        # Together, so that the server meets what they have in common at one time.
        await asyncio.gather(
            *(
                self._ask(client, work, prompt, parts, samples)
                for prompt in work.prompts
                for samples in (
                    [sample for sample in prompt.samples if sample == GREEDY],
                    [sample for sample in prompt.samples if sample != GREEDY],
                )
                if samples
            )
        )

    async def _ask(self, client: ChatClient, work: Work, prompt: Prompt, media: Parts, samples: list[int]) -> None:
        content = message_content(prompt.text, media, self._sampling.media_position)
        left, tokens = samples, self._sampling.max_tokens
        halved = False
        temperature = 0.0 if samples == [GREEDY] else self._sampling.temperature
        while left:
            number = len(left) if self._several else 1
            several: dict[str, Any] = {"n": number} if number > 1 else {}
            reply = await client.complete(
                [{"role": "user", "content": content}],
                read_answer,
                temperature=temperature,
                top_p=1.0,
                max_tokens=tokens,
                **several,
            )
            if (answer := reply.value) is not None:
                got = answer.texts[:number]
                each = answer.completion_tokens if len(answer.texts) == 1 else None
                judgements = [
                    Judgement(work.row, prompt.order, sample, said, each, answer.prompt_tokens, reason)
                    for sample, (said, reason) in zip(left, got, strict=False)
                ]
                if each is None:
                    judgements[0] = replace(judgements[0], answer_tokens=answer.completion_tokens)
                self._said.append(judgements)
                left = left[len(got) :]
                continue
            long = reply.code in _MALFORMED and _TOO_LONG.search(reply.error)
            if long:
                # Servers refuse what would not fit if the answer became as long as it may, too.
                room = tokens // 2 if halved else await self._room(client, content, reply.error)
                halved = halved or room is None
                room = tokens // 2 if room is None else room
                if 0 < room < tokens:
                    tokens = room
                    continue
            if reply.code in _MALFORMED and not long and number > 1:
                self._several = False
                continue
            self._fail(client, reply, work, Prompt(prompt.order, "", tuple(left)), "too_long" if long else "failed")
            return

    async def _room(self, client: ChatClient, content: str | Parts, refusal: str) -> int | None:
        """Return the tokens that a server has left for the answer to a prompt, None where it does not say."""
        context, prompt = _CONTEXT.search(refusal), _PROMPT.search(refusal)
        if context is None:
            return None
        if prompt is not None and (length := int(prompt[1] or prompt[2])) > 0:
            return int(context[1]) - length
        # What it refuses it need not count. What it answers it does.
        reply = await client.complete(
            [{"role": "user", "content": content}], read_answer, temperature=0.0, max_tokens=1
        )
        if reply.value is None:
            return 0
        if reply.value.prompt_tokens is None:
            return None
        return int(context[1]) - reply.value.prompt_tokens

    def _fail(self, client: ChatClient, reply: Reply[Any], work: Work, prompt: Prompt, status: Status) -> None:
        code = reply.code or 0
        if reply.status == "refused" and (code in _STOPPING or 300 <= code < 400):
            self._stop = f"{reply.error}: see --url, --model and the key (--api-key-env)"
            return
        if reply.status == "failed" and client.given_up:
            self._stop = f"the servers are gone: {reply.error}"
        self._said.append(without(work, prompt, status, f"{reply.status}: {reply.error}"))


async def _end(tasks: set[asyncio.Task[None]], client: ChatClient | None) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if client is not None:
        await client.close()
