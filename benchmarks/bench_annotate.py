"""How near annotation comes to the time in which a teacher's answers can be had at all.

A server in a process of its own answers each request 50 ms after it came, and does next to nothing else. The bound is
latency x ceil(calls / concurrency): what it would take if all calls were on the wire all the time and nothing else
cost anything. The time is that of `annotate` from reading the input to the finished output, without Python's imports,
the least of several rounds, so that other work of the machine counts less. A third of the preferences takes three
attempts, which follow each other. Beside it stands what a plain aiohttp session needs for as many calls.
"""

import asyncio
import io
import json
import math
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from _server import running_server
from r1reward_verl.data.annotate import annotate
from r1reward_verl.data.annotation import AnnotateSettings
from r1reward_verl.data.preference import SCHEMA, Preference, to_row
from r1reward_verl.judgement import Choice
from r1reward_verl.media import Media

if __name__ != "__mp_main__":  # the server's process needs no torch
    from _bench import Figure, report

LATENCY = 0.05
ROWS = 2_000
CONCURRENCY = 16
ROUNDS = 2
SHARE_OF_BOUND = 0.9

THINK = "Response 1 names the green circle on the left, response 2 only says that there is a shape.\n" * 10
COMPLETION = {
    "id": "chatcmpl-0",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "teacher",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": f"<think>{THINK}</think><answer>1</answer>"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 700, "completion_tokens": 220, "total_tokens": 920},
}


class Teacher(asyncio.Protocol):
    """One connection; whatever is asked, the first response is better."""

    body = json.dumps(COMPLETION)
    answer = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.missing = transport, 0

    def data_received(self, data: bytes) -> None:
        if not self.missing:
            head, _, data = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            assert length, head
            self.missing = int(length[1])
        self.missing -= len(data)
        if not self.missing:
            asyncio.get_running_loop().call_later(LATENCY, self.transport.write, self.answer)


def pictures(folder: Path) -> list[Path]:
    """Write some JPEG files of about 20 kB."""
    paths = []
    for number in range(20):
        gradient = Image.radial_gradient("L").resize((320, 240))
        picture = Image.merge("RGB", (gradient, gradient.rotate(18 * number), gradient.rotate(90)))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=97)
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(file.getvalue())
    return paths


def write(path: Path, rows: int, images: list[Path]) -> Path:
    """Write preferences, with one picture each if there are any."""
    table = []
    for number in range(rows):
        media = (Media(path=str(images[number % len(images)])),) if images else ()
        question = f"What is to be seen in picture {number}, and where does it stand?"
        responses = (f"A circle, {number}. " * 20, f"A shape, {number}. " * 20)
        label: Choice = 2 if number % 3 == 2 else 1
        table.append(to_row(Preference(f"p{number}", "bench", "shapes", question, *responses, label, images=media)))
    parquet.write_table(pa.Table.from_pylist(table, schema=SCHEMA), path)
    return path


async def ask_bare(url: str, calls: int, concurrency: int) -> None:
    """Make as many calls of text with a plain aiohttp session."""
    left = iter(range(calls))
    body = {"model": "teacher", "messages": [{"role": "user", "content": "x" * 2_000}]}

    async def one_after_the_other() -> None:
        for _ in left:
            async with session.post(f"{url}/chat/completions", json=body) as response:
                assert json.loads(await response.read())["choices"]

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(one_after_the_other() for _ in range(concurrency)))


def measure(url: str, folder: Path, images: list[Path], concurrency: int, rows: int) -> tuple[float, int]:
    """Return the seconds that annotation takes, and the number of calls."""
    source = write(folder / "in.parquet", rows, images)
    out = folder / "out.parquet"
    start = time.perf_counter()
    settings = AnnotateSettings(urls=[url], model="teacher", concurrency=concurrency, fresh=True)
    result = annotate(source, out, settings, progress=False)
    passed = time.perf_counter() - start
    assert result.rows["finished"] == rows
    assert result.calls == sum(3 if number % 3 == 2 else 1 for number in range(rows))
    return passed, result.calls


def main() -> int:
    """Measure, print the table, write the results file; 1 if a target is missed."""
    figures = []
    with running_server(Teacher) as address, tempfile.TemporaryDirectory() as name:
        url, folder = f"{address}/v1", Path(name)
        images = pictures(folder)
        measure(url, folder, images, CONCURRENCY, 100)  # imports what is only needed now
        cases = {
            "text": (list[Path](), CONCURRENCY, SHARE_OF_BOUND),
            "a picture each": (images, CONCURRENCY, SHARE_OF_BOUND),
            "pictures": (images, 4 * CONCURRENCY, None),
        }
        taken: dict[str, list[float]] = {what: [] for what in (*cases, "bare")}
        calls = 0
        for _ in range(ROUNDS):
            for what, (media, concurrency, _target) in cases.items():
                passed, calls = measure(url, folder, media, concurrency, ROWS)
                taken[what].append(passed)
            start = time.perf_counter()
            asyncio.run(ask_bare(url, calls, CONCURRENCY))
            taken["bare"].append(time.perf_counter() - start)
    for what, (_, concurrency, target) in {**cases, "bare": (None, CONCURRENCY, None)}.items():
        title = f"{calls} calls, {what}, {concurrency} at a time, {LATENCY * 1e3:.0f} ms latency: bound"
        bound = LATENCY * math.ceil(calls / concurrency)
        figures.append(Figure(title, min(taken[what]), "s", bound, target, compare="speedup"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    figures.append(Figure("memory of the process, torch included", peak, "MB"))
    return report("annotate", figures, ("r1reward-verl", "aiohttp", "pyarrow", "pillow"))


if __name__ == "__main__":
    sys.exit(main())
