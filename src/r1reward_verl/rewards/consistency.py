"""The judges, who say whether the reasoning and the answer of a judgement agree.

The consistency reward of R1-Reward (arXiv 2505.02835, section 4.2) is +1 if the reasoning concludes that the
response named by the answer is better, -1 if not (opposite, ambiguous, or approval of both), 0 if the judge
could not tell. As in the reference, a judge sees the last three lines of the reasoning, never the picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from r1reward_verl.judgement import Choice

Conclusion = Literal[1, 2, "both"]


class Judge(Protocol):
    """Anything that can say whether a piece of reasoning supports a choice."""

    async def judge(self, reasoning: str, choice: Choice) -> int:
        """Return 1 if `reasoning` concludes that response `choice` is better, -1 if not, 0 if unknown.

        Failures of the judge itself (an unreadable reply, a time-out) are its own to handle, and are a 0.
        """


class NoJudge:
    """Never has an opinion, so that consistency plays no part in the reward."""

    async def judge(self, reasoning: str, choice: Choice) -> int:
        """Return 0."""
        return 0


class RulesJudge:
    """Reads the reasoning with `conclusion`: no model, English only, strict on anything unclear."""

    async def judge(self, reasoning: str, choice: Choice) -> int:
        """Return 1 if the stated conclusion is `choice`, else -1: no or no clear conclusion is a mismatch."""
        return 1 if conclusion(reasoning) == choice else -1


# A judge that needs a model takes its options as keyword arguments here, like these two.
JUDGES: dict[str, Callable[..., Judge]] = {"none": NoJudge, "rules": RulesJudge}


def make_judge(config: Mapping[str, Any]) -> Judge:
    """Build a judge from its settings: `name` (a key of `JUDGES`); the other keys are its options.

    Raises:
        ValueError: not a mapping, no or an unknown name, or an option that this judge does not have.
    """
    known = ", ".join(JUDGES)
    if not isinstance(config, Mapping) or "name" not in config:
        raise ValueError(f"judge is {config!r}; it must be a mapping with a name, one of: {known}")
    options = {str(key): value for key, value in config.items() if key != "name"}
    if config["name"] not in JUDGES:
        raise ValueError(f"judge.name is {config['name']!r}; known judges: {known}")
    try:
        return JUDGES[config["name"]](**options)
    except TypeError as error:
        raise ValueError(f"judge {config['name']!r} does not take the options {options}: {error}") from None


def closing_lines(reasoning: str, count: int = 3) -> str:
    """Return the last `count` lines, where the conclusion is expected; blank lines between them count."""
    return "\n".join(reasoning.strip().rsplit("\n", count)[-count:])


# --- reading a conclusion ---


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOKEN = re.compile(r"[a-z0-9']+|[.;!?\n,]")
_SENTENCE_ENDS = set(".;!?\n")
_NUMBERS: dict[str, Choice] = {"1": 1, "one": 1, "2": 2, "two": 2}
_ORDINALS: dict[str, Choice] = {"first": 1, "1st": 1, "second": 2, "2nd": 2}
_NOUNS = _words("response responses answer answers reply option candidate")
_BETTER = _words(
    "better best preferable preferred superior stronger strongest winner win wins won beats outperforms "
    "surpasses favored favoured chosen selected"
)
_WORSE = _words("worse worst inferior weaker weakest loses loser")
_PREFER = _words("prefer choose pick select favor favour recommend")
_EQUAL = _words("equal equally tie tied")
_APPROVAL = _words("good correct right accurate acceptable fine valid excellent great helpful")
_QUALITIES = _APPROVAL | _words(
    "detailed complete comprehensive informative relevant appropriate precise thorough suitable faithful reliable"
)
_DEGREES = {"more": 1, "most": 1, "less": -1, "least": -1}
_NEGATIONS = _words("not never cannot hardly nor")
_NOT_NEGATED = _words("only just merely simply")  # "not only accurate"
_HEDGES = _words("if unless whether could might may")
_TURNS = _words("but while whereas although though however")
_MARKERS = _words("therefore thus hence overall conclusion summary ultimately finally consequently")
_REASONS = _words("because since due given")
_COMPARING = _words("than over unlike versus vs against compared beats outperforms surpasses")
_GO_WITH = {("go", "with"), ("going", "with"), ("side", "with")}


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
    text = closing_lines(reasoning).lower().replace("\u2019", "'").replace("'s", " ")
    tokens = [*_TOKEN.findall(text), "\n"]
    return _Reader(tokens).read() or _Reader(tokens, single_qualities=True).read()


class _Reader:
    """One pass over the tokens, in which each word changes what the next ones mean.

    Within a sentence it keeps who is spoken of (`subject`), who is only compared with (`compared`), who was
    named last (`latest`), and a "better" (+1) or "worse" (-1) that waits for the one it is about (`waiting`).
    """

    def __init__(self, tokens: list[str], single_qualities: bool = False) -> None:
        self.tokens = tokens
        self.single_qualities = single_qualities
        self.found: list[Conclusion] = []
        self.marked = False
        self._start_sentence()

    def _start_sentence(self) -> None:
        self.found_before = len(self.found)
        self.subject: Conclusion | None = None
        self.latest: Conclusion | None = None
        self.compared: Choice | None = None
        self.waiting = 0
        self.comparing = self.negated = self.hedged = self.new_clause = self.in_reason = False

    def read(self) -> Conclusion | None:
        position = 0
        while position < len(self.tokens):
            mention, length = self._mention(position)
            if self.tokens[position] in _SENTENCE_ENDS:
                self._on_sentence_end(self.tokens[position])
            elif mention and not self.in_reason:
                self._on_mention(mention)
            elif not self.in_reason:
                self._on_word(position)
            position += length
        if not self.found:
            return None
        return self.found[-1] if len(set(self.found)) == 1 else "both"

    def _mention(self, position: int) -> tuple[Conclusion | None, int]:
        """Return the response named at `position` and its length; "response 1 and (response) 2" is "both"."""
        if self.tokens[position] in ("both", "neither"):
            return "both", 1
        choice, length = self._single(position)
        if choice is None or self.comparing or self.tokens[position + length] != "and":
            return choice, length
        start = position + length + 1
        start += self.tokens[start] == "the"
        second, more = self._single(start)
        second = second or _NUMBERS.get(self.tokens[start])
        return ("both", start + more - position) if second == 3 - choice else (choice, length)

    def _single(self, position: int) -> tuple[Choice | None, int]:
        word, following, then = (*self.tokens[position : position + 3], "", "")[:3]
        if word in _NOUNS and following in _NUMBERS:
            return _NUMBERS[following], 2
        if word in _ORDINALS:
            if (following in _NOUNS and then not in _NUMBERS) or following == "one":
                return _ORDINALS[word], 2
            if self.tokens[position - 1] == "the" and (following in ("is", "wins") or following in _SENTENCE_ENDS):
                return _ORDINALS[word], 1
        return None, 1

    def _on_mention(self, mention: Conclusion) -> None:
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

    def _on_word(self, position: int) -> None:
        word, following = self.tokens[position], self.tokens[position + 1]
        previous = self.tokens[position - 1] if position else "."
        has_found = len(self.found) > self.found_before
        if word == "," or word == "and":
            self._settle()
            self.comparing, self.new_clause = False, True
        elif word in _MARKERS or (word == "so" and (previous in _SENTENCE_ENDS or previous in (",", "and"))):
            self._turn()
            self.marked = True
        elif word in _TURNS:
            self._turn()
        elif word in _REASONS and has_found:
            self.in_reason = True
        elif word in _NEGATIONS or word.endswith("n't") or (word == "no" and following in _BETTER):
            self.negated = self.negated or following not in _NOT_NEGATED
        elif word in _HEDGES:
            if has_found and word in ("if", "unless"):  # "response 1 is better if ..."
                del self.found[self.found_before :]
            self.hedged = True
        elif previous == "as" and word in _APPROVAL:  # "(not) as good as"
            if self.negated:
                self.negated = False
                self._evaluate(-1)
            elif not self.hedged:
                self._conclude("both", 1)
        elif self.single_qualities and word in _QUALITIES and previous in _DEGREES:
            self._evaluate(_DEGREES[previous])
        elif word in _EQUAL or (word in _APPROVAL and self.subject == "both"):
            if not (self.negated or self.hedged):
                self._conclude("both", 1)
        elif word in _BETTER or word in _WORSE:
            self._evaluate(1 if word in _BETTER else -1)
        elif word in _PREFER or (word, following) == ("choice", "is") or (previous, word) in _GO_WITH:
            # Whom I prefer is what follows, not what came before.
            self.waiting = 0 if self.negated or self.hedged else 1
        elif word == "which":
            self.subject = self.latest
        if word in _COMPARING or (word == "to" and (has_found or self.waiting)):
            self.comparing = True

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

    def _settle(self) -> None:
        """End a part of a sentence: "unlike response 2 it is better", "response 1 is what I prefer"."""
        if self.waiting and self.subject:
            self._conclude(self.subject, self.waiting)
        elif self.waiting and self.compared:
            self._conclude(self.compared, -self.waiting)
        self.waiting = 0

    def _turn(self) -> None:
        self._settle()
        self.comparing = self.negated = self.hedged = self.new_clause = False

    def _on_sentence_end(self, mark: str) -> None:
        self._settle()
        if mark == "?":
            del self.found[self.found_before :]
        elif self.marked and len(self.found) > self.found_before:  # "response 2 is better overall"
            self.found = self.found[-1:]
            self.marked = False
        self._start_sentence()


def _other(choice: Choice) -> Choice:
    return 2 if choice == 1 else 1
