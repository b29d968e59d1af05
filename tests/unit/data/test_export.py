"""From preferences to verl's rows, which verl's own datasets read with a real Qwen2.5-VL processor of toy size."""

import asyncio
import io

import pyarrow as pa
import pytest
from msgspec.structs import replace
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoProcessor
from verl.trainer.ppo.utils import create_rl_dataset
from verl.trainer.sft_trainer import create_sft_dataset
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

from factories import parquet
from r1reward_verl.data.export import rl_row, rl_schema, sft_row, sft_schema, swap
from r1reward_verl.data.preference import Preference
from r1reward_verl.judgement import build_prompt, parse
from r1reward_verl.media import Media
from r1reward_verl.plugin.datasets import PreferenceDataset
from r1reward_verl.toy.model import build_processor

TRACE = "<think>The first names the colour.\nSo response 1 is better.</think><answer>1</answer>"
PLAIN = Preference("p0", "toy", "colour", "What colour?", "green", "white", 1)
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
TEMPLATE = "Q: {question}\nA: {response_1}\nB: {response_2}"


def png(colour, size=(56, 56)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    build_processor([build_prompt("q", "a", "b"), TRACE, "user\nassistant\n"]).save_pretrained(folder)
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(params=["paths", "bytes"])
def media(request, tmp_path):
    """The pictures of `COLOURS`, in both of the forms that a preference has them in."""
    pictures = [png(colour) for colour in COLOURS]
    if request.param == "bytes":
        return tuple(Media(data=picture) for picture in pictures)
    for index, picture in enumerate(pictures):
        (tmp_path / f"{index}.png").write_bytes(picture)
    return tuple(Media(path=str(tmp_path / f"{index}.png")) for index in range(len(pictures)))


@pytest.fixture
def preferences(media):
    """None, one and several pictures, videos of several frames and of one, and both."""
    return [
        replace(PLAIN, id=f"p{index}", images=media[:images], video=media[:frames] or None, trace=TRACE, difficulty=2)
        for index, (images, frames) in enumerate([(0, 0), (1, 0), (3, 0), (0, 3), (0, 1), (1, 2)])
    ]


def rl_dataset(tmp_path, processor, rows, inline, own=True):
    file = str(parquet(tmp_path / "rl.parquet", rows, rl_schema(inline)))
    own = {"custom_cls": {"path": "pkg://r1reward_verl.plugin.datasets", "name": "PreferenceDataset"}} if own else {}
    limits = {"filter_overlong_prompts": True, "filter_overlong_prompts_workers": None, "max_prompt_length": 2000}
    config = OmegaConf.create({"cache_dir": str(tmp_path / "cache"), **limits, **own})
    return create_rl_dataset(file, config, processor.tokenizer, processor)


def sft_dataset(tmp_path, processor, rows, inline, **config):
    file = str(parquet(tmp_path / "sft.parquet", rows, sft_schema(inline)))
    settings = {"custom_cls": {"path": None}, "max_length": 2000, "pad_mode": "no_padding", "truncation": "error"}
    return create_sft_dataset([file], OmegaConf.create({**settings, **config}), processor.tokenizer, processor)


@pytest.mark.parametrize("own", [True, False], ids=["PreferenceDataset", "verl's own"])
@pytest.mark.parametrize("media_position", ["before", "after"])
def test_main_ppo_reads_every_kind_of_row(tmp_path, processor, preferences, media, own, media_position):
    inline = media[0].data is not None
    rows = [rl_row(one, index=i, media_position=media_position) for i, one in enumerate(preferences)]
    dataset = rl_dataset(tmp_path, processor, rows, inline, own)
    assert len(dataset) == len(rows)  # verl leaves out what it cannot read
    for index, preference in enumerate(preferences):
        messages = dataset[index]["raw_prompt"]
        read = PreferenceDataset.process_multi_modal_info(messages, 14, dataset.config)
        images, videos, _ = asyncio.run(read)
        assert [image.getpixel((0, 0)) for image in images or []] == list(COLOURS[: len(preference.images)])
        frames = [frame for video, _ in videos or [] for frame in video]
        wanted = COLOURS[: len(preference.video or ())]
        # Two frames are one patch in time: verl's reader repeats the last.
        wanted += wanted[-1:] * (len(wanted) % 2)
        assert [tuple(frame[:, 0, 0].int().tolist()) for frame in frames] == list(wanted)
        content = messages[0]["content"]
        texts = [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
        assert texts == [build_prompt("What colour?", "green", "white")]
        if preference.images or preference.video:
            text_at = [part["type"] for part in content].index("text")
            assert text_at == (len(content) - 1 if media_position == "before" else 0)
        assert dataset[index]["reward_model"] == {"style": "rule", "ground_truth": "1"}
        assert dataset[index]["index"] == index


@pytest.mark.parametrize("own", [True, False], ids=["JudgementDataset", "verl's own"])
def test_the_sft_trainer_reads_every_kind_of_row(tmp_path, processor, preferences, media, own):
    rows = [sft_row(one, index=i) for i, one in enumerate(preferences)]
    bounds = {"mm_processor_kwargs": {"min_pixels": 3136, "max_pixels": 3136}}
    ours = {"path": "pkg://r1reward_verl.plugin.datasets", "name": "JudgementDataset"}
    config = {"custom_cls": ours, **bounds} if own else {}
    dataset = sft_dataset(tmp_path, processor, rows, media[0].data is not None, **config)
    assert type(dataset).__name__ == ("JudgementDataset" if own else MultiTurnSFTDataset.__name__)
    assert len(dataset) == len(rows)
    for index, preference in enumerate(preferences):
        item = dataset[index]
        inputs = item.get("multi_modal_inputs", {})
        assert len(inputs.get("image_grid_thw", ())) == len(preference.images)
        assert len(inputs.get("video_grid_thw", ())) == bool(preference.video)
        learnt = processor.tokenizer.decode(item["input_ids"][item["loss_mask"].bool()])
        assert learnt == f"{TRACE}<|im_end|>\n"
        assert "What colour?" in processor.tokenizer.decode(item["input_ids"])


def test_no_value_of_a_row_is_lost_in_its_schema(preferences, media):
    inline = media[0].data is not None
    for make, schema in ((rl_row, rl_schema), (sft_row, sft_schema)):
        rows = [make(one, index=i, template=TEMPLATE) for i, one in enumerate(preferences)]
        assert pa.Table.from_pylist(rows, schema=schema(inline)).to_pylist() == rows


def test_what_the_rows_say_about_a_preference():
    preference = replace(PLAIN, label=2, difficulty=3, trace=TRACE.replace("1", "2"))
    row = rl_row(preference, index=7, template=TEMPLATE, split="val")
    about = {
        "index": 7,
        "id": "p0",
        "source": "toy",
        "category": "colour",
        "pair_id": "toy/p0",
        "order": 1,
        "difficulty": 3,
        "solved": True,
        "split": "val",
    }
    texts = {"question": "What colour?", "response_1": "green", "response_2": "white"}
    assert row == {
        "data_source": "toy",
        "prompt": [{"role": "user", "content": "Q: What colour?\nA: green\nB: white"}],
        "images": [],
        "videos": [],
        "ability": "reward",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": about | texts,
    }
    assert sft_row(preference, index=7, template=TEMPLATE, split="val") == {
        "messages": [*row["prompt"], {"role": "assistant", "content": preference.trace}],
        "images": [],
        "videos": [],
        "extra_info": about,
    }


@pytest.mark.parametrize(
    ("difficulty", "trace", "given", "solved"),
    [(None, None, None, None), (3, None, None, False), (2, TRACE, None, True), (2, None, True, True)],
)
def test_whether_a_teacher_solved_it(difficulty, trace, given, solved):
    about = rl_row(replace(PLAIN, difficulty=difficulty, trace=trace), index=0, solved=given)["extra_info"]
    assert (about["difficulty"], about["solved"]) == (difficulty, solved)


def test_markers_in_texts_take_no_picture_and_end_no_turn(tmp_path, processor, media):
    hostile = "an <image> and <video>, <|im_end|>"
    trace = f"\n<think>{hostile}: response 1 is better.</think><answer>1</answer>\n"
    preference = replace(PLAIN, question=hostile, response_1=hostile, images=media[:1], trace=trace, difficulty=1)
    row = sft_row(preference, index=0)
    assert row["messages"][1]["content"] == (
        "<think>an < image> and < video>, < |im_end|>: response 1 is better.</think><answer>1</answer>"
    )
    assert parse(row["messages"][1]["content"]).choice == 1
    inline = media[0].data is not None
    item = sft_dataset(tmp_path, processor, [row], inline)[0]
    assert len(item["multi_modal_inputs"]["image_grid_thw"]) == 1
    turns = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert int((item["input_ids"] == turns).sum()) == 2
    assert len(rl_dataset(tmp_path, processor, [rl_row(preference, index=0)], inline)) == 1


def test_swapping_turns_the_label_with_the_responses_and_drops_the_trace():
    swapped = swap(replace(PLAIN, difficulty=2, trace=TRACE))
    assert swapped == replace(PLAIN, response_1="white", response_2="green", label=2, difficulty=2)
    assert swap(swapped) == replace(PLAIN, difficulty=2)
    assert rl_row(PLAIN, index=0)["extra_info"]["pair_id"] == rl_row(swapped, index=0)["extra_info"]["pair_id"]
    orders = [rl_row(one, index=0)["extra_info"]["order"] for one in (PLAIN, swapped)]
    assert orders == [0, 1]


def test_what_cannot_be_exported():
    with pytest.raises(ValueError, match="'p0' of 'toy' has no trace"):
        sft_row(PLAIN, index=0)
    with pytest.raises(ValueError, match="'beside' is none of before, after"):
        rl_row(PLAIN, index=0, media_position="beside")
    with pytest.raises(ValueError, match=r"\{response_2\}"):
        rl_row(PLAIN, index=0, template="{question} {response_1}")
