"""The reward of a group: sibling responses to one prompt, compared with each other by a reward model.

Free of any trainer; verl reaches it through `plugin.pairwise_manager`, OpenRLHF and others through `use.serve`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from r1reward_verl.engines.online import MODEL_API_KEY
from r1reward_verl.judgement import Lenient
from r1reward_verl.use.comparison import Comparison, Question, Response, encode_group
from r1reward_verl.use.model import RewardModel, outcomes_of
from r1reward_verl.use.schedules import DEFAULT_SCHEDULE, ScheduleName
from r1reward_verl.use.scores import count_order_disagreements, ranks
from r1reward_verl.use.settings import ComparisonSettings, RankSettings

NEUTRAL = 0.5
"""The reward of a response that could not be compared: that of a response which wins every second comparison."""

Shaping = Literal["win_rate", "bradley_terry", "rank"]
Status = Literal[
    "ranked",  # compared with its siblings
    "reference",  # compared with the reference answer
    "neutral",  # alone, and without a reference answer
    "failed",  # no comparison gave a verdict
]


class ModelSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the reward model is.

    Attributes:
        name: "endpoint", or "pool" or "colocated" where verl serves it.
        urls: addresses of its servers, with the API version; of a model that verl serves they are filled in.
        model: name under which they serve it; None for the first that each lists.
        api_key_env: environment variable with their key.
        concurrency: requests at a time of each reward worker.
        timeout: seconds for one request.
        max_wait: seconds without an answer from any server after which comparisons fail.
        retries: of a request that fails while others succeed.
    """

    name: Literal["endpoint", "pool", "colocated"] = "endpoint"
    urls: list[str] = []
    model: str | None = None
    api_key_env: str = MODEL_API_KEY
    concurrency: int = 64
    timeout: float = 120.0
    max_wait: float = 300.0
    retries: int = 3


class ComparisonSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How two responses are compared: see `settings.ComparisonSettings`."""

    samples: int = 0
    temperature: float = 1.0
    max_tokens: int = 1024
    logprobs: bool = False
    prompt_template: str | None = None
    media_position: Literal["before", "after"] = "before"
    min_pixels: int = 3136
    max_pixels: int = 501_760
    lenient: Lenient | None = None
    neutralise: bool = True


class GroupSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `reward.pairwise` of a verl config.

    Attributes:
        model: where the reward model is.
        comparison: how two responses are compared.
        against: whether siblings are compared with each other, or each with the reference answer.
        schedule: which pairs of siblings are compared.
        comparisons: largest number of comparisons of a group; None for the schedule's own.
        both_orders: whether every pair is shown in both orders, which counts as two comparisons.
        shaping: what becomes the reward: the share of wins; the Bradley-Terry strength, as the probability to beat an
            average sibling; or the rank, from 0 for the last to 1 for the first.
        length_penalty: taken from the reward of a response that is twice as long as its group's median or longer, and
            proportionally less from one that is longer than the median by less.
        rule_weight: weight of a rule reward (verl's `custom_reward_function`, or its default by data source) that is
            added.
        after_think: whether only what follows the last `</think>` of a response is compared.
        on_failure: what happens where nobody answers comparisons: `zero` gives the responses concerned the neutral
            reward and goes on, `fail` ends the run. Judgements that cannot be read end no run.
        max_failed_share: with `zero`, the share of a step's comparisons up to which the run goes on.
    """

    model: ModelSection = ModelSection()
    comparison: ComparisonSection = ComparisonSection()
    against: Literal["siblings", "reference"] = "siblings"
    schedule: ScheduleName = DEFAULT_SCHEDULE
    comparisons: int | None = None
    both_orders: bool = False
    shaping: Shaping = "win_rate"
    length_penalty: float = 0.0
    rule_weight: float = 0.0
    after_think: bool = False
    on_failure: Literal["zero", "fail"] = "zero"
    max_failed_share: float = 0.25

    @classmethod
    def from_config(cls, section: Mapping[str, Any] | None) -> GroupSettings:
        """Read the section of a composed config; None (absent) means all defaults.

        Raises:
            ValueError: a setting that is unknown or has a value that cannot be meant; the message names it.
        """
        try:
            settings = msgspec.convert(section or {}, cls)
            settings.comparison_settings.template()
            _ = settings.rank_settings
        except (msgspec.ValidationError, ValueError, FileNotFoundError) as error:
            raise ValueError(f"reward.pairwise: {error}") from None
        for name, value, least, most in (
            ("length_penalty", settings.length_penalty, 0.0, 10.0),
            ("rule_weight", settings.rule_weight, 0.0, 1000.0),
            ("max_failed_share", settings.max_failed_share, 0.0, 1.0),
        ):
            if not least <= value <= most:
                raise ValueError(f"reward.pairwise.{name} is {value!r}; it must be from {least:g} to {most:g}")
        return settings

    @property
    def comparison_settings(self) -> ComparisonSettings:
        """How two responses are compared."""
        return ComparisonSettings(**msgspec.structs.asdict(self.comparison))

    @property
    def rank_settings(self) -> RankSettings:
        """Which siblings are compared, and what their score is."""
        return RankSettings(
            schedule=self.schedule,
            comparisons=self.comparisons,
            both_orders=self.both_orders,
            score="bradley_terry" if self.shaping == "bradley_terry" else "win_rate",
        )

    def load(self) -> RewardModel:
        """Return the reward model.

        Raises:
            ValueError: no servers are named, or a setting of theirs cannot be meant.
        """
        where = self.model
        if not where.urls:
            raise ValueError(
                "reward.pairwise.model.urls is empty: name the servers of the reward model, such as "
                "[http://host:8000/v1], or let verl serve it (+reward_model=pool or colocated)"
            )
        try:
            return RewardModel(
                where.model,
                urls=where.urls,
                settings=self.comparison_settings,
                api_key_env=where.api_key_env,
                concurrency=where.concurrency,
                timeout=where.timeout,
                max_wait=where.max_wait,
                retries=where.retries,
            )
        except ValueError as error:
            raise ValueError(f"reward.pairwise.model: {error}") from None


@dataclass(frozen=True)
class SiblingResponse:
    """A response of a group.

    Attributes:
        text: as the policy wrote it, without special tokens.
        tokens: its length.
        rule: its reward by rules; 0 without them.
    """

    text: str
    tokens: int
    rule: float = 0.0


class GroupReward:
    """Rewards groups of sibling responses.

    Args:
        model: the reward model.
        settings: how.
    """

    def __init__(self, model: RewardModel, settings: GroupSettings) -> None:
        self.model, self.settings = model, settings
        self._rank = settings.rank_settings

    async def reward(
        self, question: Question, siblings: Sequence[SiblingResponse], reference: str | None, *, validate: bool = False
    ) -> list[dict[str, float | str]]:
        """Return the reward of each sibling with its parts, by name.

        Siblings are compared with each other; in validation, where the group is a single response, or where the
        settings say so, each with the reference answer. A single response without one gets the neutral reward.
        Responses without a word lose without being shown. What goes wrong is told in the parts, not raised.

        Args:
            question: the prompt with its media.
            siblings: at least one.
            reference: the reference answer of the row, None or blank if it has none.
            validate: whether this is validation.

        Returns:
            For each sibling `score`, its reward, and: `comparison_score` before length penalty and rules, from 0 to 1;
            `length_penalty`; `rule`; `response_tokens`; `rank_status`, see `Status`; `group_size`. And, the same for
            all siblings of a group, `group_comparisons`, of them `group_failed` (nobody answered), `group_undecided`
            (no judgement could be read) and `group_ties`; `group_cycles`, `group_order_disagreements`,
            `group_pairs_in_both_orders`, `group_seconds`; and `group_signal`, 1.0 unless all of their scores are equal.
        """
        began = time.perf_counter()
        texts = [self._shown(one.text) for one in siblings]
        spoken = [index for index, text in enumerate(texts) if text.strip()]
        reference = reference if reference and reference.strip() else None
        against = reference is not None and (validate or len(siblings) == 1 or self.settings.against == "reference")
        # Responses that are equal need no comparison: they share their score, and one that is equal to the reference
        # answer is as good as that.
        distinct = [
            text for text in dict.fromkeys(texts[index] for index in spoken) if not against or text != reference
        ]
        status: Status = "reference" if against else "ranked"
        scores, comparisons, cycles, error = await self._compare(question, distinct, reference if against else None)
        if scores is None and distinct:
            status = "failed" if comparisons else "neutral"
        by_text = dict(zip(distinct, scores or [NEUTRAL] * len(distinct), strict=True))
        if against and reference is not None:
            by_text.setdefault(reference, NEUTRAL)
        if not against and len(distinct) == 1 and len(spoken) < len(siblings):
            by_text[distinct[0]], status = 1.0, "ranked"  # the others are blank
        values = [by_text[texts[index]] if index in spoken else 0.0 for index in range(len(siblings))]
        seconds = time.perf_counter() - began
        return self._infos(siblings, values, status, comparisons, cycles, error, seconds)

    def lost(self, siblings: Sequence[SiblingResponse], error: str) -> list[dict[str, float | str]]:
        """Return what `reward` returns for a group that cannot be compared: the neutral reward, and a failure."""
        failed = Comparison(0, 0, None, error=error)
        return self._infos(siblings, [NEUTRAL] * len(siblings), "failed", (failed,), 0, error, 0.0)

    def _infos(
        self,
        siblings: Sequence[SiblingResponse],
        values: Sequence[float],
        status: Status,
        comparisons: Sequence[Comparison],
        cycles: int,
        error: str,
        seconds: float,
    ) -> list[dict[str, float | str]]:
        penalties = self._penalties([one.tokens for one in siblings])
        totals = [
            value - penalty + self.settings.rule_weight * one.rule
            for value, penalty, one in zip(values, penalties, siblings, strict=True)
        ]
        group: dict[str, float | str] = {
            "group_size": float(len(siblings)),
            "group_comparisons": float(len(comparisons)),
            "group_failed": float(sum(_failed(one) for one in comparisons)),
            "group_undecided": float(sum(one.probability is None and not _failed(one) for one in comparisons)),
            "group_ties": float(sum(one.probability == NEUTRAL for one in comparisons)),
            "group_cycles": float(cycles),
            "group_order_disagreements": float(count_order_disagreements(outcomes_of(comparisons))),
            "group_pairs_in_both_orders": float(_pairs_in_both_orders(comparisons)),
            "group_seconds": seconds,
            "group_signal": float(max(totals) > min(totals)),
            "group_error": error,
        }
        return [
            {
                "score": total,
                "comparison_score": value,
                "length_penalty": penalty,
                "rule": one.rule,
                "response_tokens": float(one.tokens),
                "rank_status": status,
                **group,
            }
            for total, value, penalty, one in zip(totals, values, penalties, siblings, strict=True)
        ]

    def _shown(self, text: str) -> str:
        return text.rpartition("</think>")[2].strip() if self.settings.after_think else text

    async def _compare(
        self, question: Question, texts: Sequence[str], reference: str | None
    ) -> tuple[list[float] | None, tuple[Comparison, ...], int, str]:
        """Return a score from 0 to 1 for each text, or None without a verdict; the comparisons, cycles and an error."""
        responses = [Response(text) for text in (*texts, *([] if reference is None else [reference]))]
        if not texts or len(responses) < 2:
            return None, (), 0, ""
        try:
            group = await encode_group(self.model.engine, question, responses)
        except ValueError as error:  # a picture that cannot be read: nothing can be compared
            return None, (Comparison(0, 0, None, error=str(error)),), 0, str(error)
        result = await self.model.rank_group(group, self._rank, with_reference=reference is not None)
        if all(one.probability is None for one in result.comparisons):
            return None, result.comparisons, 0, result.error
        scores = [float(score) for score in result.scores]
        if reference is None:
            # A response on which no judgement could be read, where its siblings got theirs, is not to gain by that.
            for index in _never_judged(result.comparisons, len(texts)):
                scores[index] = min(scores)
        if self.settings.shaping == "rank" and reference is None:
            last = max(len(texts) - 1, 1)
            scores = [(len(texts) - rank) / last for rank in ranks(np.asarray(scores)).tolist()]
        elif self.settings.shaping == "bradley_terry":
            scores = [1.0 / (1.0 + math.exp(-score)) for score in scores]
        return scores, result.comparisons, result.cycles, result.error

    def _penalties(self, tokens: Sequence[int]) -> list[float]:
        if not self.settings.length_penalty:
            return [0.0] * len(tokens)
        median = max(statistics.median(tokens), 1.0)
        return [self.settings.length_penalty * min(max(one / median - 1.0, 0.0), 1.0) for one in tokens]


def _failed(comparison: Comparison) -> bool:
    """Tell whether nobody answered a comparison; one whose judgements cannot be read is undecided."""
    return comparison.probability is None and (comparison.unavailable or not comparison.texts)


def _never_judged(comparisons: Sequence[Comparison], count: int) -> list[int]:
    """Return the responses that were shown, and of which every judgement was unreadable."""
    judged = {index for one in comparisons if one.probability is not None for index in (one.first, one.second)}
    failed = {index for one in comparisons if _failed(one) for index in (one.first, one.second)}
    shown = {index for one in comparisons for index in (one.first, one.second)}
    return [index for index in range(count) if index in shown - judged - failed]


def _pairs_in_both_orders(comparisons: Sequence[Comparison]) -> int:
    shown = {(one.first, one.second) for one in comparisons if one.probability is not None}
    return sum((second, first) in shown for first, second in shown if first < second)


def group_metrics(infos: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Sum up the groups of a step.

    Args:
        infos: one for each response, as `GroupReward.reward` returns them.

    Returns:
        `pairwise/...`: `groups`; `group_size/min`, the size of the smallest; `no_signal`, the share of groups of
        several responses whose rewards are all equal; numbers of `comparisons`, `failed` and `undecided` ones, `ties`,
        `cycles` and `order_disagreements`, the last also as a share of the pairs that were shown in both orders; means
        of `comparison_score`, `length_penalty`, `rule` and `response_tokens`; the share of `neutral` responses; and of
        the seconds of a group the mean and the largest.
        Empty for no infos.
    """
    if not infos:
        return {}
    weight = [1.0 / float(one["group_size"]) for one in infos]  # the responses of a group carry the same numbers

    def total(name: str) -> float:
        return sum(part * float(one[name]) for part, one in zip(weight, infos, strict=True))

    def mean(name: str) -> float:
        return sum(float(one[name]) for one in infos) / len(infos)

    several = [(part, one) for part, one in zip(weight, infos, strict=True) if one["group_size"] > 1]
    groups = sum(part for part, _ in several)
    silent = sum(part for part, one in several if not one["group_signal"])
    both = total("group_pairs_in_both_orders")
    names = ("comparisons", "failed", "undecided", "ties", "cycles", "order_disagreements")
    metrics = {f"pairwise/{name}": total(f"group_{name}") for name in names}
    metrics |= {
        f"pairwise/{name}": mean(name) for name in ("comparison_score", "length_penalty", "rule", "response_tokens")
    }
    return metrics | {
        "pairwise/group_size/min": min(float(one["group_size"]) for one in infos),
        "pairwise/groups": sum(weight),
        "pairwise/no_signal": silent / groups if groups else 0.0,
        "pairwise/order_disagreement_share": total("group_order_disagreements") / both if both else 0.0,
        "pairwise/neutral": sum(one["rank_status"] in ("neutral", "failed") for one in infos) / len(infos),
        "pairwise/seconds/mean": total("group_seconds") / sum(weight),
        "pairwise/seconds/max": max(float(one["group_seconds"]) for one in infos),
    }


def group_failure(metrics: Mapping[str, float], settings: GroupSettings) -> str | None:
    """Say why a step with these `group_metrics` ends the run by the user's settings, or None."""
    failed, asked = metrics.get("pairwise/failed", 0.0), metrics.get("pairwise/comparisons", 0.0)
    if not failed or (settings.on_failure == "zero" and failed <= settings.max_failed_share * asked):
        return None
    limit = (
        "reward.pairwise.on_failure=fail allows none"
        if settings.on_failure == "fail"
        else f"reward.pairwise.max_failed_share={settings.max_failed_share} allows {settings.max_failed_share:.0%}"
    )
    return f"the reward model answered {failed:.0f} of {asked:.0f} comparisons of this step not at all; {limit}"
