"""Files of preferences become one: what is left out, what stays as it is, and what is refused."""

import json
from itertools import starmap

import pytest
from msgspec.structs import replace

from factories import preference_file, preferences_in
from r1reward_verl.cli import main as cli
from r1reward_verl.data.merge import MergeError, merge
from r1reward_verl.data.preference import Preference
from r1reward_verl.media import Media


def preference(name, source="s"):
    media = (Media(data=b"\x89PNG" + name.encode()),) if name == "p" else ()
    return Preference(name, source, "c", f"What is {name}?", f"A {name}.", "A bird.", 1, media)


@pytest.fixture
def files(tmp_path):
    a, b, p = (replace(one, difficulty=2, trace="<think>x</think><answer>1</answer>") for one in map(preference, "abp"))
    swapped = replace(preference("b"), response_1="A bird.", response_2="A b.", label=2)
    opposite = replace(preference("a"), label=2, id="a2")
    return [
        preference_file(tmp_path / "one.parquet", [a, b, p]),
        preference_file(tmp_path / "two.parquet", [swapped, opposite, *starmap(preference, ["c", ("a", "t")])]),
    ]


def test_each_preference_stands_once_as_the_first_file_has_it(files, tmp_path, capsys):
    out = tmp_path / "out.parquet"
    assert cli(["data", "merge", *map(str, files), str(out)]) == 0
    assert preferences_in(out) == [*preferences_in(files[0]), preference("c")]
    card = json.loads(out.with_name("out.parquet.card.json").read_text())
    assert card["files"][str(files[1])] == {"read": 4, "duplicates": 3, "duplicates_opposite": 1, "written": 1}
    assert card["sources"] == {"s": 4}
    assert f"written: {out}" in capsys.readouterr().out


def test_an_id_with_another_content_is_rejected(files, tmp_path, capsys):
    other = preference_file(tmp_path / "other.parquet", [replace(preference("a"), question="Why?"), preference("d")])
    out = tmp_path / "out.parquet"
    assert cli(["data", "merge", str(files[0]), str(other), str(out)]) == 1
    assert "1 of 5 rows were rejected" in capsys.readouterr().err
    assert not out.exists()
    assert cli(["data", "merge", str(files[0]), str(other), str(out), "--max-rejects", "0.2"]) == 0
    assert [one.id for one in preferences_in(out)] == ["a", "b", "p", "d"]
    (reject,) = out.with_name("out.parquet.rejects.jsonl").read_text().splitlines()
    assert "id 'a' of 's' stands already in" in reject


def test_what_cannot_be_merged_is_refused(files, tmp_path):
    with pytest.raises(ValueError, match="is given twice"):
        merge([files[0], files[0]], tmp_path / "out.parquet")
    with pytest.raises(ValueError, match="input and output at the same time"):
        merge(files, files[0])
    with pytest.raises(FileNotFoundError):
        merge([tmp_path / "none.parquet"], tmp_path / "out.parquet")
    (tmp_path / "cut.parquet").write_bytes(files[0].read_bytes()[:200])
    with pytest.raises(MergeError, match="not a complete parquet file"):
        merge([tmp_path / "cut.parquet"], tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
