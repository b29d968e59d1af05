"""LLaVA-Critic: judgements of GPT-4o on pairs of responses."""

from __future__ import annotations

import re
from collections.abc import Iterator

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import (
    Row,
    Skipped,
    make_pair,
    read_picture,
    read_text,
    read_turns,
    required,
)
from r1reward_verl.judgement import Choice
from r1reward_verl.text import excerpt


class LLaVACritic:
    """The pairs in LLaVA-Critic-113k (Hugging Face `lmms-lab/llava-critic-113k`), parquet.

    Fields, of a project that reads it [report]: `id`, `source` (the category here), `image`, `conversations`, a list
    of `from` (`human`, `gpt`) and `value`. Question and responses stand in the text of the first turn only, in one of
    three forms, and are cut out between its marks: `Question: [...]` with two responses in brackets, answered by `The
    better response: [...]`; LMSYS' `<|User Prompt|>`, answered by `[[A>B]]`; LLaVA-Bench's `[Question]`, answered by
    two scores in the first line. No row of it was seen.

    Skipped: ties, and rows that rate a single response (the configuration `pointwise`).
    """

    name = "llava-critic"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the responses in the order of the row."""
        turns = read_turns("conversations", required(row, "conversations"))
        if len(turns) != 2:
            raise ValueError(f"conversations has {len(turns)} turns; a prompt and a judgement are needed")
        prompt, judgement = (text for _, text in turns)
        found = [(texts, prefers_first) for marks, prefers_first in _FORMS if (texts := _between(prompt, marks))]
        if not found:
            raise Skipped("no two responses in the prompt")
        texts, prefers_first = found[0]
        label: Choice = 1 if prefers_first(judgement) else 2
        images = (read_picture(row, "image"),)
        yield make_pair(self.name, read_text(row, "id"), texts, images, category=row.get("source"), label=label)


def _between(text: str, marks: tuple[re.Pattern[str], ...]) -> list[str] | None:
    """Return what stands between each two marks, which follow each other; None if one is missing. In linear time."""
    pieces = []
    begin = end = 0
    for mark in marks:
        if (found := mark.search(text, end)) is None:
            return None
        pieces.append(text[begin : found.start()].strip())
        begin = end = found.end()
    return pieces[1:]


def _named(judgement: str) -> bool:
    found = _BETTER.search(judgement)
    if found is None and "equally good" in judgement[-300:]:
        raise Skipped("a tie (equally good)")
    name = found[1].lower() if found else None
    if name not in _FIRST and name not in _SECOND:
        raise ValueError(f"the judgement {excerpt(judgement[-200:])} names no better response")
    return name in _FIRST


def _arena(judgement: str) -> bool:
    verdicts = _VERDICT.findall(judgement)
    if not verdicts:
        raise ValueError(f"the judgement {excerpt(judgement[-200:])} has no [[A>B]]")
    if verdicts[-1] == "A=B":
        raise Skipped("a tie ([[A=B]])")
    return str(verdicts[-1]).startswith("A")


def _scores(judgement: str) -> bool:
    found = _TWO_SCORES.match(judgement)
    if found is None:
        raise ValueError(f"the judgement {excerpt(judgement[:200])} begins with no two scores")
    one, other = float(found[1]), float(found[2])
    if one == other:
        raise Skipped("a tie (equal scores)")
    return one > other


_BETTER = re.compile(r"The better response: \[(\w+)\]")
_VERDICT = re.compile(r"\[\[(A>>B|A>B|A=B|B>A|B>>A)\]\]")
_TWO_SCORES = re.compile(r"\s*(\d{1,4}(?:\.\d{1,4})?)\s+(\d{1,4}(?:\.\d{1,4})?)\s")
_FIRST, _SECOND = ("first", "1", "a"), ("second", "2", "b")


_FORMS = (
    (
        (
            re.compile(r"Question: \["),
            re.compile(r"\]\s+(?:Response 1|Response A|The first response): \["),
            re.compile(r"\]\s+(?:Response 2|Response B|The second response): \["),
            re.compile(r"\](?=[^\]]*\Z)"),
        ),
        _named,
    ),
    (
        (
            re.compile(r"<\|User Prompt\|>"),
            re.compile(r"<\|The Start of Assistant A's Answer\|>"),
            re.compile(r"<\|The End of Assistant A's Answer\|>\s*<\|The Start of Assistant B's Answer\|>"),
            re.compile(r"<\|The End of Assistant B's Answer\|>"),
        ),
        _arena,
    ),
    (
        (
            re.compile(r"\[Question\]"),
            re.compile(r"\[Assistant 1\]"),
            re.compile(r"\[End of Assistant 1\]\s*\[Assistant 2\]"),
            re.compile(r"\[End of Assistant 2\]"),
        ),
        _scores,
    ),
)
"""The marks around question and responses, and who reads the judgement: whether it prefers the first response."""
