"""The dataset in verl: prompts from the file as they are, or rendered anew with the user's template."""

import asyncio
import io
import logging
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from verl.trainer.ppo.utils import create_rl_dataset
from verl.utils.dataset import rl_dataset
from verl.utils.dataset.rl_dataset import RLHFDataset, get_dataset_class

from r1reward_verl.judgement import build_prompt
from r1reward_verl.plugin.datasets import PreferenceDataset, render_messages

TEMPLATE = "Q: {question}\nA: {response_1}\nB: {response_2}"
TEXTS = {"question": "What colour?", "response_1": "green", "response_2": "white"}


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def row(index: int, content: str | None = None, images: int = 1, **extra_info) -> dict:
    texts = {**TEXTS, "response_1": f"green {index}", **extra_info}
    return {
        "data_source": "toy",
        "prompt": [{"role": "user", "content": content or "<image>" * images + build_prompt(**texts)}],
        "images": [{"bytes": png("green"), "path": None} for _ in range(images)],
        "reward_model": {"style": "rule", "ground_truth": "1"},
        "extra_info": {"index": index, **texts},
    }


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return fast


@pytest.fixture
def build(tmp_path, tokenizer):
    """Build the dataset as verl's driver does; verl asks for a processor to be there, but not to work."""

    def build(rows: list[dict], template: str | None = TEMPLATE, max_samples: int = -1, **config) -> RLHFDataset:
        file = tmp_path / "train.parquet"
        pq.write_table(pa.Table.from_pylist(rows), file)
        if template is not None:
            (tmp_path / "template.txt").write_text(template)
            config["prompt_template"] = str(tmp_path / "template.txt")
        settings = {
            "cache_dir": str(tmp_path / "cache"),
            "filter_overlong_prompts": False,
            "custom_cls": {"path": "pkg://r1reward_verl.plugin.datasets", "name": "PreferenceDataset"},
        }
        data_config = OmegaConf.create({**settings, **config})
        processor = tokenizer if any(row["images"] for row in rows) else None
        return create_rl_dataset(str(file), data_config, tokenizer, processor, max_samples=max_samples)

    return build


def test_verl_finds_the_class_by_its_package_path():
    section = {"custom_cls": {"path": "pkg://r1reward_verl.plugin.datasets", "name": "PreferenceDataset"}}
    assert get_dataset_class(OmegaConf.create(section)) is PreferenceDataset


def test_without_a_template_the_prompts_are_those_of_the_file(build):
    dataset = build([row(0)], template=None)
    text = build_prompt(**{**TEXTS, "response_1": "green 0"})
    assert dataset[0]["raw_prompt"][0]["content"][1] == {"type": "text", "text": text}


@pytest.mark.parametrize("own", [{}, {"max_pixels": 9}])
def test_frames_have_the_bounds_of_pictures_unless_the_row_has_others(build, own):
    bounds, frames = {"min_pixels": 4, "max_pixels": 8}, {"video": ["one.png", "two.png"]}
    rows = [
        {**row(0, "<video>Which?", images=0), "videos": [{**frames, **sizes}]} for sizes in (own, {"max_pixels": 9})
    ]
    dataset = build([*rows, row(1)], template=None, mm_processor_kwargs={**bounds, "do_resize": True})
    assert dataset[0]["raw_prompt"][0]["content"][0] == {"type": "video", **frames, **bounds, **own}


def test_every_prompt_is_rendered_with_the_template_and_keeps_its_image(build):
    dataset = build([row(0), row(1)])
    assert len(dataset) == 2
    for index in range(2):
        image, text = dataset[index]["raw_prompt"][0]["content"]
        assert image["type"] == "image"
        assert image["image"].size == (8, 8)
        assert text == {"type": "text", "text": f"Q: What colour?\nA: green {index}\nB: white"}
        assert dataset[index]["reward_model"]["ground_truth"] == "1"
        assert dataset[index]["index"] == index


def test_a_changed_template_is_not_answered_from_a_cache(build):
    build([row(0)])
    dataset = build([row(0)], template="New {question} {response_1} {response_2}")
    assert dataset[0]["raw_prompt"][0]["content"][1]["text"] == "New What colour? green 0 white"


def test_selected_samples_are_rendered_too(build):
    dataset = build([row(i) for i in range(5)], max_samples=2)
    assert [dataset[i]["raw_prompt"][0]["content"][1]["text"].split("\n")[1] for i in range(len(dataset))] == [
        "A: green 0",
        "A: green 1",
    ]


def drawn(dataset: RLHFDataset) -> list[int]:
    return [dataset[i]["index"] for i in range(len(dataset))]


def test_the_drawn_rows_are_the_same_at_each_start_and_resume(build):
    rows = [row(i, images=0) for i in range(60)]
    first, resumed, seeded = (build(rows, None, 20, shuffle=True, seed=seed) for seed in (None, None, 7))
    resumed.resume_dataset_state()
    assert len(first) == 20
    assert drawn(first) == drawn(resumed) == drawn(seeded) != list(range(20))


@pytest.mark.parametrize("shuffle", [False, True])
def test_both_orders_of_a_preference_are_drawn_together(build, shuffle):
    rows = [row(i, images=0) for i in range(60)]
    for i in range(50):  # the orders stand 25 rows apart, and ten rows have no other order
        rows[i]["extra_info"]["pair_id"] = f"source/{i % 25}"
    for samples in (20, 21):
        indices = drawn(build(rows, None, samples, shuffle=shuffle))
        halves = [i for i in indices if i < 50 and (i + 25) % 50 not in indices]
        assert len(indices) == samples
        assert len(halves) <= 1
        assert indices == sorted(indices)
    assert len(build(rows, None, 100, shuffle=shuffle)) == 60


def test_it_is_the_rendered_prompt_whose_length_is_measured(build):
    rows = [row(0, images=0), row(1, images=0, response_2="white " * 50)]
    lengths = {
        "filter_overlong_prompts": True,
        "filter_overlong_prompts_workers": None,
        "max_prompt_length": 20,
    }
    with pytest.raises(ValueError, match="leaves out 2 of 2 rows, 0 of them because they cannot be read"):
        build(rows, template=None, **lengths)  # the long prompt of the file fits neither
    assert len(build(rows, **lengths)) == 1


FILTER = {"filter_overlong_prompts": True, "filter_overlong_prompts_workers": None, "max_prompt_length": 20}


class TestPictures:
    """As far as the agent loop: the real dataset, then what it calls to get at the pictures."""

    @pytest.fixture
    def build(self, build, tokenizer):
        tokenizer.chat_template = (
            "{% for message in messages %}{% for part in message['content'] %}x {% endfor %}{% endfor %}"
        )
        return build

    @pytest.mark.parametrize("form", ["path", "file", "null bytes", "bytes", "plain"])
    def test_every_documented_form_reaches_the_agent_loop(self, build, tmp_path, form):
        path = tmp_path / "p.png"
        path.write_bytes(png("green"))
        image = {
            "path": {"path": str(path)},
            "file": {"path": f"file://{path}"},
            "null bytes": {"bytes": None, "path": str(path)},
            "bytes": {"bytes": png("green"), "path": "a name"},
            "plain": str(path),
        }[form]
        dataset = build([{**row(0), "images": [image]}], template=None)
        messages = dataset[0]["raw_prompt"]
        read = PreferenceDataset.process_vision_info(messages, image_patch_size=14, config=dataset.config)
        (picture,), _ = asyncio.run(read)
        assert picture.convert("RGB").getpixel((0, 0)) == (0, 128, 0)

    def test_rows_with_and_without_pictures_of_both_forms(self, build, tmp_path):
        path = tmp_path / "p.png"
        path.write_bytes(png("green"))
        rows = [row(0), row(1, images=0), {**row(2), "images": [{"bytes": None, "path": str(path)}]}]
        dataset = build(rows, template=None)
        assert [isinstance(dataset[i]["raw_prompt"][0]["content"], list) for i in range(3)] == [True, False, True]

    def test_a_row_that_cannot_be_read_is_counted_and_named(self, build, caplog, monkeypatch):
        monkeypatch.setattr(rl_dataset, "build_multimodal_processor_inputs", lambda *_, **__: {"input_ids": [[0]]})
        broken = {**row(1), "images": [{"bytes": None, "path": "/nowhere/p.png"}]}
        with caplog.at_level(logging.WARNING, logger="r1reward_verl"):
            assert len(build([row(0), broken], template=None, **FILTER)) == 1
        (said,) = [message for message in caplog.messages if "filter_overlong_prompts" in message]
        assert "leaves out 1 of 2 rows, 1 of them because they cannot be read" in said
        assert "/nowhere/p.png" in said

    def test_nothing_left_ends_the_run(self, build):
        broken = {**row(1), "images": [{"bytes": b"no picture", "path": None}]}
        with pytest.raises(ValueError, match=r"train\.parquet.*2 of 2 rows, 2 of them .*Nothing is left"):
            build([broken, broken], template=None, **FILTER)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<image>old", "<image>{}"),
        ("<image>\n<image>old", "<image>\n<image>{}"),
        ("old\n<video>", "{}<video>"),
        ("old", "{}"),
        ("<image>old<image>", "<image>{}<image>"),
    ],
)
def test_media_placeholders_stay_before_or_after_the_text(content, expected):
    system = {"role": "system", "content": "Be fair."}
    messages = render_messages([system, {"role": "user", "content": content}], TEXTS, TEMPLATE)
    assert messages == [
        system,
        {"role": "user", "content": expected.format(build_prompt(**TEXTS, template=TEMPLATE))},
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row(0), {**row(1), "extra_info": {"index": 1, "question": "q"}}],
            "row 1: extra_info.response_1 is None",
        ),
        ([row(0, content="look <image> here")], "row 0: the user message must have its text in one piece"),
        (
            [{**row(0), "prompt": [{"role": "system", "content": "x"}]}],
            "row 0: the prompt has no user message",
        ),
        ([{k: v for k, v in row(0).items() if k != "extra_info"}], "lacks column 'extra_info'"),
    ],
)
def test_rows_that_cannot_be_rendered_end_the_run_with_their_place(build, rows, message):
    with pytest.raises(ValueError, match=message) as error:
        build(rows)
    assert "train.parquet" in str(error.value)


def test_an_unusable_template_ends_the_run(build):
    with pytest.raises(ValueError, match=r"template.txt.*\{response_2\}"):
        build([row(0)], template="{question} {response_1}")
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        build([row(0)], template=None, prompt_template=str(Path("missing.txt")))


@pytest.mark.parametrize(
    "changes",
    [
        {"images": [{"bytes": None, "path": "http://169.254.169.254/latest"}]},
        {"videos": [{"video": "rtsp://h/x"}], "images": []},
        {"images": [], "prompt": [{"role": "user", "content": [{"type": "image", "image": "https://h/x.png"}]}]},
    ],
)
def test_nothing_is_fetched_unless_asked(build, changes):
    dataset = build([{**row(0), **changes}], template=None)
    with pytest.raises(ValueError, match="is an address, and nothing is fetched"):
        dataset._build_messages(dataset.dataframe[0], "prompt")
    asked = build([{**row(0), **changes}], template=None, allow_remote_media=True)
    with suppress(AssertionError):  # verl's, since there is no processor here that could fetch it
        assert "://" in str(asked._build_messages(asked.dataframe[0], "prompt"))
