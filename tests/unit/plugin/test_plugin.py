"""The plugin in fresh processes: what importing it costs, and that every name arrives where verl looks for it."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest


def run(code: str, **environment: str) -> Any:
    """Run `code` in a fresh interpreter and return the JSON on its last line."""
    clean = {key: value for key, value in os.environ.items() if key not in ("VERL_PLATFORM", "RAY_ADDRESS")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


IMPORT = """
import json, sys, time
import verl
before = set(sys.modules)
assert not any(name.startswith("r1reward_verl") for name in before)
seconds = []
for _ in range(5):
    for name in set(sys.modules) - before:
        del sys.modules[name]
    start = time.process_time()
    import r1reward_verl.plugin
    seconds.append(time.process_time() - start)
print(json.dumps({"seconds": min(seconds), "modules": sorted(set(sys.modules) - before)}))
"""


@pytest.mark.parametrize("platform", ["", "cpu"])
def test_importing_it_after_verl_costs_at_most_50_ms_and_nothing_of_weight(platform: str):
    # Every turn imports anew all that the plugin brings; the best of them is the machine at rest.
    found = run(IMPORT, VERL_USE_EXTERNAL_PLUGINS="none", VERL_PLATFORM=platform)
    assert found["seconds"] <= 0.05
    packages = {name.partition(".")[0] for name in found["modules"]}
    assert "r1reward_verl" in packages
    assert packages - sys.stdlib_module_names <= {"r1reward_verl", "wrapt"}


NAMES = """
import inspect, json
import verl
from verl.experimental.fully_async_policy import fully_async_main
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.v1 import trainer_base
from verl.utils import config, tensordict_utils
from verl.workers import engine_workers
from verl.workers.engine import base

print(json.dumps({
    "estimator": core_algos.get_adv_estimator_fn("stable_reinforce").__module__,
    "loss": core_algos.get_policy_loss_fn("stable_reinforce").__module__,
    "reward manager": get_reward_manager_cls("r1_reward").__module__,
    "validate_config": config.validate_config.__code__.co_filename,
    "fully async": fully_async_main.auto_set_device.__code__.co_filename,
    "verl's own is still called": inspect.unwrap(config.validate_config).__code__.co_filename,
    "step metrics": trainer_base.PPOTrainer.step.__code__.co_filename,
    "position ids": tensordict_utils.maybe_fix_3d_position_ids.__module__,
    "position ids in workers": engine_workers.maybe_fix_3d_position_ids.__module__,
    "position ids in engines": base.maybe_fix_3d_position_ids.__module__,
}))
"""


def test_import_verl_is_all_a_user_does():
    found = run(NAMES)
    files = {"validate_config": "plugin/preflight/__init__.py", "step metrics": "plugin/trainer.py"}
    files["fully async"] = files["validate_config"]
    for what, file in files.items():
        assert found.pop(what).endswith(f"/r1reward_verl/{file}"), what
    assert found.pop("verl's own is still called").endswith("/verl/utils/config.py")
    assert found == {
        "estimator": "r1reward_verl.plugin.algorithm",
        "loss": "r1reward_verl.plugin.algorithm",
        "reward manager": "r1reward_verl.plugin.reward_manager",
        "position ids": "r1reward_verl.plugin.fixes",
        "position ids in workers": "r1reward_verl.plugin.fixes",
        "position ids in engines": "r1reward_verl.plugin.fixes",
    }


LAYOUT = """
import importlib, json, sys, types
from r1reward_verl import plugin

# A verl whose modules have none of the names that the registrations need.
names = [plugin.PARTS[name].module for name in plugin.INSTALL]
for name in names:
    for parent in ["verl", *(name[:i] for i, c in enumerate(name) if c == "." and i > 4)]:
        sys.modules.setdefault(parent, types.ModuleType(parent)).__path__ = []

class Loader:
    def create_module(self, spec):
        return None

    def exec_module(self, module):
        pass

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in names:
            return importlib.machinery.ModuleSpec(name, Loader())

import importlib.machinery
sys.meta_path.insert(0, Finder())
print(json.dumps([importlib.import_module(name).__name__ for name in names]))
"""


def test_a_verl_of_another_layout_is_still_imported():
    assert "verl.utils.config" in run(LAYOUT, VERL_PLATFORM="cpu")


SWITCHED_OFF = """
import json
from r1reward_verl.plugin.loss_config import StableReinforceLossConfig
try:
    StableReinforceLossConfig()
    said = None
except RuntimeError as error:
    said = str(error)
print(json.dumps(said))
"""


@pytest.mark.parametrize("plugins", ["none", "auto"])
def test_the_recipes_loss_says_where_verl_was_told_not_to_load_the_plugin(plugins: str):
    said = run(SWITCHED_OFF, VERL_USE_EXTERNAL_PLUGINS=plugins)
    assert (said is None) == (plugins == "auto")
    if said:
        assert "VERL_USE_EXTERNAL_PLUGINS is 'none'" in said


WORKER = """
import json, os
import ray

@ray.remote
def names():
    from verl.trainer.ppo import core_algos

    return {
        "pid": os.getpid(),
        "estimators": sorted(map(str, core_algos.ADV_ESTIMATOR_REGISTRY)),
        "losses": sorted(core_algos.POLICY_LOSS_REGISTRY),
    }

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
found = ray.get(names.remote())

@ray.remote
class Worker:
    pass

from r1reward_verl.plugin.trainer import dead_actors

workers = [Worker.options(num_cpus=0).remote() for _ in range(3)]
ray.get([worker.__ray_ready__.remote() for worker in workers])
found["dead at first"] = dead_actors(workers)
ray.kill(workers[1])
found["dead"] = dead_actors(workers)
ray.shutdown()
print(json.dumps({**found, "driver": os.getpid()}))
"""


def test_names_are_there_in_a_ray_worker_that_imports_verl_itself_and_dead_workers_are_counted():
    found = run(WORKER)
    assert found["pid"] != found["driver"]
    assert "stable_reinforce" in found["estimators"]
    assert "stable_reinforce" in found["losses"]
    assert (found["dead at first"], found["dead"]) == (0, 1)
