"""A guarded correction of vLLM 0.24 on transformers 5: when the frames of a video for a Qwen2.5-VL were taken.

vLLM drops what comes with a video about its frames. transformers 4 then took 2 frames a second, as Qwen2.5-VL's own
preparation of videos; transformers 5 takes 24. A pair of frames is 1/12 of a second from the next one instead of a
second, and nearly all have the same position in time: another one than in training.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sized
from types import ModuleType
from typing import Any

from wrapt import when_imported

FRAMES_PER_SECOND = 2.0
"""Of a video about which nothing is known: what `qwen_vl_utils` samples."""


def correct_video_times() -> None:
    """Correct vLLM as soon as it imports the model in this process, which prepares the prompts of its engine."""
    when_imported("vllm.model_executor.models.qwen2_5_vl")(install_video_times)


def install_video_times(qwen2_5_vl: ModuleType) -> None:
    """Let vLLM pass on to transformers when frames were taken.

    Args:
        qwen2_5_vl: `vllm.model_executor.models.qwen2_5_vl`.
    """
    processor = qwen2_5_vl.Qwen2_5_VLMultiModalProcessor
    get_data_parser = qwen2_5_vl.Qwen2_5_VLProcessingInfo.get_data_parser
    call_hf_processor = processor._call_hf_processor
    if hasattr(call_hf_processor, "__wrapped__"):
        return

    @functools.wraps(get_data_parser)
    def with_metadata(self: Any) -> Any:
        parser = get_data_parser(self)
        parse = parser._get_video_with_metadata
        parser.video_needs_metadata = True
        parser._get_video_with_metadata = lambda video: _timed(*parse(video))
        return parser

    @functools.wraps(call_hf_processor)
    def call_with_metadata(self: Any, prompt: str, mm_data: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        if videos := mm_data.get("videos"):
            frames, metadata = zip(*videos, strict=True)
            mm_data = {**mm_data, "videos": list(frames), "video_metadata": list(metadata)}
        return call_hf_processor(self, prompt, mm_data, *args, **kwargs)

    qwen2_5_vl.Qwen2_5_VLProcessingInfo.get_data_parser = with_metadata
    processor._call_hf_processor = call_with_metadata


def times(frames: Sized) -> dict[str, Any]:
    """Return the metadata of a video, in transformers' form, of which only the frames are known."""
    return {"fps": FRAMES_PER_SECOND, "total_num_frames": len(frames), "frames_indices": list(range(len(frames)))}


def _timed(frames: Any, metadata: Mapping[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    known = times(frames)
    # vLLM's own readers of video files tell more, for vLLM itself.
    return frames, known | {name: value for name, value in (metadata or {}).items() if name in known}
