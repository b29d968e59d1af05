"""The reward manager `pairwise`, as verl's reward workers use it."""

import asyncio

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from chat_server import ChatServer
from factories import png
from r1reward_verl.plugin.group_barrier import group_batch
from r1reward_verl.plugin.pairwise_manager import PairwiseRewardManager, no_rule, question_in_messages
from reward_server import pair_of, reward_model


class Tokenizer:
    """Letters are tokens; 0 ends a text."""

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return "".join(chr(one) for one in ids if one)


@pytest.fixture
def server():
    with ChatServer(reward_model()) as running:
        yield running


def manager(url, compute_score=None, router=None, **section):
    pairwise = {"model": {"urls": [url] if url else []}, **section}
    config = OmegaConf.create({"reward": {"pairwise": pairwise}, "actor_rollout_ref": {"rollout": {"n": 2}}})
    return PairwiseRewardManager(config, Tokenizer(), compute_score, reward_router_address=router)


def sibling(text, prompt="Which?", **row):
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    fields = {"reward_model": {"ground_truth": ""}, "extra_info": {}, "data_source": "mine", **row}
    return {"response_ids": [ord(letter) for letter in text] + [0], "raw_prompt": messages, **fields}


def scored(url, siblings, validate=False, **options):
    async def run():
        return await manager(url, **options).run_single(group_batch(siblings, validate))

    return asyncio.run(run())


def test_a_group_gets_one_reward_for_each_sibling(server):
    found = scored(server.url, [sibling(text) for text in ("quality 1", "quality 3", "quality 2")])
    assert [one["reward_score"] for one in found] == [0.0, 1.0, 0.5]
    assert [one["reward_extra_info"]["response_tokens"] for one in found] == [10.0] * 3
    assert len({tuple(one["reward_extra_info"]) for one in found}) == 1


def test_validation_uses_the_rows_reference_answer(server):
    (one,) = scored(server.url, [sibling("quality 1", reward_model={"ground_truth": "quality 3"})], True)
    assert (one["reward_score"], one["reward_extra_info"]["rank_status"]) == (0.0, "reference")
    (one,) = scored(server.url, [sibling("quality 1", reward_model={"ground_truth": 3})], True)
    assert one["reward_extra_info"]["rank_status"] == "neutral"


def test_a_single_trajectory_is_scored_by_itself(server):
    from verl import DataProto

    row = sibling("quality 9", reward_model={"ground_truth": "quality 3"})
    ids = torch.tensor([row.pop("response_ids")])
    non_tensors = {}
    for name, value in row.items():
        non_tensors[name] = np.empty(1, dtype=object)
        non_tensors[name][0] = value
    tensors = {"prompts": torch.tensor([[1]]), "responses": ids, "attention_mask": torch.ones(1, 1 + ids.shape[1])}

    async def run():
        return await manager(server.url).run_single(DataProto.from_dict(tensors=tensors, non_tensors=non_tensors))

    assert asyncio.run(run())["reward_score"] == 1.0


@pytest.mark.parametrize("kind", ["plain", "async", "dict"])
def test_a_rule_reward_is_added(server, kind):
    seen = []

    def rule(data_source, solution_str, ground_truth, extra_info):
        seen.append((data_source, solution_str, ground_truth, extra_info))
        score = float("3" in solution_str)
        return {"score": score} if kind == "dict" else score

    async def slow(**given):
        return rule(**given)

    found = scored(
        server.url,
        [sibling("quality 1", extra_info={"index": 4}), sibling("quality 3")],
        compute_score=slow if kind == "async" else rule,
        rule_weight=0.5,
    )
    assert [one["reward_score"] for one in found] == [0.0, 1.5]
    assert ("mine", "quality 1", "", {"index": 4}) in seen
    assert scored(server.url, [sibling("1"), sibling("2")], compute_score=rule)[1]["reward_score"] == 1.0
    assert len(seen) == 2, "without a weight no rule is asked"


def test_what_cannot_be_read_is_told_not_raised(server):
    prompt = [{"role": "user", "content": [{"type": "image", "image": "http://host/a.png"}]}]
    found = scored(server.url, [sibling("1", prompt), sibling("2", prompt)])
    assert [one["reward_score"] for one in found] == [0.5, 0.5]
    assert "nothing is fetched" in found[0]["reward_extra_info"]["group_error"]
    assert not server.requests


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image"},
        {"type": "image", "image_url": "data:image/png;base64,AAAA"},
        {"type": "video"},
        {"type": "audio", "audio": b"x"},
        {"type": "image_url", "image_url": {"url": "http://host"}},
    ],
)
def test_parts_of_other_forms_are_told_and_nothing_hangs(server, part):
    prompt = [{"role": "user", "content": [part, {"type": "text", "text": "Which?"}]}]
    found = scored(server.url, [sibling("1", prompt), sibling("2", prompt)])
    assert {one["reward_extra_info"]["rank_status"] for one in found} == {"failed"}
    assert "cannot be shown to the reward model" in found[0]["reward_extra_info"]["group_error"]


def test_a_rule_that_raises_fails_its_group_and_is_logged(server, caplog):
    def rule(**_):
        raise NotImplementedError("no such data source")

    found = scored(server.url, [sibling("1"), sibling("2")], compute_score=rule, rule_weight=1.0)
    assert [one["reward_score"] for one in found] == [0.5, 0.5]
    assert found[0]["reward_extra_info"]["group_error"] == "NotImplementedError: no such data source"
    assert "could not be rewarded" in caplog.text


def test_missing_siblings_are_logged_once(server, caplog):
    async def run():
        rewards = manager(server.url)
        for _ in range(2):
            await rewards.run_single(group_batch([sibling("1")], False))
        await rewards.run_single(group_batch([sibling("1")], True))

    asyncio.run(run())
    assert caplog.text.count("a group has 1 of 2 rollouts") == 1


def test_prompts_become_questions_with_their_media():
    question = question_in_messages([{"role": "user", "content": "<image>Which?"}])
    assert (question.text, question.images) == ("Which?", ())
    decoded = Image.new("RGB", (2, 2))
    parts = [
        {"type": "image", "image": decoded, "bytes": png()},
        {"type": "text", "text": "Which "},
        {"type": "image", "image": decoded},
        {"type": "text", "text": "one?"},
        {"type": "video", "video": [decoded, decoded]},
    ]
    question = question_in_messages([{"role": "user", "content": parts}])
    assert (question.text, len(question.images), [len(video) for video in question.videos]) == ("Which one?", 2, [2])
    assert question.images[0].data == png()
    turns = [("system", "Be brief."), ("user", "Hi."), ("assistant", "Yes?"), ("user", "Why?")]
    question = question_in_messages([{"role": role, "content": text} for role, text in turns])
    assert question.text == "System: Be brief.\n\nUser: Hi.\n\nAssistant: Yes?\n\nUser: Why?"


def test_the_picture_of_a_prompt_is_sent_with_every_comparison(server):
    prompt = [{"role": "user", "content": [{"type": "image", "bytes": png()}, {"type": "text", "text": "Which?"}]}]
    scored(server.url, [sibling("1", prompt), sibling("2", prompt), sibling("3", prompt)])
    kinds = [[part["type"] for part in request.body["messages"][0]["content"]] for request in server.requests]
    assert kinds == [["image_url", "text"]] * 3
    assert len({pair_of(request) for request in server.requests}) == 3


def test_a_model_that_verl_serves_is_reached_by_the_router_until_its_replicas_are_known(server):
    served = {"model": {"name": "pool", "urls": []}}
    made = manager("", router="127.0.0.1:9", **served)
    assert made.settings.model.urls == ["http://127.0.0.1:9/v1"]
    with pytest.raises(ValueError, match="urls is empty"):
        manager("", **served)
    assert asyncio.run(no_rule("x", solution_str="y")) == 0.0
