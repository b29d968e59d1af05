"""The report of evaluations in a real browser: it opens, filters, and shows what it should; no text of it runs."""

import json
import socket

import pytest
from chromium import Chromium

from r1reward_verl.reports.evaluation import load_runs, write_evaluation_report
from run_folder import case, judged, judgement, picture, says, write_run

CATEGORIES = ("general", "hallucination", 'a "quoted" <category> & co')
VERDICTS = {1: (1, 2), 2: (2, 1), 3: (1, 1), 4: (2, 2), 5: (None, 2), 6: (1, 2), 7: (2, None)}
KINDS = {
    "all": {1, 2, 3, 4, 5, 6, 7},
    "wrong": {2, 3, 4, 7},
    "right": {1, 6},
    "flipped": {3, 4},
    "unparsable": {5, 7},
    "self-correcting": {6},
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """An open page of two runs: seven cases, of which the second run judged the first, and got it wrong."""
    folder = tmp_path_factory.mktemp("page")
    media = [picture(folder / "red.png", "red"), picture(folder / "blue.png", "blue")]
    cases = [case(row, CATEGORIES[row % 3], media[: row % 3]) for row in VERDICTS]
    lines = [line for row, pair in VERDICTS.items() for line in judged(row, *pair, reasoning=f"Seen Number{row}.")]
    lines += [judgement(row, order, says(1), 1) for row in VERDICTS for order in ("chosen-first", "rejected-first")]
    lines[-4] = judgement(6, "chosen-first", says(1, "It is red. Wait, it is blue."), 1)
    runs = [
        write_run(folder / "first", cases, lines, samples=1),
        write_run(folder / "second", cases[:1], judged(1, 2, 1)),
    ]
    with Chromium(write_evaluation_report(load_runs(runs), folder / "report")) as browser:
        yield browser


def choose(page, **values):
    """Use the filters as a reader does: click a button, pick from a list, type; the rest is set back."""
    page.run(
        """
        const filters = page.document.querySelector("#filters");
        filters.querySelector(`button[value="${data.kind || "all"}"]`).click();
        for (const [selector, value] of [
          ["select[name=category]", data.category || ""],
          ["select[name=run]", data.run || ""],
          ["input", data.text || ""],
        ]) {
          const control = filters.querySelector(selector);
          if (!control) continue; // there is nothing to choose from
          control.value = value;
          control.dispatchEvent(new page.Event("input", { bubbles: true }));
        }
        """,
        values,
    )


def seen(page):
    """What a reader sees: (run, row) of the cases, the counts on the buttons, and the line that says how many."""
    found = page.run(
        """
        const visible = [...page.document.querySelectorAll("article")].filter((node) => node.offsetHeight > 0);
        const number = (node) => Number(node.innerText.split(" ").pop());
        const buttons = [...page.document.querySelectorAll("#filters button")];
        return {
          cases: visible.map((node) => [node.dataset.run, number(node.querySelector("h3 a"))]),
          counts: Object.fromEntries(buttons.map((button) => [button.value, number(button)])),
          pressed: buttons.filter((one) => one.getAttribute("aria-pressed") === "true").map((one) => one.value),
          told: page.document.querySelector("#shown").innerText,
        };
        """
    )
    found["cases"] = sorted(map(tuple, found["cases"]))
    return found


def test_the_page_opens_with_everything(page):
    choose(page)
    found = seen(page)
    assert found["cases"] == [*(("first", row) for row in VERDICTS), ("second", 1)]
    assert found["counts"] == {kind: len(rows) + (kind in ("all", "wrong")) for kind, rows in KINDS.items()}
    assert found["told"] == "8 of 8 cases"
    text = page.run("return page.document.body.innerText")
    assert "R1-Reward (published, not run here)" in text
    assert "8 of 8 judged cases are shown, among them 6 of the 6 failures" in text


def test_pictures_and_plots_are_really_shown(page):
    sizes = page.run(
        "return [...page.document.images].map((one) => [one.className, one.naturalWidth, one.offsetWidth > 0]);"
    )
    plots = [width for css, width, visible in sizes if css == "plot" and visible]
    pictures = [width for css, width, visible in sizes if css != "plot" and visible]
    assert len(plots) == 4
    assert min(plots) > 500
    assert pictures == [64] * (sum(row % 3 for row in VERDICTS) + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_filter_shows_its_cases_alone(page, kind):
    choose(page, kind=kind, run="first")
    found = seen(page)
    assert {row for _, row in found["cases"]} == KINDS[kind]
    assert found["pressed"] == [kind]
    assert found["counts"] == {kind: len(rows) for kind, rows in KINDS.items()}
    assert found["told"] == f"{len(KINDS[kind])} of 8 cases"


def test_category_run_and_text_narrow_it_further_and_the_counts_follow(page):
    choose(page, kind="wrong", category=CATEGORIES[1])
    assert seen(page)["cases"] == [("first", 4), ("first", 7), ("second", 1)]
    choose(page, kind="wrong", category=CATEGORIES[1], text="NUMBER4")
    found = seen(page)
    assert found["cases"] == [("first", 4)]
    assert found["counts"] == {"all": 1, "wrong": 1, "right": 0, "flipped": 1, "unparsable": 0, "self-correcting": 0}
    choose(page, category=CATEGORIES[2])
    assert seen(page)["cases"] == [("first", 2), ("first", 5)]
    choose(page, text="nowhere to be found")
    assert seen(page)["cases"] == []
    assert seen(page)["told"] == "0 of 8 cases"
    choose(page, run="second")
    assert seen(page)["cases"] == [("second", 1)]


@pytest.mark.parametrize("width", [1200, 380])
def test_the_page_is_as_wide_as_the_window(page, width):
    script = "page.frameElement.width = data; return page.document.documentElement.scrollWidth - page.innerWidth;"
    assert page.run(script, width) <= 0
    plots = page.run("return [...page.document.querySelectorAll('.plot')].map((one) => one.offsetWidth)")
    assert min(plots) >= 600, "a plot scrolls sideways rather than shrink beyond reading"
    page.run("page.frameElement.width = 1200")


def test_all_of_it_works_by_keyboard(page):
    choose(page, kind="wrong")
    reached = page.run(
        """
        const controls = [...page.document.querySelectorAll("#filters :is(button, select, input)")];
        return controls.map((control) => {
          control.focus();
          return control === page.document.activeElement && control.tabIndex === 0;
        });
        """
    )
    assert reached == [True] * 9
    scrolled = page.run(
        "return [...page.document.querySelectorAll('article .text')].filter((one) => one.tabIndex !== 0).length"
    )
    assert scrolled == 0


# No text of the page runs


def test_texts_neither_run_nor_load_anything(tmp_path):
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    attacks = [
        "<script>window.hacked = 1</script>",
        "</script><script>window.hacked = 1</script>",
        f"<img src='{address}/picture' onerror='window.hacked = 1'>",
        "\"' autofocus tabindex=0 onfocus='window.hacked = 1' x=\"",
        "--></style></select></option></output></title></textarea><svg onload=window.hacked=1>",
        f"<link rel=stylesheet href='{address}/style'><iframe src='{address}/frame'></iframe>",
        f"<meta http-equiv=refresh content='0;url={address}/away'><base href='{address}/'>",
    ]
    attack = " ".join(attacks)
    cases = [
        {**case(row, f"{attack}{row}", [attack]), **dict.fromkeys(("id", "question", "chosen", "rejected"), attack)}
        for row in (1, 2)
    ]
    lines = judged(1, 1, 2, reasoning=attack) + judged(2, 1, 1, reasoning=f"Wait, {attack}")
    run = write_run(tmp_path / "run", cases, lines, benchmark=attack, model=attack)
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "failed": attack}))

    with Chromium(write_evaluation_report(load_runs([run]), tmp_path / "report")) as page:
        assert page.run("return page.document.querySelectorAll('article').length") == 2
        assert page.run("return page.document.querySelector('article .question').innerText") == attack
        choose(page, category=f"{attack}2")
        assert seen(page)["cases"] == [("run", 2)]
        assert page.run("return page.hacked") is None

        # Even what got into the page as markup would do nothing: the browser is told so.
        blocked, hacked = page.run(
            """
            const blocked = [];
            const note = (event) => blocked.push(event.violatedDirective);
            page.document.addEventListener("securitypolicyviolation", note);
            const make = (tag, fields) => Object.assign(page.document.createElement(tag), fields);
            const add = (tag, fields) => page.document.body.append(make(tag, fields));
            add("script", { textContent: "window.hacked = 1" });
            add("script", { src: data + "/script" });
            add("img", { src: data + "/image" });
            add("link", { rel: "stylesheet", href: data + "/sheet" });
            add("iframe", { src: data + "/frame" });
            add("div", { innerHTML: "<b onclick='window.hacked = 1'>x</b>" });
            page.document.body.lastElementChild.firstElementChild.click();
            await page.fetch(data + "/fetch").catch(() => {});
            await new Promise((resolve) => setTimeout(resolve, 200));
            return [blocked.map((directive) => directive.split("-")[0]).sort(), page.hacked];
            """,
            address,
        )
        assert blocked == ["connect", "frame", "img", "script", "script", "script", "style"]
        assert hacked is None
    with server, pytest.raises(BlockingIOError):  # nobody has connected
        server.accept()
