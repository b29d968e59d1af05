"""What each form of each benchmark is read as, what is refused and how, and how many cases of what there are."""

import json
from collections import Counter
from dataclasses import replace

import pytest

import benchmark_files
from benchmark_files import (
    jsonl,
    judgebench_rows,
    mm_rows,
    multimodal_rows,
    parquet,
    rewardbench_2_rows,
    videorewardbench_rows,
    vl_hub_rows,
    vl_rows,
    write,
)
from factories import png
from r1reward_verl.cli import main
from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.preference import SCHEMA, to_row
from r1reward_verl.data.readers import RowError
from r1reward_verl.evaluation.benchmarks import BENCHMARKS, Case, missing
from r1reward_verl.media import Media

VL, MM, MULTIMODAL, PREFERENCES = (
    BENCHMARKS[name] for name in ("vl-rewardbench", "mm-rlhf-rewardbench", "multimodal-rewardbench", "preferences")
)
REWARDBENCH_2, JUDGEBENCH, VIDEO = (BENCHMARKS[name] for name in ("rewardbench-2", "judgebench", "videorewardbench"))
SMALL = {VL: vl_rows(), MM: mm_rows(), MULTIMODAL: multimodal_rows(), JUDGEBENCH: judgebench_rows()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return folder, write(folder)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return write(tmp_path_factory.mktemp("full"), full=True, media=False)


def read(benchmark, path, media_root=None, **options):
    """Return cases and errors."""
    items = list(benchmark.read(path, media_root, **options))
    return [one for one in items if isinstance(one, Case)], [one for one in items if isinstance(one, RowError)]


def read_rows(benchmark, tmp_path, *rows, **options):
    return read(benchmark, jsonl(tmp_path / "rows.jsonl", rows), **options)


def counts(cases):
    return dict(Counter(case.category for case in cases))


# Counts of the whole files


@pytest.mark.parametrize("form", [0, 1])
def test_vl_rewardbench_has_the_leaderboards_counts(full, form):
    cases, errors = read(VL, full["vl-rewardbench"][form])
    assert not errors
    assert counts(cases) == {"general": 183, "hallucination": 749, "reasoning": 318}
    assert len({case.id for case in cases}) == 1225
    assert len({case.row for case in cases}) == 1250


def test_vl_rewardbench_has_the_references_counts_with_its_rules(full):
    cases, _ = read(VL, full["vl-rewardbench"][0])
    theirs = Counter(case.reference_category for case in cases)
    assert theirs == {"general": 484, "hallucination": 448, "reasoning": 318}


@pytest.mark.parametrize("form", [0, 1])
def test_mm_rlhf_rewardbench_has_46_ids_of_one_category_each(full, form):
    cases, errors = read(MM, full["mm-rlhf-rewardbench"][form])
    assert not errors
    assert all(case.reference_category == case.category for case in cases)
    assert counts(cases) == {"mcq": 42, "long": 37, "short": 34, "safety": 32, "video": 25}
    of_ids = {case.id: case.category for case in cases}
    assert Counter(of_ids.values()) == {"mcq": 10, "long": 10, "short": 10, "safety": 6, "video": 10}
    assert set(of_ids.items()) == {(case.id, case.category) for case in cases}


@pytest.mark.parametrize("form", [0, 1])
def test_multimodal_rewardbench_has_the_papers_seven_columns(full, form):
    cases, errors = read(MULTIMODAL, full["multimodal-rewardbench"][form])
    assert not errors
    assert all(case.reference_category == case.category for case in cases)
    expected = {"correctness": 623, "preference": 654, "knowledge": 630}
    expected |= {"math": 514, "coding": 584, "safety": 508, "VQA": 1198}
    assert counts(cases) == expected
    assert len(cases) == 4711


def summary(benchmark, cases):
    return benchmark.summary([case.id for case in cases], [case.category for case in cases])


def test_the_summary_says_that_counts_are_the_published_ones(full):
    for benchmark in (VL, MM, MULTIMODAL):
        cases, _ = read(benchmark, full[benchmark.name][0])
        lines = summary(benchmark, cases)
        assert lines[1].startswith("as many as published"), lines
        assert "not comparable" not in str(lines)


def test_the_summary_of_a_subset_shows_both_counts(full):
    cases, _ = read(MM, full["mm-rlhf-rewardbench"][0])
    found, published, comparable = summary(MM, cases[1:])
    assert found == ("mm-rlhf-rewardbench: 169 cases of 46 ids (mcq 41, long 37, short 34, safety 32, video 25)")
    assert "170 cases of 46 ids (mcq 42, long 37, short 34, safety 32, video 25)" in published
    assert "not comparable" in comparable
    # As many cases, but of other categories or ids
    exchanged = [replace(cases[0], category="video"), *cases[1:]]
    assert "not comparable" in summary(MM, exchanged)[-1]
    renamed = [replace(case, id="one") for case in cases]
    assert "not comparable" in summary(MM, renamed)[-1]


def test_the_summary_knows_both_releases_of_vl_rewardbench(full):
    cases, _ = read(VL, full["vl-rewardbench"][1])
    assert "old labels" in summary(VL, cases)[1]
    assert "corrected labels" not in summary(VL, cases[3:])[1], "1,247 rows of the old file, whose ids repeat"
    corrected = [replace(case, id=f"{case.id}-{place}") for place, case in enumerate(cases[3:])]
    assert "corrected labels" in summary(VL, corrected)[1]
    assert [line[:25] for line in summary(VL, cases[4:])[1:3]] == [
        "published: 1,250 cases (g",
        "published: 1,247 cases of",
    ]


def test_the_summary_tells_what_is_doubtful(full):
    cases, _ = read(MULTIMODAL, full["multimodal-rewardbench"][0])
    assert summary(MULTIMODAL, cases)[-1].startswith("486 cases of visitbench: ")
    cases, _ = read(VL, full["vl-rewardbench"][0])
    strange = [*cases, replace(cases[0], id="rlaif-v-1", category="general")]
    assert summary(VL, strange)[-1].startswith("1 ids, such as 'rlaif-v-1', begin with none of RLAIF, ")


def test_the_summary_of_preferences_has_the_categories_of_the_file(small):
    cases, _ = read(PREFERENCES, small[1]["preferences"][0])
    assert summary(PREFERENCES, cases) == ["preferences: 4 cases of 4 ids (counting 2, film 1, text 1)"]


def test_what_is_averaged_how():
    assert VL.categories == ("general", "hallucination", "reasoning")
    assert MM.categories == ("mcq", "long", "short", "safety", "video")
    assert MULTIMODAL.categories == ("correctness", "preference", "knowledge", "math", "coding", "safety", "VQA")
    assert PREFERENCES.categories == ()
    assert {benchmark.overall for benchmark in BENCHMARKS.values()} == {"micro"}
    assert [name for name, benchmark in BENCHMARKS.items() if benchmark.paper_overall == "macro"] == [MULTIMODAL.name]
    assert [one for one in BENCHMARKS.values() if one.acc_plus] == [MM, REWARDBENCH_2]


# What a row becomes


def test_a_row_of_vl_rewardbench(small):
    folder, files = small
    cases, _ = read(VL, files["vl-rewardbench"][0], folder / "media")
    row = vl_rows()[3]
    assert cases[3] == Case(
        row=4,
        id=row["id"],
        category="hallucination",
        reference_category="general",
        question=row["prompt"],
        chosen=row["chosen"],
        rejected=row["rejected"],
        images=(Media(path=str(folder / "media" / row["image"])),),
        video=None,
    )


def test_both_forms_of_vl_rewardbench_say_the_same(small):
    (one, _), (other, _) = (read(VL, path) for path in small[1]["vl-rewardbench"])
    assert [replace(case, images=()) for case in one] == [replace(case, images=()) for case in other]
    assert all(case.images[0].data.startswith(b"\x89PNG") for case in other)


@pytest.mark.parametrize(("ranking", "better"), [([0, 1], "A."), ([1, 0], "B.")])
def test_human_ranking_holds_the_rank_of_each_response(tmp_path, ranking, better):
    row = {**vl_hub_rows()[0], "image": "a.png", "response": ["A.", "B."], "human_ranking": ranking}
    (case,), _ = read_rows(VL, tmp_path, row)
    assert case.chosen == better
    assert {case.chosen, case.rejected} == {"A.", "B."}


@pytest.mark.parametrize(
    ("identity", "own", "reference"),
    [
        ("RLAIF-V-14", "hallucination", "general"),
        ("RLHF-V-31", "hallucination", "general"),
        ("rlhf-v-31", "general", "hallucination"),
        ("hallucination_pair-1003", "hallucination", "hallucination"),
        ("mathverse_1063-2", "reasoning", "reasoning"),
        ("mmmu_pro_test_Marketing_150", "reasoning", "reasoning"),
        ("wildvision-battle-13", "general", "general"),
        ("wildvision-mmmu-13", "general", "reasoning"),
        ("svit-complex_reasoning-876", "general", "general"),
    ],
)
def test_categories_of_vl_rewardbench(tmp_path, identity, own, reference):
    rows = [vl_rows()[0], {**vl_rows()[1], "id": identity}]
    case = read_rows(VL, tmp_path, *rows)[0][1]
    assert (case.category, case.reference_category) == (own, reference)


@pytest.mark.parametrize(
    ("path", "own", "reference"),
    [
        ("mcq/longhand.png", "mcq", "mcq"),
        ("short/a_long_road.png", "short", "long"),
        ("short/long", "short", "long"),
        ("/home/author/longterm/short/1.png", "short", "long"),
        ("./safety/long/1.jpg", "long", "long"),
        ("long/safety/1.jpg", "safety", "long"),
    ],
)
def test_categories_of_mm_rlhf_rewardbench(tmp_path, path, own, reference):
    row = {**mm_rows()[0], "image": path}
    case = read_rows(MM, tmp_path, row)[0][0]
    assert (case.category, case.reference_category) == (own, reference)


@pytest.mark.parametrize(
    ("identity", "category", "column"),
    [
        ("mathvista_3", "reasoning", "math"),
        ("MathVista_3", "reasoning", "math"),
        ("EMMA-Coding_3", "reasoning", "coding"),
        ("pairs_3", "safety", "safety"),
        ("hateful_memes_3", "safety", "safety"),
        ("mathvista_3", "vqa", "VQA"),
        ("SEED-Bench_3", "VQA", "VQA"),
        ("nocaps_3", "open_generation/preference_task", "preference"),
    ],
)
def test_categories_of_multimodal_rewardbench(tmp_path, identity, category, column):
    row = {**multimodal_rows()[0], "ID": identity, "Category": category}
    assert read_rows(MULTIMODAL, tmp_path, row)[0][0].category == column


def test_better_names_an_output(tmp_path):
    rows = [{**multimodal_rows()[0], "Output1": "A.", "Output2": "B.", "Better": f"Output{n}"} for n in (1, 2)]
    cases, _ = read_rows(MULTIMODAL, tmp_path, *rows)
    assert [(case.chosen, case.rejected) for case in cases] == [("A.", "B."), ("B.", "A.")]


def test_preferences_are_turned_by_their_label(small):
    folder, files = small
    cases, errors = read(PREFERENCES, files["preferences"][0])
    assert not errors
    assert [(case.chosen, case.rejected) for case in cases] == [
        ("Three.", "Seven."),
        ("Seven.", "Three."),
        ("Seven.", "Three."),
        ("Three.", "Seven."),
    ]
    assert [case.id for case in cases] == ["a", "b", "c", "d"]
    assert [len(case.images) for case in cases] == [1, 2, 0, 0]
    assert [len(case.video or ()) for case in cases] == [0, 0, 32, 0]
    assert cases[0].images == benchmark_files.preferences(folder)[0].images
    assert missing(cases) == {}


def test_markers_of_media_are_no_part_of_the_question_and_other_brackets_are(tmp_path):
    rows = [{**vl_rows()[0], "prompt": text} for text in ("<image>\nWhat is it?", "A. <image 2>\nB. <image 3>")]
    cases, _ = read_rows(VL, tmp_path, *rows)
    assert [case.question for case in cases] == ["What is it?", "A. <image 2>\nB. <image 3>"]


def test_columns_that_do_not_belong_to_a_benchmark_change_nothing(tmp_path):
    more = {"label": "third", "images": 7, "category": "", "source": 3, "difficulty": "x", "trace": [], "response_1": 0}
    for benchmark, rows in SMALL.items():
        plain, _ = read_rows(benchmark, tmp_path, rows[0])
        extended, errors = read_rows(benchmark, tmp_path, {**more, **rows[0]})
        assert not errors
        assert plain == extended


def test_the_better_answer_of_judgebench_is_the_one_its_label_names(tmp_path):
    cases, errors = read_rows(JUDGEBENCH, tmp_path, *judgebench_rows())
    assert not errors
    assert [(case.id, case.category, case.chosen) for case in cases] == [
        ("pair-0", "knowledge", "Ten."),
        ("pair-1", "reasoning", "It depends."),
        ("pair-2", "math", "Ten."),
        ("pair-3", "coding", "It depends."),
    ]
    assert all(case.images == () and case.video is None for case in cases)


def test_a_row_of_rewardbench_2_is_a_case_for_each_pair_of_a_right_and_a_wrong_response(tmp_path):
    cases, errors = read_rows(REWARDBENCH_2, tmp_path, *rewardbench_2_rows())
    assert not errors
    assert [case.row for case in cases] == list(range(1, 12))
    assert Counter(case.id for case in cases) == {"7": 3, "ref:0": 2, "tied:0": 6}
    assert counts(cases) == {"Factuality": 3, "Ties": 8}
    pairs = {(case.chosen, case.rejected) for case in cases if case.id == "tied:0"}
    assert pairs == {(a, b) for a in ("Red.", "Blue.") for b in ("Brown.", "Grey.", "Pink.")}


def test_a_bad_row_of_rewardbench_2_gives_no_case_and_moves_no_other(tmp_path):
    first, _, last = rewardbench_2_rows()
    bad = [{**first, "rejected": "Brown."}, {**first, "rejected": ["Brown.", "Red."]}, {**first, "chosen": []}]
    cases, errors = read_rows(REWARDBENCH_2, tmp_path, *bad, last)
    assert [error.number for error in errors] == [1, 2, 3]
    assert "rejected is 'Brown.'; a list of texts is needed" in errors[0].reason
    assert "the same text" in errors[1].reason
    assert [case.row for case in cases] == [1, 2, 3, 4, 5, 6]


def test_videorewardbench_has_the_papers_five_kinds_in_either_form(tmp_path):
    rows = videorewardbench_rows()
    cases, errors = read_rows(VIDEO, tmp_path, *rows)
    assert not errors
    assert tuple(case.category for case in cases) == VIDEO.categories
    other = [{{"question": "prompt", "video_path": "video"}.get(name, name): row[name] for name in row} for row in rows]
    assert read_rows(VIDEO, tmp_path, *other)[0] == cases
    with pytest.raises(ValueError, match="category is 'perception', not one of long-form perception, "):
        read_rows(VIDEO, tmp_path, {**rows[0], "category": "perception"})


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "preferences"])
def test_a_benchmarks_file_can_be_converted_to_preferences(small, tmp_path, name, capsys):
    folder, files = small
    out = tmp_path / "out.parquet"
    assert main(["data", "convert", name, str(files[name][0]), str(out), "--media", str(folder / "media")]) == 0
    cases, _ = read(BENCHMARKS[name], files[name][0], folder / "media")
    found = [preference for _, preference in read_preferences(out)]
    assert {one.source for one in found} == {name}
    better = {(one.question, one.response_1 if one.label == 1 else one.response_2) for one in found}
    assert better == {(case.question, case.chosen) for case in cases}


# Media


def test_files_of_every_form_are_complete(small):
    folder, files = small
    for name, paths in files.items():
        for path in paths:
            cases, errors = read(BENCHMARKS[name], path, folder / "media")
            assert cases
            assert not errors
            assert missing(cases) == {}


def test_videos_are_32_frames_from_the_first_to_the_last(small):
    folder, files = small
    cases, _ = read(MM, files["mm-rlhf-rewardbench"][0], folder / "media")
    videos = [case.video for case in cases if case.category == "video"]
    assert {len(video) for video in videos} == {32}
    clip = folder / "media/video/clip0"
    assert videos[0][0] == Media(path=str(clip / "c01_0001.jpeg"))
    assert videos[0][-1] == Media(path=str(clip / "c01_0040.jpeg"))
    assert [frame.path for frame in videos[0]] == sorted(frame.path for frame in videos[0])
    few, _ = read(MM, files["mm-rlhf-rewardbench"][0], folder / "media", frames=2)
    assert [frame.path[-9:] for frame in few[-1].video] == ["0001.jpeg", "0040.jpeg"]
    stored, _ = read(PREFERENCES, files["preferences"][0], frames=2)
    assert [frame.path[-9:] for frame in stored[2].video] == ["0001.jpeg", "0040.jpeg"]


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    clip = tmp_path / "video/clip"
    clip.mkdir(parents=True)
    for number in (10, 9, 100, 1):
        (clip / f"frame_{number}.png").write_bytes(png())
    (clip / "notes.txt").write_text("no picture")
    (case,), _ = read_rows(MM, tmp_path, {**mm_rows()[-1], "video": "video/clip"})
    assert [frame.path for frame in case.video] == [str(clip / f"frame_{number}.png") for number in (1, 9, 10, 100)]


def test_all_missing_media_are_named_with_their_rows(tmp_path):
    (tmp_path / "media/video/clip1").mkdir(parents=True)
    (tmp_path / "media/mcq").mkdir()
    (tmp_path / "media/mcq/000000.png").write_bytes(png())
    path = jsonl(tmp_path / "mm.jsonl", mm_rows())
    cases, errors = read(MM, path, tmp_path / "media")
    assert not errors
    absent = missing(cases)
    root = tmp_path / "media"
    assert next(iter(absent)) == str(root / "mcq/000001.png")
    assert absent[str(root / "mcq/000001.png")] == [4, 5, 6]
    assert absent[str(root / "video/clip0")] == [25, 26, 27]
    assert absent[str(root / "video/clip1")] == [28, 29, 30], "a folder without pictures"
    assert len(absent) == 9


def test_media_lie_below_the_media_root_or_beside_the_file(tmp_path):
    row = vl_rows()[0]
    path = jsonl(tmp_path / "data.jsonl", [row])
    places = (tmp_path / "vl_reward/img/image_0.jpg", tmp_path / "other/image_0.jpg", tmp_path / "other" / row["image"])
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png())
    assert read(VL, path)[0][0].images == (Media(path=str(places[0])),)
    assert read(VL, path, tmp_path / "other")[0][0].images == (Media(path=str(places[2])),)
    places[2].unlink()
    assert read(VL, path, tmp_path / "other")[0][0].images == (Media(path=str(places[1])),), "the longest end there is"
    places[1].unlink()
    assert read(VL, path, tmp_path / "other")[0][0].images == (Media(path=str(places[0])),)
    absolute = jsonl(tmp_path / "absolute.jsonl", [{**row, "image": "/home/author/data/vl_reward/img/image_0.jpg"}])
    assert read(VL, absolute)[0][0].images == (Media(path=str(places[0])),)


def test_nothing_leads_out_of_the_media_root(tmp_path):
    root = tmp_path / "files/media"
    (root / "mcq").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0.png").write_bytes(png())
    (root / "mcq/link.png").symlink_to(outside / "0.png")
    (root / "mcq/folder").symlink_to(outside)
    (root / "clip").mkdir()
    (root / "clip/0.png").symlink_to(outside / "0.png")
    row = mm_rows()[0]
    paths = ("../../outside/mcq/0.png", "mcq/../../../outside/0.png", "mcq/link.png", "mcq/folder/0.png")
    path = jsonl(tmp_path / "files/rows.jsonl", [{**row, "image": one} for one in (*paths[1:], "mcq/a.png", paths[0])])
    cases, errors = read(MM, path, root)
    assert [error.number for error in errors] == [1, 2, 3, 5]
    assert all("leads out of the media root" in error.reason for error in errors)
    # An absolute path counts by its end: a file there is not taken.
    absolute = {**row, "image": str(outside / "mcq/0.png")}
    frames = {**mm_rows()[-1], "video": "clip"}
    path = jsonl(tmp_path / "files/rows.jsonl", [absolute, frames])
    cases, _ = read(MM, path, root)
    assert cases[0].images[0].path == f"{root}{outside}/mcq/0.png"
    assert list(missing(cases)) == [f"{root}{outside}/mcq/0.png", str(root / "clip")]


def test_preferences_keep_their_absolute_paths_unless_a_media_root_is_given(tmp_path, small):
    folder, files = small
    kept, _ = read(PREFERENCES, files["preferences"][0])
    below, _ = read(PREFERENCES, files["preferences"][0], folder / "media/mcq")
    assert kept[0].images == below[0].images == (Media(path=str(folder / "media/mcq/000000.png")),)
    elsewhere = jsonl(tmp_path / "elsewhere.jsonl", [to_row(benchmark_files.preferences(folder)[0])])
    assert read(PREFERENCES, elsewhere)[0][0].images == kept[0].images
    (tmp_path / "media").mkdir()
    cases, _ = read(PREFERENCES, elsewhere, tmp_path / "media")
    assert list(missing(cases)) == [f"{tmp_path}/media{folder}/media/mcq/000000.png"]


# What is refused


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=lambda one: one.name)
def test_changed_field_names_are_shown_beside_the_expected_ones(tmp_path, benchmark):
    path = jsonl(tmp_path / "rows.jsonl", [{"id": "RLAIF-V-1", "instruction": "What?", "good": "A", "bad": "B"}])
    with pytest.raises(ValueError, match=r"rows\.jsonl: not a file of") as error:
        benchmark.read(path)
    assert benchmark.name in str(error.value)
    assert "columns (id, instruction, good, bad)" in str(error.value)
    for form in benchmark.forms:
        assert f"({', '.join(form)})" in str(error.value)


def test_no_benchmark_is_taken_for_another(small):
    _, files = small
    for name, paths in files.items():
        for path in paths:
            for benchmark in BENCHMARKS.values():
                if benchmark.name != name:
                    with pytest.raises(ValueError, match=r"not a file of|of no category"):
                        list(benchmark.read(path))


def test_an_unknown_category_is_shown_beside_the_known_ones(tmp_path):
    rows = [multimodal_rows()[0], {**multimodal_rows()[1], "Category": "poetry"}]
    known = r"open_generation/correctness_task, .*, safety, vqa"
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: multimodal-rewardbench: Category is 'poetry'.*{known}"):
        read_rows(MULTIMODAL, tmp_path, *rows)
    row = {**mm_rows()[0], "image": "images/mcq_1.png"}
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: .*image 'images/mcq_1.png'.*mcq, long, short, safety, video"):
        read_rows(MM, tmp_path, row)


BAD = [
    (VL, "id", None, "id is None"),
    (VL, "id", 7, "id is 7"),
    (VL, "prompt", " ", "prompt is ' '"),
    (VL, "chosen", None, "chosen is None"),
    (VL, "chosen", "A kettle and a cat, 0.", "the same text"),
    (VL, "rejected", "\ud83d", "half a character"),
    (VL, "image", "", "image is ''; a picture or video is needed"),
    (VL, "image", "https://example.org/a.png", "nothing is fetched"),
    (VL, "image", {"bytes": None}, "holds no picture"),
    (MM, "image", None, "image is None, video is None: one of them is needed"),
    (MM, "video", "video/clip0", "image is 'mcq/000000.png', video is 'video/clip0': one of them is needed"),
    (MM, "image", "data:image/png;base64,AAAA", "has no path, which is what tells the category"),
    (MM, "prompt", 3, "prompt is 3"),
    (MULTIMODAL, "Better", "A", "Better is 'A', neither Output1 nor Output2"),
    (MULTIMODAL, "Text", None, "no Text: the benchmark's scripts/0_download_data.py"),
    (MULTIMODAL, "Category", None, "Category is None"),
    (MULTIMODAL, "Output2", "", "Output2 is ''"),
    (MULTIMODAL, "Image", None, "Image is None"),
    (JUDGEBENCH, "label", "A=B", "label is 'A=B', neither A>B nor B>A"),
]


@pytest.mark.parametrize(("benchmark", "field", "value", "reason"), BAD)
def test_a_bad_row_costs_only_itself(tmp_path, benchmark, field, value, reason):
    rows = SMALL[benchmark]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (rows[1], {**rows[0], field: value}, rows[2])), "utf-8")
    cases, errors = read(benchmark, path)
    assert [case.row for case in cases] == [1, 3]
    assert [error.number for error in errors] == [2]
    assert reason in errors[0].reason


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("human_ranking", [1, 2], r"human_ranking is [1, 2]; [0, 1] (the first is better) or [1, 0] is needed"),
        ("human_ranking", [0, 0], "human_ranking is [0, 0]"),
        ("human_ranking", None, "human_ranking is None"),
        ("response", ["only one"], "a list of two texts"),
        ("response", "AB", "a list of two texts"),
        ("response", ["A.", None], "is None"),
        ("response", ["A.", "A."], "the same text"),
        ("image", None, "image is None"),
    ],
)
def test_a_bad_row_of_the_parquet_form_costs_only_itself(tmp_path, field, value, reason):
    good, bad = ({**row, "image": "a.png"} for row in vl_hub_rows()[:2])
    cases, errors = read_rows(VL, tmp_path, good, {**bad, field: value})
    assert len(cases) == len(errors) == 1
    assert reason in errors[0].reason


def test_rows_that_lack_a_column_and_lines_that_are_no_rows_are_errors_among_the_cases(tmp_path):
    rows = vl_rows()
    del rows[1]["chosen"]
    path = jsonl(tmp_path / "rows.jsonl", rows[:3])
    path.write_text(path.read_text() + '{"id": "RLAIF-V-1", "pro', "utf-8")
    cases, errors = read(VL, path)
    assert [case.row for case in cases] == [1, 3]
    assert [error.number for error in errors] == [2, 4]
    assert "no column 'chosen'" in errors[0].reason
    assert "is it complete?" in errors[1].reason
    (preference,) = (to_row(one) for one in benchmark_files.preferences(tmp_path)[3:])
    path = parquet(tmp_path / "preferences.parquet", [preference, {**preference, "label": 3}], SCHEMA)
    cases, errors = read(PREFERENCES, path)
    assert len(cases) == len(errors) == 1
    assert "label 3" in errors[0].reason


def test_the_file_before_its_download_script_ran_is_told_from_changed_columns(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "Text"} for row in multimodal_rows()]
    rows[-1]["Text"] = "Is the person kind?"
    cases, errors = read_rows(MULTIMODAL, tmp_path, *rows)
    assert len(cases) == 1
    assert len(errors) == len(rows) - 1
    assert {error.reason[:40] for error in errors} == {"no Text: the benchmark's scripts/0_downl"}


def test_options_that_mean_nothing_are_refused_at_once(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", vl_rows())
    with pytest.raises(FileNotFoundError, match="no file"):
        VL.read(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="no known format"):
        VL.read(tmp_path / "data.xlsx")
    with pytest.raises(ValueError, match=r"media root .* is no folder"):
        VL.read(path, tmp_path / "none")
    with pytest.raises(ValueError, match="frames is 0"):
        VL.read(path, frames=0)


def test_a_file_without_rows_has_no_cases(tmp_path):
    assert read_rows(VL, tmp_path) == ([], [])
    assert VL.summary([], [])[0] == "vl-rewardbench: 0 cases of 0 ids (general 0, hallucination 0, reasoning 0)"
