"""The reward manager inside verl: through verl's own reward loop worker, on verl's own config and data."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import verl
from hydra import compose, initialize_config_dir
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.trainer.ppo.metric_utils import process_validation_metrics

import r1reward_verl.plugin.reward_manager  # noqa: F401  (registers the manager)
from chat_server import Answer, ChatServer, completion

RIGHT = "<think>So response 1 is better.</think><answer>1</answer>"
RIGHT_INCONSISTENT = "<think>So response 2 is better.</think><answer>1</answer>"
WRONG = "<think>So response 2 is better.</think><answer>2</answer>"
MALFORMED = "So response 1 is better: <answer>1</answer>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> PreTrainedTokenizerFast:
    """Byte-level, so that every text comes back letter by letter."""
    vocab = {token: i for i, token in enumerate(["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
    folder = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def worker(tokenizer):
    def build(*overrides: str, router: str | None = None) -> RewardLoopWorker:
        with initialize_config_dir(str(Path(verl.__file__).parent / "trainer/config"), version_base=None):
            config = compose(
                "ppo_trainer",
                overrides=[
                    f"actor_rollout_ref.model.path={tokenizer.name_or_path}",
                    "reward.reward_manager.name=r1_reward",
                    *overrides,
                ],
            )
        return RewardLoopWorker(config, router)

    return build


def batch(tokenizer, texts: list[str], labels: list, rows: list[dict] | None = None) -> DataProto:
    """Left-padded prompts, right-padded responses that end in <eos>, as verl's rollout leaves them."""
    prompt_length = 4
    responses = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
    width = max(map(len, responses)) + 3
    padded = torch.tensor([r + [tokenizer.pad_token_id] * (width - len(r)) for r in responses])
    mask = torch.tensor([[0, 1, 1, 1] + [1] * len(r) + [0] * (width - len(r)) for r in responses])
    rows = rows or [{"index": i} for i in range(len(texts))]
    return DataProto.from_dict(
        tensors={
            "prompts": torch.ones(len(texts), prompt_length).long(),
            "responses": padded,
            "attention_mask": mask,
        },
        non_tensors={
            "data_source": np.array(["toy"] * len(texts), dtype=object),
            "reward_model": np.array([{"style": "rule", "ground_truth": label} for label in labels], dtype=object),
            "extra_info": np.array(rows, dtype=object),
        },
    )


def score(worker: RewardLoopWorker, data: DataProto) -> list[dict]:
    return worker.loop.run_until_complete(worker.compute_score_batch(data))


def test_a_special_token_anywhere_but_at_the_end_is_a_fault_of_format(worker, tokenizer):
    """With such tokens left out before the check, the text would be a perfect judgement."""
    texts = [RIGHT.replace("</think>", "</think><eos>"), "<pad>" + RIGHT, RIGHT + "<eos>", RIGHT]
    data = batch(tokenizer, texts, ["1"] * 4)
    assert (data.batch["responses"][0] == tokenizer.eos_token_id).sum() == 2
    assert [output["reward_score"] for output in score(worker(), data)] == [0.0, 0.0, 0.0, 2.0]


def test_scores_and_named_parts_with_the_papers_defaults(worker, tokenizer):
    outputs = score(worker(), batch(tokenizer, [RIGHT, RIGHT_INCONSISTENT, WRONG, MALFORMED, ""], ["1"] * 5))
    assert [output["reward_score"] for output in outputs] == [2.0, 1.0, 0.5, 0.0, 0.0]
    names = ("score", "acc", "result", "format", "consistency", "judged", "unparsable", "pred")
    assert [tuple(output["reward_extra_info"][name] for name in names) for output in outputs] == [
        (2.0, 1, 1, 1, 1, 1, 0, "1"),
        (1.0, 1, 1, 1, -1, 1, 0, "1"),
        (0.5, 0, 0, 1, 0, 0, 0, "2"),
        (0.0, 0, 0, 0, 0, 0, 1, ""),
        (0.0, 0, 0, 0, 0, 0, 1, ""),
    ]


def test_every_sample_has_the_same_keys_and_plain_values(worker, tokenizer):
    outputs = score(worker(), batch(tokenizer, [RIGHT, WRONG, MALFORMED], ["1", 1, "<answer>1</answer>"]))
    infos = [output["reward_extra_info"] for output in outputs]
    assert len({tuple(info) for info in infos}) == 1
    assert json.loads(json.dumps(infos)) == infos
    assert all(np.array([info[key] for info in infos]).dtype.kind in "fU" for key in infos[0])


def test_what_the_figures_of_validation_need_is_there(worker, tokenizer):
    rows = [{"index": 0, "pair_id": "s/1", "order": 0}, {"index": 1, "pair_id": 7}, {"index": 2, "pair_id": None}, {}]
    data = batch(tokenizer, [RIGHT, RIGHT_INCONSISTENT, WRONG, MALFORMED], ["<answer>1</answer>", 1, "1", "1"], rows)
    infos = [output["reward_extra_info"] for output in score(worker("+reward.r1_reward.judge.name=none"), data)]
    names = ("label", "pair_id", "supported", "response_tokens", "reasoning_characters")
    think = len("So response 1 is better.")
    assert [tuple(info[name] for name in names) for info in infos] == [
        ("1", "s/1", 1, len(RIGHT) + 1, think),  # the end of the sequence is a token too, as in the evaluation
        ("1", "7", 0, len(RIGHT) + 1, think),
        ("1", "", 1, len(WRONG) + 1, think),  # wrong, and its reasoning says the same
        ("1", "", 0, len(MALFORMED) + 1, len("So response 1 is better: ")),
    ]


def test_verls_validation_reports_accuracy_and_the_majority_vote(worker, tokenizer):
    texts = [RIGHT, RIGHT_INCONSISTENT, WRONG, WRONG, WRONG, RIGHT]
    outputs = score(worker(), batch(tokenizer, texts, ["1"] * 6))
    infos = {key: [o["reward_extra_info"][key] for o in outputs] for key in outputs[0]["reward_extra_info"]}
    metrics = process_validation_metrics(["toy"] * 6, ["a"] * 3 + ["b"] * 3, infos)["toy"]
    assert metrics["acc"]["mean@3"] == pytest.approx(0.5)
    assert 0 < metrics["acc"]["maj@3/mean"] < 1
    assert metrics["consistency"]["mean@3"] == pytest.approx((1 - 1 + 0 + 0 + 0 + 1) / 6)
    assert not {"pred", "label", "pair_id"} & set(metrics)


def test_settings_are_taken_from_the_config(worker, tokenizer):
    data = batch(tokenizer, [RIGHT, MALFORMED], ["1", "1"])
    outputs = score(worker("+reward.r1_reward={consistency_weight: 0.25, format_weight: 1, lenient: answer_tag}"), data)
    assert [output["reward_score"] for output in outputs] == [1 + 0.25 + 1, 1 + 0.25]
    outputs = score(worker("+reward.r1_reward.judge.name=none"), data)
    assert [output["reward_score"] for output in outputs] == [1.5, 0.0]
    assert outputs[0]["reward_extra_info"]["judged"] == 0


def test_the_last_turn_of_a_trajectory_is_scored(worker, tokenizer):
    # As verl's agent loop pads it: the mask of each turn is left-aligned over prompt and response together.
    data = batch(tokenizer, [WRONG * 3, RIGHT], ["1", "1"])
    lengths = [len(tokenizer.encode(text)) + 1 for text in (WRONG * 3, RIGHT)]
    total = data.batch["attention_mask"].shape[1]
    data.batch["attention_mask"] = torch.tensor([[1] * (4 + n) + [0] * (total - 4 - n) for n in lengths])
    data.non_tensor_batch["response_len"] = np.array(lengths)
    output = asyncio.get_event_loop_policy().get_event_loop().run_until_complete(worker().compute_score(data))
    assert output["reward_score"] == 2.0


@pytest.mark.parametrize("label", ["3", None, "yes"])
def test_a_wrong_label_names_value_row_and_source(worker, tokenizer, label):
    data = batch(tokenizer, [RIGHT], [label], rows=[{"index": 17}])
    with pytest.raises(ValueError, match=f"row 17 of data source 'toy': label {label!r} is neither 1 nor 2"):
        score(worker(), data)


def test_an_unknown_setting_ends_before_the_first_sample(worker):
    with pytest.raises(ValueError, match=r"unknown setting reward\.r1_reward\.weight"):
        worker("+reward.r1_reward.weight=1")


def test_a_judge_that_verl_serves_is_asked_through_its_router(worker, tokenizer):
    served = ["reward.reward_model.enable=true", f"reward.reward_model.model_path={tokenizer.name_or_path}"]
    served += ["reward.custom_reward_function.path=pkg://r1reward_verl.rewards.function"]
    with ChatServer(Answer(completion("0"))) as server:
        router = server.url.removeprefix("http://").removesuffix("/v1")
        loop = worker("+reward.r1_reward.judge.name=pool", *served, router=router)
        outputs = score(loop, batch(tokenizer, [RIGHT, WRONG], ["1", "1"]))
    assert [output["reward_score"] for output in outputs] == [1.0, 0.5]
    assert [request.body["model"] for request in server.requests] == ["judge"]  # the one that is listed


def test_the_replicas_addresses_come_before_the_router(worker, tokenizer):
    served = ["reward.reward_model.enable=true", f"reward.reward_model.model_path={tokenizer.name_or_path}"]
    served += ["reward.custom_reward_function.path=pkg://r1reward_verl.rewards.function"]
    with ChatServer(Answer(completion("0"))) as server:
        judge = f"+reward.r1_reward.judge={{name: pool, urls: ['{server.url}']}}"
        (output,) = score(worker(judge, *served, router="127.0.0.1:1"), batch(tokenizer, [RIGHT], ["1"]))
    assert output["reward_score"] == 1.0
    assert len(server.requests) == 1
