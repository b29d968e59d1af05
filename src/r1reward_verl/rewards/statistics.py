"""What the log says of a step's rewards and of the judge that gave them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def reward_metrics(infos: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Sum up the parts of a step's rewards.

    Args:
        infos: one for each judgement, as `scorer.Reward.as_info` gives them.

    Returns:
        `reward/...`: means of result, format, consistency (of what was judged) and unparsable; `seconds_total`: what
        all reward workers took, waiting for the judge included. `judge/...`: numbers of judgements that were skipped
        (the judge could not change the reward), asked (all others), judged, cached, undecided and failed (these four
        add up to asked), consistent and inconsistent; retried: those that took more than one request; and over those
        not cached the median and the 95th percentile of the judge's latency in seconds. Empty for no infos.
    """
    if not infos:
        return {}
    statuses = Counter(str(info["judge_status"]) for info in infos)
    opinions = np.array([info["consistency"] for info in infos if info["judged"]], dtype=float)
    waits = [info["judge_seconds"] for info in infos if info["judge_seconds"] and info["judge_status"] != "cached"]
    median, high = np.percentile(waits, [50, 95]) if waits else (0.0, 0.0)
    metrics = {f"reward/{part}": _mean([info[part] for info in infos]) for part in ("result", "format", "unparsable")}
    metrics["reward/consistency"] = _mean(opinions)
    agreements = np.array([info["agreement"] for info in infos if "agreement" in info], dtype=float)
    if len(agreements):
        metrics["reward/agreement"] = _mean(agreements[agreements >= 0])
        metrics["reward/agreement_paired"] = _mean(agreements >= 0)
    stated = [(info["confidence"], info["result"]) for info in infos if info["confidence"] >= 0]
    if stated:
        confidence, right = np.array(stated, dtype=float).T
        metrics["reward/confidence_stated"] = len(stated) / len(infos)
        metrics["reward/confidence"], metrics["reward/brier"] = _mean(confidence), _mean((confidence - right) ** 2)
    metrics["reward/seconds_total"] = float(sum(info.get("reward_seconds", 0.0) for info in infos))
    counts = {name: statuses[name] for name in ("skipped", "judged", "cached", "undecided", "failed")}
    counts["asked"] = len(infos) - statuses["skipped"]
    counts["consistent"], counts["inconsistent"] = int((opinions > 0).sum()), int((opinions < 0).sum())
    counts["retried"] = sum(info["judge_retries"] > 0 for info in infos)
    metrics |= {f"judge/{name}": float(count) for name, count in counts.items()}
    return metrics | {"judge/latency_s/median": float(median), "judge/latency_s/p95": float(high)}


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0
