"""The journal: what stands in it is never lost, never counted twice, and never mixed with something else."""

import json
import os
import resource
import subprocess
import sys
import tracemalloc

import pytest

from r1reward_verl.data.journal import Call, Journal, JournalError, strict_form
from r1reward_verl.judgement import parse

SETTINGS = {"model": "teacher", "temperature": 1.0, "prompt": "{question}\n…"}
LABELS = bytes([0] + [1] * 2000)

FILL = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
sys.path.insert(0, sys.argv[3])
from test_journal import LABELS, SETTINGS, call
from r1reward_verl.data.journal import Journal
journal = Journal(Path(sys.argv[1]), SETTINGS, LABELS)
try:
    for row in range(1, 1000):
        journal.add(call(row))
except OSError as error:
    print(row - 1, error)
"""

HOLD = """
import sys
from pathlib import Path
from test_journal import LABELS, SETTINGS, Journal
journal = Journal(Path(sys.argv[1]), SETTINGS, LABELS)
print(1, flush=True)
input()
"""


def call(row, attempt=1, agrees=True, **changes):
    fields = {
        "row": row,
        "source": "s",
        "id": f"r{row}",
        "attempt": attempt,
        "choice": 1 if agrees else 2,
        "reason": None,
        "agrees": agrees,
        "finish_reason": "stop",
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "cost": 0.5,
        "seconds": 0.1,
        "text": f"<think>row {row} “é”\n</think><answer>{1 if agrees else 2}</answer>",
    }
    return Call(**{**fields, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.parquet.journal.jsonl"


def filled(path, *calls, settings=SETTINGS):
    journal = Journal(path, settings, LABELS)
    for one in calls:
        journal.add(one)
    journal.close()
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_first_line_says_what_the_calls_depend_on_and_each_further_one_is_a_call(path):
    filled(path, call(2, agrees=False), call(2, attempt=2))
    header, first, second = lines(path)
    assert header == {"journal": "r1reward data annotate", "version": 1, **SETTINGS}
    assert (first["row"], first["attempt"], first["agrees"]) == (2, 1, False)
    assert second == vars(call(2, attempt=2))


def test_a_line_is_there_when_add_returns(path):
    journal = Journal(path, SETTINGS, LABELS)
    journal.add(call(1))
    assert lines(path)[-1]["id"] == "r1"
    journal.close()


def test_opened_again_it_knows_everything(path):
    never = [call(9, attempt, agrees=False, text="<think>", finish_reason="length") for attempt in (1, 2, 3)]
    unmetered = call(5, prompt_tokens=None, completion_tokens=None, cost=None)
    filled(path, call(3, agrees=False), *never, unmetered, call(3, attempt=2, cost=None))
    journal = Journal(path, SETTINGS, LABELS)
    assert [journal.attempts(row) for row in (1, 3, 5, 9)] == [0, 2, 1, 3]
    assert [journal.solved_at(row) for row in (1, 3, 5, 9)] == [0, 2, 1, 0]
    assert [journal.trace(row) for row in (1, 3)] == [None, call(3).text]
    assert journal.most_attempts == 3
    assert [sum(journal.is_finished(row, attempts) for row in range(20)) for attempts in (3, 4)] == [3, 2]
    tally = journal.tally
    assert (tally.calls, tally.cut, tally.unmetered) == (6, 3, 1)
    assert tally.unparsable == {"truncated": 3}
    assert (tally.prompt_tokens, tally.completion_tokens) == (500, 100)
    assert (tally.cost, tally.unpriced) == (2.0, (100, 20))
    assert journal.tallies == {"s": tally}
    journal.close()


def test_another_reader_reads_the_same_texts(path):
    """A journal holds texts; what agrees is read from them whenever it is opened."""
    texts = ["<think>a</think>\n<answer>1</answer>", "It is 1.", "<think>b</think><answer>1</answer>"]
    filled(path, *(call(1, attempt, agrees=False, text=text) for attempt, text in enumerate(texts, 1)))
    for lenient, attempt, trace, malformed, unparsable in (
        (None, 3, texts[2], {}, {"text_outside": 1, "no_tags": 1}),
        ("answer_tag", 1, "<think>a</think><answer>1</answer>", {"text_outside": 1}, {"no_tags": 1}),
        ("last_digit", 1, "<think>a</think><answer>1</answer>", {"text_outside": 1, "no_tags": 1}, {}),
    ):
        journal = Journal(path, SETTINGS, LABELS, lenient)
        assert (journal.attempts(1), journal.solved_at(1), journal.trace(1)) == (3, attempt, trace)
        assert (journal.tally.malformed, journal.tally.unparsable) == (malformed, unparsable)
        journal.close()


@pytest.mark.parametrize(
    ("text", "strict"),
    [
        ("  <think>a</think><answer>1</answer>\n", "<think>a</think><answer>1</answer>"),
        ("<think>\na\n</think>\n\n<answer> 1 </answer> Done.", "<think>a</think><answer>1</answer>"),
        ("First a.</answer> So <answer>1</answer>", "<think>First a. So</think><answer>1</answer>"),
        ("<answer>1</answer>, because of a", "<think></think><answer>1</answer>"),
        ("Response 1 is better", "<think>Response 1 is better</think><answer>1</answer>"),
    ],
)
def test_a_trace_keeps_the_strict_contract(text, strict):
    assert strict_form(text, "last_digit") == strict
    assert parse(strict).reason is None


def test_a_text_longer_than_a_piece_is_found_again(path):
    text = f"<think>{'é' * 200_000}</think><answer>1</answer>"
    filled(path, call(1), call(2, text=text), call(3))
    journal = Journal(path, SETTINGS, LABELS)
    assert [len(journal.trace(row)) for row in (1, 2, 3)] == [len(call(1).text), len(text), len(call(3).text)]
    journal.close()


@pytest.mark.parametrize("keep", [1, 10, -1])
def test_a_torn_last_line_is_cut_off(path, keep):
    filled(path, call(1), call(2))
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    path.write_bytes(whole[: start + keep] if keep > 0 else whole[:keep])
    journal = Journal(path, SETTINGS, LABELS)
    assert (journal.attempts(1), journal.attempts(2), journal.tally.calls) == (1, 0, 1)
    journal.add(call(2))
    journal.close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("keep", [0, 1, 30])
def test_a_torn_header_is_written_anew(path, keep):
    whole = filled(path).read_bytes()
    path.write_bytes(whole[:keep])
    filled(path)
    assert path.read_bytes() == whole


def test_other_settings_are_refused_with_both_values(path):
    before = filled(path, call(1)).read_bytes()
    with pytest.raises(
        ValueError, match=r"model was 'teacher' and is 'other' now; temperature was 1\.0 and is 0 now.*--f"
    ):
        Journal(path, {**SETTINGS, "model": "other", "temperature": 0}, LABELS)
    with pytest.raises(ValueError, match="max_tokens was None and is 5 now"):
        Journal(path, {**SETTINGS, "max_tokens": 5}, LABELS)
    assert path.read_bytes() == before


@pytest.mark.parametrize("torn", [b"", b'{"row": 1, "so'])
def test_without_a_call_other_settings_are_taken(path, torn):
    path.write_bytes(filled(path).read_bytes() + torn)
    filled(path, call(1), settings={**SETTINGS, "model": "other"})
    assert [lines(path)[0]["model"], len(lines(path))] == ["other", 2]


def test_fresh_keeps_the_old_one_under_another_name(path):
    first = filled(path, call(1)).read_bytes()
    for number in (1, 2):
        journal = Journal(path, {**SETTINGS, "model": f"m{number}"}, LABELS, fresh=True)
        assert journal.attempts(1) == 0
        journal.close()
    assert path.with_name(f"{path.name}.1").read_bytes() == first
    assert lines(path.with_name(f"{path.name}.2"))[0]["model"] == "m1"
    assert lines(path)[0]["model"] == "m2"


def test_fresh_without_an_old_one_is_nothing_special(path):
    Journal(path, SETTINGS, LABELS, fresh=True).close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_two_cannot_share_one(path):
    journal = Journal(path, SETTINGS, LABELS)
    for fresh in (False, True):
        with pytest.raises(JournalError, match="another run writes"):
            Journal(path, SETTINGS, LABELS, fresh=fresh)
    journal.add(call(1))
    journal.close()
    Journal(path, SETTINGS, LABELS).close()


def test_the_lock_ends_with_its_process_and_no_earlier(path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        cwd=os.path.dirname(__file__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"1\n"
        with pytest.raises(JournalError, match="another run writes"):
            Journal(path, SETTINGS, LABELS)
    finally:
        holder.kill()
        holder.communicate()
    Journal(path, SETTINGS, LABELS).close()


@pytest.mark.parametrize(
    "damage",
    [
        b"\0" * 40,
        b"{}",
        b'["a list"]',
        b"no JSON",
        b"\xff\xfe",
        json.dumps(vars(call(1))).encode(),  # a second first attempt
        json.dumps(vars(call(4, attempt=2))).encode(),  # a second attempt without a first
        json.dumps(vars(call(-1))).encode(),
        json.dumps(vars(call(0))).encode(),  # a row that nobody is asked about
        json.dumps(vars(call(2001))).encode(),  # a row that the input does not have
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_changed(path, damage):
    filled(path, call(1))
    path.write_bytes(path.read_bytes() + damage + b"\n" + json.dumps(vars(call(2))).encode() + b"\n")
    before = path.read_bytes()
    with pytest.raises(JournalError, match=f"{path.name}:3 is not a line of a journal.*--fresh"):
        Journal(path, SETTINGS, LABELS)
    assert path.read_bytes() == before


def test_a_file_that_is_no_journal_is_left_alone(path):
    path.write_text('{"id": 1}\n')
    with pytest.raises(JournalError, match=r":1 is not a line of a journal"):
        Journal(path, SETTINGS, LABELS)
    assert path.read_text() == '{"id": 1}\n'


def test_a_full_disk_leaves_whole_lines(path):
    size = len(filled(path, call(1)).read_bytes())
    path.unlink()
    # Room for the header, some lines, and a part of the next.
    room = 20 * size + 100
    command = [sys.executable, "-c", FILL, str(path), str(room), os.path.dirname(__file__)]
    done, said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(" ", 1)
    assert "disk full" in said or "too large" in said.lower()
    assert int(done) > 10
    assert path.read_bytes().endswith(b"\n")
    journal = Journal(path, SETTINGS, LABELS)
    assert journal.tally.calls == int(done)
    journal.close()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != room


def test_what_it_keeps_in_memory_does_not_depend_on_the_texts(path):
    text = "x" * 5_000
    filled(path, *(call(row, text=text) for row in range(1, 2001)))
    tracemalloc.start()
    try:
        journal = Journal(path, SETTINGS, LABELS)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    journal.close()
    assert kept < 100_000
    assert peak < 1_000_000
