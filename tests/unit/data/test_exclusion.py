"""Which rows are kept out of the output because they stand in an evaluation benchmark."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_convert import jsonl, left, main, row, run

from factories import png, preferences_in


def benchmark_files(folder):
    """A file of each published form, and one row of training data that stands in it."""
    folder.mkdir()
    (folder / "images").mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        (folder / "images" / name).write_bytes(png(colour))
    responses = {"chosen": "Right.", "rejected": "Wrong."}
    vl = [{"id": "RLAIF-V-31", "prompt": "What is it?", **responses, "image": "images/a.png"}]
    mm = [{"id": "clip", "prompt": "Who enters?", **responses, "video": "video/clipB"}]
    hub = [{"id": "1", "query": "<image>\nHow many?", "response": ["One.", "Two."], "image": {"bytes": png("green")}}]
    multi = [
        {"ID": "n_1", "Category": "vqa", "Text": "Caption  this", "Image": "images/gone/c.jpg"},
        {"ID": "n_2", "Category": "vqa", "Image": "images/b.png"},  # its question was not to be had
    ]
    for one in multi:
        one |= {"Output1": "Left.", "Output2": "Right.", "Better": "Output1"}
    pq.write_table(pa.Table.from_pylist(hub), folder / "hub.parquet")
    (folder / "all_data.json").write_text(json.dumps(multi), "utf-8")
    return {
        "vl": jsonl(folder / "vl.jsonl", vl),
        "mm": jsonl(folder / "mm.jsonl", mm),
        "hub": folder / "hub.parquet",
        "multi": folder / "all_data.json",
    }


def test_what_stands_in_a_benchmark_is_dropped_and_counted(tmp_path):
    files = benchmark_files(tmp_path / "benchmarks")
    media = tmp_path / "media"
    (media / "video" / "clipB").mkdir(parents=True)
    for path, colour in (
        ("x.png", "red"),
        ("y.png", "green"),
        ("a.png", "pink"),
        ("c.jpg", "grey"),
        ("video/clipB/f1.png", "black"),
    ):
        (media / path).write_bytes(png(colour))
    rows = [
        row("vl", question="what is  it?", image="x.png"),  # the same content under another name
        row("hub", question="How many?", image="y.png"),
        row("multi", question="Caption this", image="c.jpg"),  # the same name; the benchmark's file is not at hand
        row("mm", question="Who enters?", video="video/clipB"),
        row("both", question="What is it?", chosen="Wrong.", rejected="Right.", image="y.png"),  # re-encoded, say
        row("kept1", question="What is it?", image="y.png"),  # the question alone
        row("kept2", question="Where is it?", image="x.png"),  # the picture alone
        row("kept3", question="What is it?", image="a.png"),  # the benchmark's file name, but not its content
    ]
    file = jsonl(tmp_path / "a.jsonl", rows)
    out, report = run(tmp_path, file, media_root=media, exclude=list(files.values()), max_rejects=0)
    assert [item.id for item in preferences_in(out)] == ["rkept1", "rkept2", "rkept3"]
    assert report.excluded == {str(files[name]): 1 + (name == "vl") for name in files}
    assert report.preferences["excluded"] == 5
    assert report.preferences["same_question"] == 2
    assert report.benchmark_rows[str(files["multi"])] == {"rows": 2, "unusable": 1}
    assert "1 of 2 rows cannot be compared" in str(report)


def test_unchecked_pictures_are_compared_by_name(tmp_path):
    files = benchmark_files(tmp_path / "benchmarks")
    rows = [row(0, question="What is it?", image="deep/a.png"), row(1, question="What is it?", image="x.png")]
    out, _ = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows), check_media=False, exclude=[files["vl"]])
    assert [item.id for item in preferences_in(out)] == ["r1"]


def test_a_file_of_this_project_excludes_its_rows(tmp_path):
    out, _ = run(tmp_path, jsonl(tmp_path / "a.jsonl", [row(0), row(1)]))
    held_out = out.rename(tmp_path / "held_out.parquet")
    out, report = run(tmp_path, jsonl(tmp_path / "b.jsonl", [row(1), row(2)]), exclude=[held_out])
    assert [item.id for item in preferences_in(out)] == ["r2"]
    assert report.excluded == {str(held_out): 1}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (['{"text": "x"}'], "no benchmark of a known form (columns: text)"),
        (['{"prompt": "", "chosen": "a", "rejected": "b"}'], "none of its 1 rows has a question"),
        (["{"], "not JSON"),
        ([], "none of its 0 rows"),
    ],
)
def test_a_benchmark_that_cannot_be_compared_stops_the_run(tmp_path, capsys, lines, reason):
    benchmark = tmp_path / "b.jsonl"
    benchmark.write_text("\n".join(lines))
    file = jsonl(tmp_path / "a.jsonl", [row()])
    assert main(["plain", str(file), str(tmp_path / "out.parquet"), "--exclude", str(benchmark)]) == 2
    assert reason in capsys.readouterr().err
    assert left(tmp_path) == []
