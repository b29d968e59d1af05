"""The stability study's main arms in the real pipeline: `main_ppo` on the toy world of a finished demo.

Each arm and seed is a training from the demo's cold start, once with log-probabilities as they are and once with those
of one token in a hundred wrong by 10 nats. Finished trainings are kept, and the same command resumes.
`benchmarks/results/stability_pipeline.json` and a plot are written at the end.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from summary import PACKAGES, circumstances, interval

from r1reward_verl.plots import colour, in_percent, new_figure, png, tidy
from r1reward_verl.storage import locked, write_json
from r1reward_verl.toy.demo import Demo, DemoSettings
from r1reward_verl.toy.stages import Stages, logged

RESULTS = Path(__file__).parents[1] / "results"
PLUS_PLUS = ["algorithm.adv_estimator=reinforce_plus_plus"]
VANILLA = ["actor_rollout_ref.actor.policy_loss.loss_mode=vanilla"]
# Bounds that bind nothing that float32 can hold.
RAW = [f"actor_rollout_ref.actor.policy_loss.log_ratio_{side}={bound}" for side, bound in (("low", -80), ("high", 80))]
ARMS = {
    "Reinforce++, vanilla loss": ["+recipe=r1_reward", *PLUS_PLUS, *VANILLA],
    "Reinforce++, raw PPO": ["+recipe=r1_reward", *PLUS_PLUS, *RAW],
    "StableReinforce": ["+recipe=r1_reward"],
    "r1_reward_robust": ["+recipe=r1_reward_robust"],
}
CONDITIONS: dict[str, dict[str, str]] = {"clean": {}, "wrong": {"VERL_USE_EXTERNAL_MODULES": "wrong_log_probs"}}
ACCURACY = "val-r1_reward/all/accuracy"


class Trainings(Stages):
    """All trainings of the comparison in one folder.

    Args:
        demo: folder of a finished demo.
        out: folder of the trainings.
    """

    def __init__(self, demo: Path, out: Path) -> None:
        settings = msgspec.convert(json.loads((demo / "summary.json").read_text())["settings"], DemoSettings)
        super().__init__(out, settings)
        self.demo, self.steps = Demo(demo, settings, None), settings.rl_steps

    def run(self, arm: str, condition: str, seed: int) -> dict[str, Any]:
        """Train, if that is not done, and return the figures."""
        name = f"{condition}-{list(ARMS).index(arm)}-{seed}"
        checkpoints = self.out / "checkpoints" / name
        module, _, *base = self.demo.rl_command(checkpoints)
        recipe, *own = ARMS[arm]
        seeds = [f"data.seed={seed}", f"actor_rollout_ref.rollout.seed={seed}"]
        command = [module, recipe, *base, *own, *seeds, f"trainer.save_freq={self.steps}"]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {"PYTHONPATH": path, **CONDITIONS[condition]}
        saved = checkpoints / f"global_step_{self.steps}"
        self.stage(name, lambda: self.train(name, command, self.steps, saved, **environment))
        entries = list(logged(max((self.out / "logs").glob(f"{name}-*.jsonl"))))  # a training begins anew
        steps = [entry["data"] for entry in entries if "actor/grad_norm" in entry["data"]]
        curve = {entry["step"]: entry["data"][ACCURACY] for entry in entries if ACCURACY in entry["data"]}
        gradients = np.array([step["actor/grad_norm"] for step in steps], dtype=float)  # None, as logged: not finite
        return {
            "arm": arm,
            "condition": condition,
            "seed": seed,
            "curve": [[step, round(value, 4)] for step, value in sorted(curve.items())],
            "accuracy": float(np.mean([curve[step] for step in sorted(curve)[-2:]])),
            "largest_gradient": float(gradients[np.isfinite(gradients)].max(initial=0.0)),
            "skipped": int((~np.isfinite(gradients)).sum()),
            "pre_clip_share": _mean(steps, "actor/pre_clip_low") + _mean(steps, "actor/pre_clip_high"),
            "filtered_share": _mean(steps, "stable_reinforce/filtered_samples"),
        }


def _mean(steps: Sequence[Mapping[str, float]], name: str) -> float:
    return float(np.mean([step.get(name) or 0.0 for step in steps]))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("outputs/demo"), help="folder of a finished demo")
    parser.add_argument("--out", type=Path, default=Path("outputs/study-pipeline"), help="folder of the trainings")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm and condition")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of stability_pipeline.json")
    parser.add_argument("--plots", type=Path, default=Path("docs/images"), help="folder of the plot")
    options = parser.parse_args()
    trainings = Trainings(options.demo, options.out)
    with locked(options.out):
        runs = [
            trainings.run(arm, condition, seed)
            for seed in range(options.seeds)
            for condition in CONDITIONS
            for arm in ARMS
        ]
    arms = []
    for condition in CONDITIONS:
        for arm in ARMS:
            mine = [run for run in runs if (run["arm"], run["condition"]) == (arm, condition)]
            mean, low, high = interval([run["accuracy"] for run in mine])
            arms.append({"arm": arm, "condition": condition, "accuracy": mean, "ci95": [low, high], "runs": mine})
            gradient = max(run["largest_gradient"] for run in mine)
            print(
                f"{condition:6} {arm:28} {100 * mean:6.1f} [{100 * low:.1f}, {100 * high:.1f}] gradient {gradient:.3g}"
            )
    options.results.mkdir(parents=True, exist_ok=True)
    write_json(
        options.results / "stability_pipeline.json",
        {"benchmark": "stability_pipeline", "arms": arms, **circumstances(PACKAGES)},
    )
    options.plots.mkdir(parents=True, exist_ok=True)
    (options.plots / "stability-pipeline.png").write_bytes(png(_draw(arms)))


def _draw(arms: Sequence[Mapping[str, Any]]) -> Any:
    figure = new_figure(9, 4)
    titles = {"clean": "Log-probabilities as they are", "wrong": "1% wrong by 10 nats"}
    for axes, condition in zip(figure.subplots(1, 2, sharey=True), CONDITIONS, strict=True):
        for number, arm in enumerate(arm for arm in arms if arm["condition"] == condition):
            for place, run in enumerate(arm["runs"]):
                steps, values = zip(*run["curve"], strict=True)
                axes.plot(steps, values, color=colour(number), linewidth=1, label="" if place else arm["arm"])
        axes.set_xlabel("step")
        in_percent(axes.yaxis)
        tidy(axes, titles[condition])
    axes.legend(fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    main()
