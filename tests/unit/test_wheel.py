"""The package as users install it, wheel and editable: both in an empty environment, from a copy of the sources."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import r1reward_verl

ROOT = Path(__file__).parents[2]
PACKAGES = ("hydra_plugins/r1reward_searchpath", "r1reward_verl")


def run(command: list[str | Path], where: Path, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "VERL_PLATFORM")}
    done = subprocess.run(
        list(map(str, command)), cwd=where, env={**kept, **environment}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that is installed here except this package; `.pth` files have no effect in it."""
    folder = tmp_path_factory.mktemp("dependencies")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not any(name in entry.name.lower() for name in ("r1reward", "__pycache__", "hydra_plugins")):
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, sources]
    run(command, sources)
    (file,) = out.glob("*.whl")
    return file


@dataclass
class Installation:
    """An environment with this package in it and the dependencies on its path."""

    python: Path
    home: Path
    """Where the package's files must be."""
    dependencies: Path
    work: Path

    def run(self, *command: str | Path) -> str:
        return run(list(command), self.work, PYTHONPATH=str(self.dependencies))


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(
    request: pytest.FixtureRequest,
    dependencies: Path,
    sources: Path,
    wheel: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Installation:
    environment = tmp_path_factory.mktemp(request.param)
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    what = [wheel] if request.param == "wheel" else ["--no-build-isolation", "--editable", sources]
    install = [sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--python", python, *what]
    run(install, environment, PYTHONPATH=str(dependencies))
    (site,) = environment.glob("lib/python*/site-packages")
    home = site if request.param == "wheel" else sources / "src"
    return Installation(python, home, dependencies, tmp_path_factory.mktemp("work"))


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path, sources: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = {str(file.relative_to(sources / "src")) for file in (sources / "src").rglob("*") if file.is_file()}
    files = {name for name in files if ".egg-info" not in name}
    assert names == files
    assert "r1reward_verl/recipes/recipe/r1_reward.yaml" in names
    assert "r1reward_verl/py.typed" in names


def test_its_own_files_are_what_is_imported(installed: Installation):
    code = "import hydra_plugins.r1reward_searchpath as door, r1reward_verl as r; print(door.__file__, r.__file__)"
    files = installed.run(installed.python, "-c", code).split()
    expected = [installed.home / package / "__init__.py" for package in PACKAGES]
    assert [Path(file).resolve() for file in files] == [file.resolve() for file in expected]


def test_entry_points_are_registered_once(installed: Installation):
    code = """
import json
from importlib.metadata import entry_points, version
groups = ("console_scripts", "verl.plugins", "vllm.general_plugins")
found = {group: [p.value for p in entry_points(group=group) if "r1reward" in p.value] for group in groups}
print(json.dumps(found | {"version": version("r1reward-verl")}))
"""
    assert json.loads(installed.run(installed.python, "-c", code)) == {
        "console_scripts": ["r1reward_verl.cli:main"],
        "verl.plugins": ["r1reward_verl.plugin"],
        "vllm.general_plugins": ["r1reward_verl.cpu.vllm_plugin:register"],
        "version": r1reward_verl.__version__,
    }


def test_the_command_runs(installed: Installation):
    printed = installed.run(installed.python.with_name("r1reward"), "--version")
    assert printed == f"r1reward {r1reward_verl.__version__}\n"


def test_verls_own_command_composes_the_recipe(installed: Installation):
    command = [installed.python, "-m", "verl.trainer.main_ppo", "+recipe=r1_reward", "+hardware=1gpu", "--cfg", "job"]
    printed = installed.run(*command)
    assert "adv_estimator: stable_reinforce" in printed
    assert "n_gpus_per_node: 1\n" in printed
    assert "r1_reward:" in printed


def test_verl_loads_the_plugin(installed: Installation):
    code = "import verl, sys; print(sys.modules['r1reward_verl.plugin'].__file__)"
    file = Path(installed.run(installed.python, "-c", code).splitlines()[-1])
    assert file.resolve() == (installed.home / "r1reward_verl/plugin/__init__.py").resolve()
