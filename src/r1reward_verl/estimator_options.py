"""The options of the StableReinforce estimator, and their ranges."""

import math
from numbers import Real
from typing import Literal, get_args

Bounds = Literal["paper", "reference"]
Filter = Literal["drop", "clip", "none"]

SIGMA = 3.0


def check_options(
    sigma: float,
    bounds: str,
    renormalise: bool = False,
    gamma: float = 1.0,
    filter: str = "drop",
    deviation_floor: float = 0.0,
) -> None:
    """Raise ValueError, naming the verl option, for an option of the estimator outside its range."""
    place = "stable_reinforce."
    for name, value, fits, needed in (
        ("gamma", gamma, is_number(gamma) and 0.0 <= gamma <= 1.0, "a number from 0 to 1"),
        (f"{place}sigma", sigma, is_number(sigma) and sigma > 0.0, f"a number above 0 (paper: {SIGMA})"),
        (f"{place}bounds", bounds, bounds in get_args(Bounds), f"one of {', '.join(get_args(Bounds))}"),
        (f"{place}renormalise", renormalise, isinstance(renormalise, bool), "true or false"),
        (f"{place}filter", filter, filter in get_args(Filter), f"one of {', '.join(get_args(Filter))}"),
        (f"{place}deviation_floor", deviation_floor, _is_finite(deviation_floor), "a number from 0 up (paper: 0)"),
    ):
        if not fits:
            raise ValueError(f"algorithm.{name}={value!r}: must be {needed}")


def is_number(value: object) -> bool:
    """Tell whether a value is a real number, which booleans are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return is_number(value) and 0.0 <= float(value) < math.inf  # type: ignore[arg-type]
