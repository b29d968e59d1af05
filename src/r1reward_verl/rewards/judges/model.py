"""The judge that is a model behind an OpenAI-compatible chat server: Qwen2.5-VL-7B-Instruct in the paper.

One class for all places it can run in: verl's own reward-model servers (`pool`, `colocated`) and any other server
(`endpoint`). Identical questions are asked once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from r1reward_verl.engines.chat import ChatClient, Constraint
from r1reward_verl.engines.wire import check_client_options
from r1reward_verl.judgement import Choice
from r1reward_verl.rewards.judges.base import JudgeStatus, Opinion
from r1reward_verl.rewards.judges.prompt import Lines, closing, messages, read_confidence, read_reply

JUDGE_API_KEY = "R1REWARD_JUDGE_API_KEY"
JUDGE_ALTERNATIVES = 20
"""Log-probabilities asked for beside the chosen token; 20 is what OpenAI's and vLLM's servers allow at most."""

_ONE_DIGIT = Constraint(
    {"structured_outputs": {"choice": ["0", "1"]}, "max_tokens": 1},
    obeyed=lambda answer: read_reply(answer["choices"][0]["message"]["content"]) is not None,
)


class ModelJudge:
    """Asks a chat model for one digit.

    The request asks for a constrained reply (vLLM's `structured_outputs`). Where a server refuses the field, or
    ignores it and chats, the question is asked again in plain words.

    Args:
        urls: Addresses of the servers, with the API version (`http://host:8000/v1`). They share the work; one that
            fails is left out until it is back.
        model: Name under which they serve the judge; None for the first that each lists.
        api_key_env: Environment variable with their key. Without it in the environment none is sent, unless another
            name than the default is given.
        lines: How many last lines of the reasoning the judge sees, or "all" (3: reference).
        temperature: 0.1: reference.
        confidence: Whether the consistency is 2 P("1") - 1 by the model's log-probabilities instead of 1 or -1.
        concurrency: Requests at a time, of each reward worker.
        timeout: Seconds for one request.
        max_wait: Seconds without an answer from any server after which those who wait give up.
        retries: Requests beyond the first for an unreadable reply (2: reference) or a failed one.
        cache_size: How many judgements are remembered; 0 for none.

    Raises:
        ValueError: a value out of range, or `api_key_env` names a variable that is not set.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str | None = None,
        *,
        api_key_env: str = JUDGE_API_KEY,
        lines: Lines = 3,
        temperature: float = 0.1,
        confidence: bool = False,
        concurrency: int = 64,
        timeout: float = 30.0,
        max_wait: float = 120.0,
        retries: int = 2,
        cache_size: int = 65536,
    ) -> None:
        if lines != "all" and (isinstance(lines, bool) or not isinstance(lines, int) or lines < 1):
            raise ValueError(f"judge.lines is {lines!r}; it must be a number of at least 1, or all")
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature <= 2:
            raise ValueError(f"judge.temperature is {temperature!r}; it must be from 0 to 2 (reference: 0.1)")
        if not isinstance(confidence, bool):
            raise ValueError(f"judge.confidence is {confidence!r}; it must be true or false")
        if isinstance(cache_size, bool) or not isinstance(cache_size, int) or cache_size < 0:
            raise ValueError(f"judge.cache_size is {cache_size!r}; it must be a number of at least 0")
        key = os.environ.get(api_key_env)
        if not key and api_key_env != JUDGE_API_KEY:
            raise ValueError(
                f"judge.api_key_env is {api_key_env!r}, and that environment variable is not set; set it on every "
                "node before Ray starts there"
            )
        try:
            check_client_options(urls, key, concurrency, timeout, max_wait, retries)
        except ValueError as error:
            raise ValueError(f"judge: {error}") from None
        self._make_client = functools.partial(
            ChatClient,
            urls,
            model=model,
            api_key=key,
            concurrency=concurrency,
            timeout=timeout,
            max_wait=max_wait,
            retries=retries,
        )
        self.lines = lines
        self.temperature = temperature
        self.confidence = confidence
        self.cache_size = cache_size
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._asked: dict[bytes, asyncio.Future[Opinion | None]] = {}

    @functools.cached_property
    def client(self) -> ChatClient:
        """The client, made for the first question: settings are checked without one."""
        return self._make_client()

    async def judge(self, reasoning: str, choice: Choice) -> Opinion:
        """See `Judge.judge`. Reasoning without a word concludes nothing: nobody is asked."""
        text = closing(reasoning, self.lines)
        if not text:
            return Opinion(-1.0, "judged")
        key = hashlib.blake2b(f"{choice}{text}".encode(errors="surrogatepass"), digest_size=16).digest()
        if key in self._known:
            self._known.move_to_end(key)
            return Opinion(self._known[key], "cached")
        while key in self._asked:
            shared = await asyncio.shield(self._asked[key])
            if shared is not None:
                return shared if shared.status != "judged" else dataclasses.replace(shared, status="cached", retries=0)
            # Who asked was cancelled: one of those who waited asks now.
        answer = self._asked[key] = asyncio.get_running_loop().create_future()
        opinion = None
        try:
            opinion = await self._ask(text, choice)
        finally:
            del self._asked[key]
            answer.set_result(opinion)
        if opinion.status == "judged":
            self._remember(key, opinion.consistency)
        return opinion

    def _remember(self, key: bytes, consistency: float) -> None:
        if self.cache_size:
            self._known[key] = consistency
            if len(self._known) > self.cache_size:
                self._known.popitem(last=False)

    async def close(self) -> None:
        """End the connections."""
        await self.client.close()

    async def _ask(self, text: str, choice: Choice) -> Opinion:
        # In plain words a model may say "Output: 1".
        body: dict[str, Any] = {"temperature": self.temperature, "max_tokens": 8}
        if self.confidence:
            body |= {"logprobs": True, "top_logprobs": JUDGE_ALTERNATIVES}
        reply = await self.client.complete(messages(text, choice), self._read, constraint=_ONE_DIGIT, **body)
        if reply.value is None:
            status: JudgeStatus = "failed" if reply.status in ("failed", "refused") else "undecided"
            return Opinion(0.0, status, reply.retries, reply.seconds)
        return Opinion(2.0 * reply.value - 1.0, "judged", reply.retries, reply.seconds)

    def _read(self, answer: Mapping[str, Any]) -> float | None:
        """Return P(1); None: ask again."""
        choice = answer["choices"][0]
        verdict = read_reply(choice["message"]["content"])
        if verdict is None:
            return None
        return read_confidence(choice) if self.confidence else float(verdict)
