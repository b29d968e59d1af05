"""Judgements from OpenAI-compatible chat servers, for evaluations: the greedy one, and K samples with one request.

Pictures are sent as `r1reward data annotate` sends them: as data URIs, larger ones scaled down; of a video the frames
in order. The client retries; what it gives up is a failed judgement, and servers that are gone end the run.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import deque
from collections.abc import Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from r1reward_verl.engines.base import GREEDY, EngineError, Judgement, JudgementStatus, Prompt, Sampling, Work, without
from r1reward_verl.engines.chat import ChatError, Reply
from r1reward_verl.engines.context import is_too_long
from r1reward_verl.engines.messages import Parts
from r1reward_verl.engines.online import DEFAULT_BODY, OnlineEndpoint
from r1reward_verl.engines.wire import unreachable

_AHEAD = 1  # cases that are prepared before the client has room for them
_REACHED_IN = 5.0  # seconds
_ANSWER_BYTES = 1 << 20  # of one judgement
_STOPPING = {
    401: "the key is not accepted; set the environment variable {key} to a valid one",
    402: "the account is empty",
    403: "the key does not give access to this model; set the environment variable {key} to one that does",
    404: "no such model or address; see --model and --url",
    405: "no chat server at this address; see --url",
}
_T = TypeVar("_T")
_END = Work(0, (), None, ())  # what stands behind the last case


class EndpointEngine:
    """Asks servers that share the work.

    Args:
        urls: addresses, with the API version.
        model: name under which they serve it.
        sampling: how judgements are generated. Servers bound pictures from below themselves.
        api_key: sent as a bearer token; None or empty: none is sent.
        key_name: environment variable that holds the key, for messages.
        concurrency: requests on the wire at a time.
        timeout: seconds for one request.
        max_wait: seconds without an answer from any server after which `generate` gives up.
        retries: of a request that fails while others succeed.
        body: further fields of each request; a None leaves a field out. With `max_tokens` in it, answers are not fitted
            into the context.

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
        key_name: str = "of --api-key-env",
        concurrency: int = 64,
        timeout: float = 600.0,
        max_wait: float = 600.0,
        retries: int = 3,
        body: Mapping[str, Any] = DEFAULT_BODY,
    ) -> None:
        self._sampling, self._concurrency, self._key_name, self._max_wait = sampling, concurrency, key_name, max_wait
        self._urls = list(urls)
        self._connect = partial(
            OnlineEndpoint,
            self._urls,
            model,
            sampling,
            api_key=api_key or "",
            concurrency=concurrency,
            timeout=timeout,
            max_wait=max_wait,
            retries=retries,
            body=body,
        )
        self._finished: deque[list[Judgement]] = deque()
        self._stop = ""
        self._last = False  # whether no further case is there at the moment
        self._connect()  # checks the options

    def generate(self, work: Iterator[Work | None]) -> Generator[Sequence[Judgement], None, None]:
        """Yield the judgements of each request when it is answered; see `engine.Engine`.

        Where the work is None, the next case depends on a judgement that is still to come.

        Raises:
            EngineError: the servers are gone, or want no such requests.
        """
        loop = asyncio.new_event_loop()
        servers: OnlineEndpoint | None = None
        tasks: set[asyncio.Task[None]] = set()
        ended = False
        self._stop = ""
        try:
            if refused := _run(loop, unreachable(self._urls, min(_REACHED_IN, self._max_wait))):
                raise EngineError(f"no server can be reached: {refused}; start one, or correct --url")
            while True:
                while not (ended or self._stop) and len(tasks) < self._concurrency + _AHEAD:
                    case = next(work, _END)
                    self._last = case is None or case is _END
                    ended = case is _END
                    if case is None or case is _END:
                        break
                    samples = max(len(prompt.samples) for prompt in case.prompts)
                    servers = servers or self._connect(max_bytes=max(samples, 1) * _ANSWER_BYTES)
                    tasks.add(loop.create_task(self._judge(servers, case)))
                if not tasks:
                    break
                # Not until a whole case is done: what is answered is to be on the disk soon.
                waiting = asyncio.wait(tasks, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                done, tasks = _run(loop, waiting)
                while self._finished:
                    yield self._finished.popleft()
                for task in done:
                    task.result()
            if self._stop:
                raise EngineError(self._stop)
        finally:
            loop.run_until_complete(_end(tasks, servers))
            loop.close()

    def close(self) -> None:
        """Do nothing: connections end with `generate`."""

    async def _judge(self, servers: OnlineEndpoint, work: Work) -> None:
        try:
            media = await servers.encode([*work.images, *(work.video or ())])
        except ValueError as error:
            self._finished.extend(without(work, prompt, "failed", str(error)) for prompt in work.prompts)
            return
        # Together, so that the server meets what they have in common at one time.
        await asyncio.gather(
            *(
                self._ask(servers, work, prompt, media, samples)
                for prompt in work.prompts
                for samples in prompt.requests
            )
        )

    async def _ask(
        self, servers: OnlineEndpoint, work: Work, prompt: Prompt, media: Parts, samples: tuple[int, ...]
    ) -> None:
        before = self._sampling.media_position == "before"
        content = [*media, prompt.text] if before else [prompt.text, *media]
        generated = await servers.generate(content, 0 if samples == (GREEDY,) else len(samples))
        if generated.texts:
            self._finished.append(
                [
                    Judgement(
                        *(work.row, prompt.order, sample, one.text, one.token_count),
                        prompt_tokens=generated.prompt_tokens or None,
                        finish_reason=one.finish_reason,
                        answer_tokens=one.answer_tokens,
                    )
                    for sample, one in zip(samples, generated.texts, strict=False)
                ]
            )
        if generated.reply is not None and (left := samples[len(generated.texts) :]):
            await self._fail(servers, generated.reply, work, Prompt(prompt.order, "", left))

    async def _fail(self, servers: OnlineEndpoint, reply: Reply[Any], work: Work, prompt: Prompt) -> None:
        code = reply.code or 0
        if reply.status == "refused" and (code in _STOPPING or 300 <= code < 400):
            why = _STOPPING.get(code, "the server sends elsewhere; see --url").format(key=self._key_name)
            if code == 404:
                with suppress(ChatError):
                    names = {name for names in (await servers.models()).values() for name in names}
                    why += f" (models there: {', '.join(sorted(names)[:20]) or 'none'})"
            self._stop = f"{reply.error}: {why}"
            return
        if reply.status == "failed" and servers.given_up:
            # With no other case to be answered, one that no server can bear looks like servers that are gone.
            alive = self._last and reply.code is not None
            if self._last and not alive:
                with suppress(ChatError):
                    alive = bool(await servers.models())
            if not alive:
                self._stop = f"the servers are gone: {reply.error}"
                return
        status: JudgementStatus = "too_long" if is_too_long(reply) else "failed"
        self._finished.append(without(work, prompt, status, f"{reply.status}: {reply.error}"))


def _run(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run until the coroutine is done; Ctrl-C cancels it, and does not break into whichever callback runs then.

    As `asyncio.Runner` does, which Python 3.10 lacks.
    """
    task = loop.create_task(coroutine)
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is not signal.default_int_handler:
        return loop.run_until_complete(task)
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        loop.call_soon_threadsafe(task.cancel)

    signal.signal(signal.SIGINT, interrupt)
    try:
        return loop.run_until_complete(task)
    finally:
        signal.signal(signal.SIGINT, previous)
        if interrupted:
            raise KeyboardInterrupt


async def _end(tasks: set[asyncio.Task[None]], servers: OnlineEndpoint | None) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if servers is not None:
        await servers.close()
