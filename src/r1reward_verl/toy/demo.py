"""The whole of R1-Reward on a machine without a GPU, on a toy world that it builds itself: `r1reward demo`.

    toy       pictures, preferences and a random model of the Qwen family           (r1reward toy build)
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

import json
import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from r1reward_verl.judgement import PROMPT, load_template
from r1reward_verl.reports.page import text_table
from r1reward_verl.reports.training import summary_note, summary_table, training_curves, write_training_report
from r1reward_verl.rewards.judges import SERVED_BY_VERL
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import locked, write_json
from r1reward_verl.toy.build import Sizes, build
from r1reward_verl.toy.model import PIXELS, ModelName
from r1reward_verl.toy.stages import CLI, ONE_PROCESS, DemoError, Stages, checkpoint_of, logged, process_of
from r1reward_verl.toy.teacher import MODEL
from r1reward_verl.toy.world import Level

SFT_BATCH = 32
RL_BATCH = 128
# Shares of the preferences, a little less, that the teacher solves, and that are hard for it: half of the questions
# are those that it hurries over, in scenes a quarter.
_SHARES: dict[Level, tuple[float, float]] = {
    "single": (0.8, 0.24),
    "distractors": (0.8, 0.24),
    "scenes": (0.88, 0.17),
}
PROMPT_TOKENS = 128
RESPONSE_TOKENS = 96


class DemoSettings(Settings, frozen=True, kw_only=True):
    """What the demo does; a demo with another value of any of these is another demo."""

    model: Annotated[ModelName, setting("The tiny model that is trained; qwen3 reads texts only.")] = "qwen2.5-vl"
    level: Annotated[
        Level,
        setting(
            "What pictures show: one thing; one and a distractor; or scenes of four, with questions about number and "
            "place too."
        ),
    ] = "distractors"
    seed: Annotated[int, setting("Seed of the toy world and of the model's initial weights.")] = 0
    sft_steps: Annotated[int, setting("Optimizer steps of the cold start, at 32 judgements a step.", ge=1)] = 400
    rl_steps: Annotated[int, setting("Steps of StableReinforce, at 128 rollouts a step.", ge=1)] = 12
    val_pairs: Annotated[int, setting("Held-out pairs of the curves, judged in both orders.", ge=1)] = 100
    val_every: Annotated[int, setting("RL steps between two validations and checkpoints.", ge=1)] = 4
    test_pairs: Annotated[int, setting("Held-out pairs of the final comparison, judged in both orders.", ge=1)] = 400
    samples: Annotated[int, setting("Judgements sampled for a vote.", ge=1)] = 5
    judge: Annotated[
        Literal["rules", "none", "pool", "colocated"],
        setting("Judge of the consistency in RL; pool and colocated are a tiny model, trained with the toy world."),
    ] = "rules"
    prompt_template: Annotated[
        str | None,
        setting(
            "File with another prompt. Where it asks for a confidence, as examples/prompt_with_confidence.txt, the "
            "teacher states one.",
            metavar="FILE",
        ),
    ] = None

    @property
    def sft_rows(self) -> int:
        """Number of judgements of the cold start, each of which is learned from once."""
        return self.sft_steps * SFT_BATCH

    @property
    def sizes(self) -> Sizes:
        """Counts of the toy world that these settings use up."""
        solved, hard = _SHARES[self.level]
        preferences = max(self.sft_rows / solved, self.rl_steps * RL_BATCH / hard)
        return Sizes(preferences=4 * math.ceil(preferences / 4), val_pairs=self.val_pairs, test_pairs=self.test_pairs)


def picture_bounds(model: ModelName) -> list[str]:
    """Return settings of verl's trainers for the toy's pictures, which are smaller than any these models are meant for.

    Both bounds, since the smallest picture of the recipes, for Qwen2.5-VL, is no multiple of Qwen3-VL's tokens.
    """
    pixels = PIXELS[model]
    return [f"data.mm_processor_kwargs.{bound}={pixels}" for bound in ("min_pixels", "max_pixels") if pixels]


class Demo(Stages):
    """One demo in one folder.

    Args:
        out: Folder of everything the demo writes; an earlier demo's with the same settings is resumed.
        settings: What to do.
        install_seconds: Seconds that the installation took, for the summary; None if unknown.

    Raises:
        DemoError: `out` holds a demo with other settings.
    """

    def __init__(self, out: str | os.PathLike[str], settings: DemoSettings, install_seconds: float | None) -> None:
        super().__init__(out, settings)
        self.settings = settings
        self.install_seconds = install_seconds
        self.toy = self.out / "toy"
        self.annotated = self.out / "annotated.parquet"
        self.selected = self.out / "selected"

    def run(self) -> dict[str, Any]:
        """Run the stages that are not finished and return the summary.

        Raises:
            DemoError: a command ended with an error.
            LockedError: another process runs this demo: they would write over each other's checkpoints.
        """
        with locked(self.out):
            seconds = {
                "install": self.install_seconds,
                "toy": self.stage("toy", self._build_toy),
                "annotate": self.stage("annotate", self._annotate),
                "select": self.stage("select", self._select),
                "sft": self.stage("sft", self._sft),
                "rl": self.stage("rl", self._rl),
                "eval": self.stage("eval-sft", lambda: self._evaluate("sft"))
                + self.stage("eval-rl", lambda: self._evaluate("rl")),
            }
            return self._report(seconds)

    # --- stages ---

    def _build_toy(self) -> None:
        settings = self.settings
        judge = settings.judge in SERVED_BY_VERL
        build(
            self.toy,
            settings.sizes,
            seed=settings.seed,
            template=load_template(settings.prompt_template) if settings.prompt_template else PROMPT,
            judge=judge,
            model=settings.model,
            level=settings.level,
        )

    def _annotate(self) -> None:
        command = [*CLI, "toy", "teacher", "--port", "0", "--seed", str(self.settings.seed)]
        log = self.out / "logs" / "teacher.log"
        with open(log, "ab") as file, process_of(command, stdout=subprocess.PIPE, stderr=file) as teacher:
            assert teacher.stdout is not None
            url = teacher.stdout.readline().decode().strip()
            if not url:
                raise DemoError(f"the teacher did not start; its log is {log}")
            data = [str(self.toy / "preferences.parquet"), str(self.annotated)]
            self.command(
                "annotate", ["data", "annotate", *data, "--url", url, "--model", MODEL, *self._prompt("--prompt")]
            )

    def _select(self) -> None:
        settings = self.settings
        sizes = ["--sft-size", str(settings.sft_rows), "--rl-size", str(settings.rl_steps * RL_BATCH)]
        self.command("select", ["data", "select", str(self.annotated), str(self.selected), *sizes, *self._prompt()])

    def _sft(self) -> None:
        steps = self.settings.sft_steps
        self.train(
            "sft",
            [
                "verl.trainer.sft_trainer",
                "+recipe=cold_start",
                "+sft_hardware=cpu",
                f"data.train_files={self.selected / 'sft.parquet'}",
                f"data.train_batch_size={SFT_BATCH}",
                "trainer.total_epochs=1",
                f"trainer.total_training_steps={steps}",
                f"data.max_length={PROMPT_TOKENS + RESPONSE_TOKENS}",
                *picture_bounds(self.settings.model),
                f"model.path={self.toy / 'model'}",
                # Two million parameters take larger steps than seven billion.
                "optim.lr=2e-3",
                "optim.lr_warmup_steps_ratio=0.05",
                f"trainer.save_freq={max(1, steps // 2)}",
                f"trainer.default_local_dir={self.out / 'sft'}",
            ],
            steps,
            self.checkpoint("sft"),
            **ONE_PROCESS,
        )

    def _rl(self) -> None:
        self.train("rl", self.rl_command(self.out / "rl"), self.settings.rl_steps, self.checkpoint("rl"))

    def rl_command(self, out: Path) -> list[str]:
        """Return the module and overrides that train from the cold start on the hard preferences."""
        settings = self.settings
        return [
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
            *picture_bounds(settings.model),
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
            f"trainer.default_local_dir={out}",
            *([f"reward.reward_model.model_path={self.toy / 'judge'}"] if settings.judge in SERVED_BY_VERL else []),
        ]

    def _evaluate(self, stage: Literal["sft", "rl"]) -> None:
        command = ["eval", "run", "preferences", "--model", str(self.checkpoint(stage))]
        command += ["--data", str(self.toy / "test.parquet"), "--out", str(self.evaluation(stage))]
        command += ["--samples", str(self.settings.samples), "--max-tokens", str(RESPONSE_TOKENS)]
        command += self._prompt()
        if pixels := PIXELS[self.settings.model]:
            command += ["--min-pixels", str(pixels), "--max-pixels", str(pixels)]
        self.command(f"eval-{stage}", command)

    def _report(self, seconds: Mapping[str, float | None]) -> dict[str, Any]:
        folders = {stage: self.evaluation(stage) for stage in ("sft", "rl")}
        runs = [str(folder) for folder in folders.values()]
        self.command("report", ["eval", "report", *runs, "--out", str(self.out / "evaluation")])
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

    def _prompt(self, option: str = "--prompt-template") -> list[str]:
        path = self.settings.prompt_template
        return [option, path] if path else []

    def checkpoint(self, stage: Literal["sft", "rl"]) -> Path:
        """Return the Hugging Face folder that `sft` or `rl` ended with."""
        return checkpoint_of(self.out, stage, self.settings.sft_steps if stage == "sft" else self.settings.rl_steps)

    def evaluation(self, stage: str) -> Path:
        """Return the folder of the evaluation of `sft` or `rl`."""
        return self.out / "evaluation" / {"sft": "sft", "rl": "sft+rl"}[stage]


def _reward_share(logs: Sequence[Path]) -> float:
    """Return what the reward workers took of the time of the training steps, as a share."""
    steps = [entry["data"] for log in logs for entry in logged(log) if "reward/seconds_total" in entry["data"]]
    taken = sum(step["timing_s/step"] for step in steps)
    return sum(step["reward/seconds_total"] for step in steps) / taken if taken else 0.0
