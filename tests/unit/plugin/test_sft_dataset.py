"""verl's SFT dataset with our pictures: bounded, from paths, and without rows that would end a run."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoProcessor
from verl.trainer.sft_trainer import create_sft_dataset

from r1reward_verl.plugin.datasets import JudgementDataset
from r1reward_verl.toy.model import save_model

TRACE = "<think>Both were read.</think><answer>1</answer>"


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, [TRACE, "Which one?", "user\n", "assistant\n"], 0)
    return AutoProcessor.from_pretrained(folder)


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


def dataset(tmp_path: Path, processor, rows: list[dict], **options) -> JudgementDataset:
    file = tmp_path / "sft.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    settings = {"max_length": 400, "pad_mode": "no_padding", "truncation": "error", **options}
    settings["custom_cls"] = {"path": "pkg://r1reward_verl.plugin.datasets", "name": "JudgementDataset"}
    found = create_sft_dataset([str(file)], OmegaConf.create(settings), processor.tokenizer, processor)
    assert type(found).__name__ == "JudgementDataset"
    return found


def grid(item) -> list[list[int]]:
    return item["multi_modal_inputs"]["image_grid_thw"].tolist()


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
