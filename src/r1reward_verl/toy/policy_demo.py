"""The loop closed on a machine without a GPU: a policy trained by a reward model that was trained here.

    data      questions about pictures, with a fallible teacher's answers for the cold start
    sft       the policy learns those answers                                       (verl's SFT trainer)
    grpo-rl   GRPO with the reward model of the demo (SFT + RL) as its only reward   (main_ppo, reward=pairwise)
    grpo-sft  the same with the reward model as it was before RL
    report    how right the answers became, which no reward ever saw

It needs the folder of a finished `r1reward demo` of the level single.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from r1reward_verl.reports.page import text_table
from r1reward_verl.reports.policy import policy_table, write_policy_report
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import locked, write_json
from r1reward_verl.toy import policy, world
from r1reward_verl.toy.build import write_table
from r1reward_verl.toy.demo import picture_bounds
from r1reward_verl.toy.model import PIXELS
from r1reward_verl.toy.policy import Point, read_validations
from r1reward_verl.toy.stages import ONE_PROCESS, DemoError, Stages, checkpoint_of

POLICY_SFT_BATCH = 64
PROMPTS = 32
ROLLOUTS = 8
POLICY_PROMPT_TOKENS = 64
POLICY_RESPONSE_TOKENS = 16
JUDGEMENT_TOKENS = 64
CONTEXT = 384
_REWARD_MODEL_PICTURES = "reward.reward_model.rollout.engine_kwargs.vllm.mm_processor_kwargs"
REWARD_MODELS = {"rl": "reward model after SFT + RL", "sft": "reward model after SFT"}


class PolicyDemoSettings(Settings, frozen=True, kw_only=True):
    """What the demo does; a demo with another value of any of these is another demo."""

    seed: Annotated[int, setting("Seed of the questions and pictures.")] = 0
    sft_steps: Annotated[int, setting("Optimizer steps of the policy's cold start, at 64 answers a step.", ge=1)] = 120
    grpo_steps: Annotated[int, setting("Steps of GRPO, at 32 questions with 8 answers each.", ge=1)] = 15
    val_every: Annotated[int, setting("Steps between two validations.", ge=1)] = 5
    questions: Annotated[int, setting("Number of held-out questions.", ge=2)] = 400


class PolicyDemo(Stages):
    """One demo in one folder.

    Args:
        demo: Folder of a finished `r1reward demo`, whose reward models are the rewards.
        out: Folder of everything this demo writes; an earlier one with the same settings is resumed.
        settings: What to do.

    Raises:
        DemoError: `demo` is not finished, shows scenes or has no pictures, or `out` holds a demo with other settings.
    """

    def __init__(self, demo: str | os.PathLike[str], out: str | os.PathLike[str], settings: PolicyDemoSettings) -> None:
        self.demo = Path(demo).resolve()
        summary = self.demo / "summary.json"
        if not summary.is_file():
            raise DemoError(
                f"{self.demo} holds no finished demo: run `r1reward demo --level single --out {self.demo}` first"
            )
        done = json.loads(summary.read_text())["settings"]
        self.model = done.get("model", "qwen2.5-vl")  # the only one before there was a choice
        if (level := done.get("level", "single")) != "single":
            raise DemoError(
                f"{self.demo} was run with --level {level}, and a policy that answers without reasoning does not learn "
                "such scenes in minutes: name a demo of the level single"
            )
        if PIXELS[self.model] is None:
            raise DemoError(f"{self.demo} was run with --model {self.model}, and this demo asks about pictures")
        self.reward_models = {
            "sft": checkpoint_of(self.demo, "sft", done["sft_steps"]),
            "rl": checkpoint_of(self.demo, "rl", done["rl_steps"]),
        }
        super().__init__(out, settings)
        self.settings = settings
        self.data = self.out / "data"

    def run(self) -> dict[str, Any]:
        """Run the stages that are not finished and return the summary.

        Raises:
            DemoError: a command ended with an error.
            LockedError: another process runs this demo.
        """
        with locked(self.out):
            seconds = {"data": self.stage("data", self._write_data), "sft": self.stage("sft", self._sft)}
            for name in REWARD_MODELS:
                seconds[f"grpo-{name}"] = self.stage(f"grpo-{name}", lambda name=name: self._grpo(name))  # type: ignore[misc]
            return self._report(seconds)

    def _write_data(self) -> None:
        settings = self.settings
        self.data.mkdir(exist_ok=True)
        for name, count, split in (
            ("sft", settings.sft_steps * POLICY_SFT_BATCH, "policy-sft"),
            ("train", settings.grpo_steps * PROMPTS, "policy-train"),
            ("val", settings.questions, "policy-val"),
        ):
            pairs = world.draw_pairs(count, settings.seed, split)
            rows = (
                policy.sft_rows(pairs, settings.seed)
                if name == "sft"
                else policy.rl_rows(pairs, with_reference=name == "val")
            )
            write_table(self.data / f"{name}.parquet", rows)

    def _sft(self) -> None:
        steps = self.settings.sft_steps
        self.train(
            "sft",
            [
                "verl.trainer.sft_trainer",
                "+recipe=cold_start",
                "+sft_hardware=cpu",
                f"data.train_files={self.data / 'sft.parquet'}",
                f"data.train_batch_size={POLICY_SFT_BATCH}",
                f"data.max_length={POLICY_PROMPT_TOKENS + POLICY_RESPONSE_TOKENS}",
                *picture_bounds(self.model),
                f"model.path={self.demo / 'toy' / 'model'}",
                "optim.lr=2e-3",
                "optim.lr_warmup_steps_ratio=0.05",
                f"trainer.save_freq={steps}",
                f"trainer.default_local_dir={self.out / 'sft'}",
            ],
            steps,
            self._policy(),
            **ONE_PROCESS,
        )

    def _grpo(self, name: str) -> None:
        settings = self.settings
        self.train(
            f"grpo-{name}",
            [
                "verl.trainer.main_ppo",
                "+recipe=grpo_pairwise_vlm",
                "+reward_model=pool",
                "+hardware=cpu",
                f"data.train_files={self.data / 'train.parquet'}",
                f"data.val_files={self.data / 'val.parquet'}",
                f"data.max_prompt_length={POLICY_PROMPT_TOKENS}",
                f"data.max_response_length={POLICY_RESPONSE_TOKENS}",
                f"data.train_batch_size={PROMPTS}",
                "data.seed=0",
                *picture_bounds(self.model),
                "data.filter_overlong_prompts=false",
                f"actor_rollout_ref.model.path={self._policy()}",
                f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
                "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192",
                "actor_rollout_ref.actor.use_kl_loss=false",
                "actor_rollout_ref.actor.optim.lr=3e-4",
                f"actor_rollout_ref.rollout.n={ROLLOUTS}",
                f"actor_rollout_ref.rollout.max_model_len={POLICY_PROMPT_TOKENS + POLICY_RESPONSE_TOKENS}",
                f"actor_rollout_ref.rollout.max_num_seqs={PROMPTS * ROLLOUTS}",
                f"reward.reward_model.model_path={self.reward_models[name]}",
                f"reward.reward_model.rollout.max_model_len={CONTEXT}",
                "reward.reward_model.rollout.engine_kwargs.vllm.limit_mm_per_prompt.image=1",
                *(f"{_REWARD_MODEL_PICTURES}.{bound}={PIXELS[self.model]}" for bound in ("min_pixels", "max_pixels")),
                f"reward.pairwise.comparison.max_tokens={JUDGEMENT_TOKENS}",
                "reward.pairwise.both_orders=true",
                "trainer.total_epochs=1",
                f"trainer.total_training_steps={settings.grpo_steps}",
                f"trainer.save_freq={settings.grpo_steps}",
                f"trainer.test_freq={settings.val_every}",
                f"trainer.validation_data_dir={self._validations(name)}",
                f"trainer.rollout_data_dir={self.out / 'rollouts' / name}",
                f"trainer.default_local_dir={self.out / f'grpo-{name}'}",
            ],
            settings.grpo_steps,
            self.out / f"grpo-{name}" / f"global_step_{settings.grpo_steps}" / "actor",
        )

    def _report(self, seconds: Mapping[str, float]) -> dict[str, Any]:
        runs = {name: read_validations(self._validations(name)) for name in REWARD_MODELS}
        summary: dict[str, Any] = {
            "runs": {name: [_as_json(point) for point in points] for name, points in runs.items()},
            "seconds": dict(seconds),
            "settings": msgspec.structs.asdict(self.settings),
        }
        titles = {REWARD_MODELS[name]: points for name, points in runs.items()}
        write_policy_report(self.out, titles, seconds)
        write_json(self.out / "summary.json", summary)
        print(f"{text_table(policy_table(titles))}\n\nreport: {self.out / 'report.html'}")
        print(f"figures: {self.out / 'summary.json'}")
        return summary

    def _policy(self) -> Path:
        return checkpoint_of(self.out, "sft", self.settings.sft_steps)

    def _validations(self, name: str) -> Path:
        return self.out / "validations" / name


def _as_json(point: Point) -> dict[str, Any]:
    return {
        "step": point.step,
        "right": point.right,
        "answers": point.answers,
        "accuracy": point.right / point.answers,
        "win_rate": point.win_rate,
    }
