"""The examples run as they are and say what the documentation says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chat_server import Answer, ChatServer, completion
from factories import free_port, png
from reward_server import pair_of, reward_model

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def rewards():
    with ChatServer(reward_model()) as server:
        yield server


def output_of(example, *arguments, **environment):
    command = [*([sys.executable] if example.endswith(".py") else []), EXAMPLES / example, *arguments]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **environment}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_source_of_ones_own_runs():
    assert output_of("data_source.py")


def test_judgements_earn_what_the_paper_gives_them():
    output = output_of("score_judgements.py")
    rewards = [line.split("reward ")[1].split()[0] for line in output.splitlines() if "reward " in line]
    assert rewards == ["2.0", "1.0", "0.5", "0.0"]


def test_best_of_n_keeps_the_answer_that_the_reward_model_prefers(rewards, tmp_path):
    answers = [f"quality {n}" for n in (3, 9, 1, 4)]

    def chat(request):
        assert request.body["n"] == 4
        choices = [{**completion(text)["choices"][0], "index": index} for index, text in enumerate(answers)]
        return Answer({"choices": choices})

    (tmp_path / "q.png").write_bytes(png())
    with ChatServer(chat) as server:
        output = output_of(
            "best_of_n.py",
            *("--chat", server.url, "--reward-model", rewards.url, "--image", tmp_path / "q.png"),
            *("-n", "4", "Which?"),
        )
    assert output.splitlines()[-1] == "best: quality 9"
    assert [line[-1] for line in output.splitlines()[:4]] == ["9", "4", "3", "1"]


def test_a_preference_file_is_cleaned(rewards, tmp_path):
    rows = [{"prompt": f"Q{n}?", "chosen": f"quality {5 if n else 1}", "rejected": "quality 3"} for n in range(4)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output_of("clean_preferences.sh", tmp_path / "p.jsonl", tmp_path / "out", rewards.url)
    kept = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert [row["prompt"][0]["content"] for row in kept] == ["Q1?", "Q2?", "Q3?"]


def test_clips_are_compared_by_their_frames(rewards, tmp_path):
    for clip, frames in (("one", 3), ("other", 12)):
        (tmp_path / clip).mkdir()
        for number in range(frames):
            (tmp_path / clip / f"{number}.png").write_bytes(png())
    rewards.script = reward_model(lambda one, other: 1 if "Clip 2" in one else 2)
    arguments = ["a dog", tmp_path / "one", tmp_path / "other", "--reward-model", rewards.url]
    assert output_of("video_relevance.py", *arguments).startswith("clip 2, P(clip 1) = 0.0")
    shown = [part["type"] for part in rewards.requests[0].body["messages"][0]["content"]]
    assert shown.count("image_url") == 3 + 8, "at most eight frames of a clip"


def test_trl_trains_a_policy_with_the_reward_model(rewards, tmp_path):
    pytest.importorskip("trl")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    letters = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(["<eos>", *sorted(letters)])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>").save_pretrained(tmp_path)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=257, num_key_value_heads=2, eos_token_id=0, **sizes)).save_pretrained(
        tmp_path
    )
    rows = [{"prompt": f"Question {n}?"} for n in range(4)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewards.script = reward_model(lambda one, other: 1 if len(one) >= len(other) else 2)
    output = output_of(
        "trl_grpo.py",
        *("--policy", tmp_path, "--reward-model", rewards.url, "--steps", "2", "--generations", "4"),
        *("--max-tokens", "8", tmp_path / "prompts.jsonl", tmp_path / "out"),
        HF_HUB_OFFLINE="1",
    )
    assert "'pairwise/comparisons': 6.0" in output
    assert re.search(r"'rewards/pairwise_reward/mean': '?0\.5", output)
    assert len({pair_of(request) for request in rewards.requests}) > 6


TRAINER = """
import concurrent.futures, json, sys, urllib.request

prompt = "<|im_start|>user\\nWhich?<|im_end|>\\n<|im_start|>assistant\\n"
option, url = sys.argv[1:]
assert option == "--remote_rm_url"


def sample(answer):  # as openrlhf/utils/agent.py posts one
    body = {"query": [prompt + answer], "prompts": [prompt], "labels": [""]}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["rewards"]


with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print("rewards", json.dumps(list(pool.map(sample, [f"quality {n}" for n in (1, 4, 2, 3)]))))
"""


def test_openrlhf_gets_the_rewards_of_a_group_from_the_service(rewards, tmp_path):
    (tmp_path / "trainer.py").write_text(TRAINER)
    command = [rewards.url, "4", sys.executable, tmp_path / "trainer.py"]
    output = output_of("openrlhf/train_with_server.sh", *command, PORT=str(free_port()))
    found = json.loads(output.split("rewards ")[1].splitlines()[0])
    assert [value for (value,) in found] == pytest.approx([0, 1, 1 / 3, 2 / 3])
