"""Answers of chat servers, fitted into what their context leaves for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from r1reward_verl.engines.chat import ChatClient, Constraint, Reply
from r1reward_verl.engines.messages import ChatAnswer, Parts, read_answer

MALFORMED = (400, 413, 422)
"""Statuses of a request that a server does not take as it is."""
_TOO_LONG = re.compile(
    r"context[ _](?:length|size|window)|(?:maximum|max) (?:model|context)|too long|too many tokens"
    r"|`max_new_tokens` must be",
    re.IGNORECASE,
)
# How vLLM, OpenAI, llama.cpp, TGI and servers like theirs name the tokens that they have, and those of the prompt.
_CONTEXT = re.compile(
    r"(?:context|model) (?:length|size|window)[^\d.]{0,24}(\d+)|`max_new_tokens` must be <= (\d+)", re.IGNORECASE
)
_PROMPT = re.compile(
    r"(?<!at least )\b(\d+) (?:tokens )?(?:in (?:the messages|your prompt|the prompt)|(?:input|`inputs`) tokens)"
    r"|(\d+) tokens from the input"
    r"|(?:messages resulted in|input length|prompt contains|prompt \(length|request \()\D{0,3}(\d+)",
    re.IGNORECASE,
)


def is_too_long(reply: Reply[Any]) -> bool:
    """Tell whether a server refused a prompt because it, with its answer, is longer than the context."""
    return reply.code in MALFORMED and _TOO_LONG.search(reply.error) is not None


async def complete_within_context(
    client: ChatClient,
    content: str | Parts,
    max_tokens: int,
    constraint: Constraint | None = None,
    **body: Any,
) -> tuple[Reply[ChatAnswer], int]:
    """Ask for an answer of at most `max_tokens`, or of what the server's context leaves for it.

    Servers also refuse prompts that would not fit only if the answer became as long as it may.

    Returns:
        The reply, and the tokens that its answer was given.
    """
    messages = [{"role": "user", "content": content}]
    halved = False
    while True:
        reply = await client.complete(messages, read_answer, constraint=constraint, max_tokens=max_tokens, **body)
        if reply.value is not None or not is_too_long(reply):
            return reply, max_tokens
        room = max_tokens // 2 if halved else await _room(client, messages, reply.error)
        halved = halved or room is None
        room = max_tokens // 2 if room is None else room
        if not 0 < room < max_tokens:
            return reply, max_tokens
        max_tokens = room


async def _room(client: ChatClient, messages: Sequence[Mapping[str, Any]], refusal: str) -> int | None:
    """Return the tokens that a server has left for the answer to a prompt, None where it does not say."""
    context, prompt = _CONTEXT.search(refusal), _PROMPT.search(refusal)
    if context is None:
        return None
    available = int(context[1] or context[2])
    if prompt is not None and (length := int(prompt[1] or prompt[2] or prompt[3])) > 0:
        return available - length
    # A server need not count the tokens of what it refuses. It does count those of what it answers.
    reply = await client.complete(messages, read_answer, temperature=0.0, max_tokens=1)
    if reply.value is None:
        return 0
    if reply.value.prompt_tokens is None:
        return None
    return available - reply.value.prompt_tokens
