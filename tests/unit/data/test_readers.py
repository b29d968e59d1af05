"""Rows of files, in order and with their numbers, and what is said of those that cannot be read."""

import csv
import gzip
import json
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1reward_verl.data import readers
from r1reward_verl.data.readers import RowError, read_rows

ROWS = [{"question": f"Größe {i}? 🙂", "n": i} for i in range(5)]


def read(path):
    items = list(read_rows(path))
    errors = [item for item in items if isinstance(item, RowError)]
    return [item for item in items if not isinstance(item, RowError)], errors


def written(path, content):
    if isinstance(content, str):
        content = content.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


# JSON


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.JSONL"])
@pytest.mark.parametrize("content", [LINES, LINES.rstrip("\n"), "\ufeff" + LINES, LINES.replace("\n", "\r\n")])
def test_json_lines(tmp_path, name, content):
    assert read(written(tmp_path / name, content)) == (list(enumerate(ROWS, 1)), [])


def test_numbers_are_those_of_the_lines(tmp_path):
    path = written(tmp_path / "a.jsonl", "\n" + LINES.replace("\n", "\n\n"))
    assert [number for number, _ in read(path)[0]] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_lists(tmp_path, name, indent):
    for start in ("", "\ufeff", "\n "):
        path = written(tmp_path / name, start + json.dumps(ROWS, indent=indent, ensure_ascii=False) + "\n")
        assert read(path) == (list(enumerate(ROWS, 1)), [])


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_json_lists_wherever_the_chunks_are_cut(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(readers, "_CHUNK", chunk)
    rows = [*ROWS, {"a": [1.5e-7, None, True, -0.0], "b": '\\"} ] , \u00e9\t'}, {}]
    for ascii_only in (True, False):
        path = written(tmp_path / "a.json", json.dumps(rows, ensure_ascii=ascii_only))
        assert read(path) == (list(enumerate(rows, 1)), [])


def test_an_empty_list_and_an_empty_file_have_no_rows(tmp_path):
    for name, content in (("a.json", " [ ] "), ("a.jsonl", ""), ("b.json", ""), ("a.csv", ""), ("b.csv", "q,n\n")):
        assert read(written(tmp_path / name, content)) == ([], [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"question": "caf\xe9"}', r"not UTF-8: \\xe9 at byte 17; save the file as UTF-8"),
        (b'{"question": ', "not JSON: Expecting value"),
        (b"[1, 2]", "not a JSON object, but of type list"),
        (b"null", "not a JSON object, but of type NoneType"),
        (b"[" * 100_000, "not JSON: .*recursion"),
        (b'{"n": ' + b"9" * 10_000 + b"}", "not JSON"),
    ],
)
def test_a_bad_line_loses_only_itself(tmp_path, line, reason):
    lines = LINES.encode().splitlines(keepends=True)
    path = written(tmp_path / "a.jsonl", b"".join([*lines[:2], line + b"\n", *lines[2:]]))
    rows, errors = read(path)
    if line.startswith(b'{"n"') and sys.version_info < (3, 10, 7):
        pytest.skip("this Python reads numbers of any length")
    assert rows == [(1, ROWS[0]), (2, ROWS[1]), (4, ROWS[2]), (5, ROWS[3]), (6, ROWS[4])]
    (error,) = errors
    assert error.number == 3
    assert error.rows == 1
    assert re.search(reason, error.reason)
    assert error.raw == line.decode("utf-8", "backslashreplace")


def test_a_line_that_ends_with_the_file_is_said_to_be_cut(tmp_path):
    rows, (error,) = read(written(tmp_path / "a.jsonl", LINES[:-9]))
    assert len(rows) == 4
    assert "is it complete?" in error.reason


def test_a_line_without_end_is_not_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_ROW", 5000)
    for name in ("a.jsonl", "a.csv"):
        head, row = (LINES, LINES.splitlines()[0]) if name == "a.jsonl" else ("q,n\n", "x,1")
        path = written(tmp_path / name, f"{head}{'y' * 100_000}\n{row}\n")
        rows, (error,) = read(path)
        assert error.reason == "the line is longer than 5,000 bytes"
        assert error.raw == "y" * 1000
        assert rows[-1][0] == error.number + 1, "reading goes on after it"


@pytest.mark.parametrize(
    ("content", "rows", "number", "reason"),
    [
        ('[{"n": 1}, {"n": 2}, {"n": 3', 2, 3, "not JSON"),
        ('[{"n": 1}, {"n": "cut', 1, 2, "not JSON: Unterminated string"),
        ('[{"n": 1}', 1, 2, r"the file ends\); the rest"),
        ('[{"n": 1},', 1, 2, "not JSON"),
        ('[{"n": 1} {"n": 2}]', 1, 2, "a comma or ] is missing"),
        ('[{"n": 1}, {"n": oops}, {"n": 3}' + " " * 100 + "]", 1, 2, "not JSON: Expecting value"),
        ("[" * 100_000, 0, 1, "recursion"),
    ],
)
def test_a_broken_list_gives_what_stands_before_and_says_that_the_rest_is_lost(tmp_path, content, rows, number, reason):
    found, (error,) = read(written(tmp_path / "a.json", content))
    assert len(found) == rows
    assert (error.number, error.rows) == (number, None)
    assert re.search(reason, error.reason)


def test_in_a_list_too_a_bad_row_loses_only_itself(tmp_path):
    path = written(tmp_path / "a.json", b'[{"n": 1}, {"n": "caf\xe9"}, 7, {"n": 4}]')
    rows, errors = read(path)
    assert rows == [(1, {"n": 1}), (4, {"n": 4})]
    assert [(error.number, error.raw) for error in errors] == [(2, '{"n": "caf\\xe9"}'), (3, "7")]
    assert "\\xe9" in errors[0].reason


def test_a_row_without_end_in_a_list_is_not_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_ROW", 5000)
    monkeypatch.setattr(readers, "_CHUNK", 1000)
    rows, (error,) = read(written(tmp_path / "a.json", '[{"n": 1}, "' + "x" * 100_000 + '"]'))
    assert rows == [(1, {"n": 1})]
    assert "more than 5,000 characters" in error.reason


@pytest.mark.parametrize("kept", [0.5, 0.9])
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz"])
def test_a_truncated_archive_gives_the_rows_before_the_cut(tmp_path, name, kept):
    lines = "".join(f'{{"question": "{i * 7919 % 10007}"}}\n' for i in range(5000))
    if name.startswith("a.csv"):
        lines = "question\n" + "".join(f"{i * 7919 % 10007}\n" for i in range(5000))
    content = gzip.compress(lines.encode())
    (tmp_path / name).write_bytes(content[: int(len(content) * kept)])
    rows, errors = read(tmp_path / name)
    assert 0 < len(rows) < 5000
    assert errors[-1].rows is None
    assert "is it complete?" in errors[-1].reason
    assert errors[-1].number > rows[-1][0]


def test_a_name_that_lies_about_gzip(tmp_path):
    (tmp_path / "a.jsonl.gz").write_text(LINES)
    assert read(tmp_path / "a.jsonl.gz")[1][0].rows is None


# CSV


def test_csv(tmp_path):
    path = tmp_path / "a.csv"
    rows = [{"q": 'a "b", c', "r": "two\nlines"}, {"q": "Größe 🙂", "r": ""}, {"q": "x" * 200_000, "r": "long"}]
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["q", "r"])
        writer.writeheader()
        writer.writerows(rows)
    assert read(path) == ([(2, rows[0]), (4, rows[1]), (5, rows[2])], [])


def test_bad_csv_rows_lose_only_themselves(tmp_path):
    content = b'q,r\n1,a\n2\n\n3,b,c\ncaf\xe9,d\n"4"x,e\n5,f\n'
    rows, errors = read(written(tmp_path / "a.csv", content))
    assert rows == [(2, {"q": "1", "r": "a"}), (8, {"q": "5", "r": "f"})]
    assert [(error.number, error.raw) for error in errors] == [(3, "2"), (5, "3,b,c"), (6, "caf\\xe9,d"), (7, '"4"x,e')]
    assert errors[0].reason == "1 values, but the header has 2 columns"
    assert "not UTF-8" in errors[2].reason


def test_a_quote_that_is_never_closed_is_an_error(tmp_path):
    rows, (error,) = read(written(tmp_path / "a.csv", 'q,r\n1,a\n2,"b\n3,c\n'))
    assert rows == [(2, {"q": "1", "r": "a"})]
    assert (error.number, error.raw) == (3, '2,"b\n3,c')


@pytest.mark.parametrize(("header", "reason"), [(b"q,q\n", "same name"), ("q,r\n".encode("utf-16"), "not UTF-8")])
def test_a_csv_without_a_usable_header_is_lost(tmp_path, header, reason):
    rows, (error,) = read(written(tmp_path / "a.csv", header + b"1,2\n"))
    assert not rows
    assert (error.number, error.rows) == (1, None)
    assert reason in error.reason


# Parquet


def parquet(path, rows=ROWS, **options):
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def test_parquet(tmp_path):
    assert read(parquet(tmp_path / "a.parquet", row_group_size=2)) == (list(enumerate(ROWS, 1)), [])


def test_parquet_numbers_go_on_over_batches(tmp_path):
    rows = [{"n": i} for i in range(1000)]
    assert read(parquet(tmp_path / "a.parquet", rows)) == (list(enumerate(rows, 1)), [])


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_truncated_parquet_file_is_an_error_of_the_file(tmp_path, kept):
    content = parquet(tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:kept])
    rows, (error,) = read(tmp_path / "a.parquet")
    assert not rows
    assert (error.number, error.rows) == (1, None)
    assert "not a complete parquet file" in error.reason


def test_a_damaged_row_group_loses_only_its_rows(tmp_path):
    rows = [{"n": i, "text": f"{i}" * 50} for i in range(30)]
    path = parquet(tmp_path / "a.parquet", rows, row_group_size=10, compression="zstd")
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(content)
    found, (error,) = read(path)
    assert [number for number, _ in found] == [*range(1, 11), *range(21, 31)]
    assert (error.number, error.rows) == (11, 10)


def test_a_text_that_is_no_utf8_loses_only_its_row(tmp_path):
    binary = pa.array([b"fine", b"caf\xe9", b"too"])
    texts = pa.Array.from_buffers(pa.string(), 3, binary.buffers())
    pq.write_table(pa.table({"q": texts}), tmp_path / "a.parquet")
    rows, (error,) = read(tmp_path / "a.parquet")
    assert rows == [(1, {"q": "fine"}), (3, {"q": "too"})]
    assert (error.number, error.rows) == (2, 1)
    assert "can't decode byte 0xe9" in error.reason


MEMORY = """
import re, sys
from r1reward_verl.data.readers import read_rows
rows = sum(1 for _ in read_rows(sys.argv[1]))
print(rows, re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read()).group(1))
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    # One row group of 200 MB of pictures: read whole it would show.
    picture = bytes(range(256)) * 400
    peaks = []
    for name, count in (("small", 200), ("large", 2000)):
        rows = [{"n": i, "image": {"bytes": i.to_bytes(4, "big") + picture}} for i in range(count)]
        options = {"row_group_size": count, "compression": "none", "use_dictionary": False, "write_batch_size": 8}
        path = parquet(tmp_path / f"{name}.parquet", rows, **options)
        output = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True).stdout
        read_count, peak = map(int, output.split())
        assert read_count == count
        peaks.append(peak >> 10)
    assert peaks[1] < peaks[0] + 60, peaks


# The file itself


def test_a_file_that_is_not_there_and_one_of_no_known_format(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.jsonl"):
        read_rows(tmp_path / "a.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "folder.jsonl")
    for name in ("a.xlsx", "a", "a.gz", "a.parquet.gz"):
        (tmp_path / name).write_text("x")
        with pytest.raises(ValueError, match=r"must end in \.jsonl, \.json, \.csv, \.parquet"):
            read_rows(tmp_path / name)
