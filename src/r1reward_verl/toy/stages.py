"""The stages of a demo: commands that a user would run, in a folder that is resumed when the demo is started again."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import msgspec

from r1reward_verl.cpu.environment import ENVIRONMENT
from r1reward_verl.errors import R1RewardError
from r1reward_verl.progress import progress_bar
from r1reward_verl.settings import Settings
from r1reward_verl.storage import locked, write_json

TAIL = 30
"""Lines of a failed command's log that are shown."""
CLI = (sys.executable, "-m", "r1reward_verl.cli")
# What torchrun would set for one process, without a second process that imports torch first.
ONE_PROCESS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
_PR_SET_PDEATHSIG = 1
# Loaded here: a child between fork and exec must not load libraries.
_LIBC = ctypes.CDLL(None)
# Called while a command runs: notes the seconds of the stage, each thread's of its own.
_BEAT: ContextVar[Callable[[], object]] = ContextVar("_BEAT", default=lambda: None)


class DemoError(R1RewardError):
    """The folder belongs to another demo, or a command of a stage failed; the message says where its log lies."""


def remove_demo(out: Path) -> None:
    """Remove a folder if it holds a demo.

    Raises:
        LockedError: another process runs it.
    """
    if (out / "settings.json").exists():
        with locked(out):
            shutil.rmtree(out)


def checkpoint_of(folder: Path, stage: Literal["sft", "rl"], steps: int) -> Path:
    """Return the Hugging Face folder that verl's trainer of a stage leaves in `folder` after so many steps."""
    saved = folder / stage / f"global_step_{steps}"
    return (saved if stage == "sft" else saved / "actor") / "huggingface"


class Stages:
    """A demo in a folder.

    Args:
        out: Folder of everything the demo writes; an earlier demo's with the same settings is resumed.
        settings: What to do.

    Raises:
        DemoError: `out` holds a demo with other settings.
    """

    def __init__(self, out: str | os.PathLike[str], settings: Settings) -> None:
        self.out = Path(out).resolve()
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        file, wanted = self.out / "settings.json", msgspec.structs.asdict(settings)
        found = json.loads(file.read_text()) if file.exists() else wanted
        different = {
            key: (found.get(key), wanted.get(key)) for key in wanted | found if found.get(key) != wanted.get(key)
        }
        if different:
            raise DemoError(
                f"{self.out} holds a demo with other settings (there, asked for): {different}; "
                "name another folder with --out, or remove that one"
            )
        write_json(file, wanted)

    def stage(self, name: str, work: Callable[[], None]) -> float:
        """Run `work` unless it is done, and return the seconds it took, those of interrupted attempts included."""
        marker = self.out / "stages" / f"{name}.json"
        marker.parent.mkdir(exist_ok=True)
        state = json.loads(marker.read_text()) if marker.exists() else {"done": False, "seconds": 0.0}
        if state["done"]:
            print(f"{name}: done before, in {state['seconds']:.0f} s", flush=True)
            return float(state["seconds"])
        print(f"{name}: {'resumed' if marker.exists() else 'started'}", flush=True)
        start = time.monotonic()

        def note(done: bool = False) -> float:
            seconds = float(state["seconds"]) + time.monotonic() - start
            write_json(marker, {"done": done, "seconds": seconds})
            return seconds

        _BEAT.set(note)
        note()
        try:
            work()
        finally:
            note()
        seconds = note(done=True)
        print(f"{name}: {seconds:.0f} s", flush=True)
        return seconds

    def command(self, stage: str, arguments: Sequence[str]) -> None:
        """Run a command of `r1reward`, which shows its own progress bar on standard error."""
        log = self.out / "logs" / f"{stage}.log"
        with open(log, "ab") as file, process_of([*CLI, *arguments], stdout=file) as process:
            while not _has_ended(process):
                _BEAT.get()()
        _check_exit(process, log)

    def train(self, stage: str, command: Sequence[str], steps: int, checkpoint: Path, **environment: str) -> None:
        """Run one of verl's trainers, which ends with a checkpoint, with a progress bar read from its metrics."""
        logs = self.out / "logs"
        # verl begins its metrics file anew at each start: one file an attempt keeps those before.
        attempt = len(list(logs.glob(f"{stage}-*.jsonl")))
        metrics, log = logs / f"{stage}-{attempt:03d}.jsonl", logs / f"{stage}.log"
        arguments = [sys.executable, "-m", *command, "trainer.logger=[console,file]", "hydra.run.dir=."]
        arguments += ["hydra.output_subdir=null", "hydra/job_logging=disabled"]
        environment["VERL_FILE_LOGGER_PATH"] = str(metrics)
        with (
            open(log, "ab") as file,
            process_of(arguments, environment, cwd=self.out, stdout=file, stderr=subprocess.STDOUT) as process,
            progress_bar(total=steps, unit="step", desc=stage) as progress,
        ):
            ended = False
            while not ended:
                ended = _has_ended(process)
                _BEAT.get()()
                step, note = _last_metrics(metrics)
                progress.set_postfix_str(note, refresh=False)
                progress.update(max(0, step - progress.n))
        _check_exit(process, log)
        if not checkpoint.is_dir():
            raise DemoError(f"{stage} ended without the checkpoint {checkpoint}; its log is {log}")


@contextmanager
def process_of(
    command: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a process group of its own, and leave nothing of the group behind whatever happens."""
    # A cluster that the user works with is not for the toy. OpenMP reads its variables before a trainer could set them,
    # and its threads, left to spin, make steps ten times as long where others need the cores.
    inherited = ENVIRONMENT | {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    own = {"VERL_PLATFORM": "cpu", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", **(environment or {})}
    parent = os.getpid()

    def end_with_parent() -> None:
        # A demo that was killed and started again must not meet the first one's training.
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before that
            os._exit(1)

    process = subprocess.Popen(
        command, env=inherited | own, start_new_session=True, preexec_fn=end_with_parent, **options
    )
    try:
        yield process
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the process and its children; Ray's daemons have sessions of their own and follow it."""
    deadline = time.monotonic() + (20.0 if process.poll() is None else 3.0)
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()  # an ended process is in its group until this
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait for half a second at most."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.5)
    return process.returncode is not None


def _check_exit(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.returncode:
        tail = log.read_text(errors="replace").splitlines()[-TAIL:]
        raise DemoError(
            "\n".join(tail) + f"\n\nthe command ended with code {process.returncode}; its whole log is {log}. "
            "Started again, the demo resumes here."
        )


def logged(metrics: Path, last: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the (last) entries of verl's metrics file, without a line that is being written or was cut off."""
    for line in metrics.read_text().splitlines()[-last:] if metrics.exists() else ():
        with suppress(ValueError):
            yield json.loads(line)


def _last_metrics(metrics: Path) -> tuple[int, str]:
    """Return the last step in verl's metrics file and a few words on it."""
    step, note = 0, ""
    for entry in logged(metrics, last=3):
        step = entry["step"]
        for key, word in (("critic/score/mean", "reward"), ("train/loss", "loss")):
            if key in entry["data"]:
                note = f"{word} {entry['data'][key]:.3f}"
    return step, note
