"""kill -9 of the parts of a training at random moments: what is lost, what is left behind, and how it ends.

One `main_ppo` on the toy world saves every step and is killed again and again: its driver, its trainer, a reward
worker, the rollout server, the judge's server or Ray's node (its raylet), while it starts or while it trains, as the
seed decides. The same command then starts it again. Checked are: it starts after the step of its last checkpoint, its
data come in the order of a training that nobody killed, and no process of it lives on. What is new in /tmp and /dev/shm
is counted by name.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "e2e")]

from runs import JUDGE_KEY, Training, kill, served, start_demo  # noqa: E402

from factories import free_port  # noqa: E402
from r1reward_verl.toy.build import Sizes, build  # noqa: E402

# victim that is a process of Ray: what is in its title
TITLES = {
    "trainer": "ray::TaskRunner",
    "reward worker": "ray::RewardLoopWorker",
    "rollout server": "ray::vLLMHttpServer",
    "raylet": "raylet/raylet ",
}
VICTIMS = ("driver", "judge server", *TITLES)
USUAL = VICTIMS[:-1]
TEMPORARY = ("/tmp", "/dev/shm")
LONGEST_START, LONGEST_END = 900, 400
# Where the driver is killed, two of Ray's own agents wait for its GCS for a minute, and then end.
GRACE = 120


def main() -> int:
    """Kill, restart and compare; write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=USUAL, help="all but raylet by default")
    parser.add_argument("--demo", type=Path, help="folder of a finished demo of the end-to-end tests; else one is made")
    parser.add_argument("--judge", type=Path, help="folder of a tiny judge; else one is trained")
    parser.add_argument("--folder", type=Path, help="where to begin, or to go on with the kills of an earlier call")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "restarts.json")
    settings = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    with tempfile.TemporaryDirectory(prefix="restarts-") as folder:
        out = settings.folder or Path(folder)
        out.mkdir(exist_ok=True)
        os.environ |= {"VERL_PLATFORM": "cpu", "R1REWARD_JUDGE_API_KEY": JUDGE_KEY}
        demo, judge = settings.demo or make_demo(out / "demo"), settings.judge
        if "judge server" in settings.victims and judge is None:
            judge = build(out / "world", Sizes(preferences=8, val_pairs=2, test_pairs=2), judge=True) / "judge"
        return Kills(settings, demo, judge, out).run()


def make_demo(out: Path) -> Path:
    """Build the toy world and its cold start."""
    process = start_demo(out)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(output)
    return out


class Kills:
    """A training that is killed again and again."""

    def __init__(self, settings: argparse.Namespace, demo: Path, judge: Path | None, out: Path) -> None:
        self.settings, self.judge, self.out = settings, judge, out
        self.random = random.Random(settings.seed)
        self.port = free_port()
        endpoint = f"http://127.0.0.1:{self.port}/v1"
        self.overrides = [
            *(["judge=endpoint", f"reward.r1_reward.judge.urls=[{endpoint}]"] if judge else []),
            *(["reward.r1_reward.judge.timeout=3", "reward.r1_reward.judge.max_wait=3"] if judge else []),
            *(["reward.r1_reward.max_failed_share=0.1"] if judge else []),
            "trainer.val_before_train=false",
            "trainer.test_freq=-1",
            "trainer.save_freq=1",
            "trainer.max_actor_ckpt_to_keep=2",
            "trainer.total_epochs=1000",
        ]
        self.demo = demo
        self.training = Training(demo, out / "killed", *self.overrides, "trainer.total_training_steps=1000")
        self.training.attempts = len(list(self.training.out.glob("log-*.txt")))  # of an earlier call
        self.start_seconds = 60.0
        self.kills = out / "kills.jsonl"

    def run(self) -> int:
        """Kill as often as wanted, let it train once more, and compare with a training that nobody killed."""
        with ExitStack() as servers:
            self.servers = servers
            self.serve()
            for _ in range(self.settings.runs):
                self.kill_once()
            self.attempt("nobody", steps=2)
            steps = checkpoint(self.training)
            calm = Training(self.demo, self.out / "calm", *self.overrides, f"trainer.total_training_steps={steps}")
            if calm.run():
                raise RuntimeError(calm.log[-3000:])
        compared, wrong = 0, []
        for step in range(1, steps + 1):
            if (self.training.out / "rollouts" / f"{step}.jsonl").exists():  # else killed between checkpoint and dump
                compared += 1
                if prompts(self.training, step) != prompts(calm, step):
                    wrong.append(step)
        rows = [json.loads(line) for line in self.kills.read_text().splitlines()]
        left: dict[str, Counter[str]] = {place: Counter() for place in TEMPORARY}
        for row in rows:
            for place in TEMPORARY:
                left[place].update(row["left"][place])
        summary = {
            "benchmark": "restarts",
            "command": " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
            "kills": rows,
            "steps": steps,
            "steps compared": compared,
            "steps with other data": wrong,
            "left": left,
        }
        self.settings.results.write_text(json.dumps(summary, indent=2) + "\n")
        print(json.dumps({name: value for name, value in summary.items() if name != "kills"}, indent=2))
        return int(bool(wrong) or not all(row["as it should"] for row in rows))

    def serve(self) -> None:
        """Start the judge's server."""
        if self.judge is not None:
            self.server = self.servers.enter_context(served(self.judge, self.port, self.out / "judge.log"))

    def kill_once(self) -> None:
        """Start the training, kill one of its parts at a random moment, and see it end."""
        victim = self.random.choice(self.settings.victims)
        if self.random.random() < 0.35:
            self.attempt(victim, seconds=self.random.uniform(0, self.start_seconds))
        else:
            self.attempt(victim, steps=1, seconds=self.random.uniform(0, 8))

    def attempt(self, victim: str, steps: int = 0, seconds: float = 0.0) -> None:
        """Start the training, kill `victim` some seconds after it logged `steps`, and write down what was seen."""
        saved, before = checkpoint(self.training), names()
        start = killed = time.monotonic()
        process = self.training.start()
        try:
            while len(self.training.metrics) < steps and process.poll() is None:
                if time.monotonic() - start > LONGEST_START:
                    raise RuntimeError(f"no step in {LONGEST_START} s:\n{self.training.log[-3000:]}")
                time.sleep(0.05)
            if steps:
                self.start_seconds = time.monotonic() - start
            time.sleep(seconds)
            outcome = "ended by itself"
            if process.poll() is None:
                self.kill(victim, process)
                killed = time.monotonic()
                outcome = self.see_the_end(process) if victim != "nobody" else "trained"
        finally:
            process.kill()
            process.wait()
        ended = time.monotonic()
        while (alive := self.training.processes()) and time.monotonic() - ended < GRACE:
            time.sleep(0.2)
        after = names()
        row = {
            "victim": victim,
            "while": "training" if steps else "starting",
            "after": round(killed - start, 1),
            "outcome": outcome,
            "seconds to its end": round(ended - killed, 1),
            f"processes left after {GRACE} s": sorted(alive.values()),
            "checkpoint before": saved,
            "first step": min(self.training.metrics, default=None),
            "checkpoint": checkpoint(self.training),
            "left": {place: Counter(map(kind, after[place] - before[place])) for place in TEMPORARY},
        }
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        if victim == "judge server":
            self.serve()
        row["as it should"] = (
            row["first step"] in (None, saved + 1)
            and not alive
            and saved <= row["checkpoint"]  # type: ignore[operator]
            and outcome not in ("hangs", "went on", "ended by itself")
            and (outcome != "trained" or len(self.training.metrics) >= steps)
        )
        print(json.dumps(row), flush=True)
        with self.kills.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def kill(self, victim: str, process: subprocess.Popen[bytes]) -> None:
        """Kill a part of the training, as soon as it is there."""
        if victim == "judge server":
            kill(self.server)
        elif victim == "driver":
            process.kill()
        deadline = time.monotonic() + LONGEST_START
        while victim in TITLES and process.poll() is None and time.monotonic() < deadline:
            running = self.training.processes().items()
            if found := [pid for pid, title in running if TITLES[victim] in title]:
                os.kill(found[0], signal.SIGKILL)
                return
            time.sleep(0.05)

    def see_the_end(self, process: subprocess.Popen[bytes]) -> str:
        """Return how a training ends of which one part was killed."""
        before = len(self.training.metrics)
        deadline = time.monotonic() + LONGEST_END
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return "ended" if process.returncode else "ended by itself"
            if len(self.training.metrics) >= before + 3:
                return "went on"
            time.sleep(0.1)
        return "hangs"


def checkpoint(training: Training) -> int:
    """Return the step of the last checkpoint, 0 if there is none."""
    file = training.out / "checkpoints" / "latest_checkpointed_iteration.txt"
    return int(file.read_text()) if file.exists() else 0


def prompts(training: Training, step: int) -> Counter[str]:
    """Return what the step was trained on."""
    return Counter(row["input"] for row in training.rollouts(step))


def names() -> dict[str, set[str]]:
    """Return what is in the folders for temporary files, Ray's sessions apart."""
    found = {place: set(os.listdir(place)) for place in TEMPORARY}
    if os.path.isdir("/tmp/ray"):
        found["/tmp"] |= {f"ray/{name}" for name in os.listdir("/tmp/ray")}
    return found


def kind(name: str) -> str:
    """Return a name without what differs from run to run."""
    name = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8,}", "*", name)
    name = re.sub(r"^(tmp|pymp-|torch_)\w+$", r"\1*", name)
    return re.sub(r"\d+", "N", name)


if __name__ == "__main__":
    sys.exit(main())
