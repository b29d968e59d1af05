"""Read judgements as the reward does: the parser, the rules and the embedded judge, without verl, Ray or a GPU.

python examples/score_judgements.py
"""

import asyncio

from r1reward_verl.judgement import build_prompt, parse
from r1reward_verl.rewards import combine, format_reward, result_reward
from r1reward_verl.rewards.consistency import RulesJudge

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
    for name, text in JUDGEMENTS.items():
        verdict, result = parse(text), result_reward(text, LABEL)
        consistency = 0
        if result and verdict.choice is not None:  # elsewhere the judge could not change the reward
            consistency = asyncio.run(RulesJudge().judge(verdict.think, verdict.choice))
        reward = combine(result, consistency, format_reward(text))
        print(f"{name:40} reward {reward:.1f}  choice {verdict.choice}  {verdict.reason or ''}")


if __name__ == "__main__":
    main()
