"""Settings and outcome of annotation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from r1reward_verl.engines.messages import MediaPosition
from r1reward_verl.judgement import PROMPT
from r1reward_verl.media import MAX_PIXELS
from r1reward_verl.settings import Settings, setting

API_KEY = "R1REWARD_TEACHER_API_KEY"


class AnnotateSettings(Settings, frozen=True, kw_only=True):
    """How preferences are annotated."""

    urls: Annotated[
        list[str],
        setting(
            "Address of a server of the teacher, such as http://host:8000/v1. Repeat it for several, which share the "
            "calls.",
            flag="--url",
            metavar="URL",
        ),
    ]
    model: Annotated[str, setting("Name under which the servers serve the teacher.", metavar="NAME", min_length=1)]
    attempts: Annotated[int, setting("Largest number of attempts at one preference.", metavar="N", ge=1, lt=2**15)] = 3
    temperature: Annotated[
        float, setting("Temperature of the samples. At 0 a second attempt repeats the first.", ge=0, le=2)
    ] = 1.0
    max_tokens: Annotated[int, setting("Largest number of tokens of a judgement.", metavar="N", ge=1)] = 1024
    media_position: Annotated[MediaPosition, setting("Place of the pictures relative to the text.")] = "before"
    max_pixels: Annotated[
        int, setting("Largest number of pixels of a picture; larger pictures are scaled down.", metavar="N", ge=1)
    ] = MAX_PIXELS
    concurrency: Annotated[int, setting("Largest number of concurrent calls.", metavar="N", ge=1)] = 64
    timeout: Annotated[float, setting("Timeout of one call in seconds.", metavar="SECONDS", gt=0)] = 120.0
    max_wait: Annotated[
        float,
        setting("Seconds without an answer from any server after which the run ends.", metavar="SECONDS", gt=0),
    ] = 300.0
    api_key_env: Annotated[str, setting("Environment variable that holds the servers' key.", metavar="NAME")] = API_KEY
    price: Annotated[
        tuple[float, float] | None,
        setting("Price of a million tokens read and of a million written, in any currency.", metavar="INPUT OUTPUT"),
    ] = None
    budget: Annotated[
        float | None, setting("Largest cost of all calls together; needs --price.", metavar="COST", ge=0)
    ] = None
    max_rejects: Annotated[
        float, setting("Largest share of rows that may be rejected.", metavar="SHARE", ge=0, le=1)
    ] = 0.05
    fresh: Annotated[bool, setting("Start again; the existing journal is kept under another name.")] = False
    prompt: str = PROMPT
    body: dict[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if taken := sorted({"messages", "model", "n", "stream"} & self.body.keys()):
            raise ValueError(f"body sets {taken[0]!r}, which it must not: one judgement is read from each answer")
        if self.price is not None and not all(0 <= one < float("inf") for one in self.price):
            raise ValueError(f"price is {self.price}, not two numbers of at least 0")
        if self.budget is not None and self.price is None:
            raise ValueError("a budget needs a price: what a million tokens read and a million written cost (--price)")

    def request(self) -> dict[str, Any]:
        """Return the fields of a request beside the messages; a null in `body` leaves a field out."""
        fields = {"temperature": self.temperature, "max_tokens": self.max_tokens, **self.body}
        return {name: value for name, value in fields.items() if value is not None}

    def of_calls(self) -> dict[str, Any]:
        """Return what the calls depend on: calls made with other values are not mixed."""
        names = ("model", "temperature", "prompt", "max_tokens", "media_position", "max_pixels", "body")
        return {name: getattr(self, name) for name in names}


@dataclass
class AnnotationReport:
    """What became of the preferences, and what the teacher cost.

    Attributes:
        rows: rows `read`; of them `annotated_before`, `finished`, `rejected` and `left` for another run.
        solved: attempts -> preferences whose judgement agreed at that attempt; `never` are those with none.
        unparsable: reason -> calls.
        cut: calls cut off at the most tokens.
        calls: of this run and of earlier ones; `calls_now` of this one.
        prompt_tokens, completion_tokens: of all calls; `unmetered` calls came without.
        cost: of all calls; None without a price.
        seconds: of this run.
        budget_reached: whether it ended because of its budget.
    """

    rows: Counter[str] = field(default_factory=Counter)
    solved: dict[int, int] = field(default_factory=dict)
    never: int = 0
    calls: int = 0
    calls_now: int = 0
    unparsable: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unmetered: int = 0
    cost: float | None = None
    seconds: float = 0.0
    budget_reached: bool = False

    def __str__(self) -> str:
        rows, finished = self.rows, max(self.rows["finished"], 1)
        lines = [
            f"rows       {rows['read']:,} read, {rows['annotated_before']:,} annotated before, {rows['finished']:,} "
            f"finished, {rows['rejected']:,} rejected, {rows['left']:,} left"
        ]
        for attempt, count in sorted(self.solved.items()):
            lines.append(f"{'solved':<9}{count:>11,}  {count / finished:6.1%}  at attempt {attempt}")
        lines.append(f"{'never':<9}{self.never:>11,}  {self.never / finished:6.1%}")
        unparsable = sum(self.unparsable.values())
        reasons = "".join(f", {reason} {count:,}" for reason, count in self.unparsable.most_common())
        lines.append(
            f"calls      {self.calls:,}, {self.calls_now:,} of them now; {unparsable:,} unparsable "
            f"({unparsable / max(self.calls, 1):.1%}{reasons}), {self.cut:,} cut off at --max-tokens"
        )
        unmetered = f"; {self.unmetered:,} calls without numbers" if self.unmetered else ""
        lines.append(f"tokens     {self.prompt_tokens:,} read, {self.completion_tokens:,} written{unmetered}")
        if self.cost is not None:
            lines.append(f"cost       {self.cost:,.4f}")
        lines.append(f"seconds    {self.seconds:,.1f}")
        return "\n".join(lines)
