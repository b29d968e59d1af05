"""`r1reward serve` for tests: in a thread with `running`, as a process of its own with `ServeProcess`."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from r1reward_verl.use import RankSettings, RewardModel
from r1reward_verl.use.serve.app import create_app
from r1reward_verl.use.serve.server import Server, listen
from r1reward_verl.use.serve.settings import ServeSettings

CHAT = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"
"""A prompt after Qwen's chat template, as OpenRLHF sends it."""


def uri(content: bytes) -> str:
    """Return a PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


class Reply(NamedTuple):
    """An answer over HTTP."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def error(self) -> dict[str, Any]:
        return self.body["error"]


def get(address: str, path: str, timeout: float = 30.0) -> Reply:
    """GET a path; JSON is read."""
    return _ask(urllib.request.Request(address + path), timeout)


def post(address: str, path: str, body: Any, *, key: str | None = None, timeout: float = 30.0, **headers: str) -> Reply:
    """POST JSON, or bytes as they are, and read the JSON that comes back."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if key is not None:
        sent["Authorization"] = f"Bearer {key}"
    return _ask(urllib.request.Request(address + path, data, sent), timeout)


def _ask(request: urllib.request.Request, timeout: float) -> Reply:
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return _reply(answer)
    except urllib.error.HTTPError as error:
        with error:
            return _reply(error)


def _reply(answer: Any) -> Reply:
    raw = answer.read()
    kind = answer.headers.get("Content-Type", "")
    return Reply(answer.status, json.loads(raw) if "json" in kind else raw.decode(), answer.headers)


def metrics(address: str) -> dict[str, float]:
    """Return the metrics by name and labels."""
    lines = get(address, "/metrics").body.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


@contextmanager
def running(
    *urls: str,
    key: str | None = None,
    rank: RankSettings | None = None,
    model: Mapping[str, Any] | None = None,
    wrap: Any = None,
    **settings: Any,
) -> Iterator[str]:
    """Serve a model behind `urls` from a thread, and yield the address; `wrap` goes around the ASGI application."""
    reward_model = RewardModel(urls=urls, **{"timeout": 10.0, **(model or {})})
    options = ServeSettings(port=0, **settings)
    gate = create_app(reward_model, options, rank or RankSettings(), key)
    server = Server(gate, options.drain_timeout)
    if wrap is not None:
        server.config.app = wrap(gate)
    listening = listen("127.0.0.1", 0)
    loops: queue.Queue[asyncio.AbstractEventLoop] = queue.Queue()

    async def serve() -> None:
        loops.put(asyncio.get_running_loop())
        await server.serve(sockets=[listening])

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    loop = loops.get(timeout=10)
    wait_until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(server.stop)
        thread.join(15)


def wait_until(condition: Any, seconds: float = 15.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition does not hold in time"
        time.sleep(0.01)


class ServeProcess:
    """`r1reward serve` as users run it; `log` holds what it printed."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "r1reward_verl.cli", "serve", *arguments],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log = ""
        assert self.process.stdout
        while "serving on" not in self.log:
            line = self.process.stdout.readline()
            self.log += line
            assert line, f"the service ended with {self.process.wait()}: {self.log}"
        self.address = self.log.partition("serving on ")[2].split()[0]

    def terminate(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        self.log += self.process.communicate(timeout=60)[0]
        return self.process.returncode

    def __enter__(self) -> ServeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
