"""What the rows of the data files have of pictures and videos, and what vLLM is set to take in a prompt.

A row beyond a limit does not end a run: vLLM refuses it, verl logs an error and trains on the rest of the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from r1reward_verl.data.readers import RowError, read_rows
from r1reward_verl.data.rows import frames_of
from r1reward_verl.plugin.preflight.config import Problem, config_value, container, data_files
from r1reward_verl.plugin.preflight.model import reads_texts_only

MODEL = "actor_rollout_ref.model.path"
LIMITS = "actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt"
_WHAT = {"image": "pictures in a prompt", "video": "videos in a prompt", "frames": "frames in a video"}


def check_media(config: DictConfig) -> Iterator[Problem]:
    """The most pictures, videos and frames of a row, against what vLLM is set to take."""
    model = config_value(config, MODEL)
    texts_only = reads_texts_only(model)
    limits = dict.fromkeys(("image", "video"), (MODEL, 0)) if texts_only else _limits(config)
    most: dict[str, tuple[int, str]] = {}
    # By default the validation file is the training file.
    keys = ("data.val_files", "data.train_files") if limits else ()
    places = {path: key for key in keys for path in data_files(config, key)}
    for path, key in places.items():
        for place, row in _rows(config, path, with_frames="frames" in limits):
            for name, count in _counts(config, row).items():
                if count > most.get(name, (0, ""))[0]:
                    most[name] = count, f"{key}, {path!r}, {place}"
    for name, (setting, limit) in limits.items():
        count, where = most.get(name, (0, ""))
        if count and texts_only:
            value = f"{count} {_WHAT[name]}, and {model!r} reads texts only"
            yield Problem(where, value, "Take a model with vision, or leave such rows out")
        elif count > limit:
            yield Problem(
                where,
                f"{count} {_WHAT[name]}, and vLLM is set to take {limit}",
                f"Set {setting}={count}, for which vLLM keeps memory free, or leave such rows out",
            )


def _limits(config: DictConfig) -> dict[str, tuple[str, int]]:
    """Return for pictures, videos and frames the setting that bounds them and its value, where one does."""
    if config_value(config, "actor_rollout_ref.rollout.name") != "vllm":
        return {}
    if images := config_value(config, "actor_rollout_ref.rollout.limit_images"):
        return {"image": ("actor_rollout_ref.rollout.limit_images", images)}  # in verl it replaces the others
    found: dict[str, tuple[str, int]] = {}
    for modality, limit in (container(config, LIMITS) or {}).items():
        if isinstance(limit, Mapping):  # with the size for which vLLM keeps memory free
            found[modality] = f"{LIMITS}.{modality}.count", limit.get("count", 999)
            if modality == "video" and limit.get("num_frames"):
                found["frames"] = f"{LIMITS}.video.num_frames", limit["num_frames"]
        elif limit is not None:
            found[modality] = f"{LIMITS}.{modality}", limit
    return {name: (setting, int(limit)) for name, (setting, limit) in found.items() if name in _WHAT}


def _rows(config: DictConfig, path: str, with_frames: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield place and content of a file's rows, of a parquet file's those alone that may have the most.

    Of a file that cannot be read, of which `check_data` says why, there are none.
    """
    if "://" in path or not Path(path).exists():
        return
    if not path.endswith(".parquet"):
        with suppress(ValueError):
            yield from ((f"line {item[0]}", item[1]) for item in read_rows(path) if not isinstance(item, RowError))
        return
    import pyarrow
    import pyarrow.parquet

    prompt_key, video_key = _columns(config)
    try:
        file = pyarrow.parquet.ParquetFile(path)
        columns = [name for name in (prompt_key, video_key) if name in file.schema_arrow.names]
        if prompt_key not in columns:
            return
        first = 0
        # Frames may be encoded pictures: few rows at a time.
        for batch in file.iter_batches(64 if with_frames else 8192, columns=columns if with_frames else columns[:1]):
            for index in range(len(batch)) if with_frames else _with_most_places(batch.column(0)):
                yield f"row {first + index}", batch.slice(index, 1).to_pylist()[0]
            first += len(batch)
    except (OSError, pyarrow.ArrowException):
        return


def _with_most_places(prompts: Any) -> Iterable[int]:
    """Return the rows of an Arrow column of messages that have the most places for pictures and for videos."""
    import pyarrow.compute as pc
    from pyarrow import types

    messages = prompts.type.value_type if types.is_list(prompts.type) else prompts.type
    if not types.is_struct(messages) or not types.is_string(messages.field("content").type):
        return range(len(prompts))
    contents, rows = prompts.flatten().field("content"), pc.list_parent_indices(prompts)
    found = set()
    for name in ("image", "video"):
        places = pc.count_substring(contents, f"<{name}>").fill_null(0)
        found.add(int(np.bincount(rows, places, minlength=len(prompts)).argmax()))
    return found


def _columns(config: DictConfig) -> tuple[str, str]:
    return config_value(config, "data.prompt_key") or "prompt", config_value(config, "data.video_key") or "videos"


def _counts(config: DictConfig, row: Mapping[str, Any]) -> dict[str, int]:
    """Return the pictures and videos of a row's prompt, and the frames of its longest video that consists of some."""
    prompt_key, video_key = _columns(config)
    messages = [message for message in row.get(prompt_key) or [] if isinstance(message, Mapping)]
    contents = [message.get("content") for message in messages]
    counts = {name: sum(_places(content, name) for content in contents) for name in ("image", "video")}
    # An odd one is shown twice.
    frames = (len(frames_of(video)) for video in row.get(video_key) or [])
    return {**counts, "frames": max((count + count % 2 for count in frames if count > 1), default=0)}


def _places(content: Any, name: str) -> int:
    if isinstance(content, str):
        return content.count(f"<{name}>")
    parts: Iterable[Any] = content if isinstance(content, list) else ()
    return sum(isinstance(part, Mapping) and part.get("type") == name for part in parts)
