"""POVID: responses with invented objects."""

from __future__ import annotations

from collections.abc import Iterator

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import (
    Row,
    compare_last_answers,
    make_pair,
    read_picture,
    read_text,
    read_turns,
    required,
)


class POVID:
    """POVID (Hugging Face `YiyangAiLab/POVID_preference_data_for_VLLMs`), one JSON list.

    Fields, of github.com/YiyangZhou/POVID at 92c7c67, README and `llava/train/train_dpo.py` [code]: `id`, `image`
    (`./data/coco/<name>.jpg`; the pictures are COCO's and not part of it), `conversations` and
    `rejected_conversations`, lists of `from` (`human`, `gpt`) and `value`, with `<image>` in the question.

    Its rejected responses have invented objects written into them, so the category is "hallucination".

    Unconfirmed: whether ids are unique, and whether any conversation has several turns.
    """

    name = "povid"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the preferred response first."""
        turns = (read_turns(name, required(row, name)) for name in ("conversations", "rejected_conversations"))
        texts, images = compare_last_answers(*turns), (read_picture(row, "image"),)
        yield make_pair(self.name, read_text(row, "id"), texts, images, category="hallucination")
