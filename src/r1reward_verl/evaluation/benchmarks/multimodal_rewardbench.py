"""Multimodal RewardBench.

Sources: github.com/facebookresearch/multimodal_rewardbench at b4b92cd, `scripts/0_download_data.py`,
`scripts/2_get_accuracy.py`, README; arXiv 2502.14191v1, the table of its sources.
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
    UnknownCategoryError,
    make_preference,
    required_text,
)
from r1reward_verl.text import excerpt

_CATEGORIES = {
    "open_generation/correctness_task": "correctness",
    "open_generation/preference_task": "preference",
    "knowledge": "knowledge",
    "reasoning": "",  # math or coding, which the ID tells
    "safety": "safety",
    "vqa": "VQA",
}
# The first five are printed in the paper. Safety and VQA follow: 1,706 are left of the 4,711 public cases, and of all
# 5,211 the eight overall figures in the README allow 993 to 1,020 for safety (here 1,008, 500 of them Hateful Memes).
_COUNTS = {
    "correctness": 623,
    "preference": 654,
    "knowledge": 630,
    "math": 514,
    "coding": 584,
    "safety": 508,
    "VQA": 1198,
}


def _read_row(row: Row) -> Iterator[Preference]:
    identity, given = required_text(row, "ID"), required_text(row, "Category")
    category = _CATEGORIES.get(given.lower())
    if category is None:
        raise UnknownCategoryError(f"Category is {given!r}, not one of {', '.join(_CATEGORIES)}")
    category = category or ("math" if identity.lower().startswith("math") else "coding")
    better = row.get("Better")
    if better not in ("Output1", "Output2"):
        raise ValueError(f"Better is {excerpt(better)}, neither Output1 nor Output2")
    if row.get("Text") in (None, ""):
        raise ValueError("no Text: the benchmark's scripts/0_download_data.py fills it in, where it gets the source")
    columns = {"chosen": better, "rejected": "Output2" if better == "Output1" else "Output1"}
    yield make_preference(row, category, **columns, question="Text", image="Image", id="ID")


def _export(case: Any, showings: Sequence[Showing]) -> Iterator[dict[str, Any]]:
    """Yield what `2_get_accuracy.py` reads, and with `rewards` the reference's script, a line a showing."""
    names = {ours: theirs for theirs, ours in _CATEGORIES.items()} | dict.fromkeys(("math", "coding"), "reasoning")
    about = {"ID": case.id, "Category": names[case.category]}
    for one in showings:
        yield {
            **about,
            "Label": "AB"[one.label - 1],
            "output": f"[[{'AB'[one.choice - 1]}]]" if one.choice else "",
            "rewards": [int(one.right), int(not one.right)],
            "Meta": about,
            "judgement": one.text,
        }


BENCHMARK = Benchmark(
    name="multimodal-rewardbench",
    categories=tuple(_COUNTS),
    forms=(("ID", "Category", "Image", "Output1", "Output2", "Better"),),
    read_row=_read_row,
    paper_overall="macro",
    export=_export,
    releases=(
        Release("the public cases, whose safety is bias (PAIRS) alone", 4711, _COUNTS),
        Release("with the cases from Hateful Memes, which are not public", 5211, {**_COUNTS, "safety": 1008}),
    ),
    doubtful={
        "visitbench": "questions that may not belong to their responses, says issue 8 of "
        "facebookresearch/multimodal_rewardbench"
    },
)
