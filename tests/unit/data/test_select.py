"""Which preferences become training data, in which order and balance, and that a folder is written whole or not."""

import json
import os
import random
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from factories import png, preference_file
from r1reward_verl.cli import main as cli
from r1reward_verl.data.export import rl_schema, sft_schema
from r1reward_verl.data.preference import Preference
from r1reward_verl.data.select import SelectionError, SelectSettings, select
from r1reward_verl.data.selection import Difficulties, Rules
from r1reward_verl.evaluation.benchmarks import BENCHMARKS
from r1reward_verl.media import Media

RUN = "import sys; from r1reward_verl.cli import main; sys.exit(main(['data', 'select', *sys.argv[1:]]))"


def main(arguments):
    return cli(["data", "select", *arguments])


def preference(index, difficulty=None, solved=True, **changes):
    """One with the given attempts, solved at the last of them or never; every other is labelled 2."""
    values = {
        "id": f"r{index}",
        "source": "abc"[index % 3],
        "category": "any",
        "question": f"Question {index}?",
        "response_1": f"Yes, {index}.",
        "response_2": f"No, {index}.",
        "label": 1 + index // 3 % 2,
        "difficulty": difficulty,
    }
    values |= changes
    trace = f"<think>So it is {values['label']}.</think><answer>{values['label']}</answer>"
    return Preference(**{"trace": trace if solved and difficulty else None, **values})


def annotated(count):
    """Half of them solved at once, the others at the second or third attempt, or never, in turn."""
    kinds = [(1, True), (2, True), (1, True), (3, True), (1, True), (3, False)]
    return [preference(index, *kinds[index // 6 % 6]) for index in range(count)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Select from preferences, and return the card and the rows of each file; without the plot, which is slow."""
    monkeypatch.setattr("r1reward_verl.data.select.plot", lambda _, path: path.touch())

    def run(*files, rules=None, out="out", **options):
        paths = [preference_file(tmp_path / f"in{index}.parquet", file) for index, file in enumerate(files)]
        card = select(paths, tmp_path / out, rules, SelectSettings(**options))
        return card, rows(tmp_path / out)

    return run


def rows(folder):
    return {path.stem: pq.read_table(path).to_pylist() for path in folder.glob("*.parquet")}


def ids(file):
    return [row["extra_info"]["id"] for row in file]


def labels(file):
    return Counter(row["extra_info"]["order"] + 1 for row in file)


def rejects(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# What goes where


def test_the_same_pair_under_two_sources_is_taken_once(run):
    """The one that a teacher has solved, whatever stands first."""
    unsolved = preference(1, 3, solved=False, source="x")
    solved = preference(1, 2, source="y", response_1="No, 1.", response_2="Yes, 1.", label=2)
    plain = preference(1, source="z")
    pictured = [preference(1, 2, source=name, images=(Media(data=png(name)),)) for name in ("red", "blue")]
    for order in ([unsolved, solved, plain], [plain, solved, unsolved]):
        card, files = run([*order, *pictured, preference(2, 2, source="x")])
        assert sorted(row["extra_info"]["source"] for row in files["rl"]) == ["blue", "red", "x", "y"]
        assert sorted(row["extra_info"]["source"] for row in files["sft"]) == ["blue", "red", "x", "y"]
        assert card["rows"] == {"read": 6, "rejected": 0, "repeated": 2}


def test_r1_rewards_rule(run):
    preferences = annotated(72)
    card, files = run(preferences)
    assert set(files) == {"sft", "rl"}
    assert set(ids(files["sft"])) == {one.id for one in preferences if one.trace}
    assert set(ids(files["rl"])) == {one.id for one in preferences if one.difficulty > 1 or not one.trace}
    traces = {one.id: one.trace for one in preferences}
    for row in files["sft"]:
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["messages"][1]["content"] == traces[row["extra_info"]["id"]]
    for file in files.values():
        assert [row["extra_info"]["index"] for row in file] == list(range(len(file)))
    assert card["difficulty"] == {"1": 36, "2": 12, "3": 12, "unsolved": 12}
    assert card["sets"]["sft"]["difficulty"] == {"1": 36, "2": 12, "3": 12}
    assert card["sets"]["rl"]["difficulty"] == {"2": 12, "3": 12, "unsolved": 12}


def test_a_row_says_whether_it_was_ever_solved_also_when_it_was_swapped(run):
    preferences = [preference(i, 3, solved=i % 2 == 0, label=1) for i in range(20)]
    card, files = run(preferences)
    assert card["sets"]["rl"]["swapped"] == 10
    assert all(row["extra_info"]["solved"] == (int(row["extra_info"]["id"][1:]) % 2 == 0) for row in files["rl"])
    assert {row["extra_info"]["difficulty"] for row in files["rl"]} == {3}


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("2,3,unsolved", {2, 3, "unsolved"}),
        ("2+,unsolved", {2, 3, 4, "unsolved"}),
        ("1", {1}),
        ("3+, 1", {1, 3, 4}),
        ("unsolved", {"unsolved"}),
        ("all", {1, 2, 3, 4, "unsolved", None}),
    ],
)
def test_difficulties(text, inside):
    difficulties = Difficulties.read(text)
    cases = {1: (1, True), 2: (2, True), 3: (3, True), 4: (4, True), "unsolved": (3, False), None: (0, False)}
    assert {name for name, case in cases.items() if difficulties.has(*case)} == inside
    assert Difficulties.read(str(difficulties)) == difficulties


def test_other_difficulties_by_option(run):
    sft, rl = Difficulties.read("2,3"), Difficulties.read("unsolved")
    card, _ = run(annotated(72), rules=Rules(sft_difficulty=sft, rl_difficulty=rl))
    assert card["sets"]["sft"]["difficulty"] == {"2": 12, "3": 12}
    assert card["sets"]["rl"]["difficulty"] == {"unsolved": 12}


def test_files_without_annotation_can_be_exported(run):
    preferences = [preference(index) for index in range(8)]
    with pytest.raises(SelectionError, match=r"none of 8 .* run `r1reward data annotate` .* --rl-difficulty all"):
        run(preferences)
    card, files = run(preferences, rules=Rules(rl_difficulty=Difficulties.read("all")))
    assert set(files) == {"rl"}
    assert sorted(ids(files["rl"])) == sorted(one.id for one in preferences)
    assert {row["extra_info"]["difficulty"] for row in files["rl"]} == {None}
    assert card["notes"] == ["no SFT set, since nothing is annotated"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(), r"the RL set \(by difficulty: 1: 9; held out: 0; wanted: 2\+,unsolved\).*--rl-size 0"),
        (Rules(sft_difficulty=Difficulties.read("2")), r"the SFT set .* wanted: 2\).*--sft-difficulty.*--sft-size 0"),
        (Rules(sft_size=0, rl_size=0), "every size is 0"),
        (Rules(caps={"x": 1}), "--cap x: there is no such source, but a, b, c"),
    ],
)
def test_an_empty_set_is_an_error_that_names_the_way_out(run, tmp_path, rules, message):
    with pytest.raises(SelectionError, match=message):
        run([preference(index, 1) for index in range(9)], rules=rules)
    assert not (tmp_path / "out").exists()


def test_a_set_of_size_0_is_not_written(run):
    _, files = run([preference(index, 1) for index in range(9)], rules=Rules(rl_size=0))
    assert set(files) == {"sft"}


# Draws


def test_neither_the_order_of_the_input_nor_its_division_into_files_matters(run):
    preferences = annotated(90)
    rules = Rules(sft_size=30, rl_size=20, val=5, caps={"a": 8}, sft_balance="drop")
    _, files = run(preferences, rules=rules)
    random.Random(1).shuffle(preferences)
    card, again = run(preferences[:20], preferences[20:], rules=rules, out="again")
    assert files == again
    assert card["sets"]["val"]["rows"] == 10


def test_a_seed_gives_another_order_and_the_same_rows(run):
    _, files = run(annotated(72))
    _, others = run(annotated(72), rules=Rules(seed=1), out="others")
    assert ids(files["rl"]) != ids(others["rl"]) != sorted(ids(others["rl"]))
    assert set(ids(files["rl"])) == set(ids(others["rl"]))


def test_another_row_leaves_the_others_in_their_order(run):
    preferences = annotated(72)
    _, files = run(preferences[:-6])
    _, more = run(preferences, out="more")
    before = set(ids(files["sft"]))
    assert [name for name in ids(more["sft"]) if name in before] == ids(files["sft"])


def test_curriculum_goes_from_easy_to_hard(run):
    every = Difficulties.read("all")
    preferences = [*annotated(72), *(preference(index) for index in range(100, 112))]
    card, files = run(preferences, rules=Rules(order="curriculum", rl_difficulty=every))
    about = [row["extra_info"] for row in files["rl"]]
    kinds = [(one["difficulty"], one["solved"]) for one in about]
    steps = [(1, True)] * 36 + [(2, True)] * 12 + [(3, True)] * 12 + [(None, None)] * 12 + [(3, False)] * 12
    assert kinds == steps
    easy = [one["id"] for one in about[:36]]
    assert easy != sorted(easy, key=lambda name: int(name[1:]))
    assert any("data.shuffle=false" in note for note in card["notes"])


def test_the_order_of_the_input(run):
    preferences = annotated(72)
    _, files = run(preferences, rules=Rules(order="input", val=4))
    expected = [one.id for one in preferences if one.trace and one.id not in ids(files["val"])]
    assert ids(files["sft"]) == expected


def test_caps_hold_in_both_sets_and_draw_the_same_rows_whatever_else_is_there(run):
    preferences = annotated(108)
    card, files = run(preferences, rules=Rules(caps={"a": 5, "b": 0}))
    for name in ("sft", "rl"):
        assert card["sets"][name]["sources"].keys() == {"a", "c"}
        assert card["sets"][name]["sources"]["a"] == 5
    _, alone = run([one for one in preferences if one.source == "a"], rules=Rules(caps={"a": 5}), out="alone")
    assert set(ids(alone["sft"])) < set(ids(files["sft"]))


def test_a_capped_source_is_not_gathered_at_one_end(run):
    preferences = [preference(index, 2, source="few" if index % 2 else "many") for index in range(2000)]
    _, files = run(preferences, rules=Rules(caps={"few": 200}))
    for file in (files["sft"], files["rl"]):
        first = sum(row["extra_info"]["source"] == "few" for row in file[:600])
        assert 70 < first < 130  # 100 of 600, at a standard deviation of 7


def test_sizes(run):
    card, files = run(annotated(72), rules=Rules(sft_size=10, rl_size=1000))
    assert len(files["sft"]) == 10
    assert len(files["rl"]) == 36
    assert card["notes"] == ["rl: 36 rows, of 1,000 that --rl-size asks for"]
    _, more = run(annotated(72), rules=Rules(sft_size=20), out="more")
    assert set(ids(files["sft"])) < set(ids(more["sft"]))


# Balance


@pytest.mark.parametrize(("ones", "twos"), [(30, 10), (10, 30), (31, 10), (20, 20), (7, 0)])
def test_rl_labels_are_balanced_by_the_fewest_swaps(run, ones, twos):
    preferences = [preference(i, 2, label=1 if i < ones else 2) for i in range(ones + twos)]
    card, files = run(preferences)
    counts = labels(files["rl"])
    assert abs(counts[1] - counts[2]) == (ones + twos) % 2
    assert card["sets"]["rl"]["swapped"] == abs(ones - twos) // 2
    original = {one.id: one for one in preferences}
    swapped = 0
    for row in files["rl"]:
        about, one = row["extra_info"], original[row["extra_info"]["id"]]
        turned = about["response_1"] == one.response_2
        swapped += turned
        responses = (one.response_2, one.response_1) if turned else (one.response_1, one.response_2)
        assert (about["response_1"], about["response_2"]) == responses
        assert row["reward_model"]["ground_truth"] == str(3 - one.label if turned else one.label)
        first, second = (row["prompt"][0]["content"].index(text) for text in responses)
        assert first < second
    assert swapped == card["sets"]["rl"]["swapped"]
    assert labels(files["sft"]) == Counter({1: ones, 2: twos})


def test_rl_labels_are_balanced_within_each_category(run):
    """Else a policy learns from what is hard in one order only that a shape means 2, and the others 1."""
    kinds = {("a", "shape"): (3, 40), ("a", "colour"): (9, 6), ("b", "shape"): (11, 6), ("b", "odd"): (0, 1)}
    about = [
        {"source": source, "category": category, "label": label}
        for (source, category), counts in kinds.items()
        for label, count in zip((1, 2), counts, strict=True)
        for _ in range(count)
    ]
    preferences = [preference(index, 2, **one) for index, one in enumerate(about)]
    card, files = run(preferences)
    rows = {kind: [row for row in files["rl"] if of_kind(row) == kind] for kind in kinds}
    assert {kind: len(mine) for kind, mine in rows.items()} == {kind: sum(counts) for kind, counts in kinds.items()}
    assert all(abs(labels(mine)[1] - labels(mine)[2]) <= 1 for mine in rows.values())
    assert labels(files["rl"])[1] == labels(files["rl"])[2]  # of four odd rows, two are either
    assert card["sets"]["rl"]["swapped"] in range(18 + 1 + 2, 18 + 1 + 2 + 4)


def of_kind(row):
    return row["extra_info"]["source"], row["extra_info"]["category"]


@pytest.mark.parametrize(("size", "count"), [(None, 40), (12, 12), (13, 12)])
def test_rl_rows_in_both_orders_stand_side_by_side(run, tmp_path, size, count):
    preferences = [preference(i, 2, label=1 if i < 15 else 2) for i in range(20)]
    card, files = run(preferences, rules=Rules(rl_balance="both", rl_size=size))
    rows = files["rl"]
    assert len(rows) == card["sets"]["rl"]["rows"] == count
    assert card["sets"]["rl"]["swapped"] == 0
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        one, other = first["extra_info"], second["extra_info"]
        assert one["pair_id"] == other["pair_id"]
        assert (one["response_1"], one["response_2"]) == (other["response_2"], other["response_1"])
        assert [row["reward_model"]["ground_truth"] for row in (first, second)] == ["1", "2"]
    assert len({row["extra_info"]["pair_id"] for row in rows}) == count // 2
    assert not [note for note in card["notes"] if note.startswith("rl")] or size == 13


def test_swapped_rows_are_not_gathered_at_one_end(run):
    _, files = run([preference(i, 2, label=1) for i in range(2000)])
    assert 160 < labels(files["rl"][:400])[1] < 240  # 200, at a standard deviation of 9


def test_without_swaps(run):
    preferences = [preference(i, 2, label=1 if i < 30 else 2) for i in range(40)]
    card, files = run(preferences, rules=Rules(rl_balance="none"))
    assert labels(files["rl"]) == Counter({1: 30, 2: 10})
    assert any(note.startswith("rl: 75% of the labels are 1") for note in card["notes"])


@pytest.mark.parametrize(("size", "expected"), [(None, (10, 10)), (8, (4, 4)), (7, (4, 3)), (100, (10, 10))])
def test_the_sft_set_is_balanced_by_dropping_rows_if_wanted(run, size, expected):
    preferences = [preference(i, 2, label=1 if i < 30 else 2) for i in range(40)]
    _, files = run(preferences, rules=Rules(sft_balance="drop", sft_size=size))
    assert labels(files["sft"]) == Counter({1: expected[0], 2: expected[1]})


@pytest.mark.parametrize(("ones", "warned"), [(30, True), (10, True), (22, False), (18, False)])
def test_an_uneven_sft_set_is_said(run, ones, warned):
    card, _ = run([preference(i, 2, label=1 if i < ones else 2) for i in range(40)])
    assert any(note.startswith("sft: 75% of the labels are") for note in card["notes"]) == warned
    assert any("--sft-balance drop" in note for note in card["notes"]) == warned


# Held-out preferences


def test_held_out_pairs_come_in_both_orders_and_the_evaluation_reads_them(run, tmp_path):
    _, files = run(annotated(72), rules=Rules(val=6))
    pairs = [files["val"][start : start + 2] for start in range(0, 12, 2)]
    for first, second in pairs:
        assert first["extra_info"]["pair_id"] == second["extra_info"]["pair_id"]
        assert [row["reward_model"]["ground_truth"] for row in (first, second)] == ["1", "2"]
        assert first["extra_info"]["response_1"] == second["extra_info"]["response_2"]
    assert len({first["extra_info"]["pair_id"] for first, _ in pairs}) == 6
    assert not set(ids(files["val"])) & {*ids(files["sft"]), *ids(files["rl"])}

    cases = list(BENCHMARKS["preferences"].read(tmp_path / "out" / "held_out.parquet"))
    assert [case.row for case in cases] == [1, 2, 3, 4, 5, 6]
    shown = {(first["extra_info"]["response_1"], first["extra_info"]["response_2"]) for first, _ in pairs}
    assert {(case.chosen, case.rejected) for case in cases} == shown


def picture(index):
    return Media(path=f"/pictures/{index}.png", sha256=f"{index:064x}")


def pictures(row):
    return {image["image"] for image in row["images"]} | {frame for video in row["videos"] for frame in video["video"]}


def test_nothing_about_a_held_out_picture_is_trained_on(run):
    """Pictures are in common along chains, by content or by path; a video by its first and last frame."""
    draw = random.Random(0)
    preferences = []
    for index in range(300):
        one, other = draw.sample(range(400), 2)
        images = (picture(one),) if index % 3 else (picture(one), picture(other))
        preferences.append(preference(index, 1 + index % 3, images=images))
    copied = [replace(picture(index), path=f"/copies/{index}.png") for index in range(30)]
    unhashed = [Media(path=f"/pictures/{index}.png") for index in range(30)]
    for index, media in enumerate([*copied, *unhashed]):
        preferences.append(preference(1000 + index, 2, images=(media,)))
    _, files = run(preferences, rules=Rules(val=40, rl_difficulty=Difficulties.read("all")))
    names = {
        name: {os.path.basename(path) for row in files[name] for path in pictures(row)} for name in ("sft", "rl", "val")
    }
    assert len(files["val"]) == 80
    assert not names["val"] & (names["sft"] | names["rl"])
    # Nothing is left out either: what is not held out is trained on.
    assert len(files["val"]) // 2 + len(files["rl"]) == len(preferences)


def test_a_video_is_the_same_however_many_frames_were_sampled(run):
    def clip(number, frames):
        return tuple(picture(1000 * number + frame) for frame in frames)

    preferences = []
    for number in range(1, 31):
        preferences.append(preference(2 * number, 2, video=clip(number, (0, 5, 10))))
        preferences.append(preference(2 * number + 1, 2, video=clip(number, (0, 3, 6, 10))))
    _, files = run(preferences, rules=Rules(val=10))
    held_out = {int(name[1:]) // 2 for name in ids(files["val"])}
    assert len(held_out) == 5
    assert not held_out & {int(name[1:]) // 2 for name in ids(files["rl"])}


def test_rows_without_media_belong_together_by_their_question(run):
    preferences = [
        preference(i, 2, question=f"Who  wrote Book {i // 2}?" if i % 2 else f"who wrote book {i // 2}?")
        for i in range(60)
    ]
    _, files = run(preferences, rules=Rules(val=10))
    assert len({int(name[1:]) // 2 for name in ids(files["val"])}) == 5
    # A question about different pictures is no bond.
    preferences = [preference(i, 2, question="Describe it.", images=(picture(i),)) for i in range(60)]
    _, files = run(preferences, rules=Rules(val=10), out="pictures")
    assert len(files["rl"]) == 50


def test_held_out_pictures_are_drawn_by_content_not_by_place(run):
    def moved(folder):
        return [preference(i, 2, images=(replace(picture(i), path=f"/{folder}/{i}.png"),)) for i in range(60)]

    _, files = run(moved("here"), rules=Rules(val=10))
    _, others = run(moved("there"), rules=Rules(val=10), out="others")
    assert ids(files["val"]) == ids(others["val"])


def test_groups_are_not_divided(run):
    preferences = [preference(i, 2, images=(picture(i // 4),)) for i in range(40)]
    card, files = run(preferences, rules=Rules(val=6))
    assert len(files["val"]) == 8
    assert any("val: 4 preferences, of 6" in note for note in card["notes"])
    with pytest.raises(SelectionError, match=r"no 3 preferences can be held out.*Raise --val"):
        run(preferences, rules=Rules(val=3))


# Media


@pytest.fixture
def files_of_pictures(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for index, path in enumerate(paths):
        path.write_bytes(png(("red", "green", "blue", "white")[index]))
    return [Media(path=str(path)) for path in paths]


def with_media(media):
    return [preference(0, 2, images=media[:1]), preference(1, 2, images=media[:2]), preference(2, 2, video=media)]


def test_pictures_stay_paths(run, files_of_pictures, tmp_path):
    _, files = run(with_media(files_of_pictures), media_position="after")
    assert pq.read_schema(tmp_path / "out" / "rl.parquet").equals(rl_schema(inline=False))
    assert pq.read_schema(tmp_path / "out" / "sft.parquet").equals(sft_schema(inline=False))
    by_id = {row["extra_info"]["id"]: row for row in files["rl"]}
    assert by_id["r1"]["images"] == [{"image": one.path} for one in files_of_pictures[:2]]
    assert by_id["r1"]["prompt"][0]["content"].endswith("<image><image>")
    assert by_id["r2"]["videos"] == [{"video": [one.path for one in files_of_pictures]}]


@pytest.mark.parametrize("given", ["option", "input"])
def test_pictures_are_embedded_on_request_and_where_the_input_embeds_them(run, files_of_pictures, tmp_path, given):
    media = files_of_pictures
    if given == "input":
        media = [Media(data=Path(one.path).read_bytes()) for one in media]
    card, files = run(with_media(media), inline=given == "option")
    assert card["settings"]["inline"]
    assert pq.read_schema(tmp_path / "out" / "rl.parquet").equals(rl_schema(inline=True))
    for name in ("rl", "sft"):
        by_id = {row["extra_info"]["id"]: row for row in files[name]}
        assert by_id["r1"]["images"] == [{"bytes": png("red")}, {"bytes": png("green")}]
        assert [frame[:22] for frame in by_id["r2"]["videos"][0]["video"]] == ["data:image/png;base64,"] * 4


def test_a_file_cannot_hold_both_forms(run, files_of_pictures):
    mixed = [preference(0, 2, images=files_of_pictures[:1]), preference(1, 2, images=(Media(data=png("red")),))]
    with pytest.raises(SelectionError, match=r"1 preferences hold pictures themselves, 1 name files.*--inline"):
        run(mixed)
    _, files = run(mixed, inline=True)
    assert [row["images"] for row in files["rl"]] == [[{"bytes": png("red")}]] * 2


def test_prompts_are_of_the_given_template(run):
    _, files = run(annotated(72), template="Q {question} A {response_1} B {response_2}")
    index = files["sft"][0]["extra_info"]["id"][1:]
    expected = f"Q Question {index}? A Yes, {index}. B No, {index}."
    assert files["sft"][0]["messages"][0]["content"] == expected


# Bad input


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (preference(1, 1, trace="<think>x</think>"), "the trace is no judgement (truncated)"),
        (preference(1, 1, label=1, trace="<think>x</think><answer>2</answer>"), "the trace says 2, the label 1"),
        (preference(1, 1, images=(Media(path="a.png"),)), "the media path 'a.png' is relative"),
        (preference(1, 1, video=(Media(path="/clips/a.mp4"),)), "'/clips/a.mp4' is not cut into frames"),
    ],
)
def test_bad_rows_are_rejected_and_counted(run, tmp_path, bad, reason):
    card, _ = run([*annotated(36), replace(bad, id="bad")])
    assert card["rows"] == {"read": 37, "rejected": 1, "repeated": 0}
    (reject,) = rejects(tmp_path / "out" / "rejects.jsonl")
    assert reject["reason"].startswith(reason) or reason in reject["reason"]
    assert (reject["file"], reject["line"], reject["row"]["id"]) == (str(tmp_path / "in0.parquet"), 37, "bad")


def test_an_id_in_two_files_is_rejected_with_both_places(run, tmp_path):
    preferences = annotated(36)
    again = replace(preferences[4], question="Another one?")
    other_source = replace(preferences[4], source="another")
    card, _ = run(preferences, [other_source, again])
    assert card["rows"] == {"read": 38, "rejected": 1, "repeated": 1}
    (reject,) = rejects(tmp_path / "out" / "rejects.jsonl")
    assert (reject["file"], reject["line"]) == (str(tmp_path / "in1.parquet"), 2)
    assert reject["reason"] == f"id 'r4' of source 'b' stands already in {tmp_path / 'in0.parquet'}:5"


def test_a_picture_that_cannot_be_embedded_rejects_its_row(run, files_of_pictures, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    changed = replace(files_of_pictures[0], sha256="0" * 64)
    bad = [Media(path="/nowhere/a.png"), Media(path=str(tmp_path / "text.png")), changed]
    rows_ = [preference(index, 2, images=(media,)) for index, media in enumerate([*files_of_pictures, *bad])]
    card, _ = run(rows_, inline=True, max_rejects=0.5)
    assert card["rows"]["rejected"] == 3
    reasons = [reject["reason"] for reject in rejects(tmp_path / "out" / "rejects.jsonl")]
    assert "/nowhere/a.png" in reasons[0]
    assert "not a JPEG" in reasons[1]
    assert "is not the file any more" in reasons[2]


def test_too_many_rejects_are_an_error_and_the_rejects_stay(run, tmp_path):
    bad = preference(99, 1, images=(Media(path="a.png"),))
    beside = tmp_path / "out.rejects.jsonl"
    with pytest.raises(SelectionError, match=r"1 of 7 rows were rejected, more than 5\.0%: see .*out\.rejects\.jsonl"):
        run([*annotated(6), bad])
    assert len(rejects(beside)) == 1
    assert sorted(os.listdir(tmp_path)) == ["in0.parquet", "out.rejects.jsonl"]
    run([*annotated(12), preference(12, 2)])
    assert not beside.exists()


def test_a_truncated_file_is_an_error(run, tmp_path):
    whole = preference_file(tmp_path / "whole.parquet", annotated(36)).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SelectionError, match=r"cannot be read to the end: .*cut\.parquet"):
        select([tmp_path / "cut.parquet"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The folder


def test_a_folder_of_an_earlier_run_is_replaced_as_a_whole(run, tmp_path):
    run(annotated(36), rules=Rules(val=2))
    assert sorted(os.listdir(tmp_path / "out")) == [
        "card.json",
        "card.png",
        "held_out.parquet",
        "rl.parquet",
        "sft.parquet",
        "val.parquet",
    ]
    run(annotated(36), rules=Rules(rl_size=0))
    assert sorted(os.listdir(tmp_path / "out")) == ["card.json", "card.png", "sft.parquet"]
    before = (tmp_path / "out" / "sft.parquet").read_bytes()
    with pytest.raises(SelectionError):
        run([preference(0)])
    assert (tmp_path / "out" / "sft.parquet").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["in0.parquet", "out"]


def test_nothing_beside_the_folder_is_touched(run, tmp_path):
    for name in ("out.old", "out.partial", "out.earlier"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("a backup")
    run(annotated(36))
    run(annotated(36))
    with pytest.raises(SelectionError):
        run([preference(0)])
    assert all((tmp_path / name / "precious").exists() for name in ("out.old", "out.partial", "out.earlier"))
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("names", [["mine.txt"], ["card.json"], ["sft.parquet"], ["card.json", "mine.txt"]])
def test_any_other_folder_is_refused(run, tmp_path, names):
    if names == ["card.json", "mine.txt"]:
        run(annotated(36))
    else:
        (tmp_path / "out").mkdir()
    for name in names:
        if not (tmp_path / "out" / name).exists():
            (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(ValueError, match=r"out' holds .*name another"):
        run(annotated(36))
    assert set(names) <= set(os.listdir(tmp_path / "out"))


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    source = preference_file(tmp_path / "in.parquet", annotated(3000))
    limit = 200 << 10

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-c", RUN, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, timeout=120, check=False)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "out was not written" in done.stderr
    assert os.listdir(tmp_path) == ["in.parquet"]


# The command


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    source = preference_file(tmp_path / "in.parquet", annotated(72))
    (tmp_path / "template.txt").write_text("Q {question} A {response_1} B {response_2}\n")
    options = ["--cap", "a=4", "--val", "3", "--prompt-template", str(tmp_path / "template.txt")]
    assert main([str(source), *options, str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert "rows  72 read, 0 rejected" in said
    assert "1: 36, 2: 12, 3: 12, unsolved: 12" in said
    assert f"rl    {card['sets']['rl']['rows']} rows" in said
    assert said.endswith(f"written: {tmp_path / 'out'}\n")
    assert (tmp_path / "out" / "card.png").read_bytes().startswith(b"\x89PNG")
    assert card["settings"]["caps"] == {"a": 4}
    assert card["settings"]["rl_difficulty"] == "2+,unsolved"
    assert card["settings"]["template"] == "Q {question} A {response_1} B {response_2}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rl-difficulty", "hard"], "'hard' is not a difficulty"),
        (["--sft-difficulty", "1,unsolved"], "the SFT set cannot have what no attempt solved"),
        (["--cap", "a"], "'a' is not SOURCE=N"),
        (["--cap", "a=1", "--cap", "a=2"], "a source is given twice"),
        (["--rl-size", "-1"], "rl-size is -1"),
        (["--max-rejects", "2"], "max-rejects is 2.0"),
        (["--prompt-template", "nowhere.txt"], "nowhere.txt"),
        (["in.parquet"], "is given twice"),
        (["nowhere.parquet"], "no file 'nowhere.parquet'"),
    ],
)
def test_a_wrong_argument_ends_the_command_with_2(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    preference_file(tmp_path / "in.parquet", annotated(36))
    assert main(["in.parquet", *options, "out"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    source = preference_file(tmp_path / "in.parquet", annotated(36))
    assert main([str(source), str(preference_file(tmp_path / "other.parquet", annotated(36)))]) == 2
    assert "is a file; a folder is written" in capsys.readouterr().err


def test_a_run_that_fails_ends_with_1(tmp_path, capsys):
    source = preference_file(tmp_path / "in.parquet", [preference(0)])
    assert main([str(source), str(tmp_path / "out")]) == 1
    assert "error: none of 1 preferences is annotated" in capsys.readouterr().err
