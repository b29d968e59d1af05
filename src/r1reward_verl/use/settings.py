"""How a trained reward model is used: how it compares two responses, and how many comparisons rank a group."""

from __future__ import annotations

from typing import Annotated, Literal

from r1reward_verl.engines.base import Sampling
from r1reward_verl.judgement import PROMPT, Lenient, load_template
from r1reward_verl.settings import Settings, setting
from r1reward_verl.use.schedules import DEFAULT_SCHEDULE, ScheduleName

_DEFAULT = Sampling()


class ComparisonSettings(Settings, frozen=True, kw_only=True):
    """How two responses are compared, in each order in which they are shown.

    Raises:
        ValueError: a value outside its bounds, or values that contradict each other.
    """

    samples: Annotated[
        int, setting("Number of judgements that vote; 0 for the greedy one alone.", metavar="K", ge=0, le=64)
    ] = 0
    temperature: Annotated[float, setting("Temperature of the samples.", ge=0, le=2)] = 1.0
    max_tokens: Annotated[int, setting("Largest number of tokens of a judgement.", metavar="N", ge=1)] = 4096
    logprobs: Annotated[
        bool, setting("Use the log-probability of the answer, where the engine gives it, in place of whole votes.")
    ] = False
    prompt_template: Annotated[
        str | None,
        setting("File of a prompt with {question}, {response_1} and {response_2}.", metavar="FILE"),
    ] = None
    media_position: Annotated[
        Literal["before", "after"], setting("Position of the question's pictures and videos relative to the text.")
    ] = "before"
    min_pixels: Annotated[
        int, setting("Smallest number of pixels of a picture; smaller ones are enlarged.", metavar="N", ge=1)
    ] = _DEFAULT.min_pixels
    max_pixels: Annotated[
        int, setting("Largest number of pixels of a picture; larger ones are scaled down.", metavar="N", ge=1)
    ] = _DEFAULT.max_pixels
    lenient: Annotated[
        Lenient | None,
        setting("How to read malformed judgements: by their answer block, or else by their last digit 1 or 2."),
    ] = None
    neutralise: Annotated[
        bool,
        setting("Take tags, headings and invisible characters that could pass for the prompt's own out of responses."),
    ] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_pixels > self.max_pixels:
            raise ValueError(
                f"pictures of {self.min_pixels:,} to {self.max_pixels:,} pixels: min-pixels is above max-pixels"
            )
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                f"at temperature 0 all {self.samples} samples would be the same: raise temperature, or set samples to 0"
            )

    @property
    def sampling(self) -> Sampling:
        """What an engine needs to know of them."""
        return Sampling(self.temperature, self.max_tokens, self.media_position, self.min_pixels, self.max_pixels)

    def template(self) -> str:
        """Return the prompt template.

        Raises:
            FileNotFoundError, ValueError: see `judgement.load_template`.
        """
        return load_template(self.prompt_template) if self.prompt_template else PROMPT


class RankSettings(Settings, frozen=True, kw_only=True):
    """Which pairs of a group of responses are compared, and what is made of the verdicts."""

    schedule: Annotated[ScheduleName, setting("Which pairs are compared.")] = DEFAULT_SCHEDULE
    comparisons: Annotated[
        int | None,
        setting("Largest number of comparisons of a group; by default the schedule's own.", metavar="N", ge=1),
    ] = None
    both_orders: Annotated[bool, setting("Show every pair in both orders, which counts as two comparisons.")] = False
    score: Annotated[
        Literal["win_rate", "bradley_terry"], setting("Score of a response: its share of wins, or its strength.")
    ] = "win_rate"
    seed: Annotated[int, setting("Seed of the schedule.", metavar="N")] = 0
