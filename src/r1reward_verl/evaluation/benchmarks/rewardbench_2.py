"""RewardBench 2: one response against several; text only.

Sources: github.com/allenai/reward-bench at 05a9005, `rewardbench/utils.py` (`load_eval_dataset_multi`,
`process_single_model`), `scripts/run_generative_v2.py`. The data itself (Hugging Face `allenai/reward-bench-2`) was not
seen; others who used it report its counts, its four responses a row, and 11 to 38 of them, 1 to 26 right, in Ties.

A row becomes one case for each pair of a right and a wrong response, and `acc_plus` is the share of rows all of whose
pairs are right: a right response has to win against every wrong one. The benchmark's own accuracy is this for a model
that scores each response; its generative judges see the four at once, and an answer that cannot be read counts 1/4
there, nothing here. Its score of Ties weighs in margins between ratings, which a judge of pairs does not give.
"""

from __future__ import annotations

from collections.abc import Iterator

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.readers import Row
from r1reward_verl.evaluation.benchmarks.base import Benchmark, UnknownCategoryError, make_preference, required_text
from r1reward_verl.text import excerpt

_SUBSETS = ("Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties")


def _read_row(row: Row) -> Iterator[Preference]:
    subset = required_text(row, "subset")
    if subset not in _SUBSETS:
        raise UnknownCategoryError(f"subset is {subset!r}, not one of {', '.join(_SUBSETS)}")
    better, worse = (_responses(row, name) for name in ("chosen", "rejected"))
    columns = {"question": "prompt", "chosen": "better response", "rejected": "worse response", "id": "id"}
    for right in better:
        for wrong in worse:
            pair = {**row, "better response": right, "worse response": wrong}
            yield make_preference(pair, subset, **columns)


def _responses(row: Row, name: str) -> list[str]:
    value = row.get(name)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is {excerpt(value)}; a list of texts is needed")
    return value


BENCHMARK = Benchmark(
    name="rewardbench-2",
    categories=_SUBSETS,
    forms=(("id", "prompt", "chosen", "rejected", "subset"),),
    read_row=_read_row,
    several=True,
    acc_plus=True,
)
