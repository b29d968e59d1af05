"""The metrics of a step's rewards, against hand-computed ones."""

import pytest

from r1reward_verl.rewards.statistics import reward_metrics


def info(status: str, consistency: float = 0.0, result: float = 1.0, retries: int = 0, seconds: float = 0.0) -> dict:
    return {
        "result": result,
        "format": 1.0,
        "unparsable": 0.0,
        "consistency": consistency,
        "judged": float(status in ("judged", "cached")),
        "judge_status": status,
        "judge_retries": float(retries),
        "judge_seconds": seconds,
        "reward_seconds": 0.05,
        "confidence": -1.0,
    }


def test_counts_and_means():
    metrics = reward_metrics(
        [
            info("skipped", result=0.0),
            info("judged", 1.0, seconds=0.1),
            info("judged", -1.0, seconds=0.3, retries=1),
            info("cached", 1.0),
            info("undecided", seconds=0.5, retries=2),
            info("failed", seconds=9.0),
        ]
    )
    assert {name.removeprefix("judge/"): value for name, value in metrics.items() if name.startswith("judge/")} == {
        "asked": 5.0,
        "skipped": 1.0,
        "judged": 2.0,
        "cached": 1.0,
        "undecided": 1.0,
        "failed": 1.0,
        "consistent": 2.0,
        "inconsistent": 1.0,
        "retried": 2.0,
        "latency_s/median": pytest.approx(0.4),  # of 0.1, 0.3, 0.5 and 9: a cached answer does not count
        "latency_s/p95": pytest.approx(0.5 + 0.85 * 8.5),
    }
    assert metrics["reward/result"] == pytest.approx(5 / 6)
    assert metrics["reward/consistency"] == pytest.approx(1 / 3)
    assert metrics["reward/format"] == 1.0
    assert metrics["reward/seconds_total"] == pytest.approx(0.3)


def test_a_step_in_which_nobody_was_asked():
    metrics = reward_metrics([info("skipped", result=0.0)])
    assert metrics["judge/asked"] == metrics["judge/latency_s/p95"] == metrics["reward/consistency"] == 0.0


def test_rewards_beyond_the_paper():
    infos = [
        {**info("skipped", result=result), "confidence": stated} for result, stated in ((1, 0.9), (0, 0.5), (1, -1))
    ]
    agreements = [{**one, "agreement": share} for one, share in zip(infos, (1.0, 0.5, -1.0), strict=True)]
    metrics = reward_metrics(agreements)
    assert metrics["reward/confidence_stated"] == pytest.approx(2 / 3)
    assert metrics["reward/confidence"] == pytest.approx(0.7)
    assert metrics["reward/brier"] == pytest.approx((0.01 + 0.25) / 2)
    assert metrics["reward/agreement"] == pytest.approx(0.75)
    assert metrics["reward/agreement_paired"] == pytest.approx(2 / 3)
    plain = reward_metrics([info("skipped")])
    assert not [name for name in plain if "agreement" in name or "confidence" in name or "brier" in name]


def test_other_rewards_have_no_metrics():
    assert reward_metrics([]) == {}
