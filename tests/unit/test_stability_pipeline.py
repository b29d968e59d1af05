"""The arms in main_ppo: how their figures are read, and that the wrong log-probabilities reach verl's losses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import asdict

sys.path.insert(0, str(FOLDER := Path(__file__).parents[2] / "benchmarks" / "stability"))

import pipeline

from r1reward_verl.toy.demo import DemoSettings

STEPS = 4


@pytest.fixture
def trained(tmp_path, monkeypatch) -> list[tuple[str, list[str], dict[str, str]]]:
    """A demo; a training that writes verl's metrics at once is in the place of main_ppo."""
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / "settings.json").write_text(json.dumps(asdict(DemoSettings(rl_steps=9))))
    (demo / "logs").mkdir()
    start = {"step": 0, "data": {"val-r1_reward/all/accuracy": 0.5}}
    (demo / "logs" / "rl-000.jsonl").write_text(json.dumps(start) + "\n" + json.dumps({"step": 1, "data": {}}) + "\n")
    calls = []

    def train(self, name, command, steps, checkpoint, **environment):
        calls.append((name, command, environment))
        broken = "-1-" in name and "VERL_USE_EXTERNAL_MODULES" in environment
        accuracy, flips = "val-r1_reward/all/accuracy", "val-r1_reward/all/flip_rate"
        entries = []
        for step in range(1, steps + 1):
            gradient = None if broken and step == 2 else 10.0**step if broken else 1.0
            data = {"actor/grad_norm": gradient, "actor/pre_clip_low": 0.01, "actor/pre_clip_high": 0.02}
            if step % 2 == 0:
                data |= {accuracy: 0.5 if broken else 0.5 + 0.1 * step, flips: 0.5 if "-0-" in name else 0.25}
            entries.append({"step": step, "data": data})
        (self.out / "logs" / f"{name}-000.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    def command(self, name, arguments):
        calls.append((name, arguments, {}))
        Path(arguments[3]).mkdir(parents=True)
        (Path(arguments[3]) / "rl.parquet").touch()

    monkeypatch.setattr(pipeline.Trainings, "train", train)
    monkeypatch.setattr(pipeline.Trainings, "command", command)
    places = {"--demo": demo, "--out": tmp_path / "out", "--results": tmp_path, "--plots": tmp_path}
    words = [str(one) for pair in places.items() for one in pair]
    monkeypatch.setattr(sys, "argv", ["pipeline.py", "stability", "--seeds", "2", "--steps", str(STEPS), *words])
    return calls


def test_figures_are_those_of_the_trainings(trained, tmp_path):
    pipeline.main()
    results = json.loads((tmp_path / "pipeline_stability.json").read_text())
    arms = {(arm["condition"], arm["arm"]): arm for arm in results["arms"]}
    assert len(arms) == 2 * len(pipeline.ARMS["stability"])
    calm, broken = (arms[condition, "Reinforce++, raw PPO"] for condition in ("clean", "wrong"))
    assert calm["figures"]["accuracy"]["mean"] == pytest.approx(0.8)  # of the last two validations
    assert broken["figures"]["accuracy"]["mean"] == pytest.approx(0.5)
    assert broken["figures"]["accuracy"]["difference"]["difference"] == pytest.approx(-0.3)
    assert broken["figures"]["flip_rate"]["ci95"] == pytest.approx([0.25, 0.25])
    assert "brier" not in calm["figures"]
    assert [run["seed"] for run in broken["runs"]] == [0, 1]
    assert {(run["largest_gradient"], run["skipped"]) for run in broken["runs"]} == {(1e4, 1)}
    assert calm["runs"][0]["pre_clip_share"] == pytest.approx(0.03)
    assert calm["runs"][0]["curve"] == [[0, 0.5], [2, 0.7], [4, 0.9]]
    assert {"command", "versions"} <= results.keys()
    assert (tmp_path / "pipeline-stability.png").read_bytes().startswith(b"\x89PNG")


def test_arms_differ_in_their_settings_alone_and_share_seeds(trained):
    pipeline.main()
    assert len(trained) == len(pipeline.ARMS["stability"]) * 2 * 2
    commands = {name: [word for word in words if "default_local_dir" not in word] for name, words, _ in trained}
    assert commands["clean-0-1"] == commands["wrong-0-1"]
    assert {*commands["clean-0-1"]} ^ {*commands["clean-2-1"]} == {*pipeline.PLUS_PLUS, *pipeline.VANILLA}
    seeded = [(dict(word.partition("=")[::2] for word in commands[f"clean-2-{seed}"][1:])) for seed in (0, 1)]
    differ = {name: [words[name] for words in seeded] for name in seeded[0] if seeded[0][name] != seeded[1][name]}
    assert differ == {name: ["0", "1"] for name in ("data.seed", "actor_rollout_ref.rollout.seed")}


def test_rewards_are_compared_on_the_same_preferences_in_both_orders(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pipeline.py", "rewards", *sys.argv[2:], "--at-once", "2"])
    pipeline.main()
    selected = [arguments for name, arguments, _ in trained if name == "select"]
    assert len(selected) == 2
    assert all({"--rl-balance", "both", "--rl-size", str(STEPS * pipeline.RL_BATCH)} <= set(one) for one in selected)
    commands = {name: words for name, words, _ in trained if name != "select"}
    assert len(commands) == 2 * len(pipeline.ARMS["rewards"])
    for name, words in commands.items():
        given = dict(word.partition("=")[::2] for word in words[1:])
        assert given["data.shuffle"] == "false"
        assert given["data.train_files"].endswith(f"both-{name[-1]}/rl.parquet")
        last = [word for word in words if word.startswith("data.train_files=")][-1]
        assert last.partition("=")[2] == given["data.train_files"]
    differ = {*commands["clean-0-0"]} ^ {*commands["clean-1-0"]}
    assert {word for word in differ if "default_local_dir" not in word} == {"reward.r1_reward.agreement_weight=0.5"}
    arms = json.loads((tmp_path / "pipeline_rewards.json").read_text())["arms"]
    assert arms[0]["figures"]["flip_rate"]["difference"]["difference"] == 0
    assert arms[1]["figures"]["flip_rate"]["difference"]["difference"] == pytest.approx(-0.25)


def test_finished_trainings_are_kept(trained):
    pipeline.main()
    before = len(trained)
    pipeline.main()
    assert len(trained) == before


def test_verl_s_losses_get_wrong_log_probs():
    script = """
import torch
import verl
from verl.workers.utils.losses import get_policy_loss_fn
from verl.trainer.ppo import core_algos
seen = []
core_algos.POLICY_LOSS_REGISTRY["spy"] = lambda *, old_log_prob: seen.append(old_log_prob)
torch.manual_seed(0)
get_policy_loss_fn("spy")(old_log_prob=torch.zeros(100, 1000))
wrong = seen[0][seen[0] != 0]
print(len(wrong) / 1e5, sorted(set(wrong.tolist())), (wrong > 0).float().mean().item())
"""
    path = os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "VERL_USE_EXTERNAL_MODULES": "wrong_log_probs"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    share, values, upward = done.stdout.strip().split(" ", 1)[0], done.stdout.split("[")[1].split("]")[0], done.stdout
    assert 0.009 < float(share) < 0.011
    assert values == "-10.0, 10.0"
    assert 0.45 < float(upward.split()[-1]) < 0.55
