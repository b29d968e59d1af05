"""Options of the commands that use a trained model, and the model that they name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec

from r1reward_verl.engines.online import MODEL_API_KEY
from r1reward_verl.evaluation.fingerprint import fingerprint_model
from r1reward_verl.settings import Settings, setting
from r1reward_verl.use.exports import ExportSettings, export
from r1reward_verl.use.files import FileTask, process_file
from r1reward_verl.use.model import RewardModel
from r1reward_verl.use.settings import ComparisonSettings


class VLLMOptions(Settings, frozen=True, kw_only=True):
    """Options of a model in vLLM within this process, whatever it is loaded for."""

    tensor_parallel: Annotated[int, setting("Number of GPUs that share the model (vLLM).", metavar="N", ge=1)] = 1
    gpu_memory_utilization: Annotated[
        float | None, setting("Share of a GPU's memory; by default vLLM's own.", metavar="SHARE", gt=0, le=1)
    ] = None
    max_model_len: Annotated[
        int | None, setting("Largest number of tokens of prompt and judgement together (vLLM).", metavar="N", ge=1)
    ] = None


class ModelSettings(VLLMOptions, frozen=True, kw_only=True):
    """Where the reward model runs: in vLLM within this process, or behind OpenAI-compatible servers (`--url`)."""

    model: Annotated[
        str | None,
        setting(
            "Folder of a checkpoint, or its name on the Hugging Face Hub; with --url the name under which the servers "
            "serve it.",
            metavar="MODEL",
        ),
    ] = None
    urls: Annotated[
        list[str] | None,
        setting(
            "Address of a server, such as http://host:8000/v1. Repeat it for several.", flag="--url", metavar="URL"
        ),
    ] = None
    api_key_env: Annotated[str, setting("Environment variable with the servers' key.", metavar="NAME")] = MODEL_API_KEY
    concurrency: Annotated[int, setting("Number of requests at a time, over all servers.", metavar="N", ge=1)] = 64
    timeout: Annotated[float, setting("Seconds for one request.", metavar="SECONDS", gt=0)] = 120.0
    max_wait: Annotated[
        float | None,
        setting("Seconds without any answer after which requests fail; by default those for one request.", gt=0),
    ] = None
    max_images: Annotated[int, setting("Largest number of pictures of a prompt (vLLM).", metavar="N", ge=0)] = 8
    max_videos: Annotated[int, setting("Largest number of videos of a prompt (vLLM).", metavar="N", ge=0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None and not self.urls:
            raise ValueError("name a model: --model CHECKPOINT, or --url ADDRESS of servers that serve it")
        defaults = {field.name: field.default for field in msgspec.structs.fields(type(self))}
        for name in _VLLM if self.urls else _SERVERS:
            if getattr(self, name) != defaults[name]:
                other = "vLLM in this process, not --url" if self.urls else "servers; name them with --url"
                raise ValueError(f"--{name.replace('_', '-')} is for {other}")

    def about(self) -> dict[str, Any]:
        """Return what tells the model from others."""
        if self.urls:
            return {"model": self.model, "urls": sorted(self.urls)}
        assert self.model is not None
        return {"fingerprint": fingerprint_model(self.model)}

    def load(self, comparison: ComparisonSettings) -> RewardModel:
        """Return the model.

        Raises:
            ValueError, FileNotFoundError: see `RewardModel`.
        """
        names = _SERVERS if self.urls else _VLLM
        options = {name.removeprefix("max_") if name in _MEDIA else name: getattr(self, name) for name in names}
        return RewardModel(self.model, urls=self.urls or (), settings=comparison, **options)


_MEDIA = ("max_images", "max_videos")
_SERVERS = ("api_key_env", "concurrency", "timeout", "max_wait")
_VLLM = ("max_images", "max_videos", "tensor_parallel", "gpu_memory_utilization", "max_model_len")


class RunSettings(Settings, frozen=True, kw_only=True):
    """How a file is run over."""

    media: Annotated[
        str | None, setting("Folder of relative media paths; by default that of the file.", metavar="DIR")
    ] = None
    price: Annotated[
        tuple[float, float] | None,
        setting("Price of a million tokens read and of a million written, in any currency.", metavar="INPUT OUTPUT"),
    ] = None
    max_rejects: Annotated[
        float, setting("Largest share of rows that may not be taken.", metavar="SHARE", ge=0, le=1)
    ] = 0.0


def run_file(
    file: Path,
    out: Path,
    model: ModelSettings,
    comparison: ComparisonSettings,
    task: FileTask,
    run: RunSettings,
    export_settings: ExportSettings,
) -> int:
    """Judge or rank a file, write and print what came of it, and return the exit code."""
    about = model.about()
    with model.load(comparison) as loaded:
        report = process_file(
            file,
            out,
            loaded,
            task,
            about_model=about,
            media=run.media,
            price=run.price,
            max_rejects=run.max_rejects,
        )
    pairs = export(file, out, export_settings, media=run.media)
    print(f"{report.rows:,} rows have a result in {out}/results.jsonl; {pairs['written']:,} pairs in {out}/pairs.jsonl")
    left = pairs["pairs"] - pairs["written"]
    if left:
        print(f"{left:,} pairs left out: {pairs['near_ties']:,} near ties, {pairs['disagreeing']:,} against the label")
    spent = "" if report.cost is None else f", cost {report.cost:.4g}"
    print(f"tokens: {report.prompt_tokens:,} read, {report.tokens:,} written{spent}")
    for error, count in report.errors:
        print(f"{count:,} times: {error}", file=sys.stderr)
    if report.failed:
        print(f"{report.failed:,} rows failed; the same command tries them again", file=sys.stderr)
    return 1 if report.failed else 0
