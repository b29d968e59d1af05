"""verl's datasets for preferences and for judgements: pictures from paths too, no row lost in silence.

RL: `data.custom_cls.path=pkg://r1reward_verl.plugin.datasets data.custom_cls.name=PreferenceDataset`. With
`data.prompt_template=<file>` it renders each prompt anew, for example to continue from a released checkpoint with its
exact prompt.

SFT: the same path with `data.custom_cls.name=JudgementDataset`, as the cold-start recipe does.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import numpy as np
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset, convert_nested_value_to_list_recursive
from verl.utils.dataset.rl_dataset import RLHFDataset

from r1reward_verl.judgement import FIELDS, MEDIA_MARKERS, build_prompt, load_template
from r1reward_verl.media import addresses, for_verl, load_image

logger = logging.getLogger(__name__)

_MARKERS = re.compile("(" + "|".join(MEDIA_MARKERS) + ")")
_THREADS = 8


class PreferenceDataset(RLHFDataset):
    """`RLHFDataset` for preferences: the pictures of `r1reward_verl.media`, and optionally another prompt.

    With `data.prompt_template` each prompt is the template in that file filled with `question`, `response_1` and
    `response_2` of the row's `extra_info`; the media placeholders of the row stay before or after the text, where
    they were.

    Raises:
        FileNotFoundError, ValueError: an unusable template (see `r1reward_verl.judgement.load_template`), a row that
            lacks the texts or whose prompt has a form that cannot be rendered anew, or no row that
            `data.filter_overlong_prompts` leaves.
    """

    def maybe_filter_out_long_prompts(self, dataframe: datasets.Dataset) -> datasets.Dataset:
        """Render the prompts before verl measures them, and say what the measuring left out."""
        path = self.config.get("prompt_template")
        if path is not None:
            dataframe = self._render(dataframe, load_template(path))
        kept = super().maybe_filter_out_long_prompts(dataframe)
        if dropped := len(dataframe) - len(kept):
            # verl counts a row that it fails to read as too long.
            broken = dataframe.filter(self._is_broken, num_proc=self.num_workers, desc="Looking for unreadable rows")
            said = (
                f"{', '.join(map(str, self.original_data_files))}: data.filter_overlong_prompts leaves out {dropped} "
                f"of {len(dataframe)} rows, {len(broken)} of them because they cannot be read"
            )
            if len(broken):
                said += f" (the first: {self._fault(broken[0])})"
            if not len(kept):
                raise ValueError(
                    f"{said}. Nothing is left: correct the rows, or raise data.max_prompt_length="
                    f"{self.max_prompt_length}, or lower data.mm_processor_kwargs.max_pixels"
                )
            logger.warning("%s", said)
        return kept

    def _is_broken(self, row: dict[str, Any]) -> bool:
        return self._fault(row) is not None

    def _fault(self, row: dict[str, Any]) -> str | None:
        try:
            messages = self._build_messages(row, self.prompt_key)
            self._process_multi_modal_info(messages, self.image_patch_size, self.config)
        except Exception as error:  # whatever verl would have swallowed
            return f"{type(error).__name__}: {error}"
        return None

    def _build_messages(self, example: dict[str, Any], key: str) -> list[dict[str, Any]]:
        """Replace the placeholders by the row's media, as verl does, with pictures from paths too."""
        parts = [message["content"] for message in example[key] if not isinstance(message["content"], str)]
        media = {name: example.get(name) for name in (self.image_key, self.video_key)}
        _refuse_addresses({key: parts, **media}, self.config)
        images = [for_verl(image) for image in example.get(self.image_key) or []]
        return super()._build_messages({**example, self.image_key: images}, key)

    def _render(self, dataframe: datasets.Dataset, template: str) -> datasets.Dataset:
        where = f"data.prompt_template is set, but {', '.join(map(str, self.original_data_files))}"
        needed = [self.prompt_key, "extra_info"]
        if missing := [name for name in needed if name not in dataframe.column_names]:
            raise ValueError(f"{where} lacks column {missing[0]!r} (there are: {dataframe.column_names})")
        try:
            prompts = dataframe.select_columns(needed).map(
                _render_row,
                with_indices=True,
                fn_kwargs={"prompt_key": self.prompt_key, "template": template},
                remove_columns=["extra_info"],
                desc="Rendering prompts",
            )
        except ValueError as error:
            raise ValueError(f"{where} cannot be rendered with it: {error}") from None
        # Side by side, so that the images are not copied.
        return datasets.concatenate_datasets([dataframe.remove_columns(self.prompt_key), prompts], axis=1)


def _refuse_addresses(media: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise ValueError for media, by column, that `qwen_vl_utils` would fetch from the network."""
    if config.get("allow_remote_media"):
        return
    for column, entries in media.items():
        for address in addresses(entries):
            raise ValueError(
                f"{column}: {address!r} is an address, and nothing is fetched; embed the picture or video as bytes or "
                "give a path, or set +data.allow_remote_media=true if you trust all of them"
            )


def _render_row(row: Mapping[str, Any], index: int, prompt_key: str, template: str) -> dict[str, Any]:
    try:
        return {prompt_key: render_messages(row[prompt_key], row["extra_info"], template)}
    except ValueError as error:
        raise ValueError(f"row {index}: {error}") from None


def render_messages(
    messages: list[dict[str, str]], extra_info: Mapping[str, Any] | None, template: str
) -> list[dict[str, str]]:
    """Replace the text of the last user message by the filled template, and keep its media placeholders.

    Raises:
        ValueError: a text is missing, there is no user message, or media stand inside its text.
    """
    values: dict[str, Any] = {field: (extra_info or {}).get(field) for field in FIELDS}
    if missing := [field for field, value in values.items() if not isinstance(value, str)]:
        raise ValueError(f"extra_info.{missing[0]} is {values[missing[0]]!r}, not a text; export the data with it")
    position = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
    if position is None:
        raise ValueError(f"the prompt has no user message (roles: {[message['role'] for message in messages]})")
    segments = _MARKERS.split(messages[position]["content"])
    texts = [i for i in range(0, len(segments), 2) if segments[i].strip()]
    if len(texts) != 1:
        raise ValueError("the user message must have its text in one piece, media placeholders before or after it")
    before, after = segments[: texts[0]], segments[texts[0] + 1 :]
    content = "".join([*before, build_prompt(**values, template=template), *after])
    return [*messages[:position], {**messages[position], "content": content}, *messages[position + 1 :]]


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
        self._config = config
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
            _refuse_addresses({self.video_key: media[self.video_key]}, self._config)
        return super()._build_messages({**example, **media})


def _text(message: Mapping[str, Any]) -> dict[str, str]:
    return {"type": "text", "text": message["content"].replace("<image>", "")}
