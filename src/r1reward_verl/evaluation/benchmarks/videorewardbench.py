"""VideoRewardBench: pairs of responses to a question about a video.

Source: arXiv 2509.00484 for the five kinds and their counts. Neither the data (Hugging Face
`Dragonriser/VideoRewardBench`) nor code that reads it was seen: the names of the columns, and how a category is
written, are guesses. A file with other columns is refused with both lists of names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.readers import Row
from r1reward_verl.evaluation.benchmarks.base import (
    Benchmark,
    Release,
    UnknownCategoryError,
    make_preference,
    required_text,
)

_COUNTS = {"long-form perception": 283, "short-form perception": 413, "knowledge": 238, "reasoning": 278, "safety": 351}


def _read_row(row: Row) -> Iterator[Preference]:
    given = required_text(row, "category")
    words = set(re.findall("[a-z]+", given.lower()))
    categories = [name for name in _COUNTS if name.partition("-")[0] in words]
    if len(categories) != 1:
        raise UnknownCategoryError(f"category is {given!r}, not one of {', '.join(_COUNTS)}")
    columns = {field: next(name for name in names if name in row) for field, names in _NAMES.items()}
    if "id" in row:
        columns["id"] = "id"
    yield make_preference(row, categories[0], chosen="chosen", rejected="rejected", **columns)


_NAMES = {"question": ("prompt", "question"), "video": ("video", "video_path")}

BENCHMARK = Benchmark(
    name="videorewardbench",
    categories=tuple(_COUNTS),
    forms=tuple(
        ("category", question, "chosen", "rejected", video)
        for question in _NAMES["question"]
        for video in _NAMES["video"]
    ),
    read_row=_read_row,
    releases=(Release("the paper's", 1563, _COUNTS),),
)
