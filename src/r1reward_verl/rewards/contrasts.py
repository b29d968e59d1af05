"""Reads which response is praised where the other one is faulted, without a word that compares them."""

from __future__ import annotations

from collections.abc import Iterable

from r1reward_verl.judgement import Choice
from r1reward_verl.rewards import vocabulary as v
from r1reward_verl.rewards.names import CHOICES, named, other

_TELLING = v.telling(
    v.PRAISE | v.FAULTS | v.CONTENT | v.NEGATIONS | v.HEDGES | v.CONCESSIONS | {"atfirst", "unlike", "alone"}
)


def by_contrast(sentences: Iterable[list[str]]) -> Choice | None:
    """Return the response that is praised where the other one is faulted or conceded to, or that alone is right.

    >>> by_contrast([["response", "1", "misreads", "the", "sign", "."], ["response", "2", "names", "it", "."]])
    2
    """
    signs: dict[Choice, int] = {}
    with_content: set[Choice] = set()
    alone = False
    for sentence in sentences:
        if _TELLING.isdisjoint(sentence):
            continue
        words = v.usual_words(named(sentence, []))
        about: Choice | None = None
        conceded: Choice | None = None
        sign, conceding = 1, False
        for position, word in enumerate(words):
            before = words[position - 1] if position else ""
            if choice := CHOICES.get(word):
                alone = alone or before in ("unlike", "alone")
                if before == "unlike":
                    continue
                about, sign = choice, 1
                if conceding:
                    conceded = choice
                    signs.setdefault(choice, -1)
            elif (
                word in v.CONCESSIONS or word in v.HEDGES or word == "atfirst" or (not position and word in v.CONTRASTS)
            ):
                conceding = True
            elif word == "," or word in v.TURNS:
                conceding, sign = False, 1
            elif not about:
                continue
            elif word in v.NEGATIONS:
                sign = -1
                if words[position + 1 :][:1] == ["."]:  # "response 1 matches the picture, response 2 does not"
                    signs[about] = -signs.get(other(about), 1)
                    if other(about) in with_content:
                        signs.setdefault(other(about), 1)
            elif conceding:
                continue
            elif word in v.PRAISE or word in v.FAULTS:
                signs[about] = sign if word in v.PRAISE else -sign
            elif word in v.CONTENT and sign > 0:
                with_content.add(about)
        if conceded and signs.get(other(conceded), 0) < 0:  # "while response 1 is right, response 2 is wrong"
            signs[conceded] = 1
    if len(signs) == 1:
        about, sign = next(iter(signs.items()))
        if alone or (sign < 0 and other(about) in with_content):  # "response 1 misses the sign, response 2 mentions it"
            signs[other(about)] = -sign
    if signs.get(1, 0) * signs.get(2, 0) < 0:
        return 1 if signs[1] > 0 else 2
    return None
