"""Starting verl as a user does, and reading what it wrote; for all end-to-end tests."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

if TYPE_CHECKING:
    import torch

JUDGE_KEY = "sk-not-for-any-log"
_GROUPS = ("+recipe=", "+reward_model=", "judge=")


def first_log(out: Path) -> Path:
    return out / "logs" / "rl-000.jsonl"


SETTINGS = {
    "sft-steps": 60,  # enough for well-formed judgements, so that rewards differ
    "rl-steps": 3,
    "val-pairs": 2,
    "val-every": 1,
    "test-pairs": 4,
    "samples": 3,
}


def start_demo(out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "r1reward_verl.cli", "demo", "--out", str(out), "--install-seconds", "1"]
    command += [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def logged_steps(log: Path) -> dict[int, dict[str, float]]:
    """Read verl's metrics file, which it may be writing."""
    if not log.exists():
        return {}
    lines = log.read_text().split("\n")[:-1]
    return {entry["step"]: entry["data"] for entry in map(json.loads, lines)}


def load(checkpoint: Path) -> Any:
    """Return a checkpoint's model as transformers reads it."""
    import torch
    import transformers

    (name,) = transformers.AutoConfig.from_pretrained(checkpoint).architectures
    return getattr(transformers, name).from_pretrained(checkpoint, dtype=torch.float32).eval()


def next_tokens(model: Any, demo: Path) -> "torch.Tensor":
    """Return the probabilities of the next token at each place of what the cold start read first, without its image."""
    import torch
    from transformers import AutoTokenizer

    messages = pq.read_table(demo / "selected/sft.parquet", columns=["messages"]).slice(0, 1).to_pylist()[0]["messages"]
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits.softmax(-1)


def training_processes(out: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "verl.trainer.main_ppo" in command and str(out) in command:
            found.append(int(process.name))
    return found


@contextmanager
def served(model: Path, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`vllm serve` of a judge in processes of its own."""
    command = [sys.executable, "-m", "r1reward_verl.cpu.serve", str(model), "--served-model-name", "judge"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "2048", "--limit-mm-per-prompt", '{"image": 0, "video": 0}']
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_API_KEY": JUDGE_KEY},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, "the server did not come up in 5 minutes"
                time.sleep(0.5)
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the server and its engine at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Training:
    """`main_ppo` on the toy world of a demo, from its cold start, in batches of 32; one attempt after the other.

    Args:
        demo: folder of a finished demo.
        out: folder of checkpoints, metrics and logs.
        overrides: what this training has of its own.
    """

    def __init__(self, demo: Path, out: Path, *overrides: str) -> None:
        self.out = out
        self.attempts = 0
        self.command = [
            *(sys.executable, "-m", "verl.trainer.main_ppo"),
            *([] if any(override.startswith("+recipe=") for override in overrides) else ["+recipe=r1_reward"]),
            *(override for override in overrides if override.startswith(_GROUPS)),
            "+hardware=cpu",
            f"data.train_files={demo / 'selected/rl.parquet'}",
            f"data.val_files={demo / 'toy/val.parquet'}",
            "data.max_prompt_length=256",
            "data.max_response_length=64",
            "data.train_batch_size=32",
            "data.seed=0",
            "data.mm_processor_kwargs.max_pixels=3136",
            "data.filter_overlong_prompts=false",
            f"actor_rollout_ref.model.path={demo / 'sft/global_step_60/huggingface'}",
            "actor_rollout_ref.actor.ppo_mini_batch_size=32",
            "actor_rollout_ref.rollout.max_model_len=320",
            "actor_rollout_ref.rollout.max_num_seqs=32",
            "trainer.logger=[console,file]",
            f"trainer.default_local_dir={out / 'checkpoints'}",
            f"trainer.rollout_data_dir={out / 'rollouts'}",
            *("hydra.run.dir=.", "hydra.output_subdir=null"),
            *(override for override in overrides if not override.startswith(_GROUPS)),
        ]

    @property
    def metrics(self) -> dict[int, dict[str, float]]:
        """What the latest attempt logged, by step."""
        return logged_steps(self.out / f"metrics-{self.attempts}.jsonl")

    @property
    def log(self) -> str:
        """What the latest attempt printed."""
        return (self.out / f"log-{self.attempts}.txt").read_text(errors="replace")

    def start(self) -> subprocess.Popen[bytes]:
        """Start an attempt."""
        self.attempts += 1
        self.out.mkdir(exist_ok=True)
        environment = {"VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1"}
        environment["VERL_FILE_LOGGER_PATH"] = str(self.out / f"metrics-{self.attempts}.jsonl")
        with open(self.out / f"log-{self.attempts}.txt", "wb") as log:
            return subprocess.Popen(
                self.command, cwd=self.out, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT
            )

    def run(self) -> int:
        """Run an attempt to its end and return its exit code."""
        process = self.start()
        try:
            return process.wait(timeout=900)
        finally:
            process.kill()

    def processes(self) -> dict[int, str]:
        """Return the processes of the latest attempt with their command lines: they inherit where its metrics go."""
        mark, found = f"VERL_FILE_LOGGER_PATH={self.out / f'metrics-{self.attempts}.jsonl'}".encode(), {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(process.name)] = command.strip()
            except OSError:
                continue  # it has ended, or is another user's
        return {pid: command for pid, command in found.items() if command}  # one without has ended, too

    def rollouts(self, step: int) -> list[dict[str, Any]]:
        """The judgements of a step as verl dumps them."""
        lines = (self.out / "rollouts" / f"{step}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]
