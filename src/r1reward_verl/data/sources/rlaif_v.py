"""RLAIF-V."""

from __future__ import annotations

from collections.abc import Iterator

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import UNKNOWN, Row, pair_id, read_picture, read_text, required


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
        question, chosen, rejected = (read_text(row, name) for name in ("question", "chosen", "rejected"))
        yield Preference(
            id=pair_id(str(required(row, "idx")), question, chosen, rejected),
            source=self.name,
            category=row.get("origin_dataset") or UNKNOWN,
            question=question,
            response_1=chosen,
            response_2=rejected,
            label=1,
            images=(read_picture(row, "image"),),
        )
