"""Reads which response a piece of reasoning calls better, by rules: no model, English only, in linear time.

A text is read sentence by sentence from its end. The names of the responses become "r1", "r2" and "both", expressions
of several words become single words (`vocabulary`), and `_Reader` takes the words one by one: it has a method for each
kind of word, and the table at the end of the file says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_lowercase, digits
from typing import Literal, NamedTuple

from r1reward_verl.judgement import Choice
from r1reward_verl.rewards import vocabulary as v
from r1reward_verl.rewards.contrasts import by_contrast
from r1reward_verl.rewards.names import CHOICES, NUMBERS, named, other, usual_text
from r1reward_verl.rewards.scores import by_rating, by_score

Conclusion = Literal[1, 2, "both"]


class _Finding(NamedTuple):
    """A response that is called better, as a whole or in one quality."""

    conclusion: Conclusion
    whole: bool


def closing_lines(reasoning: str, count: int = 3) -> str:
    """Return the last `count` lines, where the conclusion is expected; blank lines between them count."""
    return "\n".join(reasoning.strip().rsplit("\n", count)[-count:])


def conclusion(reasoning: str) -> Conclusion | None:
    """Say which response the last three lines of `reasoning` call better, in linear time.

    Returns:
        1 or 2; "both" if both are approved, or each is called better and nothing decides between them; None
        if no response is called better. Denials ("response 1 is not better"), conditions, questions, quotations
        and bare praise ("response 1 is good") are no conclusion. Where statements differ, one that is marked as a
        conclusion ("so", "overall", ...) overrules what stands before it. "More accurate" and the like count
        only where nothing is called better or worse as a whole, scores and contrasts only where that fails too.

    >>> conclusion("Response 1 says green: yes. Response 2 says white: no. So response 1 is better.")
    1
    >>> conclusion("Response 1 is worse than response 2.")
    2
    """
    text = _with_verdict_in_line(closing_lines(reasoning))
    if choice := by_rating(text.rpartition("\n")[2]):
        return choice
    findings: list[_Finding] = []
    sentences: list[list[str]] = []
    telling = _TELLING
    for line in reversed(text.split("\n")):
        before = _sentences(line)
        while before:
            words = before.pop()
            found, marked = _read(words, before[-1] if before else [], not sentences, telling)
            sentences.append(words)
            findings[:0] = found
            if findings and (marked or not v.RETRACTIONS.isdisjoint(words[:4])):
                return _agreed(findings)
            if findings and findings[0].whole:  # what is said of one quality counts no more
                telling = _TELLING_OF_WHOLE
    return _agreed(findings) or by_score(text) or by_contrast(sentences[::-1])


def _with_verdict_in_line(text: str) -> str:
    """Join a last line of only "1" or "2" to the heading above it: "The better response is:" and "1"."""
    heading, _, last = text.rpartition("\n")
    number = last.strip("*#`. ")
    heading = heading.rstrip("\n *#")
    if number not in ("1", "2") or not heading or heading[-1] in ".!?":
        return text
    return f"{heading} response {number}"


def _agreed(findings: Sequence[_Finding]) -> Conclusion | None:
    """Return what all findings agree in: those about the whole, if there are any."""
    kept: list[_Finding] = []
    for finding in findings:
        if kept and kept[-1].conclusion == "both":  # "both are good, but response 1 is better"
            kept.clear()
        kept.append(finding)
    decisive = {finding.conclusion for finding in kept if finding.whole}
    if not decisive and kept:  # the response that more is said for
        balance = sum({1: 1, 2: -1, "both": 0}[finding.conclusion] for finding in kept)
        return 1 if balance > 0 else 2 if balance < 0 else "both"
    return decisive.pop() if len(decisive) == 1 else ("both" if decisive else None)


# What ends a sentence is read as "." or "?", what is no part of a word as a space.
_KEPT = f"{ascii_lowercase}{digits}',?=".encode()
_PLAIN = bytes(
    byte if byte in _KEPT else ord("." if byte in b".;!\n" else "," if byte == ord(":") else " ") for byte in range(256)
)


def _sentences(text: str) -> list[list[str]]:
    """Split `text` into sentences: lists of words and commas, each with its "." or "?" at the end."""
    text = usual_text(text).lower().replace("\u2019", "'").replace("'s", " ")
    # In UTF-8 no byte of another character looks like ASCII. Half of a surrogate pair is possible in a str.
    text = text.encode("utf-8", "surrogatepass").translate(_PLAIN).decode("ascii") + "."
    text = text.replace(",", " , ").replace(".", " .\n").replace("?", " ?\n")
    text = text.replace("'d ", " would ").replace("'ll ", " will ")
    text = text.replace("n't ", "n't not ")  # "isn't", "doesn't", ...: an open set, but for its end
    lines = [line.split() for line in text.splitlines()]
    return [words for words in lines if len(words) > 1]


def _bare_name(words: Sequence[str], first: str, is_last: bool) -> tuple[Choice | None, bool]:
    """Return the response in a sentence of only its name or number, behind words that lead up to nothing else.

    With nothing before it a name is a heading, unless nothing follows. The second value says whether it is a name.
    """
    for position, word in enumerate(words[:12]):
        if choice := CHOICES.get(NUMBERS.get(word, word)):
            after = words[position + 1 :]
            ends = after[0] in _SENTENCE_ENDS or after[0] in v.ASIDES or (after[0] == "," and after[1] in v.ASIDES)
            is_name = word in CHOICES
            stated = position > 0 or (is_last and is_name and first not in v.ORDERS)
            return (choice if ends and stated else None), is_name
        if word not in v.LEADS and not (word in v.ORDERS and words[0] in ("i", "my", "so")):
            break
    return None, False


def _read(words: list[str], before: list[str], is_last: bool, telling: frozenset[str]) -> tuple[list[_Finding], bool]:
    """Return what a sentence calls better, and whether it overrules what stands before it.

    Args:
        words: the sentence.
        before: the sentence before it, for "Response 1 is not better. Response 2 is."
        is_last: whether it is the last sentence.
        telling: the words without one of which a longer sentence need not be read.
    """
    if len(words) >= 12 and telling.isdisjoint(words) and words[-2] not in v.ELLIPSES:
        return [], False
    first, words = words[0], v.usual_words(named(words, before))
    choice, is_name = _bare_name(words, first, is_last)
    if choice:  # a number alone, which may be that of something else, overrules nothing
        return [_Finding(choice, whole=True)], is_name
    if is_last and _ends_with_name(words):
        return [_Finding(CHOICES[words[-2]], whole=words[-3] == "but")], False
    if _is_ellipsis(words) and not (_TELLING.isdisjoint(before) and _TELLING.isdisjoint(words)):
        return [_Finding(CHOICES[words[-3]], whole=True)], True
    return _Reader(words).read()


def _ends_with_name(words: Sequence[str]) -> bool:
    """Whether the only name in a short sentence stands alone at its end, as in "Close, but response 1."."""
    return (
        3 <= len(words) <= 12
        and words[-1] == "."
        and words[-2] in CHOICES
        and words[-3] in (",", "but")
        and not any(word in CHOICES or word == "both" for word in words[:-2])
    )


def _is_ellipsis(words: Sequence[str]) -> bool:
    """Whether a sentence ends like "Response 2 is.", but not like "than response 2 is."."""
    return (
        len(words) > 2
        and words[-1] == "."
        and words[-2] in v.ELLIPSES
        and words[-3] in CHOICES
        and (len(words) == 3 or words[-4] not in ("than", "as", "what", "how", "where"))
    )


class _Reader:
    """One pass over a sentence, in which each word changes what the next ones mean.

    It keeps who is spoken of (`subject`), who is only compared with (`compared`), who was named last (`latest`), and
    what was said before it is known about whom (`waiting`: +1 for "better", -1 for "worse", and whether as a whole).
    """

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.findings: list[_Finding] = []
        self.overruled: int | None = None
        self.unread = 0
        self.subject: Conclusion | None = None
        self.latest: Conclusion | None = None
        self.compared: Choice | None = None
        self.waiting: tuple[int, bool] | None = None
        self.comparing = self.negated = self.hedged = self.new_clause = self.conceding = self.giving_reasons = False
        self.in_aside = False
        # "If the sky were red, response 1 would be better": nothing is concluded before a turn.
        self.unreal = words[:1] != [] and words[0] in v.UNREAL and "would" in words

    def read(self) -> tuple[list[_Finding], bool]:
        for position in [position for position, word in enumerate(self.words) if word in _METHODS]:
            if position >= self.unread:
                _METHODS[self.words[position]](self, position)
        self._settle()
        if self.words[-1:] == ["?"]:
            return [], False
        if self.overruled is None:
            return self.findings, False
        # "response 2 is better overall"
        found = self.findings[self.overruled :] or self.findings[-1:]
        if not any(finding.whole for finding in found):
            found = [_Finding(finding.conclusion, whole=True) for finding in found]
        return found, True

    def _following(self, position: int) -> str:
        return self.words[position + 1] if position + 1 < len(self.words) else "."

    # Who is spoken of

    def _on_name(self, position: int) -> None:
        word = self.words[position]
        choice = CHOICES.get(word)
        name: Conclusion = choice or "both"
        if self.new_clause and not self.unreal:  # "response 1 is not accurate, response 2 is better"
            self.negated = self.hedged = self.new_clause = False
        self.latest = name
        if self.comparing and choice:
            self.compared, self.comparing = choice, False
            if self.waiting:  # "it is better than response 2"
                self._conclude(name, -self.waiting[0], self.waiting[1])
            return
        self.subject = name
        if self.waiting:  # "the better one is response 1"
            self._conclude(name, *self.waiting)

    def _on_which(self, position: int) -> None:
        self.subject = self.latest
        if self.words[position - 1] == ",":  # "response 2, which does not invent anything, is better"
            self.negated = self.hedged = self.new_clause = False
            self.in_aside = True

    # What is said of them

    def _on_better(self, position: int) -> None:
        self._evaluate(1, whole=True)

    def _on_beats(self, position: int) -> None:
        self._evaluate(1, whole=True)
        self.comparing = True

    def _on_worse(self, position: int) -> None:
        self._evaluate(-1, whole=True)

    def _on_degree(self, position: int) -> None:
        quality = self._following(position)
        if v.QUALITY.fullmatch(quality) and quality not in v.NEUTRAL:
            self.unread = position + 2
            sign = v.DEGREES[self.words[position]]
            self._evaluate(-sign if quality in v.BAD_QUALITY else sign, whole=False)

    def _on_comparative(self, position: int) -> None:
        self._evaluate(1, whole=False)

    def _on_approval(self, position: int) -> None:
        if self.subject == "both" and not (self.negated or self.hedged):
            self._conclude("both", 1, whole=False)

    def _on_alike(self, position: int) -> None:
        if self.subject == "both":
            self._on_equal(position)

    def _on_equal(self, position: int) -> None:
        if not (self.negated or self.hedged):
            self._conclude("both", 1, whole=True)

    def _on_prefer(self, position: int) -> None:
        if self.new_clause and "i" in self.words[max(0, position - 4) : position]:  # "it does not say so, so I prefer"
            self.negated = self.hedged = False
        # Whom I prefer is what follows, not what came before.
        self.waiting = None if self._is_blocked() else (1, True)

    def _on_reject(self, position: int) -> None:
        self.waiting = None if self._is_blocked() else (-1, True)

    def _is_blocked(self) -> bool:
        return self.negated or self.hedged or self.unreal or self.conceding or self.giving_reasons

    def _evaluate(self, sign: int, whole: bool) -> None:
        if self._is_blocked():
            return
        if self.subject:
            self._conclude(self.subject, sign, whole)
        else:
            self.waiting = sign, whole

    def _conclude(self, about: Conclusion, sign: int, whole: bool) -> None:
        self.waiting = None
        if about != "both":
            self.findings.append(_Finding(about if sign > 0 else other(about), whole))
        elif sign > 0:
            self.findings.append(_Finding(about, whole))

    # What changes the meaning of the words after it

    def _on_negation(self, position: int) -> None:
        self.new_clause = False  # "..., and I would not say that response 2 is better"
        self.negated = self.negated or self._following(position) not in v.NOT_NEGATED

    def _on_no(self, position: int) -> None:
        self.negated = self.negated or self._following(position) in v.BETTER

    def _on_hedge(self, position: int) -> None:
        self.hedged, self.new_clause = True, False

    def _on_condition(self, position: int) -> None:
        self.findings.clear()  # "response 1 is better if ...", "response 1 seems better at first, but ..."
        self.hedged, self.new_clause = True, False

    def _on_comparing(self, position: int) -> None:
        self.comparing = True

    def _on_to(self, position: int) -> None:
        self.comparing = self.comparing or bool(self.findings or self.waiting)

    def _on_reason(self, position: int) -> None:
        if position == 0 or self.words[position - 1] in v.TURNS:  # "but since response 2 is right, ..."
            self.conceding = True
            return
        is_clause = self.words[position] in ("because", "since")
        self.giving_reasons = bool(self.findings) or (is_clause and self.subject is not None)

    # What ends a part of a sentence

    def _on_joint(self, position: int) -> None:
        self._settle()
        if self.in_aside and self.words[position] == ",":
            self.negated = self.hedged = self.in_aside = False
        self.comparing, self.new_clause = False, True
        self.conceding = self.conceding and self.words[position] != ","

    def _on_turn(self, position: int) -> None:
        self._settle()
        self.comparing = self.negated = self.hedged = self.new_clause = self.conceding = self.unreal = False
        self.giving_reasons = False

    def _on_contrast(self, position: int) -> None:
        self._on_turn(position)
        self.conceding = position == 0  # "while response 1 is nicer, ..."

    def _on_concession(self, position: int) -> None:
        self._on_turn(position)
        # "both are good, though response 1 is better" concedes nothing
        self.conceding = {finding.conclusion for finding in self.findings} != {"both"}

    def _on_marker(self, position: int) -> None:
        self._on_turn(position)
        self.overruled = len(self.findings)

    def _on_so(self, position: int) -> None:
        if position == 0 or self.words[position - 1] in v.JOINTS:
            self._on_marker(position)

    def _settle(self) -> None:
        """End a part of a sentence: "unlike response 2 it is better", "response 1 is what I prefer"."""
        if self.waiting and self.subject:
            self._conclude(self.subject, *self.waiting)
        elif self.waiting and self.compared:
            self._conclude(self.compared, -self.waiting[0], self.waiting[1])


_SENTENCE_ENDS = (".", "?")
_Method = Callable[[_Reader, int], None]
_METHODS: dict[str, _Method] = {
    word: method
    for words, method in (
        (CHOICES, _Reader._on_name),
        (("both", "neither"), _Reader._on_name),
        (("which",), _Reader._on_which),
        (v.BETTER, _Reader._on_better),
        (v.BEATS, _Reader._on_beats),
        (v.WORSE, _Reader._on_worse),
        (v.DEGREES, _Reader._on_degree),
        (v.COMPARATIVES, _Reader._on_comparative),
        (v.APPROVAL, _Reader._on_approval),
        (v.ALIKE, _Reader._on_alike),
        (v.EQUAL, _Reader._on_equal),
        (v.PREFER, _Reader._on_prefer),
        (("reject",), _Reader._on_reject),
        (v.NEGATIONS, _Reader._on_negation),
        (("no",), _Reader._on_no),
        (v.HEDGES, _Reader._on_hedge),
        (v.CONDITIONS | {"atfirst"}, _Reader._on_condition),
        (v.COMPARING, _Reader._on_comparing),
        (("to",), _Reader._on_to),
        (v.REASONS, _Reader._on_reason),
        (v.JOINTS, _Reader._on_joint),
        (v.TURNS, _Reader._on_turn),
        (v.CONTRASTS, _Reader._on_contrast),
        (v.CONCESSIONS, _Reader._on_concession),
        (v.MARKERS, _Reader._on_marker),
        (("so",), _Reader._on_so),
    )
    for word in words
}
_TELLING_OF_WHOLE = v.telling(v.BETTER | v.BEATS | v.WORSE | v.EQUAL | v.PREFER | v.MARKERS | {"so", "both", "neither"})
_TELLING = v.telling(_TELLING_OF_WHOLE | v.DEGREES.keys() | v.COMPARATIVES)
"""Words without one of which a sentence of some length calls nothing better."""
