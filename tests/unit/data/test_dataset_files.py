"""Which files a folder of `datasets`, a copy from the Hub or a name there means, and what stands in them."""

import os
import subprocess
import sys

import datasets
import pytest
from PIL import Image

from hub_server import hub_server
from r1reward_verl.cli import main
from r1reward_verl.data.dataset_files import data_files
from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.readers import RowError, read_rows
from r1reward_verl.errors import R1RewardError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a folder with data sets as `datasets` and the Hub have them."""
    folder = tmp_path_factory.mktemp("saved")
    rows = [
        {"question": f"What is {n}?", "chosen": "A.", "rejected": "B.", "image": Image.new("RGB", (8, 6), (n, 0, 0))}
        for n in range(5)
    ]
    data = datasets.Dataset.from_list(rows)
    data.save_to_disk(folder / "one")
    data.select([3, 1]).save_to_disk(folder / "chosen")
    datasets.DatasetDict(train=data, test=data.select([0])).save_to_disk(folder / "splits")
    (folder / "hub/data").mkdir(parents=True)
    (folder / "hub/README.md").write_text("A card.")
    for shard in range(2):
        data.shard(2, shard).to_parquet(folder / f"hub/data/train-{shard:05}-of-00002.parquet")
    return folder


def questions(paths):
    return [row["question"][8] for path in paths for _, row in read_rows(path)]


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("one", None, "01234"),
        ("chosen", None, "31"),
        ("splits", "test", "0"),
        ("splits/train", None, "01234"),
        ("hub", "train", "01234"),
        ("hub/data", None, "01234"),
    ],
)
def test_a_folder_means_the_files_of_a_split(saved, name, split, expected):
    assert "".join(questions(data_files([saved / name], split))) == expected


def test_a_folder_that_says_too_little_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="holds test, train: name one with --split"):
        data_files([saved / "splits"])
    with pytest.raises(ValueError, match="has no split 'validation'; there are: train"):
        data_files([saved / "hub"], "validation")
    with pytest.raises(ValueError, match="holds no data files"):
        data_files([tmp_path])


def test_files_are_left_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data_files(["missing.jsonl", "data/missing.json.gz", "/a/b/c"]) == [
        *("missing.jsonl", "data/missing.json.gz", "/a/b/c")
    ]


def test_a_name_that_the_hub_does_not_give_is_named(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(R1RewardError, match="'nobody/nothing' is no file, and as a data set of the Hugging Face Hub"):
        data_files(["nobody/nothing"])


CONVERT = "import sys; from r1reward_verl.cli import main; sys.exit(main(['data', 'convert', *sys.argv[1:]]))"


def test_a_name_on_the_hub_is_downloaded(saved, tmp_path):
    shard = (saved / "hub/data/train-00000-of-00002.parquet").read_bytes()
    with hub_server("me/rows", {f"data/{split}-00000-of-00001.parquet": shard for split in ("train", "test")}) as url:
        # The address of the Hub is read when `datasets` is imported.
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}

        def convert(*arguments):
            command = [sys.executable, "-c", CONVERT, "plain", *arguments]
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)

        run = convert("me/rows", str(tmp_path / "out.parquet"), "--split", "test")
        assert run.returncode == 0, run.stderr
        assert "3 written" in run.stdout
        assert all(len(preference.images) == 1 for _, preference in read_preferences(tmp_path / "out.parquet"))
        assert "name one with --split" in convert("me/rows", str(tmp_path / "out.parquet")).stderr
        missing = convert("me/other", str(tmp_path / "out.parquet"))
        assert missing.returncode == 1
        assert "'me/other' is no file, and as a data set of the Hugging Face Hub" in missing.stderr


def test_pictures_come_with_the_folder(saved, tmp_path, capsys):
    out = tmp_path / "out.parquet"
    assert main(["data", "convert", "plain", str(saved / "splits"), str(out), "--split", "train"]) == 0
    assert "5 written" in capsys.readouterr().out
    assert all(len(preference.images) == 1 for _, preference in read_preferences(out))


def test_a_cut_arrow_file_gives_the_rows_before_the_cut(tmp_path):
    path = tmp_path / "data.arrow"
    path.write_bytes(b"")
    (error,) = read_rows(path)
    assert isinstance(error, RowError)
    assert "not a complete Arrow stream" in error.reason
