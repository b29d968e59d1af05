"""A trained reward model, ready for use: it judges pairs, ranks responses and scores them.

    from r1reward_verl.use import RewardModel

    with RewardModel("checkpoints/my-reward-model") as model:
        result = model.judge("How many dogs are there?", "dogs.png", "Two.", "Three.")
        print(result.verdict, result.probability, result.reasoning)

Each method has an asynchronous twin (`ajudge`, `arank`, `ascore`). One model is used from one event loop: the methods
without `a` share a loop in a thread of the model's own.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from r1reward_verl.engines.online import MODEL_API_KEY, OnlineEndpoint, OnlineEngine
from r1reward_verl.engines.online_vllm import OnlineVLLM
from r1reward_verl.judgement import Choice
from r1reward_verl.use.comparison import Comparison, EncodedGroup, Question, Response, compare, encode_group
from r1reward_verl.use.schedules import make_rounds, run_schedule
from r1reward_verl.use.scores import (
    Outcome,
    bradley_terry,
    count_cycles,
    count_order_disagreements,
    ranks,
    win_rates,
)
from r1reward_verl.use.settings import ComparisonSettings, RankSettings

T = TypeVar("T")
AnyResponse = str | Response | Mapping[str, Any]

_TEXT_BYTES, _LOGPROB_BYTES = 1 << 20, 8 << 20  # of one judgement in a server's answer


@dataclass(frozen=True)
class JudgeResult:
    """Which of two responses is better.

    Attributes:
        verdict: the better response, 1 or 2; None for a tie, or where no judgement could be read.
        probability: that response 1 is better, the mean over the orders; None where no judgement could be read.
        comparisons: one for each order in which the pair was shown. Position 0 is response 1.
    """

    verdict: Choice | None
    probability: float | None
    comparisons: tuple[Comparison, ...]

    @property
    def orders_disagree(self) -> bool:
        """Whether the verdict depends on which response was shown first."""
        return count_order_disagreements(outcomes_of(self.comparisons)) > 0

    @property
    def disagreement(self) -> float:
        """Share of the readable judgements that choose the other response; 0.5 for a tie."""
        choices = [
            verdict.choice == 1 if comparison.first == 0 else verdict.choice == 2
            for comparison in self.comparisons
            for verdict in comparison.verdicts
            if verdict.choice
        ]
        share = sum(choices) / len(choices) if choices else 0.0
        return min(share, 1 - share)

    @property
    def reasoning(self) -> str:
        """The reasoning of a judgement that agrees with the verdict.

        In it the responses have the numbers of the order that it was shown, which is that of the call wherever a
        judgement in that order agrees.
        """
        first_chosen = 0 if self.verdict in (1, None) else 1
        agreeing = [
            one
            for one in self.comparisons
            if one.probability is not None and (one.first if one.probability >= 0.5 else one.second) == first_chosen
        ]
        return (agreeing or list(self.comparisons))[0].reasoning

    @property
    def error(self) -> str:
        """What went wrong last, empty if nothing did."""
        return next((one.error for one in reversed(self.comparisons) if one.error), "")


@dataclass(frozen=True)
class RankResult:
    """How the responses of a group compare.

    Attributes:
        scores: of each response, in the order of the call (see `RankSettings.score`); higher is better.
        standard_errors: of the scores.
        comparisons: what was compared. In a group with a reference it has the position after the last response.
        cycles: number of intransitive triples (A beats B beats C beats A).
        order_disagreements: number of pairs whose verdict depends on which response was shown first.
    """

    scores: tuple[float, ...]
    standard_errors: tuple[float, ...]
    comparisons: tuple[Comparison, ...]
    cycles: int
    order_disagreements: int

    @property
    def order(self) -> list[int]:
        """Positions of the responses from the best to the worst; ties in the order of the call."""
        return sorted(range(len(self.scores)), key=lambda index: -self.scores[index])

    @property
    def best(self) -> int:
        """Position of the best response."""
        return self.order[0]

    @property
    def ranks(self) -> list[float]:
        """Rank of each response, 1 for the best; responses that are tied share the mean of their ranks."""
        return [float(rank) for rank in ranks(np.asarray(self.scores))]

    @property
    def ties(self) -> int:
        """Number of comparisons that were undecided."""
        return sum(one.probability == 0.5 for one in self.comparisons)

    @property
    def failed(self) -> int:
        """Number of comparisons without a readable judgement."""
        return sum(one.probability is None for one in self.comparisons)

    @property
    def error(self) -> str:
        """What went wrong last, empty if nothing did."""
        return next((one.error for one in reversed(self.comparisons) if one.error), "")


class RewardModel:
    """A trained generative reward model.

    Args:
        model: folder of a checkpoint or name on the Hugging Face Hub, loaded into vLLM in this process; with `urls` the
            name under which the servers serve it, None for the first that each lists.
        urls: addresses of OpenAI-compatible servers, with the API version; they share the work.
        settings: how two responses are compared; None for the defaults.
        engine: an engine of one's own in place of `model` and `urls`.
        api_key_env: environment variable with the servers' key.
        options: of the engine, `OnlineVLLM` or `OnlineEndpoint`: `images`, `max_model_len`, `tensor_parallel`,
            `gpu_memory_utilization`; or `concurrency`, `timeout`, `max_wait`, `retries`.

    Raises:
        ValueError, FileNotFoundError: arguments that contradict each other or cannot be meant.
        EngineError: vLLM could not be started, at the first use.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        urls: Sequence[str] = (),
        settings: ComparisonSettings | None = None,
        engine: OnlineEngine | None = None,
        api_key_env: str = MODEL_API_KEY,
        **options: Any,
    ) -> None:
        self.settings = settings or ComparisonSettings()
        self.template = self.settings.template()
        if engine is None and not urls and model is None:
            raise ValueError("a RewardModel needs a model, urls or an engine")
        self._model, self._urls, self._options = model, tuple(urls), options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._engine = engine
        if engine is None and urls:
            each = _LOGPROB_BYTES if self.settings.logprobs else _TEXT_BYTES
            self._engine = OnlineEndpoint(
                self._urls,
                None if model is None else os.fspath(model),
                self.settings.sampling,
                api_key_env=api_key_env,
                max_bytes=max(self.settings.samples, 1) * each,
                **options,
            )

    @property
    def engine(self) -> OnlineEngine:
        """The engine; vLLM is loaded when it is first asked for."""
        if self._engine is None:
            assert self._model is not None
            self._engine = OnlineVLLM(self._model, self.settings.sampling, **self._options)
        return self._engine

    # Asynchronous

    async def ajudge(
        self,
        question: str | Question,
        media: Any,
        response_1: AnyResponse,
        response_2: AnyResponse,
        *,
        both_orders: bool = True,
    ) -> JudgeResult:
        """Decide which of two responses is better.

        Args:
            question: the question.
            media: its pictures and videos; see `comparison.read_media`.
            response_1: a text, or a mapping with `text` and `images`.
            response_2: likewise.
            both_orders: whether the pair is shown a second time with its responses exchanged.

        Raises:
            ValueError: an argument cannot be meant, or a picture cannot be read. What goes wrong in the engine is told
                in the result.
        """
        group = await self._encode(question, media, [response_1, response_2])
        pairs = [(0, 1), (1, 0)] if both_orders else [(0, 1)]
        comparisons = await self.compare_pairs(group, pairs)
        probabilities = [
            outcome.probability if outcome.first == 0 else 1 - outcome.probability
            for outcome in outcomes_of(comparisons)
        ]
        probability = sum(probabilities) / len(probabilities) if probabilities else None
        verdict: Choice | None = None
        if probability is not None and probability != 0.5:
            verdict = 1 if probability > 0.5 else 2
        return JudgeResult(verdict, probability, tuple(comparisons))

    async def arank(
        self,
        question: str | Question,
        media: Any,
        responses: Sequence[AnyResponse],
        settings: RankSettings | None = None,
        *,
        reference: AnyResponse | None = None,
    ) -> RankResult:
        """Rank responses to a question by comparisons of pairs.

        Args:
            question: the question.
            media: its pictures and videos; see `comparison.read_media`.
            responses: at least one, as for `ajudge`.
            settings: which pairs are compared, and what is made of the verdicts; None for the defaults.
            reference: a response to compare each of them with, in place of the schedule; it gets no score itself.

        Raises:
            ValueError: see `ajudge`.
        """
        settings = settings or RankSettings()
        if not responses:
            raise ValueError("there are no responses to rank")
        group = await self._encode(question, media, [*responses, *([] if reference is None else [reference])])
        return await self.rank_group(group, settings, with_reference=reference is not None)

    async def ascore(
        self,
        question: str | Question,
        media: Any,
        responses: Sequence[AnyResponse],
        settings: RankSettings | None = None,
        *,
        reference: AnyResponse | None = None,
    ) -> list[float]:
        """Return the scores of `arank` alone, one for each response."""
        return list((await self.arank(question, media, responses, settings, reference=reference)).scores)

    async def _encode(self, question: str | Question, media: Any, responses: Sequence[AnyResponse]) -> EncodedGroup:
        asked = question if isinstance(question, Question) else Question.make(question, media)
        return await encode_group(self.engine, asked, [Response.make(one) for one in responses])

    async def compare_pairs(self, group: EncodedGroup, pairs: Sequence[tuple[int, int]]) -> list[Comparison]:
        """Compare pairs of a group at the same time, each in the order of its positions."""
        return await asyncio.gather(
            *(compare(self.engine, group, *pair, self.settings, self.template) for pair in pairs)
        )

    async def rank_group(
        self, group: EncodedGroup, settings: RankSettings, *, with_reference: bool = False
    ) -> RankResult:
        """Rank the responses of an encoded group; with a reference, its last response is that."""
        count = len(group.responses) - with_reference
        rounds = make_rounds(
            "reference" if with_reference else settings.schedule,
            count,
            comparisons=settings.comparisons,
            both_orders=settings.both_orders,
            seed=settings.seed,
        )
        comparisons: list[Comparison] = []

        async def compare_round(pairs: Sequence[tuple[int, int]]) -> list[float | None]:
            done = await self.compare_pairs(group, pairs)
            comparisons.extend(done)
            return [one.probability for one in done]

        outcomes = await run_schedule(rounds, compare_round)
        total = len(group.responses)
        scores = _SCORES[settings.score](total, outcomes)
        return RankResult(
            tuple(map(float, scores.values[:count])),
            tuple(map(float, scores.standard_errors[:count])),
            tuple(comparisons),
            count_cycles(total, outcomes),
            count_order_disagreements(outcomes),
        )

    async def aclose(self) -> None:
        """Give back what the engine holds."""
        if self._engine is not None:
            await self._engine.close()

    # The same from code without an event loop

    def judge(self, *args: Any, **kwargs: Any) -> JudgeResult:
        """Wait for `ajudge`, which takes the same arguments."""
        return self.wait_for(self.ajudge(*args, **kwargs))

    def rank(self, *args: Any, **kwargs: Any) -> RankResult:
        """Wait for `arank`, which takes the same arguments."""
        return self.wait_for(self.arank(*args, **kwargs))

    def score(self, *args: Any, **kwargs: Any) -> list[float]:
        """Wait for `ascore`, which takes the same arguments."""
        return self.wait_for(self.ascore(*args, **kwargs))

    def close(self) -> None:
        """Wait for `aclose`, and end the thread of the event loop."""
        self.wait_for(self.aclose())
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None

    def __enter__(self) -> RewardModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this model in the loop of its thread, and return what it returns."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="reward-model", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def outcomes_of(comparisons: Sequence[Comparison]) -> list[Outcome]:
    """Return the outcomes of the comparisons that have one."""
    return [Outcome(one.first, one.second, one.probability) for one in comparisons if one.probability is not None]


_SCORES = {"win_rate": win_rates, "bradley_terry": bradley_terry}
