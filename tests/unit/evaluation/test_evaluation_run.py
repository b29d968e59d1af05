"""An evaluation run: what it writes, that it goes on where it stopped, and what it refuses.

A plain function stands in for the model: what it answers is known for every row.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1reward_verl.evaluation.run import evaluate, fingerprint_model, main, read_judgements
from r1reward_verl.inference.vllm_engine import Generation, RowGenerations

RIGHT_REASONS = "<think>The first is right.\nSo response {0} is better.</think><answer>{0}</answer>"


def make_rows(pairs):
    rows = []
    for pair in range(pairs):
        for label in (1, 2):
            responses = ("good", "bad") if label == 1 else ("bad", "good")
            rows.append(
                {
                    "data_source": "toy",
                    "prompt": [{"role": "user", "content": f"pair {pair}: 1 {responses[0]}, 2 {responses[1]}"}],
                    "images": [],
                    "reward_model": {"style": "rule", "ground_truth": str(label)},
                    "extra_info": {
                        "index": len(rows),
                        "pair_id": f"p{pair}",
                        "order": "12" if label == 1 else "21",
                        "category": "colour",
                    },
                }
            )
    return rows


def write_data(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data.parquet", make_rows(6))


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4096 * 20)  # 20 MB
    return folder


class Answers:
    """Answers 1 to every row, votes 1, 1, 2, and remembers the rows; may break down after some of them."""

    def __init__(self, breaks_at=None):
        self.asked = []
        self.breaks_at = breaks_at

    def __call__(self, rows):
        if self.breaks_at is not None and len(self.asked) >= self.breaks_at:
            raise KeyboardInterrupt
        self.asked += [row["prompt"][0]["content"] for row in rows]
        one, two = (Generation(RIGHT_REASONS.format(choice), 7 + choice, "stop") for choice in (1, 2))
        return [RowGenerations(one, (one, one, two)) for _ in rows]


def test_writes_one_line_for_each_row_and_the_metrics(model, data, tmp_path):
    metrics = evaluate(model, data, tmp_path / "out", samples=3, generate=Answers())

    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert metrics["rows"] == 12
    assert metrics["pairs"] == 6
    assert metrics["accuracy"] == metrics["voting_accuracy"] == 0.5
    assert metrics["position_bias"] == 1.0
    assert metrics["consistency"] == 1.0
    assert metrics["mean_response_tokens"] == 8

    lines = [json.loads(line) for line in (tmp_path / "out" / "judgements.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(12))
    assert lines[1]["pair_id"] == "p0"
    assert lines[1]["label"] == 2
    assert lines[1]["category"] == "colour"
    assert lines[1]["greedy"] == {
        "text": RIGHT_REASONS.format(1),
        "tokens": 8,
        "finish_reason": "stop",
        "verdict": 1,
        "failure": None,
        "consistency": 1,
    }
    assert [sample["verdict"] for sample in lines[1]["samples"]] == [1, 1, 2]


@pytest.mark.parametrize(
    ("text", "verdict", "consistency"),
    [
        ("<think>So response 2 is better.</think><answer>1</answer>", 1, -1),
        ("<think>So response 1 is better.</think><answer>3</answer>", None, 0),
        ("So response 1 is better: 1", None, 0),  # no verdict is guessed from a digit
    ],
)
def test_verdict_and_consistency_of_a_judgement(model, data, tmp_path, text, verdict, consistency):
    def generate(rows):
        return [RowGenerations(Generation(text, 1, "stop"), ()) for _ in rows]

    metrics = evaluate(model, data, tmp_path / "out", samples=0, generate=generate)
    judged = read_judgements(tmp_path / "out")[0]["greedy"]
    assert (judged["verdict"], judged["consistency"]) == (verdict, consistency)
    assert metrics["unparsable"] == float(verdict is None)
    assert metrics["voting_accuracy"] is None


def test_goes_on_where_it_was_interrupted(model, data, tmp_path):
    whole = evaluate(model, data, tmp_path / "whole", samples=3, chunk=4, generate=Answers())

    first, second = Answers(breaks_at=8), Answers()
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data, tmp_path / "out", samples=3, chunk=4, generate=first)
    assert len(read_judgements(tmp_path / "out")) == 8
    assert not (tmp_path / "out" / "metrics.json").exists()

    resumed = evaluate(model, data, tmp_path / "out", samples=3, chunk=4, generate=second)
    assert (len(first.asked), len(second.asked)) == (8, 4)
    assert resumed == whole
    assert (tmp_path / "out" / "judgements.jsonl").read_bytes() == (
        tmp_path / "whole" / "judgements.jsonl"
    ).read_bytes()


def test_a_line_cut_off_in_the_middle_is_judged_again(model, data, tmp_path):
    evaluate(model, data, tmp_path / "out", samples=3, generate=Answers())
    file = tmp_path / "out" / "judgements.jsonl"
    before = file.read_bytes()
    file.write_bytes(before[:-20])

    again = Answers()
    evaluate(model, data, tmp_path / "out", samples=3, generate=again)
    assert len(again.asked) == 1
    assert file.read_bytes() == before


def test_a_finished_evaluation_asks_nothing(model, data, tmp_path):
    metrics = evaluate(model, data, tmp_path / "out", samples=3, generate=Answers())
    again = Answers()
    assert evaluate(model, data, tmp_path / "out", samples=3, generate=again) == metrics
    assert again.asked == []


def test_a_limit_can_be_raised_later(model, data, tmp_path):
    few, rest = Answers(), Answers()
    assert evaluate(model, data, tmp_path / "out", samples=3, limit=5, generate=few)["rows"] == 5
    assert evaluate(model, data, tmp_path / "out", samples=3, generate=rest)["rows"] == 12
    assert (len(few.asked), len(rest.asked)) == (5, 7)
    assert evaluate(model, data, tmp_path / "out", samples=3, limit=5, generate=Answers())["rows"] == 5


def test_refuses_to_mix_with_another_evaluation(model, data, tmp_path):
    evaluate(model, data, tmp_path / "out", samples=3, generate=Answers())
    before = (tmp_path / "out" / "judgements.jsonl").read_bytes()

    with pytest.raises(ValueError, match=r"another evaluation \(samples was 3, is now 2\)"):
        evaluate(model, data, tmp_path / "out", samples=2, generate=Answers())

    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="model was"):
        evaluate(model, data, tmp_path / "out", samples=3, generate=Answers())
    content[0] ^= 1
    weights.write_bytes(content)

    write_data(data, make_rows(7))
    with pytest.raises(ValueError, match="data was"):
        evaluate(model, data, tmp_path / "out", samples=3, generate=Answers())
    assert (tmp_path / "out" / "judgements.jsonl").read_bytes() == before


def test_the_model_fingerprint_survives_a_copy_and_notices_other_weights(model, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert fingerprint_model(copy) == fingerprint_model(model)
    (copy / "model.safetensors").write_bytes(bytes(20 * 1024 * 1024))
    assert fingerprint_model(copy) != fingerprint_model(model)


def test_a_damaged_line_is_named(model, data, tmp_path):
    evaluate(model, data, tmp_path / "out", samples=3, generate=Answers())
    file = tmp_path / "out" / "judgements.jsonl"
    file.write_text("{broken\n" + file.read_text())
    with pytest.raises(ValueError, match=r"judgements\.jsonl, line 1: not a judgement"):
        evaluate(model, data, tmp_path / "out", samples=3, generate=Answers())


def without(rows, column):
    return [{key: value for key, value in row.items() if key != column} for row in rows]


def with_label(rows, label):
    rows[3]["reward_model"]["ground_truth"] = label
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (without(make_rows(2), "extra_info"), r"has no column \['extra_info'\]"),
        (with_label(make_rows(2), "3"), r"row 3, reward_model\.ground_truth: label '3'"),
        (make_rows(2) + make_rows(1), "rows 0 and 4 are both pair 'p0', order '12'"),
    ],
)
def test_bad_data_is_refused_before_anything_is_generated(model, tmp_path, rows, message):
    path = write_data(tmp_path / "bad.parquet", rows)
    answers = Answers()
    with pytest.raises(ValueError, match=message):
        evaluate(model, path, tmp_path / "out", samples=3, generate=answers)
    assert answers.asked == []
    assert not (tmp_path / "out").exists()


def test_the_command_names_what_is_wrong_and_fails(model, data, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere"), str(data), str(tmp_path / "out")]) == 1
    assert "has no config.json" in capsys.readouterr().err
    assert main([str(model), str(tmp_path / "no.parquet"), str(tmp_path / "out")]) == 1
    assert "no.parquet' does not exist" in capsys.readouterr().err
    (tmp_path / "text.parquet").write_text("no parquet")
    assert main([str(model), str(tmp_path / "text.parquet"), str(tmp_path / "out")]) == 1
    assert "is not a parquet file" in capsys.readouterr().err
    assert main([str(model), str(data), str(tmp_path / "out"), "--samples", "-1"]) == 1
    assert "samples is -1" in capsys.readouterr().err
