"""The page of `r1reward serve` in a real browser: what people enter is compared, shown as text, and never run."""

import pytest
from chromium import Chromium

from chat_server import Answer, ChatServer
from factories import png
from reward_server import reward_model
from serving import get, post, running, uri, wait_until

KEY = "page-key-51d3"
EVIL = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


def framed(app):
    """Let the driver's frame show the page, which no other site may; the rest of its policy stays."""

    async def wrapped(scope, receive, send):
        async def changed(message):
            headers = [
                (name, value.replace(b"; frame-ancestors 'none'", b"")) for name, value in message.get("headers", ())
            ]
            await send({**message, "headers": headers} if "headers" in message else message)

        await app(scope, receive, changed)

    return wrapped


@pytest.fixture(scope="module")
def server():
    with ChatServer(reward_model()) as chat:
        yield chat


@pytest.fixture(scope="module")
def address(server):
    with running(server.url, key=KEY, model={"timeout": 2.0}, wrap=framed) as service:
        yield service


@pytest.fixture
def page(server, address):
    server.script = reward_model()
    wait_until(lambda: get(address, "/ready").status == 200, 30)
    with Chromium(f"{address}/") as browser:
        yield browser


ENTER = """
const enter = (node, text) => { node.value = text; node.dispatchEvent(new page.Event("input", { bubbles: true })); };
const $ = (selector) => page.document.querySelector(selector);
enter($("#question"), data.question || "");
enter($("#key"), data.key || "");
while (page.document.querySelectorAll("#answers textarea").length < data.answers.length) $("#add").click();
page.document.querySelectorAll("#answers textarea").forEach((node, index) => enter(node, data.answers[index] || ""));
if (data.keep) return null;
$("#result").hidden = true;
$("#compare").click();
await new Promise((resolve, reject) => {
  const end = Date.now() + 20000;
  const look = () => {
    if (!$("#result").hidden || !$("#message").hidden) resolve();
    else if (Date.now() > end) reject(new Error("no result"));
    else setTimeout(look, 20);
  };
  look();
});
const texts = (selector, node = page.document) => [...node.querySelectorAll(selector)].map((one) => one.textContent);
return {
  message: $("#message").textContent,
  places: texts("#ranking .place"),
  letters: texts("#ranking .letter"),
  texts: texts("#ranking .text"),
  scores: [...page.document.querySelectorAll("#ranking .score")].map((one) => one.firstChild.textContent),
  bars: [...page.document.querySelectorAll("#ranking .bar span")].map((one) => one.style.width),
  summary: $("#summary").textContent,
  pairs: [...page.document.querySelectorAll(".pair")].map((one) => ({
    title: one.querySelector(".title").textContent,
    badge: one.querySelector(".badge").textContent,
    open: one.open,
    orders: texts("h3", one),
    verdicts: texts(".verdict", one),
    reasons: texts(".reasoning", one),
  })),
};
"""


def compare(page, *answers, question="Which?", key=KEY):
    """Enter a question and answers as a person does, press the button, and return what the page shows."""
    return page.run(ENTER, {"question": question, "answers": answers, "key": key})


def test_two_answers_are_shown_in_both_orders_side_by_side(page):
    shown = compare(page, "quality 3", "quality 8")
    assert shown["message"] == ""
    assert (shown["letters"], shown["places"], shown["scores"]) == (["B", "A"], ["1.", "2."], ["100%", "0%"])
    (pair,) = shown["pairs"]
    assert (pair["title"], pair["badge"], pair["open"]) == ("A or B", "B is better in both orders", True)
    assert pair["orders"] == ["Response 1 is A, response 2 is B", "Response 1 is B, response 2 is A"]
    assert pair["verdicts"] == ["B is better", "B is better"]
    assert pair["reasons"] == ["Compared. So response 2 is better.", "Compared. So response 1 is better."]


def test_eight_answers_are_ranked_and_more_are_not_taken(page):
    qualities = [3, 9, 1, 7, 5, 8, 2, 6]
    shown = compare(page, *(f"quality {one}" for one in qualities))
    assert shown["letters"] == [letter for _, letter in sorted(zip(qualities, "ABCDEFGH", strict=True), reverse=True)]
    assert shown["places"] == [f"{place}." for place in range(1, 9)]
    assert (len(shown["pairs"]), shown["bars"][0], shown["bars"][-1]) == (28, "100%", "0%")
    assert page.run("return page.document.querySelector('#add').hidden") is True


def test_a_verdict_that_depends_on_the_order_is_said(server, page):
    server.script = reward_model(lambda one, other: 1)
    shown = compare(page, "a", "b")
    assert shown["pairs"][0]["badge"] == "the order decides"
    assert shown["pairs"][0]["verdicts"] == ["A is better", "B is better"]
    assert (shown["places"], shown["scores"]) == (["1=", "1="], ["50%", "50%"])
    assert "One verdict depends on the order." in shown["summary"]


def test_texts_of_people_and_models_never_become_markup(server, page):
    server.script = lambda _: Answer({"choices": [{"message": {"content": EVIL}, "finish_reason": "stop"}]})
    shown = compare(page, EVIL, "b", question=EVIL)
    assert shown["pairs"][0]["reasons"] == [EVIL, EVIL]
    assert EVIL in shown["texts"]
    assert shown["pairs"][0]["badge"] == "no verdict in some order"
    title = page.run("await new Promise((done) => setTimeout(done, 100)); return page.document.title")
    assert title == "Which answer is better? – r1reward"


def test_pictures_are_pasted_dropped_and_removed_and_reach_the_model(server, page):
    page.run(
        """
        const bytes = Uint8Array.from(atob(data.split(",")[1]), (letter) => letter.charCodeAt(0));
        const file = new page.File([bytes], "red.png", { type: "image/png" });
        const carry = () => { const all = new page.DataTransfer(); all.items.add(file); return all; };
        const doc = page.document;
        const wait = async (count) => {
          while (doc.querySelectorAll("img").length < count) await new Promise((done) => setTimeout(done, 10));
        };
        doc.querySelector("#question").dispatchEvent(
          new page.ClipboardEvent("paste", { clipboardData: carry(), bubbles: true, cancelable: true }));
        await wait(1);
        doc.querySelector("#drop").dispatchEvent(new page.DragEvent("drop", { dataTransfer: carry(), bubbles: true }));
        await wait(2);
        const answer = doc.querySelector("#answers textarea");
        answer.dispatchEvent(new page.DragEvent("drop", { dataTransfer: carry(), bubbles: true }));
        await wait(3);
        doc.querySelector("#pictures figure button").click();
        """,
        uri(png("red")),
    )
    before = len(server.requests)
    assert compare(page, "quality 1", "quality 2")["letters"] == ["B", "A"]
    contents = [request.body["messages"][0]["content"] for request in server.requests[before:]]
    kinds = sorted("".join("T" if part["type"] == "text" else "I" for part in content) for content in contents)
    assert kinds == ["ITIT", "ITIT"]


def test_a_file_that_is_no_picture_is_said(page):
    message = page.run(
        """
        const transfer = new page.DataTransfer();
        transfer.items.add(new page.File(["x"], "notes.tiff", { type: "image/tiff" }));
        const drop = new page.DragEvent("drop", { dataTransfer: transfer, bubbles: true });
        page.document.querySelector("#drop").dispatchEvent(drop);
        const box = page.document.querySelector("#message");
        while (box.hidden) await new Promise((done) => setTimeout(done, 10));
        return box.textContent;
        """
    )
    assert message == "notes.tiff is no picture that the browser can read."


def test_the_key_is_asked_for_and_kept_for_the_tab_alone(page):
    assert "needs an access key" in compare(page, "a", "b", key="")["message"]
    assert "not the right one" in compare(page, "a", "b", key="no")["message"]
    assert compare(page, "quality 1", "quality 2")["message"] == ""
    stored = page.run("return [{ ...page.sessionStorage }, { ...page.localStorage }, page.document.cookie]")
    assert stored == [{"r1reward-key": KEY}, {}, ""]


@pytest.mark.parametrize(
    ("answers", "question", "message"),
    [
        (("a", ""), "Which?", "Answer B is empty."),
        (("a", "b"), "", "Enter a question."),
    ],
)
def test_what_is_missing_is_said_in_words(page, answers, question, message):
    assert compare(page, *answers, question=question)["message"] == message


def test_a_model_that_is_away_is_said(server, page):
    server.stop()
    try:
        assert "cannot be reached" in compare(page, "a", "b")["message"]
        state = "return page.document.querySelector('#state').innerText"
        assert page.run(f"await new Promise((done) => setTimeout(done, 300)); {state}") != "ready"
    finally:
        server.start()


def test_the_example_can_be_compared(page):
    page.run("page.document.querySelector('#example').click()")
    entered = page.run(
        "return [page.document.images.length, page.document.querySelectorAll('#answers textarea').length]"
    )
    assert entered == [1, 3]


@pytest.mark.parametrize("width", [1200, 360])
def test_the_page_is_as_wide_as_the_window(page, width):
    compare(page, "quality 1 " + "x" * 300, "quality 2", "quality 3")
    page.run("page.document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    script = "page.frameElement.width = data; return page.document.documentElement.scrollWidth - page.innerWidth;"
    assert page.run(script, width) <= 0
    columns = page.run("return page.getComputedStyle(page.document.querySelector('.orders')).gridTemplateColumns")
    assert len(columns.split()) == (2 if width == 1200 else 1)


def test_every_control_has_a_name_and_is_reached_by_keyboard(page):
    unnamed = page.run(
        """
        const controls = [...page.document.querySelectorAll("button, input, textarea, summary")];
        return controls.filter((one) => !(one.innerText || one.getAttribute("aria-label") || (one.labels || []).length)
          || one.tabIndex < 0).map((one) => one.outerHTML);
        """
    )
    assert unnamed == []


def test_the_policy_lets_nothing_in_from_elsewhere_and_no_script_in_the_page(address):
    reply = get(address, "/")
    policy = dict(part.split(" ", 1) for part in reply.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' data:"
    assert "http:" not in reply.body + get(address, "/page.js").body + get(address, "/page.css").body
    assert "<script>" not in reply.body
    assert "style=" not in reply.body
    assert post(address, "/", {}).status == 401
