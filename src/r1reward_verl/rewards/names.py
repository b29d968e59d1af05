"""Finds the names of the two responses in a text, and takes out of it what is quoted.

They are numbers, ordinals, letters and "the other one". Where they are named, the reader sees "r1", "r2" or "both".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from r1reward_verl.judgement import Choice


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


NOUNS = word_set(
    "response responses resp answer answers reply option candidate assistant assistants model models output outputs "
    "caption description explanation solution"
)
_POSSESSED = word_set("response answer reply output caption description explanation solution")
"""Nouns that may follow a name: "response 1's answer"."""
NUMBERS = {"1": "r1", "one": "r1", "2": "r2", "two": "r2"}
CHOICES: dict[str, Choice] = {"r1": 1, "r2": 2}
_OTHER = {"r1": "r2", "r2": "r1"}
_POSITIONS = {"former": "r1", "latter": "r2"}
_ORDINALS = {"first": "r1", "1st": "r1", "second": "r2", "2nd": "r2"}
_ALWAYS = {"r1": "r1", "response1": "r1", "r2": "r2", "response2": "r2"}
_NAMES = NUMBERS.keys() | _ORDINALS.keys() | _POSITIONS.keys() | _ALWAYS.keys() | {"other"}
_AFTER_ORDINALS = word_set(
    "is isn't was wins beats outperforms does has gets gives provides and or over because since . ,"
)
"""Words after "the second" that say it is a response: "the second is better"."""
_MARKING = frozenset(("therefore", "thus", "hence", "overall", "so", ","))
_AFTER_NUMBERS = ("is", "wins", "beats")


def other(choice: Choice) -> Choice:
    """Return the other response."""
    return 2 if choice == 1 else 1


def _is_noun(word: str) -> bool:
    """Whether `word` is a name of responses, misspelt ones ("reponse") included."""
    return word in NOUNS or (word.startswith("re") and len(word) > 5 and set(word) <= set("respone"))


def named(words: list[str], before: list[str]) -> list[str]:
    """Replace the names of responses in a sentence by "r1", "r2" or "both"; `before` is the sentence before it."""
    result: list[str] = []
    latest: str | None = None
    done = 0
    for position in [position for position, word in enumerate(words) if word in _NAMES]:
        if position < done:
            continue
        name = _name(words, position)
        result += words[done:position]
        done = position
        if words[position] == "other" and _is_other_one(words, position):
            if not latest and before:
                latest = next((word for word in reversed(named(before, [])) if word in CHOICES), None)
                before = []
            name = _OTHER[latest] if latest else None
        elif (
            len(result) > 1 and result[-1] in ("and", "or") and result[-2] in CHOICES and words[position] in ("1", "2")
        ):
            name = NUMBERS[words[position]]  # "responses 1 and 2"
        if not name:
            continue
        while result and (result[-1] == "the" or _is_noun(result[-1])):
            result.pop()
        if len(result) > 1 and result[-1] in ("and", "or") and {result[-2], name} == {"r1", "r2"}:
            result[-2:] = ["both"]
        else:
            result.append(name)
            latest = name
        done = position + 1
        if words[done] in _POSSESSED or (
            words[position] not in NUMBERS and (_is_noun(words[done]) or words[done] == "one")
        ):
            done += 1
    return result + words[done:]


def _name(words: Sequence[str], position: int) -> str | None:
    """Return the response that the word at `position` names, if it names one."""
    word, before, after = words[position], words[position - 1], words[position + 1]
    if word in _ALWAYS:
        return _ALWAYS[word]
    if word in _POSITIONS:  # but not "her former life"
        return _POSITIONS[word] if before == "the" or position == 0 else None
    if word in _ORDINALS:
        if after == "one" or (_is_noun(after) and words[position + 2] not in NUMBERS):
            return _ORDINALS[word]
        if after == "." and (position == 0 or before == ","):  # "Best: first"
            return _ORDINALS[word]
        starts = position == 0 and after in ("is", "wins")
        return _ORDINALS[word] if starts or (before == "the" and after in _AFTER_ORDINALS) else None
    if word == "other":
        return None
    alone = (position == 0 or before in _MARKING) and word.isdigit() and after in _AFTER_NUMBERS
    return NUMBERS[word] if alone or (position and _is_noun(before)) or before == "number" else None


def _is_other_one(words: Sequence[str], position: int) -> bool:
    """Whether the word at `position` is that of "the other", "the other one" or "the other response"."""
    after = words[position + 1]
    return words[position - 1] == "the" and (after == "one" or _is_noun(after) or after in _AFTER_ORDINALS)


_NOUN = "|".join(sorted(NOUNS))
_OTHER_NAMES = (
    ("#", re.compile(r"#([12])\b"), r" response \1"),
    ("no. ", re.compile(r"\bno\. ([12])\b"), r" \1"),
    (" II", re.compile(rf"\b(?i:({_NOUN})) II\b"), r"\1 2"),
    (" I ", re.compile(r"\b(Response|Answer|Option|Assistant) I (?=is|wins|and|has)"), r"\1 1 "),
)
"""What a text must hold, other names in it, and the names that are read."""
_OPTION = re.compile(r"\b(?i:option)(?= [(*]*[AB12]\b)")
_LETTER = re.compile(r"[AB](?:(?='s\b|\u2019s\b)|(?![\w'\u2019]))")
_AFTER_NOUN = re.compile(rf"\b(?i:{_NOUN}) [\[(*]*$")
_BEFORE_LETTER = re.compile(
    r"(?:^|[.,;:>\[(!\n] ?|\b(?i:is|be|choose|pick|prefer|select|vote|favou?rs?|than|with|over|and|or|but|so|thus|"
    r"hence|both|say|think|believe|find|that|while|whereas|because|since|makes|to|for) )[ \[(*]*$"
)
_AFTER_LETTER = re.compile(
    rf"(?:['\u2019]s (?:{_NOUN})\b|[\])*]*(?:[ .!,\n]*$|[.!,:\n]| (?:is|wins|beats|outperforms|has|gives|provides|"
    r"and|or|over|>|<|because|since|as|it is|the (?:better|best|winner|clear|stronger))\b))"
)
_SIGNS = ((" > ", " beats "), (" < ", " is worse than "))
_QUOTATIONS = (
    ('"', re.compile(r'"[^"\n]*"')),
    ("\u201c", re.compile("\u201c[^\u201d\n]*\u201d")),
    (" '", re.compile(r" '[^'\n]*'(?!\w)")),
)


def _named_by_letter(letter: re.Match[str]) -> str:
    """Return the name of the response that a letter stands for: behind a noun, or where no article can stand."""
    before, after = letter.string[max(0, letter.start() - 20) : letter.start()], letter.string[letter.end() :][:20]
    if _AFTER_NOUN.search(before) or (_BEFORE_LETTER.search(before) and _AFTER_LETTER.match(after)):
        return f" response {1 if letter[0] == 'A' else 2} "
    return letter[0]


def _without_claims(quotation: re.Match[str]) -> str:
    return quotation[0] if len(quotation[0].split()) < 3 else " quotation"


def usual_text(text: str) -> str:
    """Replace other names of the responses (letters, #1) and signs, and take what is quoted out of a text."""
    for hint, quotation in _QUOTATIONS:
        if hint in text:
            text = quotation.sub(_without_claims, text)
    if "ption " in text and ("esponse" in text or "ssistant" in text):
        text = _OPTION.sub("choice", text)  # one of a multiple choice, which the responses speak of
    for hint, name, usual in _OTHER_NAMES:
        if hint in text:
            text = name.sub(usual, text)
    if "A" in text or "B" in text:
        text = _LETTER.sub(_named_by_letter, text)
    for sign, words in _SIGNS:
        text = text.replace(sign, words)
    return text
