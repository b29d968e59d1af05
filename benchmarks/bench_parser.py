"""How fast one core reads judgements of 2 kB: the parser, the rules judge, and the whole rule-based reward.

The parser's target is 200,000 a minute, for every kind of text. "k" stands for a thousand judgements.
"""

import sys
from collections.abc import Callable

from _bench import Figure, report, seconds
from r1reward_verl.judgement import parse
from r1reward_verl.rewards import combine, conclusion, format_reward, result_reward

PARSED_PER_MINUTE = 200_000
CALLS = 200
LINE = "Response 1 names the green circle on the left, response 2 only says that there is a shape.\n"
REASONING = LINE * 21 + "So response 1 is better."
JUDGEMENTS = {
    "well-formed": f"<think>{REASONING}</think><answer>1</answer>",
    "truncated": "<think>" + LINE * 22,
    "no tags": LINE * 22,
    "nested tags": "<think>" * 280 + "So response 1 is better.</think><answer>1</answer>",
}


def score(text: str) -> float:
    """Do what the reward manager does per sample with the rules judge, without decoding."""
    verdict = parse(text)
    result = result_reward(verdict, 1)
    consistency = (1 if conclusion(verdict.think) == verdict.choice else -1) if result else 0
    return combine(result, consistency, format_reward(verdict))


def repeated(function: Callable[[str], object], text: str) -> Callable[[], None]:
    def calls() -> None:
        for _ in range(CALLS):
            function(text)

    return calls


def main() -> int:
    parsed = {f"parse, {kind}": repeated(parse, text) for kind, text in JUDGEMENTS.items()}
    scored = {
        "rules judge, last 3 lines of 2 kB": repeated(conclusion, REASONING),
        "rules judge, 2 kB in one line": repeated(conclusion, REASONING.replace("\n", " ")),
        "score, well-formed": repeated(score, JUDGEMENTS["well-formed"]),
    }
    rates = {name: CALLS / taken for name, taken in seconds(parsed | scored).items()}
    figures = [Figure(name, rates[name] * 60 / 1e3, "k/min", target=PARSED_PER_MINUTE / 1e3) for name in parsed]
    figures += [Figure(name, rates[name] / 1e3, "k/s") for name in scored]
    return report("parser", figures, ("r1reward-verl",))


if __name__ == "__main__":
    sys.exit(main())
