"""The siblings of a prompt wait for each other, whatever becomes of them."""

import asyncio
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from r1reward_verl.plugin.group_barrier import (
    GROUP,
    GroupBarrier,
    barrier_of,
    group_batch,
    install_group_barrier,
    sibling_of,
)


class Boom(Exception):
    pass


def barrier(groups, error=None):
    """A barrier that keeps what it was given to score, and numbers the siblings."""

    async def score(key, siblings):
        await asyncio.sleep(0)
        groups.append((key, [sibling["n"] for sibling in siblings]))
        if error:
            raise error
        return [(key, sibling["n"], len(siblings)) for sibling in siblings]

    return GroupBarrier(score)


async def sibling(gate, key, number, *, pause=0.0, fate="score"):
    with gate.member(key):
        await asyncio.sleep(pause)
        if fate == "fail":
            raise Boom(number)
        if fate == "skip":
            return None
        return await gate.arrive(key, {"n": number})


def run(work):
    return asyncio.run(asyncio.wait_for(work, 20))


def test_siblings_are_scored_together_once_all_have_arrived():
    groups = []

    async def main():
        gate = barrier(groups)
        tasks = [sibling(gate, ("a", False), n, pause=0.01 * n) for n in range(4)]
        other = [sibling(gate, ("b", False), n) for n in range(2)]
        scores = await asyncio.gather(*tasks, *other)
        return scores, len(gate)

    scores, left = run(main())
    assert groups == [(("b", False), [0, 1]), (("a", False), [0, 1, 2, 3])], "no group waits for another"
    assert scores[:4] == [(("a", False), n, 4) for n in range(4)]
    assert left == 0


@pytest.mark.parametrize("fate", ["fail", "skip"])
@pytest.mark.parametrize("late", [True, False])
def test_siblings_that_never_arrive_are_not_waited_for(fate, late):
    groups = []

    async def main():
        gate = barrier(groups)
        tasks = [sibling(gate, ("a", True), n, pause=0.01) for n in range(3)]
        tasks.append(sibling(gate, ("a", True), 3, pause=0.05 if late else 0.0, fate=fate))
        return await asyncio.gather(*tasks, return_exceptions=True), len(gate)

    scores, left = run(main())
    assert groups == [(("a", True), [0, 1, 2])]
    assert [score[2] for score in scores[:3]] == [3, 3, 3]
    assert isinstance(scores[3], Boom) if fate == "fail" else scores[3] is None
    assert left == 0


def test_a_single_response_is_a_group():
    groups = []
    assert run(sibling(barrier(groups), ("a", True), 0)) == (("a", True), 0, 1)


def test_training_and_validation_of_one_prompt_are_two_groups():
    groups = []

    async def main():
        gate = barrier(groups)
        keys = [("a", False), ("a", False), ("a", True)]
        await asyncio.gather(*(sibling(gate, key, n) for n, key in enumerate(keys)))

    run(main())
    assert sorted(groups) == [(("a", False), [0, 1]), (("a", True), [2])]


def test_what_scoring_raises_reaches_every_sibling():
    async def main():
        gate = barrier([], Boom("no worker"))
        tasks = [sibling(gate, ("a", False), n) for n in range(3)]
        return await asyncio.gather(*tasks, return_exceptions=True), len(gate)

    raised, left = run(main())
    assert [type(one) for one in raised] == [Boom] * 3
    assert left == 0


def test_cancelled_siblings_are_not_waited_for():
    groups = []

    async def main():
        gate = barrier(groups)
        tasks = [asyncio.create_task(sibling(gate, ("a", False), n, pause=0.03 * (n == 2))) for n in range(3)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True), len(gate)

    scores, left = run(main())
    assert isinstance(scores[0], asyncio.CancelledError)
    assert [score[1:] for score in scores[1:]] == [(1, 2), (2, 2)]
    assert left == 0


def test_hundreds_of_groups_with_random_fates_leave_nothing_over():
    groups, rng = [], random.Random(0)

    async def main():
        gate = barrier(groups)
        tasks, arriving = [], 0
        for uid in range(500):
            for number in range(rng.choice([1, 2, 4, 8])):
                fate = rng.choice(["score"] * 6 + ["fail", "skip"])
                arriving += fate == "score"
                work = sibling(gate, (str(uid), rng.random() < 0.0), number, pause=rng.random() / 50, fate=fate)
                tasks.append(work)
        scores = await asyncio.gather(*tasks, return_exceptions=True)
        return scores, arriving, len(gate)

    scores, arriving, left = run(main())
    assert sum(isinstance(score, tuple) for score in scores) == arriving
    assert len({key for key, _ in groups}) == len(groups), "no group is scored in parts"
    assert left == 0


# verl's side


def batch(response=(5, 6, 7), pad=2, **row):
    """A trajectory as verl's agent loop hands it to a reward worker."""
    from verl import DataProto

    tokens = torch.tensor([[*response, *[0] * pad]])
    mask = torch.tensor([[1, 1, *[1] * len(response), *[0] * pad]])
    fields = {"raw_prompt": [{"role": "user", "content": "Q?"}], "reward_model": {"ground_truth": "A"}, **row}
    non_tensors = {}
    for name, value in fields.items():
        non_tensors[name] = np.empty(1, dtype=object)
        non_tensors[name][0] = value
    tensors = {"prompts": torch.tensor([[1, 2]]), "responses": tokens, "attention_mask": mask}
    return DataProto.from_dict(tensors=tensors, non_tensors=non_tensors)


def test_a_sibling_is_its_tokens_and_its_row():
    sibling = sibling_of(batch(data_source="mine", session_id=3))
    assert sibling["response_ids"] == [5, 6, 7]
    assert (sibling["data_source"], sibling["session_id"], sibling["extra_info"]) == ("mine", 3, None)
    assert sibling_of(batch(response_len=2))["response_ids"] == [5, 6]


class Worker:
    """What the barrier sees of verl's agent-loop worker."""

    def __init__(self, manager, handles):
        self.config = SimpleNamespace(reward=SimpleNamespace(reward_manager=SimpleNamespace(name=manager)))
        self.reward_loop_worker_handles = handles

    async def _run_agent_loop(self, sampling_params, trajectory, *, agent_name, trace=True, **kwargs):
        handle = random.choice(self.reward_loop_worker_handles)
        return await handle.compute_score.remote(batch(session_id=kwargs["session_id"]))


class Reward:
    """A reward worker."""

    def __init__(self):
        self.compute_score = self
        self.seen = []

    def remote(self, data):
        self.seen.append(data)
        future = asyncio.get_running_loop().create_future()
        siblings = data.non_tensor_batch[GROUP][0]["siblings"] if GROUP in data.non_tensor_batch else [None]
        future.set_result([f"score of {one and one['session_id']}" for one in siblings])
        return future


def agent_loop():
    class AgentLoopWorker(Worker):
        _run_agent_loop = Worker._run_agent_loop

    module = SimpleNamespace(AgentLoopWorker=AgentLoopWorker)
    install_group_barrier(module)
    install_group_barrier(module)
    return AgentLoopWorker


def test_a_prompts_siblings_reach_one_reward_worker_as_a_group():
    worker_class, rewards = agent_loop(), [Reward(), Reward(), Reward()]
    worker = worker_class("pairwise", rewards)

    async def main():
        return await asyncio.gather(
            *(
                worker._run_agent_loop({}, {"validate": False}, agent_name="single", uid=uid, session_id=n)
                for uid in "xyz"
                for n in range(4)
            )
        )

    scores = run(main())
    assert scores == [f"score of {n}" for _ in "xyz" for n in range(4)]
    groups = [data.non_tensor_batch[GROUP][0] for reward in rewards for data in reward.seen]
    assert sorted(len(group["siblings"]) for group in groups) == [4, 4, 4]
    assert [group["validate"] for group in groups] == [False] * 3


@pytest.mark.parametrize(("manager", "handles"), [("naive", [Reward()]), ("pairwise", None)])
def test_other_rewards_and_colocated_models_are_left_alone(manager, handles):
    worker = agent_loop()(manager, handles)
    assert barrier_of(worker) is None
    assert worker.reward_loop_worker_handles is handles
    if handles:
        kwargs = {"agent_name": "single", "uid": "x", "session_id": 0}
        assert run(worker._run_agent_loop({}, {"validate": True}, **kwargs)) == ["score of None"]
        assert GROUP not in handles[0].seen[0].non_tensor_batch


def test_the_barrier_can_be_sent_to_an_actor():
    import cloudpickle

    worker_class = agent_loop()
    method = cloudpickle.loads(cloudpickle.dumps(worker_class._run_agent_loop))
    worker = worker_class("pairwise", [Reward()])
    kwargs = {"agent_name": "single", "uid": "x", "session_id": 1}
    assert run(method(worker, {}, {"validate": True}, **kwargs)) == "score of 1"


def test_a_group_carries_its_prompt_once_and_pictures_as_their_bytes_alone():
    picture = {"type": "image", "image": object(), "bytes": b"png", "path": None}
    prompt = [{"role": "user", "content": [picture, {"type": "text", "text": "Q?"}]}, {"role": "user", "content": "x"}]
    siblings = [{"response_ids": [number], "raw_prompt": prompt} for number in range(2)]
    content = group_batch(siblings, True).non_tensor_batch[GROUP][0]
    assert content["siblings"] == [{"response_ids": [0]}, {"response_ids": [1]}]
    assert content["prompt"][0]["content"][0] == {"type": "image", "bytes": b"png", "path": None}
    assert content["prompt"][1] == prompt[1]
    assert content["validate"] is True
    assert "image" in picture, "verl's own rows stay as they are"
