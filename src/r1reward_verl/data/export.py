"""From a preference to the rows that verl 0.9.1 trains on: `main_ppo`'s, and those of its SFT trainer.

Media stand in forms that verl's own datasets and `qwen_vl_utils` read, besides those of this project:

- `images`: `{"image": path}`, or `{"bytes": encoded picture}`. verl takes a struct that has a `bytes`, even a null one,
  for an encoded picture, so a file has either the one or the other.
- `videos`: `{"video": [frame, ...]}`, each frame a path or a data URI: of frames these are the only two forms.
- a row without is `[]`: verl's SFT dataset cannot read null.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

from msgspec.structs import replace

from r1reward_verl.data.preference import Preference
from r1reward_verl.engines.messages import MediaPosition
from r1reward_verl.judgement import PROMPT, build_prompt, escape_markers
from r1reward_verl.media import Media, file_kind
from r1reward_verl.text import excerpt

if TYPE_CHECKING:
    import pyarrow as pa

MEDIA_POSITIONS: tuple[str, ...] = get_args(MediaPosition)


def rl_row(
    preference: Preference,
    *,
    index: int,
    template: str = PROMPT,
    media_position: MediaPosition = "before",
    split: str = "train",
    solved: bool | None = None,
) -> dict[str, Any]:
    """Return a row of `rl_schema` for `main_ppo` (and for the evaluation, which reads the same).

    Args:
        preference: its media either all paths or all data. A trace is not used.
        index: of the row in its file, from 0 on; names it in messages.
        template: prompt with `{question}`, `{response_1}` and `{response_2}`.
        media_position: pictures before or after the text.
        split: name of the file's part, as verl's examples have it.
        solved: whether a teacher's attempt agreed with the label; None for what the preference says. After `swap` it
            has no trace any more that would.

    Raises:
        ValueError: a template that cannot be used (see `build_prompt`), or an unknown media position.
    """
    texts = {name: getattr(preference, name) for name in ("question", "response_1", "response_2")}
    return {
        "data_source": preference.source,
        "prompt": [{"role": "user", "content": _content(preference, template, media_position)}],
        **_media(preference),
        "ability": "reward",
        "reward_model": {"style": "rule", "ground_truth": str(preference.label)},
        "extra_info": {**_about(preference, index, split, solved), **texts},
    }


def sft_row(
    preference: Preference,
    *,
    index: int,
    template: str = PROMPT,
    media_position: MediaPosition = "before",
    split: str = "train",
) -> dict[str, Any]:
    """Return a row of `sft_schema` for verl's SFT trainer: the prompt, and the teacher's trace as the answer to it.

    White space around the trace is left out, and media markers and control tokens in it become text, as
    `build_prompt` does with the texts of the prompt. Arguments as for `rl_row`.

    Raises:
        ValueError: as `rl_row`; or the preference has no trace.
    """
    if preference.trace is None:
        raise ValueError(
            f"preference {excerpt(preference.id)} of {excerpt(preference.source)} has no trace to learn from"
        )
    return {
        "messages": [
            {"role": "user", "content": _content(preference, template, media_position)},
            {"role": "assistant", "content": escape_markers(preference.trace.strip())},
        ],
        **_media(preference),
        "extra_info": _about(preference, index, split),
    }


def swap(preference: Preference) -> Preference:
    """Return a preference with its responses in the other order, without its trace, which calls them 1 and 2."""
    first, second, label = preference.response_1, preference.response_2, preference.label
    return replace(preference, response_1=second, response_2=first, label=2 if label == 1 else 1, trace=None)


def _content(preference: Preference, template: str, media_position: MediaPosition) -> str:
    if media_position not in MEDIA_POSITIONS:
        raise ValueError(f"media position {media_position!r} is none of {', '.join(MEDIA_POSITIONS)}")
    markers = "<image>" * len(preference.images) + "<video>" * (preference.video is not None)
    text = build_prompt(preference.question, preference.response_1, preference.response_2, template=template)
    return markers + text if media_position == "before" else text + markers


def _media(preference: Preference) -> dict[str, list[dict[str, Any]]]:
    images = [{"image": one.path} if one.data is None else {"bytes": one.data} for one in preference.images]
    videos = [] if preference.video is None else [{"video": list(map(_frame, preference.video))}]
    return {"images": images, "videos": videos}


def _frame(media: Media) -> str | None:
    if media.data is None:
        return media.path
    return f"data:image/{file_kind(media.data) or 'tiff'};base64,{base64.b64encode(media.data).decode()}"


def _about(preference: Preference, index: int, split: str, solved: bool | None = None) -> dict[str, Any]:
    if solved is None and preference.difficulty is not None:
        solved = preference.trace is not None
    return {
        "index": index,
        "id": preference.id,
        "source": preference.source,
        "category": preference.category,
        "pair_id": f"{preference.source}/{preference.id}",
        "order": preference.label - 1,
        "difficulty": preference.difficulty,
        "solved": solved,
        "split": split,
    }


@lru_cache(maxsize=2)
def rl_schema(inline: bool) -> pa.Schema:
    """Return the columns of `rl_row`, for pictures that are data (`inline`) or paths.

    `extra_info`: `pair_id` is the same in both orders of a preference, `order` is 0 where the better response is the
    first, `difficulty` the attempts that a teacher made and `solved` whether one agreed, null where none was asked.
    """
    import pyarrow as pa

    fields = _fields(inline)
    texts = [pa.field(name, pa.string()) for name in ("question", "response_1", "response_2")]
    return pa.schema(
        {
            "data_source": pa.string(),
            "prompt": fields["messages"],
            "images": fields["images"],
            "videos": fields["videos"],
            "ability": pa.string(),
            "reward_model": pa.struct([("style", pa.string()), ("ground_truth", pa.string())]),
            "extra_info": pa.struct([*fields["extra_info"].fields, *texts]),
        }
    )


@lru_cache(maxsize=2)
def sft_schema(inline: bool) -> pa.Schema:
    """Return the columns of `sft_row`. The trainer does not read `extra_info`, which has no texts here."""
    import pyarrow as pa

    return pa.schema(_fields(inline))


def _fields(inline: bool) -> dict[str, pa.DataType]:
    import pyarrow as pa

    types = {"index": pa.int64(), "order": pa.int64(), "difficulty": pa.int64(), "solved": pa.bool_()}
    about = ("index", "id", "source", "category", "pair_id", "order", "difficulty", "solved", "split")
    return {
        "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        "images": pa.list_(pa.struct([("bytes", pa.binary()) if inline else ("image", pa.string())])),
        "videos": pa.list_(pa.struct([("video", pa.list_(pa.string()))])),
        "extra_info": pa.struct([(name, types.get(name, pa.string())) for name in about]),
    }
