"""Best of n: let a chat model answer a question several times, and keep the answer that a reward model ranks first.

    python examples/best_of_n.py --chat http://host:8000/v1 --reward-model http://host:8001/v1 "Why is the sky blue?"

Both are OpenAI-compatible servers, such as `vllm serve`. A picture goes with --image.
"""

import argparse
import asyncio

from r1reward_verl.engines.base import Sampling
from r1reward_verl.engines.online import OnlineEndpoint
from r1reward_verl.use import Question, RankSettings, RewardModel


async def best_of_n(question: Question, chat: OnlineEndpoint, model: RewardModel, n: int) -> str:
    """Return the best of n answers, after printing them all in the order of their scores."""
    content = [*await chat.encode(question.images), question.text]
    generated = await chat.generate(content, n)
    if generated.error:
        raise SystemExit(f"the chat model gave {len(generated.texts)} of {n} answers: {generated.error}")
    answers = [text.text for text in generated.texts]
    ranking = await model.arank(question, None, answers, RankSettings(both_orders=True))
    for place in ranking.order:
        print(f"{ranking.scores[place]:.2f} ± {ranking.standard_errors[place]:.2f}  {answers[place]}")
    return answers[ranking.best]


async def main() -> None:
    """Read the command line and print the answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    parser.add_argument("--chat", required=True, help="address of the chat model's server")
    parser.add_argument("--reward-model", required=True, help="address of the reward model's server")
    parser.add_argument("--image", help="picture of the question")
    parser.add_argument("-n", type=int, default=8, help="number of answers")
    arguments = parser.parse_args()
    chat = OnlineEndpoint([arguments.chat], sampling=Sampling(temperature=1.0, max_tokens=1024))
    model = RewardModel(urls=[arguments.reward_model])
    try:
        question = Question.make(arguments.question, arguments.image)
        print(f"\nbest: {await best_of_n(question, chat, model, arguments.n)}")
    finally:
        await chat.close()
        await model.aclose()


if __name__ == "__main__":
    asyncio.run(main())
