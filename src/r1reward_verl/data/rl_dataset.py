"""verl's RL dataset, with the prompts optionally rendered anew from a template file.

Use it with `data.custom_cls.path=pkg://r1reward_verl.data.rl_dataset data.custom_cls.name=PreferenceDataset`
and `data.prompt_template=<file>`, for example to continue from a released checkpoint with its exact prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import datasets
from verl.utils.dataset.rl_dataset import RLHFDataset

from r1reward_verl.judgement import FIELDS, MEDIA_MARKERS, build_prompt, load_template

_MARKERS = re.compile("(" + "|".join(MEDIA_MARKERS) + ")")


class PreferenceDataset(RLHFDataset):
    """`RLHFDataset` that fills the template in the file `data.prompt_template` with the rows' own texts.

    The texts are `question`, `response_1` and `response_2` of a row's `extra_info`; the media placeholders of
    the row stay before or after the text, where they were. Without `prompt_template` it is verl's dataset.

    Raises:
        FileNotFoundError, ValueError: an unusable template (see `r1reward_verl.judgement.load_template`), or
            a row that lacks the texts or whose prompt has a form that cannot be rendered anew.
    """

    def maybe_filter_out_long_prompts(self, dataframe: datasets.Dataset) -> datasets.Dataset:
        """Render the prompts before verl measures them."""
        path = self.config.get("prompt_template")
        if path is not None:
            dataframe = self._render(dataframe, load_template(path))
        return super().maybe_filter_out_long_prompts(dataframe)

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
