"""Any file that `r1reward data` writes, as a benchmark with the categories of the file."""

from __future__ import annotations

from r1reward_verl.data.preference import Preference
from r1reward_verl.evaluation.benchmarks.base import Benchmark

BENCHMARK = Benchmark(name="preferences", categories=(), forms=(Preference.__struct_fields__,))
