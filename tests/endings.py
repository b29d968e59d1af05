"""How well the rules judge reads natural endings of reasoning: the sets of `tests/data/endings`.

    python tests/endings.py [--errors]

`--errors` lists the misread endings of the sets that the rules are fitted to. Those of the others are never printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from r1reward_verl.rewards import conclusion

FOLDER = Path(__file__).parent / "data" / "endings"
SEEN = ("development", "independent")
"""Sets that the rules are fitted to."""
SETS = (*SEEN, "held_out", "fresh")


@dataclass(frozen=True)
class Ending:
    """The last lines of a reasoning, the response that they conclude for, and what kind of ending they are."""

    text: str
    label: int | None
    kind: str


@dataclass(frozen=True)
class Reading:
    """How many endings were read as what."""

    endings: int
    concluding: int
    """Endings that conclude for a response."""
    read: int
    """Endings that were read as concluding for a response."""
    right: int
    """Endings that were read as concluding for the response that they conclude for."""
    opposite: int
    """Endings that were read as concluding for the other response."""

    @property
    def precision(self) -> float:
        """Share of the read conclusions that are right."""
        return self.right / self.read

    @property
    def recall(self) -> float:
        """Share of the conclusions that were read right."""
        return self.right / self.concluding


def read_endings(name: str) -> list[Ending]:
    """Read one of `SETS`."""
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Ending(**json.loads(line)) for line in lines]


def read_conclusion(ending: Ending) -> int | None:
    """Return the response that the rules judge reads, None if neither or both."""
    found = conclusion(ending.text)
    return None if found == "both" else found


def measure(endings: Iterable[Ending]) -> Reading:
    """Count what the rules judge makes of the endings."""
    pairs = [(ending.label, read_conclusion(ending)) for ending in endings]
    decided = [(label, choice) for label, choice in pairs if choice is not None]
    return Reading(
        endings=len(pairs),
        concluding=sum(label is not None for label, _ in pairs),
        read=len(decided),
        right=sum(label == choice for label, choice in decided),
        opposite=sum(label not in (None, choice) for label, choice in decided),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the rules judge reads natural endings of reasoning.")
    parser.add_argument("--errors", action="store_true", help="list what is misread of the sets that are seen")
    errors = parser.parse_args().errors
    print(f"{'set':12} {'endings':>7} {'concluding':>10} {'precision':>9} {'recall':>7} {'opposites':>9}")
    for name in SETS:
        reading = measure(read_endings(name))
        print(
            f"{name:12} {reading.endings:7} {reading.concluding:10} {reading.precision:9.3f} {reading.recall:7.3f} "
            f"{reading.opposite:9}"
        )
    if errors:
        for ending in (ending for name in SEEN for ending in read_endings(name)):
            if (choice := read_conclusion(ending)) != ending.label:
                print(f"{ending.kind}: {ending.label} read as {choice}: {ending.text!r}")


if __name__ == "__main__":
    main()
