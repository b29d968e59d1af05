"""How many judgements of 2 kB one core parses and scores in a minute; the target is 200,000 parsed."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import r1reward_verl
from r1reward_verl.judgement import parse
from r1reward_verl.rewards import combine, conclusion, format_reward, result_reward

TARGET = 200_000
RESULTS = Path(__file__).parent / "results" / "parser.json"
LINE = "Response 1 names the green circle on the left, response 2 only says that there is a shape.\n"
JUDGEMENTS = {
    "well-formed": "<think>" + LINE * 21 + "So response 1 is better.</think><answer>1</answer>",
    "truncated": "<think>" + LINE * 22,
    "no tags": LINE * 22,
    "nested tags": "<think>" * 280 + "So response 1 is better.</think><answer>1</answer>",
}


def score(text: str) -> float:
    """Do what the reward manager does per sample with the rules judge, without decoding."""
    verdict = parse(text)
    result = result_reward(verdict, 1)
    consistency = (1 if conclusion(verdict.think) == verdict.choice else -1) if result else 0
    return combine(result, consistency, format_reward(verdict))


def per_minute(function: Callable[[str], object], text: str, repeats: int = 5, calls: int = 2000) -> float:
    """Return calls per minute of one thread: the median of `repeats` runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            function(text)
        seconds.append(time.perf_counter() - start)
    return 60 * calls / sorted(seconds)[repeats // 2]


def main() -> int:
    """Measure, print the table, write the results file; 1 if the target is missed."""
    figures = {
        name: {
            "bytes": len(text),
            "parsed_per_minute": round(per_minute(parse, text)),
            "scored_per_minute": round(per_minute(score, text)),
        }
        for name, text in JUDGEMENTS.items()
    }
    slowest = min(figure["parsed_per_minute"] for figure in figures.values())
    print(f"{'judgement':<14}{'bytes':>7}{'parsed/min':>14}{'scored/min':>14}")
    for name, figure in figures.items():
        print(
            f"{name:<14}{figure['bytes']:>7}{figure['parsed_per_minute']:>14,}{figure['scored_per_minute']:>14,}"
        )
    print(f"slowest is {slowest / TARGET:.1f} times the target of {TARGET:,} parsed per minute")
    result = {
        "figures": figures,
        "ratios": {"slowest_over_target": round(slowest / TARGET, 2)},
        "versions": {"python": platform.python_version(), "r1reward-verl": r1reward_verl.__version__},
        "cores": os.cpu_count(),
        "command": "python benchmarks/bench_parser.py",
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if slowest >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
