"""What commands write is there whole or not at all, and what they read is what `from_row` would make of it."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_preference import FULL, preference

from factories import parquet
from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.preference import SCHEMA, Preference, from_row, to_row
from r1reward_verl.data.readers import RowError
from r1reward_verl.media import Media
from r1reward_verl.storage import ParquetOutput, Rejects, shortened, write_json, write_text

# Reading


def test_preferences_come_back_with_their_numbers(tmp_path):
    items = [preference(id=str(number)) for number in range(700)] + [FULL]
    path = parquet(tmp_path / "p.parquet", [to_row(item) for item in items], SCHEMA, row_group_size=300)
    found = list(read_preferences(path))
    assert found == list(enumerate(items, 1))
    last = found[-1][1]
    assert type(last) is Preference
    assert {type(media) for media in (*last.images, *last.video)} == {Media}
    assert hash(last) == hash(FULL)
    with pytest.raises(AttributeError):
        last.label = 2


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_other_formats_are_read_too(tmp_path, suffix):
    row = to_row(preference(images=(Media("a.png"),)))
    path = tmp_path / f"p.{suffix}"
    path.write_text(json.dumps([row] if suffix == "json" else row))
    assert list(read_preferences(path)) == [(1, from_row(row))]


texts = st.sampled_from(["", " ", "\n\t", "a", "b", "a b", "Größe 🙂", "\0", " "]) | st.text(max_size=5)
changes = [
    *({"path": path} for path in (None, "", " ", "a.png", "a:b", "data:x", "s3://a/b", "a\0b", "大/き.png")),
    *({"bytes": data} for data in (None, b"", b"x")),
    {"path": None, "bytes": b""},
    *({"sha256": sha256} for sha256 in (None, "", "0" * 64, "A" * 64, "0" * 63)),
]
picture = {"path": "a.png", "bytes": None, "sha256": None}
good_media = st.sampled_from([picture, {**picture, "sha256": "0" * 64}, {**picture, "path": None, "bytes": b"x"}])
media = st.builds(lambda good, change: {**good, **change}, good_media, st.sampled_from(changes))


odd = {
    **dict.fromkeys((*SCHEMA.names[:6], "trace"), texts | st.just(preference().response_2)),
    "label": st.integers(-2, 4) | st.sampled_from([-128, 127]),
    "images": st.lists(media, max_size=2),
    "video": st.none() | st.lists(media, max_size=2),
    "difficulty": st.none() | st.integers(-1, 3) | st.sampled_from([-(2**15), 2**15 - 1]),
}
# Mostly good, since a row has to be good everywhere else for one thing to decide about it.
rows = (
    st.lists(st.sampled_from(SCHEMA.names), max_size=2, unique=True)
    .flatmap(lambda names: st.fixed_dictionaries({name: odd[name] for name in names}))
    .map(lambda changes: {**to_row(preference()), **changes})
)


@settings(max_examples=300)
@given(st.lists(rows, min_size=1, max_size=8))
def test_the_quick_way_finds_what_the_thorough_one_finds(drawn):
    with tempfile.TemporaryDirectory() as folder:
        found = list(read_preferences(parquet(Path(folder, "p.parquet"), drawn, SCHEMA)))
    assert len(found) == len(drawn)
    for number, (item, row) in enumerate(zip(found, drawn, strict=True), 1):
        try:
            expected = (number, from_row(row))
        except ValueError as error:
            expected = (number, str(error))
        if isinstance(item, RowError):
            item = (item.number, item.reason)
        else:
            assert type(item[1].label) is int
        assert item == expected


def test_columns_of_other_types_are_read_by_their_values(tmp_path):
    rows = [{**to_row(preference(id=str(number))), "extra": number} for number in range(3)]
    rows[1]["question"] = None
    types = dict(zip(SCHEMA.names, SCHEMA.types, strict=True)) | {"label": pa.int64(), "extra": pa.int64()}
    types |= dict.fromkeys(("id", "question"), pa.large_string())
    schema = pa.schema([pa.field(name, types[name]) for name in sorted(types)])
    found = list(read_preferences(parquet(tmp_path / "p.parquet", rows, schema)))
    assert [found[0], found[2]] == [(number, preference(id=str(number - 1))) for number in (1, 3)]
    assert (found[1].number, found[1].reason) == (2, "question is None; a text that is not empty is needed")
    rows = [{name: value for name, value in row.items() if name != "trace"} for row in rows]
    found = list(read_preferences(parquet(tmp_path / "p.parquet", rows, schema.remove(schema.names.index("trace")))))
    assert all(item.reason.startswith("no column 'trace'") for item in found)


def test_a_text_that_is_no_utf8_loses_only_its_row(tmp_path):
    table = pa.Table.from_pylist([to_row(preference(id=str(number))) for number in range(3)], schema=SCHEMA)
    questions = pa.array([b"Fine?", b"O\xf9?", b"Fine too?"])
    questions = pa.Array.from_buffers(pa.string(), 3, questions.buffers())
    pq.write_table(table.set_column(3, SCHEMA.field("question"), questions), tmp_path / "p.parquet")
    found = list(read_preferences(tmp_path / "p.parquet"))
    assert [item.number if isinstance(item, RowError) else item[0] for item in found] == [1, 2, 3]
    assert isinstance(found[1], RowError)
    assert found[2][1].question == "Fine too?"


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_preferences(tmp_path / "none.parquet")
    path = parquet(tmp_path / "p.parquet", [to_row(FULL)], SCHEMA)
    path.write_bytes(path.read_bytes()[:-10])
    (error,) = read_preferences(path)
    assert error.rows is None
    assert "not a complete parquet file" in error.reason


# Writing


def test_a_parquet_file_gets_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "out.parquet"
    path.write_text("what was there")
    output = ParquetOutput(path, SCHEMA)
    for number in range(12_000):
        output.add(to_row(preference(id=str(number))))
    output.finish()
    assert path.read_text() == "what was there"
    output.commit()
    assert os.listdir(tmp_path) == ["out.parquet"]
    assert pq.read_schema(path).equals(SCHEMA)
    assert [item.id for _, item in read_preferences(path)] == [str(number) for number in range(12_000)]
    assert pq.ParquetFile(path).num_row_groups == 3, "bounded, so that memory is"


def test_row_groups_are_bounded_in_bytes_too(tmp_path):
    output = ParquetOutput(tmp_path / "out.parquet", SCHEMA)
    for number in range(20):
        output.add(to_row(preference(id=str(number), images=(Media(data=bytes([number]) * (4 << 20)),))))
    output.finish()
    output.commit()
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 5


@pytest.mark.parametrize("finished", [False, True])
def test_a_discarded_file_leaves_what_was_there(tmp_path, finished):
    path = tmp_path / "out.parquet"
    path.write_text("what was there")
    output = ParquetOutput(path, SCHEMA)
    output.add(to_row(FULL))
    if finished:
        output.finish()
    output.discard()
    assert os.listdir(tmp_path) == ["out.parquet"]
    assert path.read_text() == "what was there"


def test_a_row_that_does_not_fit_the_schema_is_an_error(tmp_path):
    output = ParquetOutput(tmp_path / "out.parquet", SCHEMA)
    output.add({**to_row(FULL), "label": "B"})
    with pytest.raises(pa.ArrowInvalid):
        output.finish()
    output.discard()
    assert os.listdir(tmp_path) == []


FULL_DISK = """
import os, sys
from pathlib import Path
from r1reward_verl.data import files
from r1reward_verl.storage import ParquetOutput, write_text
from r1reward_verl.data.preference import SCHEMA
path = Path(sys.argv[1])
try:
    if path.suffix == ".parquet":
        output = ParquetOutput(path, SCHEMA)
        try:
            row = dict.fromkeys(SCHEMA.names[:6], "x") | {"label": 1, "images": []}
            for index in range(6_000):
                output.add({**row, "response_1": os.urandom(40).hex()})
            output.finish()
            output.commit()
        finally:
            output.discard()
    else:
        write_text(path, "x" * 100_000)
except OSError as error:
    sys.exit(error.errno)
"""


@pytest.mark.parametrize("name", ["out.parquet", "out.json"])
def test_on_a_full_disk_the_old_file_stays(tmp_path, name):
    (tmp_path / name).write_text("what was there")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / name)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 27, done.stderr  # EFBIG
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "what was there"


def test_killed_while_it_writes_the_old_file_stays(tmp_path):
    path = tmp_path / "out.parquet"
    path.write_text("what was there")
    code = FULL_DISK.replace("range(6_000)", "iter(int, 1)")
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    partial = tmp_path / "out.parquet.partial"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 10_000):
        pass
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert path.read_text() == "what was there"


def test_json_is_written_whole_and_readable(tmp_path):
    path = tmp_path / "card.json"
    write_json(path, {"Größe": "大きさ", "half": "\ud83d"})
    assert '"Größe": "大きさ"' in path.read_text("utf-8")
    assert json.loads(path.read_text("utf-8")) == {"Größe": "大きさ", "half": "\ud83d"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"share": math.nan})
    assert os.listdir(tmp_path) == ["card.json"]
    write_text(path, "new")
    assert path.read_text() == "new"


# Rejects


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_rejects_are_there_if_there_are_some(tmp_path):
    path = tmp_path / "out.rejects.jsonl"
    path.write_text("of an earlier run")
    rejects = Rejects(path)
    rejects.close()
    assert not path.exists()
    rejects = Rejects(path)
    rejects.add("a.jsonl", 7, "because", {"id": "x"})
    rejects.close()
    assert lines(path) == [{"file": "a.jsonl", "line": 7, "reason": "because", "row": {"id": "x"}}]


def test_raw_rows_are_bounded(tmp_path):
    path = tmp_path / "out.rejects.jsonl"
    rejects = Rejects(path)
    rejects.add("a", 1, "r" * 10**6, {"id": "x" * 10**6})
    rejects.add("a", 2, "r", {f"key {n}": ["y" * 3000] * 200 for n in range(300)})
    rejects.add("a", 3, "r", {"image": {"bytes": b"GIF8" + bytes(10**6), "path": None}})
    rejects.close()
    first, second, third = lines(path)
    assert first["row"]["id"].endswith("(996,000 more characters)")
    assert second["row"].endswith("more characters)")
    assert third["row"]["image"] == {"bytes": "1,000,004 bytes: 47 49 46 38" + " 00" * 12 + "…", "path": None}
    assert path.stat().st_size < 100_000


def test_an_excerpt_can_be_written_as_json_whatever_it_holds():
    deep = []
    for _ in range(5000):
        deep = [deep]
    value = {
        "text": "\ud83d",
        "number": 10**4000,
        "nan": math.nan,
        "time": datetime(2020, 1, 1),
        7: {"set": {1}},
        "deep": deep,
        "many": list(range(150)),
    }
    found = json.loads(json.dumps(shortened(value), allow_nan=False))
    assert found["text"] == "\ud83d"
    assert found["nan"] == "nan"
    assert found["time"].startswith("datetime.datetime(2020")
    assert found["7"] == {"set": "{1}"}
    assert found["many"][99:] == [99, "… (50 more)"]
