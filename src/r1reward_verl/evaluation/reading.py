"""How the verdict is read from a judgement: the contract, looser readings of it, and the forms of other judges."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal, get_args

from r1reward_verl.judgement import Choice, Lenient, Verdict, parse

Reading = Literal["strict", "answer_tag", "last_digit", "answer_words", "verdict"]
"""The first is the contract, the next two are `judgement.Lenient`.

`answer_words` also takes words in the answer block (`<answer>Answer 2 is better</answer>`, as UnifiedReward-Think
writes), `verdict` also the last verdict of a text without any block (`Verdict: 2`, `[[B]]`, `\\boxed{1}`).
"""
READINGS: tuple[Reading, ...] = get_args(Reading)

OF_WORDS = ("answer_words", "verdict")
"""Readings of judges with a form of their own, whose answer is no number."""
_OF_THE_PARSER: dict[str, Lenient | None] = {"strict": None, "answer_tag": "answer_tag", "last_digit": "last_digit"}
_NOUN = r"(?i:response|answer|assistant|option|candidate|image|video)"
_LINK = r"[\s:*\"'(]{1,6}"
_VERDICT = re.compile(
    r"\[\[ ?(?:Assistant )?([AB12]) ?\]\]|\\boxed\{ ?([AB12]) ?\}"
    rf"|\b{_NOUN}{_LINK}([AB12])\b[*\"')]{{0,3}} (?i:is|wins|has been)\b(?: (?i:the|slightly|much|clearly)){{0,2}}"
    r" (?i:better|best|winner|preferred)\b"
    rf"|\b(?i:verdict|judge?ment|decision|choice|winner|better(?: one| {_NOUN})?|final answer)\b[*\"']{{0,3}}"
    rf"(?: (?i:is))?{_LINK}(?:{_NOUN}{_LINK})?([AB12])\b(?! (?i:or)\b|/)"
)
_WORDS = re.compile(rf"(?:{_NOUN}\s{{0,3}})?([AB12])(?:[.!]?$| (?i:is better)\b)|{_VERDICT.pattern}")


def read_judgement(text: str, reading: Reading = "strict") -> Verdict:
    """Read the verdict of a judgement in time linear in its length.

    Where a form of another judge was read, that keeps its contract, and `reason` is None.

    Raises:
        ValueError: an unknown reading.
    """
    if reading not in READINGS:
        raise ValueError(f"the reading is {reading!r}; known: {', '.join(READINGS)}")
    if reading in _OF_THE_PARSER:
        return parse(text, _OF_THE_PARSER[reading])
    verdict = parse(text, "answer_tag")
    choice = verdict.choice
    if choice is None and verdict.answer and (match := _WORDS.match(verdict.answer)):
        choice = _choice(match)
    if choice is None and reading == "verdict" and not verdict.answer:
        choice = next(map(_choice, reversed([*_VERDICT.finditer(text)])), None)
    return verdict if choice is None else replace(verdict, choice=choice, reason=None)


def _choice(match: re.Match[str]) -> Choice:
    return 1 if match[match.lastindex or 0] in ("1", "A") else 2
