"""What the plugin adds to `import verl`, which a run pays in about a dozen processes; the target is 50 ms.

Each figure is the median over fresh interpreters, in which verl is imported without its plugins first. The peer
is that import of verl.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from _bench import Figure, report

TARGET_MS = 50.0
MEASURE = """
import time
start = time.perf_counter()
import verl
middle = time.perf_counter()
import r1reward_verl.plugin
print(1000 * (middle - start), 1000 * (time.perf_counter() - middle))
"""


def milliseconds(platform: str, interpreters: int) -> tuple[float, float]:
    """Return the median milliseconds of importing verl, and of importing the plugin after it."""
    environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": "none", "VERL_PLATFORM": platform}
    pairs = []
    for _ in range(interpreters):
        command = [sys.executable, "-c", MEASURE]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        pairs.append([float(value) for value in done.stdout.split()[-2:]])
    verl, plugin = (statistics.median(values) for values in zip(*pairs, strict=True))
    return verl, plugin


def main() -> int:
    """Measure, print the table, write the results file; 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interpreters", type=int, default=5, help="fresh interpreters (default: %(default)s)")
    interpreters = parser.parse_args().interpreters
    figures = []
    for name, platform in (("plugin", ""), ("plugin, VERL_PLATFORM=cpu", "cpu")):
        verl, plugin = milliseconds(platform, interpreters)
        figures.append(Figure(name, plugin, "ms", peer=verl, target=TARGET_MS, at_least=False))
    return report("import", figures, ("verl", "wrapt", "torch"))


if __name__ == "__main__":
    sys.exit(main())
