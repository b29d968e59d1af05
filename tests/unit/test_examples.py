"""The examples run as they are and say what the documentation says."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda script: script.name)
def test_an_example_runs(script):
    result = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_judgements_earn_what_the_paper_gives_them():
    output = subprocess.run(
        [sys.executable, EXAMPLES / "score_judgements.py"], capture_output=True, text=True, check=True
    ).stdout
    rewards = [line.split("reward ")[1].split()[0] for line in output.splitlines() if "reward " in line]
    assert rewards == ["2.0", "1.0", "0.5", "0.0"]
