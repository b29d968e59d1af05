"""MM-RLHF-RewardBench.

Sources: github.com/Kwai-YuanQi/MM-RLHF at 7c8af1d, `llava/eval/cal_performance_mmreweard_bench.py` and
`llava/eval/eval_mm_reward_bench.py`; counted in `inference/MM-RLHF-Reward/mm_reward_bench.jsonl` of the reference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

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

_COUNTS = {"mcq": 42, "long": 37, "short": 34, "safety": 32, "video": 25}


def _read_row(row: Row) -> Iterator[Preference]:
    required_text(row, "id")
    # In parquet each row has both columns.
    filled = [name for name in ("image", "video") if row.get(name) not in (None, "", [])]
    if len(filled) != 1:
        raise ValueError(
            f"image is {excerpt(row.get('image'))}, video is {excerpt(row.get('video'))}: one of them is needed"
        )
    (name,) = filled
    columns = {"question": "prompt", "chosen": "chosen", "rejected": "rejected", "id": "id", name: name}
    preference = make_preference(row, "-", **columns)
    path = (preference.images or preference.video or ())[0].path
    if path is None:
        raise ValueError(f"{name} has no path, which is what tells the category")
    # Folders only, the nearest first: the words may also stand in the path to the data, or in a file's name.
    folders = [folder for folder in path.split("/")[-2::-1] if folder in _COUNTS]
    if name != "video" and not folders:
        raise UnknownCategoryError(
            f"{name} {excerpt(path)} is of no category; a folder of its path called {', '.join(_COUNTS)} is needed"
        )
    category = name if name == "video" else folders[0]
    yield replace(preference, category=category)


def _reference_category(preference: Preference) -> str:
    """Return the first of the words anywhere in the path, where the reference looks for them."""
    path = (preference.images or preference.video or ())[0].path or ""
    return next((word for word in _COUNTS if word in path), preference.category)


def _export(case: Any, showings: Sequence[Showing]) -> Iterator[dict[str, Any]]:
    """Yield what both `cal_performance_mmreweard_bench.py` and the reference's `get_acc.py` read, a line a showing."""
    category = case.reference_category or case.category
    media = ["picture"] if case.media in ("inline", []) else case.media
    about = {"id": case.id, "prompt": case.question, "chosen": case.chosen, "rejected": case.rejected}
    about["video" if category == "video" else "image"] = f"{category}/{os.path.basename(media[0])}"
    for one in showings:
        yield {**about, "rewards": [int(one.right), int(not one.right)], "critic": one.text}


BENCHMARK = Benchmark(
    name="mm-rlhf-rewardbench",
    categories=tuple(_COUNTS),
    forms=tuple(("id", "prompt", "chosen", "rejected", name) for name in ("image", "video")),
    read_row=_read_row,
    reference_category=_reference_category,
    export=_export,
    acc_plus=True,
    reference_digits="first_line",
    releases=(Release("the file of the reference", 170, _COUNTS, ids=46),),
)
