"""Settings and outcome of annotation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import force_setattr

from r1reward_verl.data.journal import Tally
from r1reward_verl.engines.messages import MediaPosition
from r1reward_verl.judgement import PROMPT, Lenient
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
        float | None,
        setting(
            "Temperature of the samples [default: 1, with --paper 0]. At 0 a second attempt repeats the first.",
            ge=0,
            le=2,
        ),
    ] = None
    paper: Annotated[
        bool, setting("Sample as R1-Reward's paper does, at temperature 0. Its prompt is not included: see --prompt.")
    ] = False
    reader: Annotated[
        Literal["strict", "answer_tag", "last_digit"],
        setting(
            "How a choice is read: answer_tag, from the first complete answer block, whatever stands around it; "
            "last_digit, without such a block from the last digit 1 or 2; strict, from well-formed judgements only."
        ),
    ] = "answer_tag"
    limit: Annotated[
        int | None,
        setting(
            "Annotate only N preferences, drawn from all sources, and extrapolate cost and difficulty to the whole.",
            metavar="N",
            ge=1,
        ),
    ] = None
    calls: Annotated[
        bool,
        setting(
            "Ask the teacher; without, write what the stored answers say, by another --reader for example.",
            flag="--calls/--no-calls",
        ),
    ] = True
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
        if self.paper and self.temperature:
            raise ValueError(f"--paper samples at temperature 0, not at {self.temperature:g}: leave one of both out")
        if self.temperature is None:
            force_setattr(self, "temperature", 0.0 if self.paper else 1.0)
        if self.price is not None and not all(0 <= one < float("inf") for one in self.price):
            raise ValueError(f"price is {self.price}, not two numbers of at least 0")
        if self.budget is not None and self.price is None:
            raise ValueError("a budget needs a price: what a million tokens read and a million written cost (--price)")

    @property
    def lenient(self) -> Lenient | None:
        """How malformed judgements are read, as `judgement.parse` takes it."""
        return None if self.reader == "strict" else self.reader

    def of_calls(self) -> dict[str, Any]:
        """Return what the calls depend on: calls made with other values are not mixed."""
        names = ("model", "temperature", "prompt", "max_tokens", "media_position", "max_pixels", "body")
        return {name: getattr(self, name) for name in names}


@dataclass
class AnnotationReport(Tally):
    """What became of the preferences, and what the teacher cost in this run and earlier ones.

    Attributes:
        rows: rows `read`; of them `annotated_before`, `finished`, `rejected` and `left` for another run.
        solved: attempts -> preferences whose judgement agreed at that attempt; `never` are those with none.
        bare: traces without any reasoning.
        calls_now: calls of this run.
        cost: of all calls; None without a price.
        seconds: of this run.
        budget_reached: whether it ended because of its budget.
        whole: with a limit, what all rows of the input would come to, extrapolated source by source: `rows`, `calls`,
            `prompt_tokens`, `completion_tokens`, `cost`, `seconds` at the speed of this run, and `difficulty` (attempts
            or "unsolved" -> rows).
    """

    rows: Counter[str] = field(default_factory=Counter)
    solved: dict[int, int] = field(default_factory=dict)
    never: int = 0
    bare: int = 0
    calls_now: int = 0
    cost: float | None = None  # type: ignore[assignment]
    seconds: float = 0.0
    budget_reached: bool = False
    whole: dict[str, Any] | None = None

    def __str__(self) -> str:
        rows, finished = self.rows, max(self.rows["finished"], 1)
        lines = [
            f"rows       {rows['read']:,} read, {rows['annotated_before']:,} annotated before, {rows['finished']:,} "
            f"finished, {rows['rejected']:,} rejected, {rows['left']:,} left"
        ]
        for attempt, count in sorted(self.solved.items()):
            lines.append(f"{'solved':<9}{count:>11,}  {count / finished:6.1%}  at attempt {attempt}")
        lines.append(f"{'never':<9}{self.never:>11,}  {self.never / finished:6.1%}")
        lines.append(
            f"calls      {self.calls:,}, {self.calls_now:,} of them now; {self._share(self.unparsable, 'unparsable')}, "
            f"{self.cut:,} cut off at --max-tokens"
        )
        if self.malformed:
            lines.append(f"           {self._share(self.malformed, 'malformed, but with a choice that was read')}")
        unmetered = f"; {self.unmetered:,} calls without numbers" if self.unmetered else ""
        lines.append(f"tokens     {self.prompt_tokens:,} read, {self.completion_tokens:,} written{unmetered}")
        if self.cost is not None:
            lines.append(f"cost       {self.cost:,.4f}")
        lines.append(f"seconds    {self.seconds:,.1f}")
        if self.whole is not None:
            lines += _extrapolation(self.whole)
        if self.unparsable.total() > self.calls / 10:
            lines.append(
                "note: an unparsable answer counts as one that disagrees. Look at some in the journal. If another "
                "--reader can read them, run the same command with it: answers are read again without new calls for "
                "them, and with --no-calls no call is made at all"
            )
        if self.bare:
            lines.append(f"note: {self.bare:,} traces hold no reasoning: nothing stands before their <answer>")
        return "\n".join(lines)

    def _share(self, reasons: Counter[str], name: str) -> str:
        named = "".join(f", {reason} {count:,}" for reason, count in reasons.most_common())
        return f"{reasons.total():,} {name} ({reasons.total() / max(self.calls, 1):.1%}{named})"


def _extrapolation(whole: dict[str, Any]) -> list[str]:
    shares = ", ".join(
        f"{name if name == 'unsolved' else f'attempt {name}'} {rows / max(whole['rows'], 1):.1%}"
        for name, rows in whole["difficulty"].items()
    )
    cost = "" if whole["cost"] is None else f", cost {whole['cost']:,.2f}"
    time = "" if whole["seconds"] is None else f", {whole['seconds'] / 3600:,.1f} hours at this speed"
    return [
        f"all {whole['rows']:,} rows, extrapolated: {whole['calls']:,} calls, {whole['prompt_tokens']:,} tokens read, "
        f"{whole['completion_tokens']:,} written{cost}{time}",
        f"           {shares}",
    ]
