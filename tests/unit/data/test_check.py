"""What is said of a data file: nothing where it is clean, and of each fault its row, its column and the way out."""

import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace
from PIL import Image

from factories import bomb, parquet, png, preference_file
from factories import preference as unannotated
from r1reward_verl.cli import main as cli
from r1reward_verl.data.check import CheckSettings
from r1reward_verl.data.check import check as run_check
from r1reward_verl.data.export import rl_row, rl_schema, sft_row, sft_schema, swap
from r1reward_verl.data.preference import SCHEMA, to_row
from r1reward_verl.data.prompt_length import PromptLength
from r1reward_verl.data.row_checks import WAYS_OUT
from r1reward_verl.judgement import build_prompt
from r1reward_verl.media import Media, look_at
from r1reward_verl.recipes import data_section as recipe


def main(arguments):
    return cli(["data", "check", *arguments])


def check(path, progress=None, **settings):
    return run_check(path, CheckSettings(**settings), progress=progress)


def judgement(label):
    return f"<think>Response {label} is right.</think><answer>{label}</answer>"


def preference(index=0, **changes):
    return unannotated(index, **{"difficulty": 1, "trace": judgement(1 + index % 2), **changes})


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png())
    return Media(str(path), sha256=look_at(str(path))[0])


def rl(path, items, **changes):
    return parquet(path, [rl_row(one, index=index) | changes for index, one in enumerate(items)], rl_schema(False))


def sft(path, items, **changes):
    return parquet(path, [sft_row(one, index=index) | changes for index, one in enumerate(items)], sft_schema(False))


WRITERS = {"preferences": preference_file, "rl": rl, "sft": sft}


def problems(path, **options):
    """Return kind, row, column and reason of each problem."""
    result = check(path, **options)
    assert sum(result.problems.values()) == len(result.shown)
    return [(problem.kind, problem.row, problem.column, problem.reason) for problem in result.shown]


def only(path, **options):
    (problem,) = problems(path, **options)
    return problem


# Clean files


@pytest.mark.parametrize("kind", WRITERS)
def test_a_clean_file_passes(tmp_path, capsys, picture, kind):
    items = [preference(index, images=(picture,) * (index % 3)) for index in range(30)]
    frames = tuple(Media(picture.path, sha256=picture.sha256) for _ in range(3))
    items.append(preference(30, video=frames))
    path = WRITERS[kind](tmp_path / "data.parquet", items)
    assert main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert "31 rows, no problems" in printed
    assert "rows/s" in printed
    assert "warning" not in printed


@pytest.mark.parametrize("kind", WRITERS)
def test_a_clean_jsonl_file_passes(tmp_path, kind):
    pq_path = WRITERS[kind](tmp_path / "data.parquet", [preference(index) for index in range(3)])
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pq.read_table(pq_path).to_pylist()))
    assert problems(path) == []


def test_validation_rows_in_both_orders_are_no_duplicates(tmp_path):
    rows = [rl_row(one, index=index) for index, one in enumerate((preference(0), swap(preference(0))))]
    assert problems(parquet(tmp_path / "val.parquet", rows, rl_schema(False))) == []


def test_swapped_duplicates_under_another_id_are_found(tmp_path):
    one, other = preference(0), swap(replace(preference(0), source="other"))
    wrong = replace(one, source="third", label=2, trace=None)
    assert problems(rl(tmp_path / "a.parquet", [one, other, wrong])) == [
        ("duplicate", 2, "", "the same as row 1, with the responses swapped"),
        ("duplicate", 3, "", "the same as row 1, with the opposite label"),
    ]


def test_inlined_pictures_are_looked_at(tmp_path):
    items = [preference(index, images=(Media(data=png(size=(8, 6 + index))),)) for index in range(3)]
    rows = [rl_row(one, index=index) for index, one in enumerate(items)]
    assert problems(parquet(tmp_path / "a.parquet", rows, rl_schema(True))) == []
    rows[1]["images"] = [{"bytes": png()[:20]}]
    kind, row, column, _ = only(parquet(tmp_path / "a.parquet", rows, rl_schema(True)))
    assert (kind, row, column) == ("media", 2, "images")


# The file and its columns


def test_a_truncated_file(tmp_path, capsys):
    path = preference_file(tmp_path / "a.parquet", [preference(index) for index in range(100)])
    path.write_bytes(path.read_bytes()[:-200])
    assert main([str(path)]) == 1
    assert "not a complete parquet file" in capsys.readouterr().out


def test_a_damaged_part_loses_only_its_rows(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [to_row(preference(index, question=f"{random.Random(index).random()}")) for index in range(300)]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, row_group_size=100, compression="zstd")
    data = bytearray(path.read_bytes())
    middle = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[middle : middle + 60] = bytes(60)
    path.write_bytes(data)
    result = check(path)
    assert result.problems == {"file": 1}
    assert result.rows == 300
    assert "damaged" in result.shown[0].reason


@pytest.mark.parametrize(
    ("kind", "column", "values", "found"),
    [
        ("preferences", "label", [1.0, 2.0], "double"),
        ("preferences", "question", [1, 2], "int64"),
        ("preferences", "images", ["a.png", "b.png"], "string"),
        ("preferences", "images", [["a.png"], ["b.png"]], "list<"),
        ("preferences", "difficulty", ["1", "2"], "string"),
        ("rl", "reward_model", [{"ground_truth": 1.0}] * 2, "double"),
        ("rl", "prompt", ["Which?", "Which?"], "string"),
        ("rl", "images", [["a.png"], [1]], None),
        ("rl", "images", [[1], [2]], "list<"),
        ("sft", "messages", ["Which?", "Which?"], "string"),
    ],
)
def test_wrong_column_types_are_named_once(tmp_path, kind, column, values, found):
    path = WRITERS[kind](tmp_path / "a.parquet", [preference(0), preference(1)])
    table = pq.read_table(path)
    place = table.schema.names.index(column)
    if found is None:
        with pytest.raises(pa.ArrowInvalid):
            pa.array(values)
        return
    pq.write_table(table.set_column(place, column, pa.array(values)), path)
    said, row, name, reason = only(path)
    assert (said, row, name) == ("columns", 0, column)
    assert f"column {column!r} is " in reason
    assert found in reason
    assert "is needed" in reason


@pytest.mark.parametrize(
    ("kind", "column"), [("preferences", "label"), ("rl", "reward_model"), ("rl", "data_source"), ("preferences", "id")]
)
def test_a_missing_column_is_named(tmp_path, kind, column):
    path = WRITERS[kind](tmp_path / "a.parquet", [preference()])
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    said, _, name, reason = only(path)
    assert (said, name) == ("columns", column)
    assert f"no column '{column}'" in reason


def test_types_that_hold_the_same_pass(tmp_path):
    table = pq.read_table(preference_file(tmp_path / "a.parquet", [preference(0), preference(1)]))
    for column, values in {
        "label": pa.array(["1", "2"]),
        "difficulty": pa.array([1, 2], pa.int64()),
        "question": pa.array(["a?", "b?"], pa.large_string()),
        "source": pa.array(["a", "b"]).dictionary_encode(),
        "trace": pa.nulls(2),
    }.items():
        table = table.set_column(table.schema.names.index(column), column, values)
    pq.write_table(table.append_column("more", pa.array([1, 2])), tmp_path / "a.parquet")
    assert problems(tmp_path / "a.parquet") == []


def test_a_file_of_another_kind(tmp_path):
    kind, _, _, reason = only(parquet(tmp_path / "a.parquet", [{"text": "a", "score": 1}]))
    assert kind == "columns"
    assert "there are: text, score" in reason
    assert only(preference_file(tmp_path / "b.parquet", []))[3] == "it has no rows"


def test_a_name_or_option_that_cannot_be_used(tmp_path, capsys):
    path = str(preference_file(tmp_path / "a.parquet", [preference()]))
    for argv, words in [
        ([str(tmp_path / "none.parquet")], "no file"),
        ([str(tmp_path / "a.txt")], "no known format"),
        ([path, "--media", "/no/such"], "'/no/such' is not a folder"),
        ([path, "--model", "/no/such/model"], "/no/such/model"),
        ([path, "--model", "m", "--no-media"], "--no-media"),
        ([path, "--json", f"{path}/out.jsonl"], f"{path}"),
    ]:
        assert main(argv) == 2
        assert words in capsys.readouterr().err


# Values


@pytest.mark.parametrize(
    ("changes", "kind", "column", "words"),
    [
        ({"label": 3}, "label", "label", "label 3 is neither 1 nor 2"),
        ({"label": None}, "label", "label", "label None"),
        ({"question": " "}, "row", "question", "question is ' '"),
        ({"response_2": "Yes."}, "row", "response_1", "the same text"),
        ({"difficulty": 0}, "row", "difficulty", "difficulty is 0"),
        ({"images": [{"path": "a", "bytes": b"b"}]}, "row", "images", "not both"),
        ({"images": [{"path": "https://example.org/a.png"}]}, "row", "images", "is an address"),
        ({"video": []}, "row", "video", "no frames"),
        ({"trace": "No idea."}, "trace", "trace", "no judgement (no_tags)"),
        ({"trace": judgement(2)}, "trace", "trace", "it names response 2, and the label is 1"),
    ],
)
def test_values_of_preferences(tmp_path, changes, kind, column, words):
    rows = [to_row(preference(index)) for index in range(4)]
    rows[2] |= changes
    schema = pa.schema([field.with_nullable(True) for field in SCHEMA])
    said, row, name, reason = only(parquet(tmp_path / "a.parquet", rows, schema))
    assert (said, row, name) == (kind, 3, column)
    assert words in reason


@pytest.mark.parametrize(
    ("changes", "kind", "column", "words"),
    [
        ({"reward_model": {"style": "rule", "ground_truth": "B"}}, "label", "reward_model", "label 'B'"),
        ({"reward_model": None}, "label", "reward_model", "no struct with ground_truth"),
        ({"data_source": None}, "row", "data_source", "name of a source"),
        ({"prompt": []}, "messages", "prompt", "role and a content"),
        ({"prompt": None}, "messages", "prompt", "no list of messages"),
        (
            {"prompt": [{"role": "user", "content": "<image>?"}]},
            "markers",
            "prompt",
            "1 <image> and the column images 0",
        ),
        ({"videos": [{"video": ["a.png"]}]}, "markers", "prompt", "0 <video> and the column videos 1"),
    ],
)
def test_values_of_rl_rows(tmp_path, changes, kind, column, words):
    (tmp_path / "a.png").write_bytes(png())
    rows = [rl_row(preference(index), index=index) for index in range(3)]
    rows[1] |= changes
    said, row, name, reason = only(parquet(tmp_path / "a.parquet", rows, rl_schema(False)), media_root=tmp_path)
    assert (said, row, name) == (kind, 2, column)
    assert words in reason


def turns(*texts):
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=False)]


@pytest.mark.parametrize(
    ("messages", "kind", "words"),
    [
        (turns("Which?"), "messages", "not a text of the assistant"),
        (turns("Which?", "The first."), "trace", "no judgement (no_tags)"),
        (turns("Which?", "<think>a</think><answer>"), "trace", "(truncated)"),
        (turns("Which?", judgement(2)), "trace", "it names response 2, and the label is 1"),
        (turns("Which?", "<think><image></think><answer>1</answer>"), "markers", "1 <image>"),
    ],
)
def test_values_of_sft_rows(tmp_path, messages, kind, words):
    path = sft(tmp_path / "a.parquet", [preference(0)], messages=messages)
    said, row, name, reason = only(path)
    assert (said, row, name) == (kind, 1, "messages")
    assert words in reason


def test_a_judgement_without_a_known_label_is_taken_at_its_word(tmp_path):
    rows = [{"messages": turns("Which?", judgement(2)), "images": []}]
    result = check(parquet(tmp_path / "a.parquet", rows))
    assert (result.problems, result.labels) == ({}, {2: 1})


# Media


def test_media(tmp_path, picture):
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "large.png").write_bytes(bomb(10_000, 10_000))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(png()[:20])
    (tmp_path / "b.png").write_bytes(png("red"))
    names = ["none.png", "bomb.png", "text.png", "cut.png", "large.png"]
    items = [preference(index, images=(picture, Media(str(tmp_path / name)))) for index, name in enumerate(names)]
    items.append(preference(5, images=(replace(picture, path=str(tmp_path / "b.png")),)))
    items.append(preference(6, video=(picture, Media(str(tmp_path / "none.jpg")))))
    items.append(preference(7, images=(Media(str(tmp_path)),)))
    found = problems(preference_file(tmp_path / "a.parquet", items))
    assert [(kind, row, column) for kind, row, column, _ in found] == [
        ("media", 1, "images"),
        ("media", 2, "images"),
        ("media", 3, "images"),
        ("media", 4, "images"),
        ("media", 5, "images"),
        ("sha256", 6, "images"),
        ("media", 7, "video"),
        ("media", 8, "images"),
    ]
    for (*_, reason), words in zip(
        found,
        [
            "does not exist",
            "more than 89,478,485 pixels",
            "not a JPEG",
            "picture",
            "10,000 x 10,000",
            "its sha256 is",
            "not exist",
            "folder",
        ],
        strict=True,
    ):
        assert words in reason
    assert problems(tmp_path / "a.parquet", open_media=False) == []


@pytest.mark.parametrize("kind", ["preferences", "rl", "sft"])
def test_sides_that_qwen_refuses(tmp_path, kind):
    items = [preference(index, images=pictures(tmp_path, size)) for index, size in enumerate([(4000, 20), (4010, 20)])]
    found, row, _, reason = only(WRITERS[kind](tmp_path / "a.parquet", items))
    assert (found, row) == ("media", 2)
    assert "4,010 x 20 pixels, one side more than 200 times the other" in reason


def test_a_picture_that_is_cut_off_is_found_by_decoding_it(tmp_path, capsys):
    whole = io.BytesIO()
    Image.frombytes("RGB", (99, 99), random.Random(0).randbytes(3 * 99 * 99)).save(whole, "JPEG")
    half = tmp_path / "half.jpg"
    half.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    items = [preference(0, images=(Media(data=half.read_bytes()),)), preference(1, images=(Media(str(half)),))]
    path = preference_file(tmp_path / "a.parquet", [*items, preference(2, images=(Media(data=whole.getvalue()),))])
    assert main([str(path)]) == 0
    assert main([str(path), "--decode"]) == 1
    assert [(kind, row) for kind, row, *_ in problems(path, decode=True)] == [("media", 1), ("media", 2)]
    assert "truncated" in capsys.readouterr().out
    assert main([str(path), "--decode", "--no-media"]) == 2


def test_relative_paths_are_meant_below_the_root_and_nowhere_else(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.png").write_bytes(png())
    (tmp_path / "out.png").write_bytes(png())
    (root / "link.png").symlink_to(tmp_path / "out.png")
    items = [preference(index, images=(Media(name),)) for index, name in enumerate(["a.png", "../out.png", "link.png"])]
    path = rl(tmp_path / "a.parquet", items)
    found = problems(path, media_root=root)
    assert [(kind, row) for kind, row, *_ in found] == [("media", 2), ("media", 3)]
    assert all("leads out of the media root" in reason for *_, reason in found)
    monkeypatch.chdir(root)
    assert problems(path) == []


def test_every_form_of_a_picture_that_verl_rows_have(tmp_path, picture):
    import base64

    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    content = [{"role": "user", "content": f"<image>{index}"} for index in range(4)]
    forms = [picture.path, f"file://{picture.path}", uri, "https://example.org/a.png"]
    rows = [
        {"data_source": "a", "reward_model": {"ground_truth": "1"}, "prompt": [text], "images": [form]}
        for text, form in zip(content, forms, strict=True)
    ]
    result = check(parquet(tmp_path / "a.parquet", rows))
    assert result.problems == {}
    assert result.warnings == ["1 rows have pictures at addresses, which were not looked at"]
    rows[2]["images"] = ["data:image/png;base64,AAAA"]
    assert only(parquet(tmp_path / "a.parquet", rows))[:3] == ("media", 3, "images")


# Rows beside each other


def test_duplicates_and_ids(tmp_path, picture):
    first = preference(0, images=(picture,))
    swapped = replace(first, id="other", response_1="No.", response_2="Yes.", label=2, trace=judgement(2))
    opposite = replace(first, id="another", label=2, trace=None, difficulty=None)
    copy = tmp_path / "copy.png"
    copy.write_bytes(png())
    same_picture = replace(first, id="copied", images=(Media(str(copy)),))
    items = [
        first,
        preference(1),
        swapped,
        opposite,
        same_picture,
        preference(2, id="r1"),
        preference(3, images=(picture,)),
    ]
    found = problems(preference_file(tmp_path / "a.parquet", items))
    assert [(kind, row, reason) for kind, row, _, reason in found] == [
        ("duplicate", 3, "the same as row 1, with the responses swapped"),
        ("duplicate", 4, "the same as row 1, with the opposite label"),
        ("duplicate", 5, "the same as row 1"),
        ("id", 6, "row 2 has this id, with another content"),
    ]


@pytest.mark.parametrize("kind", ["rl", "sft"])
def test_duplicates_in_what_verl_reads(tmp_path, kind):
    items = [preference(0), preference(1), preference(0), preference(2, id="r0")]
    found = problems(WRITERS[kind](tmp_path / "a.parquet", items))
    assert [(kind, row) for kind, row, *_ in found] == [("duplicate", 3), ("id", 4)]


@pytest.mark.parametrize(
    ("ones", "total", "warned"), [(56, 100, True), (55, 100, False), (1, 19, False), (20, 20, True)]
)
@pytest.mark.parametrize("kind", WRITERS)
def test_the_balance_of_labels(tmp_path, kind, ones, total, warned):
    labels = [1] * ones + [2] * (total - ones)
    items = [preference(index, label=label, trace=judgement(label)) for index, label in enumerate(labels)]
    result = check(WRITERS[kind](tmp_path / "a.parquet", items))
    assert result.problems == {}, "a warning is no problem"
    assert result.labels[1] == ones
    assert [f"{ones / total:.1%} of the labels are 1" in text for text in result.warnings] == [True] * warned


# Lengths


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from r1reward_verl.toy.model import build_processor

    folder = tmp_path_factory.mktemp("model")
    processor = build_processor([build_prompt("Question?", "Yes.", "No."), "user\n", "assistant\n"])
    # As the real one, whose pictures keep their size.
    for part in (processor.image_processor, processor.video_processor):
        part.size = {"shortest_edge": 3136, "longest_edge": 12_845_056}
    processor.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    return str(folder)


def pictures(tmp_path, *sizes):
    found = []
    for width, height in sizes:
        path = tmp_path / f"{width}x{height}.png"
        Image.new("RGB", (width, height)).save(path)
        found.append(Media(str(path)))
    return tuple(found)


LIMITS = {"min_pixels": 3136, "max_pixels": 100_000}


def test_prompts_are_as_long_as_verl_measures_them(tmp_path, model):
    from omegaconf import OmegaConf
    from transformers import AutoProcessor
    from verl.utils.dataset import rl_dataset

    from r1reward_verl.plugin.datasets import PreferenceDataset

    items = [
        preference(0),
        preference(1, images=pictures(tmp_path, (300, 200))),
        preference(2, images=pictures(tmp_path, (30, 20), (1000, 800))),
        preference(3, video=pictures(tmp_path, (120, 90), (120, 90), (120, 90))),
        preference(4, images=pictures(tmp_path, (64, 64)), video=pictures(tmp_path, (120, 90), (120, 90))),
    ]
    path = rl(tmp_path / "a.parquet", items)
    processor = AutoProcessor.from_pretrained(model)
    measured = []
    original = rl_dataset.build_multimodal_processor_inputs

    def build(*args, **options):
        inputs = original(*args, **options)
        measured.append(len(inputs["input_ids"][0]))
        return inputs

    rl_dataset.build_multimodal_processor_inputs = build
    try:
        settings = {
            "mm_processor_kwargs": LIMITS,
            "max_prompt_length": 9999,
            "filter_overlong_prompts_workers": None,
            "cache_dir": str(tmp_path / "cache"),
        }
        PreferenceDataset(str(path), processor.tokenizer, OmegaConf.create(settings), processor)
    finally:
        rl_dataset.build_multimodal_processor_inputs = original
    assert len(measured) == 4

    tokens = []
    for file in (path, preference_file(tmp_path / "b.parquet", items)):
        for count in range(1, 6):
            rows = pq.read_table(file).slice(count - 1, 1)
            pq.write_table(rows, tmp_path / "one.parquet")
            result = check(tmp_path / "one.parquet", model=model, **LIMITS)
            assert result.problems == {}
            tokens.append(result.longest[0])
    assert tokens[1:5] == measured
    assert tokens[5:] == tokens[:5]
    text = processor.apply_chat_template(
        [{"role": "user", "content": build_prompt("Question 0?", "Yes.", "No.")}],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert tokens[0] == len(processor.tokenizer(text)["input_ids"])


def test_frames_of_several_sizes_which_verl_cannot_stack(tmp_path, model):
    items = [preference(0, video=pictures(tmp_path, (120, 90), (240, 180)))]
    kind, _, _, reason = only(rl(tmp_path / "a.parquet", items), model=model)
    assert kind == "length"
    assert "equal size" in reason


def test_sft_rows_are_as_long_as_verl_makes_them(tmp_path, model):
    from omegaconf import OmegaConf
    from transformers import AutoProcessor

    from r1reward_verl.plugin.datasets import JudgementDataset

    items = [preference(index, images=pictures(tmp_path, size)) for index, size in enumerate([(64, 64), (1000, 800)])]
    path = sft(tmp_path / "a.parquet", items)
    processor = AutoProcessor.from_pretrained(model)
    settings = {"mm_processor_kwargs": LIMITS, "max_length": 9999, "pad_mode": "no_padding"}
    dataset = JudgementDataset([str(path)], processor.tokenizer, OmegaConf.create(settings), processor)
    lengths = [len(dataset[index]["input_ids"]) for index in range(2)]
    result = check(path, model=model, max_length=lengths[1] - 1, **LIMITS)
    assert result.longest == (lengths[1], 2)
    (problem,) = result.shown
    assert (problem.kind, problem.row) == ("length", 2)
    assert check(path, model=model, max_length=lengths[1], **LIMITS).problems == {}


def test_a_row_that_is_too_long(tmp_path, model, capsys):
    items = [preference(0), preference(1, question="long " * 300), preference(2, images=pictures(tmp_path, (4000, 10)))]
    path = rl(tmp_path / "a.parquet", items)
    assert main([str(path), "--model", model, "--max-prompt-length", "1000", "--max-pixels", "5000"]) == 1
    printed = capsys.readouterr().out
    assert "more than 1,000" in printed
    assert "which Qwen's processors refuse in training" in printed
    assert "of 1,000" in printed


def test_the_limits_are_the_recipes(tmp_path, model):
    assert recipe("r1_reward")["max_prompt_length"] == 20480
    assert recipe("r1_reward")["mm_processor_kwargs"] == {"min_pixels": 3136, "max_pixels": 501760}
    path = rl(tmp_path / "a.parquet", [preference(0, images=pictures(tmp_path, (2000, 2000)))])
    bounded = check(path, model=model)
    assert bounded.bound == 20480
    assert 0 < 501760 / 28**2 - bounded.longest[0] + check(path, model=model, max_pixels=3136).longest[0] - 4 < 60
    assert check(sft(path, [preference(0)]), model=model).bound == recipe("cold_start")["max_length"]


def test_a_model_that_reads_no_pictures(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    fast.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    items = [preference(0), preference(1, images=pictures(tmp_path, (64, 64)))]
    kind, row, _, reason = only(rl(tmp_path / "a.parquet", items), model=str(tmp_path / "model"))
    assert (kind, row) == ("length", 2)
    assert "reads no pictures" in reason
    length = PromptLength(str(tmp_path / "model"), 1, 2)
    assert length.count([{"role": "user", "content": "a b c"}]) == 3


# What is printed and written


def test_the_first_of_each_kind_are_shown_and_all_are_counted_and_written(tmp_path, capsys):
    rows = [to_row(preference(index)) for index in range(60)]
    for index, row in enumerate(rows[:50]):
        row["label"] = 3 if index % 2 else 1
        row["trace"] = judgement(2 if row["label"] == 1 else 1)
    path, out = parquet(tmp_path / "a.parquet", rows, SCHEMA), tmp_path / "problems.jsonl"
    assert main([str(path), "--limit", "5", "--json", str(out)]) == 1
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "neither 1 nor 2" in line]
    assert len(lines) == 5
    assert lines[0].split()[:3] == ["2", "label", "3"]
    assert WAYS_OUT["label"] in lines[0]
    assert "25  label (the first 5 are shown)" in printed
    assert "50 problems" in printed
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(written) == 50
    assert written[0] == {
        "kind": "trace",
        "row": 1,
        "column": "trace",
        "value": "2",
        "reason": "it names response 2, and the label is 1",
        "way_out": WAYS_OUT["trace"],
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.parquet", "problems.jsonl"]


def test_values_cannot_paint_the_terminal(tmp_path, capsys):
    rows = [{**to_row(preference()), "label": "\x1b[31m\n3"}]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(rows[0]) + "\n")
    assert main([str(path)]) == 1
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "neither" in printed


def test_lines_that_are_no_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(to_row(preference())) + "\n{broken\n")
    kind, row, _, reason = only(path)
    assert (kind, row) == ("row", 2)
    assert "not JSON" in reason


def test_memory_does_not_grow_with_the_pictures_in_the_file(tmp_path):
    import tracemalloc

    noise = Image.frombytes("RGB", (200, 200), random.Random(0).randbytes(120_000))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    peaks = []
    for count in (100, 400):
        items = [
            preference(index, images=(Media(data=buffer.getvalue() + bytes([index % 256])),)) for index in range(count)
        ]
        pq.write_table(
            pa.Table.from_pylist([to_row(one) for one in items], schema=SCHEMA),
            tmp_path / "a.parquet",
            row_group_size=50,
        )
        del items
        tracemalloc.start()
        assert problems(tmp_path / "a.parquet") == []
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 1e6
