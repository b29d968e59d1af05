"""Runs the service: listens, and at SIGTERM or Ctrl-C lets running requests finish."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from types import FrameType

import uvicorn

from r1reward_verl.use.model import RewardModel
from r1reward_verl.use.serve.app import create_app
from r1reward_verl.use.serve.limits import Gate
from r1reward_verl.use.serve.settings import ServeSettings
from r1reward_verl.use.settings import RankSettings

_BACKLOG = 4096
_FILES = 65_536
_KEEP_ALIVE = 75  # seconds; shorter than a client's, it closes connections that the client is about to use


class Server(uvicorn.Server):
    """A server that refuses new work before it stops.

    Attributes:
        cut_off: number of requests that were still running when their time was over.
    """

    def __init__(self, gate: Gate, drain_timeout: float) -> None:
        super().__init__(
            uvicorn.Config(
                gate,
                log_level="warning",
                access_log=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=1,
                timeout_keep_alive=_KEEP_ALIVE,
                server_header=False,
                lifespan="on",
                ws="none",
            )
        )
        self.gate, self.cut_off = gate, 0
        self._drain_timeout = drain_timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drained: asyncio.Future[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at the second."""
        if self._loop is None or self.gate.draining:
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Take no new work, and end when what runs has finished or its time is over."""
        if self._drained is None:
            self._drained = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        self.gate.draining = True
        self.gate.drain()
        end = asyncio.get_running_loop().time() + self._drain_timeout
        while self.gate.open and asyncio.get_running_loop().time() < end and not self.should_exit:
            await asyncio.sleep(0.02)
        self.cut_off = self.gate.open
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        OSError: the address is not to be had; the message names it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(f"cannot listen on {host} port {port}: {error}; choose another --host or --port") from error


def run(model: RewardModel, settings: ServeSettings, rank: RankSettings) -> int:
    """Serve until a signal comes, and return the exit code: 1 if requests were cut off.

    Raises:
        ValueError, OSError: settings that cannot be meant, or an address that is not to be had.
        EngineError: vLLM could not be started.
    """
    key = settings.key()
    listening = listen(settings.host, settings.port)
    _raise_file_limit()
    model.engine  # noqa: B018  # loads vLLM before anybody is answered
    server = Server(create_app(model, settings, rank, key), settings.drain_timeout)
    host, port = listening.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"serving on {address} (page: {address}/, routes: {address}/openapi.json)", flush=True)
    if key is None and host not in ("127.0.0.1", "::1"):
        print(f"warning: anybody who reaches {host} may use the service: set {settings.key_env}", file=sys.stderr)
    server.run(sockets=[listening])
    if server.cut_off:
        print(f"{server.cut_off:,} requests were cut off after {settings.drain_timeout:g} seconds", file=sys.stderr)
    return 1 if server.cut_off else 0


def _raise_file_limit() -> None:
    """Let the process have a connection for each open request; the usual limit is 1,024 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
