"""verl's datasets for preferences and for judgements: pictures from paths too, no row lost in silence.

RL: `data.custom_cls.path=pkg://r1reward_verl.plugin.datasets data.custom_cls.name=PreferenceDataset`. With
`data.prompt_template=<file>` it renders each prompt anew, for example to continue from a released checkpoint with its
exact prompt.

SFT: the same path with `data.custom_cls.name=JudgementDataset`, as the cold-start recipe does.
"""

from __future__ import annotations

import copy
import functools
import io
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.dataset
import pyarrow.parquet
import torch
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset, convert_nested_value_to_list_recursive
from verl.utils.dataset.rl_dataset import RLHFDataset

from r1reward_verl.data.prompt_length import after_answer
from r1reward_verl.engines.video_times import times
from r1reward_verl.judgement import FIELDS, MEDIA_MARKERS, build_prompt, load_template
from r1reward_verl.media import addresses, for_verl, load_image

logger = logging.getLogger(__name__)

_MARKERS = re.compile("(" + "|".join(MEDIA_MARKERS) + ")")
_THREADS = 8
_BATCH_ROWS = 64
_ROW = "__row__"


class PreferenceDataset(RLHFDataset):
    """`RLHFDataset` for preferences: the pictures of `r1reward_verl.media`, and optionally another prompt.

    `data.mm_processor_kwargs` (`min_pixels`, `max_pixels`) bounds the frames of videos, too.

    With `data.prompt_template` each prompt is the template in that file filled with `question`, `response_1` and
    `response_2` of the row's `extra_info`; the media placeholders of the row stay before or after the text, where
    they were.

    `data.val_max_samples` and `data.train_max_samples` take the same rows at each start, and both orders of a
    preference or none of them: verl draws anew each time, from rows.

    Raises:
        FileNotFoundError, ValueError: an unusable template (see `r1reward_verl.judgement.load_template`), a row that
            lacks the texts or whose prompt has a form that cannot be rendered anew, or no row that
            `data.filter_overlong_prompts` leaves.
    """

    def __init__(self, data_files: Any, tokenizer: Any, config: Any, processor: Any = None, max_samples: int = -1):
        self._samples = max_samples
        super().__init__(data_files, tokenizer, config, processor)

    def maybe_filter_out_long_prompts(self, dataframe: datasets.Dataset) -> datasets.Dataset:
        """Draw the rows, render the prompts before verl measures them, and say what the measuring left out."""
        dataframe = self._sample(dataframe)
        path = self.config.get("prompt_template")
        if path is not None:
            dataframe = self._render(dataframe, load_template(path))
        kept = super().maybe_filter_out_long_prompts(dataframe)
        if dropped := len(dataframe) - len(kept):
            # verl counts a row that it fails to read as too long.
            broken = dataframe.filter(self._is_broken, num_proc=self.num_workers, desc="Looking for unreadable rows")
            message = (
                f"{', '.join(map(str, self.original_data_files))}: data.filter_overlong_prompts leaves out {dropped} "
                f"of {len(dataframe)} rows, {len(broken)} of them because they cannot be read"
            )
            if len(broken):
                message += f" (the first: {self._fault(broken[0])})"
            if not len(kept):
                raise ValueError(
                    f"{message}. Nothing is left: correct the rows, or raise data.max_prompt_length="
                    f"{self.max_prompt_length}, or lower data.mm_processor_kwargs.max_pixels"
                )
            logger.warning("%s", message)
        return kept

    def _sample(self, dataframe: datasets.Dataset) -> datasets.Dataset:
        """Return as many rows as are asked for, in the order of the file.

        The orders of a preference (the same `extra_info.pair_id`) are taken together, but for the last one where the
        number is odd. `data.shuffle` draws them whatever `data.seed` is, so that runs with other seeds can be compared;
        without it the first are taken.
        """
        if not 0 < self._samples < len(dataframe):
            return dataframe
        abouts = dataframe["extra_info"] if "extra_info" in dataframe.column_names else [None] * len(dataframe)
        orders: dict[Any, list[int]] = {}
        for index, about in enumerate(abouts):
            orders.setdefault((about or {}).get("pair_id") or index, []).append(index)
        pairs = list(orders.values())
        drawn = np.random.default_rng(0).permutation(len(pairs)) if self.shuffle else range(len(pairs))
        indices = [index for pair in drawn for index in pairs[pair]][: self._samples]
        logger.info("%s: %d of %d rows are taken", self.original_data_files, len(indices), len(dataframe))
        return dataframe.select(sorted(indices))

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
        videos = [_bounded(video, self.config) for video in example.get(self.video_key) or []]
        return super()._build_messages({**example, self.image_key: images, self.video_key: videos}, key)

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


def _bounded(video: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a video with the bounds of pictures for its frames; what it says of its own size comes before them.

    Without, `qwen_vl_utils` makes 128 to 768 tokens of every pair of frames, however small they are.
    """
    bounds = config.get("mm_processor_kwargs") or {}
    own = video if isinstance(video, Mapping) else {"video": video}
    sizes = {name: bounds.get(name) for name in ("min_pixels", "max_pixels")}
    return {name: value for part in (sizes, own) for name, value in part.items() if value is not None}


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


class _Rows:
    """What verl asks of its data frame, of rows that stay in their files until they are asked for.

    verl reads whole files into the memory of every rank. `datasets` maps one copy of them, which it makes in its cache
    at the first start, into the memory of all ranks of a machine; verl's RL dataset does the same.

    Args:
        files: paths of the parquet files.
    """

    def __init__(self, files: Iterable[str]) -> None:
        # Buffered and in small batches: a row group can be the whole file.
        buffered = pyarrow.dataset.ParquetFragmentScanOptions(use_buffered_stream=True, pre_buffer=False)
        options = {"split": "train", "batch_size": _BATCH_ROWS, "fragment_scan_options": buffered}
        self._files = [
            datasets.load_dataset("parquet", data_files=file, **options).with_format("arrow") for file in files
        ]
        self._ends = np.cumsum([len(file) for file in self._files])
        self._chosen = np.arange(self._ends[-1])

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def iloc(self) -> _Rows:
        return self

    def __getitem__(self, index: int) -> pd.Series:
        number = int(self._chosen[index])
        file = int(np.searchsorted(self._ends, number, side="right"))
        row = self._files[file][number - int(self._ends[file])].to_pylist()[0]
        return pd.Series(row, dtype=object)

    def choose(self, indices: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        self._chosen = self._chosen[list(indices)]


def _with_numbers(files: Iterable[str], columns: Iterable[str]) -> list[io.BytesIO]:
    """Return parquet files of some columns, where they are there, and of the number of each row among all files."""
    start, found = 0, []
    for file in files:
        names = pyarrow.parquet.read_schema(file).names
        table = pyarrow.parquet.read_table(file, columns=[name for name in columns if name in names])
        numbers = pyarrow.array(range(start, start + len(table)))
        start += len(table)
        found.append(io.BytesIO())
        pyarrow.parquet.write_table(table.replace_schema_metadata().append_column(_ROW, numbers), found[-1])
    return found


class JudgementDataset(MultiTurnSFTDataset):
    """`MultiTurnSFTDataset` with the pictures of `r1reward_verl.media`, without rows that would end the run.

    Its rows are verl's, in verl's order, but only their texts are in memory: pictures are read with the row.

    `data.mm_processor_kwargs` (`min_pixels`, `max_pixels`) bounds pictures and frames as it does in RL; verl's own SFT
    dataset takes them in full size. Rows longer than `data.max_length` are left out before training, unless
    `data.truncation` cuts them, and so are those whose pictures cannot be read; the log says how many of each.

    A model learns the answers as they stand, behind the prompt that RL gives it: chat templates of models that reason,
    such as Qwen3's, cut `<think>` out of them or write it in another form. A file for a model that reads texts only may
    have columns of media, without any in them.

    Raises:
        ValueError: no row is left, or fewer than one batch.
    """

    parquet_files: Any
    dataframe: Any

    def __init__(self, parquet_files: Any, tokenizer: Any, config: Any, processor: Any = None, max_samples: int = -1):
        config = config or {}
        self._bounds = dict(config.get("mm_processor_kwargs") or {})
        self._config = config
        self._batch = config.get("train_batch_size") or 1
        self._after_answer = after_answer(tokenizer)
        if processor is not None:
            processor = copy.copy(processor)
            processor.apply_chat_template = functools.partial(_with_times, processor.apply_chat_template)
        super().__init__(parquet_files, tokenizer, config, processor, max_samples)

    def _read_files_and_process(self) -> None:
        files = self.parquet_files
        # verl chooses the rows and keeps their texts; it reads them from what is all it needs for that.
        self.parquet_files = _with_numbers(files, (self.messages_key, self.tools_key, self.enable_thinking_key))
        super()._read_files_and_process()
        self.parquet_files = files
        rows = _Rows(files)
        rows.choose(self.dataframe[_ROW].tolist())
        self.dataframe = rows
        with ThreadPoolExecutor(_THREADS) as pool:
            lengths = list(pool.map(self._length, range(len(self.messages))))
        bound = self.max_length if self.truncation == "error" else np.inf
        kept = [index for index, length in enumerate(lengths) if not isinstance(length, str) and length <= bound]
        message = f"{', '.join(map(str, self.parquet_files))}: "
        if dropped := len(lengths) - len(kept):
            broken = [(index, length) for index, length in enumerate(lengths) if isinstance(length, str)]
            message += (
                f"{dropped} of {len(lengths)} rows are left out, {dropped - len(broken)} of them longer than "
                f"data.max_length={self.max_length} tokens and {len(broken)} with pictures that cannot be read"
            )
            if broken:
                message += f" (the first: row {broken[0][0]}, {broken[0][1]})"
            if not kept:
                raise ValueError(
                    f"{message}. Nothing is left: correct the rows, raise data.max_length, or lower "
                    "data.mm_processor_kwargs.max_pixels"
                )
            logger.warning("%s", message)
            self._keep(kept)
        if len(kept) < self._batch:
            # verl would divide by the number of batches, which is zero.
            raise ValueError(
                f"{message}{', ' if dropped else ''}{len(kept)} rows are no batch of "
                f"data.train_batch_size={self._batch}: lower it, or give more rows"
            )

    def _keep(self, kept: list[int]) -> None:
        self.dataframe.choose(kept)
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
            media = any(self._media(row, key) for key in (self.image_key, self.video_key))
            if media and self.processor is None:
                raise ValueError("the model reads texts only")
            if self._media(row, self.video_key):
                return len(self[index]["input_ids"])
            # Decoded, since the end of a file may be missing behind a good header.
            sizes = [load_image(image).size for image in self._media(row, self.image_key)]
        except Exception as error:  # whatever would end the training at this row
            return f"{type(error).__name__}: {error}"
        *prompt, answer = self.messages[index]
        if self.processor is None:
            text = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        else:
            # The placeholder of a picture becomes one token for each block of merged patches.
            parts = [
                {**message, "content": [*[{"type": "image"}] * message["content"].count("<image>"), _text(message)]}
                for message in prompt
            ]
            text = self.processor.apply_chat_template(parts, add_generation_prompt=True, tokenize=False)
            text = text.replace(self.processor.image_token, "")
        text += answer["content"] + self._after_answer
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
            media[self.video_key] = [_bounded(one, self._config) for one in self._media(example, self.video_key)]
            _refuse_addresses({self.video_key: media[self.video_key]}, self._config)
        if self.processor is None:
            # verl asks for a processor where these columns are there at all.
            return super()._build_messages({self.messages_key: example[self.messages_key]})
        return super()._build_messages({**example, **media})

    def _process_single_message(
        self, index: int, message: dict[str, Any], full_message: list[Any], *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Return tokens, loss mask, attention mask and media of a message, as verl does, an answer as it stands."""
        if message["role"] != "assistant":
            return super()._process_single_message(index, message, full_message, *args, **kwargs)
        answer = self._answer(message)
        tokens = torch.tensor([*self.generation_prompt, *answer])
        loss_mask = torch.ones_like(tokens)
        loss_mask[: -len(answer)] = 0
        return tokens, loss_mask, torch.ones_like(tokens), {}

    def _answer(self, message: Mapping[str, Any]) -> list[int]:
        content = message["content"]
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        return self.tokenizer(text + self._after_answer, add_special_tokens=False)["input_ids"]

    def sanity_check(self, input_ids: torch.Tensor, messages: list[dict[str, Any]], *args: Any) -> None:
        """Compare the prompt with what the chat template makes of it, as verl does with the answer too."""
        if messages[-1]["role"] == "assistant":
            *messages, answer = messages
            input_ids = input_ids[: -len(self.generation_prompt) - len(self._answer(answer))]
        super().sanity_check(input_ids, messages, *args)


def _with_times(apply_chat_template: Callable[..., Any], messages: list[dict[str, Any]], **options: Any) -> Any:
    """Tell the processor of frames when they were taken, as verl does in RL; of its own it takes 24 for a second."""
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    if frames := [part["video"] for part in parts if part["type"] == "video"]:
        options["processor_kwargs"] = {"video_metadata": list(map(times, frames)), "do_sample_frames": False}
    return apply_chat_template(messages, **options)


def _text(message: Mapping[str, Any]) -> dict[str, str]:
    return {"type": "text", "text": message["content"].replace("<image>", "")}
