"""What the paper reports for the three benchmarks, typed once: R1-Reward, arXiv 2505.02835, accuracy in percent.

Nothing of it was run here. The paper's evaluation code shows the better response first in every case, tells the
categories of VL-RewardBench in a way of its own, and reads a verdict from the last digit where there is no answer tag:
beside the rows that it measured belongs a run's reference protocol. Not every row is one of those. The overall figure
of VL-RewardBench tells them apart, since the two ways to divide the cases give each category another weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "R1-Reward, arXiv 2505.02835"


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    columns: tuple[str, ...]  # its columns, in its order; those that `figures` does not name are categories
    figures: Mapping[str, str]  # column -> the figure of `metrics.compute_metrics` it is
    # model -> accuracy in percent, one a column; None where the paper has none
    rows: Mapping[str, tuple[float | None, ...]]
    note: str = ""  # which rows are not the paper's own measurements, as far as the figures tell


PUBLISHED: dict[str, Table] = {
    "vl-rewardbench": Table(
        ("general", "hallucination", "reasoning", "overall", "macro"),
        {"overall": "accuracy", "macro": "macro"},
        {
            "R1-Reward": (63.84, 85.71, 64.78, 71.92, 71.44),
            "R1-Reward, voting@15": (66.32, 89.06, 73.70, 76.46, 76.36),
            "R1-Reward, no advantage filter": (None, None, None, 68.96, None),
            "R1-Reward, no pre-clip": (None, None, None, 67.36, None),
            "R1-Reward, SFT only": (None, None, None, 64.80, None),
            "IXC-2.5-Reward": (84.70, 62.50, 62.90, 65.80, 70.00),
            "MM-RLHF-Reward": (45.04, 50.45, 57.55, 50.15, 51.01),
            "Claude-3.7": (68.08, 70.70, 60.81, 66.31, 66.53),
            "GPT-4o": (49.10, 67.60, 70.50, 65.80, 62.40),
        },
        "GPT-4o and IXC-2.5-Reward were measured otherwise: their overall figures follow from the benchmark's own "
        "categories (65.63 and 65.85), not from those of the paper's code. Claude-3.7's follows from neither.",
    ),
    "multimodal-rewardbench": Table(
        ("overall", "correctness", "preference", "knowledge", "math", "coding", "safety", "VQA"),
        {"overall": "macro"},  # the paper's overall is the unweighted mean of the seven columns
        {
            "R1-Reward": (82.2, 77.5, 74.0, 74.9, 83.1, 79.6, 99.6, 86.5),
            "R1-Reward, voting@15": (83.3, 78.0, 77.2, 74.6, 81.3, 85.8, 99.4, 87.0),
            "GPT-4o": (70.8, 62.6, 69.0, 72.0, 67.6, 62.1, 74.8, 87.2),
        },
    ),
    "mm-rlhf-rewardbench": Table(
        ("mcq", "long", "short", "safety", "video", "acc", "acc+"),
        {"acc": "accuracy", "acc+": "acc_plus"},
        {
            "R1-Reward": (80.95, 89.19, 82.35, 75.00, 72.00, 80.59, 54.35),
            "R1-Reward, voting@15": (83.33, 97.30, 91.18, 78.12, 80.00, 86.47, 67.39),
        },
    ),
}
"""Benchmark -> the paper's table."""
