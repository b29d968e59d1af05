"""The evaluation benchmarks, one module each: the forms of its file, its categories, their counts, how it averages.

A new benchmark is a module here that holds a `BENCHMARK`, and a line in the list below. What differs between a
benchmark's own rules and those of the reference (github.com/yfzhang114/r1_reward at 3693413, `get_acc.py` and
`1_get_accuracy.py` below `inference`) stands in `docs/reference/benchmarks.md`.
"""

from r1reward_verl.evaluation.benchmarks import (
    judgebench,
    mm_rlhf_rewardbench,
    multimodal_rewardbench,
    preferences,
    rewardbench_2,
    videorewardbench,
    vl_rewardbench,
)
from r1reward_verl.evaluation.benchmarks.base import FRAMES, Benchmark, Case, Release, Showing, missing

__all__ = ["BENCHMARKS", "FRAMES", "Benchmark", "Case", "Release", "Showing", "missing"]

BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (
        *(vl_rewardbench, mm_rlhf_rewardbench, multimodal_rewardbench),
        *(videorewardbench, rewardbench_2, judgebench, preferences),
    )
}
"""The benchmarks by the name that `r1reward eval run` takes."""
