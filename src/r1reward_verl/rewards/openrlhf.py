"""Texts as OpenRLHF hands them over: a query is a prompt with its response, decoded with special tokens.

Source: OpenRLHF `openrlhf/utils/agent.py` @ 3c3be6234e0cb353e76bb8019947db9dfe99fca7 (v0.11.0).
"""

from __future__ import annotations

import re
import unicodedata

END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "<eos>", "</s>")
PADDING = ("<|endoftext|>", "<pad>")

_PADS = re.compile(r"(<\|(?:image|video)_pad\|>)")
_USER_TURNS = (
    re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL),
    re.compile(r"<\|start_header_id\|>user<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>", re.DOTALL),
    re.compile(r"<start_of_turn>user\n(.*?)<end_of_turn>", re.DOTALL),
)
_SPECIAL = re.compile(r"<\|[^|<>\n]{1,40}\|>")


def response_of(query: str, prompt: str) -> str:
    """Return the response in a query, without the padding and the token that ended it.

    Other special tokens stay, as in verl: they are a fault of format.

    Raises:
        ValueError: the query does not start with the prompt.
    """
    # The query went through the tokenizer, and Qwen's brings text into its composed form.
    for text in (prompt, unicodedata.normalize("NFC", prompt)):
        end = _end_of(text, query)
        if end is not None:
            return _without_end_token(query[end:])
    raise ValueError(
        f"the query does not start with its prompt (query: {query[:60]!r}..., prompt: {prompt[:60]!r}...). "
        "OpenRLHF cuts the beginning of a prompt that leaves no room for the response: give more room, or leave such "
        "rows out"
    )


def question_of(prompt: str) -> str:
    """Return what the user asks in a prompt: the last user turn of a chat template, or all of it without one.

    The templates of Qwen (ChatML), Llama 3 and Gemma are known. Special tokens are left out.
    """
    for turn in _USER_TURNS:
        if turns := turn.findall(prompt):
            prompt = turns[-1]
    return _SPECIAL.sub("", prompt).strip()


def _end_of(prompt: str, query: str) -> int | None:
    """Return where `prompt` ends in `query`; None if `query` does not start with it."""
    end = 0
    for part in _PADS.split(prompt):
        if _PADS.match(part):  # the processor writes one for each patch of the picture
            while query.startswith(part, end):
                end += len(part)
        elif query.startswith(part, end):
            end += len(part)
        else:
            return None
    return end


def _without_end_token(text: str) -> str:
    while (text := text.rstrip()).endswith(PADDING):
        text = text[: text.rindex("<")]
    ending = next((token for token in END_TOKENS if text.endswith(token)), None)
    while ending and text.endswith(ending):  # a tokenizer without a padding token pads with this one
        text = text.removesuffix(ending)
    return text
