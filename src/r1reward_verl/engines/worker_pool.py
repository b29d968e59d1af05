"""Several engines in processes of their own that share the cases of an evaluation (data parallel)."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from r1reward_verl.engines.base import Engine, EngineError, Judgement, Work

_AHEAD = 8  # cases that a worker holds
_PATIENCE = 20.0  # seconds


class WorkerPool:
    """Engines in processes of their own, which take the cases one at a time as they have room.

    Args:
        builders: makes the engine of each worker, in its process; can be pickled.
        gpus: CUDA_VISIBLE_DEVICES of each worker; None leaves it as it is.
    """

    def __init__(self, builders: Sequence[Callable[[], Engine]], gpus: Sequence[str | None]) -> None:
        context = multiprocessing.get_context("spawn")
        self._workers: list[tuple[Any, Connection]] = []
        for builder, visible in zip(builders, gpus, strict=True):
            ours, theirs = context.Pipe()
            # No daemon: vLLM starts processes of its own.
            process = context.Process(target=_serve, args=(theirs, builder, visible))
            process.start()
            theirs.close()
            self._workers.append((process, ours))

    def generate(self, work: Iterator[Work]) -> Generator[Sequence[Judgement], None, None]:
        """Yield the judgements of all workers; see `engine.Engine`.

        Raises:
            EngineError: a worker has ended.
        """
        running = {connection: number for number, (_, connection) in enumerate(self._workers)}

        def give(connection: Connection) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):  # what it said last is still to be read
                connection.send(next(work, None))

        for connection in [*running] * _AHEAD:
            give(connection)
        while running:
            for one in wait([*running]):
                assert isinstance(one, Connection)
                number = running[one]
                try:
                    kind, content = one.recv()
                except (EOFError, ConnectionResetError):
                    process = self._workers[number][0]
                    process.join(_PATIENCE)
                    code = process.exitcode
                    raise EngineError(f"worker {number} of {len(self._workers)} ended with code {code}") from None
                if kind == "judgements":
                    yield content
                elif kind == "taken":
                    give(one)
                elif kind == "error":
                    raise EngineError(f"worker {number} of {len(self._workers)}: {content}")
                else:
                    del running[one]

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        for _, connection in self._workers:
            connection.close()
        for process, _ in self._workers:
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()


def _serve(connection: Connection, builder: Callable[[], Engine], visible: str | None) -> None:
    """Run an engine on what the other end of the connection sends."""
    # Ctrl-C reaches the whole group; the parent closes the connection then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    inbox: queue.SimpleQueue[Work | None] = queue.SimpleQueue()

    def receive() -> None:
        # Always ready to read, so that both ends never wait for each other; what lies here is bounded by the parent.
        with suppress(EOFError, OSError):
            while True:
                inbox.put(connection.recv())
        os.kill(os.getpid(), signal.SIGTERM)  # the parent is gone, or wants no more

    def work() -> Iterator[Work]:
        while (item := inbox.get()) is not None:
            connection.send(("taken", None))
            yield item

    threading.Thread(target=receive, daemon=True).start()
    try:
        for judgements in builder().generate(work()):
            connection.send(("judgements", judgements))
        connection.send(("done", None))
    except Exception as error:
        connection.send(("error", f"{type(error).__name__}: {error}"))


def _leave(*_: object) -> None:
    """End this process in order, once: vLLM's own processes end with it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)
