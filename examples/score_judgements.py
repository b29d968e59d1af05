"""Read judgements as the reward does: the parser, the rules and the embedded judge, without verl, Ray or a GPU.

python examples/score_judgements.py
"""

import asyncio

from r1reward_verl.judgement import build_prompt
from r1reward_verl.rewards.scorer import Scorer

LABEL = 1
JUDGEMENTS = {
    "right and consistent": "<think>Response 1 names the colour. So response 1 is better.</think><answer>1</answer>",
    "right, but against its own reasoning": "<think>So response 2 is better.</think><answer>1</answer>",
    "wrong": "<think>So response 2 is better.</think><answer>2</answer>",
    "no answer": "<think>Both have their merits.</think>",
}


def main() -> None:
    """Print what each judgement of one preference earns."""
    print(build_prompt("What colour is the circle?", "It is green.", "It is a circle."), end="\n\n")
    scorer = Scorer()
    for name, text in JUDGEMENTS.items():
        reward = asyncio.run(scorer.reward(text, LABEL))
        print(f"{name:40} reward {reward.total:.1f}  choice {reward.verdict.choice}  {reward.verdict.reason or ''}")


if __name__ == "__main__":
    main()
