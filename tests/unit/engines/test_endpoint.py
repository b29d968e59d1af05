"""Judgements from real chat servers on 127.0.0.1: what they are asked, and what becomes of what they say."""

import asyncio
import base64
import gc
import io
import json
import signal

import pytest
from PIL import Image

from chat_server import Answer, ChatServer, completion
from r1reward_verl.engines.base import EngineError, Prompt, Sampling, Work
from r1reward_verl.engines.endpoint import EndpointEngine
from r1reward_verl.media import Media

TEXT = "<think>t</think><answer>1</answer>"


def png(size=(56, 56), colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def case(row, samples=(0,), orders=("chosen-first", "rejected-first"), images=(), video=None):
    return Work(row, images, video, tuple(Prompt(order, f"{order} {row}", samples) for order in orders))


def choices(*texts, usage=None):
    one = completion("")["choices"][0]
    listed = [{**one, "index": index, "message": {"content": text}} for index, text in enumerate(texts)]
    return {"choices": listed, **({"usage": usage} if usage else {})}


def as_asked(request):
    """As many choices as the request wants."""
    texts = [f"{TEXT} {number}" for number in range(request.body.get("n", 1))]
    return Answer(choices(*texts, usage={"prompt_tokens": 7, "completion_tokens": 5 * len(texts)}))


def judge(server, work, sampling=None, **options):
    options = {"timeout": 5.0, "max_wait": 5.0, "retries": 1, **options}
    engine = EndpointEngine([server.url], "judge", sampling or Sampling(), **options)
    return [one for judgements in engine.generate(iter(work)) for one in judgements]


def test_greedy_and_samples_are_a_request_each_in_every_order():
    with ChatServer(as_asked) as server:
        said = judge(server, [case(1, (0, 1, 2, 3)), case(2, (2, 3))], Sampling(temperature=0.7, max_tokens=99))
    keys = [(one.row, one.order, one.sample) for one in said]
    orders = ("chosen-first", "rejected-first")
    wanted = [(1, order, sample) for order in orders for sample in range(4)]
    assert sorted(keys) == sorted(wanted + [(2, order, sample) for order in orders for sample in (2, 3)])
    asked = sorted((one.body.get("n", 1), one.body["temperature"], one.body["max_tokens"]) for one in server.requests)
    assert asked == [(1, 0.0, 99)] * 2 + [(2, 0.7, 99)] * 2 + [(3, 0.7, 99)] * 2
    assert all(one.text.startswith(TEXT) and one.status == "ok" and one.finish_reason == "stop" for one in said)
    # What several texts have together cannot be told apart.
    assert {(one.sample > 0, one.prompt_tokens, one.tokens) for one in said} == {(False, 7, 5), (True, 7, None)}
    several = sorted(one.answer_tokens for one in said if one.answer_tokens is not None)
    assert several == [10, 10, 15, 15]  # once an answer


def test_a_server_that_returns_fewer_choices_is_asked_for_the_rest():
    with ChatServer(Answer(choices("a", "b"))) as server:
        said = judge(server, [case(1, (1, 2, 3, 4, 5), ("chosen-first",))])
    assert [one.body.get("n", 1) for one in server.requests] == [5, 3, 1]
    assert [(one.sample, one.text) for one in said] == [(1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "a")]


def test_a_server_that_refuses_several_choices_is_asked_one_by_one():
    def only_one(request):
        return Answer({"error": "n must be 1"}, status=400) if "n" in request.body else Answer(choices("a"))

    with ChatServer(only_one) as server:
        said = judge(server, [case(1, (1, 2, 3), ("chosen-first",))])
    assert [one.sample for one in said] == [1, 2, 3]
    assert len(server.requests) == 4


@pytest.mark.parametrize("position", ["before", "after"])
def test_pictures_and_frames_are_sent_in_order_within_the_budget(tmp_path, position):
    (tmp_path / "a.png").write_bytes(png(colour="blue"))
    images = (Media(path=str(tmp_path / "a.png")), Media(data=png((300, 200))))
    video = tuple(Media(data=png(colour=colour)) for colour in ("green", "yellow"))
    with ChatServer(as_asked) as server:
        judge(server, [case(1, images=images, video=video)], Sampling(media_position=position, max_pixels=20_000))
    content = server.requests[0].body["messages"][0]["content"]
    texts = [part["text"] for part in content if part["type"] == "text"]
    assert content.index({"type": "text", "text": texts[0]}) == (4 if position == "before" else 0)
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    pictures = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
    assert [picture.getpixel((0, 0)) for picture in pictures] == [(0, 0, 255), (255, 0, 0), (0, 128, 0), (255, 255, 0)]
    assert [picture.width * picture.height <= 20_000 for picture in pictures] == [True] * 4


def test_without_media_the_content_is_the_text():
    with ChatServer(as_asked) as server:
        judge(server, [case(1, orders=("chosen-first",))])
    assert server.requests[0].body["messages"] == [{"role": "user", "content": "chosen-first 1"}]


def test_a_picture_that_cannot_be_sent_fails_its_case_alone(tmp_path):
    with ChatServer(as_asked) as server:
        said = judge(server, [case(1, images=(Media(path=str(tmp_path / "none.png")),)), case(2)])
    assert {one.row: one.status for one in said} == {1: "failed", 2: "ok"}
    assert "none.png' does not exist" in next(one.error for one in said if one.row == 1)


def test_what_fails_after_its_retries_is_a_failed_judgement_and_others_go_on():
    def script(request):
        return Answer(status=500) if request.text.endswith(" 1") else as_asked(request)

    with ChatServer(script) as server:
        said = judge(server, [case(row) for row in range(1, 9)], concurrency=2)
    assert sorted({(one.row, one.status) for one in said}) == [(1, "failed"), *((row, "ok") for row in range(2, 9))]
    assert "status 500" in next(one.error for one in said if one.row == 1)


def test_servers_that_are_gone_end_the_run_after_what_was_said():
    server = ChatServer(as_asked).start()
    engine = EndpointEngine([server.url], "judge", Sampling(), concurrency=1, timeout=0.5, max_wait=0.5)
    taken = []

    def work():
        for row in range(1, 1000):
            taken.append(row)
            yield case(row)

    said = engine.generate(work())
    first = next(said)
    server.stop()
    rest = []
    with pytest.raises(EngineError, match=r"the servers are gone.*given up"):
        rest.extend(one for judgements in said for one in judgements)
    assert first[0].status == "ok"
    assert len(taken) < 10


@pytest.mark.parametrize(
    ("status", "way_out"),
    [
        (401, "set the environment variable MY_KEY"),
        (404, r"see --model and --url \(models there: judge\)"),
        (301, "see --url"),
    ],
)
def test_a_refusal_that_the_next_request_would_meet_too_ends_the_run(status, way_out):
    with ChatServer(Answer({"error": "no"}, status=status)) as server, pytest.raises(EngineError, match=way_out):
        judge(server, (case(row) for row in range(1, 1000)), concurrency=1, key_name="MY_KEY")
    assert len(server.requests) < 10


def test_work_may_depend_on_judgements():
    """None stands for work that is not there yet."""
    seen = []

    def work():
        yield case(1, (0,), ("chosen-first",))
        while not seen:
            yield None
        yield case(seen[0] + 1, (0,), ("chosen-first",))

    with ChatServer() as server:
        engine = EndpointEngine([server.url], "judge", Sampling(), timeout=5.0, max_wait=5.0)
        for judgements in engine.generate(work()):
            seen += [one.row for one in judgements]
    assert seen == [1, 2]


def test_fields_of_the_body_replace_and_remove():
    with ChatServer() as server:
        judge(server, [case(1, (1,), ("chosen-first",))], body={"max_tokens": None, "max_completion_tokens": 9})
    assert server.requests[0].body.keys() == {"model", "messages", "temperature", "max_completion_tokens"}


VLLM = (
    "This model's maximum context length is {context} tokens. However, you requested {asked} output tokens and your "
    "prompt contains at least {least} input tokens, for a total of at least {total} tokens."
)
OPENAI = (
    "This model's maximum context length is {context} tokens. However, you requested {total} tokens "
    "({prompt} in the messages, {asked} in the completion). Please reduce the length of the messages or completion."
)
ONLY = (
    "You passed {prompt} input tokens and requested {asked} output tokens. However, the model's context length is only "
    "{context} tokens, resulting in a maximum input length of 0 tokens."
)
LLAMA_CPP = "request ({prompt} tokens) exceeds the available context size ({context} tokens), try increasing it"
TGI = (
    "`inputs` tokens + `max_new_tokens` must be <= {context}. Given: {prompt} `inputs` tokens and {asked} "
    "`max_new_tokens`"
)
TOGETHER = (
    "Requested token count exceeds the model's maximum context length of {context} tokens. You requested a total of "
    "{total} tokens: {prompt} tokens from the input messages and {asked} tokens for the completion."
)
OTHERS = "'max_tokens' is too large: {asked}. The context length is {context}, and there are {prompt} input tokens"


def limited(wording, context=4096, prompt=904):
    """A server with `context` tokens; one of the orders is a prompt of `prompt` tokens, the other is too long."""

    def script(request):
        length = prompt if request.text == "chosen-first 1" else context + 1
        asked = request.body["max_tokens"]
        if length + asked <= context:
            said = as_asked(request).body
            said["usage"] = {"prompt_tokens": length, "completion_tokens": 7}
            return Answer(said)
        # vLLM stops counting the prompt's tokens where they cannot fit.
        numbers = {"least": context - asked + 1, "prompt": length, "total": length + asked}
        error = wording.format(context=context, asked=asked, **numbers)
        return Answer({"error": {"message": error}}, status=400)

    return script


@pytest.mark.parametrize("wording", [VLLM, OPENAI, ONLY, LLAMA_CPP, TGI, TOGETHER, OTHERS])
def test_an_answer_may_be_as_long_as_the_servers_context_has_room(wording):
    with ChatServer(limited(wording)) as server:
        said = judge(server, [case(1, (0, 1, 2))])
    assert {(one.order, one.status) for one in said} == {("chosen-first", "ok"), ("rejected-first", "too_long")}
    answered = [request.body for request in server.requests if request.text == "chosen-first 1"]
    assert {body["max_tokens"] for body in answered} - {1} == {4096, 4096 - 904}
    assert [one.text for one in said if one.status == "ok" and not one.text] == []


@pytest.mark.parametrize("wording", ["the prompt is too long", "maximum context length is {context} tokens"])
def test_where_no_numbers_are_named_at_least_half_of_what_fits_is_used(wording):
    with ChatServer(limited(wording, prompt=2000)) as server:
        said = judge(server, [case(1)])
    assert {one.order: one.status for one in said} == {"chosen-first": "ok", "rejected-first": "too_long"}
    answered = [request.body["max_tokens"] for request in server.requests if request.text == "chosen-first 1"]
    assert answered[-1] in (2048, 4096 - 2000)
    assert len(server.requests) < 20


def test_texts_that_no_file_can_hold_and_none_are_texts():
    body = json.dumps(choices(None, "a?")).replace("a?", "a\\ud800")
    with ChatServer(Answer(body)) as server:
        said = judge(server, [case(1, (1, 2), ("chosen-first",))])
    assert [one.text for one in said] == ["", "a?"]


def test_work_is_taken_as_there_is_room():
    taken = []

    def work():
        for row in range(1, 100):
            taken.append(row)
            yield case(row)

    with ChatServer(as_asked) as server:
        engine = EndpointEngine([server.url], "judge", Sampling(), concurrency=3)
        said = engine.generate(work())
        next(said)
        assert len(taken) <= 6
        said.close()


@pytest.mark.parametrize("turns", range(8))
def test_an_interrupt_at_any_turn_of_the_loop_ends_it_as_an_interrupt(turns, monkeypatch, capfd, caplog):
    """Also within a task, whose exception nobody fetches, and right when a wait is over."""

    async def interrupted(self, servers, work):
        if work.row == 2:
            for _ in range(turns):
                await asyncio.sleep(0)
            # As within a task of aiohttp that writes a request, whose exception nobody would fetch.
            await asyncio.wait([asyncio.ensure_future(write())])

    async def write():
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(EndpointEngine, "_judge", interrupted)
    with ChatServer(as_asked) as server, pytest.raises(KeyboardInterrupt):
        judge(server, [case(1), case(2)])
    gc.collect()
    assert (capfd.readouterr().err, caplog.text) == ("", "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_key_is_sent_and_stands_in_no_error():
    with ChatServer(Answer({"error": "bad key sk-secret"}, status=422)) as server:
        said = judge(server, [case(1)], api_key="sk-secret")
    assert server.requests[0].headers["Authorization"] == "Bearer sk-secret"
    assert {(one.status, "sk-secret" in one.error) for one in said} == {("failed", False)}


def test_without_a_key_none_is_sent_whatever_the_environment_holds(monkeypatch):
    monkeypatch.setenv("R1REWARD_MODEL_API_KEY", "of-another-server")
    with ChatServer(as_asked) as server:
        judge(server, [case(1)])
    assert not any("Authorization" in request.headers for request in server.requests)
