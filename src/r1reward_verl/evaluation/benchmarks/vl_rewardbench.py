"""VL-RewardBench.

Sources: github.com/vl-rewardbench/VL_RewardBench at 9b10abd, `cal.py` and `inference_hf.py`; the card of Hugging Face
`MMInstruction/VL-RewardBench`; counted in `inference/VL-Reward-Bench/data.jsonl` of the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.readers import Row
from r1reward_verl.evaluation.benchmarks.base import (
    Benchmark,
    Release,
    Showing,
    id_prefix,
    make_preference,
    required_text,
)
from r1reward_verl.text import excerpt

_CATEGORIES = {
    "RLAIF": "hallucination",
    "RLHF": "hallucination",
    "hallucination": "hallucination",
    "mathverse": "reasoning",
    "mmmu": "reasoning",
}
"""Prefix of the id -> category; all others are general."""


def _reference_category(preference: Preference) -> str:
    identity = preference.id
    if "mmmu" in identity or "mathverse" in identity:
        return "reasoning"
    # In lower case, which no id but those with "hallucination" is: RLAIF-V and RLHF-V rows become general.
    return "hallucination" if any(word in identity for word in ("hallucination", "rlhf", "rlaif")) else "general"


def _read_row(row: Row) -> Iterator[Preference]:
    identity = required_text(row, "id")
    columns = {"question": "prompt", "chosen": "chosen", "rejected": "rejected"}
    if "query" in row:
        responses, ranking = row.get("response"), row.get("human_ranking")
        if ranking not in ([0, 1], [1, 0]):
            raise ValueError(f"human_ranking is {excerpt(ranking)}; [0, 1] (the first is better) or [1, 0] is needed")
        if not isinstance(responses, list) or len(responses) != 2:
            raise ValueError(f"response is {excerpt(responses)}; a list of two texts is needed")
        better, worse = responses if ranking == [0, 1] else reversed(responses)
        row = {**row, "better response": better, "worse response": worse}
        columns = {"question": "query", "chosen": "better response", "rejected": "worse response"}
    category = _CATEGORIES.get(id_prefix(identity), "general")
    yield make_preference(row, category, **columns, image="image", id="id")


def _export(case: Any, showings: Sequence[Showing]) -> Iterator[dict[str, Any]]:
    """Yield what `cal.py` reads, which takes the verdict from a sentence in `filter_choice`."""
    for one in showings:
        status = "doesntMatch" if one.choice is None else "agree" if one.right else "reject"
        meta = {
            "random_number": one.label - 1,
            "filter_choice": f"Overall Judgment: Answer {one.choice} is better." if one.choice else "",
            "filter_number": one.choice or -1,
            "flag_status": status,
        }
        responses = [case.chosen, case.rejected]
        about = {"id": case.id, "query": case.question, "response": responses, "ranking": [0, 1]}
        yield {**about, "meta": meta, "judgement": one.text}


BENCHMARK = Benchmark(
    name="vl-rewardbench",
    categories=("general", "hallucination", "reasoning"),
    forms=(
        ("id", "prompt", "chosen", "rejected", "image"),
        ("id", "query", "response", "image", "human_ranking"),
    ),
    read_row=_read_row,
    reference_category=_reference_category,
    export=_export,
    releases=(
        Release(
            "the release before 2025-05-13, with its old labels (the file of the reference)",
            1250,
            {"general": 183, "hallucination": 749, "reasoning": 318},
        ),
        Release("the release since 2025-05-13, with corrected labels", 1247, ids=1247),
    ),
    prefixes=(*_CATEGORIES, "wildvision", "jailbreak", "LRVInstruction", "politics", "svit"),
)
