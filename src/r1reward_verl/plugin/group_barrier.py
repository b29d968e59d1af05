"""The siblings of a prompt on their way to the reward: they wait for each other and are scored as one group.

verl's agent-loop worker runs the n rollouts of a prompt as tasks of one event loop, and sends each of them to a reward
worker as soon as it is written. For the reward manager `pairwise` this module wraps
`AgentLoopWorker._run_agent_loop`, so that a group knows how many siblings are on their way (all of them enter before
any can finish, and one that fails leaves, so that no setting and no timeout is needed). A handle in the place of the
reward workers' sends the group to one of them once all that are left have arrived. Groups of other prompts go on
meanwhile.

The wrapping takes place when verl imports the module, before it defines the Ray actor that inherits from the class.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from zlib import crc32

from r1reward_verl.plugin.trajectory import response_of

MANAGER = "pairwise"
GROUP = "r1reward_group"
"""Field of the batch that a reward worker gets: the siblings of a group."""

_MARK = "_r1reward_group_barrier"
Key = tuple[str, bool]


@dataclass
class _Group:
    """Siblings of a prompt.

    Attributes:
        members: number of those that are on their way or wait.
        waiting: those that wait, with what they wait for.
    """

    members: int = 0
    waiting: list[tuple[Mapping[str, Any], asyncio.Future[Any]]] = field(default_factory=list)


class GroupBarrier:
    """The groups of one event loop.

    Args:
        score: scores the siblings of a group, in the order in which they arrived.
    """

    def __init__(self, score: Callable[[Key, Sequence[Mapping[str, Any]]], Awaitable[Sequence[Any]]]) -> None:
        self._score = score
        self._groups: dict[Key, _Group] = {}
        self._running: set[asyncio.Task[None]] = set()

    @contextmanager
    def member(self, key: Key) -> Iterator[None]:
        """Count a sibling from its start to its end, whatever the end is."""
        group = self._groups.setdefault(key, _Group())
        group.members += 1
        try:
            yield
        finally:
            group.members -= 1
            self._send_if_complete(key, group)

    async def arrive(self, key: Key, sibling: Mapping[str, Any]) -> Any:
        """Wait until all siblings have arrived or left, and return this one's score.

        Raises:
            Exception: what scoring the group raised.
        """
        group = self._groups[key]
        await asyncio.sleep(0)  # one that is here at once lets its siblings start
        future = asyncio.get_running_loop().create_future()
        group.waiting.append((sibling, future))
        self._send_if_complete(key, group)
        return await future

    def __len__(self) -> int:
        return len(self._groups)

    def _send_if_complete(self, key: Key, group: _Group) -> None:
        waiting = [(sibling, future) for sibling, future in group.waiting if not future.done()]
        if waiting and len(waiting) >= group.members:
            group.waiting = []
            task = asyncio.get_running_loop().create_task(self._send(key, waiting))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        elif not group.members and self._groups.get(key) is group:
            del self._groups[key]

    async def _send(self, key: Key, waiting: Sequence[tuple[Mapping[str, Any], asyncio.Future[Any]]]) -> None:
        try:
            scores = await self._score(key, [sibling for sibling, _ in waiting])
            for (_, future), score in zip(waiting, scores, strict=True):
                if not future.done():
                    future.set_result(score)
        except Exception as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)


def sibling_of(data: Any) -> dict[str, Any]:
    """Return what the reward of a group needs of a trajectory: the last row of verl's batch."""
    item = data[-1:][0]
    row = item.non_tensor_batch
    names = ("raw_prompt", "reward_model", "extra_info", "data_source", "session_id")
    return {"response_ids": response_of(item).tolist(), **{name: row.get(name) for name in names}}


def group_batch(siblings: Sequence[Mapping[str, Any]], validate: bool) -> Any:
    """Return the batch of one row that carries a group to a reward worker, its prompt once."""
    import numpy as np
    from verl import DataProto

    rows = [{name: value for name, value in sibling.items() if name != "raw_prompt"} for sibling in siblings]
    content = np.empty(1, dtype=object)
    content[0] = {"prompt": _encoded(siblings[0].get("raw_prompt")), "siblings": rows, "validate": validate}
    return DataProto(batch=None, non_tensor_batch={GROUP: content})


def _encoded(messages: Any) -> Any:
    """Return a prompt without the decoded pictures that verl puts beside their bytes."""

    def lean(part: Any) -> Any:
        if isinstance(part, Mapping) and part.get("bytes") is not None:
            return {name: value for name, value in part.items() if name != "image"}
        return part

    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [*map(lean, message["content"] or ())]}
        for message in messages or ()
    ]


CURRENT: ContextVar[Key] = ContextVar("r1reward_group")
"""The group of the sibling that runs in this task."""


class Handle:
    """Stands for verl's reward workers: a sibling that is sent here waits for its group."""

    def __init__(self, barrier: GroupBarrier) -> None:
        self._barrier = barrier
        self.compute_score = self

    def remote(self, data: Any) -> Awaitable[Any]:
        """Return the score of a trajectory once its group is scored, as Ray's `compute_score.remote` does."""
        return self._barrier.arrive(CURRENT.get(), sibling_of(data))


def barrier_of(worker: Any) -> GroupBarrier | None:
    """Return the barrier of an agent-loop worker, None where rewards are not those of groups or are not streamed."""
    if worker.config.reward.reward_manager.name != MANAGER or not worker.reward_loop_worker_handles:
        return None
    if not hasattr(worker, "_r1reward_barrier"):
        handles = list(worker.reward_loop_worker_handles)

        async def score(key: Key, siblings: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
            # The same worker for a prompt, whenever it comes: its client knows the servers.
            handle = handles[crc32(key[0].encode()) % len(handles)]
            scores: Sequence[Any] = await handle.compute_score.remote(group_batch(siblings, key[1]))
            return scores

        worker._r1reward_barrier = GroupBarrier(score)
        worker.reward_loop_worker_handles = [Handle(worker._r1reward_barrier)]
    barrier: GroupBarrier = worker._r1reward_barrier
    return barrier


# Ray sends the methods of an actor by value, and what they name of this module by reference.
async def _run_as_member(
    run_agent_loop: Callable[..., Awaitable[Any]],
    worker: Any,
    sampling_params: Any,
    trajectory: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    barrier = barrier_of(worker)
    if barrier is None:
        return await run_agent_loop(worker, sampling_params, trajectory, *args, **kwargs)
    key = str(kwargs.get("uid")), bool(trajectory["validate"])
    token = CURRENT.set(key)
    try:
        with barrier.member(key):
            return await run_agent_loop(worker, sampling_params, trajectory, *args, **kwargs)
    finally:
        CURRENT.reset(token)


def install_group_barrier(agent_loop: ModuleType) -> None:
    """Wrap `AgentLoopWorker._run_agent_loop`, once."""
    worker = agent_loop.AgentLoopWorker
    if hasattr(worker, _MARK):
        return
    setattr(worker, _MARK, True)
    run_agent_loop = worker._run_agent_loop

    @functools.wraps(run_agent_loop)
    async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await _run_as_member(run_agent_loop, self, *args, **kwargs)

    worker._run_agent_loop = wrapped
