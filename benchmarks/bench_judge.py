"""What a judge model behind an HTTP server costs beyond the server itself.

All of it in one run against one server in a process of its own, which answers after the milliseconds that the address
names and does next to nothing else.

- 256 rollouts that all need the judge, 50 ms latency. Peer: one sample after the other, each with a new client that
  lists the models first, as the reference's reward server works; written with the standard library, whose clients
  start faster than those the reference uses. Ours is the whole of it: parser, reward, a new judge in a new event loop
  with new connections, their end. The bound, latency x ceil(rollouts / concurrency), knows no listing, so there the
  model is named; beside it stands what a plain aiohttp session needs for the same requests.
- Overhead, no latency. Peer: the same requests through a plain aiohttp session. Both are driven in two ways: all
  requests asked for at once, as rollouts come in, and `CONCURRENCY` loops that each send one after the other. "judge"
  adds the question: last lines, cache key (nothing is in the cache), sharing with others who ask the same, prompt.
  The target is for the client's processor time, the least of several rounds, so that other work does not count; the
  time passed is the median.
- Memory: by how much a fresh process grows at most when all rollouts are scored at once, their texts not counted.
- Identical questions: how many requests reach the server, and the time of an answer from the cache.
"""

import asyncio
import http.client
import json
import math
import re
import statistics
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from _server import SPAWN, running_server
from r1reward_verl.engines.chat import ChatClient
from r1reward_verl.judgement import parse
from r1reward_verl.rewards.judges.model import ModelJudge
from r1reward_verl.rewards.judges.prompt import closing, messages
from r1reward_verl.rewards.scorer import Scorer

if __name__ != "__mp_main__":  # the processes started here need no torch
    from _bench import Figure, report

CONCURRENCY = 64
LATENCY = 0.05
ROLLOUTS = 256
SLICE = 16
REQUESTS = 2_000
ROUNDS = 15
WAITING = 10_000
DISTINCT = 100
SPEEDUP = 40.0
BOUND_RATIO = 1.3
OVERHEAD_RATIO = 1.2
MEMORY_MB = 200.0

Ask = Callable[[Any], Awaitable[None]]
Drive = Callable[[Ask, Iterable[Any]], Awaitable[None]]

LINE = "Response 1 names the green circle on the left, response 2 only says that there is a shape.\n"
OPTIONS: dict[str, Any] = {"temperature": 0.1, "max_tokens": 1, "structured_outputs": {"choice": ["0", "1"]}}
COMPLETION = {
    "id": "chatcmpl-0",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "judge",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "1", "refusal": None, "tool_calls": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 220, "completion_tokens": 1, "total_tokens": 221},
}
ANSWERS = {
    "completions": json.dumps(COMPLETION),
    "models": json.dumps({"object": "list", "data": [{"id": "judge", "object": "model"}]}),
}


class Completions(asyncio.Protocol):
    """One connection: `/MILLISECONDS/v1/chat/completions` and `/models`, and the number of the former at `/asked`."""

    asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n") + 4) >= 4:
            head = self.received[:end]
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            end += int(length[1]) if length else 0
            if len(self.received) < end:
                return
            self.received = self.received[end:]
            _, milliseconds, *_, what = head.split(None, 2)[1].decode().split("/")
            Completions.asked += what == "completions"
            text = ANSWERS.get(what, str(self.asked))
            answer = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}"
            if delay := int(milliseconds) / 1e3:
                asyncio.get_running_loop().call_later(delay, self.transport.write, answer.encode())
            else:
                self.transport.write(answer.encode())


def asked(address: str) -> int:
    """Return how many completions the server has been asked for so far."""
    with urllib.request.urlopen(f"{address}/0/asked") as answer:
        return int(answer.read())


def reasoning(number: int) -> str:
    return LINE * 20 + f"Response 1 describes picture {number} as it is. So response 1 is better."


def rollout(number: int) -> str:
    return f"<think>{reasoning(number)}</think><answer>1</answer>"


def read(answer: Mapping[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


def elapsed(call: Callable[..., object], *arguments: Any) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


async def score_all(judge: ModelJudge, texts: Iterable[str]) -> None:
    scorer = Scorer(judge=judge)
    scores = await asyncio.gather(*(scorer.reward(text, 1) for text in texts))
    await judge.close()
    assert all(score.total == 2.0 and score.opinion.status == "judged" for score in scores)


def score_one_by_one(address: str, texts: Iterable[str]) -> None:
    """Ask as the reference's reward server does."""
    where = urlsplit(address)
    for text in texts:
        client = http.client.HTTPConnection(str(where.hostname), where.port)
        client.request("GET", f"{where.path}/models")
        model = json.loads(client.getresponse().read())["data"][0]["id"]
        body = {"model": model, "messages": messages(closing(parse(text).think), 1), **OPTIONS}
        client.request("POST", f"{where.path}/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        assert read(json.loads(client.getresponse().read())) == "1"
        client.close()


async def at_once(ask: Ask, questions: Iterable[Any]) -> None:
    await asyncio.gather(*map(ask, questions))


async def in_loops(ask: Ask, questions: Iterable[Any]) -> None:
    left = iter(questions)

    async def one_after_the_other() -> None:
        for question in left:
            await ask(question)

    await asyncio.gather(*(one_after_the_other() for _ in range(CONCURRENCY)))


async def ask_bare(url: str, questions: Iterable[list[dict[str, str]]], drive: Drive) -> None:
    """Ask with a plain aiohttp session."""

    async def ask(question: list[dict[str, str]]) -> None:
        body = {"model": "judge", "messages": question, **OPTIONS}
        async with session.post(f"{url}/chat/completions", json=body) as response:
            assert read(json.loads(await response.read())) == "1"

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:
        await drive(ask, questions)


def rollouts(address: str) -> dict[str, float]:
    """Return the seconds that `ROLLOUTS` take in each way."""
    url = f"{address}/{LATENCY * 1e3:.0f}/v1"
    texts = [rollout(number) for number in range(ROLLOUTS)]
    questions = [messages(closing(parse(text).think), 1) for text in texts]

    def ours(model: str | None) -> None:
        asyncio.run(score_all(ModelJudge([url], model, concurrency=CONCURRENCY), texts))

    taken: dict[str, list[float]] = {name: [] for name in ("one by one", "ours", "ours, models listed", "bare")}
    for start in range(0, ROLLOUTS, SLICE):  # in turns: one by one a slice, the others all of it
        taken["one by one"].append(elapsed(score_one_by_one, url, texts[start : start + SLICE]))
        ours("judge")  # the processor has idled meanwhile
        taken["ours"].append(elapsed(ours, "judge"))
        taken["ours, models listed"].append(elapsed(ours, None))
        taken["bare"].append(elapsed(asyncio.run, ask_bare(url, questions, at_once)))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return medians | {"one by one": sum(taken["one by one"])}


def overheads(address: str) -> dict[str, tuple[float, float]]:
    """Return, for each way to send `REQUESTS`, microseconds of one: of the processor (least) and passed (median)."""
    url = f"{address}/0/v1"
    reasonings = [reasoning(number) for number in range(REQUESTS)]
    questions = [messages(closing(text), 1) for text in reasonings]

    async def ask_client(drive: Drive) -> None:
        async def ask(question: list[dict[str, str]]) -> None:
            assert (await client.complete(question, read, **OPTIONS)).value == "1"

        async with ChatClient([url], model="judge", concurrency=CONCURRENCY) as client:
            await drive(ask, questions)

    async def ask_judge(drive: Drive) -> None:
        async def ask(text: str) -> None:
            assert (await judge.judge(text, 1)).status == "judged"

        judge = ModelJudge([url], "judge", concurrency=CONCURRENCY, cache_size=0)
        await drive(ask, reasonings)
        await judge.close()

    rivals: dict[str, Callable[[], object]] = {
        "bare, all at once": lambda: asyncio.run(ask_bare(url, questions, at_once)),
        "client, all at once": lambda: asyncio.run(ask_client(at_once)),
        "judge, all at once": lambda: asyncio.run(ask_judge(at_once)),
        "bare, in loops": lambda: asyncio.run(ask_bare(url, questions, in_loops)),
        "client, in loops": lambda: asyncio.run(ask_client(in_loops)),
    }
    busy: dict[str, list[float]] = {name: [] for name in rivals}
    passed: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(ROUNDS):
        for name, call in rivals.items():
            start = time.process_time()
            passed[name].append(elapsed(call) / REQUESTS * 1e6)
            busy[name].append((time.process_time() - start) / REQUESTS * 1e6)
    return {name: (min(busy[name]), statistics.median(passed[name])) for name in rivals}


def grown(address: str) -> float:
    """Return by how many MB this process grows at most while `WAITING` rollouts are scored at once."""

    def megabytes(field: str) -> float:
        found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        return int(found[1]) * 1024 / 1e6

    url = f"{address}/{LATENCY * 1e3:.0f}/v1"
    texts = [rollout(number) for number in range(WAITING + 1)]
    asyncio.run(score_all(ModelJudge([url], "judge", concurrency=CONCURRENCY), texts[WAITING:]))
    before = megabytes("VmRSS")
    asyncio.run(score_all(ModelJudge([url], "judge", concurrency=CONCURRENCY), texts[:WAITING]))
    return megabytes("VmHWM") - before


async def identical(address: str) -> tuple[int, float]:
    """Return how many requests `WAITING` judgements of `DISTINCT` questions cause, and seconds of a cached one."""
    judge = ModelJudge([f"{address}/{LATENCY * 1e3:.0f}/v1"], "judge", concurrency=CONCURRENCY)
    reasonings = [reasoning(number % DISTINCT) for number in range(WAITING)]
    before = asked(address)
    opinions = await asyncio.gather(*(judge.judge(text, 1) for text in reasonings))
    assert all(opinion.consistency == 1.0 for opinion in opinions)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        for text in reasonings:
            await judge.judge(text, 1)
        taken.append(time.perf_counter() - start)
    await judge.close()
    return asked(address) - before, statistics.median(taken) / WAITING


def main() -> int:
    """Measure, print the table, write the results file; 1 if a target is missed."""
    with running_server(Completions) as address:
        with ProcessPoolExecutor(1, mp_context=SPAWN) as fresh:
            memory = fresh.submit(grown, address).result()
        whole = rollouts(address)
        micros = overheads(address)
        requests, cached = asyncio.run(identical(address))
    bound = LATENCY * math.ceil(ROLLOUTS / CONCURRENCY)
    stage = f"{ROLLOUTS} rollouts, {LATENCY * 1e3:.0f} ms latency"
    many = f"{WAITING} at once"
    all_listed, one_by_one = whole["ours, models listed"], whole["one by one"]
    figures = [
        Figure(f"{stage}, models listed: one by one", all_listed, "s", one_by_one, SPEEDUP, compare="speedup"),
        Figure(f"{stage}: bound", whole["ours"], "s", bound, BOUND_RATIO, at_least=False, compare="ratio"),
        Figure(f"{stage}, bare aiohttp: bound", whole["bare"], "s", bound, compare="ratio"),
        *(
            Figure(f"a request, {name}, {clock}: bare", micros[name][i], "us", micros[peer][i], target, False, "ratio")
            for name, peer, most in (
                ("client, all at once", "bare, all at once", OVERHEAD_RATIO),
                ("client, in loops", "bare, in loops", OVERHEAD_RATIO),
                ("judge, all at once", "bare, all at once", None),
            )
            for i, (clock, target) in enumerate((("processor", most), ("passed", None)))
        ),
        Figure(f"{many}: memory", memory, "MB", target=MEMORY_MB, at_least=False),
        Figure(f"{many}, {DISTINCT} distinct: requests", requests, "", target=DISTINCT, at_least=False),
        Figure("a judgement from the cache", cached * 1e6, "us"),
    ]
    return report("judge", figures, ("r1reward-verl", "aiohttp"))


if __name__ == "__main__":
    sys.exit(main())
