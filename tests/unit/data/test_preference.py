"""What a preference is, what it refuses, how it is stored, and which response stands first."""

import math
import random
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from r1reward_verl.data.preference import SCHEMA, Preference, from_row, place, to_row
from r1reward_verl.media import Media

VALUES = {
    "id": "a-1",
    "source": "mine",
    "category": "long",
    "question": "What is it?",
    "response_1": "A kite.",
    "response_2": "A bird.",
    "label": 1,
}


def preference(**changes):
    return Preference(**{**VALUES, **changes})


@pytest.mark.parametrize("label", [1, 2, "1", "2", "<answer>1</answer>", "<answer>2</answer>"])
def test_labels_become_numbers(label):
    assert preference(label=label).label == int(str(label).removeprefix("<answer>")[0])


@pytest.mark.parametrize("label", ["2 ", " 1", 2.0, "B", None, 0, 3, True, "", "<answer>3</answer>", [1]])
def test_other_labels_are_refused_by_name(label):
    with pytest.raises(ValueError, match=r"^label .* neither 1 nor 2") as error:
        preference(label=label)
    assert repr(label) in str(error.value)


@pytest.mark.parametrize("field", ["id", "source", "category", "question", "response_1", "response_2", "trace"])
@pytest.mark.parametrize("value", ["", " \n", 7, b"x", ["x"], "cut \ud83d in half"])
def test_texts_are_texts(field, value):
    with pytest.raises(ValueError, match=f"^{field} (is|holds) ") as error:
        preference(**{field: value})
    assert repr(value) in str(error.value) or "'\\ud83d' at character 4" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": None}, "question is None"),
        ({"response_2": "A kite."}, "response_1 and response_2 are the same text: 'A kite.'"),
        ({"difficulty": 0}, "difficulty is 0"),
        ({"difficulty": True}, "difficulty is True"),
        ({"difficulty": 2.0}, r"difficulty is 2\.0"),
        ({"difficulty": 10**9}, "difficulty is 1000000000"),
        ({"images": None}, "images is None"),
        ({"images": "a.png"}, "images is 'a.png'"),
        ({"images": ("a.png",)}, "images holds 'a.png', which is no Media"),
        ({"video": ()}, "video has no frames"),
        ({"video": [None]}, "video holds None"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        preference(**changes)


def test_a_message_does_not_repeat_a_book():
    with pytest.raises(ValueError, match="same text") as error:
        preference(response_1="x" * 10**6, response_2="x" * 10**6)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "neither"),
        ({"path": "a", "data": b"x"}, "both"),
        ({"path": ""}, "media path is ''"),
        ({"path": 7}, "media path is 7"),
        ({"path": "a\0b"}, "null character"),
        ({"path": "a\udcff"}, "media path holds"),
        ({"path": "https://example.org/a.png"}, "is an address, and nothing is fetched"),
        ({"path": "s3://bucket/a.png"}, "is an address"),
        ({"path": "data:image/png;base64,AAAA"}, "is an address"),
        ({"data": b""}, "media data is b''"),
        ({"data": "text"}, "media data is 'text'"),
        ({"path": "a", "sha256": "AB"}, "media sha256 is 'AB'"),
        ({"path": "a", "sha256": "A" * 64}, "lower case"),
    ],
)
def test_media_that_are_none(values, message):
    with pytest.raises(ValueError, match=message):
        Media(**values)


FULL = preference(
    question="Größe? 大きさ 🙂",
    images=(Media("a/b.png", sha256="0" * 64), Media(data=b"\x89PNG")),
    video=(Media("v/1.jpg"), Media("v/2.jpg")),
    difficulty=3,
    trace="<think>t</think><answer>1</answer>",
)


def test_rows_survive_a_parquet_file(tmp_path):
    written = [preference(), FULL]
    pq.write_table(pa.Table.from_pylist([to_row(item) for item in written], schema=SCHEMA), tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.schema.equals(SCHEMA)
    assert [from_row(row) for row in table.to_pylist()] == written


def test_the_schema_is_that_of_the_preference():
    assert SCHEMA.names == list(to_row(preference()))
    assert {field.name for field in SCHEMA if field.nullable} == {"video", "difficulty", "trace"}
    assert SCHEMA.field("images").type == SCHEMA.field("video").type
    with pytest.raises(pa.ArrowInvalid):
        pa.Table.from_pylist([{**to_row(preference()), "label": "B"}], schema=SCHEMA)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": 2.0}, r"label 2\.0"),
        ({"label": None}, "label None"),
        ({"images": None}, "images is None"),
        ({"images": ["a.png"]}, r"images is \['a.png'\]"),
        ({"images": [{"path": None, "bytes": None, "sha256": None}]}, "neither"),
        ({"video": []}, "video has no frames"),
        ({"question": 5}, "question is 5"),
    ],
)
def test_rows_are_checked_as_they_are_read(changes, message):
    with pytest.raises(ValueError, match=message):
        from_row({**to_row(FULL), **changes})


@pytest.mark.parametrize("name", SCHEMA.names)
def test_a_missing_column_is_named(name):
    row = to_row(FULL)
    del row[name]
    with pytest.raises(ValueError, match=f"no column '{name}'"):
        from_row(row)


def test_the_module_is_read_without_pyarrow():
    code = "import sys, r1reward_verl.data.preference; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def numbered(count):
    return [preference(id=str(number)) for number in range(count)]


def test_placing_swaps_the_responses_with_the_label_and_loses_neither():
    placed = {place(item, 0) for item in numbered(20)}
    assert {item.label for item in placed} == {1, 2}
    for item in placed:
        better, worse = (item.response_1, item.response_2)[:: 1 if item.label == 1 else -1]
        assert (better, worse) == ("A kite.", "A bird.")


def test_a_row_is_placed_alike_in_every_file_and_every_order():
    items = numbered(200)
    placed = {item.id: place(item, 7) for item in items}
    shuffled = random.Random(1).sample(items, 77)
    assert [place(item, 7) for item in shuffled] == [placed[item.id] for item in shuffled]
    assert [place(place(item, 7), 7) for item in items] == list(placed.values())
    # Nor does it matter which response the source has first.
    turned = [replace(item, response_1=item.response_2, response_2=item.response_1, label=2) for item in items]
    assert [place(item, 7) for item in turned] == list(placed.values())


def test_where_a_row_is_placed_is_the_same_in_every_version():
    # Another order would make other data of the same files. These are 1 + the last bit of the first byte that
    # `printf '0\\0mine\\0%d' N | sha256sum` gives for N from 0 to 15.
    assert [place(item, 0).label for item in numbered(16)] == [2, 2, 1, 2, 1, 1, 2, 1, 1, 1, 2, 1, 2, 2, 2, 1]


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_are_one_to_one_in_expectation(seed):
    count = 4000
    ones = sum(place(item, seed).label == 1 for item in numbered(count))
    assert abs(ones - count / 2) < 4 * math.sqrt(count) / 2


def test_seed_and_source_place_anew():
    items = numbered(200)

    def labels(seed, source):
        return [place(replace(item, source=source), seed).label for item in items]

    other = [labels(1, "mine"), labels(0, "yours")]
    agreement = [sum(map(int.__eq__, labels(0, "mine"), one)) for one in other]
    assert all(60 < count < 140 for count in agreement)


def test_a_trace_is_not_turned_into_its_opposite():
    items = numbered(20)
    kept = [item for item in items if place(item, 0) == item]
    assert 0 < len(kept) < len(items)
    for item in items:
        traced = replace(item, trace="<think>1.</think><answer>1</answer>")
        if item in kept:
            assert place(traced, 0) == traced
        else:
            with pytest.raises(ValueError, match=f"'{item.id}' cannot be swapped: its trace calls them 1 and 2"):
                place(traced, 0)
