"""The arms of the study, and the comparisons that were chosen before any of them was run."""

from dataclasses import dataclass, field, replace
from typing import Any

SEEDS = 20
TUNING_SEEDS = 5
LEARNING_RATES = (3e-4, 1e-3, 3e-3)

# What the arms differ from. verl's own loss `vanilla` has the dual clip at 3; "raw" is PPO without it and without
# Pre-CLIP, "pre_clip" the paper's loss, "both" has Pre-CLIP and the dual clip.
STABLE: dict[str, Any] = {"name": "stable_reinforce"}
PLUS_PLUS: dict[str, Any] = {"name": "reinforce_plus_plus"}  # the same advantages without a filter
PLAIN: dict[str, Any] = {"estimator": PLUS_PLUS, "loss": "raw"}  # neither part of StableReinforce


@dataclass(frozen=True)
class Arm:
    """One setting; every seed of it is a run.

    Args:
        group: the question that it belongs to.
        name: unique in its group.
        estimator: name in verl's registry, and options of `algorithm.stable_reinforce` or of the study.
        loss: raw, pre_clip, both, or a name in verl's registry.
        mismatch: what is wrong with the sampler's log-probabilities: exact, bf16, heavy6, heavy10, stale.
        correction: what is done about it: none (the loss takes them), recomputed (verl's default: the trainer computes
            them anew), tis, icepop (verl's rollout corrections on top of recomputed ones).
        start: share of right answers, sampled, with which the supervised policy starts.
        noise: share of training labels that are wrong.
        group_size: texts a prompt; prompts are fewer, so that the number of texts is the same.
    """

    group: str
    name: str
    estimator: dict[str, Any] = field(default_factory=lambda: STABLE)
    loss: str = "pre_clip"
    mismatch: str = "exact"
    correction: str = "none"
    start: float = 0.9
    noise: float = 0.0
    reward: str = "paper"
    lr: float = 1e-3
    batch: int = 128
    updates: int = 2
    group_size: int = 1
    grad_clip: float | None = 1.0
    loss_options: dict[str, Any] = field(default_factory=dict)
    steps: int = 100

    @property
    def key(self) -> str:
        """Name of the arm in the results."""
        return f"{self.group}/{self.name}"


def _mismatch() -> list[Arm]:
    ways: dict[str, dict[str, Any]] = {
        "raw": {"loss": "raw"},
        "pre_clip": {"loss": "pre_clip"},
        "vanilla": {"loss": "vanilla"},
        "both": {"loss": "both"},
        "recomputed": {"loss": "vanilla", "correction": "recomputed"},
        "tis": {"loss": "vanilla", "correction": "tis"},
        "icepop": {"loss": "vanilla", "correction": "icepop"},
    }
    return [
        Arm("mismatch", f"{mismatch}/{name}", PLUS_PLUS, mismatch=mismatch, **way)
        for mismatch in ("exact", "bf16", "heavy6", "heavy10", "stale")
        for name, way in ways.items()
    ]


def _filter() -> list[Arm]:
    # All with the paper's loss, so that the advantages alone differ.
    ways: dict[str, dict[str, Any]] = {
        "no_filter": {"estimator": PLUS_PLUS},
        "stable_reinforce": {},
        "reference_bounds": {"estimator": STABLE | {"bounds": "reference"}},
        "winsorised": {"estimator": STABLE | {"filter": "clip"}},
        "no_division": {"estimator": STABLE | {"filter": "none", "deviation_floor": 1.0}},
        "floor": {"estimator": STABLE | {"filter": "none", "deviation_floor": 0.5}},
        # What dynamic sampling leaves out, without the prompts that it samples instead.
        "drop_equal_groups": {"estimator": {"name": "grpo", "drop_equal": True}, "group_size": 4},
        "grpo": {"estimator": {"name": "grpo"}, "group_size": 4},
    }
    return [
        # Where most answers are right already, what is left to learn takes longer, and larger steps forget.
        Arm(
            *("filter", f"{start:.0%}/{label}/{name}"),
            start=start,
            noise=noise,
            lr=3e-4 if start == 0.99 else 1e-3,
            steps=200 if start >= 0.9 and not noise else 100,
            **way,
        )
        for start in (0.7, 0.9, 0.99)
        for label, noise in (("clean", 0.0), ("noisy", 0.1))
        for name, way in ways.items()
    ]


def _rare() -> list[Arm]:
    ways: dict[str, dict[str, Any]] = {
        "no_filter": {"estimator": PLUS_PLUS},
        "stable_reinforce": {},
        "winsorised": {"estimator": STABLE | {"filter": "clip"}},
    }
    return [
        Arm("rare", f"{reward}/{name}", start=0.05, reward=reward, **way)
        for reward in ("binary", "paper")
        for name, way in ways.items()
    ]


def _training() -> list[Arm]:
    ways: dict[str, dict[str, Any]] = {"plain": PLAIN, "stable_reinforce": {}}
    settings: dict[str, dict[str, Any]] = {
        **{f"lr={lr:g}": {"lr": lr} for lr in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)},
        **{f"updates={updates}": {"updates": updates} for updates in (1, 4, 16)},
        **{f"batch={batch}": {"batch": batch} for batch in (32, 256)},
        "no_gradient_clip": {"grad_clip": None},
    }
    arms = [
        Arm("training", f"{setting}/{name}", **way, **values)
        for setting, values in settings.items()
        for name, way in ways.items()
    ]
    heavy: dict[str, Any] = {"estimator": PLUS_PLUS, "mismatch": "heavy10", "grad_clip": None}
    return arms + [
        Arm("training", f"heavy10_no_gradient_clip/{loss}", loss=loss, **heavy)
        for loss in ("raw", "pre_clip", "vanilla")
    ]


# The bounds that verl's docstrings and comments name, which are meant for long texts; of each method the learning rate
# alone is tuned. GSPO's ratio is of a whole text: `gspo_wide` has a hundred times the room.
_SEQUENCES = "seq-mean-token-mean"
_NEIGHBOURS: dict[str, dict[str, Any]] = {
    "vanilla": {"loss": "vanilla"},
    "pre_clip": {"loss": "pre_clip"},
    "gspo": {
        "loss": "gspo",
        "loss_options": {"loss_agg_mode": _SEQUENCES, "clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4},
    },
    "gspo_wide": {
        "loss": "gspo",
        "loss_options": {"loss_agg_mode": _SEQUENCES, "clip_ratio_low": 3e-2, "clip_ratio_high": 4e-2},
    },
    "cispo": {"loss": "cispo", "loss_options": {"clip_ratio_low": 1.0, "clip_ratio_high": 0.28}},
    "sapo": {"loss": "sapo"},
    "geo_mean": {"loss": "geo_mean", "loss_options": {"clip_ratio_low": 0.4, "clip_ratio_high": 0.4}},
    "dppo_tv": {
        "loss": "dppo_tv",
        "loss_options": {"clip_ratio_low": 0.15, "clip_ratio_high": 0.15, "clip_ratio_c": 20.0},
    },
}


def tuning() -> list[Arm]:
    """Each neighbour with each learning rate, on seeds of their own; the best rate is the neighbour's."""
    return [
        Arm("tuning", f"{name}/{lr:g}", PLUS_PLUS, lr=lr, updates=4, **way)
        for name, way in _NEIGHBOURS.items()
        for lr in LEARNING_RATES
    ]


def neighbours(rates: dict[str, float]) -> list[Arm]:
    """Each neighbour with its own learning rate."""
    return [Arm("neighbours", name, PLUS_PLUS, lr=rates[name], updates=4, **way) for name, way in _NEIGHBOURS.items()]


def arms() -> list[Arm]:
    """All arms but those that depend on the tuning."""
    return [*_mismatch(), *_filter(), *_rare(), *_training()]


PRIMARY = (
    # Pre-CLIP: does it prevent collapse where log-probabilities are wrong, and cost nothing where they are right?
    ("mismatch/heavy10/pre_clip", "mismatch/heavy10/raw"),
    ("mismatch/exact/pre_clip", "mismatch/exact/raw"),
    # Does one still need it beside verl's dual clip, and beside verl's own log-probabilities?
    ("mismatch/heavy10/pre_clip", "mismatch/heavy10/vanilla"),
    ("mismatch/heavy10/both", "mismatch/heavy10/vanilla"),
    ("mismatch/heavy10/pre_clip", "mismatch/heavy10/recomputed"),
    # The filter and its alternatives, where most answers are right already, and with noisy labels.
    ("filter/90%/clean/stable_reinforce", "filter/90%/clean/no_filter"),
    ("filter/99%/clean/stable_reinforce", "filter/99%/clean/no_filter"),
    ("filter/90%/noisy/stable_reinforce", "filter/90%/noisy/no_filter"),
    ("filter/90%/clean/winsorised", "filter/90%/clean/stable_reinforce"),
    ("filter/90%/clean/no_division", "filter/90%/clean/no_filter"),
    # Rare success, where the filter drops what one wants to learn from.
    ("rare/binary/stable_reinforce", "rare/binary/no_filter"),
    # The paper's collapse of Reinforce++, with neither part, at a learning rate that is too high.
    ("training/lr=0.01/stable_reinforce", "training/lr=0.01/plain"),
)
"""Pairs whose difference in held-out accuracy is tested, corrected for their number."""


def quick(arm: Arm) -> Arm:
    """The same arm with ten steps."""
    return replace(arm, steps=10)
