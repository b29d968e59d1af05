"""HH-RLHF: dialogues in one text, helpful and harmless."""

from __future__ import annotations

import re
from collections.abc import Iterator

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import Row, Turns, compared_turns, read_text
from r1reward_verl.text import excerpt

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


class HHRLHF:
    """Anthropic's HH-RLHF (Hugging Face `Anthropic/hh-rlhf`), jsonl or parquet; text only.

    Fields, as many projects read them [report]: `chosen` and `rejected`, texts of `\\n\\nHuman: ` and
    `\\n\\nAssistant: ` by turns, which end with the answer. Dialogues that differ before it are skipped.
    """

    name = "hh-rlhf"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the chosen response first."""
        yield compared_turns(self.name, row, *(_turns(name, read_text(row, name)) for name in ("chosen", "rejected")))


def _turns(name: str, text: str) -> Turns:
    before, *pieces = _SPEAKER.split("\n\n" + text.lstrip())
    turns = [
        ("user" if who == "Human" else "assistant", said.strip())
        for who, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    if before.strip() or not turns or [who for who, _ in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(f"{name} is {excerpt(text)}; Human and Assistant by turns are needed, up to an answer")
    return turns
