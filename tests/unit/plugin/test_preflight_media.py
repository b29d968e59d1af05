"""Rows with more pictures, videos or frames than vLLM is set to take, said before Ray starts."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from r1reward_verl.data.export import rl_row, rl_schema
from r1reward_verl.plugin.preflight.checks import CHECKS
from r1reward_verl.plugin.preflight.media import LIMITS, check_media
from r1reward_verl.toy import world

(PAIR,) = world.draw_pairs(1, 0, "train")
ROWS = [
    rl_row(world.preference(PAIR, 1, media), index=index)
    for index, media in enumerate(("text", "picture", "pictures", "video", "picture"))
]
PARTS = [{"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text"}]}]}]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows, rl_schema(inline=True) if rows[0].get("extra_info") else None), path)
    else:  # without the pictures, which JSON cannot hold
        path.write_text("".join(json.dumps({**row, "images": []}) + "\n" for row in rows))
    return str(path)


def found(limits: dict[str, Any] | None, *files: str, model: Path | None = None, **rollout: Any) -> list[str]:
    engine = {"vllm": {} if limits is None else {"limit_mm_per_prompt": limits}}
    train, val = (files * 2)[:2]
    config = {
        "data": {"train_files": train, "val_files": val},
        "actor_rollout_ref": {"rollout": {"name": "vllm", "engine_kwargs": engine, **rollout}},
    }
    if model is not None:
        config["actor_rollout_ref"]["model"] = {"path": str(model)}
    return list(map(str, check_media(OmegaConf.create(config))))


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("limits", "row", "count", "way_out"),
    [
        ({"image": 1, "video": 1}, 2, "2 pictures in a prompt, and vLLM is set to take 1", "image=2"),
        ({"video": 0}, 3, "1 videos in a prompt, and vLLM is set to take 0", "video=1"),
        ({"image": {"count": 1, "width": 56}}, 2, "2 pictures in a prompt, and vLLM is set to take 1", "image.count=2"),
        (
            {"video": {"count": 1, "num_frames": 2}},
            3,
            "4 frames in a video, and vLLM is set to take 2",
            "video.num_frames=4",
        ),
    ],
)
def test_a_row_beyond_a_limit(tmp_path, ending, limits, row, count, way_out):
    file = write(tmp_path / f"train.{ending}", ROWS)
    (problem,) = found(limits, file)
    place = f"row {row}" if ending == "parquet" else f"line {row + 1}"
    assert problem.startswith(f"data.train_files, {file!r}, {place}: {count}. Set {LIMITS}.{way_out}, ")


@pytest.mark.parametrize(
    "limits",
    [None, {}, {"image": 2, "video": 1}, {"image": None}, {"video": {"count": 1, "num_frames": 4}}, {"audio": 0}],
)
def test_rows_within_the_limits(tmp_path, limits):
    assert found(limits, write(tmp_path / "train.parquet", ROWS)) == []


def test_each_limit_is_that_of_the_largest_row_of_all_files(tmp_path):
    train = write(tmp_path / "train.parquet", [ROWS[1]])
    val = write(tmp_path / "val.parquet", [ROWS[1], ROWS[3], ROWS[2]])
    pictures, videos = found({"image": 0, "video": 0}, train, val)
    assert pictures.startswith(f"data.val_files, {val!r}, row 2: 2 pictures")
    assert videos.startswith(f"data.val_files, {val!r}, row 1: 1 videos")


def test_messages_of_parts(tmp_path):
    (problem,) = found({"image": 1}, write(tmp_path / "train.parquet", PARTS))
    assert "row 0: 2 pictures" in problem


def test_the_setting_of_verl_that_replaces_the_limits(tmp_path):
    (problem,) = found({"image": 9, "video": 0}, write(tmp_path / "train.parquet", ROWS), limit_images=1)
    assert "Set actor_rollout_ref.rollout.limit_images=2" in problem


def test_a_model_that_reads_texts_only(tmp_path):
    file = write(tmp_path / "train.parquet", ROWS)
    for kind, problems in (("qwen3", 2), ("qwen3_vl", 0), ("unknown", 0)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        seen = found({}, file, model=tmp_path)
        assert len(seen) == problems
        assert all(f"and '{tmp_path}' reads texts only. Take a model with vision" in problem for problem in seen)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    assert found({}, write(tmp_path / "texts.parquet", ROWS[:1]), model=tmp_path) == []


def test_other_engines_and_files_that_cannot_be_read_are_left_alone(tmp_path):
    assert found({"image": 0}, write(tmp_path / "train.parquet", ROWS), name="sglang") == []
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1")
    assert found({"image": 0}, str(damaged)) == found({"image": 0}, str(tmp_path / "none.parquet")) == []


def test_it_is_among_the_checks():
    assert check_media in CHECKS.values()
