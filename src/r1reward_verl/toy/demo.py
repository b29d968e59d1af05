"""The whole of R1-Reward on a machine without a GPU, on a toy world that it builds itself: `r1reward demo`.

    toy       pictures, preferences and a random Qwen2.5-VL                         (r1reward toy build)
    annotate  a teacher behind a local endpoint judges them, up to three times      (r1reward data annotate)
    select    what it solved for the cold start, what it found hard for RL          (r1reward data select)
    sft       cold start on the teacher's judgements                                (verl's SFT trainer)
    rl        StableReinforce on the hard preferences                               (verl's main_ppo, vLLM, FSDP2, Ray)
    eval      both checkpoints on held-out pairs in both orders, greedy and voting  (r1reward eval run, vLLM)
    report    summary.json, report.html, report.md and plots; the judgements        (r1reward eval report)

Each stage runs as the command a user would run. A finished stage is kept: the demo, started again, resumes there,
and within SFT and RL from the last checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from r1reward_verl.errors import R1RewardError
from r1reward_verl.reports.page import text_table
from r1reward_verl.reports.training import summary_note, summary_table, training_curves, write_training_report
from r1reward_verl.rewards.judges import SERVED_BY_VERL
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import locked, write_json
from r1reward_verl.toy.build import Sizes, build
from r1reward_verl.toy.teacher import MODEL

SFT_BATCH = 32
RL_BATCH = 128
PROMPT_TOKENS = 256
RESPONSE_TOKENS = 64
TAIL = 30
"""Lines of a failed command's log that are shown."""
_CLI = (sys.executable, "-m", "r1reward_verl.cli")
_PR_SET_PDEATHSIG = 1
# Loaded here: a child between fork and exec must not load libraries.
_LIBC = ctypes.CDLL(None)


class DemoSettings(Settings, frozen=True, kw_only=True):
    """What the demo does; a demo with another value of any of these is another demo."""

    seed: Annotated[int, setting("Seed of the toy world and of the model's initial weights.")] = 0
    sft_steps: Annotated[int, setting("Optimizer steps of the cold start, at 32 judgements a step.", ge=1)] = 520
    rl_steps: Annotated[int, setting("Steps of StableReinforce, at 128 rollouts a step.", ge=1)] = 15
    val_pairs: Annotated[int, setting("Held-out pairs of the curves, judged in both orders.", ge=1)] = 100
    val_every: Annotated[int, setting("RL steps between two validations and checkpoints.", ge=1)] = 3
    test_pairs: Annotated[int, setting("Held-out pairs of the final comparison, judged in both orders.", ge=1)] = 400
    samples: Annotated[int, setting("Judgements sampled for a vote.", ge=1)] = 5
    judge: Annotated[
        Literal["rules", "none", "pool", "colocated"],
        setting("Judge of the consistency in RL; pool and colocated are a tiny model, trained with the toy world."),
    ] = "rules"

    @property
    def sizes(self) -> Sizes:
        """Counts of the toy world that these settings use up."""
        # The teacher solves about 0.84 of the preferences, and 0.26 are hard for it.
        preferences = max(self.sft_steps * SFT_BATCH / 0.8, self.rl_steps * RL_BATCH / 0.24)
        return Sizes(preferences=4 * math.ceil(preferences / 4), val_pairs=self.val_pairs, test_pairs=self.test_pairs)


class DemoError(R1RewardError):
    """The folder belongs to another demo, or a command of a stage failed; the message says where its log lies."""


class Demo:
    """One demo in one folder.

    Args:
        out: Folder of everything the demo writes; an earlier demo's with the same settings is resumed.
        settings: What to do.
        install_seconds: Seconds that the installation took, for the summary; None if unknown.

    Raises:
        DemoError: `out` holds a demo with other settings.
    """

    def __init__(self, out: str | os.PathLike[str], settings: DemoSettings, install_seconds: float | None) -> None:
        self.out = Path(out).resolve()
        self.settings = settings
        self.install_seconds = install_seconds
        self.toy = self.out / "toy"
        self.annotated = self.out / "annotated.parquet"
        self.selected = self.out / "selected"
        self._beat: Callable[[], object] = lambda: None  # called while a command runs
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

    def run(self) -> dict[str, Any]:
        """Run the stages that are not finished and return the summary.

        Raises:
            DemoError: a command ended with an error.
            LockedError: another process runs this demo: they would write over each other's checkpoints.
        """
        with locked(self.out):
            seconds = {
                "install": self.install_seconds,
                "toy": self._stage("toy", self._build_toy),
                "annotate": self._stage("annotate", self._annotate),
                "select": self._stage("select", self._select),
                "sft": self._stage("sft", self._sft),
                "rl": self._stage("rl", self._rl),
                "eval": self._stage("eval-sft", lambda: self._evaluate("sft"))
                + self._stage("eval-rl", lambda: self._evaluate("rl")),
            }
            return self._report(seconds)

    # --- stages ---

    def _stage(self, name: str, work: Callable[[], None]) -> float:
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

        self._beat = note
        note()
        try:
            work()
        finally:
            note()
        seconds = note(done=True)
        print(f"{name}: {seconds:.0f} s", flush=True)
        return seconds

    def _build_toy(self) -> None:
        settings = self.settings
        build(self.toy, settings.sizes, seed=settings.seed, judge=settings.judge in SERVED_BY_VERL)

    def _annotate(self) -> None:
        command = [*_CLI, "toy", "teacher", "--port", "0", "--seed", str(self.settings.seed)]
        log = self.out / "logs" / "teacher.log"
        with open(log, "ab") as file, _process(command, stdout=subprocess.PIPE, stderr=file) as teacher:
            assert teacher.stdout is not None
            url = teacher.stdout.readline().decode().strip()
            if not url:
                raise DemoError(f"the teacher did not start; its log is {log}")
            data = [str(self.toy / "preferences.parquet"), str(self.annotated)]
            self._command("annotate", ["data", "annotate", *data, "--url", url, "--model", MODEL])

    def _select(self) -> None:
        settings = self.settings
        sizes = ["--sft-size", str(settings.sft_steps * SFT_BATCH), "--rl-size", str(settings.rl_steps * RL_BATCH)]
        self._command("select", ["data", "select", str(self.annotated), str(self.selected), *sizes])

    def _sft(self) -> None:
        steps = self.settings.sft_steps
        self._train(
            "sft",
            [
                "verl.trainer.sft_trainer",
                "+recipe=cold_start",
                "+sft_hardware=cpu",
                f"data.train_files={self.selected / 'sft.parquet'}",
                f"data.train_batch_size={SFT_BATCH}",
                f"data.max_length={PROMPT_TOKENS + RESPONSE_TOKENS}",
                # The toy's pictures are smaller than any that Qwen2.5-VL is meant for.
                "data.mm_processor_kwargs.max_pixels=3136",
                f"model.path={self.toy / 'model'}",
                # Two million parameters take larger steps than seven billion.
                "optim.lr=2e-3",
                "optim.lr_warmup_steps_ratio=0.05",
                f"trainer.save_freq={max(1, steps // 2)}",
                f"trainer.default_local_dir={self.out / 'sft'}",
            ],
            steps,
            # What torchrun would set for one process, without a second process that imports torch first.
            RANK="0",
            LOCAL_RANK="0",
            WORLD_SIZE="1",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT="0",
        )

    def _rl(self) -> None:
        settings = self.settings
        self._train(
            "rl",
            [
                "verl.trainer.main_ppo",
                "+recipe=r1_reward",
                f"judge={settings.judge}",
                "+hardware=cpu",
                f"data.train_files={self.selected / 'rl.parquet'}",
                f"data.val_files={self.toy / 'val.parquet'}",
                f"data.max_prompt_length={PROMPT_TOKENS}",
                f"data.max_response_length={RESPONSE_TOKENS}",
                f"data.train_batch_size={RL_BATCH}",
                "data.seed=0",
                "data.mm_processor_kwargs.max_pixels=3136",
                "data.filter_overlong_prompts=false",
                f"actor_rollout_ref.model.path={self.checkpoint('sft')}",
                f"actor_rollout_ref.actor.ppo_mini_batch_size={RL_BATCH // 2}",
                "actor_rollout_ref.actor.optim.lr=2e-4",
                f"actor_rollout_ref.rollout.max_model_len={PROMPT_TOKENS + RESPONSE_TOKENS}",
                f"actor_rollout_ref.rollout.max_num_seqs={RL_BATCH}",
                "trainer.total_epochs=1",
                f"trainer.total_training_steps={settings.rl_steps}",
                f"trainer.save_freq={settings.val_every}",
                f"trainer.test_freq={settings.val_every}",
                "trainer.max_actor_ckpt_to_keep=2",
                f"trainer.default_local_dir={self.out / 'rl'}",
                *([f"reward.reward_model.model_path={self.toy / 'judge'}"] if settings.judge in SERVED_BY_VERL else []),
            ],
            settings.rl_steps,
        )

    def _evaluate(self, stage: str) -> None:
        command = ["eval", "run", "preferences", "--model", str(self.checkpoint(stage))]
        command += ["--data", str(self.toy / "test.parquet"), "--out", str(self.evaluation(stage))]
        command += ["--samples", str(self.settings.samples), "--max-tokens", str(RESPONSE_TOKENS)]
        self._command(f"eval-{stage}", [*command, "--max-pixels", "3136"])

    def _report(self, seconds: Mapping[str, float | None]) -> dict[str, Any]:
        folders = {stage: self.evaluation(stage) for stage in ("sft", "rl")}
        runs = [str(folder) for folder in folders.values()]
        self._command("report", ["eval", "report", *runs, "--out", str(self.out / "evaluation")])
        logs = sorted((self.out / "logs").glob("rl-*.jsonl"))
        summary: dict[str, Any] = {
            **{stage: json.loads((folder / "metrics.json").read_text()) for stage, folder in folders.items()},
            "steps": self.settings.rl_steps,
            "seconds": seconds,
            "settings": msgspec.structs.asdict(self.settings),
            "reward_share": _reward_share(logs),
        }
        write_training_report(self.out, summary, training_curves(*logs), "evaluation/report.html")
        write_json(self.out / "summary.json", summary)
        print(f"{text_table(summary_table(summary))}\n\n{summary_note(summary)}")
        print(f"\nreport: {self.out / 'report.html'}\njudgements: {self.out / 'evaluation' / 'report.html'}")
        print(f"figures: {self.out / 'summary.json'}")
        return summary

    def checkpoint(self, stage: str) -> Path:
        """Return the Hugging Face folder that `sft` or `rl` ended with."""
        if stage == "sft":
            return self.out / "sft" / f"global_step_{self.settings.sft_steps}" / "huggingface"
        return self.out / "rl" / f"global_step_{self.settings.rl_steps}" / "actor" / "huggingface"

    def evaluation(self, stage: str) -> Path:
        """Return the folder of the evaluation of `sft` or `rl`."""
        return self.out / "evaluation" / {"sft": "sft", "rl": "sft+rl"}[stage]

    # --- commands ---

    def _command(self, stage: str, arguments: Sequence[str]) -> None:
        """Run a command of `r1reward`, which shows its own progress bar on standard error."""
        log = self.out / "logs" / f"{stage}.log"
        with open(log, "ab") as file, _process([*_CLI, *arguments], stdout=file) as process:
            while not _has_ended(process):
                self._beat()
        _check_exit(process, log)

    def _train(self, stage: str, command: Sequence[str], steps: int, **environment: str) -> None:
        """Run one of verl's trainers with a progress bar read from its metrics."""
        from tqdm import tqdm

        logs = self.out / "logs"
        # verl begins its metrics file anew at each start: one file an attempt keeps those before.
        attempt = len(list(logs.glob(f"{stage}-*.jsonl")))
        metrics, log = logs / f"{stage}-{attempt:03d}.jsonl", logs / f"{stage}.log"
        arguments = [sys.executable, "-m", *command, "trainer.logger=[console,file]", "hydra.run.dir=."]
        arguments += ["hydra.output_subdir=null", "hydra/job_logging=disabled"]
        environment["VERL_FILE_LOGGER_PATH"] = str(metrics)
        with (
            open(log, "ab") as file,
            _process(arguments, environment, cwd=self.out, stdout=file, stderr=subprocess.STDOUT) as process,
            tqdm(total=steps, unit="step", desc=stage) as progress,
        ):
            ended = False
            while not ended:
                ended = _has_ended(process)
                self._beat()
                step, note = _last_metrics(metrics)
                progress.set_postfix_str(note, refresh=False)
                progress.update(max(0, step - progress.n))
        _check_exit(process, log)
        if not self.checkpoint(stage).is_dir():
            raise DemoError(f"{stage} ended without the checkpoint {self.checkpoint(stage)}; its log is {log}")


@contextmanager
def _process(
    command: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a process group of its own, and leave nothing of the group behind whatever happens."""
    # A cluster that the user works with is not for the toy.
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
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


def _logged(metrics: Path, last: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the (last) entries of verl's metrics file, without a line that is being written or was cut off."""
    for line in metrics.read_text().splitlines()[-last:] if metrics.exists() else ():
        with suppress(ValueError):
            yield json.loads(line)


def _reward_share(logs: Sequence[Path]) -> float:
    """Return what the reward workers took of the time of the training steps, as a share."""
    steps = [entry["data"] for log in logs for entry in _logged(log) if "reward/seconds_total" in entry["data"]]
    taken = sum(step["timing_s/step"] for step in steps)
    return sum(step["reward/seconds_total"] for step in steps) / taken if taken else 0.0


def _last_metrics(metrics: Path) -> tuple[int, str]:
    """Return the last step in verl's metrics file and a few words on it."""
    step, note = 0, ""
    for entry in _logged(metrics, last=3):
        step = entry["step"]
        for key, word in (("critic/score/mean", "reward"), ("train/loss", "loss")):
            if key in entry["data"]:
                note = f"{word} {entry['data'][key]:.3f}"
    return step, note
