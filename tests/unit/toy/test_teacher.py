"""The toy teacher: it sees what is drawn, errs as often as it is told to, and is a real server."""

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter

import pytest

from r1reward_verl.cli import main
from r1reward_verl.judgement import build_prompt, load_template, parse
from r1reward_verl.rewards.conclusions import conclusion
from r1reward_verl.rewards.terms import stated_confidence
from r1reward_verl.toy import world
from r1reward_verl.toy.teacher import MODEL, Faults, Teacher, recognise

PAIRS = world.draw_pairs(400, 7, "teacher")
SCENES = [*world.draw_pairs(400, 7, "test", "scenes"), *world.draw_pairs(200, 7, "test", "distractors")]


def prompt(pair, label):
    return build_prompt(pair.question, *pair.responses(label))


def prompt_in_words(pair, label):
    return build_prompt(pair.described, *pair.responses(label))


def test_it_recognises_every_picture():
    assert all(recognise(world.scene_png(pair)) == pair.things for pair in [*PAIRS, *SCENES])


@pytest.mark.parametrize("label", [1, 2])
def test_without_faults_it_is_right_and_says_why(label: int):
    teacher = Teacher(Faults(hurried=0, slip=0))
    for pair in [*PAIRS[:100], *SCENES]:
        verdict = parse(teacher.answer(prompt(pair, label), world.scene_png(pair), 1.0))
        assert verdict.choice == label == conclusion(verdict.think)
        assert f"The picture shows {pair.seen}." in verdict.think


def test_it_states_a_confidence_where_the_prompt_asks_for_one(pytestconfig):
    template = load_template(pytestconfig.rootpath / "examples" / "prompt_with_confidence.txt")
    stated = Counter()
    for pair in SCENES:
        asked = build_prompt(pair.question, *pair.responses(1), template)
        verdict = parse(Teacher(Faults(hurried=0, slip=0)).answer(asked, world.scene_png(pair), 1.0))
        assert conclusion(verdict.think) == verdict.choice == 1
        stated[stated_confidence(verdict)] += 1
    assert stated.keys() == {percent / 100 for percent in world.CONFIDENCES}
    assert min(stated.values()) > len(SCENES) / 12
    plain = parse(Teacher(Faults(hurried=0, slip=0)).answer(prompt(PAIRS[0], 1), world.scene_png(PAIRS[0]), 1.0))
    assert stated_confidence(plain) is None


def test_a_description_does_for_a_picture():
    teacher = Teacher(Faults(hurried=0, slip=0))
    for pair in [*PAIRS[:100], *SCENES]:
        verdict = parse(teacher.answer(prompt_in_words(pair, 2), None, 1.0))
        assert verdict.choice == 2
        assert f"The picture shows {pair.seen}." in verdict.think


def test_it_errs_as_often_as_it_is_told_to():
    teacher = Teacher(Faults(hurried=0.6, slip=0.2))
    answers = {kind: Counter() for kind in ("colour", "shape")}
    for pair in PAIRS:
        for label in (1, 2):
            verdict = parse(teacher.answer(prompt(pair, label), world.scene_png(pair), 1.0))
            concluded = conclusion(verdict.think)
            answers[pair.kind]["glance" if concluded is None else concluded == label] += 1
            assert verdict.choice == (concluded or 1)
    assert answers["shape"]["glance"] / answers["shape"].total() == pytest.approx(0.6, abs=0.06)
    assert answers["colour"][False] / answers["colour"].total() == pytest.approx(0.2, abs=0.06)
    assert answers["shape"][False] == answers["colour"]["glance"] == 0


def test_asked_again_it_draws_anew_unless_it_is_cold():
    pair = next(pair for pair in PAIRS if pair.kind == "shape")
    said = {
        temperature: [
            teacher.answer(prompt(pair, 2), world.scene_png(pair), temperature)
            for teacher in [Teacher(Faults(hurried=0.5))]
            for _ in range(20)
        ]
        for temperature in (0.0, 1.0)
    }
    assert len(set(said[0.0])) == 1
    assert len(set(said[1.0])) == 2
    again = Teacher(Faults(hurried=0.5))
    assert said[1.0] == [again.answer(prompt(pair, 2), world.scene_png(pair), 1.0) for _ in range(20)]


@pytest.mark.parametrize(
    ("text", "picture", "reason"),
    [
        ("What is it?", world.scene_png(PAIRS[0]), "no question about a colour"),
        (prompt(PAIRS[0], 1), b"no picture", "no picture"),
        (prompt(PAIRS[0], 1), None, "neither a picture nor a description"),
        (
            build_prompt("Which shape is it?", "It is big.", "It is small."),
            world.scene_png(PAIRS[0]),
            "none of the responses",
        ),
    ],
)
def test_what_is_not_of_its_world_is_refused(text: str, picture: bytes | None, reason: str):
    with pytest.raises(ValueError, match=reason):
        Teacher().answer(text, picture, 1.0)


def test_shares_beyond_one_are_refused(capsys):
    assert main(["toy", "teacher", "--hurried", "1.5"]) == 2
    assert "hurried is 1.5" in capsys.readouterr().err


def post(url: str, body) -> dict:
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_it_serves_the_protocol_of_openai():
    command = [
        sys.executable,
        "-m",
        "r1reward_verl.cli",
        "toy",
        "teacher",
        "--port",
        "0",
        "--hurried",
        "0",
        "--slip",
        "0",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy())
    try:
        url = server.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/models", timeout=10) as answer:
            assert [model["id"] for model in json.load(answer)["data"]] == [MODEL]
        pair = PAIRS[0]
        picture = f"data:image/png;base64,{base64.b64encode(world.scene_png(pair)).decode()}"
        content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": prompt(pair, 2)}]
        answer = post(url, {"model": MODEL, "messages": [{"role": "user", "content": content}]})
        assert parse(answer["choices"][0]["message"]["content"]).choice == 2
        assert answer["usage"]["total_tokens"] == sum(
            answer["usage"][name] for name in ("prompt_tokens", "completion_tokens")
        )
        answer = post(url, {"messages": [{"role": "user", "content": prompt_in_words(pair, 1)}]})
        assert parse(answer["choices"][0]["message"]["content"]).choice == 1
        content[0]["image_url"]["url"] = "http://127.0.0.1/secret.png"
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(url, {"messages": [{"role": "user", "content": content}]})
        assert refused.value.code == 400
        assert "data URIs only" in refused.value.read().decode()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)
