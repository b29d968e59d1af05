"""Rewards of groups of siblings, by a reward model behind a real server."""

import asyncio
import math

import pytest

from chat_server import Answer, ChatServer
from factories import free_port
from r1reward_verl.media import Media
from r1reward_verl.use.comparison import Question
from r1reward_verl.use.group import GroupReward, GroupSettings, SiblingResponse, group_failure, group_metrics
from reward_server import pair_of, reward_model

QUESTION = Question("Which?")


@pytest.fixture
def server():
    with ChatServer(reward_model()) as running:
        yield running


def settings(url, **section):
    model = {"urls": [url], **section.pop("model", {})}
    return GroupSettings.from_config({"model": model, **section})


def rewarded(url, texts, reference=None, *, validate=False, tokens=None, rules=None, question=QUESTION, **section):
    chosen = settings(url, **section)

    async def run():
        model = chosen.load()
        siblings = [
            SiblingResponse(text, (tokens or [10] * len(texts))[n], (rules or [0.0] * len(texts))[n])
            for n, text in enumerate(texts)
        ]
        try:
            return await GroupReward(model, chosen).reward(question, siblings, reference, validate=validate)
        finally:
            await model.aclose()

    return asyncio.run(run())


def scores(*args, **kwargs):
    return [one["score"] for one in rewarded(*args, **kwargs)]


def test_siblings_get_the_share_of_comparisons_that_they_win(server):
    infos = rewarded(server.url, ["quality 1", "quality 4", "quality 3", "quality 2"])
    assert [one["score"] for one in infos] == pytest.approx([0, 1, 2 / 3, 1 / 3])
    assert {one["rank_status"] for one in infos} == {"ranked"}
    assert {(one["group_size"], one["group_comparisons"], one["group_signal"]) for one in infos} == {(4.0, 6.0, 1.0)}


@pytest.mark.parametrize(("shaping", "expected"), [("win_rate", [0, 1, 2 / 3, 1 / 3]), ("rank", [0, 1, 2 / 3, 1 / 3])])
def test_shaping(server, shaping, expected):
    assert scores(server.url, [f"quality {n}" for n in (1, 4, 3, 2)], shaping=shaping) == pytest.approx(expected)


def test_strengths_are_probabilities_around_one_half(server):
    found = scores(server.url, ["quality 1", "quality 4", "quality 3", "quality 2"], shaping="bradley_terry")
    assert found[0] < found[3] < 0.5 < found[2] < found[1] < 1
    assert sum(math.log(one / (1 - one)) for one in found) == pytest.approx(0, abs=1e-6)


def test_validation_compares_with_the_reference_answer(server):
    infos = rewarded(server.url, ["quality 7"], "quality 5", validate=True)
    assert (infos[0]["score"], infos[0]["rank_status"], len(server.requests)) == (1.0, "reference", 1)
    assert scores(server.url, ["quality 7", "quality 2"], "quality 5", validate=True) == [1.0, 0.0]


def test_training_may_compare_with_the_reference_answer_too(server):
    texts = ["quality 7", "quality 2", "quality 9"]
    infos = rewarded(server.url, texts, "quality 8", against="reference", both_orders=True)
    assert [one["score"] for one in infos] == [0.0, 0.0, 1.0]
    assert len(server.requests) == 6
    assert infos[0]["group_pairs_in_both_orders"] == 3


def test_a_response_that_is_the_reference_answer_is_as_good_as_it(server):
    infos = rewarded(server.url, ["quality 5", "quality 7"], "quality 5", validate=True)
    assert [one["score"] for one in infos] == [0.5, 1.0]
    (info,) = rewarded(server.url, ["quality 5"], "quality 5", validate=True)
    assert (info["score"], info["rank_status"], len(server.requests)) == (0.5, "reference", 1)


@pytest.mark.parametrize("reference", [None, "", "  "])
def test_a_response_without_siblings_and_reference_is_neutral(server, reference):
    (info,) = rewarded(server.url, ["quality 3"], reference, validate=True)
    assert (info["score"], info["rank_status"], info["group_comparisons"]) == (0.5, "neutral", 0.0)
    assert not server.requests


def test_equal_responses_share_their_score_and_are_shown_once(server):
    infos = rewarded(server.url, ["quality 1", "quality 2", "quality 1", "quality 2"])
    assert [one["score"] for one in infos] == [0, 1, 0, 1]
    assert len(server.requests) == 1
    infos = rewarded(server.url, ["same"] * 4)
    assert [one["score"] for one in infos] == [0.5] * 4
    assert infos[0]["group_signal"] == 0.0
    assert len(server.requests) == 1


def test_silence_loses_without_being_shown(server):
    assert scores(server.url, ["", "quality 2", " \n"]) == [0, 1, 0]
    assert not server.requests
    assert scores(server.url, ["", " "]) == [0, 0]


def test_position_bias_is_seen_in_both_orders(server):
    server.script = reward_model(lambda one, other: 1)
    infos = rewarded(server.url, ["a", "b", "c"], schedule="all_pairs", both_orders=True)
    assert [one["score"] for one in infos] == [0.5] * 3
    assert infos[0]["group_order_disagreements"] == 3
    metrics = group_metrics(infos)
    assert metrics["pairwise/order_disagreement_share"] == 1
    assert metrics["pairwise/no_signal"] == 1


def test_longer_responses_than_the_median_are_penalised(server):
    infos = rewarded(server.url, ["1", "2", "3"], tokens=[10, 15, 40], length_penalty=0.4)
    assert [one["length_penalty"] for one in infos] == pytest.approx([0, 0, 0.4])
    infos = rewarded(server.url, ["1", "2", "3"], tokens=[10, 10, 15], length_penalty=0.4)
    assert [one["length_penalty"] for one in infos] == pytest.approx([0, 0, 0.2])
    assert infos[2]["score"] == pytest.approx(0.8)


def test_rules_are_added(server):
    found = scores(server.url, ["1", "2"], rules=[1.0, 0.0], rule_weight=0.25)
    assert found == [0.25, 1.0]


def test_only_the_answer_after_the_thinking_is_shown(server):
    texts = ["<think>99</think>quality 1", "<think>0</think>quality 2"]
    assert scores(server.url, texts, after_think=True) == [0, 1]
    assert set(pair_of(server.requests[0])) == {"quality 1", "quality 2"}


def test_a_dead_server_is_told_and_neutral():
    url = f"http://127.0.0.1:{free_port()}/v1"
    infos = rewarded(url, ["a", "b", "c"], model={"timeout": 0.2, "max_wait": 0.3})
    assert [one["score"] for one in infos] == [0.5] * 3
    assert {one["rank_status"] for one in infos} == {"failed"}
    assert infos[0]["group_failed"] == infos[0]["group_comparisons"] == 3
    assert url in infos[0]["group_error"]
    failure = group_failure(group_metrics(infos), GroupSettings())
    assert failure.startswith("the reward model answered 3 of 3 comparisons of this step not at all")


def test_unreadable_judgements_leave_the_others_counted(server):
    judged = reward_model()

    def script(request):
        return (
            Answer({"choices": [{"message": {"content": "no idea"}}]}) if "2" in pair_of(request) else judged(request)
        )

    server.script = script
    infos = rewarded(server.url, ["1", "3", "4", "2"])
    assert [one["score"] for one in infos] == [0, 0.5, 1, 0], "what cannot be judged gains nothing by that"
    assert (infos[0]["group_failed"], infos[0]["group_undecided"]) == (0, 3)
    assert scores(server.url, ["1", "3", "4", "2"], shaping="rank") == pytest.approx([1 / 6, 2 / 3, 1, 1 / 6])
    assert group_failure(group_metrics(infos), GroupSettings(on_failure="fail")) is None


def test_pictures_that_cannot_be_read_are_told(server):
    infos = rewarded(server.url, ["1", "2"], question=Question("Which?", (Media(path="/nowhere.png"),)))
    assert {one["rank_status"] for one in infos} == {"failed"}
    assert "/nowhere.png" in infos[0]["group_error"]
    assert not server.requests


def test_metrics_count_groups_once(server):
    infos = rewarded(server.url, ["quality 1", "quality 2"]) + rewarded(server.url, ["quality 1", "quality 2", "x"])
    infos += rewarded(server.url, ["same", "same"])
    metrics = group_metrics(infos)
    assert metrics["pairwise/groups"] == pytest.approx(3)
    assert metrics["pairwise/comparisons"] == pytest.approx(1 + 3)
    assert metrics["pairwise/no_signal"] == pytest.approx(1 / 3)
    assert group_metrics([]) == {}
    names = set(rewarded(server.url, ["alone"])[0])
    assert names == set(infos[0]), "verl wants the same parts of every response"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"scheduel": "swiss"}, "scheduel"),
        ({"schedule": "chess"}, "chess"),
        ({"model": {"urls": "http://x"}}, "urls"),
        ({"length_penalty": -1}, "length_penalty is -1"),
        ({"max_failed_share": 2}, "max_failed_share is 2"),
        ({"comparison": {"samples": 3, "temperature": 0.0}}, "samples would be the same"),
        ({"comparison": {"prompt_template": "/nowhere.txt"}}, "/nowhere.txt"),
        ({"comparisons": 0}, "comparisons is 0"),
    ],
)
def test_wrong_settings_are_named(section, message):
    with pytest.raises((ValueError, FileNotFoundError), match=f"(reward.pairwise.*)?{message}"):
        GroupSettings.from_config(section)


def test_a_model_without_servers_is_refused():
    with pytest.raises(ValueError, match="urls is empty"):
        GroupSettings.from_config(None).load()
