"""The toy world: everything from a seed, one right response in each pair, faults where they are said to be."""

import asyncio
import io
from collections import Counter

import pytest
from PIL import Image

from r1reward_verl.judgement import parse
from r1reward_verl.rewards.conclusions import conclusion
from r1reward_verl.rewards.judges.rules import RulesJudge
from r1reward_verl.toy.world import COLOURS, SHAPES, SIZE, Pair, draw_pairs, judgement, png, preference, render

PAIRS = draw_pairs(400, 0, "test")


def test_the_same_seed_draws_the_same_world():
    assert draw_pairs(400, 0, "test") == PAIRS
    assert [png(pair) for pair in draw_pairs(20, 0, "test")] == [png(pair) for pair in PAIRS[:20]]


def test_another_seed_or_split_draws_another_world():
    for other in (draw_pairs(400, 1, "test"), draw_pairs(400, 0, "train")):
        assert not {pair.seed for pair in other} & {pair.seed for pair in PAIRS}


def test_splits_have_no_pair_and_no_picture_in_common():
    splits = {split: draw_pairs(300, 0, split) for split in ("sft", "train", "val", "test")}
    for of in (lambda pair: pair.pair_id, png):
        seen = [of(pair) for pairs in splits.values() for pair in pairs]
        assert len(set(seen)) == len(seen)


def test_questions_and_answers_are_balanced():
    assert Counter(pair.kind for pair in PAIRS) == {"colour": 200, "shape": 200}
    for values, kind in ((COLOURS, "colour"), (SHAPES, "shape")):
        for which in ("right", "wrong"):
            counts = Counter(getattr(pair, which) for pair in PAIRS if pair.kind == kind)
            assert set(counts) == set(values)
            assert min(counts.values()) >= 25, "50 in expectation"


@pytest.mark.parametrize("label", [1, 2])
def test_one_response_is_right_and_stands_where_the_label_says(label: int):
    for pair in PAIRS:
        responses = pair.responses(label)
        assert pair.wrong != pair.right
        assert responses[label - 1] == f"It is {pair.right}."
        assert responses[2 - label] == f"It is {pair.wrong}."
        assert pair.right == getattr(pair, pair.kind)
        assert pair.kind in pair.question


def test_the_picture_shows_what_the_pair_says():
    for pair in PAIRS[:100]:
        image = render(pair)
        assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
        ground = image.getpixel((0, 0))
        assert min(ground) >= 225
        painted = Counter(image.getdata()) - Counter({ground: SIZE * SIZE})
        (paint,) = painted  # one colour beside the ground
        nearest = min(COLOURS, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], paint, strict=True)))
        assert nearest == pair.colour
        assert shape_of(image, ground) == pair.shape


def shape_of(image: Image.Image, ground: tuple[int, ...]) -> str:
    """Tell the shape from how much of its bounding box it fills, and where."""
    filled = {(x, y) for x in range(SIZE) for y in range(SIZE) if image.getpixel((x, y)) != ground}
    left, right = min(x for x, _ in filled), max(x for x, _ in filled)
    top, bottom = min(y for _, y in filled), max(y for _, y in filled)
    share = len(filled) / ((right - left + 1) * (bottom - top + 1))
    if share == 1:
        return "square"
    if share > 0.7:
        return "circle"
    return "triangle" if (left, bottom) in filled and (right, bottom) in filled else "cross"


def test_the_file_is_the_picture():
    image = Image.open(io.BytesIO(png(PAIRS[0])))
    assert image.format == "PNG"
    assert image.tobytes() == render(PAIRS[0]).tobytes()


@pytest.mark.parametrize("label", [1, 2])
@pytest.mark.parametrize(
    ("fault", "answers", "concludes"),
    [("none", "label", "label"), ("hurried", 1, None), ("wrong", "other", "other")],
)
def test_a_judgement_has_the_fault_it_is_asked_to_have(label: int, fault: str, answers, concludes):
    said = {"label": label, "other": 3 - label}
    for pair in PAIRS:
        verdict = parse(judgement(pair, label, fault))
        assert verdict.reason is None
        assert verdict.choice == said.get(answers, answers)
        assert conclusion(verdict.think) == said.get(concludes, concludes)
        consistent = asyncio.run(RulesJudge().judge(verdict.think, verdict.choice)).consistency == 1
        assert consistent == (fault != "hurried")


@pytest.mark.parametrize("label", [1, 2])
def test_a_preference_is_the_pair_in_an_order(label: int):
    for pair in PAIRS:
        found = preference(pair, label)
        assert found.label == label
        assert (found.response_1, found.response_2)[label - 1] == f"It is {pair.right}."
        assert (found.id, found.category, found.question) == (pair.pair_id, pair.kind, pair.question)
        assert [image.data for image in found.images] == [png(pair)]


def test_a_judgement_names_what_is_seen_and_who_says_what():
    pair = Pair("p", "red", "cross", "colour", "blue", 0)
    assert judgement(pair, 2) == (
        "<think>The picture shows a red cross.\nThe responses say blue 1 and red 2.\nThe right answer is red 2.\n"
        "So response 2 is better.</think><answer>2</answer>"
    )
