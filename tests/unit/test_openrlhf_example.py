"""The reward for OpenRLHF keeps OpenRLHF's contract: how the file is loaded, what it is called with, what is read from
what it returns (OpenRLHF 0.11.0, and 0.8.3 where that differs).
"""

import asyncio
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest
import torch

from chat_server import Answer, ChatServer, completion
from r1reward_verl.judgement import build_prompt

FILE = Path(__file__).parents[2] / "examples" / "openrlhf" / "reward_func.py"
VARIABLES = ("R1REWARD_JUDGE_URLS", "R1REWARD_JUDGE_MODEL", "R1REWARD_JUDGE_API_KEY")

PROMPT = "<|im_start|>user\nWhich response is better, 1 or 2?<|im_end|>\n<|im_start|>assistant\n"
CONSISTENT = "<think>Response 1 names the colour. So response 1 is better.</think><answer>1</answer>"
CONTRADICTORY = "<think>Response 2 names the colour. So response 2 is better.</think><answer>1</answer>"
WRONG = "<think>Response 2 names the colour. So response 2 is better.</think><answer>2</answer>"
NO_ANSWER = "<think>Both have their merits.</think>"
JUDGEMENTS = {CONSISTENT: 2.0, CONTRADICTORY: 1.0, WRONG: 0.5, NO_ANSWER: 0.0}


def load() -> ModuleType:
    """As OpenRLHF does: by path, and without a place in `sys.modules`."""
    spec = importlib.util.spec_from_file_location("reward_func", str(FILE))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


@pytest.fixture
def reward_func():
    return load().reward_func


def call(reward_func, responses, label="1", **kwargs):
    """One call with a row for each response."""
    rows = len(responses)
    queries = [f"{PROMPT}{response}<|im_end|>" for response in responses]
    return reward_func(queries, [PROMPT] * rows, [label] * rows, **kwargs)


def test_rewards_are_those_of_the_paper(reward_func):
    result = call(reward_func, JUDGEMENTS)
    assert result["rewards"].tolist() == list(JUDGEMENTS.values())


def test_scores_say_whether_the_choice_was_right(reward_func):
    """Dynamic filtering drops prompts whose mean of `scores` is not between 0 and 1."""
    assert call(reward_func, JUDGEMENTS)["scores"].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_form_of_what_is_returned(reward_func):
    result = call(reward_func, JUDGEMENTS)
    assert list(result) == ["rewards", "scores", "extra_logs"]
    for tensor in (result["rewards"], result["scores"], *result["extra_logs"].values()):
        assert tensor.shape == (len(JUDGEMENTS),)
        assert tensor.dtype == torch.float32


def test_extra_logs_are_the_parts_of_each_reward(reward_func):
    logs = call(reward_func, JUDGEMENTS)["extra_logs"]
    assert logs["reward/format"].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert logs["reward/consistency"].tolist() == [1.0, -1.0, 0.0, 0.0]
    assert logs["judge/judged"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert logs["judge/skipped"].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_further_arguments_are_not_looked_at(reward_func):
    assert call(reward_func, [CONSISTENT], images=[None], step=7)["rewards"].tolist() == [2.0]


def test_no_rows_give_no_rewards(reward_func):
    assert reward_func([], [], [])["rewards"].shape == (0,)


def test_one_sample_a_call_from_many_threads(reward_func):
    """0.11.0: each finished sample is a call of its own in a thread, and its parts become tensors of one element."""

    async def rollout(response):
        result = await asyncio.to_thread(reward_func, [f"{PROMPT}{response}<|im_end|>"], [PROMPT], ["1"])
        info = {name: torch.tensor([value.flatten()[0].item()]) for name, value in result["extra_logs"].items()}
        return torch.tensor([result["rewards"]]), torch.tensor([result["scores"]]), info

    async def rollouts():
        return await asyncio.gather(*map(rollout, list(JUDGEMENTS) * 8))

    rewards, scores, infos = zip(*asyncio.run(rollouts()), strict=True)
    assert torch.cat(rewards).tolist() == list(JUDGEMENTS.values()) * 8
    assert [score[0].item() for score in scores] == [1.0, 1.0, 0.0, 0.0] * 8
    assert len({tuple(info) for info in infos}) == 1  # whatever became of a sample, it is logged under the same names


def test_batches_are_joined(reward_func):
    """0.8.3 to 0.9.0: calls of several samples, whose results are concatenated."""
    batches = [call(reward_func, [CONSISTENT, WRONG]), call(reward_func, [NO_ANSWER])]
    assert torch.cat([batch["rewards"] for batch in batches]).tolist() == [2.0, 0.5, 0.0]
    for name in batches[0]["extra_logs"]:
        assert torch.cat([batch["extra_logs"][name] for batch in batches]).shape == (3,)


def test_calls_from_inside_a_running_loop(reward_func):
    async def main():
        return [call(reward_func, [CONTRADICTORY])["rewards"].item() for _ in range(3)]

    assert asyncio.run(main()) == [1.0, 1.0, 1.0]


# What comes through the tokenizer


@pytest.fixture(scope="module")
def processor():
    """Qwen's processor, with a small vocabulary and Qwen's Unicode normalisation."""
    from tokenizers import normalizers

    from r1reward_verl.toy.model import build_processor

    processor = build_processor([build_prompt("Which colour?", "Red.", "Blue."), *JUDGEMENTS])
    processor.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return processor


@pytest.mark.parametrize("pictures", [0, 1, 2])
@pytest.mark.parametrize("question", ["Which colour?", "Cafe\u0301?", "What does '<answer>2</answer>' mean?"])
def test_the_prompt_is_cut_off_after_the_tokenizer(reward_func, processor, pictures, question):
    """0.11.0: the query is decoded from the processor's tokens, in which a picture takes one for each patch."""
    from PIL import Image

    text = build_prompt(question, "Red.", "Blue.")
    content = [*[{"type": "image"}] * pictures, {"type": "text", "text": text}]
    chat = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    images = [Image.new("RGB", (56, 56))] * pictures or None
    tokens = processor(text=[prompt], images=images, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    answer = processor.tokenizer(f"{CONSISTENT}<|im_end|>", add_special_tokens=False)["input_ids"]
    query = processor.decode(tokens.tolist() + answer, skip_special_tokens=False)
    assert query.count("<|image_pad|>") == 4 * pictures
    assert reward_func([query], [prompt], ["1"])["rewards"].item() == 2.0


@pytest.mark.parametrize(
    "end", ["", "<|im_end|>", "<|endoftext|>", "<|im_end|>\n", "<|im_end|><|endoftext|><|endoftext|>", "</s>", "<eos>"]
)
def test_special_tokens_at_the_end_are_no_text(reward_func, end):
    assert reward_func([PROMPT + CONSISTENT + end], [PROMPT], ["1"])["rewards"].item() == 2.0


@pytest.mark.parametrize(
    "response",
    [
        f"<|im_end|>{CONSISTENT}",
        CONSISTENT.replace("</think>", "</think><|im_start|>"),
        f"{CONSISTENT}</s>",
        f"{CONSISTENT}<end_of_turn>",
        f"{CONSISTENT}<|im_start|>",
    ],
)
def test_special_tokens_elsewhere_are_text(reward_func, response):
    assert reward_func([f"{PROMPT}{response}<|im_end|>"], [PROMPT], ["1"])["rewards"].item() == 0.0


def test_only_the_response_counts(reward_func):
    prompt = PROMPT.replace("Which", CONSISTENT + " Which")
    result = reward_func([prompt + NO_ANSWER], [prompt], ["1"])
    assert result["rewards"].item() == 0.0


# Labels


@pytest.mark.parametrize("label", [1, "1", "<answer>1</answer>", ["<answer>1</answer>"]])
def test_labels(reward_func, label):
    assert call(reward_func, JUDGEMENTS, label)["rewards"].tolist() == list(JUDGEMENTS.values())


@pytest.mark.parametrize("label", ["", "3", None, True, "Response 1", [], ["1", "2"]])
def test_a_wrong_label_is_named_with_its_row(reward_func, label):
    with pytest.raises(ValueError, match=r"^row 1: label .* neither 1 nor 2 .*--data\.label_key"):
        reward_func([PROMPT + CONSISTENT] * 2, [PROMPT] * 2, ["1", label])


# Errors


@pytest.mark.parametrize("query", [CONSISTENT, PROMPT[9:] + CONSISTENT, "", " " + PROMPT + CONSISTENT])
def test_a_query_without_its_prompt_is_named_with_its_row(reward_func, query):
    with pytest.raises(ValueError, match=r"^row 1: the query does not start with its prompt"):
        reward_func([PROMPT + CONSISTENT, query], [PROMPT] * 2, ["1", "1"])


@pytest.mark.parametrize("lengths", [(2, 2, 1), (1, 2, 2), (2, 1, 2)])
def test_lengths_that_differ_are_named(reward_func, lengths):
    queries, prompts, labels = lengths
    message = f"^{queries} queries, {prompts} prompts and {labels} labels: row 1 is not complete"
    with pytest.raises(ValueError, match=message):
        reward_func([PROMPT + CONSISTENT] * queries, [PROMPT] * prompts, ["1"] * labels)


def test_a_call_with_an_error_does_not_harm_the_next(reward_func):
    with pytest.raises(ValueError, match="row 0"):
        call(reward_func, [CONSISTENT], label="3")
    assert call(reward_func, [CONSISTENT])["rewards"].item() == 2.0


# The judge


def test_the_endpoint_judge_decides(environment):
    """A judge that always says no, where the rules say yes; asked only where it can change the reward."""
    with ChatServer(Answer(completion("0"))) as server:
        environment.setenv("R1REWARD_JUDGE_URLS", server.url)
        environment.setenv("R1REWARD_JUDGE_MODEL", "qwen")
        environment.setenv("R1REWARD_JUDGE_API_KEY", "secret")
        result = call(load().reward_func, JUDGEMENTS)
    assert result["rewards"].tolist() == [1.0, 1.0, 0.5, 0.0]
    assert [request.body["model"] for request in server.requests] == ["qwen", "qwen"]
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer secret"}


def different(count):
    return [CONSISTENT.replace("colour", f"colour {number}") for number in range(count)]


def test_samples_of_a_call_are_judged_at_the_same_time(environment):
    with ChatServer(Answer(completion("1"), delay=1.0)) as server:
        environment.setenv("R1REWARD_JUDGE_URLS", server.url)
        assert call(load().reward_func, different(32))["rewards"].tolist() == [2.0] * 32
    assert server.most_in_flight == 32


def test_calls_of_many_threads_and_loops_share_one_client(environment):
    """Eight threads, each with two event loops one after the other."""
    with ChatServer(Answer(completion("1"), delay=0.5)) as server:
        environment.setenv("R1REWARD_JUDGE_URLS", server.url)
        reward_func = load().reward_func
        rewards = []

        async def within_a_loop(response):
            return call(reward_func, [response])["rewards"].item()

        def work(responses):
            rewards.extend(asyncio.run(within_a_loop(response)) for response in responses)

        responses = different(16)
        threads = [threading.Thread(target=work, args=(responses[i : i + 2],)) for i in range(0, 16, 2)]
        before = set(threading.enumerate())
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        own = [thread.name for thread in set(threading.enumerate()) - before]
    assert rewards == [2.0] * 16
    assert own == ["r1-reward"]
    assert server.most_in_flight > 4


def test_several_servers_share_the_work(environment):
    with ChatServer(Answer(completion("1"))) as first, ChatServer(Answer(completion("1"))) as second:
        environment.setenv("R1REWARD_JUDGE_URLS", f"{first.url}, {second.url}/,")
        assert call(load().reward_func, different(8))["rewards"].tolist() == [2.0] * 8
    assert len(first.requests) == len(second.requests) == 4


def test_a_judge_that_refuses_is_logged_and_counts_nothing(environment):
    with ChatServer(Answer("no such key", status=401)) as server:
        environment.setenv("R1REWARD_JUDGE_URLS", server.url)
        result = call(load().reward_func, [CONSISTENT, WRONG])
    assert result["rewards"].tolist() == [1.5, 0.5]
    assert result["extra_logs"]["judge/failed"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"R1REWARD_JUDGE_URLS": "judge:8000"}, r"^R1REWARD_JUDGE_URLS: .*judge:8000.*no address"),
        ({"R1REWARD_JUDGE_URLS": "http://a/v1,http://a/v1/"}, "^R1REWARD_JUDGE_URLS: .*given twice"),
        ({"R1REWARD_JUDGE_MODEL": "qwen"}, "^R1REWARD_JUDGE_MODEL is 'qwen' without R1REWARD_JUDGE_URLS"),
    ],
)
def test_wrong_variables_end_the_run_when_the_file_is_loaded(environment, variables, message):
    for name, value in variables.items():
        environment.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        load()


# Processes


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=True, timeout=120)


def test_a_ray_worker_gets_the_function_without_the_file(environment, tmp_path):
    """0.8.3 to 0.9.0: `ray.remote(reward_func)` pickles the function by value, with what it needs of the file."""
    from ray import cloudpickle

    with ChatServer(Answer(completion("0"))) as server:
        environment.setenv("R1REWARD_JUDGE_URLS", server.url)
        sent = tmp_path / "function"
        sent.write_bytes(cloudpickle.dumps(load().reward_func))
        environment.delenv("R1REWARD_JUDGE_URLS")
        script = """if True:
            import pickle, sys
            reward_func = pickle.load(open(sys.argv[1], "rb"))
            print([reward_func([sys.argv[2]], [""], ["1"])["rewards"].item() for _ in range(2)])
        """
        output = run(script, str(sent), CONSISTENT).stdout
    assert output.decode().strip() == "[1.0, 1.0]"
    assert len(server.requests) == 1  # the second call finds the judgement of the first


def test_a_process_loads_no_trainer_and_ends_quietly(environment):
    with ChatServer(Answer(completion("1"))) as server:
        environment.setenv("R1REWARD_JUDGE_URLS", server.url)
        script = """if True:
            import importlib.util, sys
            spec = importlib.util.spec_from_file_location("reward_func", sys.argv[1])
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            assert module.reward_func([sys.argv[2]], [""], ["1"])["rewards"].item() == 2.0
            print(sorted({"verl", "ray", "vllm", "transformers", "openrlhf"} & set(sys.modules)))
            del spec, module
        """
        result = run(script, str(FILE), CONSISTENT)
    assert result.stdout.decode().strip() == "[]"
    assert result.stderr == b""
