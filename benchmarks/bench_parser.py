"""How fast one core reads judgements: the parser, the rules judge, and the whole reward by rules.

The parser's target is 200,000 judgements of 2 kB a minute, for every kind of text; "k" stands for a thousand.

The whole reward (parse, format, result, rules judge, combine) has to score 20,000 judgements a second of this mix of
200 different ones, all of them well-formed and with the right answer, since only then the judge is asked: 120 of 2 kB
that conclude for one response, 20 of 2 kB that conclude nothing, 20 of 2 kB that approve of both, and 40 of the toy
world. Those of 2 kB are lines of 20 to 60 words in the manner of a 7B model, of which the judge reads three. Nothing
is kept from one judgement to the next. These figures are processor time, the best of several rounds, so that other
work on the machine does not count.
"""

import asyncio
import random
import re
import sys
import time
from collections.abc import Callable, Mapping

from _bench import Figure, report, seconds
from r1reward_verl.judgement import parse
from r1reward_verl.rewards import conclusion
from r1reward_verl.rewards.scorer import Scorer
from r1reward_verl.toy.world import draw_pairs, judgement

PARSED_PER_MINUTE = 200_000
SCORED_PER_SECOND = 20_000
MIX = {"one is better": 120, "no conclusion": 20, "both": 20, "toy world": 40}
CALLS = sum(MIX.values())
LINE = "Response 1 names the green circle on the left, response 2 only says that there is a shape.\n"
REASONING = LINE * 21 + "So response 1 is better."
JUDGEMENTS = {
    "well-formed": f"<think>{REASONING}</think><answer>1</answer>",
    "truncated": "<think>" + LINE * 22,
    "no tags": LINE * 22,
    "nested tags": "<think>" * 280 + "So response 1 is better.</think><answer>1</answer>",
}

WORDS = {
    "n": ["1", "2"],
    "nth": ["first", "second"],
    "thing": ["woman", "skateboard", "traffic light", "bowl of fruit", "street sign", "laptop", "bus", "small dog"],
    "colour": ["red", "dark blue", "green", "pale yellow", "white", "grey"],
    "place": ["on the left", "in the background", "next to the window", "near the kerb", "at the centre of the image"],
    "quality": ["accurate", "detailed", "complete", "precise", "informative"],
}
REMARKS = [
    "Response {n} correctly identifies the {colour} {thing} {place} and describes how it relates to the {thing}.",
    "Response {n} mentions a {colour} {thing}, which doesn't appear in the image, and overlooks the {thing} {place}.",
    "It gives a clear explanation of the scene, with attention to the {thing}, the {colour} {thing} and their places.",
    "However, it is less {quality} about what the {thing} is doing {place}, so the reader would have to guess.",
    "The question asks for the colour of the {thing} {place}, and the picture shows clearly that it is {colour}.",
    "In terms of accuracy, the {nth} response stays close to what can be seen, while the other one adds details about "
    "the {thing} that could not be verified.",
    "Both responses are written clearly and follow the instructions, but they differ in how they treat the {thing}.",
    "The {nth} response is {quality} and uses good examples, although its description of the {thing} is rather long.",
]
CONCLUSIONS = {
    "one is better": [
        "Overall, Response {n} is better because it describes the {colour} {thing} {place} as it can be seen, and does "
        "not introduce details that are not visible in the image.",
        "Therefore, the {nth} response is more {quality} and helpful, and it is the better choice for a reader who "
        "wants to know about the {thing} {place}.",
        "Given these points, I prefer Response {n}, even though the other one is shorter and easier to read for those "
        "who only look for the {thing}.",
    ],
    "no conclusion": [
        "It is hard to say which of the two the user would find closer to the {colour} {thing} {place}, since the "
        "question does not tell what it is needed for.",
    ],
    "both": [
        "Both responses are equally good, since each of them names the {colour} {thing} {place} and answers the "
        "question that was asked about it.",
    ],
}


def long_judgement(kind: str, rng: random.Random) -> str:
    """Write a judgement of 2 kB whose last line is a conclusion of this kind."""

    def filled(template: str) -> str:
        return re.sub(r"{(\w+)}", lambda field: rng.choice(WORDS[field[1]]), template)

    lines: list[str] = []
    while sum(map(len, lines)) < 1_600:
        lines.append(" ".join(filled(remark) for remark in rng.sample(REMARKS, rng.randint(1, 3))))
    lines.append(filled(rng.choice(CONCLUSIONS[kind])))
    return "<think>" + "\n".join(lines) + f"</think><answer>{rng.choice('12')}</answer>"


def mixed_judgements() -> dict[str, list[str]]:
    """Write the judgements that are scored, by kind."""
    rng = random.Random(0)
    texts = {kind: [long_judgement(kind, rng) for _ in range(MIX[kind])] for kind in CONCLUSIONS}
    pairs = draw_pairs(1_000, seed=0, split="bench")
    short = list(dict.fromkeys(judgement(pair, 1 + index % 2) for index, pair in enumerate(pairs)))
    return texts | {"toy world": rng.sample(short, MIX["toy world"])}


def processor_seconds(rivals: Mapping[str, Callable[[], object]], rounds: int = 30) -> dict[str, float]:
    """Least processor seconds of one call of each rival, measured in turns."""
    least = dict.fromkeys(rivals, float("inf"))
    for _ in range(rounds):
        for name, call in rivals.items():
            start = time.process_time()
            call()
            least[name] = min(least[name], time.process_time() - start)
    return least


def repeated(function: Callable[[str], object], text: str) -> Callable[[], None]:
    def calls() -> None:
        for _ in range(CALLS):
            function(text)

    return calls


def scoring(texts: list[str]) -> Callable[[], None]:
    scorer = Scorer()
    labelled = [(text, parse(text).choice) for text in texts]

    async def score_all() -> None:
        for text, label in labelled:
            await scorer.reward(text, label)

    return lambda: asyncio.run(score_all())


def main() -> int:
    parsed = {f"parse, {kind}": repeated(parse, text) for kind, text in JUDGEMENTS.items()}
    rates = {name: CALLS / taken for name, taken in seconds(parsed).items()}
    figures = [Figure(name, rate * 60 / 1e3, "k/min", target=PARSED_PER_MINUTE / 1e3) for name, rate in rates.items()]

    texts = mixed_judgements()
    texts["the mix"] = [text for kind in texts.values() for text in kind]
    # `CALLS` judgements of each kind, so that starting the event loop weighs the same.
    scored = {f"score, {kind}": (some * CALLS)[:CALLS] for kind, some in texts.items()}
    one_line = REASONING.replace("\n", " ")
    taken = processor_seconds(
        {"rules judge, 2 kB in one line": repeated(conclusion, one_line)}
        | {name: scoring(some) for name, some in scored.items()}
    )
    figures += [Figure(name, CALLS / value / 1e3, "k/s") for name, value in taken.items()]
    figures[-1].target = SCORED_PER_SECOND / 1e3
    return report("parser", figures, ("r1reward-verl",))


if __name__ == "__main__":
    sys.exit(main())
