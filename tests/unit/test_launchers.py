"""The launchers of examples/launch and the container file: linted, and dry-run; what they would start composes."""

import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from r1reward_verl.plugin.doctor import compose
from r1reward_verl.plugin.preflight.hardware import check_batch_sizes

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "examples" / "launch"
SCRIPTS = sorted(path.relative_to(ROOT) for path in (ROOT / "examples").rglob("*.sh"))
SETTINGS = {"HARDWARE": "2x8gpu", "OUTPUT": "/shared/run", "HF_HUB_OFFLINE": "1", "WANDB_API_KEY": "secret"}
MORE = ("trainer.total_epochs=1", "++actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt.image=2")


def tool(name):
    """Return the path of a linter, which stands beside Python."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert path, f"{name} is missing: run `make setup`"
    return path


def launch(script, *arguments, **environment):
    """Run a launcher dry, in a folder of its own choice, and return what it did."""
    names = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [LAUNCH / script, *arguments],
        cwd="/",
        env={**names, "DRY_RUN": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def printed(script, *arguments, **environment):
    done = launch(script, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def overrides(words):
    """Return the Hydra overrides behind verl's module in a command."""
    start = words.index("verl.trainer.main_ppo")
    assert words[start - 2 : start] == ["python3", "-m"]
    return words[start + 1 :]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_shellcheck_finds_nothing(script):
    done = subprocess.run(
        [tool("shellcheck"), "--external-sources", "--source-path=SCRIPTDIR", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
    assert done.returncode == 0


def test_hadolint_finds_nothing():
    done = subprocess.run([tool("hadolint"), ROOT / "docker" / "Dockerfile.gpu"], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_container_gets_the_files_that_it_copies():
    lines = (ROOT / "docker" / "Dockerfile.gpu").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    ignored = (ROOT / "docker" / "Dockerfile.gpu.dockerignore").read_text().splitlines()
    assert {name.removeprefix("./") for name in copied} == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


# -----------------------------------------------------------------------------
# What is started
# -----------------------------------------------------------------------------


@functools.cache
def two_nodes():
    """Overrides of each launcher for two nodes, and Slurm's in the job."""
    commands = {
        "ray_job.sh": shlex.split(printed("ray_job.sh", *MORE, **SETTINGS)),
        "kuberay.sh": shlex.split(yaml.safe_load(printed("kuberay.sh", *MORE, **SETTINGS))["spec"]["entrypoint"]),
    }
    return {script: tuple(overrides(command)) for script, command in commands.items()}


def test_all_launchers_start_the_same_training(tmp_path):
    # More than a pipe holds: a reader that takes the first line and goes would end the script.
    (tmp_path / "scontrol").write_text("#!/bin/sh\nseq -f node-%.0f 7 20000\n")
    (tmp_path / "scontrol").chmod(0o755)
    in_job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "node-[7-8]", "LAUNCH": str(LAUNCH)}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    slurm = shlex.split(printed("slurm.sh", *MORE, **SETTINGS, **in_job, PATH=path))
    assert set(two_nodes().values()) == {tuple(overrides(slurm))}
    symmetric = slurm[slurm.index("ray") : slurm.index("--")]
    assert symmetric[1:4] == ["symmetric-run", "--address", "node-7:6379"]
    assert {"--num-gpus=8", "--num-cpus=96"} < set(symmetric)
    one = overrides(shlex.split(printed("one_node.sh", *MORE, **{**SETTINGS, "HARDWARE": "8gpu"})))
    assert one == [word.replace("2x8gpu", "8gpu") for word in overrides(slurm)]


def test_the_training_composes_on_two_nodes():
    words = two_nodes()["ray_job.sh"]
    config = compose(list(words))
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node, config.trainer.total_epochs) == (2, 8, 1)
    assert config.algorithm.adv_estimator == "stable_reinforce"
    assert config.trainer.default_local_dir == "/shared/run/checkpoints"
    assert list(check_batch_sizes(config)) == []
    paths = [word.partition("=")[2] for word in words if "path=" in word or "files=" in word or "dir=" in word]
    assert len(paths) == 5
    assert all(path.startswith("/") for path in paths)


def test_slurm_gets_the_size_and_the_place_of_the_script():
    command = shlex.split(printed("slurm.sh", *MORE, **SETTINGS, SBATCH_OPTIONS="--partition=gpu --time=1:00:00"))
    assert command[0] == "sbatch"
    expected = {"--nodes=2", "--gpus-per-node=8", "--partition=gpu", "--output=/shared/run/slurm-%j.log"}
    assert expected < set(command)
    assert f"--export=ALL,LAUNCH={LAUNCH}" in command
    assert command[-3:] == [str(LAUNCH / "slurm.sh"), *MORE]


def test_workers_get_what_is_named_and_no_key():
    command = shlex.split(printed("ray_job.sh", **SETTINGS))
    environment = json.loads(command[command.index("--runtime-env-json") + 1])["env_vars"]
    assert environment == {
        "HF_HOME": "/shared/huggingface",
        "HF_HUB_OFFLINE": "1",
        "TENSORBOARD_DIR": "/shared/run/tensorboard",
    }
    assert yaml.safe_load(yaml.safe_load(printed("kuberay.sh", **SETTINGS))["spec"]["runtimeEnvYAML"]) == {
        "env_vars": environment
    }


@pytest.mark.parametrize(
    ("script", "environment", "arguments", "message"),
    [
        ("one_node.sh", {"MODEL": "sft/huggingface"}, (), "MODEL=sft/huggingface: give an absolute path"),
        ("slurm.sh", {"OUTPUT": "~/run"}, (), "OUTPUT=~/run: give an absolute path"),
        ("ray_job.sh", {"HARDWARE": "cpu"}, (), "HARDWARE=cpu: give GPUs such as 8gpu"),
        ("one_node.sh", {"HARDWARE": "2x8gpu"}, (), "more than one node needs ray_job.sh"),
        ("ray_job.sh", {}, ("trainer.experiment_name=my run",), "cannot have spaces"),
        ("kuberay.sh", {}, ("trainer.experiment_name=$(id)",), "cannot have spaces"),
    ],
)
def test_what_would_go_wrong_later_is_refused(script, environment, arguments, message):
    done = launch(script, *arguments, **environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


# -----------------------------------------------------------------------------
# KubeRay
# -----------------------------------------------------------------------------


def exactly(required, **properties):
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TEXT, COUNT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1}
AMOUNTS = {"type": "object", "additionalProperties": TEXT}
POD = exactly(
    ["spec"],
    spec=exactly(
        ["containers", "volumes"],
        containers={
            "type": "array",
            "items": exactly(
                ["name", "image", "resources", "volumeMounts"],
                name=TEXT,
                image=TEXT,
                resources=exactly(["limits", "requests"], limits=AMOUNTS, requests=AMOUNTS),
                envFrom={
                    "type": "array",
                    "items": exactly(
                        ["secretRef"], secretRef=exactly(["name"], name=TEXT, optional={"type": "boolean"})
                    ),
                },
                volumeMounts={
                    "type": "array",
                    "items": exactly(["name", "mountPath"], name=TEXT, mountPath={"type": "string", "pattern": "^/"}),
                },
            ),
        },
        volumes={
            "type": "array",
            "items": exactly(
                ["name"],
                name=TEXT,
                persistentVolumeClaim=exactly(["claimName"], claimName=TEXT),
                emptyDir=exactly([], medium={"const": "Memory"}, sizeLimit=TEXT),
            ),
        },
    ),
)
# The fields of ray.io/v1 RayJob that the launcher uses (KubeRay, ray-operator/config/crd/bases/ray.io_rayjobs.yaml).
RAY_JOB = exactly(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=exactly(["name"], name={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}),
    spec=exactly(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        shutdownAfterJobFinishes={"type": "boolean"},
        rayClusterSpec=exactly(
            ["headGroupSpec"],
            headGroupSpec=exactly(["template"], rayStartParams=AMOUNTS, template=POD),
            workerGroupSpecs={
                "type": "array",
                "items": exactly(
                    ["groupName", "minReplicas", "maxReplicas", "template"],
                    groupName=TEXT,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    rayStartParams=AMOUNTS,
                    template=POD,
                ),
            },
        ),
    ),
)


@pytest.mark.parametrize(("hardware", "workers"), [("8gpu", []), ("2x8gpu", [1]), ("8x8gpu", [7])])
def test_the_ray_job_has_the_fields_of_kuberay(hardware, workers):
    job = yaml.safe_load(printed("kuberay.sh", HARDWARE=hardware, IMAGE="registry.example/name:1"))
    jsonschema.validate(job, RAY_JOB)
    cluster = job["spec"]["rayClusterSpec"]
    groups = cluster.get("workerGroupSpecs", [])
    assert [(one["replicas"], one["minReplicas"], one["maxReplicas"]) for one in groups] == [(n,) * 3 for n in workers]
    for group in (cluster["headGroupSpec"], *groups):
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == "registry.example/name:1"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == {"shared": "/shared", "shm": "/dev/shm"}
        assert {volume["name"] for volume in group["template"]["spec"]["volumes"]} == set(mounted)
