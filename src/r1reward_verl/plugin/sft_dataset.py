"""verl's SFT dataset for judgements: pictures within a budget and from paths too, no run that ends at a bad row.

Use it with `data.custom_cls.path=pkg://r1reward_verl.plugin.sft_dataset data.custom_cls.name=JudgementDataset`, as the
cold-start recipe does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset, convert_nested_value_to_list_recursive

from r1reward_verl.media import load_image

logger = logging.getLogger(__name__)

_THREADS = 8


class JudgementDataset(MultiTurnSFTDataset):
    """`MultiTurnSFTDataset` with the pictures of `r1reward_verl.media`, without rows that would end the run.

    `data.mm_processor_kwargs` (`min_pixels`, `max_pixels`) bounds the pictures as it does in RL; verl's own SFT
    dataset takes them in full size. Rows longer than `data.max_length` are left out before training, unless
    `data.truncation` cuts them, and so are those whose pictures cannot be read; the log says how many of each.

    Raises:
        ValueError: no row is left, or fewer than one batch.
    """

    def __init__(self, parquet_files: Any, tokenizer: Any, config: Any, processor: Any = None, max_samples: int = -1):
        config = config or {}
        self._bounds = dict(config.get("mm_processor_kwargs") or {})
        self._batch = config.get("train_batch_size") or 1
        super().__init__(parquet_files, tokenizer, config, processor, max_samples)

    def _read_files_and_process(self) -> None:
        super()._read_files_and_process()
        with ThreadPoolExecutor(_THREADS) as pool:
            lengths = list(pool.map(self._length, range(len(self.messages))))
        bound = self.max_length if self.truncation == "error" else np.inf
        kept = [index for index, length in enumerate(lengths) if not isinstance(length, str) and length <= bound]
        said = f"{', '.join(map(str, self.parquet_files))}: "
        if dropped := len(lengths) - len(kept):
            broken = [(index, length) for index, length in enumerate(lengths) if isinstance(length, str)]
            said += (
                f"{dropped} of {len(lengths)} rows are left out, {dropped - len(broken)} of them longer than "
                f"data.max_length={self.max_length} tokens and {len(broken)} with pictures that cannot be read"
            )
            if broken:
                said += f" (the first: row {broken[0][0]}, {broken[0][1]})"
            if not kept:
                raise ValueError(
                    f"{said}. Nothing is left: correct the rows, raise data.max_length, or lower "
                    "data.mm_processor_kwargs.max_pixels"
                )
            logger.warning("%s", said)
            self._keep(kept)
        if len(kept) < self._batch:
            # verl would divide by the number of batches, which is zero.
            raise ValueError(
                f"{said}{', ' if dropped else ''}{len(kept)} rows are no batch of data.train_batch_size={self._batch}: "
                "lower it, or give more rows"
            )

    def _keep(self, kept: list[int]) -> None:
        self.dataframe: Any = self.dataframe.iloc[kept]
        for name in ("messages", "tools", "enable_thinking"):
            if (values := getattr(self, name)) is not None:
                setattr(self, name, [values[index] for index in kept])

    def _media(self, row: Mapping[str, Any], key: str) -> list[Any]:
        value = row.get(key)
        return list(convert_nested_value_to_list_recursive(value)) if isinstance(value, list | np.ndarray) else []

    def _length(self, index: int) -> int | str:
        """Return the tokens of a row, or why it cannot be read."""
        from qwen_vl_utils.vision_process import IMAGE_MAX_TOKEN_NUM, IMAGE_MIN_TOKEN_NUM, smart_resize

        row = self.dataframe.iloc[index]
        try:
            if self._media(row, self.video_key):
                return len(self[index]["input_ids"])
            # Decoded, since the end of a file may be missing behind a good header.
            sizes = [load_image(image).size for image in self._media(row, self.image_key)]
        except Exception as error:  # whatever would end the training at this row
            return f"{type(error).__name__}: {error}"
        if self.processor is None:
            text = self.tokenizer.apply_chat_template(self.messages[index], tokenize=False)
        else:
            # The placeholder of a picture becomes one token for each block of merged patches.
            parts = [
                {**message, "content": [*[{"type": "image"}] * message["content"].count("<image>"), _text(message)]}
                for message in self.messages[index]
            ]
            text = self.processor.apply_chat_template(parts, tokenize=False).replace(self.processor.image_token, "")
        length = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if sizes:
            factor = self.image_patch_size * self.processor.image_processor.merge_size
            least = self._bounds.get("min_pixels", IMAGE_MIN_TOKEN_NUM * factor**2)
            most = self._bounds.get("max_pixels", IMAGE_MAX_TOKEN_NUM * factor**2)
            for width, height in sizes:
                rows, columns = smart_resize(height, width, factor=factor, min_pixels=least, max_pixels=most)
                length += rows // factor * (columns // factor)
        return length

    def _build_messages(self, example: dict[str, Any]) -> list[dict[str, Any]]:
        """Replace the placeholders by the row's media, as verl does, with bounded pictures from paths too."""
        media: dict[str, list[Any]] = {}
        if self.image_key in example:
            pictures = self._media(example, self.image_key)
            media[self.image_key] = [{"image": load_image(picture), **self._bounds} for picture in pictures]
        if self.video_key in example:
            media[self.video_key] = self._media(example, self.video_key)
        return super()._build_messages({**example, **media})


def _text(message: Mapping[str, Any]) -> dict[str, str]:
    return {"type": "text", "text": message["content"].replace("<image>", "")}
