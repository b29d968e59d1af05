"""`r1reward eval` on a toy benchmark in each of the three forms: real files, a real model in vLLM, a report."""

import json
import subprocess
import sys
from collections import defaultdict

import pytest

import benchmark_files
from r1reward_verl.judgement import parse
from r1reward_verl.toy import world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SAMPLES = 2
FRAMES = 2


def toy_rows(benchmark, media):
    """The rows of a small file of the benchmark, with questions, responses and pictures of the toy world."""
    rows = {
        "vl-rewardbench": benchmark_files.vl_rows,
        "mm-rlhf-rewardbench": benchmark_files.mm_rows,
        "multimodal-rewardbench": benchmark_files.multimodal_rows,
    }[benchmark]()
    for row, pair in zip(rows, world.draw_pairs(len(rows), 5, benchmark), strict=True):
        chosen, rejected = pair.responses(1)
        if benchmark == "multimodal-rewardbench":
            better = row["Better"]
            row |= {"Text": pair.question, better: chosen, f"Output{3 - int(better[-1])}": rejected}
        else:
            row |= {"prompt": pair.question, "chosen": chosen, "rejected": rejected}
        path = media / (row.get("image") or row.get("Image") or row["video"])
        files = [path / f"c01_{frame:04}.jpeg" for frame in range(1, FRAMES + 1)] if "video" in row else [path]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(world.scene_png(pair))
    return rows


def r1reward(*words):
    done = subprocess.run([sys.executable, "-m", "r1reward_verl.cli", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def runs(demo, tmp_path_factory):
    """Benchmark -> folder of its run with the cold start of the demo, in both orders."""
    folder = tmp_path_factory.mktemp("evaluation")
    media, made = folder / "media", {}
    for benchmark in ("vl-rewardbench", "mm-rlhf-rewardbench", "multimodal-rewardbench"):
        rows, name = toy_rows(benchmark, media), f"{benchmark}.jsonl"
        if benchmark == "multimodal-rewardbench":
            name = "all_data.json"
            (folder / name).write_text(json.dumps(rows))
        else:
            benchmark_files.jsonl(folder / name, rows)
        command = ["eval", "run", benchmark, "--model", demo / "sft/global_step_60/huggingface"]
        command += ["--data", folder / name, "--media", media, "--out", folder / benchmark, "--samples", SAMPLES]
        r1reward(*command, "--max-tokens", 64, "--max-pixels", 3136, "--frames", FRAMES)
        made[benchmark] = folder / benchmark
    return made


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("benchmark", ["vl-rewardbench", "mm-rlhf-rewardbench", "multimodal-rewardbench"])
def test_the_figures_are_those_of_the_judgements(runs, benchmark):
    folder = runs[benchmark]
    cases, judgements = lines(folder / "cases.jsonl"), lines(folder / "judgements.jsonl")
    assert len(judgements) == len(cases) * 2 * (1 + SAMPLES)
    assert {one["status"] for one in judgements} == {"ok"}
    label = {"chosen-first": 1, "rejected-first": 2}
    right = {
        (one["row"], one["order"]): parse(one["text"]).choice == label[one["order"]]
        for one in judgements
        if one["sample"] == 0
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["complete"]
    assert metrics["accuracy"] == pytest.approx(sum(right.values()) / len(right))
    by_category = defaultdict(list)
    for case in cases:
        by_category[case["category"]] += [right[case["row"], order] for order in label]
    for name, values in by_category.items():
        assert metrics["by_category"][name]["accuracy"] == pytest.approx(sum(values) / len(values))
    both = [all(right[case["row"], order] for order in label) for case in cases]
    assert metrics["both_orders_accuracy"] == pytest.approx(sum(both) / len(both))
    first = [right[case["row"], "chosen-first"] for case in cases]
    assert metrics["position_bias"] == pytest.approx(2 * (sum(first) / len(first) - metrics["accuracy"]))
    assert metrics["voting"]["k"] == [1, 2]
    assert metrics["mean_response_tokens"] > 1


def test_what_is_there_is_not_judged_again_and_nothing_is_mixed_with_it(runs, demo):
    folder = runs["vl-rewardbench"]
    before = (folder / "judgements.jsonl").read_bytes()
    command = ["eval", "run", "vl-rewardbench", "--model", demo / "sft/global_step_60/huggingface"]
    command += ["--data", folder.parent / "vl-rewardbench.jsonl", "--media", folder.parent / "media", "--out", folder]
    command += ["--samples", SAMPLES, "--max-pixels", 3136, "--frames", FRAMES]
    r1reward(*command, "--max-tokens", 64)
    other = [sys.executable, "-m", "r1reward_verl.cli", *map(str, command), "--max-tokens", "63"]
    done = subprocess.run(other, capture_output=True, text=True)
    assert done.returncode == 1
    assert "max_tokens was 64 and is 63 now" in done.stderr
    assert (folder / "judgements.jsonl").read_bytes() == before


def test_the_demos_two_runs_are_compared_and_shown(demo):
    runs = [demo / "evaluation" / name for name in ("sft", "sft+rl")]
    text = r1reward("eval", "compare", *runs)
    assert "McNemar" in text
    page = (demo / "evaluation" / "report.html").read_text()
    for run in runs:
        assert run.name in page
    assert "Content-Security-Policy" in page
