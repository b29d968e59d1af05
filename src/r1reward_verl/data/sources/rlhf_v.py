"""RLHF-V: answers that people corrected."""

from __future__ import annotations

import json
from collections.abc import Iterator

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import UNKNOWN, Row, pair_id, read_picture, read_text, required, without_markers
from r1reward_verl.text import excerpt


class RLHFV:
    """RLHF-V (Hugging Face `openbmb/RLHF-V-Dataset`, formerly `HaoyeZhang/RLHF-V-Dataset`), parquet.

    Fields, of projects that read it [report]: `text`, the JSON text of `question`, `chosen` and `rejected`; `image`
    (struct of bytes and path), `origin_dataset` (the category here). `idx` is read if it is there.
    """

    name = "rlhf-v"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the corrected response first."""
        given = required(row, "text")
        try:
            texts = json.loads(given) if isinstance(given, str) else given
        except (ValueError, RecursionError):
            texts = None
        if not isinstance(texts, dict):
            raise ValueError(f"text is {excerpt(given)}; the JSON of question, chosen and rejected is needed")
        question, chosen, rejected = (read_text(texts, name) for name in ("question", "chosen", "rejected"))
        yield Preference(
            id=pair_id(str(row.get("idx", self.name)), question, chosen, rejected),
            source=self.name,
            category=row.get("origin_dataset") or UNKNOWN,
            question=without_markers(question),
            response_1=chosen,
            response_2=rejected,
            label=1,
            images=(read_picture(row, "image"),),
        )
