"""A reward model behind a chat server: it prefers the response with the larger number in it."""

from __future__ import annotations

import re
from collections.abc import Callable

from chat_server import Answer, Received, completion
from factories import judgement

_PAIR = re.compile(r"\[Response 1\]\n(.*)\n\n\[Response 2\]\n(.*)\n\nWrite nothing", re.DOTALL)


def pair_of(request: Received) -> tuple[str, str]:
    """Return the two responses in the order in which a request shows them."""
    content = request.body["messages"][-1]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    found = _PAIR.search(text)
    assert found, text
    return found[1], found[2]


def quality(response: str) -> float:
    """Return the number in a response, 0 without one."""
    found = re.search(r"-?\d+(\.\d+)?", response)
    return float(found[0]) if found else 0.0


def reward_model(
    choose: Callable[[str, str], int] | None = None, *, delay: float = 0.0
) -> Callable[[Received], Answer]:
    """Return the script of a server that judges pairs, by default right; of equal ones it prefers the first."""

    def larger(one: str, other: str) -> int:
        return 1 if quality(one) >= quality(other) else 2

    def answer(request: Received) -> Answer:
        choice = (choose or larger)(*pair_of(request))
        text = judgement(choice, f"Compared. So response {choice} is better.")
        whole = completion(text)
        whole["choices"] *= request.body.get("n", 1)
        return Answer(whole | {"usage": {"prompt_tokens": 100, "completion_tokens": 10}}, delay=delay)

    return answer
