"""Presets of `r1reward eval run`: what a judge is asked and how it is read, and where prompts of others come from."""

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmark_files import write
from chat_server import Answer, ChatServer, completion
from r1reward_verl.cli import main
from r1reward_verl.evaluation.presets import PRESETS, load_prompt, prompt_in_code
from r1reward_verl.evaluation.reading import READINGS, read_judgement
from r1reward_verl.evaluation.run import EvaluateSettings
from r1reward_verl.evaluation.scoring import hints
from r1reward_verl.judgement import PROMPT, build_prompt
from r1reward_verl.recipes import data_section

SCRIPT = '''
import os
"""Asks {question} only."""
def make(prompt, chosen, rejected):
    template = (
        "Compare. Braces: {{}}.\\n"
        "Q: {question}\\nFirst: {answer1}\\n"
        "Second: {answer2}"
    )
    os._exit(3)
    return template.format(question=prompt, answer1=chosen, answer2=rejected)
'''
SCRIPT_TEMPLATE = "Compare. Braces: {}.\nQ: {question}\nFirst: {response_1}\nSecond: {response_2}"
F_STRING = 'text = ("Look at {this}. " f"Q: [{Query}] A: [{R1}] B: [{R2}]")'


@pytest.mark.parametrize(
    ("text", "words", "verdict"),
    [
        ("<think>t</think><answer>1</answer>", 1, 1),
        ("<think>t</think>\n<answer>Answer 2 is better</answer>", 2, 2),
        ("<answer>Image 1 is better.</answer>", 1, 1),
        ("<answer>B</answer>", 2, 2),
        ("<answer>1/2</answer>", None, None),
        ("<answer>1 is worse</answer>", None, None),
        ("<answer>neither</answer> Answer 1 is better", None, None),
        ("Response 2 is good.\nVerdict: 1", None, 1),
        ("**Verdict:** 2", None, 2),
        ("My final verdict is: [[B]]", None, 2),
        (r"So \boxed{1}.", None, 1),
        ("Overall Judgment: Answer 2 is slightly better.", None, 2),
        ("Answer 1 is better at first sight. Verdict: 2", None, 2),
        ("Verdict: 1 or 2", None, None),
        ("Response 1 is a better one than most. I cannot say.", None, None),
        ("", None, None),
    ],
)
def test_forms_of_other_judges(text, words, verdict):
    assert read_judgement(text, "answer_words").choice == words
    assert read_judgement(text, "verdict").choice == verdict
    assert (read_judgement(text, "verdict").reason is None) == (verdict is not None)


@pytest.mark.parametrize("text", ["Answer 1 ", "better ", "<answer>", "verdict:", "Answer" + 9 * " ", "[[", "1 is "])
def test_reading_takes_linear_time(text):
    start = time.process_time()
    for reading in READINGS:
        read_judgement(text * 30_000, reading)
    assert time.process_time() - start < 5


def test_an_unknown_reading_is_refused():
    with pytest.raises(ValueError, match="the reading is 'kind'; known: strict, answer_tag"):
        read_judgement("", "kind")


def test_a_prompt_is_found_in_code_and_the_code_does_not_run(tmp_path):
    assert prompt_in_code(SCRIPT) == SCRIPT_TEMPLATE
    assert prompt_in_code(F_STRING) == "Look at {this}. Q: [{question}] A: [{response_1}] B: [{response_2}]"
    assert prompt_in_code(f"# Card\n```bash\nls\n```\n```python\nno python\n```\n```python\n{F_STRING}\n```\n")
    script = tmp_path / "judge.py"
    script.write_text(SCRIPT)
    assert load_prompt("r1-reward", str(script)) == SCRIPT_TEMPLATE
    script.write_text("x = 'nothing'")
    with pytest.raises(ValueError, match=r"judge\.py: no string in it is a prompt"):
        load_prompt("r1-reward", str(script))


def test_only_our_own_wording_is_shipped():
    assert [name for name, preset in PRESETS.items() if preset.prompt] == ["contract", "plain"]
    assert load_prompt("contract", None) == PROMPT
    assert build_prompt("Q", "A", "B", load_prompt("plain", None)).endswith("Response 1:\nA\n\nResponse 2:\nB")


def test_pictures_are_bounded_as_in_training_unless_a_preset_differs():
    recipe = data_section("r1_reward")["mm_processor_kwargs"]
    how = EvaluateSettings().how
    assert (how.min_pixels, how.max_pixels) == (recipe["min_pixels"], recipe["max_pixels"])
    assert EvaluateSettings(preset="unified-reward-think").sampling.max_pixels == 12_845_056
    assert EvaluateSettings(preset="unified-reward-think", max_pixels=9_000).sampling.max_pixels == 9_000


class Hub(BaseHTTPRequestHandler):
    """A Hub that knows the card of R1-Reward."""

    def do_GET(self):
        card = f"# R1-Reward\n```python\n{SCRIPT}\n```\n".encode()
        known = self.path == "/yifanzhang114/R1-Reward/resolve/main/README.md"
        self.send_response(200 if known else 404)
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(card)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(card)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def test_the_prompt_of_a_model_comes_from_its_card_where_the_hub_can_be_reached(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = "from r1reward_verl.evaluation.presets import load_prompt; print(load_prompt('r1-reward', None))"
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, **hub}, capture_output=True, text=True)
    assert run.stdout == f"{SCRIPT_TEMPLATE}\n", run.stderr
    server.shutdown()
    server.server_close()
    offline = {**hub, "HF_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, **offline}, capture_output=True, text=True)
    assert "the Hub does not give the card of yifanzhang114/R1-Reward" in run.stderr
    assert "Give --prompt-template: a file with {question}, {response_1} and {response_2}" in run.stderr


def test_judgements_without_a_verdict_of_the_judges_own_form_are_hinted_at():
    figures = {"judgements": 100, "cut_off": 0.0, "unparsable_reasons": {"no_tags": 3, "missing_tag": 2}}
    assert hints({**figures, "lenient": "verdict"}) == [
        "5.0% of the judgements have no verdict that --lenient verdict can read"
    ]


def test_the_command_asks_and_reads_as_the_preset_says(tmp_path, capfd):
    data = write(tmp_path)["vl-rewardbench"][0]
    template = tmp_path / "judge.py"
    template.write_text(F_STRING)
    argv = ["eval", "run", "vl-rewardbench", "--data", str(data), "--media", str(tmp_path / "media"), "--model", "m"]
    argv += ["--order", "chosen-first"]
    with ChatServer(Answer(completion("<think>t</think>\n<answer>Answer 1 is better</answer>"))) as server:
        options = ["--preset", "unified-reward-think", "--prompt-template", str(template)]
        assert main([*argv, "--out", str(tmp_path / "out"), "--url", server.url, *options]) == 0
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert (metrics["accuracy"], metrics["unparsable"], metrics["unparsable_reasons"]) == (1.0, 0.0, {})
        assert metrics["reference"]["accuracy"] == 1.0, (
            "the reference reads numbers alone, which this judge never writes"
        )
        first = server.requests[0].body
        assert first["max_tokens"] == 4096
        assert [part["type"] for part in first["messages"][0]["content"]] == ["image_url", "text"]
        assert first["messages"][0]["content"][1]["text"].startswith("Look at {this}. Q: [")
        strictly = [*argv, "--out", str(tmp_path / "strict"), "--url", server.url, *options, "--lenient", "strict"]
        assert main([*strictly, "--media-position", "after"]) == 0
        assert json.loads((tmp_path / "strict" / "metrics.json").read_text())["unparsable"] == 1.0
        assert [part["type"] for part in server.requests[-1].body["messages"][0]["content"]] == ["text", "image_url"]
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (about["about"]["preset"], about["about"]["lenient"]) == ("unified-reward-think", "answer_words")
    assert about["settings"]["max_pixels"] == 12_845_056
    capfd.readouterr()
    with ChatServer(Answer(completion("Both are fine.\nVerdict: 1"))) as server:
        assert main([*argv, "--out", str(tmp_path / "plain"), "--url", server.url, "--preset", "plain"]) == 0
        assert "Verdict: 2" in server.requests[0].body["messages"][0]["content"][1]["text"]
    assert json.loads((tmp_path / "plain" / "metrics.json").read_text())["accuracy"] == 1.0
