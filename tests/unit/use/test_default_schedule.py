"""The default schedule keeps most of what all pairs in both orders say, in a short form of the benchmark."""

import asyncio
import importlib
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    return importlib.import_module("bench_schedules")


@pytest.mark.parametrize(
    ("n", "accuracy", "bias"), [(8, 0.78, 0.15), (8, 0.9, 0.0), (16, 0.72, 0.0), (16, 0.78, 0.3), (16, 0.9, 0.0)]
)
def test_the_default_keeps_90_percent_of_the_correlation_at_half_the_comparisons(bench, n, accuracy, bias):
    figure, error = asyncio.run(bench.claim(n, bench.Judge(accuracy, bias), groups=200))
    assert error < 0.012
    assert figure.met


def test_simulated_judges_are_as_accurate_and_as_biased_as_they_say(bench):
    judge = bench.Judge(0.8, bias=0.2, shared=0.5)
    tau = asyncio.run(bench.simulate(2, bench.Contender("all_pairs", bench.win_rates), judge, groups=4000)).tau()
    assert (1 + tau) / 2 == pytest.approx(0.8, abs=0.02)
    error, shift = bench.calibrate(0.8, 0.2)
    rng = np.random.default_rng(0)
    first = rng.normal(size=100_000) - rng.normal(size=100_000) + error * rng.normal(size=100_000) + shift > 0
    assert first.mean() - (1 - first.mean()) == pytest.approx(0.2, abs=0.02)
