"""Rewards of groups beside the bound of their schedule: calls / concurrency * latency.

256 prompts with 8 rollouts each, a reward model that takes 50 ms, 64 requests at a time. The client is what verl's
reward workers run (`use.group.GroupReward`); the server is a process of its own.
"""

import asyncio
import sys
import time
from typing import get_args

from _bench import Figure, report
from _server import running_server
from r1reward_verl.use.comparison import Question
from r1reward_verl.use.group import GroupReward, GroupSettings, SiblingResponse
from r1reward_verl.use.schedules import ScheduleName

PROMPTS, ROLLOUTS, CONCURRENCY, LATENCY = 256, 8, 64, 0.05
BODY = (
    b'{"choices": [{"message": {"role": "assistant", "content": "<think>So response 1 is better.</think>'
    b'<answer>1</answer>"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}'
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class RewardModelServer(asyncio.Protocol):
    """Answers each request after the latency with the same judgement, whatever it asks."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, rest = self.buffer.partition(b"\r\n\r\n")
            lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
            length = int(lengths[0].split(b":")[1]) if lengths else 0
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            answer = b'{"data": [{"id": "m"}]}' if head.startswith(b"GET") else None
            if answer:
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
            else:
                asyncio.get_running_loop().call_later(LATENCY, self.transport.write, ANSWER)


async def reward_all(url: str, schedule: str, both_orders: bool) -> tuple[float, float]:
    """Return the seconds of all groups, and the number of comparisons."""
    settings = GroupSettings.from_config(
        {
            "model": {"urls": [f"{url}/v1"], "model": "m", "concurrency": CONCURRENCY},
            "schedule": schedule,
            "both_orders": both_orders,
        }
    )
    model = settings.load()
    groups = GroupReward(model, settings)
    siblings = [SiblingResponse(f"This is rollout {number} of some length, " * 5, 40) for number in range(ROLLOUTS)]

    async def group(number: int) -> float:
        infos = await groups.reward(Question(f"Question {number}?"), siblings, None)
        assert infos[0]["group_failed"] == 0, infos[0]["group_error"]
        return float(infos[0]["group_comparisons"])

    await group(-1)
    began = time.perf_counter()
    counts = await asyncio.gather(*map(group, range(PROMPTS)))
    seconds = time.perf_counter() - began
    await model.aclose()
    return seconds, sum(counts)


def main() -> int:
    figures = []
    with running_server(RewardModelServer) as url:
        for schedule in get_args(ScheduleName):
            for both_orders in (False, True):
                seconds, calls = asyncio.run(reward_all(url, schedule, both_orders))
                bound = calls / CONCURRENCY * LATENCY
                name = f"{schedule}{', both orders' if both_orders else ''} ({calls:.0f} comparisons)"
                figures.append(Figure(name, seconds, "s", bound, 1.25, at_least=False, compare="ratio"))
    return report("group_reward", figures, packages=("aiohttp",))


if __name__ == "__main__":
    sys.exit(main())
