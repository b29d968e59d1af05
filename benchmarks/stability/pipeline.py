"""Arms compared in the real pipeline: `main_ppo` on the toy world of a demo, from its cold start.

`stability`: the main arms of the study, once with log-probabilities as they are and once with those of one token in a
hundred wrong by 10 nats. `rewards`: the paper's reward and one term beyond it at a time, on preferences in both orders;
for its calibration the demo's prompt asks for a confidence (examples/prompt_with_confidence.txt).

Finished trainings are kept, and the same command resumes. `benchmarks/results/pipeline_COMPARISON.json` and a plot are
written at the end.
"""

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from summary import PACKAGES, circumstances, difference, interval

from r1reward_verl.plots import colour, in_percent, new_figure, png, tidy
from r1reward_verl.storage import locked, write_json
from r1reward_verl.toy.demo import RL_BATCH, Demo, DemoSettings
from r1reward_verl.toy.stages import Stages, logged

RESULTS = Path(__file__).parents[1] / "results"
PLUS_PLUS = ["algorithm.adv_estimator=reinforce_plus_plus"]
VANILLA = ["actor_rollout_ref.actor.policy_loss.loss_mode=vanilla"]
# Bounds that bind nothing that float32 can hold.
RAW = [f"actor_rollout_ref.actor.policy_loss.log_ratio_{side}={bound}" for side, bound in (("low", -80), ("high", 80))]
REWARD = "reward.r1_reward."
ARMS = {
    "stability": {
        "Reinforce++, vanilla loss": ["+recipe=r1_reward", *PLUS_PLUS, *VANILLA],
        "Reinforce++, raw PPO": ["+recipe=r1_reward", *PLUS_PLUS, *RAW],
        "StableReinforce": ["+recipe=r1_reward"],
        "r1_reward_robust": ["+recipe=r1_reward_robust"],
    },
    "rewards": {
        "the paper's reward": ["+recipe=r1_reward"],
        "agreement 0.5": ["+recipe=r1_reward", f"{REWARD}agreement_weight=0.5"],
        "calibration 0.5": ["+recipe=r1_reward", f"{REWARD}calibration_weight=0.5"],
        "length 0.5": ["+recipe=r1_reward", f"{REWARD}length_weight=0.5", f"{REWARD}length_range=[20,60]"],
    },
}
"""Each comparison's arms by name: the recipe and the settings that differ. Others are compared with the first."""
WRONG = {"VERL_USE_EXTERNAL_MODULES": "wrong_log_probs"}
CONDITIONS: dict[str, dict[str, dict[str, str]]] = {
    "stability": {"clean": {}, "wrong": WRONG},
    "rewards": {"clean": {}},
}
TITLES = {"clean": "Log-probabilities as they are", "wrong": "1% wrong by 10 nats"}
FIGURES = (
    "accuracy",
    "both_orders_accuracy",
    "flip_rate",
    "position_bias",
    "consistency",
    "mean_response_tokens",
    "brier",
    "overconfidence",
)
"""Of the last two validations of each training."""
_FIGURE = "val-r1_reward/all/"


class Trainings(Stages):
    """All trainings of a comparison in one folder.

    Args:
        demo: folder of a demo that has finished its cold start.
        out: folder of the trainings.
        comparison: a name in `ARMS`.
        steps: of each training; None for the demo's.
    """

    def __init__(self, demo: Path, out: Path, comparison: str, steps: int | None = None) -> None:
        settings = msgspec.convert(json.loads((demo / "settings.json").read_text()), DemoSettings)
        self.steps, self.comparison = steps or settings.rl_steps, comparison
        super().__init__(out, msgspec.structs.replace(settings, rl_steps=self.steps))
        self.demo = Demo(demo, settings, None)
        self.arms = ARMS[comparison]

    def run(self, arm: str, condition: str, seed: int) -> dict[str, Any]:
        """Train, if that is not done, and return the figures."""
        name = f"{condition}-{list(self.arms).index(arm)}-{seed}"
        checkpoints = self.out / "checkpoints" / name
        module, _, *base = self.demo.rl_command(checkpoints)
        recipe, *own = self.arms[arm]
        seeds = [f"data.seed={seed}", f"actor_rollout_ref.rollout.seed={seed}", *self.data(seed)]
        command = [module, recipe, *base, *own, *seeds, f"trainer.save_freq={self.steps}"]
        command += [f"trainer.total_training_steps={self.steps}", f"trainer.test_freq={self.steps // 3}"]
        command.append("trainer.val_before_train=false")
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {"PYTHONPATH": path, **CONDITIONS[self.comparison][condition]}
        saved = checkpoints / f"global_step_{self.steps}"
        self.stage(name, lambda: self.train(name, command, self.steps, saved, **environment))
        entries = list(logged(max((self.out / "logs").glob(f"{name}-*.jsonl"))))  # a training begins anew
        steps = [entry["data"] for entry in entries if "actor/grad_norm" in entry["data"]]
        validations = _validations(entries)
        gradients = np.array([step["actor/grad_norm"] for step in steps], dtype=float)  # None, as logged: not finite
        last = [entry["data"] for entry in validations[-2:]]
        return {
            "arm": arm,
            "condition": condition,
            "seed": seed,
            "curve": [*self.start(), *map(_point, validations)],
            **{figure: _mean(last, _FIGURE + figure) for figure in FIGURES if _FIGURE + figure in last[-1]},
            "largest_gradient": float(gradients[np.isfinite(gradients)].max(initial=0.0)),
            "skipped": int((~np.isfinite(gradients)).sum()),
            "pre_clip_share": _mean(steps, "actor/pre_clip_low") + _mean(steps, "actor/pre_clip_high"),
            "filtered_share": _mean(steps, "stable_reinforce/filtered_samples"),
        }

    def start(self) -> list[list[float]]:
        """Return the point at which every training starts, if the demo's own RL has validated its cold start."""
        return [
            _point(entry)
            for entry in _validations(logged(self.demo.out / "logs" / "rl-000.jsonl"))
            if not entry["step"]
        ]

    def data(self, seed: int) -> list[str]:
        """Return what the rewards are compared on: hard preferences in both orders, in an order of the seed."""
        if self.comparison != "rewards":
            return []
        folder = self.out / f"both-{seed}"
        if not (folder / "rl.parquet").exists():
            size = ["--sft-size", "0", "--rl-size", str(self.steps * RL_BATCH), "--rl-balance", "both"]
            prompt = self.demo.settings.prompt_template
            template = ["--prompt-template", prompt] if prompt else []
            options = [*size, "--seed", str(seed), *template]
            self.command("select", ["data", "select", str(self.demo.annotated), str(folder), *options])
        return [f"data.train_files={folder / 'rl.parquet'}", "data.shuffle=false"]


def _validations(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [entry for entry in entries if f"{_FIGURE}accuracy" in entry["data"]]


def _point(validation: Mapping[str, Any]) -> list[float]:
    return [validation["step"], round(validation["data"][f"{_FIGURE}accuracy"], 4)]


def _mean(steps: Sequence[Mapping[str, float]], name: str) -> float:
    return float(np.mean([step.get(name) or 0.0 for step in steps]))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=ARMS)
    parser.add_argument("--demo", type=Path, default=Path("outputs/demo"), help="folder of a demo after its cold start")
    parser.add_argument("--out", type=Path, help="folder of the trainings (default: outputs/pipeline-COMPARISON)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm and condition")
    parser.add_argument("--steps", type=int, help="of each training (default: the demo's)")
    parser.add_argument("--at-once", type=int, default=1, help="trainings at a time, of 7 GB of memory each")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--plots", type=Path, default=Path("docs/images"), help="folder of the plot")
    options = parser.parse_args()
    name = options.comparison
    trainings = Trainings(options.demo, options.out or Path(f"outputs/pipeline-{name}"), name, options.steps)
    for seed in range(options.seeds):
        trainings.data(seed)
    every = list(product(range(options.seeds), CONDITIONS[name], ARMS[name]))
    with locked(trainings.out), ThreadPoolExecutor(options.at_once) as pool:
        runs = list(pool.map(lambda one: trainings.run(one[2], one[1], one[0]), every))
    arms = [
        _summary(runs, arm, condition, next(iter(ARMS[name]))) for condition in CONDITIONS[name] for arm in ARMS[name]
    ]
    print(_table(arms))
    options.results.mkdir(parents=True, exist_ok=True)
    results = {"benchmark": f"pipeline_{name}", "arms": arms, **circumstances(PACKAGES)}
    write_json(options.results / f"pipeline_{name}.json", results)
    options.plots.mkdir(parents=True, exist_ok=True)
    (options.plots / f"pipeline-{name}.png").write_bytes(png(_draw(arms)))


def _summary(runs: Sequence[Mapping[str, Any]], arm: str, condition: str, first: str) -> dict[str, Any]:
    """Return an arm's figures over its seeds, and their paired differences from the first arm."""
    mine, others = (
        [run for run in runs if (run["arm"], run["condition"]) == (name, condition)] for name in (arm, first)
    )
    figures = {}
    for figure in (figure for figure in FIGURES if figure in mine[0]):
        values, base = ({run["seed"]: run[figure] for run in some} for some in (mine, others))
        mean, low, high = interval(list(values.values()))
        figures[figure] = {"mean": mean, "ci95": [low, high], "difference": difference(values, base)}
    return {"arm": arm, "condition": condition, "figures": figures, "runs": mine}


def _table(arms: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures and, behind them, the paired differences from the first arm with their 95% intervals."""
    figures = list(arms[0]["figures"])
    lines = [f"| | {' | '.join(figures)} | largest gradient |", "|---" * (len(figures) + 2) + "|"]
    for arm in arms:
        cells = [f"{arm['arm']}, {TITLES[arm['condition']].lower()}"]
        for one in arm["figures"].values():
            apart, digits = one["difference"], 1 if one["mean"] > 2 else 3
            cells.append(f"{one['mean']:.{digits}f}")
            if apart is not None and arm["arm"] != arms[0]["arm"]:
                low, high = apart["ci95"]
                cells[-1] += f", {apart['difference']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
        cells.append(f"{max(run['largest_gradient'] for run in arm['runs']):.3g}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _draw(arms: Sequence[Mapping[str, Any]]) -> Any:
    conditions = list(dict.fromkeys(arm["condition"] for arm in arms))
    figure = new_figure(1.5 + 3.75 * len(conditions), 4)
    for axes, condition in zip(np.ravel(figure.subplots(1, len(conditions), sharey=True)), conditions, strict=True):
        for number, arm in enumerate(arm for arm in arms if arm["condition"] == condition):
            for place, run in enumerate(arm["runs"]):
                steps, values = zip(*run["curve"], strict=True)
                axes.plot(steps, values, color=colour(number), linewidth=1, label="" if place else arm["arm"])
        axes.set_xlabel("step")
        in_percent(axes.yaxis)
        tidy(axes, TITLES[condition])
    axes.legend(fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    main()
