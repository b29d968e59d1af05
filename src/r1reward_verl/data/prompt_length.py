"""How many tokens a row is to a model: what verl's datasets would count, without decoding a single picture.

verl measures a prompt by processing its pictures (`RLHFDataset.maybe_filter_out_long_prompts`), which takes hours for
200,000 rows. How many tokens a picture becomes depends on its size alone, though: so the processor is shown one blank
picture of each size, and texts are counted by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from r1reward_verl.judgement import MEDIA_MARKERS

Size = tuple[int, int]
"""Width and height in pixels."""
Limits = tuple[tuple[str, int], ...]
"""What an entry of a row's media says about its own size, as `qwen_vl_utils` reads it."""

_MARKERS = re.compile("(" + "|".join(MEDIA_MARKERS) + ")")
_LIMITS = ("min_pixels", "max_pixels", "total_pixels", "resized_height", "resized_width")


def after_answer(tokenizer: Any) -> str:
    """Return what the chat template of a tokenizer has behind an answer: the end of the turn."""
    word = "0answer0"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": word}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False).rpartition(word)[2])


def limits_of(entry: Any) -> Limits:
    """Return the limits in one entry of a row's images or videos."""
    if not isinstance(entry, Mapping):
        return ()
    return tuple((name, entry[name]) for name in _LIMITS if isinstance(entry.get(name), int))


class PromptLength:
    """Counts the tokens of messages with media.

    Args:
        model: folder or name of a Hugging Face checkpoint.
        min_pixels, max_pixels: bounds of a picture, as the recipes set them in `data.mm_processor_kwargs`.
        whole: count finished conversations as the recipe `cold_start` does (whose pictures are brought within the
            bounds before the processor sees them, as videos are in both), instead of prompts as `r1_reward` does.

    Raises:
        OSError, ValueError: the model's processor cannot be loaded.
    """

    def __init__(self, model: str, min_pixels: int, max_pixels: int, whole: bool = False) -> None:
        from transformers import AutoProcessor

        self.processor = AutoProcessor.from_pretrained(model)
        # For models that read texts only this is the tokenizer itself.
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)
        if self.processor.chat_template is None:
            raise ValueError("it has no chat template")
        self.patch = getattr(getattr(self.processor, "image_processor", None), "patch_size", None)
        self.whole = whole
        bounds = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        self._of_videos = bounds
        self._of_pictures, self._of_processor = (bounds, {}) if whole else ({}, bounds)
        self._media_tokens = lru_cache(maxsize=1 << 14)(self._count_media)

    def count(
        self,
        messages: Sequence[Mapping[str, Any]],
        images: Sequence[tuple[Size, Limits]] = (),
        videos: Sequence[tuple[tuple[Size, ...], Limits]] = (),
    ) -> int:
        """Return the number of tokens.

        Args:
            messages: with `role` and `content`, media markers in the text.
            images: sizes of the pictures, in the order of their markers.
            videos: sizes of the frames of each video.

        Raises:
            ValueError: the model reads no pictures, or not of such a size.
        """
        content = [dict(message) for message in messages]
        # As it stands: templates of models that reason cut the reasoning out of an answer, or write it anew.
        answer = content.pop()["content"] + after_answer(self.tokenizer) if self.whole else ""
        if images or videos:
            if self.patch is None:
                raise ValueError("the model reads no pictures")
            for message in content:
                if isinstance(message["content"], str):
                    message["content"] = _parts(message["content"])
        # With one token, or what the template has, for each picture.
        text = self.processor.apply_chat_template(content, add_generation_prompt=True, tokenize=False)
        tokens = self.text(text + answer)
        tokens += sum(self._media_tokens((size,), False, limits) for size, limits in images)
        return tokens + sum(self._media_tokens(sizes, True, limits) for sizes, limits in videos)

    def text(self, text: str) -> int:
        """Return the number of tokens of a text by itself."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _count_media(self, sizes: tuple[Size, ...], video: bool, limits: Limits) -> int:
        """Return the tokens that a picture or video has beyond what the template writes for it."""
        from PIL import Image
        from qwen_vl_utils import process_vision_info

        blank = [Image.new("RGB", size) for size in sizes]
        kind = "video" if video else "image"
        entry = {
            **(self._of_videos if video else self._of_pictures),
            **dict(limits),
            kind: blank if video else blank[0],
        }
        messages = [{"role": "user", "content": [{"type": kind, **entry}]}]
        images, videos = process_vision_info(messages, image_patch_size=self.patch, return_video_metadata=True)
        arguments: dict[str, Any] = {"images": images, "videos": videos, **self._of_processor}
        if videos:
            frames, metadata = zip(*videos, strict=True)
            arguments |= {"videos": list(frames), "video_metadata": list(metadata), "do_sample_frames": False}
        text = self.processor.apply_chat_template(messages, add_generation_prompt=False, tokenize=False)
        whole = self.processor(text=[text], return_tensors="pt", **arguments)["input_ids"][0]
        return len(whole) - self.text(text)


def _parts(text: str) -> list[dict[str, str]]:
    kinds = {marker: {"type": marker.strip("<>")} for marker in MEDIA_MARKERS}
    pieces = filter(None, _MARKERS.split(text))
    return [kinds.get(piece) or {"type": "text", "text": piece} for piece in pieces]
