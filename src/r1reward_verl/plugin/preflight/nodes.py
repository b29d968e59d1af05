"""Every node of the Ray cluster: the packages, the environment and the files that a run needs there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig

from r1reward_verl.engines.online import MODEL_API_KEY
from r1reward_verl.plugin.preflight import node
from r1reward_verl.plugin.preflight.config import Problem, config_value, container
from r1reward_verl.plugin.preflight.hardware import ray_cluster
from r1reward_verl.plugin.preflight.paths import paths_read
from r1reward_verl.rewards.judges.model import JUDGE_API_KEY

_SECONDS = 60.0
"""How long a node may take to start a worker and answer; a few seconds are usual."""

_RAY_INIT = "ray_kwargs.ray_init"
_PLUGINS = "VERL_USE_EXTERNAL_PLUGINS"
_PLATFORM = "VERL_PLATFORM"


class _ClusterError(Exception):
    """The cluster could not be joined."""


def check_nodes(config: DictConfig) -> Iterator[Problem]:
    """Ask every node of the cluster that the run joins; without a cluster there is nobody to ask.

    The cluster is left again, since verl joins it with settings of its own. The driver asks, and not verl's task
    runner, which may itself stand on a node without this package.
    """
    import ray  # the doctor imports this module where it may be missing

    address = ray_cluster(config)
    if address is None or ray.is_initialized():  # older trainers of verl validate once more in an actor
        return
    taken = [key for key in ("num_cpus", "num_gpus") if config_value(config, f"{_RAY_INIT}.{key}") is not None]
    for key in taken:
        value = config_value(config, f"{_RAY_INIT}.{key}")
        reason = f"{value} are for a Ray of its own, and the cluster {address} has those of its nodes"
        yield Problem(f"{_RAY_INIT}.{key}", reason, "Set it to null")
    if taken:
        return
    variables, paths = (_PLUGINS, _PLATFORM, *_keys(config)), paths_read(config)
    here = node.node_report(variables, paths)
    try:
        reports = _ask(config, variables, paths)
    except _ClusterError as error:
        yield Problem("the Ray cluster", f"{address!r} cannot be joined: {error}", "Start it, or correct the address")
        return
    for name, found in reports.items():
        yield from node_problems(name, found, here)


def _keys(config: DictConfig) -> list[str]:
    """Return the variables with the keys of models that workers ask at addresses of the user's."""
    models = {"reward.r1_reward.judge": JUDGE_API_KEY, "reward.pairwise.model": MODEL_API_KEY}
    sections = ((container(config, section) or {}, usual) for section, usual in models.items())
    return [section.get("api_key_env", usual) for section, usual in sections if section.get("name") == "endpoint"]


def _ask(config: DictConfig, variables: tuple[str, ...], paths: list[str]) -> dict[str, Any]:
    """Return each node's report by its name, or the error where there is none."""
    import ray  # as above
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.cloudpickle.register_pickle_by_value(node)  # the node may not have it
    try:
        ray.init(**{**(container(config, _RAY_INIT) or {}), "log_to_driver": False})
    except Exception as error:  # of many classes
        raise _ClusterError(" ".join(str(error).split()) or type(error).__name__) from error
    try:
        ask = ray.remote(num_cpus=0, max_retries=0)(node.node_report)
        asked = {}
        for one in ray.nodes():
            if one["Alive"] and any(one["Resources"].get(kind) for kind in ("CPU", "GPU")):
                there = NodeAffinitySchedulingStrategy(one["NodeID"], soft=False)
                asked[ask.options(scheduling_strategy=there).remote(variables, paths)] = one["NodeName"]
        ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS)
        return {name: _answer(ray, reference) for reference, name in asked.items()}
    finally:
        ray.shutdown()


def _answer(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return TimeoutError(f"no answer in {_SECONDS:.0f} s")
    except Exception as error:  # a runtime environment that cannot be made there, a node that has gone
        return error


def node_problems(name: str, found: Any, here: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what a node lacks that is here, or has otherwise.

    Args:
        name: of the node in Ray.
        found: its `node_report`, or the error in its place.
        here: the `node_report` of this process.
    """
    if isinstance(found, Exception):
        reason = f"no worker could be started there: {' '.join(str(found).split())[:500]}"
        yield Problem(f"node {name}", reason, "Look into its logs in /tmp/ray/session_latest/logs, or take it away")
        return
    where = f"node {name}" if found["host"] == name else f"node {name} (host {found['host']})"
    again = "and start the node again with `ray start`"
    if problem := _plugin_problem(found):
        yield Problem(where, problem, f"Install this package there, {again}, or take the node out of the cluster")
    else:
        for package, version in here["versions"].items():
            if (there := found["versions"][package]) != version:
                reason = f"{package} {there or 'is missing'}, while it is {version or 'missing'} here"
                yield Problem(where, reason, f"Install the same versions on every node, {again}")
    switch = found["environment"][_PLUGINS]
    allowed = (switch or "auto").strip().lower()
    if allowed != "auto" and "r1reward_verl" not in map(str.strip, allowed.split(",")):
        reason = f"the environment variable {_PLUGINS} is {switch!r}, which keeps verl from loading r1reward_verl"
        yield Problem(where, reason, f"Unset it {again}")
    platform, own = ((one["environment"][_PLATFORM] or "") for one in (found, here))
    if platform.strip().lower() != own.strip().lower():
        reason = f"the environment variable {_PLATFORM} is {platform or 'not set'}, while it is {own or 'not set'} here"
        variable = f"{_RAY_INIT}.runtime_env.env_vars.{_PLATFORM}"
        yield Problem(where, reason, f"Set it alike {again}, or give it to all workers with +{variable}=…")
    for key in set(here["environment"]) - {_PLUGINS, _PLATFORM}:
        if here["environment"][key] and not found["environment"][key]:
            yield Problem(where, f"the environment variable {key} is set here only", f"Set it there {again}")
    for path in found["missing"]:
        way_out = "Put it there under the same path, or give a path that all nodes share"
        yield Problem(where, f"{os.fspath(path)!r} is not there", way_out)


def _plugin_problem(found: Mapping[str, Any]) -> str | None:
    if found["versions"]["r1reward-verl"] is None:
        return "r1reward-verl is not installed"
    if found["broken"]:
        return f"r1reward_verl cannot be imported ({found['broken']})"
    return None if found["registered"] else "r1reward_verl is not registered as a plugin of verl"
