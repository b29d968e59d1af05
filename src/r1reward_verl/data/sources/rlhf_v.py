"""RLHF-V, answers that people corrected, and RLAIF-V of the same team."""

from __future__ import annotations

import json
from collections.abc import Iterator

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import Row, make_pair, read_picture, read_text, required
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
            fields = json.loads(given) if isinstance(given, str) else given
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise ValueError(f"text is {excerpt(given)}; the JSON of question, chosen and rejected is needed")
        texts = [read_text(fields, name) for name in ("question", "chosen", "rejected")]
        images, base = (read_picture(row, "image"),), str(row.get("idx", self.name))
        category = row.get("origin_dataset")
        yield make_pair(self.name, base, texts, images, category=category)


class RLAIFV:
    """RLAIF-V (Hugging Face `openbmb/RLAIF-V-Dataset`), parquet.

    Fields, of the card [card] and of github.com/RLHF-V/RLAIF-V at 83d917b, `muffin/data/datasets.py`,
    `muffin/eval/muffin_inference_logp.py` [code]: `question`, `chosen`, `rejected`, `image` (struct of bytes and path),
    `idx`, `origin_dataset` (the category here).

    Unconfirmed: whether `idx` is unique over all shards.
    """

    name = "rlaif-v"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the chosen response first."""
        texts = [read_text(row, name) for name in ("question", "chosen", "rejected")]
        images, base = (read_picture(row, "image"),), str(required(row, "idx"))
        category = row.get("origin_dataset")
        yield make_pair(self.name, base, texts, images, category=category)
