"""The report of data files: what stands on the page, that it needs nothing else, and that texts stay texts."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread

from factories import bomb, judgement, png
from factories import preference as plain_preference
from pages import Page, check_stands_alone
from r1reward_verl.cli import main
from r1reward_verl.data.export import rl_row, rl_schema, sft_row, sft_schema
from r1reward_verl.data.preference import SCHEMA, to_row
from r1reward_verl.media import Media
from r1reward_verl.reports.data import DataReportError, DataReportSettings, write_data_report

PLOTS = ["difficulty.png", "labels.png", "lengths.png", "media.png", "sources.png"]
DIFFICULTIES = [(None, False), (1, True), (2, True), (3, True), (3, False)]


def preference(index=0, **changes):
    attempts, solved = DIFFICULTIES[index % 5]
    values = {"response_2": "Certainly not.", "difficulty": attempts}
    values["trace"] = judgement(1 + index % 2, f"Reason {index}.") if solved else None
    return plain_preference(index, **values | changes)


def write(path, rows, schema=SCHEMA):
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
    return path


def preferences(path, items):
    return write(path, map(to_row, items))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    items = [preference(index, images=(Media(str(tmp_path / "a.png")),)) for index in range(50)]
    solved = [item for item in items if item.trace]
    return [
        preferences(tmp_path / "all.parquet", items),
        write(tmp_path / "rl.parquet", (rl_row(one, index=i) for i, one in enumerate(items)), rl_schema(False)),
        write(tmp_path / "sft.parquet", (sft_row(one, index=i) for i, one in enumerate(solved)), sft_schema(False)),
    ]


def run(*arguments):
    return main(["data", "report", *map(str, arguments)])


def read(out):
    return Page(out / "index.html")


def page_of(folder, *items, **settings):
    """The page of one file with these preferences."""
    write_data_report([preferences(folder / "a.parquet", items)], folder / "report", DataReportSettings(**settings))
    return read(folder / "report")


def test_a_page_of_all_kinds_of_files_needs_nothing_beside_it(tmp_path, files, capsys):
    out = tmp_path / "report"
    assert run(*files, out) == 0
    assert "rl: 50 rows" in capsys.readouterr().out
    assert sorted(file.name for file in out.iterdir()) == sorted([*PLOTS, "index.html", "statistics.json"])
    for name in PLOTS:
        assert min(imread(out / name).shape[:2]) > 400
    page = read(out)
    check_stands_alone(page)
    assert not page.all("script")
    assert len(page.all("img", "plot")) == len(PLOTS)
    assert len(page.all("img", "picture")) == 5 * 3 * 2 + 3 * 3  # three rows of each difficulty, each with its picture
    for words in ("never solved (10 rows)", "not annotated (10 rows)", "solved at attempt 2 (10 rows)", "Reason 1"):
        assert words in page.text
    assert "Certainly not." in page.text


def test_what_select_wrote_is_counted_as_the_preferences_it_came_from(tmp_path, files):
    write_data_report(files, tmp_path / "report")
    figures = json.loads((tmp_path / "report" / "statistics.json").read_text())
    for name in ("sources", "categories", "labels", "labels_by_difficulty", "difficulty", "images_per_row"):
        assert figures["rl"][name] == figures["all"][name]
    assert figures["rl"]["lengths"]["response"] == figures["all"]["lengths"]["response"]
    assert figures["all"]["difficulty"] == {"1": 10, "2": 10, "3": 10, "unsolved": 10, "none": 10}
    assert figures["sft"]["difficulty"] == {"1": 10, "2": 10, "3": 10}
    assert figures["sft"]["labels"] == {"1": 15, "2": 15}
    assert figures["sft"]["lengths"]["trace"] == figures["all"]["lengths"]["trace"]


def test_texts_of_data_cannot_become_markup(tmp_path):
    hostile = "</pre><script>alert(1)</script><iframe src=x>&\"'"
    texts = dict.fromkeys(("source", "category", "question", "response_1", "trace"), hostile)
    media = (Media(str(tmp_path / "<img src=x onerror=alert(2)>.png")),)
    item = preference(1, **texts, response_2=hostile + "2", images=media)
    write_data_report([preferences(tmp_path / "<b onclick=alert(3)>.parquet", [item])], tmp_path / "report")
    page = read(tmp_path / "report")
    check_stands_alone(page)
    assert not {"script", "iframe", "b onclick=alert(3)"} & {tag for tag, _ in page.tags}
    allowed = {"class", "alt", "src"}
    assert all(set(attributes) <= allowed for tag, attributes in page.tags if tag not in ("html", "meta"))
    assert page.text.count(hostile) >= 6


def test_pictures_that_cannot_be_shown_are_named_and_nothing_is_decoded(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "cut.png").write_bytes(png(size=(64, 64))[:90])
    media = tuple(map(Media, ("none.png", "bomb.png", "cut.png", "/dev/zero")))
    page = page_of(tmp_path, preference(0, images=media), media=str(tmp_path))
    assert not page.all("img", "picture")
    for words in ("no file 'none.png'", "89,478,485 pixels", "cannot be read", "is a device"):
        assert words in page.text


def test_pictures_as_bytes_and_frames_and_many_of_them(tmp_path):
    page = page_of(tmp_path, preference(0, images=(Media(data=png()),) * 3, video=(Media(data=png("red")),) * 9))
    assert len(page.all("img", "picture")) == 4
    assert "4 of 12 pictures" in page.text


def test_long_texts_are_cut(tmp_path):
    page = page_of(tmp_path, preference(0, question="q" * 10_000))
    assert "[… 2,000 characters are left out here …]" in page.text


def test_the_gallery_draws_its_rows_from_the_whole_file(tmp_path):
    items = [preference(5 * index) for index in range(400)]
    texts = [page_of(tmp_path, *items).text for _ in range(2)]
    assert texts[0] == texts[1]
    numbers = [int(number) for number in re.findall(r"Question (\d+)\?", texts[0])]
    assert len(numbers) == 3
    assert max(numbers) > 500


def test_lengths_in_tokens(tmp_path):
    from r1reward_verl.toy.model import build_processor

    build_processor(["Question Yes. Certainly not."]).save_pretrained(tmp_path / "model")
    path = preferences(tmp_path / "a.parquet", [preference(index) for index in range(10)])
    assert run(path, tmp_path / "report", "--model", tmp_path / "model") == 0
    figures = json.loads((tmp_path / "report" / "statistics.json").read_text())["a"]["lengths"]["response"]
    assert 0 < figures["tokens"]["mean"] < figures["characters"]["mean"]
    assert "a (tokens)" in read(tmp_path / "report").text


# Bad input


def test_bad_rows_are_written_down_and_too_many_are_an_error(tmp_path, capsys):
    rows = [to_row(preference(index)) for index in range(100)]
    rows[3]["label"] = 7
    path = write(tmp_path / "a.parquet", rows)
    out = tmp_path / "report"
    assert run(path, out) == 0
    (line,) = (tmp_path / "report.rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["line"] == 4
    assert "label 7" in json.loads(line)["reason"]
    before = read(out).tags
    assert run(path, "--max-rejects", "0", out) == 1
    assert "1 of 100 rows" in capsys.readouterr().err
    assert read(out).tags == before
    with pytest.raises(DataReportError, match="has no rows"):
        write_data_report([write(tmp_path / "none.parquet", [])], tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_a_report_replaces_an_earlier_one_and_nothing_else(tmp_path, capsys):
    path = preferences(tmp_path / "a.parquet", [preference(index) for index in range(10)])
    out = tmp_path / "report"
    for _ in range(2):
        assert run(path, out) == 0
    (out / "thesis.tex").write_text("years of work")
    assert run(path, out) == 2
    assert "holds 'thesis.tex', which no report wrote" in capsys.readouterr().err
    assert (out / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [([{"text": "a"}], "neither preferences nor rows for verl"), (None, "not a complete parquet file")],
)
def test_files_that_are_none_of_ours(tmp_path, capsys, rows, words):
    path = tmp_path / "a.parquet"
    write(path, rows, None) if rows else path.write_bytes(b"PAR1")
    assert run(path, tmp_path / "report") == 2
    assert words in capsys.readouterr().err


def test_files_of_one_name_are_told_apart(tmp_path):
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths.append(preferences(tmp_path / folder / "sft.parquet", [preference(1)]))
    assert list(write_data_report(paths, tmp_path / "report")) == [str(path) for path in paths]
    with pytest.raises(ValueError, match="given twice"):
        write_data_report([paths[0], paths[0]], tmp_path / "report")
    with pytest.raises(ValueError, match="no input file"):
        write_data_report([], tmp_path / "report")


def test_a_foreign_row_without_our_extra_info_is_shown_as_far_as_it_goes(tmp_path):
    messages = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "The first."}]
    row = {"messages": messages, "images": [{"bytes": png(), "path": None}]}
    counted = write_data_report([write(tmp_path / "a.parquet", [row], None)], tmp_path / "report")["a"].card()
    assert counted["labels"] == {"1": 0, "2": 0}
    assert counted["sources"] == {"unknown": 1}
    assert "no label" in read(tmp_path / "report").text
