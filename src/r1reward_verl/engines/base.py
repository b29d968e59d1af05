"""What an evaluation asks of an engine, and what it gets back.

An engine takes the cases as it has room for them and gives judgements as they are finished, so that neither all
prompts nor all judgements are ever in memory, and nothing waits for the slowest of a batch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from r1reward_verl.engines.messages import MediaPosition
from r1reward_verl.errors import R1RewardError
from r1reward_verl.media import Media

JudgementStatus = Literal["ok", "failed", "too_long"]
GREEDY = 0
"""Number of the greedy judgement among those of a prompt; samples count from 1."""


class EngineError(R1RewardError):
    """The engine cannot go on; what it gave is good."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How judgements are generated.

    Attributes:
        temperature: of the samples; the greedy judgement has none.
        max_tokens: of a judgement; a longer one is cut off.
        media_position: whether media stand "before" or "after" the text.
        min_pixels, max_pixels: bounds of a picture, which is resized to fit.
    """

    temperature: float = 1.0
    max_tokens: int = 4096
    media_position: MediaPosition = "before"
    min_pixels: int = 3136
    max_pixels: int = 501_760


@dataclass(frozen=True, slots=True)
class Prompt:
    """A case in one order: which of its judgements are wanted, by number."""

    order: str
    text: str
    samples: tuple[int, ...]

    @property
    def requests(self) -> list[tuple[int, ...]]:
        """The judgements that one request gives together: the greedy one, and all samples."""
        greedy = tuple(sample for sample in self.samples if sample == GREEDY)
        return [samples for samples in (greedy, tuple(sample for sample in self.samples if sample)) if samples]


@dataclass(frozen=True, slots=True)
class Work:
    """A case of a benchmark with its media, which all of its prompts share."""

    row: int
    images: tuple[Media, ...]
    video: tuple[Media, ...] | None
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judgement, or why there is none.

    Attributes:
        row, order, sample: which one (see `Prompt`).
        text: as the model wrote it.
        tokens: of the text; None if unknown.
        prompt_tokens: media included; None if unknown.
        finish_reason: "stop", or "length" if it was cut off; None without a text.
        status: "failed": trying again may help; "too_long": the prompt is longer than the model takes.
        error: why there is none, empty otherwise.
        answer_tokens: of the whole answer it is the first text of, where those of each text are unknown.
    """

    row: int
    order: str
    sample: int
    text: str = ""
    tokens: int | None = None
    prompt_tokens: int | None = None
    finish_reason: str | None = None
    status: JudgementStatus = "ok"
    error: str = ""
    answer_tokens: int | None = None


class Engine(Protocol):
    """What generates judgements."""

    def generate(self, work: Iterator[Work]) -> Generator[Sequence[Judgement], None, None]:
        """Yield every judgement that is wanted once, in any order, taking work as there is room.

        Raises:
            EngineError: no further judgements can be had.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds, also in the middle of `generate`."""
        ...


def without(
    work: Work, prompt: Prompt, status: JudgementStatus, error: str, tokens: int | None = None
) -> list[Judgement]:
    """Return what stands for the judgements of a prompt that could not be generated."""
    return [
        Judgement(work.row, prompt.order, sample, prompt_tokens=tokens, status=status, error=error)
        for sample in prompt.samples
    ]
