"""`r1reward doctor`: a line per check, a way out for each problem, exit code 1 on any."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from r1reward_verl.plugin import doctor
from r1reward_verl.plugin.doctor import GB, check_disk, check_memory, check_shared_memory, compose, diagnose, parameters
from r1reward_verl.plugin.preflight import versions
from r1reward_verl.plugin.surface import PARTS
from r1reward_verl.plugin.verl_tree import check_tree


@pytest.fixture(autouse=True)
def on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray's cluster has the GPUs, the doctor does not count those of this machine."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(doctor, "check_nodes", lambda config: iter(()))
    monkeypatch.delenv("VERL_PLATFORM", raising=False)


@pytest.fixture
def any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has is enough."""
    for name in ("SHM_BYTES", "DISK_BYTES", "PROCESS_BYTES"):
        monkeypatch.setattr(doctor, name, 0)


@pytest.fixture
def valid(tmp_path: Path) -> list[str]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    row = {
        "data_source": "toy",
        "prompt": [{"role": "user", "content": "Which response is better?"}],
        "reward_model": {"style": "rule", "ground_truth": "1"},
    }
    pq.write_table(pa.Table.from_pylist([row] * 256), tmp_path / "pairs.parquet")
    return [
        "+recipe=r1_reward",
        f"data.train_files={tmp_path}/pairs.parquet",
        f"actor_rollout_ref.model.path={tmp_path}/model",
        f"trainer.default_local_dir={tmp_path}/checkpoints",
    ]


def lines(text: str, kind: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(kind)]


@pytest.mark.usefixtures("any_machine")
def test_a_sound_installation_and_config(valid: list[str], capsys: pytest.CaptureFixture[str]):
    code = diagnose(valid)
    output = capsys.readouterr().out
    assert lines(output, "PROBLEM") == []
    assert code == 0
    for name in (
        "verl plugin",
        "vLLM plugin",
        "versions",
        "settings",
        "batch sizes",
        "model",
        "data",
        "nodes",
        "memory",
    ):
        assert len(lines(output, f"ok       {name}:")) == 1
    assert "verl 0.9.1" in output
    assert "trained on" in lines(output, "note")[0]


@pytest.mark.usefixtures("any_machine")
@pytest.mark.parametrize("missing", [True, False])
def test_flash_attention_that_is_missing_beside_gpus_is_a_note(
    missing: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor, "flash_attention_is_missing", lambda: missing)
    assert diagnose([]) == 0
    noted = [line for line in lines(capsys.readouterr().out, "note") if "flash-attn" in line]
    assert len(noted) == missing
    assert all("+attention=sdpa" in line for line in noted)


@pytest.mark.usefixtures("any_machine")
def test_without_overrides_only_installation_and_machine(capsys: pytest.CaptureFixture[str]):
    assert diagnose([]) == 0
    output = capsys.readouterr().out
    assert lines(output, "ok       verl plugin:")
    assert lines(output, "ok       disk:")
    assert "no overrides given" in lines(output, "skipped")[0]


def test_every_problem_is_reported_with_its_way_out(valid: list[str], capsys: pytest.CaptureFixture[str]):
    code = diagnose([*valid, "data.val_files=/no/such.parquet", "data.train_batch_size=200"])
    problems = lines(capsys.readouterr().out, "PROBLEM")
    assert code == 1
    assert any("data.val_files" in line and "Give the path of a parquet file" in line for line in problems)
    assert any("data.train_batch_size: 200" in line and "Use 128" in line for line in problems)


@pytest.mark.usefixtures("any_machine")
def test_what_verl_itself_refuses_is_reported(valid: list[str], capsys: pytest.CaptureFixture[str]):
    assert diagnose([*valid, "actor_rollout_ref.actor.loss_agg_mode=median"]) == 1
    (problem,) = lines(capsys.readouterr().out, "PROBLEM")
    assert "median" in problem


@pytest.mark.parametrize(
    ("override", "words"),
    [("+recipe=r1_rewards", "r1_rewards"), ("data.train_filez=a", "train_filez"), ("a=b=[", "a=b=[")],
)
def test_an_override_that_does_not_fit(override: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert diagnose([override]) == 1
    assert any(words in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.usefixtures("any_machine")
def test_dry_run_prints_the_config_that_main_ppo_composes(valid: list[str], capsys: pytest.CaptureFixture[str]):
    assert diagnose([*valid, "trainer.total_epochs=7"], dry_run=True) == 0
    printed = capsys.readouterr()
    config = OmegaConf.create(printed.out)  # nothing but YAML on stdout
    assert config.trainer.total_epochs == 7
    assert config.critic.optim.lr == 1e-5, "a default of verl's own"
    assert config.data.val_files == config.data.train_files, "resolved"
    assert lines(printed.err, "ok       data:")


@pytest.mark.parametrize(
    ("overrides", "printed"), [([], "val_files: null"), (["data.train_files=???"], "val_files: ${data.train_files}")]
)
def test_dry_run_of_an_unfinished_config(overrides: list[str], printed: str, capsys: pytest.CaptureFixture[str]):
    assert diagnose(["+recipe=r1_reward", *overrides], dry_run=True) == 1
    output = capsys.readouterr()
    assert printed in output.out
    problems = lines(output.err, "PROBLEM")
    assert any("data.train_files: not set" in line for line in problems)
    assert any("actor_rollout_ref.model.path: not set" in line for line in problems)


@pytest.mark.usefixtures("any_machine")
def test_another_version_is_a_note(
    valid: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(versions.TESTED_VERSIONS, "verl", "0.8.0")
    assert diagnose([*valid, "data.train_batch_size=200"]) == 0
    output = capsys.readouterr().out
    assert "this release is tested with verl 0.8.0" in lines(output, "note")[0]
    assert "data.train_batch_size: 200" in lines(output, "doubt")[0]
    assert lines(output, "ok       settings")


def test_another_verl_is_checked_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "protocol.py").touch()
    assert check_tree(tmp_path) == 1
    output = capsys.readouterr().out.splitlines()
    assert output[0] == f"verl unknown: 0 of {len(PARTS)} parts work"
    assert any(line.startswith("off      validation: validation logs no val-r1_reward") for line in output)
    assert check_tree(Path(importlib.util.find_spec("verl").origin).parents[1]) == 0
    assert f": {len(PARTS)} of {len(PARTS)} parts work" in capsys.readouterr().out


class TestPlugins:
    def test_entry_points_of_this_package_are_installed(self):
        assert [point.value for point in entry_points(group="verl.plugins", name="r1reward_verl")] == [
            "r1reward_verl.plugin"
        ]

    @pytest.mark.parametrize("allowed", ["none", "other"])
    def test_switched_off_in_verl(self, monkeypatch: pytest.MonkeyPatch, allowed: str):
        monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", allowed)
        (problem,) = doctor.check_verl_plugin()
        assert problem.where == "environment variable VERL_USE_EXTERNAL_PLUGINS"
        assert allowed in problem.value

    def test_its_list_may_have_spaces_as_verl_allows(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "other, r1reward_verl")
        assert list(doctor.check_verl_plugin()) == []

    def test_switched_off_in_vllm(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("VLLM_PLUGINS", "lora_filesystem_resolver")
        (problem,) = doctor.check_vllm_plugin()
        assert problem.where == "environment variable VLLM_PLUGINS"

    def test_a_plugin_that_fails_to_import_is_loud(self, tmp_path: Path):
        # A fresh process, because this one has imported the sound plugin. verl hides the failure.
        package = tmp_path / "r1reward_verl" / "plugin" / "__init__.py"
        code = (
            "import sys, r1reward_verl, r1reward_verl.cli\n"
            f"r1reward_verl.__path__.insert(0, {str(package.parent.parent)!r})\n"
            "sys.exit(r1reward_verl.cli.main(['doctor']))"
        )
        package.parent.mkdir(parents=True)
        package.write_text("raise RuntimeError('a broken plugin')")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert done.returncode == 1
        (problem,) = lines(done.stdout, "PROBLEM")
        assert "RuntimeError: a broken plugin" in problem


class TestMachine:
    @pytest.fixture
    def huge(self, tmp_path: Path) -> list[str]:
        """A model whose weights say 10 TB (a sparse file, so that no disk is used)."""
        (tmp_path / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
        with (tmp_path / "model.safetensors").open("wb") as file:
            os.truncate(file.fileno(), 10_000 * GB)
        return [
            "+recipe=r1_reward",
            f"actor_rollout_ref.model.path={tmp_path}",
            "trainer.default_local_dir=/tmp/x",
        ]

    def test_parameters_are_counted_from_the_weights(self, huge: list[str]):
        assert parameters(compose(huge)) == 5_000 * GB

    def test_disk_must_hold_the_checkpoints(self, huge: list[str]):
        (problem,) = check_disk(compose(huge))
        # the two that are kept and the one being written, 14 bytes a parameter
        assert str(3 * 14 * 5_000 + 5) in problem.value
        assert "'/tmp/x'" in problem.value

    @pytest.mark.usefixtures("any_machine")
    def test_no_checkpoints_need_no_disk(self, huge: list[str]):
        assert list(check_disk(compose([*huge, "trainer.save_freq=-1"]))) == []

    @pytest.mark.parametrize(("hardware", "bytes_per_parameter"), [("8gpu", 4), ("1gpu", 16)])
    def test_memory_must_hold_what_is_loaded_or_offloaded(
        self, huge: list[str], hardware: str, bytes_per_parameter: int
    ):
        (problem,) = check_memory(compose([*huge, f"+hardware={hardware}"]))
        assert f"{bytes_per_parameter * 5_000 + 6:.1f} GB are needed" in problem.value

    @pytest.mark.usefixtures("any_machine")
    def test_shared_memory_that_suffices(self, tmp_path: Path):
        assert list(check_shared_memory(None, directory=str(tmp_path))) == []

    def test_shared_memory(self):
        (problem,) = check_shared_memory(None, directory="/no/such/shm")
        assert "0.0 GB in all, 2.0 GB are needed" in problem.value
        assert "--shm-size=2g" in problem.way_out

    def test_shared_memory_holds_the_weights_in_flight_on_the_cpu(self):
        bucket = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=1024"
        config = compose(["+recipe=r1_reward", "trainer.device=cpu", bucket])
        (problem,) = check_shared_memory(config, directory="/no/such/shm")
        assert "10.0 GB are needed" in problem.value  # 2 GB and 8 ranks of 1 GB
