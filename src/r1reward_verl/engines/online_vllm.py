"""vLLM's asynchronous engine in this process, for prompts that arrive one by one.

Prompts are rendered as in an evaluation (processor chat template, pictures through `qwen_vl_utils`).
vLLM is imported when an engine is created.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from r1reward_verl.engines.base import Sampling
from r1reward_verl.engines.messages import Token
from r1reward_verl.engines.online import ALTERNATIVES, Content, Generated, GeneratedText
from r1reward_verl.engines.vllm import check_platform, checkpoint, engine_settings, load, patch_size, starting
from r1reward_verl.media import Media


@dataclass(frozen=True)
class _Video:
    """Frames as vLLM takes them, and their metadata."""

    content: tuple[Any, Any]


class OnlineVLLM:
    """A reward model loaded into vLLM; see `engines.online.OnlineEngine`.

    Args:
        model: folder of a Hugging Face checkpoint with its processor and chat template, or its name on the Hub.
        sampling: how texts are generated.
        images: the most pictures of a prompt, those in responses included.
        videos: the most videos of a prompt.
        frames: of the longest video.
        max_model_len: limit of prompt and text together; None for the model's own.
        tensor_parallel: GPUs that share the model.
        gpu_memory_utilization: share of a GPU's memory; None for vLLM's default.
        seed: of the samples.

    Raises:
        ValueError: `model` is no checkpoint, or vLLM's build and `VERL_PLATFORM` disagree.
        OSError: the Hub does not give the model.
        EngineError: vLLM could not be started.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        sampling: Sampling | None = None,
        *,
        images: int = 8,
        videos: int = 0,
        frames: int = 32,
        max_model_len: int | None = None,
        tensor_parallel: int = 1,
        gpu_memory_utilization: float | None = None,
        seed: int = 0,
    ) -> None:
        checkpoint(model)
        check_platform()
        from transformers import AutoProcessor
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.sampling = sampling or Sampling()
        self._processor = AutoProcessor.from_pretrained(model)
        self._bounds = {"min_pixels": self.sampling.min_pixels, "max_pixels": self.sampling.max_pixels}
        self._patch_size = patch_size(self._processor)
        images, self._videos = (0, 0) if self._patch_size is None else (images, videos)
        with starting():
            self._llm = AsyncLLM.from_engine_args(
                AsyncEngineArgs(
                    model=os.fspath(model),
                    max_model_len=-1 if max_model_len is None else max_model_len,
                    tensor_parallel_size=tensor_parallel,
                    seed=seed,
                    enable_log_requests=False,
                    disable_log_stats=True,
                    **engine_settings(
                        images,
                        frames if self._videos else 0,
                        self.sampling.max_pixels,
                        gpu_memory_utilization,
                        self._patch_size,
                        self._videos,
                    ),
                )
            )
        self._numbers = itertools.count()

    @property
    def given_up(self) -> bool:
        """Whether vLLM has failed; it does not come back."""
        return bool(self._llm.errored)

    async def encode(self, media: Sequence[Media]) -> list[Any]:
        """Return each picture decoded, in the size in which the model is to see it."""
        if media and self._patch_size is None:
            raise ValueError("a prompt has a picture, and the model reads texts only")
        return await asyncio.to_thread(lambda: [self._picture(one) for one in media])

    def _picture(self, media: Media) -> Any:
        from qwen_vl_utils.vision_process import fetch_image

        return fetch_image({"image": load(media), **self._bounds}, image_patch_size=self._patch_size)

    async def encode_video(self, frames: Sequence[Media]) -> list[Any]:
        """Return the video in the size in which the model is to see it, with what its processor wants to know of it."""
        if not self._videos:
            raise ValueError("a prompt has a video, and the model was loaded without room for any: raise videos")
        return [await asyncio.to_thread(self._video, frames)]

    def _video(self, frames: Sequence[Media]) -> _Video:
        from qwen_vl_utils import process_vision_info

        part = {"type": "video", "video": [load(frame) for frame in frames], **self._bounds}
        _, ((pictures, about),) = process_vision_info(
            [{"role": "user", "content": [part]}], image_patch_size=self._patch_size, return_video_metadata=True
        )
        return _Video((pictures.byte(), about))

    async def generate(self, content: Content, samples: int, *, logprobs: bool = False) -> Generated:
        """Return the texts; see `OnlineEngine.generate`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            n=max(samples, 1),
            temperature=self.sampling.temperature if samples else 0.0,
            max_tokens=self.sampling.max_tokens,
            logprobs=ALTERNATIVES if logprobs else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        texts: list[GeneratedText] = []
        tokens = prompt_tokens = 0
        try:
            async for output in self._llm.generate(self._prompt(content), parameters, str(next(self._numbers))):
                prompt_tokens = len(output.prompt_token_ids or ())
                for one in output.outputs:
                    tokens += len(one.token_ids)
                    texts.append(GeneratedText(one.text, one.finish_reason, _tokens(one.token_ids, one.logprobs)))
        except ValueError as error:  # too long, or pictures that the model does not take
            return Generated(error=str(error), prompt_tokens=prompt_tokens)
        except Exception as error:  # vLLM's engine is gone
            if not self._llm.errored:
                raise
            return Generated(error=f"vLLM has failed: {type(error).__name__}: {error}", unavailable=True)
        return Generated(tuple(texts), "", prompt_tokens, tokens)

    def _prompt(self, content: Content) -> dict[str, Any]:
        parts: list[dict[str, Any]] = []
        media: dict[str, list[Any]] = {}
        for part in content:
            if isinstance(part, str):
                parts.append({"type": "text", "text": part})
                continue
            kind = "video" if isinstance(part, _Video) else "image"
            parts.append({"type": kind})
            media.setdefault(kind, []).append(part.content if isinstance(part, _Video) else part)
        messages = [{"role": "user", "content": parts if media else "".join(content)}]
        text = self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return {"prompt": text, **({"multi_modal_data": media} if media else {})}

    async def close(self) -> None:
        """End vLLM's processes."""
        self._llm.shutdown()


def _tokens(ids: Sequence[int], logprobs: Any) -> tuple[Token, ...] | None:
    """Return the tokens of a text with the log-probabilities of their alternatives."""
    if logprobs is None:
        return None
    return tuple(
        (place[token].decoded_token or "", {one.decoded_token or "": one.logprob for one in place.values()})
        for token, place in zip(ids, logprobs, strict=True)
    )
