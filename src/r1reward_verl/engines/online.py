"""Texts for one prompt at a time, asynchronously: what the use of a trained model asks of an engine.

An evaluation hands an engine a stream of cases (`engines.base`). Here each caller awaits its own prompt, and the
engine batches those that are awaited at the same time. `OnlineEndpoint` asks OpenAI-compatible servers; `OnlineVLLM`
(`engines.online_vllm`) runs vLLM with this process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from r1reward_verl.engines.base import Sampling
from r1reward_verl.engines.chat import ChatClient, Constraint, Reply
from r1reward_verl.engines.context import MALFORMED, complete_within_context, is_too_long
from r1reward_verl.engines.messages import Token, media_parts, read_answer
from r1reward_verl.media import Media

MODEL_API_KEY = "R1REWARD_MODEL_API_KEY"
"""Environment variable with the key of the reward model's servers."""
ALTERNATIVES = 5
"""Log-probabilities asked for beside each token; the two answers are among the most probable at the answer."""

DEFAULT_BODY: Mapping[str, Any] = {"top_p": 1.0}
_THREADS = 4


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """A text that a model wrote.

    Attributes:
        text: without special tokens at its end.
        finish_reason: "stop", "length" if it was cut off, or another; None if the server does not say.
        tokens: with their log-probabilities, if they were asked for and the engine gives them.
        token_count: of the text; None if unknown.
        answer_tokens: of the whole answer it is the first text of, where those of each text are unknown.
    """

    text: str
    finish_reason: str | None
    tokens: tuple[Token, ...] | None = None
    token_count: int | None = None
    answer_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """What became of one prompt.

    Attributes:
        texts: one for each sample that was generated.
        error: why samples are missing; empty if none is.
        prompt_tokens, tokens: of the prompt and of all texts together; 0 where the engine does not say.
        unavailable: whether the error is the engine's: the same prompt may succeed later.
        reply: of the server that did not give the missing samples, where servers were asked.
    """

    texts: tuple[GeneratedText, ...] = ()
    error: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    unavailable: bool = False
    reply: Reply[Any] | None = None


Content = Sequence[Any]
"""A prompt: texts, and media as the engine encoded them, in the order in which the model reads them."""


class OnlineEngine(Protocol):
    """Generates texts for prompts that arrive one by one; used within one event loop."""

    @property
    def given_up(self) -> bool:
        """Whether the engine does not answer, so that prompts fail at once."""
        ...

    async def encode(self, media: Sequence[Media]) -> list[Any]:
        """Prepare pictures once for all prompts that hold them.

        Raises:
            ValueError: one of them cannot be read (see `media.data_uri`).
        """
        ...

    async def encode_video(self, frames: Sequence[Media]) -> list[Any]:
        """Prepare a video once for all prompts that hold it: the parts that stand for it in a prompt.

        Raises:
            ValueError: a frame cannot be read.
        """
        ...

    async def generate(self, content: Content, samples: int, *, logprobs: bool = False) -> Generated:
        """Return `samples` texts, or the greedy one if `samples` is 0. Failures are told in the result, not raised."""
        ...

    async def close(self) -> None:
        """Give back what the engine holds."""
        ...


class OnlineEndpoint:
    """OpenAI-compatible servers that share the prompts; see `ChatClient` for what happens when they fail.

    Args:
        urls: addresses, with the API version.
        model: name under which they serve the model; None for the first that each lists.
        sampling: how texts are generated.
        api_key_env: environment variable with the servers' key. Without it in the environment none is sent, unless
            another name than the default is given.
        api_key: the key itself, in place of that variable's; empty: none is sent.
        concurrency: requests at a time, over all servers.
        timeout: seconds for one request.
        max_wait: seconds without an answer from any server after which prompts fail; None for `timeout`.
        retries: of a request that fails while others succeed.
        max_bytes: of one answer with all of its texts; a longer one is an error.
        body: further fields of each request; a None leaves a field out. With `max_tokens` in it, answers are not fitted
            into the context.

    Raises:
        ValueError: an address, a number or a key that cannot be meant.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str | None = None,
        sampling: Sampling | None = None,
        *,
        api_key_env: str = MODEL_API_KEY,
        api_key: str | None = None,
        concurrency: int = 64,
        timeout: float = 120.0,
        max_wait: float | None = None,
        retries: int = 3,
        max_bytes: int = 8 << 20,
        body: Mapping[str, Any] = DEFAULT_BODY,
    ) -> None:
        key = os.environ.get(api_key_env) if api_key is None else api_key
        if not key and api_key_env != MODEL_API_KEY:
            raise ValueError(f"api_key_env is {api_key_env!r}, and that environment variable is not set")
        self.sampling, self._body = sampling or Sampling(), body
        self._several = True  # texts in one answer
        self._client = ChatClient(
            list(urls),
            model=model,
            api_key=key,
            concurrency=concurrency,
            timeout=timeout,
            max_wait=timeout if max_wait is None else max_wait,
            retries=retries,
            max_bytes=max_bytes,
        )
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="media")

    @property
    def given_up(self) -> bool:
        """Whether no server has answered for `max_wait`; a prompt every few seconds finds out if one is back."""
        return self._client.given_up

    async def encode(self, media: Sequence[Media]) -> list[Any]:
        """Return the `image_url` part of each picture."""
        if not media:
            return []
        make = partial(media_parts, list(media), self.sampling.max_pixels)
        return await asyncio.get_running_loop().run_in_executor(self._pool, make)

    async def encode_video(self, frames: Sequence[Media]) -> list[Any]:
        """Return the `image_url` parts of the frames: these servers are not asked for videos, as in an evaluation."""
        return await self.encode(frames)

    async def generate(self, content: Content, samples: int, *, logprobs: bool = False) -> Generated:
        """Return the texts of as many requests as the servers need for them; see `OnlineEngine.generate`."""
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
        message = content[0] if len(content) == 1 and isinstance(content[0], str) else parts
        constraint = _LOGPROBS if logprobs else None
        left, room = max(samples, 1), self.sampling.max_tokens
        texts: list[GeneratedText] = []
        tokens = prompt_tokens = 0
        while left:
            number = left if self._several else 1
            fields = {"temperature": self.sampling.temperature if samples else 0.0, "n": number if number > 1 else None}
            body = {name: value for name, value in {**fields, **self._body}.items() if value is not None}
            if "max_tokens" in self._body:
                messages = [{"role": "user", "content": message}]
                reply = await self._client.complete(messages, read_answer, constraint=constraint, **body)
            else:
                reply, room = await complete_within_context(self._client, message, room, constraint, **body)
            if (answer := reply.value) is None:
                if reply.code in MALFORMED and not is_too_long(reply) and number > 1:
                    self._several = False  # not every server gives several texts at once
                    continue
                error, gone = f"{reply.status}: {reply.error}", reply.status == "failed"
                return Generated(tuple(texts), error, prompt_tokens, tokens, unavailable=gone, reply=reply)
            logprobs_of = answer.logprobs or (None,) * len(answer.texts)
            new = [
                GeneratedText(text, reason, each)
                for (text, reason), each in zip(answer.texts[:number], logprobs_of, strict=False)
            ]
            count, alone = answer.completion_tokens, len(answer.texts) == 1
            new[0] = replace(new[0], token_count=count if alone else None, answer_tokens=None if alone else count)
            texts, left = texts + new, left - len(new)
            prompt_tokens = answer.prompt_tokens or prompt_tokens
            tokens += answer.completion_tokens or 0
        return Generated(tuple(texts), "", prompt_tokens, tokens)

    async def models(self) -> dict[str, list[str]]:
        """Return the names of the models that each server lists, by URL.

        Raises:
            ChatError: see `ChatClient.models`.
        """
        return await self._client.models()

    async def close(self) -> None:
        """End all connections."""
        await self._client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)


_LOGPROBS = Constraint(
    {"logprobs": True, "top_logprobs": ALTERNATIVES},
    obeyed=lambda answer: bool(answer["choices"][0]["logprobs"]["content"]),
)
