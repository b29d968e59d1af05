"""Which schedule ranks a group of responses best with a given number of comparisons, by simulated judges.

The n responses of a group have qualities from a normal distribution. A judge compares two of them by the difference of
their qualities plus an error [Thurstone, 1927, Psychological Review 34, 273-286] plus a shift towards the response that
is shown first. A judge is described by what can be measured of it: how often it is right about two random responses
shown in random order; its position bias, by how much it chooses the first one more often than the second one; and the
share of its error's variance that is the same in both orders of a pair. A share of 0 is the hardest case for schedules
with fewer comparisons: a second look at a pair then helps as much as a first look at another.

Schedules and scores are those of production. Correlation: of a response's score with its quality, each less the mean of
its group, over all responses. Tau: share of pairs in the right order less that in the wrong one, mean over groups.
Regret: by how much the best response is better than the one with the best score, in standard deviations of quality.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from _bench import Figure, report
from r1reward_verl.use.schedules import (
    DEFAULT_SCHEDULE,
    Pair,
    ScheduleName,
    default_comparisons,
    make_rounds,
    run_schedule,
)
from r1reward_verl.use.scores import Outcome, Scores, bradley_terry, win_rates

ACCURACIES = (0.6, 0.72, 0.8, 0.9, 0.95)
BIASES = (0.0, 0.15, 0.3)
GROUPS = {2: 500, 4: 250, 8: 120, 16: 60, 32: 20, 64: 10}  # of each judge
CLAIM_ACCURACIES = (0.72, 0.75, 0.78, 0.84, 0.9)
CLAIM_GROUPS = {8: 2000, 16: 700}
CLAIM = 0.9  # of the correlation of all pairs in both orders, at half its comparisons


@dataclass(frozen=True)
class Judge:
    """A simulated judge."""

    accuracy: float
    bias: float = 0.0
    shared: float = 0.0

    def __str__(self) -> str:
        shared = f", {self.shared:.0%} of its error in both orders" if self.shared else ""
        return f"right {self.accuracy:.0%}, bias {self.bias:.0%}{shared}"

    @property
    def possible(self) -> bool:
        """Whether the bias leaves room for the accuracy."""
        return self.accuracy < 0.99 * (1 - self.bias / 2)


@dataclass(frozen=True)
class Contender:
    """A schedule with a number of comparisons, and a score."""

    schedule: ScheduleName
    score: Callable[[int, Sequence[Outcome]], Scores]
    comparisons: int | None = None
    both_orders: bool = False

    def __str__(self) -> str:
        orders = ", both orders" if self.both_orders else ""
        return f"{self.schedule}{orders}, {self.score.__name__}"


@dataclass
class Result:
    """What came of the groups: comparisons, and (n,) scores and qualities of each."""

    comparisons: list[int] = field(default_factory=list)
    scores: list[NDArray[np.float64]] = field(default_factory=list)
    qualities: list[NDArray[np.float64]] = field(default_factory=list)

    def moments(self) -> NDArray[np.float64]:
        """Return the products of score and quality, and the squares of both, summed over each group. (3, groups)."""
        scores, qualities = (
            np.array(values) - np.mean(values, axis=1, keepdims=True) for values in (self.scores, self.qualities)
        )
        return np.array([(scores * qualities).sum(1), (scores**2).sum(1), (qualities**2).sum(1)])

    def tau(self) -> float:
        """Return the share of pairs in the right order less that in the wrong one."""
        scores, qualities = np.array(self.scores), np.array(self.qualities)
        n = scores.shape[1]
        agree = np.sign(scores[:, :, None] - scores[:, None]) * np.sign(qualities[:, :, None] - qualities[:, None])
        return float(agree.sum() / len(scores) / (n * (n - 1)))

    def regret(self) -> float:
        """Return the mean quality lost by taking the response with the best score; ties count as their mean."""
        lost = []
        for scores, qualities in zip(self.scores, self.qualities, strict=True):
            best = scores >= scores.max() - 1e-9
            lost.append(qualities.max() - qualities[best].mean())
        return float(np.mean(lost))


def correlation(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation from moments (3, ...)."""
    return moments[0] / np.sqrt(np.maximum(moments[1] * moments[2], 1e-12))


def with_error(figure: Callable[..., NDArray[np.float64]], *moments: NDArray[np.float64]) -> tuple[float, float]:
    """Return a figure of all groups and its standard error by the jackknife over groups."""
    sums = [one.sum(axis=1, keepdims=True) for one in moments]
    without = figure(*(total - one for total, one in zip(sums, moments, strict=True)))
    groups = len(without)
    error = np.sqrt((groups - 1) / groups * ((without - without.mean()) ** 2).sum())
    return float(figure(*sums)[0]), float(error)


@lru_cache
def calibrate(accuracy: float, bias: float) -> tuple[float, float]:
    """Return the standard deviation of the error and the shift towards the first response of a judge.

    The difference of two qualities has variance 2, so with an error of deviation s and a shift c the first response is
    chosen with probability Phi(c / sqrt(2 + s^2)); the accuracy is integrated over differences.
    """
    difference = np.linspace(0, 9, 4501)[1:]
    weight = norm.pdf(difference / np.sqrt(2))
    weight /= weight.sum()

    def shift(error: float) -> float:
        return float(norm.ppf(0.5 + bias / 2) * np.sqrt(2 + error**2))

    def right(error: float) -> float:
        towards, against = difference + shift(error), difference - shift(error)
        return float(weight @ (norm.cdf(towards / error) + norm.cdf(against / error)) / 2)

    error = brentq(lambda error: right(error) - accuracy, 1e-3, 1e3)
    return error, shift(error)


async def simulate(n: int, contender: Contender, judge: Judge, groups: int) -> Result:
    """Rank groups of n; group g has the same qualities for all contenders and judges."""
    error, shift = calibrate(judge.accuracy, judge.bias)
    result = Result()
    for group in range(groups):
        rng = np.random.default_rng((n, group))
        qualities = rng.normal(size=n)
        noise = np.triu(rng.normal(size=(n, n)))
        lead = qualities[:, None] - qualities + error * np.sqrt(judge.shared) * (noise - noise.T) + shift

        async def compare(
            pairs: list[Pair],
            lead: NDArray[np.float64] = lead,
            fresh: float = error * np.sqrt(1 - judge.shared),
            rng: np.random.Generator = rng,
        ) -> list[float]:
            first, second = np.array(pairs).T
            return (lead[first, second] + fresh * rng.normal(size=len(pairs)) > 0).astype(float).tolist()

        rounds = make_rounds(
            contender.schedule, n, comparisons=contender.comparisons, both_orders=contender.both_orders, seed=group
        )
        outcomes = await run_schedule(rounds, compare)
        result.comparisons.append(len(outcomes))
        result.scores.append(contender.score(n, outcomes).values)
        result.qualities.append(qualities)
    return result


def contenders(n: int) -> dict[str, list[Contender]]:
    """Return what competes in groups of n, by the number of comparisons."""
    pairs = n * (n - 1) // 2
    budgets = [size for size in (n, 2 * n, 3 * n, default_comparisons(n)) if size < pairs]
    found = {f"{n - 1}": [Contender("knockout", win_rates), Contender("pivot", win_rates)]}
    for size in dict.fromkeys([*budgets, pairs]):
        found[f"{size}"] = [
            Contender("circulant", win_rates, size),
            Contender("circulant", bradley_terry, size),
            Contender("swiss", win_rates, size),
            Contender("swiss", bradley_terry, size),
        ]
        if 2 * n <= size:
            found[f"{size}"] += [
                Contender("circulant", win_rates, size, both_orders=True),
                Contender("swiss", bradley_terry, size, both_orders=True),
            ]
    found.setdefault(f"{2 * (n - 1)}", []).extend(
        [Contender("knockout", win_rates, both_orders=True), Contender("pivot", win_rates, both_orders=True)]
    )
    found.setdefault(f"{2 * pairs}", []).append(Contender("all_pairs", win_rates, both_orders=True))
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


async def compete() -> list[Figure]:
    """Print which contender ranks best, as means over all judges, and return the figures."""
    judges = [Judge(accuracy, bias) for accuracy in ACCURACIES for bias in BIASES]
    judges = [judge for judge in judges if judge.possible]
    print(f"means over {len(judges)} judges: " + "; ".join(map(str, judges)))
    print(f"{'':52}  comparisons  correlation       tau    regret")
    figures = []
    for n, groups in GROUPS.items():
        for size, rivals in contenders(n).items():
            rows = []
            for rival in rivals:
                results = [await simulate(n, rival, judge, groups) for judge in judges]
                measured = [with_error(correlation, result.moments()) for result in results]
                row = {
                    "correlation": float(np.mean([value for value, _ in measured])),
                    "tau": float(np.mean([result.tau() for result in results])),
                    "regret": float(np.mean([result.regret() for result in results])),
                }
                # The judges see the same groups, so their errors do not average out.
                error = float(np.mean([error for _, error in measured]))
                rows.append((rival, float(np.mean([result.comparisons for result in results])), row, error))
                figures += [
                    Figure(f"n={n}, {size} comparisons, {rival}: {name}", value, "") for name, value in row.items()
                ]
            best = max(row["correlation"] for _, _, row, _ in rows)
            for rival, count, row, error in rows:
                mark = "*" if row["correlation"] == best and len(rows) > 1 else " "
                values = f"{row['correlation']:.3f} ± {error:.3f}  {row['tau']:8.3f}  {row['regret']:8.3f}"
                print(
                    f"n={n:<3} at {size:>4} {mark} {rival!s:38}  {count:11.1f}  {values}",
                    flush=True,
                )
    return figures


async def claim(n: int, judge: Judge, groups: int) -> tuple[Figure, float]:
    """Return the correlation of the default beside all pairs in both orders, and the standard error of their ratio."""
    default = await simulate(n, Contender(DEFAULT_SCHEDULE, win_rates), judge, groups)
    full = await simulate(n, Contender("all_pairs", win_rates, both_orders=True), judge, groups)
    if 2 * max(default.comparisons) > min(full.comparisons):
        raise ValueError(f"the default takes {max(default.comparisons)} of {min(full.comparisons)} comparisons")
    ours, theirs = default.moments(), full.moments()
    _, error = with_error(lambda one, other: correlation(one) / correlation(other), ours, theirs)
    name = f"n={n}, {max(default.comparisons)} of {min(full.comparisons)} comparisons, judge {judge}"
    value, peer = (float(correlation(moments.sum(axis=1))) for moments in (ours, theirs))
    return Figure(name, value, "r", peer=peer, target=CLAIM, compare="ratio"), error


async def measure() -> list[Figure]:
    """Return all figures."""
    figures = await compete()
    judges = [Judge(accuracy, bias) for accuracy in CLAIM_ACCURACIES for bias in BIASES]
    judges += [Judge(accuracy, 0.15, shared=0.5) for accuracy in CLAIM_ACCURACIES]
    claims = [await claim(n, judge, groups) for n, groups in CLAIM_GROUPS.items() for judge in judges if judge.possible]
    print(f"\nThe default schedule beside all pairs in both orders; the target is a ratio of {CLAIM:g}")
    for figure, error in claims:
        print(f"{figure.name:90}  {figure.measure:.3f} ± {error:.3f}  {'met' if figure.met else 'MISSED'}")
    missed = [figure.name for figure, _ in claims if not figure.met]
    print(f"{len(claims) - len(missed)} of {len(claims)} met\n")
    return figures + [figure for figure, _ in claims]


def main() -> int:
    """Simulate, print the tables and write the results."""
    return report("schedules", asyncio.run(measure()), ("numpy", "scipy", "choix"))


if __name__ == "__main__":
    sys.exit(main())
