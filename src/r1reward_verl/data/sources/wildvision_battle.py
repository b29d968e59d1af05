"""WildVision-Battle: votes of visitors."""

from __future__ import annotations

from collections.abc import Iterator

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import (
    Row,
    Skipped,
    compare_last_answers,
    make_pair,
    read_picture,
    read_text,
    read_turns,
    required,
)
from r1reward_verl.judgement import Choice
from r1reward_verl.text import excerpt


class WildVisionBattle:
    """WildVision-Battle (Hugging Face `WildVision/wildvision-battle`), parquet.

    Fields, of the card of the same team's `WildVision/wildvision-internal-data`, configuration `battle` [card], and of
    github.com/WildVision-AI/WildVision-Arena at 364d739, `arena/serve/monitor/clean_battle_data.py`,
    `scripts/upload_precompute_hf.py` [code]: `question_id` (repeats: several votes), `conversation_a`,
    `conversation_b` (lists of `role` and `content`), `winner` (`model_a`, `model_b`, `tie`, `tie (bothbad)`), `anony`,
    `image`, in some configurations `domain` (the category here).

    Skipped: ties, votes of people who could see which model was which, and several turns, unless the models had
    answered alike up to the last. Votes by machine (`judge` gpt4v) count like those of people.

    Unconfirmed: all of it for the released file itself, whose own card names no columns.
    """

    name = "wildvision-battle"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, model a's response first."""
        winner = required(row, "winner")
        if winner in ("tie", "tie (bothbad)"):
            raise Skipped(f"a tie (winner is {winner!r})")
        if winner not in ("model_a", "model_b"):
            raise ValueError(f"winner is {excerpt(winner)}, not model_a, model_b, tie or tie (bothbad)")
        if row.get("anony") is False:
            raise Skipped("the voter could see the models' names (anony is False)")
        turns = (read_turns(name, required(row, name)) for name in ("conversation_a", "conversation_b"))
        texts, images = compare_last_answers(*turns), (read_picture(row, "image"),)
        label: Choice = 1 if winner == "model_a" else 2
        base, category = read_text(row, "question_id"), row.get("domain")
        yield make_pair(self.name, base, texts, images, category=category, label=label)
