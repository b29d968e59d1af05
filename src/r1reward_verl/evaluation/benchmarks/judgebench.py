"""JudgeBench: pairs of answers to hard questions, one right and one wrong; text only.

Source: github.com/ScalerLab/JudgeBench at e2c52c2, `README.md`, `run_judge.py`, `utils/metrics.py`; counted in the two
files below its `data`. The card says that Hugging Face `ScalerLab/JudgeBench` has the same columns; that was not seen.
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
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}
"""Beginning of the source, by which the script divides -> the paper's name for it."""

_GPT = {"knowledge": 154, "reasoning": 98, "math": 56, "coding": 42}
_CLAUDE = {"knowledge": 154, "reasoning": 51, "math": 34, "coding": 31}


def _read_row(row: Row) -> Iterator[Preference]:
    source, label = required_text(row, "source"), row.get("label")
    categories = [name for beginning, name in _CATEGORIES.items() if source.startswith(beginning)]
    if not categories:
        raise UnknownCategoryError(f"source is {source!r}, which begins with none of {', '.join(_CATEGORIES)}")
    if label not in ("A>B", "B>A"):
        raise ValueError(f"label is {excerpt(label)}, neither A>B nor B>A")
    better, _, worse = label.partition(">")
    columns = {"chosen": f"response_{better}", "rejected": f"response_{worse}"}
    yield make_preference(row, categories[0], **columns, question="question", id="pair_id")


def _export(case: Any, showings: Sequence[Showing]) -> Iterator[dict[str, Any]]:
    """Yield what `run_judge.py` writes and scores; with one order alone it must be called with `--single_game`."""
    better, worse = "AB" if showings[0].label == 1 else "BA"
    decisions = {1: "A>B", 2: "B>A", None: None}
    yield {
        "pair_id": case.id,
        "source": next(source for source, name in _CATEGORIES.items() if name == case.category),
        "question": case.question,
        f"response_{better}": case.chosen,
        f"response_{worse}": case.rejected,
        "label": f"{better}>{worse}",
        "judge_name": "r1reward",
        "judgments": [{"judgment": {"response": one.text}, "decision": decisions[one.choice]} for one in showings],
    }


BENCHMARK = Benchmark(
    name="judgebench",
    categories=tuple(_GPT),
    forms=(("pair_id", "source", "question", "response_A", "response_B", "label"),),
    read_row=_read_row,
    export=_export,
    releases=(
        Release("the pairs of gpt-4o-2024-05-13", 350, _GPT),
        Release("the pairs of claude-3-5-sonnet-20240620", 270, _CLAUDE),
    ),
)
