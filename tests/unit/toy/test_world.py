"""The toy world: everything from a seed, one right response in each pair, faults where they are said to be."""

import asyncio
import io
import re
from collections import Counter
from typing import get_args

import pytest
from PIL import Image

from r1reward_verl.judgement import parse
from r1reward_verl.rewards.conclusions import conclusion
from r1reward_verl.rewards.judges.rules import RulesJudge
from r1reward_verl.toy.world import (
    COLOUR_VALUES,
    FRAMES,
    NUMBERS,
    SHAPES,
    SIZE,
    UNSEEN,
    ToyMedia,
    ToyPair,
    draw_pairs,
    draw_scene,
    judgement,
    preference,
    scene_png,
)

PAIRS = draw_pairs(400, 0, "test")
SCENES = draw_pairs(400, 0, "test", "scenes")


def test_the_same_seed_draws_the_same_world():
    assert draw_pairs(400, 0, "test") == PAIRS
    assert [scene_png(pair) for pair in draw_pairs(20, 0, "test")] == [scene_png(pair) for pair in PAIRS[:20]]


def test_another_seed_or_split_draws_another_world():
    for other in (draw_pairs(400, 1, "test"), draw_pairs(400, 0, "train")):
        assert not {pair.seed for pair in other} & {pair.seed for pair in PAIRS}


def test_splits_have_no_pair_and_no_picture_in_common():
    splits = {split: draw_pairs(300, 0, split) for split in ("sft", "train", "val", "test")}
    for of in (lambda pair: pair.pair_id, scene_png):
        seen = [of(pair) for pairs in splits.values() for pair in pairs]
        assert len(set(seen)) == len(seen)


def test_questions_and_answers_are_balanced():
    assert Counter(pair.kind for pair in PAIRS) == {"colour": 200, "shape": 200}
    for values, kind in ((COLOUR_VALUES, "colour"), (SHAPES, "shape")):
        for which in ("right", "wrong"):
            counts = Counter(getattr(pair, which) for pair in PAIRS if pair.kind == kind)
            assert set(counts) == set(values)
            assert min(counts.values()) >= 25, "50 in expectation"


def test_scenes_ask_for_four_kinds_about_one_of_four_things():
    assert Counter(pair.kind for pair in SCENES) == dict.fromkeys(("colour", "shape", "number", "beside"), 100)
    for pair in SCENES:
        assert len(pair.things) == 4
        assert pair.things[pair.place] == (pair.colour, pair.shape)
        shapes, colours = ([thing[place] for thing in pair.things] for place in (1, 0))
        right = {
            "colour": pair.colour,
            "shape": pair.shape,
            "number": ["none", "one", "two", "three"][min(3, shapes.count(pair.shape))],
            "beside": colours[[1, 0, 3, 2][pair.place]],
        }[pair.kind]
        assert pair.right == right != pair.wrong
        if pair.kind != "number":
            named = colours if pair.kind == "shape" else shapes
            assert named.count(pair.colour if pair.kind == "shape" else pair.shape) == 1
    rights = Counter((pair.kind, pair.right) for pair in SCENES)
    assert len(rights) == 4 + 4 + 3 + 4
    assert min(rights.values()) >= 10


def test_among_distractors_questions_are_about_colour_and_shape_alone():
    pairs = draw_pairs(400, 0, "test", "distractors")
    assert Counter(pair.kind for pair in pairs) == {"colour": 200, "shape": 200}
    assert Counter(pair.category == "unseen" for pair in pairs) == {False: 350, True: 50}
    assert all(len(pair.things) == 2 and pair.found for pair in pairs)
    assert Counter(pair.place for pair in pairs).keys() == {0, 1}
    for pair in pairs:
        named = 0 if pair.kind == "shape" else 1
        assert pair.others[0][named] != (pair.colour, pair.shape)[named], "the question names one thing"


def test_what_the_responses_say_of_several_things_stands_in_words_of_its_own():
    """Nothing in the picture's description could be taken for it."""
    for pair in [*draw_pairs(100, 0, "test", "distractors"), *SCENES]:
        described, claims = judgement(pair, 1).split("The responses say ")
        for value in (pair.right, pair.wrong):
            assert value.capitalize() in claims
            assert value.capitalize() not in described


def test_unseen_combinations_are_asked_about_where_nothing_is_trained():
    assert Counter(pair.category == "unseen" for pair in SCENES) == {False: 352, True: 48}
    for pair in SCENES:
        assert (pair.category == "unseen") == ((pair.colour, pair.shape) in UNSEEN)
        assert not set(pair.others) & set(UNSEEN)
    training = draw_pairs(400, 0, "train", "scenes")
    assert not {thing for pair in training for thing in pair.things} & set(UNSEEN)
    assert {thing for pair in training for thing in pair.things} == {
        (colour, shape) for colour in COLOUR_VALUES for shape in SHAPES
    } - set(UNSEEN)


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
        image = draw_scene(pair)
        assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
        ground = image.getpixel((0, 0))
        assert min(ground) >= 225
        painted = Counter(image.getdata()) - Counter({ground: SIZE * SIZE})
        (paint,) = painted  # one colour beside the ground
        nearest = min(
            COLOUR_VALUES, key=lambda name: sum(abs(a - b) for a, b in zip(COLOUR_VALUES[name], paint, strict=True))
        )
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
    image = Image.open(io.BytesIO(scene_png(PAIRS[0])))
    assert image.format == "PNG"
    assert image.tobytes() == draw_scene(PAIRS[0]).tobytes()


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


def test_a_judgement_of_a_scene_says_what_it_found():
    """The words that the right answer follows from stand in it: of a count, each thing with its number."""
    for pair in SCENES:
        line = judgement(pair, 1).split("\n")[1]
        assert line == pair.found
        assert re.findall(r"\w+", line)[-1] == (pair.things[pair.place ^ 1][1] if pair.kind == "beside" else pair.right)
        assert re.search(rf"\b{pair.right}\b", line)
        if pair.kind == "number":
            assert line.count(pair.shape) == NUMBERS.index(pair.right)
    assert all(pair.found == "" for pair in PAIRS)


@pytest.mark.parametrize("label", [1, 2])
def test_a_preference_is_the_pair_in_an_order(label: int):
    for pair in PAIRS:
        found = preference(pair, label)
        assert found.label == label
        assert (found.response_1, found.response_2)[label - 1] == f"It is {pair.right}."
        assert (found.id, found.category, found.question) == (pair.pair_id, pair.kind, pair.question)
        assert [image.data for image in found.images] == [scene_png(pair)]


def test_a_judgement_names_what_is_seen_and_who_says_what():
    pair = ToyPair("p", "red", "cross", "colour", "blue", 0)
    assert judgement(pair, 2) == (
        "<think>The picture shows a red cross.\nThe responses say blue 1 and red 2.\nThe right answer is red 2.\n"
        "So response 2 is better.</think><answer>2</answer>"
    )


def test_a_preference_shows_its_scene_as_one_picture_two_a_video_or_in_words():
    picture, pictures, video, text = (preference(PAIRS[0], 1, media) for media in get_args(ToyMedia))
    assert [len(one.images) for one in (picture, pictures, video, text)] == [1, 2, 0, 0]
    assert video.video[0] == picture.images[0] == pictures.images[0]
    assert len({frame.data for frame in video.video}) == FRAMES, "the shape moves"
    assert text.video is None
    assert text.question.startswith(f"There is a {PAIRS[0].colour} {PAIRS[0].shape} in picture ")
    assert text.question.endswith(f". {picture.question}")


def test_descriptions_of_pictures_keep_pairs_apart():
    """Else most of them would be duplicates to `r1reward data select`."""
    pairs = draw_pairs(2000, 0, "train")
    assert len({(pair.described, *pair.responses(1)) for pair in pairs}) > 1990
