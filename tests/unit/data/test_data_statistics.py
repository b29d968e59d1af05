"""What is counted about a set of preferences, how exactly, and that it is drawn."""

import json
import random
import statistics as exact

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from msgspec.structs import replace

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.rows import difficulty_of
from r1reward_verl.data.statistics import CLASSES, OTHERS, Lengths, Statistics, ordered, uneven
from r1reward_verl.data.statistics_plots import plot
from r1reward_verl.media import Media

TRACE = "<think>Yes.</think><answer>1</answer>"
ONE = Preference("1", "mine", "long", "What?", "A kite.", "A red bird.", 1, images=(Media("a"),))


def count(*items, **options):
    counted = Statistics(**options)
    for item in items:
        counted.add(item)
    return counted


def lengths(values):
    made = Lengths()
    for value in values:
        made.add(value)
    return made


@pytest.mark.parametrize(
    ("difficulty", "trace", "expected"),
    [(None, None, "none"), (1, TRACE, "1"), (3, TRACE, "3"), (3, None, "unsolved"), (None, TRACE, "none")],
)
def test_difficulty_is_the_attempt_that_agreed(difficulty, trace, expected):
    assert difficulty_of(replace(ONE, difficulty=difficulty, trace=trace)) == expected


def test_difficulties_go_from_easy_to_hard():
    assert ordered(["none", OTHERS, "10", "unsolved", "2", "1"]) == ["1", "2", "10", "unsolved", "none", OTHERS]


def test_the_card_counts_everything():
    items = [
        replace(ONE, difficulty=1, trace=TRACE),
        replace(ONE, label=2, difficulty=3),
        replace(ONE, source="yours", category="short", images=(), video=(Media("b"),) * 4),
        replace(ONE, response_2="A boat.", images=(Media("a"),) * 2),
    ]
    card = count(*items).card()
    assert json.loads(json.dumps(card)) == card
    assert card["rows"] == 4
    assert card["sources"] == {"mine": 3, "yours": 1}
    assert card["categories"] == {"long": 3, "short": 1}
    assert card["labels"] == {"1": 3, "2": 1}
    assert card["labels_by_source"] == {"mine": {"1": 2, "2": 1}, "yours": {"1": 1, "2": 0}}
    assert card["difficulty"] == {"1": 1, "unsolved": 1, "none": 2}
    assert card["labels_by_difficulty"]["unsolved"] == {"1": 0, "2": 1}
    assert card["images_per_row"] == {"0": 1, "1": 2, "2": 1}
    assert card["frames_per_row"] == {"0": 3, "4": 1}
    assert card["preferred_response"] == {"shorter": 2, "longer": 1, "equal": 1}
    assert card["lengths"]["question"]["characters"]["count"] == 4
    assert card["lengths"]["response"]["characters"]["max"] == len("A red bird.")
    assert card["lengths"]["trace"]["characters"]["p50"] == len(TRACE)
    assert card["lengths"]["trace"]["characters"]["histogram"] == [{"from": 32, "below": 64, "count": 1}]


def test_an_empty_set_has_a_card():
    card = count().card()
    assert json.loads(json.dumps(card)) == card
    assert card["labels"] == {"1": 0, "2": 0}
    assert card["lengths"]["trace"] == {"characters": {"count": 0}}


def test_tokens_are_counted_by_the_tokenizer_that_is_given():
    card = count(ONE, tokenizer=lambda text: len(text.split())).card()["lengths"]["response"]
    assert (card["tokens"]["min"], card["tokens"]["max"]) == (2, 3)
    assert card["characters"]["count"] == card["tokens"]["count"] == 2


def test_a_difficulty_that_is_known_better_counts():
    counted = Statistics()
    counted.add(replace(ONE, difficulty=2, trace=None), "2")
    assert counted.card()["difficulty"] == {"2": 1}


def test_memory_is_bounded_whatever_the_names_are():
    counted = count(*(replace(ONE, source=f"s{index}", category="c" * index * 10) for index in range(1, CLASSES + 501)))
    assert len(counted.sources) == CLASSES + 1
    assert counted.sources[OTHERS] == 500
    assert sum(counted.sources.values()) == CLASSES + 500
    assert max(map(len, counted.categories)) == 200
    assert counted.labels == {"1": CLASSES + 500, "2": 0}
    assert counted.card()["labels_by_source"][OTHERS] == {"1": 500, "2": 0}


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200), st.sampled_from([0.05, 0.5, 0.9, 1.0]))
def test_quantiles_are_exact(values, share):
    made = lengths(values)
    true = sorted(values)[max(0, -(-len(values) * share // 1).__int__() - 1)]
    assert made.quantile(share) == true
    assert made.quantile(1.0) <= made.highest == max(values)
    assert made.total == sum(values)


def test_the_median_is_exact():
    values = [random.Random(0).randrange(12_800) for _ in range(999)]
    assert lengths(values).quantile(0.5) == exact.median(values)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=100), st.sampled_from([1, 4]))
def test_a_histogram_holds_every_length_in_bins_without_gaps(values, per_doubling):
    bins = lengths(values).histogram(per_doubling)
    assert sum(many for _, _, many in bins) == len(values)
    assert [below for _, below, _ in bins][:-1] == [low for low, _, _ in bins][1:]
    assert bins[0][0] <= min(values)
    assert bins[0][1] > min(values) or per_doubling > 1
    assert bins[-1][1] > max(values)
    if per_doubling == 1:
        for low, below, many in bins:
            assert many == sum(low <= value < below for value in values)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [({"1": 56, "2": 44}, ("1", 0.56)), ({"1": 45, "2": 55}, None), ({"1": 19, "2": 0}, None), ({}, None)],
)
def test_labels_are_uneven_beyond_55_to_45(labels, expected):
    assert uneven(labels) == expected


def drawn(path):
    picture = imread(path)
    assert min(picture.shape[:2]) > 600
    return picture


def test_sets_are_drawn_beside_one_another(tmp_path):
    rng = random.Random(0)

    def some(number):
        attempts = rng.choice([None, 1, 2, 3])
        trace = TRACE + "x" * rng.randrange(900) if attempts and number % 3 else None
        return replace(
            ONE, difficulty=attempts, trace=trace, response_1="a" * rng.randrange(1, 5000), label=1 + number % 2
        )

    first, second = (count(*map(some, range(200))) for _ in range(2))
    plot({"sft": first}, tmp_path / "one.png")
    plot({"sft": first, "rl": second}, tmp_path / "two.png")
    plot({"sft": count()}, tmp_path / "none.png")
    pictures = [drawn(tmp_path / f"{name}.png") for name in ("one", "two", "none")]
    blue, grey = np.array([0x1F, 0x6F, 0xEB]) / 255, np.array([0x9A, 0xA5, 0xB1]) / 255
    shares = [
        [(abs(picture[..., :3] - colour) < 0.02).all(-1).mean() for picture in pictures] for colour in (blue, grey)
    ]
    assert shares[0][0] > 0.05 < shares[1][1]
    # Of what is not there, and of a set that is not there, no bar; a dash or a line is hardly a pixel.
    assert max(shares[0][2], shares[1][0]) < 1e-4


@pytest.mark.parametrize("name", ["$x^$ {bad}$", "_hidden", "a\nb\t\x00c", "数据集", "n" * 5000, ""])
def test_names_from_data_are_drawn_as_they_are(tmp_path, name, recwarn):
    plot({name: count(replace(ONE, source=name or "x", category=name or "x")), "other": count(ONE)}, tmp_path / "a.png")
    drawn(tmp_path / "a.png")
    assert not recwarn.list
