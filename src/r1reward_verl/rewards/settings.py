"""The settings of the reward, as they stand under `reward.r1_reward` in a verl config.

Free of verl, so that they can be checked before anything is started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from r1reward_verl.judgement import LENIENT_MODES, Lenient
from r1reward_verl.rewards.judges import make_judge
from r1reward_verl.rewards.rules import RewardWeights
from r1reward_verl.rewards.terms import Terms


@dataclass(frozen=True)
class RewardSettings:
    """What a user may set; absent means the default.

    Attributes:
        judge: who checks that reasoning and answer agree: `name` (see `consistency.JUDGES`) and its options.
        consistency_weight: see `RewardWeights.consistency`; with 0 the judge is never asked.
        format_weight: see `RewardWeights.format`.
        consistency_range: see `RewardWeights.consistency_range`.
        on_failure: what happens to a judgement for which the judge could not be reached: `zero` gives it a consistency
            of 0 and goes on, `fail` stops the run.
        max_failed_share: with `zero`, the share of a step's judgements up to which the run goes on.
        lenient: how to read malformed judgements, see `r1reward_verl.judgement.parse`; None: not at all.
        agreement_weight, calibration_weight, length_weight, length_range: see `terms.Terms`; beyond the paper.

    Raises:
        ValueError: a value out of range or an unknown judge; the message names the setting.
    """

    judge: Mapping[str, Any] = field(default_factory=lambda: {"name": "rules"})
    consistency_weight: float = 0.5
    format_weight: float = 0.5
    consistency_range: Sequence[float] = (-1.0, 1.0)
    on_failure: str = "zero"
    max_failed_share: float = 0.25
    lenient: Lenient | None = None
    agreement_weight: float = 0.0
    calibration_weight: float = 0.0
    length_weight: float = 0.0
    length_range: Sequence[float] = (256, 1024)

    def __post_init__(self) -> None:
        if self.lenient is not None and self.lenient not in LENIENT_MODES:
            known = ", ".join(("null", *LENIENT_MODES))
            raise ValueError(f"reward.r1_reward.lenient is {self.lenient!r}; known: {known}")
        if self.on_failure not in ("zero", "fail"):
            raise ValueError(f"reward.r1_reward.on_failure is {self.on_failure!r}; known: zero, fail")
        share = self.max_failed_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"reward.r1_reward.max_failed_share is {share!r}; it must be from 0 to 1")
        try:
            _ = self.weights, self.terms
            make_judge(self.judge)
        except ValueError as error:
            raise ValueError(f"reward.r1_reward: {error}") from None

    @property
    def weights(self) -> RewardWeights:
        """The weights, for `combine`."""
        return RewardWeights(self.consistency_weight, self.format_weight, _pair(self.consistency_range))

    @property
    def terms(self) -> Terms:
        """What is added to the paper's reward."""
        return Terms(self.agreement_weight, self.calibration_weight, self.length_weight, _pair(self.length_range))

    @classmethod
    def from_config(cls, section: Mapping[str, Any] | None) -> RewardSettings:
        """Read the section `reward.r1_reward` of a composed config; None (absent) means all defaults.

        Raises:
            ValueError: not a mapping, or a key that is not a setting; the message names it.
        """
        if section is None:
            return cls()
        if not isinstance(section, Mapping):
            raise ValueError(f"reward.r1_reward is {section!r}; it must be a mapping of settings")
        known = [setting.name for setting in fields(cls)]
        if unknown := [str(key) for key in section if key not in known]:
            raise ValueError(f"unknown setting reward.r1_reward.{unknown[0]}; known: {', '.join(known)}")
        return cls(**{str(key): value for key, value in section.items()})


def _pair(bounds: Any) -> tuple[float, float]:
    """Return bounds as they are checked by who takes them."""
    return tuple(bounds) if isinstance(bounds, Sequence) else (bounds,)
