"""The figures of a run folder, computed without the data and the model, and what they suggest to do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from r1reward_verl.evaluation.benchmarks import BENCHMARKS
from r1reward_verl.evaluation.bootstrap import RESAMPLES
from r1reward_verl.evaluation.folder import SavedRun, read_run
from r1reward_verl.evaluation.metrics import compute_metrics, reference_metrics
from r1reward_verl.evaluation.reading import OF_WORDS, Reading
from r1reward_verl.evaluation.verdicts import FAILED, load_run

_WORTH_A_HINT = 0.01
FAULTS = {
    "truncated": "they end in the middle; raise --max-tokens",
    "no_tags": "the model writes none of the tags; --prompt-template gives it the prompt that it was trained with",
    "text_outside": "there is text outside the two blocks, as a line break between them",
    "missing_tag": "a tag is missing",
    "several_thinks": "a tag stands there more than once",
    "several_answers": "the answer stands there more than once",
    "wrong_order": "the blocks stand in another order",
    "answer_not_1_or_2": "the answer is neither 1 nor 2",
}
"""Way in which a judgement can break the contract -> what that is."""
_READ_LENIENTLY = ("text_outside", "missing_tag", "several_thinks", "several_answers", "wrong_order", "no_tags")


def score_run(
    folder: str | os.PathLike[str],
    *,
    reading: Reading | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Return the figures of a run, finished or not; None if nothing was judged.

    Args:
        folder: of `r1reward eval run`.
        reading: of the judgements; None: as the run itself does.
        resamples: of the intervals.
        seed: of the resampling.

    Returns:
        What `compute_metrics` returns, and `judgements`, the number of all; `cut_off`, the share of them that the
        limit of tokens ended; `unparsable_reasons`, how many of them break the contract in which way; `lenient`;
        `reference`, the figures of the reference's protocol, None where the run has none.

    Raises:
        ValueError: no run folder, a damaged one, or one of an unknown benchmark.
    """
    saved = read_run(folder)
    name = saved.settings.get("benchmark")
    if name not in BENCHMARKS:
        raise ValueError(f"{saved.folder} is a run of {name!r}; known benchmarks: {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    digits = None if saved.settings.get("order") == "random" else benchmark.reference_digits
    judged = load_run(folder, reference=digits, reading=reading)
    if (judged.verdicts.status == FAILED).all():
        return None
    about: dict[str, Any] = {
        "categories": benchmark.categories or None,
        "acc_plus": benchmark.acc_plus,
        "resamples": resamples,
        "seed": seed,
    }
    metrics = compute_metrics(judged.verdicts, judged.cases, overall=benchmark.overall, **about)
    metrics |= {
        "judgements": judged.judged,
        "cut_off": judged.cut_off / judged.judged if judged.judged else None,
        "unparsable_reasons": judged.unparsable,
        "lenient": reading or saved.reading,
        "reference": None,
    }
    theirs = judged.reference
    if theirs is not None and (theirs.status[theirs.label == 1] != FAILED).any():
        cases = replace(judged.cases, category=judged.reference_category)
        metrics["reference"] = reference_metrics(theirs, cases, overall=benchmark.paper_overall, **about)
    return metrics


def figures_of(saved: SavedRun) -> dict[str, Any]:
    """Return the figures of a run folder, or of what an interrupted run has judged.

    Raises:
        ValueError: nothing was judged, or see `score_run`.
    """
    figures = saved.metrics() if saved.finished else score_run(saved.folder)
    if figures is None:
        raise ValueError(f"{saved.folder} has no figures: none of its judgements succeeded")
    return figures


def hints(metrics: Mapping[str, Any]) -> list[str]:
    """Return what the figures suggest to do: a line for judgements that were cut off, one for the commonest fault."""
    lines = []
    judgements = metrics.get("judgements") or 0
    cut_off = metrics.get("cut_off") or 0.0
    if cut_off > _WORTH_A_HINT:
        lines.append(
            f"{cut_off:.1%} of the judgements were cut off at the limit of tokens: raise --max-tokens, or, where the "
            "server's context left less, that context"
        )
    reasons = {**(metrics.get("unparsable_reasons") or {})}
    if lines:
        reasons.pop("truncated", None)  # the same thing again
    if (reading := metrics.get("lenient")) in OF_WORDS:
        if judgements and (count := sum(reasons.values())) > _WORTH_A_HINT * judgements:
            lines.append(
                f"{count / judgements:.1%} of the judgements have no verdict that --lenient {reading} can read"
            )
        return lines
    reason = max(reasons, key=lambda name: reasons[name], default="")
    count = reasons.get(reason, 0)
    if judgements and count > _WORTH_A_HINT * judgements and 2 * count > sum(reasons.values()):
        line = f"{count / judgements:.1%} of the judgements break the contract in one way: {FAULTS[reason]}"
        if reason in _READ_LENIENTLY and metrics.get("lenient") in (None, "strict"):
            mode = "last_digit" if reason == "no_tags" else "answer_tag"
            line += f"; `r1reward eval rescore RUN --lenient {mode}` may read their answers"
        lines.append(line)
    return lines
