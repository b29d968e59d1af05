"""Reads which response has the higher score."""

from __future__ import annotations

import re

from r1reward_verl.judgement import Choice
from r1reward_verl.rewards.names import usual_text

_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_HINTS = (
    "scor",
    " rate ",
    " rated",
    "rating",
    "grade",
    "points",
    "stars",
    "would give",
    "gets a",
    "deserves a",
    "i give",
    "i'd give",
    "total",
    "/",
    " out of ",
)
_NAME_AND_SCORE = re.compile(rf"\b(?:response|answer|assistant|option|model|r) ?([12])\b[^\n.;\d]{{0,40}}?\b{_NUMBER}")
_SCORE_AND_NAME = re.compile(
    rf"\b{_NUMBER}(?: ?/ ?\d+| points?| stars?| out of \d+)? (?:for|to|goes to|\() ?(?:response|answer) ([12])"
)
_RATING = re.compile(
    rf"\b(?:response|answer|assistant|option|model|r) ?([12])\b[^\n.;\d]{{0,40}}?\b{_NUMBER} ?(?:/|out of) ?\d"
)
_TWO_SCORES = re.compile(rf"\b{_NUMBER}(?:/\d+)? ?(?:vs\.?|versus|against|to) ?{_NUMBER}")
_ROW = re.compile(rf"\|\W{{0,9}}{_NUMBER}(?: ?/ ?\d{{1,9}})?\W{{0,9}}\|\W{{0,9}}{_NUMBER}")
_SUM = re.compile(r"\d{1,9}(?: ?\+ ?\d{1,9}){1,20} ?= ?")
_TOTAL = re.compile(r"\b(?:total|overall|final|sum)\b")
_SPELT_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SPELT = re.compile(rf"\b({'|'.join(_SPELT_NUMBERS)}) (?=stars?\b|points?\b|out of\b)")


def by_rating(line: str) -> Choice | None:
    """Return the response that is rated higher in a line that rates both: "so I rate response 1 as 8/10, ..."."""
    if "/" not in line and " out of " not in line:
        return None
    scores = dict(_RATING.findall(usual_text(line).lower()))
    return _higher((float(scores["1"]), float(scores["2"]))) if len(scores) == 2 else None


def by_score(text: str) -> Choice | None:
    """Return the response with the higher score, if both have one: "Response 1: 7/10, Response 2: 9/10".

    Totals count before the scores that they are the sums of. In a row of a table the first column is response 1.
    """
    text = usual_text(text).lower()
    if not any(hint in text for hint in _HINTS):
        return None
    text = _SPELT.sub(lambda word: f"{_SPELT_NUMBERS.index(word[1])} ", _SUM.sub("", text))
    totals = "\n".join(line for line in text.split("\n") if _TOTAL.search(line))
    return _higher(_scores(totals) or _scores(text))


def _higher(scores: tuple[float, float] | None) -> Choice | None:
    if not scores or scores[0] == scores[1]:
        return None
    return 1 if scores[0] > scores[1] else 2


def _scores(text: str) -> tuple[float, float] | None:
    """Return the last scores of response 1 and 2 in a text."""
    scores = dict(_NAME_AND_SCORE.findall(text))
    if len(scores) < 2:
        scores = {number: score for score, number in _SCORE_AND_NAME.findall(text)}
    if len(scores) < 2 and (pair := _TWO_SCORES.search(text) or _ROW.search(text)):
        scores = {"1": pair[1], "2": pair[2]}
    return (float(scores["1"]), float(scores["2"])) if len(scores) == 2 else None
