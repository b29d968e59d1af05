"""Data sets of conversations with a better and a worse answer: TRL, LLaMA-Factory, ms-swift, HH-RLHF.

Several turns become part of the question, a system message before them. `source` is the category, where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import (
    Row,
    Turns,
    compared_turns,
    read_media_parts,
    read_text,
    read_turns,
    required,
)
from r1reward_verl.text import excerpt

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


class TRL:
    """Preferences in the conversational form of huggingface/trl, whatever data set they are of.

    Fields, of TRL's documentation `dataset_formats` [report]: `chosen` and `rejected`, lists of `role` and `content`,
    or texts; `prompt`, a list of messages or a text, which is not read if the two lists are whole conversations
    (Hugging Face `Skywork/Skywork-Reward-Preference-80K-v0.2`, `HuggingFaceH4/ultrafeedback_binarized` [report]);
    `images` or `image`. A `content` may be a list of parts `{"type": "text", "text": ...}` and `{"type": "image"}`,
    the latter with the picture or without.
    """

    name = "trl"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the chosen response first."""
        prompt = _messages("prompt", row["prompt"], "user") if row.get("prompt") else []
        chosen, rejected = (_messages(name, required(row, name), "assistant") for name in ("chosen", "rejected"))
        if all(messages and messages[0].get("role") == "assistant" for messages in (chosen, rejected)):
            chosen, rejected = prompt + chosen, prompt + rejected
        # The pictures of both conversations are the same ones.
        images = read_media_parts(chosen)
        yield compared_turns(self.name, row, read_turns("chosen", chosen), read_turns("rejected", rejected), images)


def _messages(name: str, value: Any, role: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{name} is {excerpt(value)}; a list of messages is needed")
    return value


class ShareGPT:
    """Preferences in the ShareGPT form of LLaMA-Factory, whatever data set they are of.

    Fields, of github.com/hiyouga/LLaMA-Factory at 015ff25, `data/README.md` [code]: `conversations`, a list of `from`
    (`human`, `gpt`) and `value` that ends with `human`, or `messages` with `role` and `content`; `chosen` and
    `rejected`, one message each; `system` and `images` if there are any, `videos` likewise [inferred]. Turns of tools
    are refused.
    """

    name = "sharegpt"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the chosen response first."""
        where = "conversations" if "messages" not in row else "messages"
        history = required(row, where)
        if not isinstance(history, list):
            raise ValueError(f"{where} is {excerpt(history)}; a list of messages is needed")
        if row.get("system"):
            history = [{"from": "system", "value": row["system"]}, *history]
        chosen, rejected = (
            read_turns(f"{where} with {name}", [*history, required(row, name)]) for name in ("chosen", "rejected")
        )
        yield compared_turns(self.name, row, chosen, rejected, read_media_parts(history))


class MsSwift:
    """Preferences in the forms of modelscope/ms-swift, whatever data set they are of.

    Fields, of its documentation `Customization/Custom-dataset` [code]: `messages`, a list of `role` and `content` that
    ends with the chosen answer, or `query`, `response`, `history` (pairs of texts) and `system`; `rejected_response`,
    a text, or `rejected_messages`, a list as `messages`; `images`, `videos`. Other pictures for the rejected answer
    (`rejected_images`) are refused.
    """

    name = "ms-swift"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the chosen response first."""
        messages = _of_query(row) if "query" in row and not row.get("messages") else required(row, "messages")
        chosen = read_turns("messages", messages)
        if row.get("rejected_images") not in (None, [], row.get("images")):
            raise ValueError(f"rejected_images is {excerpt(row['rejected_images'])}, and images others")
        if row.get("rejected_messages"):
            rejected = read_turns("rejected_messages", row["rejected_messages"])
        else:
            rejected = [*chosen[:-1], ("assistant", read_text(row, "rejected_response"))]
        yield compared_turns(self.name, row, chosen, rejected, read_media_parts(messages))


def _of_query(row: Row) -> list[dict[str, Any]]:
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise ValueError(f"history is {excerpt(history)}; pairs of question and answer are needed")
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    pairs = [*history, (required(row, "query"), required(row, "response"))]
    return system + [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


class HHRLHF:
    """Anthropic's HH-RLHF (Hugging Face `Anthropic/hh-rlhf`), jsonl or parquet; text only.

    Fields, as many projects read them [report]: `chosen` and `rejected`, texts of `\\n\\nHuman: ` and
    `\\n\\nAssistant: ` by turns, which end with the answer. Dialogues that differ before it are skipped.
    """

    name = "hh-rlhf"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the chosen response first."""
        yield compared_turns(self.name, row, _dialogue(row, "chosen"), _dialogue(row, "rejected"))


def _dialogue(row: Row, name: str) -> Turns:
    text = read_text(row, name)
    before, *pieces = _SPEAKER.split("\n\n" + text.lstrip())
    speakers, texts = pieces[::2], pieces[1::2]
    if before.strip() or not speakers or speakers != ["Human", "Assistant"] * (len(speakers) // 2):
        raise ValueError(f"{name} is {excerpt(text)}; Human and Assistant by turns, up to an answer, are needed")
    return list(zip(("user", "assistant") * len(speakers), map(str.strip, texts), strict=False))
