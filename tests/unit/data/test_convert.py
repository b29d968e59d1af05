"""From files of every form to one file of preferences: what is written, what is not, and why."""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from source_files import VL_FEEDBACK, png, write
from test_media import bomb

from r1reward_verl.data.convert import ConversionError, Seen, convert, main
from r1reward_verl.data.preference import SCHEMA, from_row
from r1reward_verl.data.sources import Plain, load_source

RUN = "import sys; from r1reward_verl.data.convert import main; sys.exit(main(sys.argv[1:]))"


def row(index=0, **changes):
    return {"id": f"r{index}", "question": f"Question {index}?", "chosen": "Yes.", "rejected": "No.", **changes}


def labelled(label, index=0):
    return {"id": f"l{index}", "question": f"Label {index}?", "response_1": "Yes.", "response_2": "No.", "label": label}


def jsonl(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    return path


def preferences(path):
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA)
    return [from_row(one) for one in table.to_pylist()]


def rejects(out):
    return [json.loads(line) for line in out.with_name(f"{out.name}.rejects.jsonl").read_text("utf-8").splitlines()]


def run(tmp_path, *inputs, source=None, **options):
    out = tmp_path / "out.parquet"
    return out, convert(source or Plain(), inputs, out, **{"max_rejects": 1.0, **options})


def left(tmp_path):
    """What a run has made in the folder of its output."""
    return sorted(name for name in os.listdir(tmp_path) if name.startswith("out.parquet"))


# What is written


def test_every_source_is_converted(tmp_path):
    for name, paths in write(tmp_path).items():
        out = tmp_path / f"{name}.parquet.out.parquet"
        report = convert(load_source(name), paths, out, media_root=tmp_path / "media", max_rejects=0)
        found = preferences(out)
        assert report.preferences["written"] == len(found) > 0
        assert report.sources == {name: len(found)}
        for media in (one for item in found for one in (*item.images, *(item.video or ()))):
            assert media.sha256
            assert Image.open(media.path).size == (8, 6)


def test_a_video_folder_becomes_sampled_frames(tmp_path):
    files = write(tmp_path)["mm-rlhf"]
    out, _ = run(tmp_path, *files, source=load_source("mm-rlhf"), media_root=tmp_path / "media", frames=3)
    (clip,) = [item for item in preferences(out) if item.video]
    assert [os.path.basename(frame.path) for frame in clip.video] == [f"c01_000{n}.jpeg" for n in (1, 3, 5)]


def test_pictures_as_bytes_get_files_unless_inlined(tmp_path):
    file = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(VL_FEEDBACK), file)
    out, _ = run(tmp_path, file, source=load_source("vl-feedback"))
    paths = {image.path for item in preferences(out) for image in item.images}
    assert [os.path.dirname(path) for path in paths] == [str(tmp_path / "out.parquet.media")]
    assert Path(paths.pop()).read_bytes() == png("orange")

    inlined = tmp_path / "inlined.parquet"
    convert(load_source("vl-feedback"), [file], inlined, inline=True)
    assert {image.data for item in preferences(inlined) for image in item.images} == {png("orange")}
    assert not inlined.with_name("inlined.parquet.media").exists()


def test_the_order_of_a_pair_is_the_same_whatever_stands_before_it(tmp_path):
    rows = [row(index) for index in range(400)]
    forward, report = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows))
    orders = {item.id: (item.response_1, item.label) for item in preferences(forward)}
    assert all((text == "Yes.") == (label == 1) for text, label in orders.values())
    assert abs(report.labels["1"] - 200) < 60
    backward, _ = run(tmp_path, jsonl(tmp_path / "b.jsonl", reversed(rows)))
    assert {item.id: (item.response_1, item.label) for item in preferences(backward)} == orders
    other, _ = run(tmp_path, tmp_path / "a.jsonl", seed=1)
    assert {item.id: (item.response_1, item.label) for item in preferences(other)} != orders


def test_the_rows_keep_the_order_of_the_input(tmp_path):
    pictures = tmp_path / "media"
    pictures.mkdir()
    rows = [row(index, image=f"{index}.png") for index in range(60)]
    for index in range(60):
        # The first are the slowest to check.
        (pictures / f"{index}.png").write_bytes(png(size=(1200 - 20 * index, 300)))
    out, _ = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows), media_root=pictures)
    assert [item.id for item in preferences(out)] == [f"r{index}" for index in range(60)]


def test_a_row_with_a_trace_keeps_its_order(tmp_path):
    rows = [row(index, difficulty=1, trace="The first is right.") for index in range(20)]
    out, report = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows))
    assert {(item.response_1, item.label) for item in preferences(out)} == {("Yes.", 1)}
    assert report.preferences["kept_order"] == 20


def test_the_command_reports_and_leaves_a_card(tmp_path, capsys):
    file = jsonl(tmp_path / "a.jsonl", [*(row(index, kind="long") for index in range(99)), {"id": "bad"}])
    out = tmp_path / "deep" / "out.parquet"
    assert main(["plain", str(file), "--column", "category=kind", "--seed", "3", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "100 read, 1 rejected, 0 skipped" in printed
    assert "99 written" in printed
    assert "1  100.0%  no column …" in printed
    card = json.loads((tmp_path / "deep" / "out.parquet.card.json").read_text())
    assert card["rows"] == {"read": 100, "rejected": 1}
    assert card["categories"] == {"long": 99}
    assert card["seed"] == 3
    assert sum(card["labels"].values()) == 99
    assert card["inputs"] == [str(file)]


def test_source_options_come_from_the_command_line(tmp_path, capsys):
    file = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(VL_FEEDBACK), file)
    counts = []
    for margin in ("0", "2"):
        out = tmp_path / f"{margin}.parquet"
        assert main(["vl-feedback", "--source-option", f"margin={margin}", str(file), str(out)]) == 0
        counts.append(len(preferences(out)))
    assert counts == [5, 3]
    with pytest.raises(SystemExit):
        main(["vl-feedback", "--source-option", "margin=9", str(file), str(tmp_path / "x.parquet")])
    assert "margin is 9" in capsys.readouterr().err


# Bad rows: each is in the rejects file, and the others are written


def test_labels_that_are_none(tmp_path):
    bad = ["2 ", 2.0, "B", None, 0, True, [1]]
    rows = [labelled(label, index) for index, label in enumerate([1, "2", *bad])]
    out, report = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows))
    assert len(preferences(out)) == 2
    found = rejects(out)
    assert [one["line"] for one in found] == [3, 4, 5, 6, 7, 8, 9]
    assert [one["row"]["label"] for one in found] == bad
    assert all("is neither 1 nor 2" in one["reason"] for one in found)
    assert report.rows == {"read": 9, "rejected": 7}
    assert sum(report.rejects.values()) == 7
    assert len(report.rejects) == 1, "the same reason with other values is one kind of reason"


def test_mixed_encodings_lose_only_their_row(tmp_path):
    lines = [json.dumps(row(index)).encode() for index in range(3)]
    lines[1] = json.dumps(row(1, question="Où?"), ensure_ascii=False).encode("latin-1")
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n".join(lines))
    out, _ = run(tmp_path, file)
    assert [item.id for item in preferences(out)] == ["r0", "r2"]
    (reject,) = rejects(out)
    assert (reject["file"], reject["line"]) == (str(file), 2)
    assert "not UTF-8" in reject["reason"]
    assert "O\\xf9?" in reject["row"]


def test_half_characters_and_broken_json_are_kept_readable(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(f'{json.dumps(row(0))}\n{{"id": \n{json.dumps(row(1, question="half: " + chr(0xD83D)))}\n', "utf-8")
    out, _ = run(tmp_path, file)
    broken, half = rejects(out)
    assert broken["row"] == '{"id": '
    assert half["row"]["question"] == "half: \ud83d"


def test_wrong_column_types_are_rejected_row_by_row(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"question": [1, 2], "chosen": ["a", "b"], "rejected": ["c", "d"]}), file)
    with pytest.raises(ConversionError, match="none of 2 rows is left"):
        run(tmp_path, file)
    assert [one["reason"] for one in rejects(tmp_path / "out.parquet")] == [
        f"question is {n}; a text that is not empty is needed" for n in (1, 2)
    ]


def test_a_truncated_file_is_an_error_whatever_share_is_allowed(tmp_path):
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.Table.from_pylist([row(index) for index in range(100)]), whole)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-50])
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps(row(i)) + "\n" for i in range(5000)).encode())[:-2000])
    for file in (cut, packed):
        with pytest.raises(ConversionError, match=f"cannot be read to the end: {file}:"):
            run(tmp_path, whole, file)
        assert left(tmp_path) == ["out.parquet.rejects.jsonl"]
        assert any(
            one["file"] == str(file) and "complete" in one["reason"] for one in rejects(tmp_path / "out.parquet")
        )


def test_media_that_cannot_be_used(tmp_path):
    media = tmp_path / "media"
    (media / "sub").mkdir(parents=True)
    (media / "good.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png("red"))
    (media / "link.png").symlink_to(tmp_path / "secret.png")
    (media / "bomb.png").write_bytes(bomb())
    (media / "page.png").write_text("<html>")
    bad = {
        "missing.png": "no file 'missing.png'",
        "bomb.png": "more than 89,478,485 pixels",
        "link.png": "leads out of the media root",
        "../secret.png": "leads out of the media root",
        str(tmp_path / "secret.png"): "no file",
        "page.png": "not a JPEG",
        "sub": "a folder",
        "https://example.org/a.png": "is an address",
        "a\0b.png": "null character",
        "": None,
    }
    rows = [row(index, image=path) for index, path in enumerate(bad)]
    rows += [row(50, image="good.png"), row(51, images=["good.png", "missing.png"])]
    out, report = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows), media_root=media)
    assert [item.id for item in preferences(out)] == ["r9", "r50"]
    reasons = {one["row"]["id"]: one["reason"] for one in rejects(out)}
    for index, part in enumerate(bad.values()):
        assert part is None or part in reasons[f"r{index}"]
    assert "missing.png" in reasons["r51"]
    assert report.rows["rejected"] == 10

    unchecked, report = run(tmp_path, tmp_path / "a.jsonl", check_media=False)
    assert report.rows["rejected"] == 2, "an address and a null character are no paths"
    assert preferences(unchecked)[0].images[0].path == "missing.png"


def test_media_without_a_root_stop_the_run(tmp_path, capsys):
    file = jsonl(tmp_path / "a.jsonl", [row(0, image="a.png")])
    assert main(["plain", str(file), str(tmp_path / "out.parquet")]) == 1
    assert "--media ROOT" in capsys.readouterr().err
    assert left(tmp_path) == []


def test_a_picture_as_bytes_that_is_none_is_shown_shortened(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(
        pa.Table.from_pylist([row(0, image=None), row(1, image={"bytes": b"GIF8" + bytes(10**6), "path": None})]), file
    )
    out, _ = run(tmp_path, file)
    (reject,) = rejects(out)
    assert reject["row"]["image"]["bytes"].startswith("1,000,004 bytes: 47 49 46 38 00")
    assert os.path.getsize(tmp_path / "out.parquet.rejects.jsonl") < 1000


def test_raw_rows_are_bounded(tmp_path):
    rows = [row(0), {"id": "x" * 10**6}, {f"key {n}": ["y" * 3000] * 200 for n in range(300)}]
    out, _ = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows))
    assert rejects(out)[0]["row"]["id"].endswith("(996,000 more characters)")
    assert os.path.getsize(tmp_path / "out.parquet.rejects.jsonl") < 200_000


def test_a_failing_source_of_ones_own_does_not_stop_the_run(tmp_path):
    class Careless:
        name = "careless"

        def read(self, row, number):
            yield from Plain().read(row, number)
            if row["id"] == "r1":
                yield None
            row["key"]

    file = jsonl(tmp_path / "a.jsonl", [row(0, key=1), row(1, key=1), row(2)])
    out, _ = run(tmp_path, file, source=Careless())
    assert [item.id for item in preferences(out)] == ["r0"]
    assert [one["reason"] for one in rejects(out)] == [
        "the source made None of it, which is no Preference",
        "KeyError: 'key'",
    ]


def test_too_many_rejects_are_an_error(tmp_path, capsys):
    file = jsonl(tmp_path / "a.jsonl", [row(index) if index else {} for index in range(20)])
    out = tmp_path / "out.parquet"
    assert main(["plain", str(file), str(out)]) == 0  # 5 %
    before = out.read_bytes()
    assert main(["plain", str(file), str(out), "--max-rejects", "0.04"]) == 1
    captured = capsys.readouterr()
    assert "1 of 20 rows were rejected, more than 4.0%" in captured.err
    assert "20 read, 1 rejected" in captured.out
    assert out.read_bytes() == before, "what was there stays"
    assert len(rejects(out)) == 1
    # A clean run leaves no rejects file of the run before.
    assert main(["plain", str(jsonl(tmp_path / "b.jsonl", [row()])), str(out)]) == 0
    assert left(tmp_path) == ["out.parquet", "out.parquet.card.json"]


def test_rows_without_a_preference_are_skipped_and_no_rejects(tmp_path):
    file = write(tmp_path)["wildvision-battle"]
    _, report = run(tmp_path, *file, source=load_source("wildvision-battle"), max_rejects=0)
    assert report.rows == {"read": 4, "skipped": 2}
    assert report.skips == {"a tie (winner is …)": 2}


def test_nothing_to_write_is_an_error(tmp_path):
    with pytest.raises(ConversionError, match="none of 0 rows is left"):
        run(tmp_path, jsonl(tmp_path / "a.jsonl", []))
    assert left(tmp_path) == []


# Duplicates


def test_the_same_preference_counts_once(tmp_path):
    (tmp_path / "one.png").write_bytes(png("red"))
    (tmp_path / "copy.png").write_bytes(png("red"))
    (tmp_path / "other.png").write_bytes(png("blue"))
    rows = [
        row(0, image="one.png"),
        row(1, question="Question 0?", image="copy.png"),  # the same content under another name
        row(2, question="Question 0?", image="one.png", chosen="No.", rejected="Yes."),  # the opposite label
        row(3, question="Question 0?", image="other.png"),
        row(4, question="Question 0?"),
    ]
    out, report = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows), media_root=tmp_path, max_rejects=0)
    assert [item.id for item in preferences(out)] == ["r0", "r3", "r4"]
    assert report.preferences["duplicates"] == 2
    assert report.preferences["duplicates_opposite"] == 1


def test_ids_that_repeat_are_rejected_with_the_first_place(tmp_path):
    first = jsonl(tmp_path / "a.jsonl", [row(0), row(1)])
    second = jsonl(
        tmp_path / "b.jsonl", [row(5), row(1, chosen="Maybe."), row(1), row(1, question="Q?", source="another")]
    )
    out, report = run(tmp_path, first, second)
    assert [item.id for item in preferences(out)] == ["r0", "r1", "r5", "r1"]
    assert [item.source for item in preferences(out)][-1] == "another"
    assert report.preferences["duplicates"] == 1, "a whole row that repeats is no reject"
    (reject,) = rejects(out)
    assert (reject["file"], reject["line"]) == (str(second), 2)
    assert reject["reason"] == f"id 'r1' stands already in {first}:2, with another content"


def test_seen_is_a_set_that_remembers_places():
    import hashlib

    digests = [hashlib.sha256(str(n).encode()).digest()[:16] for n in range(20_000)]
    seen = Seen()
    assert all(seen.first(digest, place) is None for place, digest in enumerate(digests))
    assert [seen.first(digest, 0) for digest in digests] == list(range(20_000))
    assert seen.first(bytes(16), 7) is None, "a digest of zeros is one like others"
    assert seen.first(bytes(16), 8) == 7


# Benchmarks


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
    assert [item.id for item in preferences(out)] == ["rkept1", "rkept2", "rkept3"]
    assert report.excluded == {str(files[name]): 1 + (name == "vl") for name in files}
    assert report.preferences["excluded"] == 5
    assert report.preferences["same_question"] == 2
    assert report.benchmark_rows[str(files["multi"])] == {"rows": 2, "unusable": 1}
    assert "1 of 2 rows cannot be compared" in str(report)


def test_unchecked_pictures_are_compared_by_name(tmp_path):
    files = benchmark_files(tmp_path / "benchmarks")
    rows = [row(0, question="What is it?", image="deep/a.png"), row(1, question="What is it?", image="x.png")]
    out, _ = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows), check_media=False, exclude=[files["vl"]])
    assert [item.id for item in preferences(out)] == ["r1"]


def test_a_file_of_this_project_excludes_its_rows(tmp_path):
    out, _ = run(tmp_path, jsonl(tmp_path / "a.jsonl", [row(0), row(1)]))
    held_out = out.rename(tmp_path / "held_out.parquet")
    out, report = run(tmp_path, jsonl(tmp_path / "b.jsonl", [row(1), row(2)]), exclude=[held_out])
    assert [item.id for item in preferences(out)] == ["r2"]
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
    with pytest.raises(SystemExit):
        main(["plain", str(file), str(tmp_path / "out.parquet"), "--exclude", str(benchmark)])
    assert reason in capsys.readouterr().err
    assert left(tmp_path) == []


# Command lines, crashes and full disks


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["plain", "none.jsonl", "out.parquet"], "no file"),
        (["plain", "a.txt", "out.parquet"], "no known format"),
        (["plain", "a.jsonl", "out.jsonl"], "does not end in .parquet"),
        (["plain", "a.jsonl", "a.jsonl", "out.parquet"], "is given twice"),
        (["plain", "out.parquet", "./out.parquet"], "input and output at the same time"),
        (["nobody", "a.jsonl", "out.parquet"], "source 'nobody' is unknown"),
        (["plain", "a.jsonl", "out.parquet", "--media", "nowhere"], "is no folder"),
        (["plain", "a.jsonl", "out.parquet", "--frames", "0"], "0 frames"),
        (["plain", "a.jsonl", "out.parquet", "--max-rejects", "5"], "not between 0 and 1"),
        (["plain", "a.jsonl", "out.parquet", "--column", "question"], "is not NAME=VALUE"),
    ],
)
def test_command_lines_that_cannot_be_used(tmp_path, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "a.jsonl", [row()])
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_killed_in_the_middle_there_is_no_output(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", [row(index, chosen="Yes. " * 200) for index in range(40_000)])
    out = tmp_path / "out.parquet"
    process = subprocess.Popen([sys.executable, "-c", RUN, "plain", str(file), str(out)])
    partial = tmp_path / "out.parquet.partial"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert left(tmp_path) == ["out.parquet.partial"]
    short = jsonl(tmp_path / "short.jsonl", [row(index) for index in range(100)])
    assert main(["plain", str(short), str(out)]) == 0
    assert left(tmp_path) == ["out.parquet", "out.parquet.card.json"]


@pytest.mark.parametrize("what", ["preferences", "pictures", "rejects"])
def test_on_a_full_disk_there_is_no_output(tmp_path, what):
    noise = os.urandom(60_000)
    if what == "preferences":
        file = jsonl(tmp_path / "a.jsonl", [row(index, chosen=os.urandom(2000).hex()) for index in range(50)])
        options = []
    elif what == "rejects":
        file = jsonl(tmp_path / "a.jsonl", [{"id": "x" * 1000}] * 200 + [row()])
        options = ["--max-rejects", "1"]
    else:
        picture = tmp_path / "p.png"
        Image.frombytes("RGB", (200, 100), noise).save(picture)
        file = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_pylist([row(0, image=None), row(1, image={"bytes": picture.read_bytes()})]), file)
        options = []
    limited = subprocess.run(
        [sys.executable, "-c", RUN, "plain", str(file), str(tmp_path / "out.parquet"), *options],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True,
        text=True,
    )
    assert limited.returncode == 1, limited.stderr
    assert "File too large" in limited.stderr
    assert "was not written" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert left(tmp_path) == (["out.parquet.rejects.jsonl"] if what == "rejects" else [])


def test_an_interrupt_cleans_up(tmp_path):
    class Interrupted:
        name = "interrupted"

        def read(self, row, number):
            if number == 3:
                raise KeyboardInterrupt
            yield from Plain().read(row, number)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, jsonl(tmp_path / "a.jsonl", [row(index) for index in range(9)]), source=Interrupted())
    assert left(tmp_path) == []


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "json", "csv", "parquet"])
def test_the_bar_moves_over_the_bytes_of_the_files(tmp_path, monkeypatch, suffix):
    rows = [row(index, chosen="Yes. " * 400) for index in range(4000)]
    file = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif suffix == "csv":
        lines = ["question,chosen,rejected", *(f"{one['question']},{one['chosen']},{one['rejected']}" for one in rows)]
        file.write_text("\n".join(lines))
    else:
        text = json.dumps(rows) if suffix == "json" else "".join(json.dumps(one) + "\n" for one in rows)
        file.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    from r1reward_verl.data import convert as module

    positions = []
    monkeypatch.setattr(module._Progress, "_show", lambda self, position: positions.append(position))
    monkeypatch.setattr(module.time, "monotonic", lambda: len(positions) + 1.0)
    run(tmp_path, file, progress=True)
    size = file.stat().st_size
    assert all(one <= other for one, other in pairwise(positions))
    assert positions[-1] == size
    if suffix != "jsonl.gz":  # so small when packed that it is read at once
        assert any(0.2 * size < position < 0.9 * size for position in positions)


def test_the_memory_of_counters_is_bounded(tmp_path):
    rows = [row(index, category=f"category {index}") for index in range(1500)]
    _, report = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows))
    assert len(report.categories) == 1001
    assert report.categories["(others)"] == 500
    assert isinstance(report.categories, Counter)
