"""vLLM in process: what it is given is what training sees, and several engines share the cases."""

import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest

from r1reward_verl.cpu import environment
from r1reward_verl.data.prompt_length import PromptLength
from r1reward_verl.engines.base import EngineError, Judgement, Prompt, Sampling, Work
from r1reward_verl.engines.vllm import VLLMEngine, checkpoint, gpus_of_workers, starting
from r1reward_verl.engines.worker_pool import WorkerPool
from r1reward_verl.judgement import build_prompt
from r1reward_verl.toy import world
from r1reward_verl.toy.model import save_model

ORDERS = ("chosen-first", "rejected-first")


class Stand:
    """An engine that says which worker it is and which GPUs it sees; `fault` makes it fail."""

    def __init__(self, name, fault=None):
        if fault == "build":
            raise ValueError("no such model")
        self.name, self.fault = name, fault

    def generate(self, work):
        for case in work:
            if self.fault == "judge" and case.row > 3:
                raise ValueError("out of memory")
            if self.fault == "die" and case.row > 3:
                os._exit(7)
            if self.fault == "slow":
                time.sleep(0.4)
            for prompt in case.prompts:
                text = f"{self.name} {os.environ.get('CUDA_VISIBLE_DEVICES')} {prompt.text}"
                yield [Judgement(case.row, prompt.order, sample, text) for sample in prompt.samples]


def cases(count, text="t"):
    return (Work(row, (), None, tuple(Prompt(order, text, (0, 1)) for order in ORDERS)) for row in range(1, count + 1))


def pool(*faults, gpus=None):
    builders = [partial(Stand, f"worker {number}", fault) for number, fault in enumerate(faults)]
    return WorkerPool(builders, gpus or [None] * len(faults))


def judge(workers, work):
    try:
        return [one for judgements in workers.generate(work) for one in judgements]
    finally:
        workers.close()


def test_workers_share_the_cases_and_judge_each_once():
    said = judge(pool(None, None, gpus=["0,1", "2,3"]), cases(40))
    assert sorted((one.row, one.order, one.sample) for one in said) == [
        (row, order, sample) for row in range(1, 41) for order in ORDERS for sample in (0, 1)
    ]
    assert {one.text for one in said} == {"worker 0 0,1 t", "worker 1 2,3 t"}


def test_a_slow_worker_does_not_hold_the_others_up():
    said = judge(pool("slow", None), cases(40))
    slow = sum(one.text.startswith("worker 0") for one in said)
    assert len(said) > 3 * slow


def test_large_cases_and_judgements_do_not_block_each_other():
    said = judge(pool(None), cases(20, "x" * 300_000))
    assert len(said) == 80


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("build", "worker 1 of 2: ValueError: no such model"),
        ("judge", "worker 1 of 2: ValueError: out of memory"),
        ("die", "worker 1 of 2 ended with code 7"),
    ],
)
def test_a_worker_that_fails_ends_the_run_with_its_reason(fault, words):
    with pytest.raises(EngineError, match=words):
        judge(pool("slow", fault), cases(100))


def test_workers_end_when_nobody_wants_more_and_when_the_parent_is_killed():
    workers = pool("slow", "slow")
    said = workers.generate(cases(1000))
    next(said)
    start = time.monotonic()
    workers.close()
    assert time.monotonic() - start < 5
    assert not any(process.is_alive() for process, _ in workers._workers)

    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from test_vllm import cases, pool\n"
        "if __name__ == '__main__':\n"
        "    workers = pool('slow'); next(workers.generate(cases(1000)))\n"
        "    print(workers._workers[0][0].pid, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, os.path.dirname(__file__)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}"):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.1)


def test_each_worker_has_its_slice_of_the_gpus(monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert gpus_of_workers(2, 2) == ["4,5", "6,7"]
    assert gpus_of_workers(1, 3) == ["4", "5", "6"]
    with pytest.raises(ValueError, match=r"times --data-parallel 3 needs 6 GPUs, and 4 are visible.*'4,5,6,7'"):
        gpus_of_workers(2, 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match=r"needs 1 GPUs, and 0 are visible.*set VERL_PLATFORM=cpu"):
        gpus_of_workers(1, 1)


def test_without_gpus_there_may_be_several_engines_but_none_in_parts(monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert gpus_of_workers(1, 2) == [None, None]
    with pytest.raises(ValueError, match="--tensor-parallel needs GPUs"):
        gpus_of_workers(2, 1)
    with pytest.raises(ValueError, match="data_parallel is 0"):
        gpus_of_workers(1, 0)


def test_a_checkpoint_is_a_folder_or_a_name_on_the_hub(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert checkpoint(tmp_path) == tmp_path
    assert checkpoint("Qwen/Qwen2.5-VL-7B-Instruct") is None
    with pytest.raises(ValueError, match="is no folder, and no name"):
        checkpoint(tmp_path / "gone")


def test_a_folder_without_a_checkpoint_is_refused_before_vllm_is_imported(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"{str(tmp_path)!r} has no config.json")):
        VLLMEngine(tmp_path, Sampling())
    heavy = "{'torch', 'vllm', 'transformers', 'pandas', 'matplotlib', 'verl'}"
    code = f"import sys, r1reward_verl.cli.eval.run; print({heavy} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


def test_a_model_that_reads_texts_judges_no_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr("r1reward_verl.engines.vllm.check_platform", lambda: None)
    save_model(tmp_path, ["user\n", "assistant\n"], 0, "qwen3")
    for media in ({"images": 1}, {"images": 0, "frames": 4}):
        with pytest.raises(ValueError, match=r"reads texts only, and there are pictures or videos to judge"):
            VLLMEngine(tmp_path, Sampling(), **media)


def test_the_environment_of_the_cpu_is_applied_before_torch_is_imported_and_leaves_the_users_values():
    code = (
        "import os, sys; from r1reward_verl.cpu import environment; environment.apply(); "
        "print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'], os.environ['VLLM_CPU_KVCACHE_SPACE'])"
    )
    clean = {name: value for name, value in os.environ.items() if name not in environment.ENVIRONMENT}
    given = {**clean, "VLLM_CPU_KVCACHE_SPACE": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "PASSIVE", "7"]


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(RuntimeError, EngineError), (MemoryError, EngineError), (ValueError, ValueError), (OSError,) * 2],
)
def test_what_vllm_raises_when_it_cannot_start_is_an_error_of_the_engine(raised, seen):
    with pytest.raises(seen, match="no room"), starting():
        raise raised("no room")


def test_a_vllm_that_dies_is_an_error_of_the_engine():
    class Dying(VLLMEngine):
        """Everything but vLLM itself."""

        def __init__(self):
            self._llm = SimpleNamespace(llm_engine=self)
            self._room, self._sampling = 10, Sampling()
            self._parameters = lambda temperature, count: None

        def _prepare(self, work):
            return [(prompt, {}) for prompt in work.prompts]

        def _render(self, work, prompt, given):
            return SimpleNamespace()

        def add_request(self, *_):
            return "internal"

        def step(self):
            raise RuntimeError("EngineCore died")

        def abort_request(self, *_, **__):
            raise AssertionError("it is dead")

    with pytest.raises(EngineError, match="vLLM has failed: RuntimeError: EngineCore died"):
        list(Dying().generate(cases(3)))


def test_vllm_judges_pictures_videos_and_prompts_that_are_too_long(tmp_path):
    """The whole command with a real vLLM and a tiny Qwen3-VL (about half a minute)."""
    pairs = world.draw_pairs(8, 0, "test")
    corpus = [world.judgement(pair, label) for pair in pairs for label in (1, 2)]
    corpus += [build_prompt(pair.question, *pair.responses(1)) for pair in pairs]
    save_model(tmp_path / "model", [*corpus, "user\n", "assistant\n"], 0, "qwen3-vl")
    (tmp_path / "mcq").mkdir()
    (tmp_path / "video" / "clip").mkdir(parents=True)
    rows = []
    for number, pair in enumerate(pairs):
        (tmp_path / "mcq" / f"{number}.png").write_bytes(world.scene_png(pair))
        (tmp_path / "video" / "clip" / f"{number}.png").write_bytes(world.scene_png(pair))
        right, wrong = pair.responses(1)
        row = {"id": f"mcq{number}", "prompt": pair.question, "chosen": right, "rejected": wrong}
        rows.append({**row, "image": f"mcq/{number}.png"})
    film = {key: value for key, value in rows[0].items() if key != "image"} | {"video": "video/clip"}
    rows += [film, {**rows[1], "chosen": "It is red. " * 3000}]
    data = tmp_path / "bench.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    arguments = ["mm-rlhf-rewardbench", "--model", tmp_path / "model", "--data", data, "--out", tmp_path / "out"]
    arguments += ["--samples", "2", "--max-tokens", "24", "--frames", "5"]
    command = [sys.executable, "-m", "r1reward_verl.cli", "eval", "run", *map(str, arguments)]
    given = {**os.environ, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr

    said = [json.loads(line) for line in (tmp_path / "out" / "judgements.jsonl").read_text("utf-8").splitlines()]
    assert sorted((one["row"], one["order"], one["sample"]) for one in said) == [
        (row, order, sample) for row in range(1, 11) for order in ORDERS for sample in range(3)
    ]
    assert {one["status"] for one in said if one["row"] < 10} == {"ok"}
    assert {one["status"] for one in said if one["row"] == 10} == {"too_long"}
    assert all(0 < one["tokens"] <= 24 for one in said if one["row"] < 10)
    assert {one["finish_reason"] for one in said if one["row"] < 10} <= {"stop", "length"}
    samples = [{one["text"] for one in said if one["row"] == row} for row in range(1, 10)]
    assert all(len(texts) > 2 for texts in samples)

    # verl's datasets would count the same tokens for these prompts.
    length = PromptLength(str(tmp_path / "model"), 3136, 501_760)
    text = build_prompt(rows[0]["prompt"], rows[0]["chosen"], rows[0]["rejected"])
    picture = length.count([{"role": "user", "content": f"<image>{text}"}], images=[((56, 56), ())])
    bounds = (("min_pixels", 3136), ("max_pixels", 501_760))
    video = length.count([{"role": "user", "content": f"<video>{text}"}], videos=[(((56, 56),) * 5, bounds)])
    assert {one["prompt_tokens"] for one in said if one["row"] == 1 and one["order"] == ORDERS[0]} == {picture}
    assert {one["prompt_tokens"] for one in said if one["row"] == 9 and one["order"] == ORDERS[0]} == {video}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["pairs"], metrics["rows"], metrics["too_long"], metrics["complete"]) == (10, 20, 2, True)
