"""From the rows of public preference data sets to preferences: mostly one file each, and the door for one's own.

Where the field names were found stands at each source and in `docs/reference/data-sources.md`. No data file of the
data sets themselves was at hand when these were written: [code] means that the project's own code reads the field so,
[card] that its dataset card says so, [report] that others report so, [inferred] that nobody says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from r1reward_verl.data.sources.base import Source
from r1reward_verl.data.sources.conversations import HHRLHF, TRL, MsSwift, ShareGPT
from r1reward_verl.data.sources.llava_critic import LLaVACritic
from r1reward_verl.data.sources.mm_rlhf import MMRLHF
from r1reward_verl.data.sources.plain import Plain
from r1reward_verl.data.sources.povid import POVID
from r1reward_verl.data.sources.r1_reward_rl import R1RewardRL
from r1reward_verl.data.sources.rlhf_v import RLAIFV, RLHFV
from r1reward_verl.data.sources.vl_feedback import VLFeedback
from r1reward_verl.data.sources.wildvision_battle import WildVisionBattle
from r1reward_verl.text import excerpt

GROUP = "r1reward_verl.sources"
"""Entry point group of a user's own sources."""

SOURCES: dict[str, Callable[..., Source]] = {
    "r1-reward-rl": R1RewardRL,
    "mm-rlhf": MMRLHF,
    "rlaif-v": RLAIFV,
    "vl-feedback": VLFeedback,
    "povid": POVID,
    "wildvision-battle": WildVisionBattle,
    "rlhf-v": RLHFV,
    "llava-critic": LLaVACritic,
    "hh-rlhf": HHRLHF,
    "trl": TRL,
    "sharegpt": ShareGPT,
    "ms-swift": MsSwift,
    "plain": Plain,
}
"""The sources that come with this project: name -> what makes one."""


def source_names() -> list[str]:
    """Return the names that `load_source` knows, those of entry points last; nothing is imported."""
    return [*SOURCES, *sorted({point.name for point in entry_points(group=GROUP)} - SOURCES.keys())]


def load_source(name: str, /, **options: Any) -> Source:
    """Make the source of that name, of this project or of an entry point in the group `r1reward_verl.sources`.

    Args:
        name: one of `source_names()`.
        options: of the source, as keywords.

    Raises:
        ValueError: no source or several of that name, an option that it does not have or a value that it refuses, or
            an entry point that cannot be loaded or does not make a source.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    owners = [*map(_described, points), *["one of r1reward_verl"] * (name in SOURCES)]
    if not owners:
        raise ValueError(f"source {name!r} is unknown; known: {', '.join(source_names())}")
    if len(owners) > 1:
        raise ValueError(f"several sources are called {name!r}: {' and '.join(owners)}")
    what = f"source {name!r} ({owners[0]})" if points else f"source {name!r}"
    try:
        make = points[0].load() if points else SOURCES[name]
    except Exception as error:
        raise ValueError(f"{what} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(make):
        raise ValueError(f"{what} is {excerpt(make)}; a class or function that makes a source is needed")
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise ValueError(f"{what}: {error} (given: {options or 'no options'})") from None
    try:
        source = make(**options)
    except Exception as error:
        raise ValueError(f"{what} cannot be made: {error}") from error
    if not isinstance(getattr(source, "name", None), str) or not callable(getattr(source, "read", None)):
        raise ValueError(f"{what} made {excerpt(source)}, which lacks a name or read(row, number)")
    return source


def _described(point: EntryPoint) -> str:
    dist = getattr(point, "dist", None)
    return f"entry point {point.value!r}" + (f" of {dist.name}" if dist else "")
