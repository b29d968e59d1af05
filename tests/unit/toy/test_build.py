"""The toy world on disk: what verl reads from it, and that it is there whole or not at all."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from transformers import AutoProcessor, AutoTokenizer

from r1reward_verl.cli import main
from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.preference import SCHEMA
from r1reward_verl.judgement import PROMPT, build_prompt, prompt_parts
from r1reward_verl.media import load_image
from r1reward_verl.plugin.preflight.data import check_data
from r1reward_verl.toy import world
from r1reward_verl.toy.build import Sizes, build
from r1reward_verl.toy.demo import PROMPT_TOKENS, RESPONSE_TOKENS
from r1reward_verl.toy.judge import JudgeNotLearned
from r1reward_verl.toy.model import ModelName

FILES = ("preferences", "test")
"""Files of preferences."""
SMALL = Sizes(preferences=8, val_pairs=2, test_pairs=2)
OPTIONS = ["--preferences", "8", "--val-pairs", "2", "--test-pairs", "2"]


def rows(toy: Path, name: str) -> list[dict]:
    return pq.read_table(toy / f"{name}.parquet").to_pylist()


def contents(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


class TestContent:
    def test_counts_are_those_asked_for(self, toy: Path, sizes: Sizes):
        counts = {name: len(rows(toy, name)) for name in (*FILES, "val")}
        assert counts == {"preferences": 32, "val": 2 * 4, "test": 8}
        assert json.loads((toy / "world.json").read_text())["preferences"] == sizes.preferences

    def test_the_right_response_stands_first_as_often_as_second(self, toy: Path):
        held_out = [(row["reward_model"]["ground_truth"], row["extra_info"]["category"]) for row in rows(toy, "val")]
        for shown in (held_out, *([(row["label"], row["category"]) for row in rows(toy, name)] for name in FILES)):
            found = Counter(shown)
            assert len(found) == 4
            assert len(set(found.values())) == 1

    def test_a_world_of_scenes_has_each_kind_in_both_positions(self, tmp_path: Path):
        sizes = ["--preferences", "16", "--val-pairs", "4", "--test-pairs", "32"]
        assert main(["toy", "build", str(tmp_path / "world"), *sizes, "--level", "scenes"]) == 0
        found = Counter((row["label"], row["category"]) for row in rows(tmp_path / "world", "preferences"))
        kinds = ("colour", "shape", "number", "beside")
        assert found == {(label, kind): 2 for label in (1, 2) for kind in kinds}
        tested = Counter(row["category"] for row in rows(tmp_path / "world", "test"))
        assert tested == {"unseen": 4, **dict.fromkeys(kinds, 7)}
        assert json.loads((tmp_path / "world/world.json").read_text())["level"] == "scenes"

    @pytest.mark.parametrize("name", FILES)
    def test_the_preferences_are_those_of_the_data_commands(self, toy: Path, name: str):
        assert pq.read_schema(toy / f"{name}.parquet").equals(SCHEMA)
        found = [one for _, one in read_preferences(toy / f"{name}.parquet")]
        assert {(one.difficulty, one.trace) for one in found} == {(None, None)}
        assert len({one.id for one in found}) == len(found)

    def test_the_pairs_of_the_curves_come_in_both_orders(self, toy: Path):
        orders = Counter((row["extra_info"]["pair_id"], row["extra_info"]["order"]) for row in rows(toy, "val"))
        assert set(orders.values()) == {1}
        assert {order for _, order in orders} == {0, 1}
        first, second = rows(toy, "val")[:2]
        assert first["images"] == second["images"]
        assert first["extra_info"]["response_1"] == second["extra_info"]["response_2"]

    def test_splits_have_no_pair_and_no_picture_in_common(self, toy: Path):
        pictures = [{row["images"][0]["bytes"] for row in rows(toy, name)} for name in (*FILES, "val")]
        assert len(set.union(*pictures)) == sum(map(len, pictures))
        pairs = [{f"{row['source']}/{row['id']}" for row in rows(toy, name)} for name in FILES]
        pairs.append({row["extra_info"]["pair_id"] for row in rows(toy, "val")})
        assert len(set.union(*pairs)) == sum(map(len, pairs))

    def test_the_prompt_is_the_real_one(self, toy: Path):
        for row in rows(toy, "val"):
            texts = {key: row["extra_info"][key] for key in ("question", "response_1", "response_2")}
            assert row["prompt"] == [{"role": "user", "content": "<image>" + build_prompt(**texts)}]

    def test_a_template_of_ones_own_is_used(self, tmp_path: Path):
        folder = build(tmp_path / "world", SMALL, template="{question}|{response_1}|{response_2}")
        info = rows(folder, "val")[0]["extra_info"]
        text = f"<image>{info['question']}|{info['response_1']}|{info['response_2']}"
        assert rows(folder, "val")[0]["prompt"][0]["content"] == text


@pytest.mark.parametrize("model", get_args(ModelName))
@pytest.mark.parametrize("level", get_args(world.Level))
def test_prompts_and_judgements_fit_the_demo(model: ModelName, level: world.Level, tmp_path: Path):
    sizes = Sizes(preferences=400, val_pairs=2, test_pairs=60)
    folder = build(tmp_path / "world", sizes, model=model, level=level)
    processor = AutoProcessor.from_pretrained(folder / "model")
    for _, one in read_preferences(folder / "test.parquet"):
        text = build_prompt(one.question, one.response_1, one.response_2)
        content = [{"type": "image"}, {"type": "text", "text": text}] if one.images else text
        chat = [{"role": "user", "content": content}]
        prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        images = {"images": [load_image({"bytes": one.images[0].data})]} if one.images else {}
        assert len(processor(text=[prompt], **images)["input_ids"][0]) <= PROMPT_TOKENS
    tokenizer = getattr(processor, "tokenizer", processor)
    lengths = [len(tokenizer(world.judgement(pair, 2)).input_ids) for pair in world.draw_pairs(200, 1, "length", level)]
    assert max(lengths) < RESPONSE_TOKENS, "one token is the end of the turn"


def test_the_template_is_a_few_tokens(toy: Path):
    """Each of its fixed parts is one, and gives its text back."""
    tokenizer = AutoTokenizer.from_pretrained(toy / "model")
    parts = prompt_parts("Which colour is it?", "It is red.", "It is blue.")
    assert [len(tokenizer(text).input_ids) for field, text in parts if field is None] == [1, 1, 1, 1]
    text = "".join(text for _, text in parts)
    assert tokenizer.decode(tokenizer(text).input_ids) == text


class TestTextOnly:
    @pytest.fixture(scope="class")
    def world_in_words(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return build(tmp_path_factory.mktemp("text") / "world", SMALL, model="qwen3")

    def test_pictures_are_described(self, world_in_words: Path):
        for name in FILES:
            for _, one in read_preferences(world_in_words / f"{name}.parquet"):
                right = one.response_1 if one.label == 1 else one.response_2
                assert one.images == ()
                assert re.fullmatch(r"There is a \w+ \w+ in picture \d+\. Which (colour|shape) is it\?", one.question)
                assert right.removeprefix("It is ").rstrip(".") in one.question
        for row in rows(world_in_words, "val"):
            assert row["images"] == row["videos"] == []
            assert "<image>" not in row["prompt"][0]["content"]

    def test_verl_reads_them(self, world_in_words: Path, tmp_path: Path):
        from verl.trainer.ppo.utils import create_rl_dataset

        file, tokenizer = world_in_words / "val.parquet", AutoProcessor.from_pretrained(world_in_words / "model")
        config = {"cache_dir": str(tmp_path), "max_prompt_length": 256, "filter_overlong_prompts": True}
        config["filter_overlong_prompts_workers"] = None
        config["custom_cls"] = {"path": "pkg://r1reward_verl.plugin.datasets", "name": "PreferenceDataset"}
        dataset = create_rl_dataset(str(file), OmegaConf.create(config), tokenizer, None)
        assert [one["raw_prompt"] for one in dataset] == [row["prompt"] for row in rows(world_in_words, "val")]

    def test_its_model_reads_texts_only(self, world_in_words: Path):
        assert json.loads((world_in_words / "model/config.json").read_text())["model_type"] == "qwen3"
        assert json.loads((world_in_words / "world.json").read_text())["model"] == "qwen3"

    def test_a_world_of_another_model_is_refused(self, world_in_words: Path):
        with pytest.raises(ValueError, match="no toy world with these settings"):
            build(world_in_words, SMALL)


class TestVerlReadsIt:
    @pytest.fixture(scope="class")
    def processor(self, toy: Path):
        return AutoProcessor.from_pretrained(toy / "model")

    @pytest.mark.parametrize("own_class", [False, True], ids=["RLHFDataset", "PreferenceDataset"])
    def test_as_preferences(self, toy: Path, tmp_path: Path, processor, own_class: bool):
        from verl.trainer.ppo.utils import create_rl_dataset
        from verl.utils.dataset.rl_dataset import RLHFDataset

        config = {"cache_dir": str(tmp_path), "max_prompt_length": 256, "filter_overlong_prompts": True}
        # Without processes of its own: forked from one with threads, they may hang.
        config["filter_overlong_prompts_workers"] = None
        if own_class:
            (tmp_path / "template.txt").write_text("{question} {response_1} {response_2}")
            config["prompt_template"] = str(tmp_path / "template.txt")
            config["custom_cls"] = {"path": "pkg://r1reward_verl.plugin.datasets", "name": "PreferenceDataset"}
        file = toy / "val.parquet"
        dataset = create_rl_dataset(str(file), OmegaConf.create(config), processor.tokenizer, processor)
        assert (type(dataset) is RLHFDataset) != own_class
        assert len(dataset) == len(rows(toy, "val")), "no prompt is too long"
        for row, item in zip(rows(toy, "val"), (dataset[i] for i in range(len(dataset))), strict=True):
            image, text = item["raw_prompt"][0]["content"]
            assert image["image"].size == (world.SIZE, world.SIZE)
            template = "{question} {response_1} {response_2}" if own_class else PROMPT
            texts = {key: row["extra_info"][key] for key in ("question", "response_1", "response_2")}
            assert text["text"] == build_prompt(**texts, template=template)
            assert item["reward_model"]["ground_truth"] == row["reward_model"]["ground_truth"]

    def test_the_preflight_has_nothing_to_say(self, toy: Path):
        from r1reward_verl.plugin.doctor import compose

        overrides = [f"data.train_files={toy / 'val.parquet'}", f"data.val_files={toy / 'val.parquet'}"]
        settings = ["data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=8"]
        config = compose(["+recipe=r1_reward", *overrides, *settings])
        assert list(check_data(config)) == []


class TestFolder:
    def test_the_same_seed_writes_the_same_world(self, tmp_path: Path):
        first, second, other = (
            contents(build(tmp_path / name, SMALL, seed=seed)) for name, seed in (("a", 5), ("b", 5), ("c", 6))
        )
        assert first == second
        for name in ("preferences.parquet", "val.parquet", "test.parquet", "model/model.safetensors"):
            assert first[name] != other[name], name

    def test_it_appears_whole_or_not_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def interrupted(*_) -> None:
            raise KeyboardInterrupt

        out = tmp_path / "world"
        with monkeypatch.context() as patched:
            patched.setattr("r1reward_verl.toy.build.save_model", interrupted)  # after the parquet files
            with pytest.raises(KeyboardInterrupt):
                build(out, SMALL)
        assert not any(tmp_path.iterdir())
        build(out, SMALL)
        assert contents(out) == contents(build(tmp_path / "undisturbed", SMALL))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["undisturbed", "world"]

    def test_a_finished_world_is_left_as_it_is(self, tmp_path: Path):
        out = build(tmp_path / "world", SMALL)
        times = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
        assert build(out, SMALL) == out
        assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == times

    def test_other_content_is_refused(self, tmp_path: Path):
        out = build(tmp_path / "world", SMALL)
        before = contents(out)
        with pytest.raises(ValueError, match="name another folder or remove it"):
            build(out, SMALL, seed=1)
        assert contents(out) == before
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        with pytest.raises(ValueError, match="mine is not empty"):
            build(tmp_path / "mine", SMALL)
        assert contents(tmp_path / "mine").keys() == {"thesis.txt"}

    def test_an_empty_folder_is_taken(self, tmp_path: Path):
        (tmp_path / "world").mkdir()
        assert (build(tmp_path / "world", SMALL) / "world.json").is_file()


class TestJudge:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch):
        """The training itself is tested in test_judge.py."""

        def write(out: Path, seed: int) -> dict[str, float]:
            (out / "weights").write_text(f"of seed {seed}")
            return {"held_out": 0.97}

        monkeypatch.setattr("r1reward_verl.toy.build.train_judge", write)

    @pytest.fixture
    def fails(self, monkeypatch: pytest.MonkeyPatch):
        def fail(out: Path, seed: int) -> None:
            (out / "weights").touch()
            raise JudgeNotLearned("did not learn; take another seed")

        return lambda: monkeypatch.setattr("r1reward_verl.toy.build.train_judge", fail)

    def test_none_unless_asked_for(self, tmp_path: Path):
        out = build(tmp_path / "world", SMALL)
        assert not (out / "judge").exists()
        assert "judge" not in json.loads((out / "world.json").read_text())

    def test_it_is_part_of_the_world(self, tmp_path: Path):
        out = build(tmp_path / "world", SMALL, seed=2, judge=True)
        assert (out / "judge/weights").read_text() == "of seed 2"
        assert json.loads((out / "world.json").read_text())["judge"] == {"held_out": 0.97}

    def test_a_finished_world_is_given_one(self, tmp_path: Path):
        plain = contents(build(tmp_path / "world", SMALL))
        both = contents(build(tmp_path / "world", SMALL, judge=True))
        assert both == contents(build(tmp_path / "at_once", SMALL, judge=True))
        assert both.keys() - plain.keys() == {"judge/weights"}
        assert {name for name in plain if plain[name] != both[name]} == {"world.json"}

    @pytest.mark.parametrize("judge", [False, True])
    def test_a_world_with_one_is_left_as_it_is(self, tmp_path: Path, fails, judge: bool):
        out = build(tmp_path / "world", SMALL, judge=True)
        before = contents(out)
        fails()
        assert build(out, SMALL, judge=judge) == out
        assert contents(out) == before

    def test_one_that_did_not_learn_leaves_no_trace(self, tmp_path: Path, fails):
        out = build(tmp_path / "world", SMALL)
        before = contents(out)
        fails()
        for folder in (out, tmp_path / "new"):
            with pytest.raises(JudgeNotLearned, match="did not learn"):
                build(folder, SMALL, judge=True)
        assert contents(out) == before
        assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["model"]
        assert not (tmp_path / "new").exists()

    def test_the_command_builds_one(self, tmp_path: Path):
        assert main(["toy", "build", str(tmp_path / "world"), *OPTIONS, "--judge"]) == 0
        assert (tmp_path / "world/judge/weights").is_file()


class TestCommand:
    def test_options_reach_the_world(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        out = tmp_path / "world"
        assert main(["toy", "build", str(out), *OPTIONS, "--seed", "4", "--model", "qwen3-vl"]) == 0
        card = json.loads((out / "world.json").read_text())
        assert json.loads((out / "model/config.json").read_text())["model_type"] == "qwen3_vl"
        assert {
            "seed": 4,
            "model": "qwen3-vl",
            "preferences": 8,
            "val_pairs": 2,
            "test_pairs": 2,
        }.items() <= card.items()
        assert str(out) in capsys.readouterr().out

    def test_what_cannot_be_used_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        (tmp_path / "template.txt").write_text("{question} {response_1}")
        template = ["--prompt-template", str(tmp_path / "template.txt")]
        assert main(["toy", "build", str(tmp_path / "world"), *template]) == 2
        assert "response_2" in capsys.readouterr().err
        assert not (tmp_path / "world").exists()
