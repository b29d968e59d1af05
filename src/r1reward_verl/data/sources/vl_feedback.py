"""VL-Feedback: ratings of several responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import (
    Row,
    Skipped,
    make_pair,
    read_number,
    read_picture,
    read_text,
    required,
)
from r1reward_verl.text import excerpt


@dataclass(frozen=True)
class VLFeedback:
    """VL-Feedback (Hugging Face `MMInstruction/VLFeedback`), parquet or the older `vlfeedback_80k.jsonl`.

    Fields, of the card [card] and of github.com/vlf-silkie/VLFeedback at de0bff3, `run_dpo.py` [code]: `id`, `prompt`,
    `completions` (`response`, `annotations` with the three `_ASPECTS`, each with a `Rating` that is a text), and
    `img_path` (jsonl [card]) or `image` (parquet; TideDra/VL-RLHF at a0ea386, `src/vlrlhf/utils/data.py` [report]).

    As in the authors' code a response is worth the mean of its three ratings, and each pair of responses with
    different means is a preference; a response without three numbers is in no pair. The category is the id up to its
    first hyphen.

    Unconfirmed: which texts stand for no rating, and whether `completions` is a list of structs in the jsonl (both
    forms are read).

    Attributes:
        margin: least difference of the means, from 0 (any difference) to 4.
    """

    margin: float = 0.0
    name: ClassVar[str] = "vl-feedback"

    def __post_init__(self) -> None:
        if not isinstance(self.margin, int | float) or not 0 <= self.margin <= 4:
            raise ValueError(f"margin is {excerpt(self.margin)}; ratings from 1 to 5 differ by 0 to 4")

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the pairs of responses whose ratings differ enough, the better one first."""
        prompt, name = read_text(row, "prompt"), read_text(row, "id")
        images = (read_picture(row, "image" if row.get("image") is not None else "img_path"),)
        rated: list[tuple[str, float]] = []
        unrated = []
        for index, (response, aspects) in enumerate(_completions(required(row, "completions")), 1):
            try:
                if not isinstance(response, str) or not response.strip():
                    raise ValueError(f"its text is {excerpt(response)}")
                ratings = [read_number(aspect, aspects[aspect]["Rating"]) for aspect in _ASPECTS]
            except (KeyError, TypeError):
                unrated.append(f"response {index} lacks a rating: {excerpt(aspects)}")
            except ValueError as error:
                unrated.append(f"response {index}: {error}")
            else:
                rated.append((response, sum(ratings) / len(ratings)))
        pairs = [
            (one[0], other[0]) if one[1] > other[1] else (other[0], one[0])
            for one, other in combinations(rated, 2)
            if one[0] != other[0] and one[1] != other[1] and abs(one[1] - other[1]) >= self.margin
        ]
        category = name.partition("-")[0]
        yield from [make_pair(self.name, name, (prompt, *pair), images, category=category) for pair in pairs]
        if unrated:
            raise Skipped(f"no pairs with some responses: {'; '.join(unrated)}")
        if not pairs:
            raise Skipped(f"no two ratings differ by more than 0 and at least {self.margin}: {[r for _, r in rated]}")


_ASPECTS = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")


def _completions(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield response and annotations, from a list of structs or a struct of lists."""
    try:
        if isinstance(value, Mapping):
            yield from zip(value["response"], value["annotations"], strict=True)
        else:
            yield from [(item["response"], item["annotations"]) for item in value]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"completions is {excerpt(value)}; response and annotations of each are needed") from None
