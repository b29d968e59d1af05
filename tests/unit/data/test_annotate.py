"""A teacher annotates preferences: what it is asked, what becomes of its answers, and how a run ends and goes on."""

import base64
import io
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from contextlib import contextmanager

import pytest
from msgspec.structs import replace
from PIL import Image

from chat_server import Answer, ChatServer, completion
from factories import bomb, png, preference_file, preferences_in
from r1reward_verl.cli import main as cli
from r1reward_verl.data.annotate import annotate
from r1reward_verl.data.annotation import AnnotateSettings
from r1reward_verl.data.annotator import AnnotationError
from r1reward_verl.data.preference import Preference, to_row
from r1reward_verl.judgement import parse
from r1reward_verl.media import Media, data_uri

KEY = "sk-t3acher+very/secret"
PRICE = (2.0, 8.0)
USAGE = {"prompt_tokens": 1000, "completion_tokens": 250}
COST = (1000 * PRICE[0] + 250 * PRICE[1]) / 1e6
RUN = """
import os, resource, sys
from r1reward_verl.cli import main
if limit := int(os.environ.get("FILE_LIMIT", 0)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main(["data", "annotate", *sys.argv[1:]]))
"""


def main(arguments):
    return cli(["data", "annotate", *map(str, arguments)])


def label(number):
    return 1 + number % 2


def preference(number, **changes):
    fields = {
        "id": f"r{number}",
        "source": "s",
        "category": "c",
        "question": f"Question {number}?",
        "response_1": f"It is {number}.",
        "response_2": f"It is not {number}.",
        "label": label(number),
    }
    return Preference(**{**fields, **changes})


@pytest.fixture
def file(tmp_path):
    return preference_file(tmp_path / "in.parquet", map(preference, range(1, 21)))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.parquet"


def judgement(choice, note="Compared."):
    return f"<think>{note}</think><answer>{choice}</answer>"


def says(text, finish="stop", usage=USAGE, **answer):
    body = completion(text)
    body["choices"][0]["finish_reason"] = finish
    return Answer({**body, "usage": usage}, **answer)


def text_of(request):
    content = request.body["messages"][-1]["content"]
    return content if isinstance(content, str) else next(part["text"] for part in content if part["type"] == "text")


def number_of(request):
    return int(re.search(r"Question (\d+)\?", text_of(request))[1])


def agrees_at(number):
    """The attempt at which the scripted teacher agrees with the label; 0 for never, or rather not within three."""
    return number % 4


class Teacher:
    """Agrees at the attempt that `agrees_at` says, before that alternates wrong and unparsable; counts requests."""

    def __init__(self, delay=0.0, usage=USAGE):
        self.delay, self.usage = delay, usage
        self.asked = Counter()

    def __call__(self, request):
        number = number_of(request)
        self.asked[number] += 1
        return self.answer(number, self.asked[number], request)

    def answer(self, number, attempt, request):
        note = f"{number}, attempt {attempt}"
        if attempt == agrees_at(number):
            text = judgement(label(number), note)
        else:
            text = judgement(3 - label(number), note) if attempt % 2 else f"<think>{note}"
        return says(text, "stop" if text.endswith(">") else "length", self.usage, delay=self.delay)


def run(file, out, server, progress=None, **options):
    settings = {"urls": [server.url], "model": "teacher", "timeout": 2.0, "max_wait": 3.0, **options}
    return annotate(file, out, AnnotateSettings(**settings), progress=progress)


def beside(out, name):
    return out.with_name(f"{out.name}.{name}")


def jsonl(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def calls(out):
    return jsonl(beside(out, "journal.jsonl"))[1:]


def rejects(out):
    path = beside(out, "rejects.jsonl")
    return jsonl(path) if path.exists() else []


def expected(numbers, attempts=3):
    solved = {number: agrees_at(number) for number in numbers}
    return {number: made if 0 < made <= attempts else None for number, made in solved.items()}


def check(out, numbers, attempts=3):
    """See that `out` is what the scripted teacher leads to."""
    found = preferences_in(out)
    assert [one.id for one in found] == [f"r{number}" for number in numbers]
    for number, one in zip(numbers, found, strict=True):
        made = expected([number], attempts)[number]
        trace = None if made is None else judgement(label(number), f"{number}, attempt {made}")
        assert one == preference(number, difficulty=made or attempts, trace=trace)


# What is written


def test_difficulty_is_the_attempts_and_trace_the_judgement_that_agrees(file, out):
    with ChatServer(Teacher()) as server:
        report = run(file, out, server)
    check(out, range(1, 21))
    assert report.rows == {"read": 20, "annotated_before": 0, "finished": 20, "rejected": 0, "left": 0}
    assert (report.solved, report.never) == ({1: 5, 2: 5, 3: 5}, 5)
    assert report.calls == report.calls_now == len(server.requests) == 5 * (1 + 2 + 3 + 3)
    assert report.unparsable == {"truncated": 10}  # the second attempts of those that need three, or never agree
    assert report.cut == 10
    assert (report.prompt_tokens, report.completion_tokens, report.unmetered) == (45_000, 11_250, 0)
    assert report.cost is None


def test_the_journal_has_every_answer(file, out):
    with ChatServer(Teacher()) as server:
        run(file, out, server, price=PRICE)
    assert Counter((call["id"], call["attempt"]) for call in calls(out)) == Counter(
        (f"r{number}", attempt)
        for number in range(1, 21)
        for attempt in range(1, (expected([number])[number] or 3) + 1)
    )
    for call in calls(out):
        assert call["choice"] == parse(call["text"]).choice
        assert call["agrees"] == (call["choice"] == label(call["row"]))
        assert (call["reason"], call["finish_reason"]) == (
            (None, "stop") if call["choice"] else ("truncated", "length")
        )
        assert (call["prompt_tokens"], call["completion_tokens"], call["cost"]) == (1000, 250, COST)
        assert 0 < call["seconds"] < 10


def test_the_command_prints_a_summary_and_leaves_a_card(file, out, capsys):
    with ChatServer(Teacher()) as server:
        options = ["--url", server.url, "--model", "teacher", "--price", "2", "8", "--budget", "1"]
        assert main([str(file), str(out), *options]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "20 read, 0 annotated before, 20 finished, 0 rejected, 0 left" in printed
    assert (
        "solved 5 25.0% at attempt 1 solved 5 25.0% at attempt 2 solved 5 25.0% at attempt 3 never 5 25.0%" in printed
    )
    assert "45, 45 of them now; 10 unparsable (22.2%, truncated 10), 10 cut off at --max-tokens" in printed
    assert "45,000 read, 11,250 written" in printed
    assert f"cost {45 * COST:.4f}" in printed
    card = json.loads(beside(out, "card.json").read_text())
    assert card["rows"]["finished"] == 20
    assert card["solved"] == {"1": 5, "2": 5, "3": 5}
    assert (card["model"], card["temperature"], card["attempts"]) == ("teacher", 1.0, 3)
    assert card["cost"] == pytest.approx(45 * COST)
    assert sorted(path.name for path in out.parent.glob("out*")) == [
        "out.parquet",
        "out.parquet.card.json",
        "out.parquet.journal.jsonl",
    ]


# How a choice is read


class Talkative(Teacher):
    """Always right, in a form that the strict contract refuses."""

    forms = ("<think>Compared.</think>\n<answer>{}</answer>", "Response {} is better", "<answer>{}</answer>: clearly")

    def __init__(self, form):
        super().__init__()
        self.form = form

    def answer(self, number, attempt, request):
        return says(self.forms[self.form].format(label(number)))


def test_difficulty_measures_agreement_and_not_the_form(file, out, capsys):
    with ChatServer(Talkative(0)) as server:
        report = run(file, out, server)
        assert len(server.requests) == 20
    assert (report.solved, report.never) == ({1: 20}, 0)
    assert (report.malformed, report.unparsable) == ({"text_outside": 20}, {})
    assert {call["text"] for call in calls(out)} == {
        judgement(1).replace("><", ">\n<"),
        judgement(2).replace("><", ">\n<"),
    }
    assert {one.trace for one in preferences_in(out)} == {judgement(1), judgement(2)}
    assert "20 malformed, but with a choice that was read" in str(report)


def test_a_stored_journal_is_read_by_another_reader_free_of_charge(file, out, capsys):
    arguments = [str(file), str(out), "--model", "teacher"]
    with ChatServer(Talkative(1)) as server:
        arguments += ["--url", server.url]
        assert main([*arguments, "--reader", "strict"]) == 0
        assert "note: an unparsable answer counts as one that disagrees" in capsys.readouterr().out
        assert {(one.difficulty, one.trace) for one in preferences_in(out)} == {(3, None)}
        stored = beside(out, "journal.jsonl").read_bytes()
        assert len(server.requests) == 60
    # There is no server any more, and none is asked.
    assert main([*arguments, "--no-calls", "--reader", "last_digit"]) == 0
    assert {one.difficulty for one in preferences_in(out)} == {1}
    assert all(
        one.trace == f"<think>Response {one.label} is better</think><answer>{one.label}</answer>"
        for one in preferences_in(out)
    )
    assert beside(out, "journal.jsonl").read_bytes() == stored


def test_a_stricter_reader_without_calls_leaves_what_is_open(file, out):
    with ChatServer(Talkative(2)) as server:
        report = run(file, out, server)
        assert report.bare == 20
        assert "20 traces hold no reasoning" in str(report)
        report = run(file, out, server, reader="strict", calls=False, max_rejects=1.0)
        assert (report.rows["finished"], report.rows["left"], report.calls_now) == (0, 20, 0)
        report = run(file, out, server, reader="strict")  # goes on where one attempt was made
        assert (report.calls, report.calls_now, report.never) == (60, 40, 20)


# A pilot


def pilot_file(tmp_path):
    """80 preferences of a source where the first attempt agrees, and 20 of one where none does, at its end."""
    rows = [preference(4 * number + 1, id=f"e{number}", source="easy") for number in range(80)]
    rows += [preference(4 * number, id=f"h{number}", source="hard") for number in range(1, 21)]
    return preference_file(tmp_path / "in.parquet", rows)


def test_a_pilot_is_drawn_from_all_sources_and_extrapolated_to_the_whole(tmp_path, out, capsys):
    file = pilot_file(tmp_path)
    with ChatServer(Teacher()) as server:
        options = ["--url", server.url, "--model", "teacher", "--price", "2", "8", "--limit", "10"]
        assert main([str(file), str(out), *options]) == 0
        found = preferences_in(out)
        assert Counter(one.source for one in found) == {"easy": 8, "hard": 2}
        assert len(server.requests) == 8 + 2 * 3
        card = json.loads(beside(out, "card.json").read_text())
        assert card["rows"]["left"] == 90
        whole = card["whole"]
        assert (whole["rows"], whole["calls"]) == (100, 80 + 20 * 3)
        assert whole["cost"] == pytest.approx(140 * COST)
        assert (whole["prompt_tokens"], whole["completion_tokens"]) == (140_000, 35_000)
        assert whole["difficulty"] == {"1": 80, "unsolved": 20}
        printed = capsys.readouterr().out
        assert "all 100 rows, extrapolated: 140 calls, 140,000 tokens read, 35,000 written, cost" in printed
        assert "attempt 1 80.0%, unsolved 20.0%" in printed

        # A larger pilot adds rows, and the whole run makes the other calls only.
        more = run(file, out, server, price=PRICE, limit=20)
        assert {one.id for one in found} < {one.id for one in preferences_in(out)}
        assert more.calls_now == 8 + 2 * 3
        assert run(file, out, server, price=PRICE).calls == len(server.requests) == 140
    assert len(preferences_in(out)) == 100


def test_a_small_pilot_has_a_row_of_each_source_if_it_can(tmp_path, out):
    rows = [preference(4 * number + 1, id=f"r{number}", source=f"s{min(number, 3)}") for number in range(40)]
    file = preference_file(tmp_path / "in.parquet", rows)
    with ChatServer(Teacher()) as server:
        run(file, out, server, limit=4)
        assert {one.source for one in preferences_in(out)} == {"s0", "s1", "s2", "s3"}
        assert run(file, out, server, limit=1000).rows["finished"] == 40


def test_as_the_paper_samples(file, out, capsys):
    with ChatServer(Teacher()) as server:
        options = [str(file), str(out), "--url", server.url, "--model", "teacher", "--attempts", "1"]
        assert main([*options, "--paper"]) == 0
        assert {request.body["temperature"] for request in server.requests} == {0.0}
        assert json.loads(beside(out, "card.json").read_text())["temperature"] == 0.0
        assert main([*options, "--paper", "--temperature", "0.5"]) == 2
        assert "--paper samples at temperature 0, not at 0.5" in capsys.readouterr().err


def test_what_has_been_annotated_before_is_passed_through(tmp_path, out):
    before = [preference(1, difficulty=2, trace=judgement(2, "Before.")), preference(3, difficulty=5)]
    file = preference_file(tmp_path / "in.parquet", [before[0], preference(2), before[1]])
    with ChatServer(Teacher()) as server:
        report = run(file, out, server)
        assert {number_of(request) for request in server.requests} == {2}
    first, second, third = preferences_in(out)
    assert [first, third] == before
    assert second.difficulty == 2
    assert report.rows["annotated_before"] == 2


def test_an_answer_is_an_attempt_whatever_it_is(tmp_path, out):
    answers = {
        1: says(None, "length"),  # all tokens went into what the server does not show
        2: says("", "content_filter"),
        3: says(judgement("1 or 2")),
        4: says(f"  {judgement(1, 'é' + chr(0xD83D))}\n"),  # half a character
        5: says(f"Sure! {judgement(2)}"),
        6: says(judgement(1), usage=None),
    }
    file = preference_file(tmp_path / "in.parquet", map(preference, answers))
    with ChatServer(lambda request: answers[number_of(request)]) as server:
        report = run(file, out, server, attempts=1)
    found = preferences_in(out)
    assert [one.trace for one in found] == [
        None,
        None,
        None,
        judgement(1, "é?"),
        "<think>Sure! Compared.</think><answer>2</answer>",  # the choice counts, the form is mended
        judgement(1),
    ]
    assert [one.difficulty for one in found] == [1] * 6
    by_row = {call["row"]: (call["reason"], call["finish_reason"]) for call in calls(out)}
    assert by_row[1] == ("no_tags", "length")
    assert by_row[2] == ("no_tags", "content_filter")
    assert by_row[3] == ("answer_not_1_or_2", "stop")
    assert by_row[5] == ("text_outside", "stop")
    assert report.unmetered == 1


def test_bad_rows_are_rejected_and_the_others_annotated(tmp_path, out):
    rows = [to_row(preference(number)) for number in range(1, 31)]
    rows[4]["label"] = "B"
    rows[9]["id"] = "r1"
    file = tmp_path / "in.jsonl"
    file.write_text(
        "".join(json.dumps(row) + "\n" for row in rows[:20]) + "{\n" + "".join(map(json.dumps, rows[20:21]))
    )
    with ChatServer(Teacher()) as server:
        with pytest.raises(AnnotationError, match=r"3 of 22 rows were rejected, more than 5\.0%.*--max-rejects"):
            run(file, out, server)
        assert not out.exists()
        assert not server.requests  # the input is looked at before anything is paid for
        report = run(file, out, server, max_rejects=0.2)
    check(out, [number for number in range(1, 22) if number not in (5, 10)])
    assert [(one["line"], one["reason"].split(":")[0]) for one in rejects(out)] == [
        (5, "label 'B' is neither 1 nor 2 (allowed"),
        (10, "id 'r1' of 's' stands already in row 1"),
        (21, "not JSON"),
    ]
    assert report.rows["rejected"] == 3


@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_file_that_holds_nothing_is_an_error(tmp_path, out, damage):
    file = preference_file(tmp_path / "in.parquet", map(preference, range(1, 9 if damage == "cut" else 1)))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    with (
        ChatServer(Teacher()) as server,
        pytest.raises(AnnotationError, match="not a complete parquet file" if damage == "cut" else "none of 0 rows"),
    ):
        run(file, out, server)
    assert not out.exists()
    assert not server.requests


# What the teacher is asked


def test_the_request(file, out, tmp_path):
    template = tmp_path / "prompt.txt"
    template.write_text("Q: {question}\nA: {response_1}\nB: {response_2}\n")
    with ChatServer(Teacher()) as server:
        options = ["--temperature", "0.7", "--max-tokens", "77", "--prompt", str(template), "--attempts", "1"]
        assert main([str(file), str(out), "--url", server.url, "--model", "m", *options]) == 0
        bodies = {number_of(request): request.body for request in server.requests}
    assert bodies[7] == {
        "model": "m",
        "messages": [{"role": "user", "content": "Q: Question 7?\nA: It is 7.\nB: It is not 7."}],
        "temperature": 0.7,
        "max_tokens": 77,
    }


def test_further_fields_of_the_request(file, out, capsys):
    """As models want them that know no `max_tokens`."""
    body = {"max_tokens": None, "temperature": None, "max_completion_tokens": 99}
    with ChatServer(Teacher()) as server:
        options = ["--url", server.url, "--model", "m", "--attempts", "1"]
        assert main([str(file), str(out), *options, "--body", json.dumps(body)]) == 0
        assert {frozenset(request.body) for request in server.requests} == {
            frozenset({"model", "messages", "max_completion_tokens"})
        }
        assert main([str(file), str(out), *options]) == 2
        assert "body was {'max_completion_tokens': 99" in capsys.readouterr().err
        for wrong, said in (('{"n": 2}', "body sets 'n'"), ("[1]", "is not a JSON object"), ("{", "is not JSON")):
            assert main([str(file), str(out), *options, "--body", wrong]) == 2
            assert said in capsys.readouterr().err


def test_an_empty_account_in_the_words_of_openai_ends_the_run_at_once(file, out, capsys):
    body = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    with ChatServer(Answer(body, status=429)) as server:
        assert main([str(file), str(out), "--url", server.url, "--model", "m"]) == 1
    assert "the account is empty" in capsys.readouterr().err


def test_the_teacher_never_sees_the_label(tmp_path):
    bodies = []
    for name, turned in (("as it is", False), ("turned", True)):
        rows = [replace(one, label=3 - one.label) if turned else one for one in map(preference, range(1, 9))]
        file = preference_file(tmp_path / f"{name}.parquet", rows)
        with ChatServer(says("I do not say.")) as server:
            run(file, tmp_path / f"{name} out.parquet", server, attempts=2)
            bodies.append(Counter(json.dumps(request.body) for request in server.requests))
    assert bodies[0] == bodies[1]
    assert set(bodies[0].values()) == {2}  # nor does a second attempt tell it that the first was wrong


def decoded(part):
    assert part["type"] == "image_url"
    kind, data = re.fullmatch(r"data:(image/\w+);base64,(.*)", part["image_url"]["url"]).groups()
    return kind, base64.b64decode(data)


def encoded(form, colour="red", size=(8, 6), mode="RGB", **options):
    file = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("position", ["before", "after"])
def test_pictures_stand_in_their_order_before_or_after_the_text(tmp_path, out, position):
    (tmp_path / "a.jpg").write_bytes(jpeg := encoded("JPEG"))
    images = (Media(path=str(tmp_path / "a.jpg")), Media(data=png("blue")))
    frames = tuple(Media(data=png(colour)) for colour in ("black", "gray", "white"))
    file = preference_file(tmp_path / "in.parquet", [preference(1, images=images, video=frames), preference(2)])
    with ChatServer(Teacher()) as server:
        run(file, out, server, media_position=position)
        contents = {number_of(request): request.body["messages"][0]["content"] for request in server.requests}
    assert isinstance(contents[2], str)
    parts = contents[1]
    text = parts.pop(-1 if position == "before" else 0)
    assert text["type"] == "text"
    assert text["text"] == contents[2].replace("2?", "1?").replace("is 2.", "is 1.").replace("not 2.", "not 1.")
    assert [decoded(part) for part in parts] == [
        ("image/jpeg", jpeg),
        *(("image/png", png(colour)) for colour in ("blue", "black", "gray", "white")),
    ]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_picture_that_is_small_enough_is_sent_as_it_is(form):
    data = encoded(form, size=(20, 10))
    assert data_uri(Media(data=data), 200) == f"data:image/{form.lower()};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("data", "kind", "size"),
    [
        (encoded("JPEG", size=(2000, 1000)), "image/jpeg", (1000, 500)),
        (encoded("PNG", size=(2000, 1000)), "image/png", (1000, 500)),
        (encoded("PNG", size=(2000, 1000), mode="P"), "image/png", (1000, 500)),
        (encoded("PNG", size=(2000, 1000), mode="RGBA"), "image/png", (1000, 500)),
        (encoded("PNG", "white", size=(2000, 1000), mode="1"), "image/png", (1000, 500)),
        (encoded("JPEG", size=(2000, 1000), mode="CMYK"), "image/jpeg", (1000, 500)),
        (encoded("WEBP", size=(2000, 1000)), "image/png", (1000, 500)),
        (encoded("PNG", size=(1, 600_000)), "image/png", (1, 500_000)),
        (encoded("PNG", size=(600_000, 1)), "image/png", (500_000, 1)),
        (encoded("BMP"), "image/png", (8, 6)),
        (encoded("TIFF"), "image/png", (8, 6)),
        (encoded("GIF", save_all=True, append_images=[Image.new("RGB", (8, 6), "blue")]), "image/png", (8, 6)),
    ],
    ids=["jpeg", "png", "palette", "alpha", "bitmap", "cmyk", "webp", "tall", "wide", "bmp", "tiff", "animation"],
)
def test_a_picture_that_is_too_large_or_of_another_format_is_encoded_anew(data, kind, size):
    found, sent = decoded({"type": "image_url", "image_url": {"url": data_uri(Media(data=data), 500_000)}})
    picture = Image.open(io.BytesIO(sent))
    assert (found, picture.size) == (kind, size)
    red, green, blue = picture.convert("RGB").getpixel((0, 0))
    assert (red > 200 and green < 60 and blue < 60) or (red, green, blue) == (255, 255, 255)


def test_the_orientation_is_kept():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded("JPEG", size=(40, 20), exif=exif)
    _, sent = decoded({"type": "image_url", "image_url": {"url": data_uri(Media(data=data), 200)}})
    picture = Image.open(io.BytesIO(sent))
    assert picture.size == (20, 10)
    assert picture.getexif()[0x0112] == 6


def cut_animation():
    """A GIF cut where Pillow opens it and stumbles over its second picture with an error that is no ValueError."""
    draw = random.Random(0)
    frames = [Image.frombytes("L", (64, 64), draw.randbytes(64 * 64)) for _ in range(2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    whole = buffer.getvalue()
    for length in range(1000, len(whole)):
        try:
            with Image.open(io.BytesIO(whole[:length])) as head:
                assert head.is_animated in (True, False)
        except (IndexError, struct.error):
            return whole[:length]
        except (OSError, EOFError, ValueError):
            pass
    raise AssertionError("no such place")


def test_pictures_that_cannot_be_sent_reject_their_row_and_cost_nothing(tmp_path, out):
    (tmp_path / "page.png").write_text("<html>")
    (tmp_path / "cut.jpg").write_bytes(encoded("JPEG", size=(500, 500))[:2000])
    (tmp_path / "cut.gif").write_bytes(cut_animation())
    os.mkfifo(tmp_path / "pipe.png")
    bad = {
        "missing.png": "does not exist (relative paths are looked up in the working directory)",
        str(tmp_path): "is a folder; let `r1reward data convert` take the frames",
        str(tmp_path / "pipe.png"): "is a device",
        str(tmp_path / "page.png"): "not a JPEG",
        str(tmp_path / "cut.jpg"): "cannot be read",
        str(tmp_path / "cut.gif"): "cannot be read",
    }
    media = [*map(Media, bad), Media(data=bomb()), Media(data=png(), sha256="0" * 64)]
    reasons = [*bad.values(), "more than 89,478,485 pixels", "its sha256 is another"]
    rows = [preference(number, images=(one,)) for number, one in enumerate(media, 1)]
    file = preference_file(tmp_path / "in.parquet", [*rows, preference(50, images=(Media(data=png()),))])
    with ChatServer(Teacher()) as server:
        report = run(file, out, server, max_rejects=1.0)
        assert {number_of(request) for request in server.requests} == {50}
    assert [one.id for one in preferences_in(out)] == ["r50"]
    found = {one["line"]: one for one in rejects(out)}
    for number, reason in enumerate(reasons, 1):
        assert reason in found[number]["reason"]
        assert found[number]["row"]["id"] == f"r{number}"
    assert report.rows["rejected"] == len(media) == len(found)


def test_pictures_are_read_when_their_call_is_about_to_start(tmp_path, out):
    noise = os.urandom(512 * 512 * 3)
    picture = io.BytesIO()
    Image.frombytes("RGB", (512, 512), noise).save(picture, "PNG")
    (tmp_path / "a.png").write_bytes(picture.getvalue())  # 0.8 MB, of which a request holds 1 MB
    images = (Media(path=str(tmp_path / "a.png")),)
    file = preference_file(tmp_path / "in.parquet", [preference(number, images=images) for number in range(1, 121)])

    def forget(request):  # what the server keeps of the requests is not the client's
        request.body["messages"][-1]["content"] = ""
        return says("no")

    with ChatServer(forget) as server:
        tracemalloc.start()
        try:
            run(file, out, server, attempts=1, concurrency=2)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert len(server.requests) == 120
    assert peak < 60e6


def test_the_calls_of_a_row_follow_each_other_and_all_others_run_side_by_side(tmp_path, out):
    file = preference_file(tmp_path / "in.parquet", map(preference, range(1, 61)))
    busy = Counter()
    lock = threading.Lock()

    class Watching(Teacher):
        def __call__(self, request):
            with lock:
                busy[number_of(request)] += 1
            return super().__call__(request)

    with ChatServer(Watching(delay=0.1)) as server:
        began = time.monotonic()
        report = run(file, out, server, concurrency=8)
        passed = time.monotonic() - began
        assert server.most_in_flight == 8
    check(out, range(1, 61))
    assert max(busy.values()) == 3
    assert passed < 1.5 * 0.1 * report.calls / 8


def test_several_servers_share_the_calls(file, out):
    teacher = Teacher(delay=0.02)
    with ChatServer(teacher) as one, ChatServer(teacher) as other:
        settings = AnnotateSettings(urls=[one.url, other.url], model="teacher", concurrency=4)
        annotate(file, out, settings)
        assert min(len(one.requests), len(other.requests)) > 15
    check(out, range(1, 21))


# How a run ends and goes on


@contextmanager
def child(file, out, server, *options, environment=None):
    command = [sys.executable, "-c", RUN, str(file), str(out), "--url", server.url, "--model", "teacher"]
    process = subprocess.Popen(
        [*command, "--timeout", "5", "--max-wait", "10", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class JournaledTeacher(Teacher):
    """Answers as a function of row and attempt, where the attempt is what the journal says, whoever asked before."""

    def __init__(self, out, delay):
        super().__init__(delay)
        self.path = beside(out, "journal.jsonl")
        self.place = 0
        self.made, self.agreed = Counter(), set()
        self.wrong = []

    def __call__(self, request):
        self.read()
        number = number_of(request)
        if number in self.agreed or self.made[number] >= 3:
            self.wrong.append((number, self.made[number]))
        return self.answer(number, self.made[number] + 1, request)

    def read(self):
        with open(self.path, "rb") as file:
            file.seek(self.place)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.place += len(line)
                entry = json.loads(line)
                if "row" in entry:
                    self.made[entry["row"]] = entry["attempt"]
                    if entry["agrees"]:
                        self.agreed.add(entry["row"])


def test_killed_at_any_moment_it_goes_on_without_losing_or_repeating_a_finished_call(tmp_path, out):
    numbers = range(1, 151)
    file = preference_file(tmp_path / "in.parquet", map(preference, numbers))
    draw = random.Random(0)
    teacher = JournaledTeacher(out, delay=0.03)
    kills = written = 0
    with ChatServer(teacher) as server:
        while True:
            with child(file, out, server, "--concurrency", "6") as process:
                goal = written + draw.randint(1, 60) if kills < 8 else 10**9
                # Some also while it starts, or writes its output.
                end = time.monotonic() + (draw.uniform(0.1, 1.0) if kills in (1, 4) else 60)
                while process.poll() is None and written < goal and time.monotonic() < end:
                    time.sleep(draw.uniform(0.001, 0.02))
                    if teacher.path.exists():
                        written = teacher.path.read_bytes().count(b"\n")
                if process.poll() is None:
                    process.kill()
                    kills += 1
                else:
                    assert process.wait() == 0, process.stderr.read()
                    break
        assert kills >= 4
        assert teacher.wrong == []
        seen = len(server.requests)
    expected_calls = {(n, k) for n in numbers for k in range(1, (expected([n])[n] or 3) + 1)}
    assert Counter((call["row"], call["attempt"]) for call in calls(out)) == Counter(expected_calls)
    # What was on the wire at a kill is asked again, and nothing else.
    assert len(expected_calls) <= seen <= len(expected_calls) + 6 * kills
    check(out, numbers)
    assert json.loads(beside(out, "card.json").read_text())["calls"] == len(expected_calls)


def test_a_second_run_makes_no_call(file, out):
    with ChatServer(Teacher()) as server:
        first = run(file, out, server, price=PRICE)
        written = out.read_bytes()
        out.unlink()
        second = run(file, out, server, price=PRICE)
        assert len(server.requests) == 45
    assert out.read_bytes() == written
    assert (second.calls, second.calls_now, second.cost) == (first.calls, 0, first.cost)


def test_more_attempts_go_on_where_fewer_ended(file, out):
    with ChatServer(Teacher()) as server:
        run(file, out, server, attempts=1)
        check(out, range(1, 21), attempts=1)
        asked = len(server.requests)
        run(file, out, server, attempts=3)
        assert asked == 20
        assert len(server.requests) == 45
        check(out, range(1, 21))
        with pytest.raises(ValueError, match="holds 3 attempts at a row, more than --attempts 2"):
            run(file, out, server, attempts=2)


def test_an_interrupted_run_says_how_to_go_on(tmp_path, out):
    file = preference_file(tmp_path / "in.parquet", map(preference, range(1, 101)))
    with ChatServer(Teacher(delay=0.05)) as server:
        with child(file, out, server, "--concurrency", "4") as process:
            while len(server.requests) < 20:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            printed, said = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "interrupted" in said
        assert "the same command resumes" in said
        assert "Traceback" not in said
        assert not out.exists()
        assert printed == ""
        finished = len(calls(out))
        assert finished >= 12
        server.script = Teacher()
        server.script.asked = Counter(call["row"] for call in calls(out))
        report = run(file, out, server)
    assert report.calls - report.calls_now == finished
    check(out, range(1, 101))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("model", "other", "model was 'teacher' and is 'other' now"),
        ("temperature", 0.5, "temperature was 1.0 and is 0.5 now"),
        ("prompt", "{question}{response_1}{response_2}", "is '{question}{response_1}{response_2}' now"),
        ("max_tokens", 9, "max_tokens was 1024 and is 9 now"),
        ("media_position", "after", "media_position was 'before' and is 'after' now"),
        ("max_pixels", 99, "max_pixels was 501760 and is 99 now"),
    ],
)
def test_calls_that_were_made_otherwise_are_not_mixed(file, out, option, value, said):
    with ChatServer(Teacher()) as server:
        run(file, out, server)
        journal = beside(out, "journal.jsonl")
        before = journal.read_bytes()
        with pytest.raises(ValueError, match=re.escape(said) + r".*another output.*--fresh"):
            run(file, out, server, **{option: value})
        assert journal.read_bytes() == before
        assert len(server.requests) == 45


def test_another_input_is_refused_and_fresh_begins_anew(tmp_path, file, out, capsys):
    with ChatServer(Teacher()) as server:
        arguments = [str(file), str(out), "--url", server.url, "--model", "teacher"]
        assert main(arguments) == 0
        preference_file(file, map(preference, range(1, 25)))
        assert main(arguments) == 2
        assert re.search(r"input_size was \d+ and is \d+ now; input_sha256 was", capsys.readouterr().err)
        server.script = Teacher()
        assert main([*arguments, "--fresh"]) == 0
    check(out, range(1, 25))
    assert beside(out, "journal.jsonl.1").exists()


def test_a_wrong_name_of_the_model_does_not_block_the_right_one(file, out, capsys):
    teacher = Teacher()

    def script(request):
        return teacher(request) if request.body["model"] == "teacher" else Answer({}, 404)

    with ChatServer(script) as server:
        arguments = [str(file), str(out), "--url", server.url, "--model"]
        assert main([*arguments, "taecher"]) == 1
        assert "404" in capsys.readouterr().err
        assert main([*arguments, "teacher"]) == 0
    check(out, range(1, 21))


def test_two_runs_cannot_write_the_same_output(file, out, capsys):
    with ChatServer(Teacher(delay=0.5)) as server, child(file, out, server, "--concurrency", "1"):
        while not server.requests:
            time.sleep(0.01)
        assert main([str(file), str(out), "--url", server.url, "--model", "teacher"]) == 1
        assert "error: process " in capsys.readouterr().err


def test_a_full_disk_keeps_what_is_finished(file, out):
    with ChatServer(Teacher()) as server:
        with child(file, out, server, "--concurrency", "1", environment={"FILE_LIMIT": "6000"}) as process:
            _, said = process.communicate(timeout=20)
        assert process.returncode == 1
        assert re.search(r"error: .*(disk full|too large).*\d+ finished calls are in .*resumes from there", said)
        finished = calls(out)
        assert beside(out, "journal.jsonl").read_bytes().endswith(b"\n")
        assert 5 < len(finished) < 45
        assert not out.exists()
        assert len(server.requests) <= len(finished) + 2  # what did not fit, and what was on the wire
        server.script.asked = Counter(call["row"] for call in finished)
        report = run(file, out, server)
        assert report.calls_now == 45 - len(finished)
    check(out, range(1, 21))


# Servers that limit, refuse, fail and vanish


def test_a_rate_limit_is_honoured(tmp_path, out):
    file = preference_file(tmp_path / "in.parquet", map(preference, range(1, 41)))
    teacher = Teacher()
    windows = Counter()
    told, came = [], []

    def script(request):
        now = time.monotonic()
        came.append(now)
        windows[int(now)] += 1
        if windows[int(now)] <= 30:
            return teacher(request)
        told.append(now)
        return Answer("slower, please", status=429, headers={"Retry-After": "1"})

    with ChatServer(script) as server:
        report = run(file, out, server, concurrency=16)
    check(out, range(1, 41))
    assert rejects(out) == []
    assert report.calls == 90
    assert told
    for moment in told:  # but for those on the wire, nobody comes before the second is over
        assert sum(moment + 0.1 < one < moment + 0.9 for one in came) == 0


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_row_is_rejected_and_tried_again_by_the_next_run(file, out, status):
    class Filtering(Teacher):
        filters = True

        def answer(self, number, attempt, request):
            if self.filters and (number, attempt) in ((1, 1), (6, 2)):
                return Answer({"error": {"message": "content management policy"}}, status=status)
            return super().answer(number, attempt, request)

    teacher = Filtering()
    with ChatServer(teacher) as server:
        report = run(file, out, server, max_rejects=0.1)
        check(out, [number for number in range(1, 21) if number not in (1, 6)])
        assert report.rows == {"read": 20, "annotated_before": 0, "finished": 18, "rejected": 2, "left": 0}
        assert sorted(one["line"] for one in rejects(out)) == [1, 6]
        assert all(f"status {status}: " in one["reason"] for one in rejects(out))
        assert all("content management policy" in one["reason"] for one in rejects(out))
        assert not [call for call in calls(out) if call["row"] == 1]
        teacher.filters = False
        teacher.asked.update({1: -1, 6: -1})
        assert run(file, out, server).calls_now == 2
    check(out, range(1, 21))
    assert rejects(out) == []


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (Answer("cannot do that", status=500), "failed: {url}: status 500: cannot do that"),
        (Answer("<html>"), "unreadable: {url}: unreadable answer: <html>"),
    ],
)
def test_a_row_that_no_server_can_bear_does_not_end_the_run(file, out, trouble, said):
    teacher = Teacher(delay=0.02)
    with ChatServer(lambda request: trouble if number_of(request) == 3 else teacher(request)) as server:
        run(file, out, server, concurrency=2)
        check(out, [number for number in range(1, 21) if number != 3])
        assert said.format(url=server.url) in rejects(out)[0]["reason"]


def test_nor_does_the_last_one(file, out):
    teacher = Teacher()
    with ChatServer(
        lambda request: Answer("no", status=500) if number_of(request) == 20 else teacher(request)
    ) as server:
        report = run(file, out, server, max_wait=2.0)
    check(out, range(1, 20))
    assert report.rows["rejected"] == 1


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (302, "see --url"),
        (401, "set the environment variable R1REWARD_TEACHER_API_KEY"),
        (402, "the account is empty"),
        (403, "set the environment variable R1REWARD_TEACHER_API_KEY"),
        (404, r"no such model or address; see --model and --url (models there: judge, other)"),
        (405, "see --url"),
    ],
)
def test_where_no_call_can_succeed_the_run_ends_at_once(tmp_path, out, capsys, status, said):
    file = preference_file(tmp_path / "in.parquet", map(preference, range(1, 1001)))
    with ChatServer(Answer("the server says why", status=status), models=("other", "judge")) as server:
        began = time.monotonic()
        options = ["--url", server.url, "--model", "teacher", "--concurrency", "8"]
        assert main([str(file), str(out), *options]) == 1
        assert time.monotonic() - began < 5
        assert len(server.requests) <= 16
    message = capsys.readouterr().err
    assert f"error: {server.url}: status {status}: the server says why: " in message
    assert said in message
    assert not out.exists()
    assert rejects(out) == []


def test_a_server_that_refuses_everything_ends_the_run(tmp_path, out):
    file = preference_file(tmp_path / "in.parquet", map(preference, range(1, 1001)))
    refusal = Answer({"error": "max_tokens is not supported"}, status=400)
    with ChatServer(refusal) as server, pytest.raises(AnnotationError, match=r"20 calls and not one .*not supported"):
        run(file, out, server, concurrency=4)
    assert len(server.requests) < 40


def test_a_server_that_dies_ends_the_run_and_the_next_goes_on(tmp_path, out, capsys):
    file = preference_file(tmp_path / "in.parquet", map(preference, range(1, 201)))
    teacher = JournaledTeacher(out, delay=0.02)
    arguments = ["--model", "teacher", "--concurrency", "8", "--timeout", "1", "--max-wait", "1"]
    with ChatServer(teacher) as server:
        killer = threading.Thread(target=lambda: (wait_for(lambda: len(server.requests) > 60), server.stop()))
        killer.start()
        assert main([str(file), str(out), "--url", server.url, *arguments]) == 1
        killer.join()
        message = capsys.readouterr().err
        finished = len(calls(out))
        assert "error: the servers are gone: no answer from" in message
        assert f"{finished} finished calls are in" in message
        assert not out.exists()
        assert rejects(out) == []
        assert finished > 50
        server.start()
        assert main([str(file), str(out), "--url", server.url, *arguments]) == 0
    assert teacher.wrong == []
    check(out, range(1, 201))


def wait_for(condition):
    while not condition():
        time.sleep(0.005)


def test_a_server_that_comes_back_in_time_is_no_end(tmp_path, out):
    file = preference_file(tmp_path / "in.parquet", map(preference, range(1, 101)))
    with ChatServer(JournaledTeacher(out, delay=0.02)) as server:

        def bounce():
            wait_for(lambda: len(server.requests) > 40)
            server.stop()
            time.sleep(0.5)
            server.start()

        bouncer = threading.Thread(target=bounce)
        bouncer.start()
        report = run(file, out, server, concurrency=8, max_wait=20.0)
        bouncer.join()
    check(out, range(1, 101))
    assert report.rows["rejected"] == 0


# What it costs


def test_a_budget_is_kept_and_a_larger_one_goes_on(tmp_path, out, capsys):
    file = preference_file(tmp_path / "in.parquet", map(preference, range(1, 101)))
    arguments = ["--model", "teacher", "--concurrency", "8", "--price", "2", "8", "--max-tokens", "400"]
    teacher = Teacher(delay=0.01)
    with ChatServer(teacher) as server:
        arguments += ["--url", server.url]
        budget = 100.5 * COST
        assert main([str(file), str(out), *arguments, "--budget", str(budget)]) == 3
        printed = capsys.readouterr()
        made = calls(out)
        spent = sum(call["cost"] for call in made)
        assert budget - (COST + 150 * 8 / 1e6 + 0.001) < spent <= budget  # what a call may cost at most is left over
        assert re.search(r"the budget of \S+ is used up: \d+ rows are left", printed.err)
        found = preferences_in(out)
        assert 30 < len(found) < 60
        assert f"{100 - len(found)} left" in printed.out
        assert all(one.difficulty for one in found)
        assert json.loads(beside(out, "card.json").read_text())["budget_reached"] is True

        # The same budget is used up: nothing happens, and the result is the same.
        asked = len(server.requests)
        assert main([str(file), str(out), *arguments, "--budget", str(budget)]) == 3
        assert len(server.requests) == asked
        assert preferences_in(out) == found

        assert main([str(file), str(out), *arguments, "--budget", "100"]) == 0
        assert len(server.requests) == len(calls(out)) == 225
    check(out, range(1, 101))


def test_calls_made_before_there_was_a_price_count_at_the_price_of_now(file, out):
    with ChatServer(Teacher()) as server:
        run(file, out, server)
        report = run(file, out, server, price=PRICE, budget=0.0)
    assert report.cost == pytest.approx(45 * COST)
    assert not report.budget_reached  # nothing was left to be asked


def test_a_budget_for_nothing_asks_nothing(file, out, capsys):
    with ChatServer(Teacher()) as server:
        options = ["--url", server.url, "--model", "teacher", "--price", "2", "8", "--budget", "0.000001"]
        assert main([str(file), str(out), *options]) == 3
        assert not server.requests
    assert not out.exists()
    assert "20 rows are left" in capsys.readouterr().err


def test_prompts_that_cost_more_than_estimated_correct_the_estimate(tmp_path, out):
    file = preference_file(tmp_path / "in.parquet", map(preference, range(1, 301)))
    usage = {"prompt_tokens": 50_000, "completion_tokens": 10}
    with ChatServer(Teacher(delay=0.01, usage=usage)) as server:
        report = run(file, out, server, price=(2.0, 8.0), budget=5.0, concurrency=4)
    assert report.budget_reached
    assert 4.8 < report.cost <= 5.0


def test_a_budget_needs_a_price_and_a_server_that_counts(file, out, capsys):
    with ChatServer(Teacher(usage=None)) as server:
        options = [str(file), str(out), "--url", server.url, "--model", "teacher"]
        assert main([*options, "--budget", "5"]) == 2
        assert "a budget needs a price" in capsys.readouterr().err
        assert main([*options, "--concurrency", "2", "--price", "2", "8", "--budget", "5"]) == 1
        assert "reports no numbers of tokens" in capsys.readouterr().err
        assert len(server.requests) <= 4
        assert len(calls(out)) >= 1  # an answer that is there is not thrown away
        assert main([*options, "--price", "2", "8", "--budget", "5"]) == 2
        assert "have no numbers of tokens" in capsys.readouterr().err
        assert main([*options, "--price", "2", "8"]) == 0
        assert "calls without numbers" in capsys.readouterr().out


# Keys and arguments


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_the_key_is_in_the_header_and_nowhere_else(tmp_path, file, out, capsys, caplog, monkeypatch, status):
    monkeypatch.setenv("MY_KEY", KEY)
    answer = says(judgement(1)) if status == 200 else Answer(f"you sent {KEY}", status=status)
    with ChatServer(answer) as server:
        options = ["--model", "teacher", "--api-key-env", "MY_KEY", "--timeout", "1", "--max-wait", "1"]
        main([str(file), str(out), "--url", server.url, "--max-rejects", "1", *options])
        assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {KEY}"}
        assert all(KEY not in json.dumps(request.body) for request in server.requests)
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err + caplog.text
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert all(KEY.encode() not in path.read_bytes() for path in written)


def test_the_default_variable_may_be_unset_but_no_other(file, out, capsys, monkeypatch):
    monkeypatch.delenv("R1REWARD_TEACHER_API_KEY", raising=False)
    monkeypatch.delenv("MY_KEY", raising=False)
    with ChatServer(Teacher()) as server:
        options = [str(file), str(out), "--url", server.url, "--model", "teacher"]
        assert main([*options, "--api-key-env", "MY_KEY"]) == 2
        assert "'MY_KEY', which is to hold the key, is not set" in capsys.readouterr().err
        assert main(options) == 0
        assert all("Authorization" not in request.headers for request in server.requests)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": ""}, "model is ''"),
        ({"attempts": 0}, "attempts is 0"),
        ({"attempts": 40_000}, "attempts is 40000"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"max_tokens": 0}, "max-tokens is 0"),
        ({"max_pixels": 0}, "max-pixels is 0"),
        ({"media_position": "beside"}, "media-position is 'beside'"),
        ({"price": (1.0, -1.0)}, "price is"),
        ({"price": (1.0, 1.0), "budget": float("inf")}, "budget is inf"),
        ({"max_rejects": 1.5}, "max-rejects is 1.5"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"timeout": 5.0, "max_wait": 1.0}, "timeout is 5.0"),
        ({"urls": ["localhost:8000"]}, "no address of an HTTP server"),
        ({"out": "out.jsonl"}, "does not end in .parquet"),
        ({"out": "in.parquet"}, "input and output at the same time"),
        ({"out": "folder.parquet"}, "is a folder"),
        ({"preferences": "in.txt"}, "of no known format"),
    ],
)
def test_an_argument_that_cannot_be_meant_is_named_before_anything_is_made(tmp_path, file, changes, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder.parquet")
    before = sorted(os.listdir())
    paths = [changes.pop("preferences", "in.parquet"), changes.pop("out", "out.parquet")]
    with pytest.raises(ValueError, match=re.escape(said)):
        annotate(*paths, AnnotateSettings(**{"urls": ["http://127.0.0.1:1/v1"], "model": "m", **changes}))
    assert sorted(os.listdir()) == before


def test_a_missing_file_or_template_is_a_wrong_argument(tmp_path, file, out, capsys):
    for arguments in ([str(tmp_path / "no.parquet"), str(out)], [str(file), str(out), "--prompt", "no.txt"]):
        assert main([*arguments, "--url", "http://127.0.0.1:1/v1", "--model", "m"]) == 2
        assert "no file" in (said := capsys.readouterr().err) or "is not a file" in said


def test_a_bar_shows_how_far_it_is(file, out, capsys):
    with ChatServer(Teacher(delay=0.05)) as server:
        run(file, out, server, concurrency=4, price=PRICE, progress=True)
    shown = capsys.readouterr().err
    assert re.search(r"annotating: +\d+%.* \d+/20 \[\d\d:\d\d<\d\d:\d\d.*solved=\d+\.\d%", shown)
    assert "cost=" in shown
    assert "20/20" in shown
