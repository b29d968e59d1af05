"""What only a GPU can show, in one command: `make gpu-check`, or `python benchmarks/gpu_check.py`.

    numbers    estimator, loss and gradient in bf16 against float64          needs torch alone
    loss       time, memory and kernels of the loss                          needs torch alone
    vanilla    the same beside verl's `vanilla`                              verl
    step       an FSDP2 step of a mid-size model with either loss            verl
    memory     parts of the memory of a step of the 7B shape                 verl
    rules      two steps of `main_ppo` on the toy world, judge=rules         verl, vLLM
    colocated  the same with a judge model on the same GPU                   verl, vLLM
    pool       the same with a judge model on a second GPU                   verl, vLLM, two GPUs
    evaluate   `r1reward eval run` with the checkpoint of `rules`            vLLM

Each section runs in a process of its own. Where a package is missing or a section fails, a sentence says so and the
next one runs; results are written after each. `--device cpu` runs the same code at small sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

try:
    import torch
except ModuleNotFoundError:
    sys.exit(f"{sys.executable} has no torch, which all sections need. Name another Python: make gpu-check PYTHON=...")

from _bench import RESULTS, Figure, as_result, circumstances, print_table

SECTIONS = ("numbers", "loss", "vanilla", "step", "memory", "rules", "colocated", "pool", "evaluate")
PACKAGES = ("torch", "verl", "vllm", "transformers", "flash-attn", "r1reward-verl")
TIMEOUT = 1800  # seconds of a section; the toy's judge model is trained in two minutes


def run_section(name: str, device: str, folder: Path) -> dict[str, Any]:
    """Run a section in a process of its own and return what it wrote, or a sentence on how it ended."""
    result, log = folder / f"{name}.json", folder / f"{name}.log"
    result.unlink(missing_ok=True)
    environment = {key: value for key, value in os.environ.items() if key != "VERL_PLATFORM"}
    if device == "cpu":
        environment["VERL_PLATFORM"] = "cpu"
    command = [sys.executable, str(Path(__file__).with_name("_gpu_sections.py")), name, device, str(folder)]
    start = time.monotonic()
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(TIMEOUT)
            ended = f"ended with exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"was still running after {TIMEOUT} s"
        finally:  # with whatever the section has started
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    content: dict[str, Any] = {"status": "failed", "sentence": f"The section {ended}.", "figures": []}
    if result.exists():
        content = json.loads(result.read_text())
    if content["status"] == "failed":
        content["sentence"] += f" Its log is {log}."
    return {**content, "seconds": round(time.monotonic() - start, 1)}


def hardware(device: str) -> str:
    """Return name, memory and driver's CUDA of the GPU."""
    if device == "cpu":
        return "no GPU: a rehearsal at small sizes on the CPU"
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB, CUDA {torch.version.cuda}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections that are asked for; 1 where one failed or missed a target, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=there, help=f"here: {there}")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION", help="default: all")
    parser.add_argument("--folder", type=Path, default=Path("outputs/gpu-check"), help="models, checkpoints and logs")
    options = parser.parse_args(arguments)
    device, folder = options.device, options.folder.absolute()
    if device == "cuda" and there == "cpu":
        print("torch sees no CUDA GPU: nothing was run. `--device cpu` rehearses the sections at small sizes.")
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    # A rehearsal must not take the place of a GPU's figures.
    results = (RESULTS if device == "cuda" else folder) / "gpu_check.json"
    head = {
        "benchmark": "gpu_check",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": hardware(device),
        **circumstances(PACKAGES),
    }
    if device == "cpu":
        print("This is a rehearsal on the CPU: sizes are small and times say nothing about a GPU.")
    sections: dict[str, Any] = {}
    failed = False
    for name in options.only:
        section = run_section(name, device, folder)
        figures = [Figure(**figure) for figure in section["figures"]]
        print(f"\n{name} ({section['seconds']:g} s): {section['sentence']}", flush=True)
        if figures:
            print_table(figures)
        sections[name] = {**section, "figures": [as_result(figure) for figure in figures]}
        results.write_text(json.dumps({**head, "sections": sections}, indent=2) + "\n")
        failed |= section["status"] == "failed" or any(figure.met is False for figure in figures)
    print(f"\nwritten to {os.path.relpath(results)}")
    return int(failed)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the section ends with this process
    sys.exit(main())
