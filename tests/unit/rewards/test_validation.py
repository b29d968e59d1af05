"""The figures of validation during training: worked out by hand, and those of the evaluation."""

import numpy as np
import pytest

from r1reward_verl.evaluation.metrics import compute_metrics
from r1reward_verl.evaluation.verdicts import Cases, Verdicts
from r1reward_verl.rewards.validation import validation_metrics

SAME = {
    "accuracy",
    "unparsable",
    "consistency",
    "position_bias",
    "both_orders_accuracy",
    "flip_rate",
    "mean_response_tokens",
    "mean_reasoning_characters",
}


def judgement(
    row,
    label,
    choice,
    pair="",
    source="a",
    *,
    supported=0,
    judged=None,
    consistency=0.0,
    tokens=0,
    length=0,
    confidence=-1,
):
    """One judgement, `row` naming what was shown; `judged` where the run's own judge had an opinion."""
    info = {
        "label": str(label),
        "pred": str(choice or ""),
        "pair_id": pair,
        "supported": float(supported),
        "judged": float(choice == label if judged is None else judged),
        "consistency": float(consistency),
        "response_tokens": float(tokens),
        "reasoning_characters": float(length),
        "confidence": float(confidence),
    }
    return source, row, info


def figures(judgements, expected=None, of="all"):
    """Return the figures of one source, without what they are called by."""
    sources, rows, infos = zip(*judgements, strict=True)
    columns = {key: [info.get(key) for info in infos] for key in dict.fromkeys(key for info in infos for key in info)}
    metrics = validation_metrics(sources, rows, columns, expected)
    start = f"val-r1_reward/{of}/"
    return {key.removeprefix(start): value for key, value in metrics.items() if key.startswith(start)}


def test_a_table_worked_out_by_hand():
    found = figures(
        [
            judgement("0", 1, 1, "p", supported=1, consistency=1, tokens=10, length=100),  # p: right in both orders
            judgement("1", 2, 2, "p", consistency=-1, tokens=20, length=200),
            judgement("2", 1, 1, "q", supported=1, consistency=1, tokens=30, length=300),  # q flips
            judgement("3", 2, 1, "q", supported=1, tokens=40, length=400),
            judgement("4", 1, None, "r", tokens=50, length=500),
            judgement("5", 2, 2, "r", supported=1, consistency=1, tokens=60, length=600),
            judgement("6", 1, 2, "s", tokens=70, length=700),  # s: wrong in both
            judgement("7", 2, 1, "s", supported=1, tokens=80, length=800),
            judgement("8", 1, 1, supported=1, consistency=1, tokens=90, length=900),  # in no pair
            judgement("9", 2, 1, "t", tokens=100, length=1000),  # in one order only
        ]
    )
    assert found == pytest.approx(
        {
            "accuracy": 5 / 10,
            "position_bias": 3 / 5 - 2 / 5,
            "both_orders_accuracy": 1 / 4,
            "flip_rate": 1 / 3,
            "unparsable": 1 / 10,
            "consistency": 6 / 9,
            "right_and_consistent": 4 / 10,
            "mean_response_tokens": 55,
            "mean_reasoning_characters": 550,
        }
    )


def test_stated_confidences():
    found = figures(
        [
            judgement("0", 1, 1, confidence=0.9),
            judgement("1", 1, 2, confidence=0.8),  # wrong
            judgement("2", 1, 1),  # states none
            judgement("3", 1, 1, confidence=0.5),  # a row with two samples
            judgement("3", 1, 2, confidence=0.5),
        ]
    )
    assert found["confidence_stated"] == pytest.approx(3 / 4)
    assert found["brier"] == pytest.approx((0.01 + 0.64 + 0.25) / 3)
    assert found["overconfidence"] == pytest.approx((0.9 + 0.8 + 0.5) / 3 - 1.5 / 3)
    assert "brier" not in figures([judgement("0", 1, 1)])


def random_judgements(rng, *, samples=1):
    """Pairs in one or both orders, with verdicts of all kinds; most of the second source in no pair."""
    return [
        judgement(
            f"{pair}/{label}",
            label,
            choice := int(rng.integers(0, 3)),
            str(pair),
            "a" if pair % 3 else "b",
            supported=choice and rng.integers(0, 2),
            tokens=int(rng.integers(1, 90)),
            length=int(rng.integers(1, 900)),
        )
        for pair in range(40)
        for label in ((1, 2) if pair % 4 else (1 + pair % 8 // 4,))
        for _ in range(samples)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_one_judgement_a_row_gives_the_evaluations_figures(seed):
    judgements = random_judgements(np.random.default_rng(seed))
    for source in ("a", "b", "all"):
        infos = [info for of, _, info in judgements if source in (of, "all")]

        def column(key, dtype, infos=infos):
            return np.array([int(info[key] or 0) for info in infos], dtype)

        judged = Verdicts(
            case=column("pair_id", np.int32),
            label=column("label", np.int8),
            greedy=column("pred", np.int8),
            sampled=np.empty((len(infos), 0), np.int8),
            tokens=column("response_tokens", np.int32),
            reasoning=column("reasoning_characters", np.int32),
            consistency=2 * column("supported", np.int8) - 1,
            status=np.zeros(len(infos), np.int8),
        )
        evaluated = compute_metrics(judged, Cases([str(i) for i in range(40)], [""] * 40), resamples=100)
        found = figures(judgements, of=source)
        assert {name: found[name] for name in SAME} == pytest.approx({name: evaluated[name] for name in SAME})


def test_samples_of_a_row_share_its_weight_and_meet_all_of_the_other_order():
    found = figures(
        [
            *[judgement("0", 1, choice, "p", tokens=10) for choice in (1, 1, 2, None)],  # 2 right, 1 wrong, 1 none
            *[judgement("1", 2, choice, "p", tokens=20) for choice in (2, 2, 2, 1)],  # 3 right, 1 wrong
            *[judgement("2", 1, choice, tokens=60) for choice in (1, 1)],  # one sample got lost, so that these are two
        ]
    )
    assert found["accuracy"] == pytest.approx((2 / 4 + 3 / 4 + 1) / 3)
    assert found["position_bias"] == pytest.approx((2 / 4 + 1) / 2 - 3 / 4)
    assert found["unparsable"] == pytest.approx(1 / 4 / 3)
    assert found["mean_response_tokens"] == pytest.approx(30)
    assert found["both_orders_accuracy"] == pytest.approx(2 / 4 * 3 / 4)
    # Of 16 meetings 12 have two verdicts; the right ones meet one wrong each, the wrong one three right ones.
    assert found["flip_rate"] == pytest.approx((2 * 1 + 1 * 3) / 12)


def test_samples_that_agree_are_as_one():
    judgements = random_judgements(np.random.default_rng(0))
    assert figures(judgements * 3) == pytest.approx(figures(judgements))


def test_without_both_orders_there_are_no_figures_of_them():
    found = figures([judgement("0", 1, 1, "p"), judgement("1", 1, 2, "q"), judgement("2", 1, None)])
    assert found.keys().isdisjoint({"both_orders_accuracy", "flip_rate", "position_bias"})
    assert found["accuracy"] == pytest.approx(1 / 3)


def test_rows_without_a_pair_are_no_pair_of_each_other():
    found = figures([judgement("0", 1, 1), judgement("1", 2, 2)])
    assert found["accuracy"] == 1
    assert found.keys().isdisjoint({"both_orders_accuracy", "flip_rate"})


def test_nothing_can_flip_where_no_pair_has_two_verdicts():
    found = figures([judgement("0", 1, 1, "p"), judgement("1", 2, None, "p")])
    assert found["both_orders_accuracy"] == 0
    assert "flip_rate" not in found


def test_each_source_has_its_own_figures_and_its_own_pairs():
    judgements = [
        *(judgement("0", 1, 1, "p", "a"), judgement("1", 2, 2, "p", "a")),
        judgement("2", 1, 2, "p", "b/c"),  # the same pair id, another source
    ]
    assert figures(judgements, of="a")["both_orders_accuracy"] == 1
    assert "both_orders_accuracy" not in figures(judgements, of="b/c")
    assert [figures(judgements, of=source)["accuracy"] for source in ("a", "b/c", "all")] == pytest.approx(
        [1, 0, 2 / 3]
    )
    assert figures(judgements)["both_orders_accuracy"] == 1


def test_a_source_by_the_name_of_all_does_not_change_the_figures_of_all():
    judgements = [judgement("0", 1, 1, source="all"), judgement("1", 1, 2, source="a")]
    assert figures(judgements)["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("opinions", "share"),
    [
        ([1, 1, -1, -1], 0.8 / 2),
        ([0.2, -0.2, 0.9, 0.0], 0.8 / 2),  # a judge that says how sure it is
        ([1, -1, None, None], 0.8 / 2),  # where it could not be reached, what it said of the others holds
        ([None] * 4, None),  # there is no judge
    ],
)
def test_right_and_consistent_is_what_the_runs_judge_says_of_right_ones(opinions, share):
    right = [
        judgement(str(i), 1, 1, judged=opinion is not None, consistency=opinion or 0)
        for i, opinion in enumerate(opinions)
    ]
    found = figures([*right, judgement("4", 1, 2)])
    assert found["accuracy"] == 0.8
    assert found.get("right_and_consistent") == (share and pytest.approx(share))


def test_where_nothing_is_right_nothing_is_right_and_consistent():
    assert figures([judgement("0", 1, 2)])["right_and_consistent"] == 0


def test_nothing_but_verdicts_missing():
    found = figures([judgement("0", 1, None, "p"), judgement("1", 2, None, "p")])
    assert (found["accuracy"], found["unparsable"], found["both_orders_accuracy"]) == (0, 1, 0)
    assert found.keys().isdisjoint({"consistency", "flip_rate"})


def test_missing_judgements_are_counted_and_count_for_nothing():
    judgements = [judgement("0", 1, 1), judgement("1", 1, 1, source="b"), judgement("1", 1, 1, source="b")]
    expected = {("a", "0"): 2, ("a", "lost"): 2, ("b", "1"): 2, ("c", "gone"): 1}
    assert [figures(judgements, expected, source)["failed"] for source in ("a", "b", "all")] == [3, 0, 4]
    assert figures(judgements, expected)["accuracy"] == 1
    assert "failed" not in figures(judgements)


def test_rewards_that_are_not_ours_are_left_out():
    judgements = [("other", "0", {"reward": 0.3}), judgement("1", 1, 1)]
    expected = {("other", "0"): 1, ("a", "1"): 1}
    assert figures(judgements, expected)["accuracy"] == 1
    assert figures(judgements, expected)["failed"] == 0
    assert figures(judgements, of="other") == {}
    assert validation_metrics(["other"], ["0"], {"reward": [0.3]}) == {}
