"""Reads which response a piece of reasoning calls better, by rules: no model, English only, in linear time.

The rules are a vocabulary: sets of words, and one method of `_Reader` for each kind of word; the tables at the
end of the file join the two. A new word goes into its set. A new kind of word gets a set, a method and a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from string import ascii_lowercase, digits
from typing import Literal

from r1reward_verl.judgement import Choice

Conclusion = Literal[1, 2, "both"]


def closing_lines(reasoning: str, count: int = 3) -> str:
    """Return the last `count` lines, where the conclusion is expected; blank lines between them count."""
    return "\n".join(reasoning.strip().rsplit("\n", count)[-count:])


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SENTENCE_ENDS = _words(". ?")
_NUMBERS: dict[str, Choice] = {"1": 1, "one": 1, "2": 2, "two": 2}
_ORDINALS: dict[str, Choice] = {"first": 1, "1st": 1, "second": 2, "2nd": 2}
_NOUNS = _words("response responses answer answers reply option candidate")
_PAIRS = _words("both neither")
_BEATS = _words("beats outperforms surpasses")
_BETTER = _BEATS | _words(
    "better best preferable preferred superior stronger strongest winner win wins won favored favoured chosen selected"
)
_WORSE = _words("worse worst inferior weaker weakest loses loser")
_PREFER = _words("prefer choose pick select favor favour recommend")
_GO = _words("go going side")  # "with response 1"
_EQUAL = _words("equal equally tie tied")
_APPROVAL = _words("good correct right accurate acceptable fine valid excellent great helpful")
_QUALITIES = _APPROVAL | _words(
    "detailed complete comprehensive informative relevant appropriate precise thorough suitable faithful reliable"
)
_DEGREES = {"more": 1, "most": 1, "less": -1, "least": -1}
_NEGATIONS = _words("not never cannot hardly nor")
_NOT_NEGATED = _words("only just merely simply")  # "not only accurate"
_HEDGES = _words("whether could might may")
_CONDITIONS = _words("if unless")
_TURNS = _words("but while whereas although though however")
_JOINTS = _words(", and")
_MARKERS = _words("therefore thus hence overall conclusion summary ultimately finally consequently")
_REASONS = _words("because since due given")
_COMPARING = _words("than over unlike versus vs against compared")


def conclusion(reasoning: str) -> Conclusion | None:
    """Say which response the last three lines of `reasoning` call better, in linear time.

    Returns:
        1 or 2; "both" if both are approved, or each is called better and nothing decides between them; None
        if no response is called better. Denials ("response 1 is not better"), conditions, questions and bare
        praise ("response 1 is good") are no conclusion. Where statements differ, one that is marked as a
        conclusion ("so", "overall", ...) overrules what stands before it. "More accurate" and the like count
        only where nothing is called better or worse as a whole.

    >>> conclusion("Response 1 says green: yes. Response 2 says white: no. So response 1 is better.")
    1
    >>> conclusion("Response 1 is worse than response 2.")
    2
    """
    sentences = _sentences(closing_lines(reasoning))
    return _Reader(_DECISIVE).read(sentences) or _Reader(_DECISIVE_OR_DEGREE).read(sentences)


# What ends a sentence is read as "." or "?", what is no part of a word as a space.
_KEPT = f"{ascii_lowercase}{digits}',?".encode()
_PLAIN = bytes(byte if byte in _KEPT else ord("." if byte in b".;!\n" else " ") for byte in range(256))


def _sentences(text: str) -> list[list[str]]:
    """Split `text` into sentences: lists of words and commas, each with its "." or "?" at the end."""
    text = text.lower().replace("\u2019", "'").replace("'s", " ")
    # In UTF-8 no byte of another character looks like ASCII. Half of a surrogate pair is possible in a str.
    text = text.encode("utf-8", "surrogatepass").translate(_PLAIN).decode("ascii") + "."
    text = text.replace(",", " , ").replace(".", " .\n").replace("?", " ?\n")
    text = text.replace("n't ", "n't not ")  # "isn't", "doesn't", ...: an open set, but for its end
    return [line.split() for line in text.splitlines()]


class _Reader:
    """One pass over the sentences, in which each word changes what the next ones mean.

    Within a sentence it keeps who is spoken of (`subject`), who is only compared with (`compared`), who was
    named last (`latest`), and a "better" (+1) or "worse" (-1) that waits for the one it is about (`waiting`).
    Words before the position `unread` are not read (again).

    Args:
        decisive: the words that can make a conclusion, with their methods. A sentence without any of them is
            skipped, which is most sentences.
    """

    def __init__(self, decisive: Mapping[str, _Method]) -> None:
        self.decisive = decisive
        self.found: list[Conclusion] = []
        self.marked = False

    def read(self, sentences: Iterable[list[str]]) -> Conclusion | None:
        for words in sentences:
            if not self.decisive.keys().isdisjoint(words):
                self._read_sentence(words)
        if not self.found:
            return None
        return self.found[-1] if len(set(self.found)) == 1 else "both"

    def _read_sentence(self, words: list[str]) -> None:
        self.words, self.unread = words, 0
        self.found_before = len(self.found)
        self.subject: Conclusion | None = None
        self.latest: Conclusion | None = None
        self.compared: Choice | None = None
        self.waiting = 0
        self.comparing = self.negated = self.hedged = self.new_clause = False
        for position, word in enumerate(words):
            method = self.decisive.get(word) or _SUPPORTING.get(word)
            if method and position >= self.unread:
                method(self, position)
        self._settle()
        if words[-1] == "?":
            self._take_back()
        elif self.marked and self._has_found():  # "response 2 is better overall"
            self.found = self.found[-1:]
            self.marked = False

    def _previous(self, position: int) -> str:
        return self.words[position - 1]  # for the first word that is the last one: a sentence end, as it should be

    def _following(self, position: int) -> str:
        return self.words[position + 1]

    # Who is spoken of

    def _on_name(self, position: int) -> None:
        mention, length = self._mention(position)
        if not mention:
            return
        self.unread = position + length
        if self.new_clause:  # "response 1 is not accurate, response 2 is better"
            self.negated = self.hedged = self.new_clause = False
        self.latest = mention
        if self.comparing and mention != "both":
            self.compared, self.comparing = mention, False
            if self.waiting:  # "it is better than response 2"
                self._conclude(mention, -self.waiting)
            return
        self.subject = mention
        if self.waiting:  # "the better one is response 1"
            self._conclude(mention, self.waiting)

    def _mention(self, position: int) -> tuple[Conclusion | None, int]:
        """Return the response named at `position` and its length; "response 1 and (response) 2" is "both"."""
        if self.words[position] in _PAIRS:
            return "both", 1
        choice, length = self._single(position)
        if choice is None or self.comparing or self.words[position + length] != "and":
            return choice, length
        start = position + length + 1
        start += self.words[start] == "the"
        second, more = self._single(start)
        second = second or _NUMBERS.get(self.words[start])
        return ("both", start + more - position) if second == 3 - choice else (choice, length)

    def _single(self, position: int) -> tuple[Choice | None, int]:
        word = self.words[position]
        if word in _NOUNS:
            return _NUMBERS.get(self._following(position)), 2
        if word in _ORDINALS:
            following = self._following(position)
            if (following in _NOUNS and self.words[position + 2] not in _NUMBERS) or following == "one":
                return _ORDINALS[word], 2
            if self._previous(position) == "the" and (following in ("is", "wins") or following in _SENTENCE_ENDS):
                return _ORDINALS[word], 1
        return None, 1

    def _on_which(self, position: int) -> None:
        self.subject = self.latest

    # What is said of them

    def _on_better(self, position: int) -> None:
        self._evaluate(1)

    def _on_beats(self, position: int) -> None:
        self._evaluate(1)
        self.comparing = True

    def _on_worse(self, position: int) -> None:
        self._evaluate(-1)

    def _on_degree(self, position: int) -> None:
        if self._following(position) in _QUALITIES:
            self.unread = position + 2
            self._evaluate(_DEGREES[self.words[position]])

    def _on_approval(self, position: int) -> None:
        if self._previous(position) == "as" and self.negated:  # "not as good as"
            self.negated = False
            self._evaluate(-1)
        elif self._previous(position) == "as" or self.subject == "both":
            self._on_equal(position)

    def _on_equal(self, position: int) -> None:
        if not (self.negated or self.hedged):
            self._conclude("both", 1)

    def _on_prefer(self, position: int) -> None:
        # Whom I prefer is what follows, not what came before.
        self.waiting = 0 if self.negated or self.hedged else 1

    def _on_go(self, position: int) -> None:
        if self._following(position) == "with":
            self._on_prefer(position)

    def _on_choice(self, position: int) -> None:
        if self._following(position) == "is":
            self._on_prefer(position)

    def _evaluate(self, sign: int) -> None:
        if self.negated or self.hedged:
            return
        if self.subject:
            self._conclude(self.subject, sign)
        else:
            self.waiting = sign

    def _conclude(self, about: Conclusion, sign: int) -> None:
        self.waiting = 0
        if self.marked or self.found[-1:] == ["both"]:  # "both are good, but response 1 is better"
            self.found.clear()
            self.found_before, self.marked = 0, False
        if about == "both":
            if sign > 0:
                self.found.append("both")
        else:
            self.found.append(about if sign > 0 else _other(about))

    def _has_found(self) -> bool:
        return len(self.found) > self.found_before

    def _take_back(self) -> None:
        del self.found[self.found_before :]

    # What changes the meaning of the words after it

    def _on_negation(self, position: int) -> None:
        self.negated = self.negated or self._following(position) not in _NOT_NEGATED

    def _on_no(self, position: int) -> None:
        self.negated = self.negated or self._following(position) in _BETTER

    def _on_hedge(self, position: int) -> None:
        self.hedged = True

    def _on_condition(self, position: int) -> None:
        self._take_back()  # "response 1 is better if ..."
        self.hedged = True

    def _on_comparing(self, position: int) -> None:
        self.comparing = True

    def _on_to(self, position: int) -> None:
        if self._has_found() or self.waiting:
            self.comparing = True

    def _on_reason(self, position: int) -> None:
        if self._has_found():
            self.unread = len(self.words)

    # What ends a part of a sentence

    def _on_joint(self, position: int) -> None:
        self._settle()
        self.comparing, self.new_clause = False, True

    def _on_turn(self, position: int) -> None:
        self._settle()
        self.comparing = self.negated = self.hedged = self.new_clause = False

    def _on_marker(self, position: int) -> None:
        self._on_turn(position)
        self.marked = True

    def _on_so(self, position: int) -> None:
        previous = self._previous(position)
        if previous in _SENTENCE_ENDS or previous in _JOINTS:
            self._on_marker(position)

    def _settle(self) -> None:
        """End a part of a sentence: "unlike response 2 it is better", "response 1 is what I prefer"."""
        if self.waiting and self.subject:
            self._conclude(self.subject, self.waiting)
        elif self.waiting and self.compared:
            self._conclude(self.compared, -self.waiting)
        self.waiting = 0


def _other(choice: Choice) -> Choice:
    return 2 if choice == 1 else 1


_Method = Callable[[_Reader, int], None]


def _table(*rows: tuple[Iterable[str], _Method]) -> dict[str, _Method]:
    return {word: method for words, method in rows for word in words}


_DECISIVE = _table(
    (_BETTER, _Reader._on_better),
    (_BEATS, _Reader._on_beats),  # overrides the row above
    (_WORSE, _Reader._on_worse),
    (_APPROVAL, _Reader._on_approval),
    (_EQUAL, _Reader._on_equal),
    (_PREFER, _Reader._on_prefer),
    (_GO, _Reader._on_go),
    (["choice"], _Reader._on_choice),
    (_MARKERS, _Reader._on_marker),  # they hold for the sentences that follow
    (["so"], _Reader._on_so),
)
_DECISIVE_OR_DEGREE = _DECISIVE | _table((_DEGREES, _Reader._on_degree))
_SUPPORTING = _table(
    (_NOUNS | _PAIRS | _ORDINALS.keys(), _Reader._on_name),
    (["which"], _Reader._on_which),
    (_NEGATIONS, _Reader._on_negation),
    (["no"], _Reader._on_no),
    (_HEDGES, _Reader._on_hedge),
    (_CONDITIONS, _Reader._on_condition),
    (_COMPARING, _Reader._on_comparing),
    (["to"], _Reader._on_to),
    (_REASONS, _Reader._on_reason),
    (_JOINTS, _Reader._on_joint),
    (_TURNS, _Reader._on_turn),
)
