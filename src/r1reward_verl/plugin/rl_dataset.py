"""verl's RL dataset for preferences: pictures from paths too, no row lost in silence, prompts from a template file.

Use it with `data.custom_cls.path=pkg://r1reward_verl.plugin.rl_dataset data.custom_cls.name=PreferenceDataset`;
`data.prompt_template=<file>` is for example to continue from a released checkpoint with its exact prompt.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import datasets
from verl.utils.dataset.rl_dataset import RLHFDataset

from r1reward_verl.judgement import FIELDS, MEDIA_MARKERS, build_prompt, load_template
from r1reward_verl.media import for_verl

logger = logging.getLogger(__name__)

_MARKERS = re.compile("(" + "|".join(MEDIA_MARKERS) + ")")


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
