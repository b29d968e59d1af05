"""`r1reward eval run` with an engine that does what a test tells it: what is asked, written, resumed and refused."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmark_files import write
from factories import png
from r1reward_verl.cli import main
from r1reward_verl.cli.eval import run as command
from r1reward_verl.engines.base import EngineError, Judgement, without
from r1reward_verl.evaluation.benchmarks import BENCHMARKS, Case
from r1reward_verl.evaluation.cases import EvaluationError, sample_rows, validate_cases
from r1reward_verl.evaluation.fingerprint import fingerprint_model
from r1reward_verl.evaluation.folder import RunFolder, RunFolderError
from r1reward_verl.evaluation.run import EvaluateSettings, Task, evaluate, orders_of
from r1reward_verl.evaluation.table import metrics_table
from r1reward_verl.judgement import build_prompt
from r1reward_verl.media import Media

MM = BENCHMARKS["mm-rlhf-rewardbench"]
ORACLE = {"chosen-first": "1", "rejected-first": "2"}


class Scripted:
    """An engine whose verdicts are given by `verdict(work, prompt, sample)`; it ends after `most` cases."""

    def __init__(self, verdict=lambda work, prompt, sample: ORACLE[prompt.order], most=None, error=None):
        self.verdict, self.most, self.error = verdict, most, error
        self.asked, self.needs, self.closed = [], [], 0

    def __call__(self, needs):
        self.needs.append(needs)
        return self

    def generate(self, work):
        for number, case in enumerate(work):
            if number == self.most:
                raise self.error
            for prompt in case.prompts:
                self.asked += [(case.row, prompt.order, sample) for sample in prompt.samples]
                texts = [(sample, self.verdict(case, prompt, sample)) for sample in prompt.samples]
                yield [
                    text
                    if isinstance(text, Judgement)
                    else Judgement(case.row, prompt.order, sample, f"<think>t</think><answer>{text}</answer>", 9, 90)
                    for sample, text in texts
                ]

    def close(self):
        self.closed += 1


@pytest.fixture
def files(tmp_path):
    return write(tmp_path)


@pytest.fixture
def judge(tmp_path, files):
    def judge(engine, benchmark="mm-rlhf-rewardbench", out="out", **options):
        arguments = {"model": "m", "progress": False}
        arguments |= {name: options.pop(name) for name in ("model", "engine_kind") if name in options}
        if prompt := options.pop("prompt", None):
            options["prompt_template"] = tmp_path / "prompt.txt"
            options["prompt_template"].write_text(prompt)
        task = Task(benchmark, files[benchmark][0], tmp_path / out, tmp_path / "media")
        (result,) = evaluate([task], EvaluateSettings(**options), engine=engine, **arguments)
        return result

    return judge


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize(
    ("order", "constant_one"), [("both", 0.5), ("chosen-first", 1.0)], ids=["both orders", "chosen first"]
)
def test_an_oracle_is_always_right_and_a_constant_one_as_often_as_the_order_says(judge, benchmark, order, constant_one):
    right = judge(Scripted(), benchmark, order=order, samples=3)
    assert right.metrics["accuracy"] == right.metrics["voting_accuracy"] == 1
    assert (right.missing, right.error, right.metrics["complete"]) == (0, "", True)
    one = judge(Scripted(lambda *_: "1"), benchmark, out="one", order=order)
    assert one.metrics["accuracy"] == constant_one
    assert one.metrics["reference"]["accuracy"] == 1
    printed = metrics_table(one.metrics["reference"], BENCHMARKS[benchmark])
    assert "100.00" in printed
    unparsable = -2 if BENCHMARKS[benchmark].acc_plus else -1
    assert {line.split()[unparsable] for line in printed.split("\n\n")[0].splitlines()[1:]} == {"–"}


def test_a_random_order_depends_on_seed_benchmark_and_row_alone(judge, tmp_path):
    engine = Scripted()
    outcome = judge(engine, order="random", seed=3)
    shown = {row: order for row, order, _ in engine.asked}
    assert shown == {row: orders_of("random", 3, "mm-rlhf-rewardbench", row)[0] for row in shown}
    assert len(engine.asked) == len(shown) == len(lines(tmp_path / "out" / "cases.jsonl"))
    assert outcome.metrics["reference"] is None
    many = [orders_of("random", 3, "vl-rewardbench", row)[0] for row in range(1000)]
    assert 450 < many.count("chosen-first") < 550
    assert many != [orders_of("random", 4, "vl-rewardbench", row)[0] for row in range(1000)]


def test_the_prompts_of_a_case_come_together_and_show_the_responses_in_their_order(judge, tmp_path):
    seen = {}
    judge(
        Scripted(lambda work, prompt, sample: seen.setdefault((work.row, prompt.order), (work, prompt)) and "1"),
        samples=2,
    )
    assert [order for _, order in seen] == ["chosen-first", "rejected-first"] * (len(seen) // 2)
    case = lines(tmp_path / "out" / "cases.jsonl")[0]
    work, prompt = seen[1, "rejected-first"]
    assert prompt.text == build_prompt(case["question"], case["rejected"], case["chosen"])
    assert prompt.samples == (0, 1, 2)
    assert [media.path for media in work.images] == case["media"]
    film = next(work for work, _ in seen.values() if work.video)
    assert len(film.video) == 32


def test_the_engine_is_made_for_what_the_cases_need(judge):
    engine = Scripted()
    judge(engine, frames=6)
    assert [(one.images, one.frames) for one in engine.needs] == [(1, 6)]
    assert engine.closed == 1


def test_a_run_that_was_ended_goes_on_and_repeats_nothing(judge):
    whole = Scripted()
    judge(whole, out="whole", samples=2)
    first, second = Scripted(most=3, error=KeyboardInterrupt()), Scripted()
    with pytest.raises(KeyboardInterrupt):
        judge(first, samples=2)
    outcome = judge(second, samples=2)
    assert outcome.missing == 0
    assert first.asked + second.asked == whole.asked
    assert first.needs[0].seed != second.needs[0].seed  # or the same numbers would be drawn for other samples
    third = Scripted()
    assert judge(third, samples=2).metrics == outcome.metrics
    assert third.needs == []


def test_an_engine_that_gives_up_leaves_the_rest_for_the_next_run(judge, tmp_path):
    outcome = judge(Scripted(most=2, error=EngineError("the servers are gone")))
    cases = len(lines(tmp_path / "out" / "cases.jsonl"))
    assert (outcome.error, outcome.missing) == ("the servers are gone", 2 * cases - 4)
    assert outcome.metrics["complete"] is False
    assert (outcome.metrics["rows"], outcome.metrics["failed"]) == (4, 2 * cases - 4)


def test_failed_judgements_are_tried_again(judge):
    def failing(work, prompt, sample):
        return without(work, prompt, "failed", "no answer")[0] if work.row == 2 else ORACLE[prompt.order]

    outcome = judge(Scripted(failing))
    assert (outcome.missing, outcome.metrics["failed"]) == (2, 2)
    again = Scripted()
    assert judge(again).missing == 0
    assert [row for row, *_ in again.asked] == [2, 2]


def test_prompts_that_are_too_long_are_counted_wrong_and_not_tried_again(judge):
    def long(work, prompt, sample):
        return without(work, prompt, "too_long", "5000 tokens")[sample] if work.row == 2 else ORACLE[prompt.order]

    outcome = judge(Scripted(long), samples=1)
    assert (outcome.missing, outcome.metrics["too_long"]) == (0, 2)
    assert outcome.metrics["accuracy"] < 1
    assert "longer than the model takes, counted wrong: 2" in metrics_table(outcome.metrics, MM)
    again = Scripted()
    judge(again, samples=1)
    assert again.asked == []


def test_more_samples_are_added_to_those_that_are_there(judge):
    judge(Scripted(), samples=1)
    more = Scripted()
    outcome = judge(more, samples=3)
    assert {sample for *_, sample in more.asked} == {2, 3}
    assert outcome.metrics["samples"] == 3
    with pytest.raises(RunFolderError, match="samples was 3 and is 2 now"):
        judge(Scripted(), samples=2)


def test_an_engine_that_cannot_be_started_leaves_the_run_as_it_was(judge, tmp_path):
    def broken(needs):
        raise EngineError("no memory")

    before = judge(Scripted(), limit=2, samples=1).metrics
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(EngineError, match="no memory"):
        judge(broken, limit=3, samples=5)
    assert judge(Scripted(most=0, error=EngineError("gone")), limit=3, samples=5).metrics == before
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == kept
    assert judge(broken, limit=2, samples=1).metrics == before


def test_a_run_without_all_of_its_samples_and_orders_is_not_complete(judge):
    class Half(Scripted):
        """Gives up before anything but one order and the greedy judgement."""

        def generate(self, work):
            for case in work:
                yield [Judgement(case.row, "chosen-first", 0, "<answer>1</answer>", 9, 90)]
            raise EngineError("gone")

    assert judge(Half(), samples=2).metrics is None  # no case has all of its samples
    metrics = judge(Half(), out="greedy").metrics
    assert (metrics["rows"], metrics["failed"], metrics["complete"]) == (30, 30, False)


@pytest.mark.parametrize(
    ("tokens", "answer", "mean", "rate"), [(None, None, None, False), (None, 40, None, True), (8, None, 8, True)]
)
def test_tokens_that_nobody_counted_are_unknown(judge, tmp_path, capsys, tokens, answer, mean, rate):
    def counted(work, prompt, sample):
        return Judgement(work.row, prompt.order, sample, "<answer>1</answer>", tokens, 90, answer_tokens=answer)

    outcome = judge(Scripted(counted), limit=2)
    about = json.loads((tmp_path / "out" / "run.json").read_text())["about"]
    assert outcome.metrics["mean_response_tokens"] == mean
    assert about["tokens"] == (about["judgements"] * (answer or tokens) if rate else None)
    assert (about["tokens_per_second"] is not None) == rate
    judge(Scripted(), limit=3)  # what is added to the unknown stays unknown
    about = json.loads((tmp_path / "out" / "run.json").read_text())["about"]
    assert (about["tokens_per_second"] is not None) == rate


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "other"}, "model_fingerprint was 'm' and is 'other' now"),
        ({"prompt": "{question}{response_1}{response_2}"}, "prompt was"),
        ({"order": "random"}, "order was 'both' and is 'random' now"),
        ({"seed": 1}, "seed was 0 and is 1 now"),
        ({"max_tokens": 9}, "max_tokens was 4096 and is 9 now"),
        ({"max_pixels": 4000}, "max_pixels was 501760 and is 4000 now"),
        ({"engine_kind": "endpoint"}, "engine was 'vllm' and is 'endpoint' now"),
    ],
)
def test_what_was_changed_is_not_mixed(judge, changed, words):
    judge(Scripted())
    with pytest.raises(RunFolderError, match=words):
        judge(Scripted(), **changed)


def test_all_media_that_are_missing_or_unreadable_are_listed_before_an_engine_is_made(judge, tmp_path):
    (tmp_path / "media/mcq/000000.png").unlink()
    (tmp_path / "media/short/000001.png").write_bytes(b"no picture")
    (tmp_path / "media/long/000000.png").write_bytes(png(size=(2010, 10)))
    # Pillow reads it, and no engine takes it.
    Image.new("RGB", (8, 8)).save(tmp_path / "media/safety/000000.png", "PPM")
    engine = Scripted()
    with pytest.raises(EvaluationError) as said:
        judge(engine)
    text = str(said.value)
    assert f"1 media files are missing (see --media), all of them listed in {tmp_path / 'out' / 'missing.txt'}" in text
    assert "3 media cannot be used" in text
    assert "row 1: the picture" in text
    assert "mcq/000000.png' does not exist" in text
    assert "row 10: not a JPEG, PNG, GIF, WebP, BMP or TIFF picture" in text
    assert "safety/000000.png" in text
    assert "2010 x 10 pixels, which is too narrow" in text
    assert engine.needs == []
    assert not (tmp_path / "out" / "cases.jsonl").exists()


def test_of_many_missing_media_the_first_twenty_are_shown_and_a_file_has_all(judge, tmp_path, files):
    path = files["mm-rlhf-rewardbench"][0]
    rows = [row | {"image": f"mcq/none{number}.png"} for number, row in enumerate(lines(path)) if "image" in row]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows]))
    with pytest.raises(EvaluationError, match=r"24 media files are missing(.|\n)*… and 4 more") as said:
        judge(Scripted())
    assert str(said.value).count("\n  row ") == 20
    listed = (tmp_path / "out" / "missing.txt").read_text().splitlines()
    assert listed == [str(tmp_path / "media" / row["image"]) for row in rows]
    for one in listed:
        Path(one).write_bytes(png())
    judge(Scripted())
    assert not (tmp_path / "out" / "missing.txt").exists()


def test_pictures_that_stand_in_the_data_are_looked_at_and_not_kept(tmp_path):
    first, later = png(size=(20, 20)), png(size=(4, 4))
    held = []

    def cases():
        for row in range(1, 301):
            held.append(sys.getrefcount(first))
            yield Case(row, "i", "c", "c", "q", "a", "b", (Media(data=first if row == 1 else later),), None)

    run = RunFolder(tmp_path / "out", {"samples": 0})
    valid = validate_cases(cases(), run, max_rejects=0.0, max_pixels=100, progress=False)
    run.close()
    assert (valid.pictures, valid.resized) == (300, 1)
    assert held[-1] == held[0]


def test_bad_rows_are_refused_unless_allowed(judge, files):
    with open(files["mm-rlhf-rewardbench"][0], "a") as file:
        file.write('{"id": "x", "image": "mcq/000000.png", "prompt": "", "chosen": "a", "rejected": "b"}\nbroken\n')
    with pytest.raises(EvaluationError, match=r"2 of 32 rows are no cases.*--max-rejects") as said:
        judge(Scripted())
    assert "row 31: " in str(said.value)
    assert judge(Scripted(), max_rejects=0.1).metrics["pairs"] == 30


def test_pictures_over_the_budget_are_counted_with_the_counts_beside_the_published_ones(judge, tmp_path, capsys):
    (tmp_path / "media/mcq/000000.png").write_bytes(png(size=(80, 60)))
    judge(Scripted(), max_pixels=4000)
    output = capsys.readouterr().out
    assert "3 of 216 pictures are over the pixel budget and resized" in output
    assert "mcq 6, long 6, short 6, safety 6, video 6" in output
    assert "published: 170 cases" in output
    about = json.loads((tmp_path / "out" / "run.json").read_text())["about"]
    assert about["resized_pictures"] == 3


def test_a_limit_draws_from_each_category_and_can_be_raised(judge, tmp_path):
    first, second = Scripted(), Scripted()
    judge(first, "vl-rewardbench", limit=6)
    cases = lines(tmp_path / "out" / "cases.jsonl")
    assert len(cases) == 6
    assert {case["category"] for case in cases} == {"general", "hallucination", "reasoning"}
    judge(second, "vl-rewardbench", limit=9)
    asked = [{row for row, *_ in engine.asked} for engine in (first, second)]
    assert [len(rows) for rows in asked] == [6, 3]
    assert asked[0] | asked[1] == {case["row"] for case in lines(tmp_path / "out" / "cases.jsonl")}
    with pytest.raises(RunFolderError, match="judgements of 3 cases that --limit 6 does not draw"):
        judge(Scripted(), "vl-rewardbench", limit=6)
    judge(Scripted(), "vl-rewardbench", limit=6, seed=1, out="seeded")
    assert lines(tmp_path / "seeded" / "cases.jsonl") != cases


def test_a_sample_is_proportional_whatever_the_order_of_the_file():
    cases = [
        Case(row, str(row % 250), "a" if row < 800 else "b", "a", "q", "c", "r", (), None) for row in range(1, 1001)
    ]
    chosen = sample_rows(cases, 100, 0, whole_ids=False)
    assert [len(chosen), sum(row < 800 for row in chosen)] == [100, 80]
    assert chosen < sample_rows(reversed(cases), 101, 0, whole_ids=False)
    whole = sample_rows(cases, 100, 0, whole_ids=True)
    by_id = {one: {case.row for case in cases if case.id == one and case.row in whole} for one in map(str, range(250))}
    assert {len(rows) for rows in by_id.values()} <= {0, 1, 3, 4}  # an id of both categories is drawn in either
    assert 90 < len(whole) <= 100


def test_data_that_changes_meanwhile_is_noticed(judge, files):
    path = files["mm-rlhf-rewardbench"][0]

    def changing(work, prompt, sample):
        path.write_text(path.read_text() + "\n")
        return "1"

    with pytest.raises(EvaluationError, match="has changed since the run began"):
        judge(Scripted(changing), limit=1)


def test_a_new_date_of_the_same_data_is_no_change(judge, files):
    def touching(work, prompt, sample):
        os.utime(files["mm-rlhf-rewardbench"][0], (1, 1))
        return ORACLE[prompt.order]

    assert judge(Scripted(touching), limit=1).metrics["accuracy"] == 1


def test_categories_of_the_reference_count_in_its_figures_only(judge, tmp_path):
    metrics = judge(Scripted(), "vl-rewardbench").metrics
    cases = lines(tmp_path / "out" / "cases.jsonl")
    moved = [case for case in cases if "reference_category" in case]
    assert moved
    assert all(case["id"].startswith(("RLAIF", "RLHF")) for case in moved)
    ours, theirs = (one["by_category"]["general"]["cases"] for one in (metrics, metrics["reference"]))
    assert theirs == ours + len(moved)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"order": "sideways"}, "order is 'sideways'"),
        ({"samples": -1}, "samples is -1"),
        ({"limit": 0}, "limit is 0"),
        ({"min_pixels": 9, "max_pixels": 4}, "pictures of 9 to 4 pixels"),
        ({"temperature": 3.0}, "temperature is 3.0"),
        ({"temperature": 0.0, "samples": 2}, "raise --temperature, or leave out --samples"),
        ({"max_rejects": 2.0}, "rejects is 2.0"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(judge, options, words):
    with pytest.raises(ValueError, match=words):
        judge(Scripted(), **options)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin", "a.pt", "a.pth", "tokenizer.model"])
def test_a_fingerprint_tells_checkpoints_apart(tmp_path, weights):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / weights).write_bytes(bytes(5_000_000))
    assert fingerprint_model(str(tmp_path / "a")) == fingerprint_model(str(tmp_path / "b"))
    with open(tmp_path / "b" / weights, "r+b") as file:
        file.seek(4_999_999)
        file.write(b"\1")
    assert fingerprint_model(str(tmp_path / "a")) != fingerprint_model(str(tmp_path / "b"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--model", "{tmp}"], 2, "has no config.json"),
        (["--model", "/nowhere/model"], 2, "is no folder, and no name on the Hugging Face Hub either"),
        (["--model", "m", "--protocol", "reference", "--order", "random"], 2, "leave out --order random"),
        (["--model", "m", "--url", "http://127.0.0.1:1/v1", "--data-parallel", "2"], 2, "not --url"),
        (["--model", "m", "--url", "http://127.0.0.1:1/v1", "--api-key-env", "NO_KEY"], 2, "'NO_KEY'.*not set"),
        (["--model", "m", "--url", "http://127.0.0.1:1/v1", "--gpu-memory-utilization", "0.5"], 2, "not --url"),
        (["--model", "m", "--api-key-env", "KEY"], 2, "--api-key-env is for servers; name them with --url"),
        (["--model", "m", "--tensor-parallel", "2"], 2, "needs"),
    ],
)
def test_what_the_command_refuses(tmp_path, files, capsys, monkeypatch, arguments, code, words):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    data = ["--data", str(files["vl-rewardbench"][0]), "--out", str(tmp_path / "out")]
    assert main(["eval", "run", "vl-rewardbench", *data, *(one.format(tmp=tmp_path) for one in arguments)]) == code
    assert re.search(words, capsys.readouterr().err)


def test_without_figures_of_the_reference_the_command_says_why(judge, tmp_path, files, capsys, monkeypatch):
    def second_only(work, prompt, sample):
        failed = without(work, prompt, "failed", "no answer")[0]
        return failed if prompt.order == "chosen-first" else "2"

    outcome = judge(Scripted(second_only))
    assert outcome.metrics["reference"] is None
    monkeypatch.setattr(command, "evaluate", lambda *_, **__: [outcome])
    argv = ["eval", "run", MM.name, "--model", "m", "--url", "http://127.0.0.1:1/v1", "--protocol", "reference"]
    assert main([*argv, "--data", "data", "--out", str(tmp_path / "out")]) == 1
    assert "no figures of the reference's protocol: they need cases shown" in capsys.readouterr().err


def test_the_engine_is_closed_whatever_happens(judge):
    engine = Scripted(most=1, error=RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        judge(engine)
    assert engine.closed == 1
