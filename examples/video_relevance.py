"""Video relevance: tell which of two clips answers a query better.

    python examples/video_relevance.py --reward-model http://host:8001/v1 "a dog catches a ball" one.mp4 other.mp4

A clip is a video file (with `pip install av`) or a folder of frames. The clips are the responses, their frames stand
behind the words "Clip 1" and "Clip 2", once in each order.
"""

import argparse

from r1reward_verl.use import Response, RewardModel
from r1reward_verl.use.comparison import read_media

FRAMES = 8


def main() -> None:
    """Read the command line and print which clip is the more relevant one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query")
    parser.add_argument("clips", nargs=2, metavar="CLIP")
    parser.add_argument("--reward-model", required=True, help="address of the reward model's server")
    arguments = parser.parse_args()
    clips = []
    for number, path in enumerate(arguments.clips, 1):
        _, (frames,) = read_media(path, FRAMES)
        clips.append(Response(f"Clip {number}, its frames in order:", frames))
    question = f"Which clip shows this better: {arguments.query}"
    with RewardModel(urls=[arguments.reward_model]) as model:
        result = model.judge(question, None, *clips)
    print(f"clip {result.verdict or '1 or 2 (undecided)'}, P(clip 1) = {result.probability}")
    print(result.reasoning or result.error)


if __name__ == "__main__":
    main()
