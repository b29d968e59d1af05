"""A benchmark's file as a source of preferences, for those who train on one."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import Row, pair_id
from r1reward_verl.evaluation.benchmarks.base import Benchmark, UnknownCategoryError


class BenchmarkSource:
    """The pairs of a benchmark. Its figures say nothing about a model that was trained on them.

    Args:
        benchmark: one whose file has a form of its own.
    """

    def __init__(self, benchmark: Benchmark) -> None:
        self.name = benchmark.name
        self._read_row = benchmark.read_row

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pairs, the better response first; ids repeat in benchmarks, so the texts are part of them."""
        assert self._read_row is not None
        try:
            for one in self._read_row(row):
                identity = pair_id(one.id, one.question, one.response_1, one.response_2)
                yield replace(one, id=identity, source=self.name)
        except UnknownCategoryError as error:
            raise ValueError(str(error)) from None
