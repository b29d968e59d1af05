"""verl's SFT dataset with our pictures: bounded, from paths, and without rows that would end a run."""

import io
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from msgspec.structs import replace
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoProcessor
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.trainer.sft_trainer import create_sft_dataset
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
from verl.utils.tokenizer import build_multimodal_processor_inputs
from verl.workers.config.model import hf_processor

from r1reward_verl.data.export import rl_row, rl_schema, sft_row, sft_schema
from r1reward_verl.data.prompt_length import PromptLength
from r1reward_verl.plugin.datasets import JudgementDataset, PreferenceDataset
from r1reward_verl.toy import world
from r1reward_verl.toy.build import write_table
from r1reward_verl.toy.model import CHAT_TEMPLATE, PIXELS, save_model

TRACE = "<think>Both were read.</think><answer>1</answer>"


# As Qwen3's does with an answer: without a user's message before it its reasoning is cut out, behind one it is written
# on lines of its own, and an empty one is added where there is none.
REASONING_TEMPLATE = CHAT_TEMPLATE.replace(
    "{%- if message['content'] is string -%}",
    "{%- if message['role'] == 'assistant' and message['content'] is string -%}"
    "{%- set thought, said = message['content'].rpartition('</think>')[::2] -%}"
    "{%- if not loop.first -%}{{- '<think>\n' + thought.replace('<think>', '') + '\n</think>\n\n' -}}{%- endif -%}"
    "{{- said -}}"
    "{%- elif message['content'] is string -%}",
)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, [TRACE, "Which one?", "user\n", "assistant\n"], 0)
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A text-only Qwen3's, with a template that does what Qwen3's does."""
    folder = tmp_path_factory.mktemp("text model")
    save_model(folder, [TRACE, "Which one?", "user\n", "assistant\n"], 0, "qwen3")
    tokenizer = AutoProcessor.from_pretrained(folder)
    tokenizer.chat_template = REASONING_TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


def row(*images, text: str = "Which one?", trace: str = TRACE) -> dict:
    return {
        "messages": [
            {"role": "user", "content": "<image>" * len(images) + text},
            {"role": "assistant", "content": trace},
        ],
        "images": list(images),
    }


def dataset(tmp_path: Path, processor, rows: list[dict], schema=None, **options) -> JudgementDataset:
    file = tmp_path / "sft.parquet"
    write_table(file, rows, schema)
    tokenizer = getattr(processor, "tokenizer", processor)
    settings = {"max_length": 400, "pad_mode": "no_padding", "truncation": "error", **options}
    settings["custom_cls"] = {"path": "pkg://r1reward_verl.plugin.datasets", "name": "JudgementDataset"}
    config = OmegaConf.create(settings)
    found = create_sft_dataset([str(file)], config, tokenizer, None if tokenizer is processor else processor)
    assert type(found).__name__ == "JudgementDataset"
    return found


def grid(item) -> list[list[int]]:
    return item["multi_modal_inputs"]["image_grid_thw"].tolist()


@pytest.mark.parametrize("sampling", [{}, {"max_samples": 7}, {"max_samples": 7, "shuffle": True, "seed": 3}])
def test_rows_and_their_order_are_verls(tmp_path, processor, sampling):
    rows = [row({"bytes": png(56, 56), "path": None}, text=f"Number {index}?") for index in range(20)]
    files = [str(tmp_path / f"{name}.parquet") for name in "ab"]
    pq.write_table(pa.Table.from_pylist(rows[:12]), files[0], row_group_size=5)
    pq.write_table(pa.Table.from_pylist(rows[12:]), files[1])
    config = OmegaConf.create({"pad_mode": "no_padding", "max_length": 400, **sampling})
    arguments = {"tokenizer": processor.tokenizer, "config": config, "processor": processor}
    arguments["max_samples"] = sampling.get("max_samples", -1)
    ours = JudgementDataset(parquet_files=list(files), **arguments)
    verls = MultiTurnSFTDataset(parquet_files=list(files), **arguments)
    assert len(ours) == len(verls) == sampling.get("max_samples", 20)
    for own, other in zip(ours, verls, strict=True):
        assert own["input_ids"].tolist() == other["input_ids"].tolist()
        assert own["multi_modal_inputs"]["pixel_values"].equal(other["multi_modal_inputs"]["pixel_values"])


def test_pictures_are_read_with_their_row(tmp_path, processor):
    rows = [row({"bytes": png(56, 56)}) for _ in range(4)]
    found = dataset(tmp_path, processor, rows)
    kept = pickle.dumps(found.__dict__ | {"tokenizer": None, "processor": None})
    assert b"PNG" not in kept
    assert grid(found[3]) == [[1, 4, 4]]


def test_what_is_learnt_is_the_judgement(tmp_path, processor):
    (item,) = dataset(tmp_path, processor, [row({"bytes": png(56, 56)})])
    assert processor.tokenizer.decode(item["input_ids"][item["loss_mask"].bool()]) == f"{TRACE}<|im_end|>\n"
    assert grid(item) == [[1, 4, 4]]


@pytest.mark.parametrize("form", ["bytes and null", "image", "path"])
def test_pictures_come_in_all_forms_of_the_project(tmp_path, processor, form):
    (tmp_path / "red.png").write_bytes(png(56, 56))
    path = str(tmp_path / "red.png")
    image = {"image": {"image": path}, "path": {"path": path}}.get(form, {"bytes": png(56, 56), "path": None})
    # null instead of a list, as pyarrow's users write rows without pictures
    rows = [row(image), {**row(), "images": None}]
    with_picture, without = dataset(tmp_path, processor, rows)
    assert grid(with_picture) == [[1, 4, 4]]
    assert "multi_modal_inputs" not in without


@pytest.fixture(scope="module", params=[name for name, pixels in PIXELS.items() if pixels])
def model(request, tmp_path_factory):
    """The processor of each model that sees, as verl loads it, and the pixels of its pictures."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, [TRACE, "Which one?", "user\n", "assistant\n"], 0, request.param)
    return hf_processor(folder), PIXELS[request.param]


@pytest.mark.parametrize("media", get_args(world.ToyMedia))
def test_a_row_is_to_the_model_what_it_is_in_rl(tmp_path, model, media):
    (pair,) = world.draw_pairs(1, 0, "train")
    preference = replace(world.preference(pair, 1, media), trace=TRACE)
    processor, pixels = model
    options = {"mm_processor_kwargs": {"min_pixels": pixels, "max_pixels": pixels}, "max_length": 4000}
    write_table(tmp_path / "rl.parquet", [rl_row(preference, index=0)], rl_schema(inline=True))
    rl = PreferenceDataset(
        str(tmp_path / "rl.parquet"),
        processor.tokenizer,
        OmegaConf.create({**options, "filter_overlong_prompts": False}),
        processor,
    )
    messages = rl[0]["raw_prompt"]
    images, videos, _ = rl._process_multi_modal_info(messages, rl.image_patch_size, rl.config)
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    expected = build_multimodal_processor_inputs(
        processor, text=[text], images=images, videos=videos, mm_processor_kwargs=options["mm_processor_kwargs"]
    )

    (item,) = dataset(tmp_path, processor, [sft_row(preference, index=0)], sft_schema(inline=True), **options)
    prompt = expected["input_ids"][0]
    assert item["input_ids"][: len(prompt)].tolist() == prompt.tolist()
    found = item.get("multi_modal_inputs", {})
    assert found.keys() == expected.keys() - {"input_ids", "attention_mask", "mm_token_type_ids"}
    assert all(torch.equal(value, torch.as_tensor(expected[name])) for name, value in found.items())
    tokens, inputs = item["input_ids"][None], {name: torch.as_tensor(value) for name, value in expected.items()}
    worker = SimpleNamespace(processor=processor)
    positions = AgentLoopWorker._compute_position_ids(worker, tokens, torch.ones_like(tokens), inputs)
    assert item["position_ids"].tolist() == positions[0].tolist()


def test_pictures_keep_within_the_budget(tmp_path, processor):
    large = row({"bytes": png(224, 112)})
    bounds = {"min_pixels": 3136, "max_pixels": 2 * 3136}
    (item,) = dataset(tmp_path, processor, [large], mm_processor_kwargs=bounds)
    # The toy's own processor scales to 56 x 56 whatever comes: what is bounded is what it is given.
    (image,) = (part["image"] for part in dataset_messages(tmp_path, processor, large, bounds))
    assert image.size[0] * image.size[1] <= 2 * 3136
    assert item["input_ids"].shape == item["loss_mask"].shape


def dataset_messages(tmp_path, processor, one, bounds):
    found = dataset(tmp_path, processor, [one], mm_processor_kwargs=bounds)
    messages = found._build_messages(found.dataframe.iloc[0].to_dict())
    return [part for part in messages[0]["content"] if part["type"] == "image"]


def test_lengths_are_counted_as_they_are(tmp_path, processor):
    bounds = {"min_pixels": 3136, "max_pixels": 3136}
    rows = [row(), row({"bytes": png(56, 56)}), row({"bytes": png(56, 56)}, {"bytes": png(56, 56)}, text="a <|x|> b")]
    found = dataset(tmp_path, processor, rows, mm_processor_kwargs=bounds)
    assert [found._length(index) for index in range(3)] == [len(item["input_ids"]) for item in found]


def test_rows_that_would_end_the_run_are_left_out_and_counted(tmp_path, processor, caplog):
    missing = row({"bytes": b"no picture"})
    cut = row({"bytes": png(560, 560)[:600]})
    rows = [row({"bytes": png(56, 56)}), row({"bytes": png(56, 56)}, text="long " * 500), missing, row(), cut]
    with caplog.at_level("WARNING"):
        found = dataset(tmp_path, processor, rows)
    assert len(found) == 2
    assert [len(item["input_ids"]) > 0 for item in found] == [True, True]
    assert "3 of 5 rows are left out, 1 of them longer than data.max_length=400 tokens and 2 with" in caplog.text
    assert "row 2, ValueError: not a JPEG, PNG" in caplog.text


def test_a_text_that_is_cut_is_not_left_out(tmp_path, processor):
    (item,) = dataset(tmp_path, processor, [row(text="long " * 500)], truncation="right")
    assert len(item["input_ids"]) == 400


def test_no_row_left_is_an_error(tmp_path, processor):
    with pytest.raises(ValueError, match=r"1 of 1 rows are left out.*Nothing is left.*raise data\.max_length"):
        dataset(tmp_path, processor, [row(text="long " * 500)])


def test_fewer_rows_than_a_batch_are_an_error(tmp_path, processor):
    with pytest.raises(ValueError, match=r"1 rows .*data\.train_batch_size=2"):
        dataset(tmp_path, processor, [row()], train_batch_size=2)


@pytest.mark.parametrize("media", [{}, {"images": [], "videos": []}, {"images": None}], ids=["none", "empty", "null"])
def test_a_model_that_reads_texts_learns_the_judgement_as_it_stands(tmp_path, tokenizer, media):
    """Not as its chat template would write it, which cuts the reasoning out or puts white space behind it."""
    one = {"messages": row()["messages"], **media}
    found = dataset(tmp_path, tokenizer, [one])
    (item,) = found
    prompt = tokenizer.apply_chat_template(one["messages"][:1], add_generation_prompt=True, tokenize=False)
    learned = item["loss_mask"].bool()
    assert tokenizer.decode(item["input_ids"][~learned]) == prompt
    assert tokenizer.decode(item["input_ids"][learned]) == f"{TRACE}<|im_end|>\n"
    assert found._length(0) == len(item["input_ids"])
    assert PromptLength(tokenizer.name_or_path, 1, 1, whole=True).count(one["messages"]) == len(item["input_ids"])


def test_verl_refuses_such_a_template(tmp_path, tokenizer):
    # The day this fails, verl takes answers as they stand, and so need we not.
    pq.write_table(pa.Table.from_pylist([{"messages": row()["messages"]}]), tmp_path / "sft.parquet")
    found = MultiTurnSFTDataset([str(tmp_path / "sft.parquet")], tokenizer, OmegaConf.create({"max_length": 400}))
    with pytest.raises(AssertionError, match="Qwen Thinking series models add"):
        found[0]


def test_pictures_for_a_model_that_reads_texts_only_are_left_out(tmp_path, tokenizer, caplog):
    with caplog.at_level("WARNING"):
        found = dataset(tmp_path, tokenizer, [row(), row({"bytes": png(56, 56)})])
    assert len(found) == 1
    assert "row 1, ValueError: the model reads texts only" in caplog.text
