"""What `r1reward serve` costs beside direct calls of the reward model, and the memory of many open requests.

- `REQUESTS` pairs are judged in both orders, `CONCURRENCY` at a time, by a `RewardModel` in a process of its own, and
  by `r1reward serve` in another one. Both run on one core and on uvloop, and ask the same server, which is a third
  process and takes 50 ms. The figure is the processor time of a request, the least of several rounds in turns: on one
  core, what a request costs more is what it takes longer.
- `OPEN` requests wait at the same time: for a model that does not answer, and for the siblings of their cohorts.
"""

import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import aiohttp
import psutil
import uvloop

from _server import SPAWN, running_server
from bench_group_reward import RewardModelServer
from r1reward_verl.use import RewardModel

if __name__ != "__mp_main__":  # the processes started here need no torch
    from _bench import Figure, report

REQUESTS, CONCURRENCY, ROUNDS = 2_000, 64, 5
OPEN = 2_000
ADDED_MS = 2.0
MEMORY_MB = 500.0
CORE = min(os.sched_getaffinity(0))
PAIR = {
    "question": "Which picture shows a green circle to the left of a red square?",
    "response_1": "The first one: the circle is green, and the square stands to its right. " * 8,
    "response_2": "Neither of them, as both show triangles only. " * 8,
}


class Silent(asyncio.Protocol):
    """Takes requests and never answers."""


async def in_loops(ask: Callable[[int], Awaitable[object]], count: int) -> None:
    """Call `ask` `count` times, `CONCURRENCY` at a time."""
    numbers = iter(range(count))

    async def one_after_the_other() -> None:
        for number in numbers:
            await ask(number)

    await asyncio.gather(*(one_after_the_other() for _ in range(CONCURRENCY)))


def direct(url: str, owner: Connection) -> None:
    """Judge `REQUESTS` pairs whenever `owner` asks, and send it the seconds of processor time of each."""
    os.sched_setaffinity(0, {CORE})
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

    async def judge_all(model: RewardModel) -> float:
        async def ask(_: int) -> None:
            result = await model.ajudge(PAIR["question"], None, PAIR["response_1"], PAIR["response_2"])
            assert len(result.comparisons) == 2

        await in_loops(ask, CONCURRENCY)
        began = time.process_time()
        await in_loops(ask, REQUESTS)
        return (time.process_time() - began) / REQUESTS

    with RewardModel("m", urls=[url], concurrency=4 * CONCURRENCY) as model:
        while owner.recv():
            owner.send(model.wait_for(judge_all(model)))


@contextmanager
def serving(url: str, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run `r1reward serve` on one core, and yield its address and process."""
    command = [
        sys.executable,
        "-m",
        "r1reward_verl.cli",
        "serve",
        "--url",
        url,
        "--model",
        "m",
        "--port",
        "0",
        *options,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, {CORE})
        assert process.stdout
        address = process.stdout.readline().split()[2]
        try:
            yield address, psutil.Process(process.pid)
        finally:
            process.kill()


async def post_all(address: str) -> None:
    """Judge `REQUESTS` pairs over HTTP."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:

        async def ask(_: int) -> None:
            async with session.post(f"{address}/v1/judge", json=PAIR) as answer:
                assert answer.status == 200, await answer.text()
                assert len(json.loads(await answer.read())["comparisons"]) == 2

        await in_loops(ask, REQUESTS)


def costs(url: str) -> tuple[float, float]:
    """Return the milliseconds of processor time of a request: over HTTP, and of a direct call."""
    ours, its = SPAWN.Pipe()
    process = SPAWN.Process(target=direct, args=(url, its), daemon=True)
    process.start()
    served, called = [], []
    with serving(url, "--concurrency", str(4 * CONCURRENCY)) as (address, service):
        asyncio.run(post_all(address))
        for _ in range(ROUNDS):
            before = sum(service.cpu_times()[:2])
            asyncio.run(post_all(address))
            served.append((sum(service.cpu_times()[:2]) - before) / REQUESTS * 1e3)
            ours.send(True)
            called.append(ours.recv() * 1e3)
    ours.send(False)
    process.join()
    return min(served), min(called)


def memory(url: str, path: str) -> float:
    """Return the megabytes of the service with `OPEN` open requests; each of a cohort of two waits for the other."""
    with serving(url, "--timeout", "600", "--max-wait", "600") as (address, service):
        host, port = address.removeprefix("http://").split(":")
        open_requests = []
        for number in range(OPEN):
            fields = {"question": f"{number}: {PAIR['question']}", "response": PAIR["response_1"], "size": 2}
            body = json.dumps(PAIR if path == "/v1/judge" else fields).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            connection = socket.create_connection((host, int(port)))
            connection.sendall(f"{head}\r\n\r\n".encode() + body)
            open_requests.append(connection)
        end = time.monotonic() + 60
        while f"r1reward_open_requests {OPEN:.1f}" not in text(f"{address}/metrics"):
            assert time.monotonic() < end, text(f"{address}/metrics")
            time.sleep(0.2)
        time.sleep(1)
        megabytes = service.memory_info().rss / 1e6
        for connection in open_requests:
            connection.close()
        return megabytes


def text(address: str) -> str:
    """Return what an address holds."""
    with urllib.request.urlopen(address) as answer:
        return answer.read().decode()


def main() -> int:
    """Measure, print and write the figures."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with running_server(RewardModelServer) as url:
        served, called = costs(f"{url}/v1")
    with running_server(Silent) as url:
        waiting = [memory(f"{url}/v1", path) for path in ("/v1/judge", "/v1/cohort")]
    name = f"processor time of a request, {CONCURRENCY} at a time, beside a direct call"
    figures = [
        Figure(name, served, "ms", called, ADDED_MS, at_least=False, compare="extra"),
        Figure(f"{OPEN:,} open requests, of a slow model", waiting[0], "MB", None, MEMORY_MB, at_least=False),
        Figure(f"{OPEN:,} open requests, of cohorts", waiting[1], "MB", None, MEMORY_MB, at_least=False),
    ]
    return report("serve", figures, packages=("fastapi", "uvicorn", "aiohttp"))


if __name__ == "__main__":
    sys.exit(main())
