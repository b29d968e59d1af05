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
from tqdm import tqdm

from factories import bomb, png, preferences_in
from r1reward_verl.cli import main as cli
from r1reward_verl.data import convert as convert_module
from r1reward_verl.data.convert import ConversionError, ConvertSettings, convert
from r1reward_verl.data.sources import load_source
from r1reward_verl.data.sources.plain import Plain
from source_files import VL_FEEDBACK, write

RUN = "import sys; from r1reward_verl.cli import main; sys.exit(main(['data', 'convert', *sys.argv[1:]]))"


def main(arguments):
    return cli(["data", "convert", *arguments])


def row(index=0, **changes):
    return {"id": f"r{index}", "question": f"Question {index}?", "chosen": "Yes.", "rejected": "No.", **changes}


def labelled(label, index=0):
    return {"id": f"l{index}", "question": f"Label {index}?", "response_1": "Yes.", "response_2": "No.", "label": label}


def jsonl(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    return path


def rejects(out):
    return [json.loads(line) for line in out.with_name(f"{out.name}.rejects.jsonl").read_text("utf-8").splitlines()]


def run(tmp_path, *inputs, source=None, progress=None, **options):
    out = tmp_path / "out.parquet"
    return out, convert(
        source or Plain(), inputs, out, ConvertSettings(**{"max_rejects": 1.0, **options}), progress=progress
    )


def left(tmp_path):
    """What a run has made in the folder of its output."""
    return sorted(name for name in os.listdir(tmp_path) if name.startswith("out.parquet"))


# What is written


def test_every_source_is_converted(tmp_path):
    for name, paths in write(tmp_path).items():
        out = tmp_path / f"{name}.parquet.out.parquet"
        report = convert(
            load_source(name), paths, out, ConvertSettings(media_root=str(tmp_path / "media"), max_rejects=0)
        )
        found = preferences_in(out)
        assert report.preferences["written"] == len(found) > 0
        assert report.sources == {name: len(found)}
        for media in (one for item in found for one in (*item.images, *(item.video or ()))):
            assert media.sha256
            assert Image.open(media.path).size == (8, 6)


def test_a_video_folder_becomes_sampled_frames(tmp_path):
    files = write(tmp_path)["mm-rlhf"]
    out, _ = run(tmp_path, *files, source=load_source("mm-rlhf"), media_root=str(tmp_path / "media"), frames=3)
    (clip,) = [item for item in preferences_in(out) if item.video]
    assert [os.path.basename(frame.path) for frame in clip.video] == [f"c01_000{n}.jpeg" for n in (1, 3, 5)]


def test_pictures_as_bytes_get_files_unless_inlined(tmp_path):
    file = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(VL_FEEDBACK), file)
    out, _ = run(tmp_path, file, source=load_source("vl-feedback"))
    paths = {image.path for item in preferences_in(out) for image in item.images}
    assert [os.path.dirname(path) for path in paths] == [str(tmp_path / "out.parquet.media")]
    assert Path(paths.pop()).read_bytes() == png("orange")

    inlined = tmp_path / "inlined.parquet"
    convert(load_source("vl-feedback"), [file], inlined, ConvertSettings(inline=True))
    assert {image.data for item in preferences_in(inlined) for image in item.images} == {png("orange")}
    assert not inlined.with_name("inlined.parquet.media").exists()


def test_the_order_of_a_pair_is_the_same_whatever_stands_before_it(tmp_path):
    rows = [row(index) for index in range(400)]
    forward, report = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows))
    orders = {item.id: (item.response_1, item.label) for item in preferences_in(forward)}
    assert all((text == "Yes.") == (label == 1) for text, label in orders.values())
    assert abs(report.labels["1"] - 200) < 60
    backward, _ = run(tmp_path, jsonl(tmp_path / "b.jsonl", reversed(rows)))
    assert {item.id: (item.response_1, item.label) for item in preferences_in(backward)} == orders
    other, _ = run(tmp_path, tmp_path / "a.jsonl", seed=1)
    assert {item.id: (item.response_1, item.label) for item in preferences_in(other)} != orders


def test_the_rows_keep_the_order_of_the_input(tmp_path):
    pictures = tmp_path / "media"
    pictures.mkdir()
    rows = [row(index, image=f"{index}.png") for index in range(60)]
    for index in range(60):
        # The first are the slowest to check.
        (pictures / f"{index}.png").write_bytes(png(size=(1200 - 20 * index, 300)))
    out, _ = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows), media_root=pictures)
    assert [item.id for item in preferences_in(out)] == [f"r{index}" for index in range(60)]


def test_a_row_with_a_trace_keeps_its_order(tmp_path):
    rows = [row(index, difficulty=1, trace="The first is right.") for index in range(20)]
    out, report = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows))
    assert {(item.response_1, item.label) for item in preferences_in(out)} == {("Yes.", 1)}
    assert report.preferences["kept_order"] == 20


def test_the_command_reports_and_leaves_a_card(tmp_path, capsys):
    file = jsonl(tmp_path / "a.jsonl", [*(row(index, kind="long") for index in range(99)), {"id": "bad"}])
    out = tmp_path / "deep" / "out.parquet"
    assert main(["plain", str(file), "--column", "category=kind", "--seed", "3", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "100 read, 1 rejected, 0 skipped" in printed
    assert "99 written" in printed
    assert "1  100.0%  no column 'kind' (there are: id)" in printed
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
        counts.append(len(preferences_in(out)))
    assert counts == [5, 3]
    assert main(["vl-feedback", "--source-option", "margin=9", str(file), str(tmp_path / "x.parquet")]) == 2
    assert "margin is 9" in capsys.readouterr().err


# Bad rows: each is in the rejects file, and the others are written


def test_labels_that_are_none(tmp_path):
    bad = ["2 ", 2.0, "B", None, 0, True, [1]]
    rows = [labelled(label, index) for index, label in enumerate([1, "2", *bad])]
    out, report = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows))
    assert len(preferences_in(out)) == 2
    found = rejects(out)
    assert [one["line"] for one in found] == [3, 4, 5, 6, 7, 8, 9]
    assert [one["row"]["label"] for one in found] == bad
    assert all("is neither 1 nor 2" in one["reason"] for one in found)
    assert report.rows == {"read": 9, "rejected": 7}
    assert "label … is neither" in str(report)
    assert sum(report.rejects.values()) == 7
    assert len(report.rejects) == 1, "the same reason with other values is one kind of reason"


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("a.csv", {"label": "2 "}),
        ("a.csv", {"label": "B"}),
        ("a.csv", {"label": ""}),
        ("a.csv", {"label": "2.0"}),
        ("a.parquet", {"label": 2.0}),
        ("a.parquet", {"label": None}),
        ("a.parquet", {"label": "2 "}),
        ("a.parquet", {"label": True}),
        ("a.parquet", {"question": 7}),
        ("a.parquet", {"question": ["What?"]}),
        ("a.parquet", {"response_1": {"text": "Yes."}}),
        ("a.parquet", {"response_2": None}),
        ("a.parquet", {"image": 7}),
        ("a.parquet", {"image": {"file": "a.png"}}),
        ("a.parquet", {"video": 1.5}),
        ("a.parquet", {"id": b"\xff"}),
    ],
)
def test_a_column_of_another_type_rejects_its_rows_and_no_others(tmp_path, name, bad):
    good, row = labelled(1, 0), {**labelled(2, 1), **bad}
    file = tmp_path / name
    if name == "a.csv":
        file.write_text("".join(",".join(map(str, line)) + "\n" for line in (row, row.values())))
    else:
        pq.write_table(pa.Table.from_pylist([row]), file)
    out, report = run(tmp_path, jsonl(tmp_path / "good.jsonl", [good]), file)
    assert [item.id for item in preferences_in(out)] == ["l0"]
    (reject,) = rejects(out)
    assert reject["file"] == str(file)
    assert reject["line"] == (2 if name == "a.csv" else 1)
    assert ("picture or video" if "image" in bad else next(iter(bad))) in reject["reason"]
    assert reject["row"].keys() == row.keys()
    assert report.rows == {"read": 2, "rejected": 1}


@pytest.mark.parametrize("encoding", ["latin-1", "gb18030", "shift-jis"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_mixed_encodings_lose_only_their_row(tmp_path, name, encoding):
    question = "Où?" if encoding == "latin-1" else "大きさ?"
    rows = [row(0), row(1, question=question), row(2)]
    if name == "a.csv":
        lines = [",".join(row(0)), *(",".join(one.values()) for one in rows)]
    else:
        lines = [json.dumps(one, ensure_ascii=False) for one in rows]
    start, between, end = ("[", ",\n", "]") if name == "a.json" else ("", "\n", "")
    parts = [line.encode(encoding if question in line else "utf-8") for line in lines]
    file = tmp_path / name
    file.write_bytes(start.encode() + between.encode().join(parts) + end.encode())
    out, _ = run(tmp_path, file)
    assert [item.id for item in preferences_in(out)] == ["r0", "r2"]
    (reject,) = rejects(out)
    assert (reject["file"], reject["line"]) == (str(file), 3 if name == "a.csv" else 2)
    assert "not UTF-8" in reject["reason"]
    assert question.encode(encoding).decode("utf-8", "backslashreplace") in reject["row"]


def test_the_summary_names_what_is_missing(tmp_path):
    rows = [{"question": "Why?", "chosen": "A.", "refused": "B."}, {"question": "Why?", "response_1": "A.", "label": 1}]
    file = jsonl(tmp_path / "a.jsonl", [*rows, row(0)])
    file.write_bytes(file.read_bytes() + b'{"question": "\xff"}\n')
    _, report = run(tmp_path, file)
    assert list(report.rejects) == [
        "no column 'rejected' (there are: question, chosen, refused)",
        "no column 'response_2' (there are: question, response_1, label)",
        "not UTF-8: … at byte …; save the file as UTF-8",
    ]


def test_half_characters_and_broken_json_are_kept_readable(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(f'{json.dumps(row(0))}\n{{"id": \n{json.dumps(row(1, question="half: " + chr(0xD83D)))}\n', "utf-8")
    out, _ = run(tmp_path, file)
    broken, half = rejects(out)
    assert broken["row"] == '{"id": '
    assert half["row"]["question"] == "half: \ud83d"


def test_a_text_of_parquet_in_another_encoding_loses_only_its_row(tmp_path):
    table = pa.Table.from_pylist([row(index) for index in range(3)])
    questions = pa.array([b"Fine?", b"O\xf9?", b"Fine too?"])
    questions = pa.Array.from_buffers(pa.string(), 3, questions.buffers())
    pq.write_table(table.set_column(1, "question", questions), tmp_path / "a.parquet")
    out, _ = run(tmp_path, tmp_path / "a.parquet")
    assert [item.id for item in preferences_in(out)] == ["r0", "r2"]
    (reject,) = rejects(out)
    assert reject["line"] == 2
    assert "0xf9" in reject["reason"]


def test_a_file_of_the_wrong_types_has_nothing_to_write(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"question": [1, 2], "chosen": ["a", "b"], "rejected": ["c", "d"]}), file)
    with pytest.raises(ConversionError, match="none of 2 rows is left"):
        run(tmp_path, file)
    assert left(tmp_path) == ["out.parquet.rejects.jsonl"]
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


def test_a_damaged_row_group_is_counted_by_its_rows(tmp_path):
    file = tmp_path / "a.parquet"
    rows = [row(index, chosen=f"{index} " * 50) for index in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=10, compression="zstd")
    column = pq.ParquetFile(file).metadata.row_group(1).column(2)
    content = bytearray(file.read_bytes())
    start = column.dictionary_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    file.write_bytes(content)
    out, report = run(tmp_path, file)
    assert [item.id for item in preferences_in(out)] == [f"r{index}" for index in (*range(10), *range(20, 30))]
    assert report.rows == {"read": 30, "rejected": 10}
    (reject,) = rejects(out)
    assert reject["line"] == 11
    assert "row group 2 is damaged, 10 rows of it are lost" in reject["reason"]
    with pytest.raises(ConversionError, match=r"10 of 30 rows were rejected, more than 5\.0%"):
        run(tmp_path, file, max_rejects=0.05)


def test_media_that_cannot_be_used(tmp_path):
    media = tmp_path / "media"
    (media / "sub").mkdir(parents=True)
    (media / "good.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png("red"))
    (media / "link.png").symlink_to(tmp_path / "secret.png")
    (media / "up").symlink_to(tmp_path)
    (media / "clip").mkdir()
    (media / "clip" / "f1.png").symlink_to(tmp_path / "secret.png")
    (media / "bomb.png").write_bytes(bomb())
    (media / "page.png").write_text("<html>")
    bad = {
        "missing.png": "no file 'missing.png'",
        "bomb.png": "more than 89,478,485 pixels",
        "link.png": "leads out of the media root",
        "up/secret.png": "leads out of the media root",
        "../secret.png": "leads out of the media root",
        "sub/../../secret.png": "leads out of the media root",
        str(tmp_path / "secret.png"): "no file",
        "page.png": "not a JPEG",
        "sub": "a folder",
        "https://example.org/a.png": "is an address",
        "a\0b.png": "null character",
        "": None,
    }
    rows = [row(index, image=path) for index, path in enumerate(bad)]
    rows += [row(50, image="good.png"), row(51, images=["good.png", "missing.png"]), row(52, video="clip")]
    out, report = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows), media_root=media)
    assert [item.id for item in preferences_in(out)] == ["r11", "r50"]
    reasons = {one["row"]["id"]: one["reason"] for one in rejects(out)}
    for index, part in enumerate(bad.values()):
        assert part is None or part in reasons[f"r{index}"]
    assert "missing.png" in reasons["r51"]
    assert "leads out of the media root" in reasons["r52"]
    assert report.rows["rejected"] == 13

    unchecked, report = run(tmp_path, tmp_path / "a.jsonl", check_media=False)
    assert report.rows["rejected"] == 2, "an address and a null character are no paths"
    assert preferences_in(unchecked)[0].images[0].path == "missing.png"


@pytest.mark.parametrize("inline", [False, True])
def test_a_bomb_in_bytes_is_no_picture(tmp_path, inline):
    file = tmp_path / "a.parquet"
    pictures = [{"bytes": png(), "path": None}, {"bytes": bomb(), "path": "60000.png"}]
    pq.write_table(pa.Table.from_pylist([row(n, image=picture) for n, picture in enumerate(pictures)]), file)
    out, _ = run(tmp_path, file, inline=inline)
    assert [item.id for item in preferences_in(out)] == ["r0"]
    (reject,) = rejects(out)
    assert "more than 89,478,485 pixels" in reject["reason"]
    assert reject["row"]["image"]["bytes"].startswith("1,048,")


def test_media_without_a_root_stop_the_run(tmp_path, capsys):
    file = jsonl(tmp_path / "a.jsonl", [row(0, image="a.png")])
    assert main(["plain", str(file), str(tmp_path / "out.parquet")]) == 1
    assert "--media ROOT" in capsys.readouterr().err
    assert left(tmp_path) == []


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
    assert [item.id for item in preferences_in(out)] == ["r0"]
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
    assert [item.id for item in preferences_in(out)] == ["r0", "r3", "r4"]
    assert report.preferences["duplicates"] == 2
    assert report.preferences["duplicates_opposite"] == 1


def test_ids_that_repeat_are_rejected_with_the_first_place(tmp_path):
    first = jsonl(tmp_path / "a.jsonl", [row(0), row(1)])
    second = jsonl(
        tmp_path / "b.jsonl", [row(5), row(1, chosen="Maybe."), row(1), row(1, question="Q?", source="another")]
    )
    out, report = run(tmp_path, first, second)
    assert [item.id for item in preferences_in(out)] == ["r0", "r1", "r5", "r1"]
    assert [item.source for item in preferences_in(out)][-1] == "another"
    assert report.preferences["duplicates"] == 1, "a whole row that repeats is no reject"
    (reject,) = rejects(out)
    assert (reject["file"], reject["line"]) == (str(second), 2)
    assert reject["reason"] == f"id 'r1' of 'plain' stands already in {first}:2, with another content"


def test_the_copy_of_a_row_that_was_rejected_for_its_id_is_no_duplicate(tmp_path):
    rows = [row(0), row(0, question="Another?"), row(1, question="Another?")]
    out, report = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows))
    assert [item.id for item in preferences_in(out)] == ["r0", "r1"]
    assert report.preferences["duplicates"] == 0
    assert [one["line"] for one in rejects(out)] == [2]


LONG = "The red kite is high above the hill, and two children hold its line while a dog watches them from the grass. "


def test_near_duplicates_are_dropped_if_asked(tmp_path, capsys):
    def near(index, **changes):
        return row(index, **{"question": "Describe the image.", "chosen": LONG * 3, "rejected": "No. " * 9, **changes})

    rows = [
        near(0),
        near(1, chosen=LONG * 3 + "Fin.", image="a.png"),  # another picture
        near(2, chosen=LONG * 3 + "Fin."),
        near(3, chosen="no. " * 9, rejected=LONG.upper() * 3),  # the opposite label
        near(0, chosen=LONG * 3, question="What is high above the hill, and who holds the line?"),  # rejected: its id
        near(5, chosen=LONG * 3, question="What is high above the hill, and who holds a line?"),
    ]
    file = jsonl(tmp_path / "a.jsonl", rows)
    out = tmp_path / "out.parquet"
    arguments = ["plain", str(file), str(out), "--no-check-media", "--max-rejects", "1"]
    assert main(arguments) == 0
    assert [item.id for item in preferences_in(out)] == ["r0", "r1", "r2", "r3", "r5"]
    assert "near-duplicates" not in capsys.readouterr().out

    assert main([*arguments, "--near-duplicates", "0.8"]) == 0
    assert [item.id for item in preferences_in(out)] == ["r0", "r1", "r5"]
    assert "2 near-duplicates (1 with the opposite label)" in capsys.readouterr().out
    card = json.loads((tmp_path / "out.parquet.card.json").read_text())
    assert card["near_duplicates"] == 0.8
    assert card["preferences"]["near_duplicates"] == 2
    assert card["preferences"]["near_duplicates_opposite"] == 1
    assert "duplicates" not in card["preferences"]


# Command lines, crashes and full disks


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["plain", "none.jsonl", "out.parquet"], "no file"),
        (["plain", "a.txt", "out.parquet"], "no known format"),
        (["plain", "a.jsonl", "out.jsonl"], "does not end in .parquet"),
        (["plain", "a.jsonl", "a.jsonl", "out.parquet"], "is given twice"),
        (["plain", "out.parquet", "./out.parquet"], "input and output at the same time"),
        (["nobody", "a.jsonl", "out.parquet"], "source 'nobody' is unknown; known: r1-reward-rl, mm-rlhf"),
        (["nobody", "a.jsonl", "out.parquet"], "plain, vl-rewardbench"),
        (["judgebench", "a.jsonl", "out.parquet", "--label", "A=1"], "the benchmark judgebench has no options"),
        (
            ["trl", "a.jsonl", "out.parquet", "--label", "A=1"],
            "source 'trl': got an unexpected keyword argument 'labels'",
        ),
        (["plain", "a.jsonl", "out.parquet", "--media", "nowhere"], "is no folder"),
        (["plain", "a.jsonl", "out.parquet", "--frames", "0"], "frames is 0"),
        (["plain", "a.jsonl", "out.parquet", "--max-rejects", "5"], "max-rejects is 5.0"),
        (["plain", "a.jsonl", "out.parquet", "--column", "question"], "is not NAME=VALUE"),
        (["plain", "a.jsonl", "out.parquet", "--near-duplicates", "90"], "not between 0.5 and 1"),
    ],
)
def test_command_lines_that_cannot_be_used(tmp_path, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "a.jsonl", [row()])
    assert main(arguments) == 2
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


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("what", ["preferences", "pictures", "rejects"])
def test_on_a_full_disk_there_is_no_output(tmp_path, what, earlier):
    if earlier:
        out, _ = run(tmp_path, jsonl(tmp_path / "earlier.jsonl", [row()]))
        before = out.read_bytes(), out.with_name("out.parquet.card.json").read_bytes()
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
    written = ["out.parquet", "out.parquet.card.json"] if earlier else []
    assert left(tmp_path) == written + ["out.parquet.rejects.jsonl"] * (what == "rejects")
    if earlier:
        assert (out.read_bytes(), out.with_name("out.parquet.card.json").read_bytes()) == before, "it stays as it was"


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
    bars = []

    class Bar(tqdm):
        def __init__(self, **options):
            super().__init__(disable=True, **options)
            self.positions = [0]
            bars.append(self)

        def update(self, size=1):
            self.positions.append(self.positions[-1] + size)

    monkeypatch.setattr(convert_module, "progress_bar", lambda shown, **options: Bar(**options))
    run(tmp_path, file, progress=True)
    size = file.stat().st_size
    (bar,) = bars
    assert bar.total == size
    assert all(one <= other for one, other in pairwise(bar.positions))
    if (
        suffix != "jsonl.gz"
    ):  # so small when packed that it is read at once, and once more after a look at its beginning
        assert bar.positions[-1] == pytest.approx(size)
        assert any(0.2 * size < position < 0.9 * size for position in bar.positions)


def test_the_memory_of_counters_is_bounded(tmp_path):
    rows = [row(index, category=f"category {index}") for index in range(1500)]
    _, report = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows))
    assert len(report.categories) == 1001
    assert report.categories["(others)"] == 500
    assert isinstance(report.categories, Counter)
