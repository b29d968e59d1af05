"""Finds judgements that correct themselves ("aha moments") by rules: English only, in linear time, no model.

The rules prefer to miss one over counting what is none: that a response is wrong is what every judgement says; here the
judge must speak of its own reasoning. What stands in double quotes is not read, since judgements quote responses.

- `wait`: a sentence that begins with "wait" or "hold on" as an interjection ("Wait, ...", "But wait - ...").
- `look again`: the judge says that it looks once more ("let me re-check", "I should reconsider", "let's look again").
- `second thought`: "on second thought"; "however, upon closer inspection" and the like, with the "however".
- `admission`: "I misread", "I was wrong", "my earlier assessment was mistaken", "I stand corrected", "scratch that".
- `actually`: a sentence that begins with "actually" and calls the other response better than the text before it does.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

from r1reward_verl.rewards.conclusions import conclusion


class Reflection(NamedTuple):
    """Where a judgement corrects itself: `text[start:end]`, and the rule that says so."""

    start: int
    end: int
    rule: str


# Repetitions are bounded everywhere, so that the time stays linear in the text's length.
_START = (
    r"(?:^|(?<=[.!?…—–>)\n]))[ \t*_>–—-]{0,8}"
    r"(?:(?:oh|ah|hm{1,9}|no|but|ok|okay|well|so|and)\b[,.…!—– -]{1,5}){0,2}"
)
_INTEND = (
    r"(?:let me|let us|let['’]s|i(?:['’]ll| will| should| must| need to| have to| want to| had better| am going to))"
    r" (?:just |also |quickly |carefully )?"
)
_AGAIN = (
    r"(?:re-?(?:check|consider|examin|evaluat|assess|think|read|verify|visit|count|calculat|comput|inspect|analy[sz])e?"
    r"|(?:look|check|count|read|think|verify|examine|compare)\b[^.!?\n]{0,40}?\bagain|(?:take|have) another look"
    r"|double[- ]check|start over|correct (?:myself|that|this|my)|change my|take (?:that|it) back)\b"
)
_CLOSER = (
    r"(?:up)?on (?:a )?(?:closer|further|second|careful|more careful|another|re-?)[ -]?"
    r"(?:inspection|look|examination|reflection|review|consideration|analysis|reading|thought)\b"
)
_MISREAD = r"(?:mis(?:read|judged|interpreted|understood|counted|calculated|identified)|overlooked)"
_VIEW = (
    r"my (?:earlier|previous|initial|first|prior|original) (?:assessment|judge?ment|analysis|evaluation|reading|verdict"
    r"|conclusion|impression|count|calculation|assumption|claim|statement|thought|guess|answer|observation)s?"
)
_MISTAKEN = (
    r"(?:wrong|mistaken|incorrect|inaccurate|flawed|hasty|too quick|premature"
    r"|not (?:quite |entirely )?(?:right|correct|accurate))"
)
_RULES = {
    "wait": _START
    + r"(?:wait|hold on)(?:(?:[ ]?(?:,|\.\.|…|—|–|;|:)|[ ]-[ ])(?!\s{0,3}(?:then|and|until|till|for|please|while)\b)"
    r"|[ ](?:no|but|actually|let me|i|i['’]m|that['’]s|a (?:second|moment|minute))\b)",
    "look again": rf"\b{_INTEND}{_AGAIN}",
    "second thought": rf"\bon second thoughts?\b|\b(?:however|but|yet|though|actually|hm{{1,9}})[,…. ]{{1,3}}{_CLOSER}",
    "admission": (
        r"\bi (?:was|am|may have been|might have been) (?:wrong|mistaken)\b"
        r"|\bi(?:['’]ve| have| had| may have| might have| must have)?"
        rf" (?:(?:initially|previously|earlier|first|just) )?{_MISREAD}\b"
        r"|\bi(?:['’]ve| have)? made (?:a|an|one|some) (?:\w{1,20} )?(?:mistake|error)s?\b|\bmy mistake\b"
        rf"|\b{_VIEW}\b[^.!?\n]{{0,60}}? (?:was|is|were) (?:\w{{1,20}} )?{_MISTAKEN}\b"
        r"|\bi stand corrected\b|\bscratch that\b|\bi take (?:that|it) back\b"
        r"|\bi (?:now )?change my (?:mind|verdict|answer|judge?ment)\b"
    ),
    "actually": _START + r"actually\b[^.!?\n]{1,300}",
}
_PATTERNS = {name: re.compile(rule, re.IGNORECASE | re.MULTILINE) for name, rule in _RULES.items()}
# A pattern is slow to search with; without one of these words it cannot match.
_NEEDED = {
    "wait": ("wait", "hold on"),
    "look again": (
        *("let me ", "let us ", "let's ", "let’s ", "i'll ", "i’ll ", "i will ", "i should ", "i must ", "i need to "),
        *("i have to ", "i want to ", "i had better ", "i am going to "),
    ),
    "second thought": ("on second thought", "closer", "further", "second", "careful", "another", "on re", "on a re"),
    "admission": ("wrong", "mis", "overlooked", "error", "my ", "corrected", "scratch that", "i take ", " change my "),
    "actually": ("actually",),
}
_QUOTED = re.compile(r'"[^"\n]*"|“[^“”\n]*”')
_BEFORE = 500  # characters before an "actually" in which the first opinion must stand


def find_reflections(text: str) -> list[Reflection]:
    """Return where a judgement corrects itself, in order, without overlaps.

    >>> text = "Response 1 says three dogs. Wait, there are four. So response 2 is better."
    >>> [text[start:end] for start, end, _ in find_reflections(text)]
    ['Wait,']
    """
    quotes = [match.span() for match in _QUOTED.finditer(text)]
    lowered = text.lower()
    found: list[Reflection] = []
    for rule, pattern in _PATTERNS.items():
        if not any(word in lowered for word in _NEEDED[rule]):
            continue
        for match in pattern.finditer(text):
            start, end = match.span()
            quote = bisect_right(quotes, (start, len(text))) - 1
            quoted = quote >= 0 and start < quotes[quote][1]
            if not quoted and (rule != "actually" or _turns(text, start, end)):
                start += len(match.group()) - len(match.group().lstrip(" \t*_>–—-"))
                found.append(Reflection(start, end, rule))
    found.sort()
    return [one for place, one in enumerate(found) if not place or one.start >= found[place - 1].end]


def _turns(text: str, start: int, end: int) -> bool:
    before, after = conclusion(text[max(0, start - _BEFORE) : start]), conclusion(text[start:end])
    return {before, after} == {1, 2}
