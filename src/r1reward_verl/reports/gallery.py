"""The gallery of a report: judgements of an evaluation with their pictures, chosen by a stated rule, to look at.

A *run* is a folder of `r1reward eval run`: `cases.jsonl`, and `judgements.jsonl` with one line a judgement. Both are
read as streams; of a case some bytes are kept, and of the cases that are shown their texts. All of that is text from
data and models, and none of it is trusted: it reaches the page escaped, and long texts are cut in the middle.
"""

from __future__ import annotations

import html
import json
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from r1reward_verl.evaluation.reflection import corrections
from r1reward_verl.judgement import parse
from r1reward_verl.media import check_picture, sampled, thumbnail
from r1reward_verl.reports.page import img
from r1reward_verl.text import excerpt

CASES, JUDGEMENTS = "cases.jsonl", "judgements.jsonl"
LABELS = {"chosen-first": 1, "rejected-first": 2}
"""Order -> which response is the better one, as the model saw them."""

KINDS = ("wrong", "right", "flipped", "unparsable", "self-correcting")
RULE = """\
Cases come in a seeded random order. Those that went wrong come first, and a flipped one, one without a verdict \
and one that is wrong without being either take turns; then a self-correcting right one and another right one \
take turns. If more cases went wrong than are shown, a tenth of the places still shows right ones. Wrong: some \
verdict names the worse response. Right: the verdict names the better response in every order. Flipped: the \
verdicts of the two orders name different responses. Unparsable: some greedy judgement has no verdict, or the \
prompt was too long for one. Self-correcting: some judgement, greedy or sampled, turns back on itself. Verdicts \
are read from the tags alone."""

REFLECTION = """\
Judgements in which the judge turns back on its own reasoning, by rules: a sentence that begins with “Wait, …”; \
“let me re-check”; “on second thought”; “I misread …”; an “Actually, …” that calls the other response better \
than before. English only, and what stands in quotation marks is not read. What stands here are the first few."""

SCRIPT = """
"use strict";
(() => {
  const cases = [...document.querySelectorAll("article.case")].map((node) => ({
    node, ...node.dataset, kinds: ["all", ...node.dataset.kinds.split(" ")], text: node.textContent.toLowerCase(),
  }));
  const buttons = [...document.querySelectorAll("#filters button")];
  const selects = [...document.querySelectorAll("#filters select")];
  const search = document.querySelector("#filters input");
  let kind = "all";
  const update = () => {
    const wanted = search.value.trim().toLowerCase();
    const found = cases.filter((one) => one.text.includes(wanted)
      && selects.every((select) => !select.value || one[select.name] === select.value));
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.value === kind));
      button.lastElementChild.textContent = found.filter((one) => one.kinds.includes(button.value)).length;
    }
    const left = new Set(found.filter((one) => one.kinds.includes(kind)));
    for (const one of cases) one.node.hidden = !left.has(one);
    document.querySelector("#shown").textContent = `${left.size} of ${cases.length} cases`;
  };
  for (const button of buttons) button.addEventListener("click", () => { kind = button.value; update(); });
  for (const control of [...selects, search]) control.addEventListener("input", update);
  update();
})();
"""

STYLE = """
[hidden] { display: none !important; }
#filters { position: sticky; top: 0; background: #fff; padding: .6rem 0; border-bottom: 1px solid #d8dee4; display:
  flex; flex-wrap: wrap; gap: .5rem; align-items: center; z-index: 1; }
#filters button { font: inherit; border: 1px solid #8b949e; border-radius: 999px; background: #fff; color: inherit;
  padding: .15rem .8rem; cursor: pointer; }
#filters button[aria-pressed=true] { background: #1f6feb; color: #fff; border-color: #1f6feb; }
#filters select, #filters input { font: inherit; max-width: 14rem; }
:focus-visible { outline: 3px solid #bf8700; outline-offset: 1px; }
.case { border: 1px solid #d8dee4; border-radius: 8px; padding: 1rem; margin: 1rem 0; overflow-wrap: anywhere;
  scroll-margin-top: 6rem; }
.case h3 { margin: 0; font-size: 1rem; }
.case h3 a { color: inherit; }
.kind { font-size: 13px; border-radius: 999px; padding: .05rem .6rem; background: #eaeef2; margin-right: .3rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .4rem; margin: .6rem 0; }
.pictures img { max-height: 320px; min-height: 120px; max-width: 100%; object-fit: contain; border: 1px solid
  #d8dee4; }
.question { font-weight: 600; }
.question, .text { white-space: pre-wrap; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; margin-top: .8rem; }
.two > div { min-width: 0; }
.text { max-height: 22rem; overflow: auto; font-size: 14px; margin: .3rem 0 0; font-family: inherit; }
.verdict { background: #f6f8fa; border-left: 4px solid #8b949e; padding: .6rem .8rem; }
.verdict.is-right { border-color: #1a7f37; }
.verdict.is-wrong { border-color: #cf222e; }
.verdict.is-none { border-color: #bf8700; }
mark { background: #fff3b0; }
@media (max-width: 700px) { .two { grid-template-columns: 1fr; } }
"""

_RIGHT, _WRONG, _NONE = 1, 2, 3  # two bits for each order
_CORRECTS = 16
_HEAD, _TAIL = 6_000, 2_000  # characters of a long text
_FRAMES = 6
_EXCERPTS = 6
_AROUND = 160


@dataclass
class Scan:
    """What one pass over the judgements of a run leaves in memory.

    Attributes:
        states: row -> what its greedy judgements and samples came to (bits).
        tokens: of each greedy judgement.
        judgements: texts read, greedy ones and samples.
        correcting: those of them that correct themselves.
        excerpts: the first few of these: row, order, sample, and the text around the turn in three parts.
    """

    states: dict[int, int] = field(default_factory=dict)
    tokens: array[int] = field(default_factory=lambda: array("l"))
    judgements: int = 0
    correcting: int = 0
    excerpts: list[tuple[int, str, int, tuple[str, str, str]]] = field(default_factory=list)

    def kinds(self, row: int) -> tuple[str, ...]:
        """Return which of `KINDS` a case is."""
        state = self.states[row]
        orders = [order for order in (state & 3, state >> 2 & 3) if order]
        holds = {
            "wrong": _WRONG in orders,
            "right": {*orders} == {_RIGHT},
            "flipped": {*orders} == {_RIGHT, _WRONG},
            "unparsable": _NONE in orders,
            "self-correcting": bool(state & _CORRECTS),
        }
        return tuple(kind for kind in KINDS if holds[kind])


def scan(folder: Path) -> Scan:
    """Read the judgements of a run once.

    Raises:
        OSError, ValueError: as `read_lines`.
    """
    from tqdm import tqdm

    found = Scan()
    lines = tqdm(read_lines(folder / JUDGEMENTS), desc=folder.name, unit=" judgements", disable=None, leave=False)
    for number, line in lines:
        row, order, sample, status = _key(line, folder / JUDGEMENTS, number)
        if status == "failed":
            continue
        state = found.states.get(row, 0)
        text = _text(line.get("text"))
        if sample == 0:
            shift = 2 * (LABELS[order] - 1)
            state = state & ~(3 << shift) | _outcome(text, order) << shift
            if isinstance(line.get("tokens"), int):
                found.tokens.append(min(max(line["tokens"], 0), 2**31 - 1))
        found.judgements += 1
        if spans := corrections(text):
            found.correcting += 1
            state |= _CORRECTS
            if len(found.excerpts) < _EXCERPTS:
                found.excerpts.append((row, order, sample, _around(text, spans[0])))
        found.states[row] = state
    # A case of which samples came, but no greedy judgement yet, has nothing to be told right or wrong by.
    found.states = {row: state for row, state in found.states.items() if state & 15}
    return found


def _outcome(text: str, order: str) -> int:
    choice = parse(text).choice
    return _NONE if choice is None else _RIGHT if choice == LABELS[order] else _WRONG


def _around(text: str, span: tuple[int, int]) -> tuple[str, str, str]:
    start, end = span
    before, after = text[max(0, start - _AROUND) : start], text[end : end + _AROUND]
    return (
        ("…" if start > _AROUND else "") + before,
        text[start:end],
        after + ("…" if end + _AROUND < len(text) else ""),
    )


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(number, object)` for each line of a jsonl file; a last line without its end is left out.

    Raises:
        OSError: it cannot be read.
        ValueError: a line that is no JSON object; the message names it.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
            if not isinstance(content, dict):
                raise ValueError(f"{path}, line {number}: {excerpt(content)} instead of an object")
            yield number, content


def _key(line: Mapping[str, Any], path: Path, number: int) -> tuple[int, str, int, str]:
    row, order, sample, status = (line.get(name) for name in ("row", "order", "sample", "status"))
    if type(row) is not int or order not in LABELS or type(sample) is not int:
        raise ValueError(
            f"{path}, line {number}: row {excerpt(row)}, order {excerpt(order)}, sample {excerpt(sample)}: not a "
            f"judgement (order is one of {', '.join(LABELS)})"
        )
    return row, order, sample, str(status)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def choose(found: Scan, count: int, seed: int = 0) -> list[int]:
    """Return at most `count` rows by `RULE`, in its order."""
    rows = sorted(found.states)
    random.Random(seed).shuffle(rows)
    queues: dict[str, list[int]] = {kind: [] for kind in ("flipped", "unparsable", "wrong", "self-correcting", "right")}
    for row in rows:
        kinds = found.kinds(row)
        queues[next(kind for kind in queues if kind in kinds)].append(row)
    bad = _turns([queues["flipped"], queues["unparsable"], queues["wrong"]])
    good = _turns([queues["self-correcting"], queues["right"]])
    if len(bad) > count:
        bad = bad[: count - min(count // 10, len(good))]
    return (bad + good)[:count]


def _turns(queues: Sequence[Sequence[int]]) -> list[int]:
    return [row for turn in zip_longest(*queues) for row in turn if row is not None]


@dataclass
class Shown:
    """One case of the gallery.

    Attributes:
        row: its line in the benchmark.
        kinds: which of `KINDS` it is.
        case: its line of `cases.jsonl`.
        greedy: order -> the line of the greedy judgement.
        votes: order -> how many samples are right, wrong and without a verdict, under `_RIGHT`, `_WRONG`, `_NONE`.
        correcting: the first sample that corrects itself: order, number, text.
    """

    row: int
    kinds: tuple[str, ...]
    case: dict[str, Any] = field(default_factory=dict)
    greedy: dict[str, dict[str, Any]] = field(default_factory=dict)
    votes: dict[str, Counter[int]] = field(default_factory=dict)
    correcting: tuple[str, int, str] | None = None


def read_shown(folder: Path, rows: Sequence[int], found: Scan) -> list[Shown]:
    """Read cases of a run with their judgements.

    Raises:
        OSError, ValueError: as `read_lines`; a row that is not in `cases.jsonl`.
    """
    wanted = {row: Shown(row, found.kinds(row)) for row in rows}
    for _, line in read_lines(folder / CASES):
        if line.get("row") in wanted:
            wanted[line["row"]].case = line
    if missing := [row for row, one in wanted.items() if not one.case]:
        raise ValueError(f"{folder / CASES} has no row {missing[0]}, which {JUDGEMENTS} judges")
    for number, line in read_lines(folder / JUDGEMENTS):
        row, order, sample, status = _key(line, folder / JUDGEMENTS, number)
        if row not in wanted:
            continue
        one, text = wanted[row], _text(line.get("text"))
        if sample == 0:
            one.greedy[order] = line
        elif status != "failed":
            one.votes.setdefault(order, Counter())[_outcome(text, order)] += 1
            if one.correcting is None and corrections(text):
                one.correcting = (order, sample, text)
    return [*wanted.values()]


def gallery(cards: Iterable[tuple[str, Shown]], limit: int) -> tuple[str, int]:
    """Return the controls and the cases of `(run, case)` as HTML, and how many cases they are.

    Args:
        cards: what to show, in this order.
        limit: characters of HTML; cases that would exceed it are left out, and all after them.
    """
    used, size, articles = [], 0, []
    for number, (run, one) in enumerate(cards, start=1):
        article = _card(run, one, number)
        size += len(article)
        if size > limit:
            break
        used.append((run, one))
        articles.append(article)
    return _filters(used) + "".join(articles), len(used)


def _filters(cards: Sequence[tuple[str, Shown]]) -> str:
    counts = Counter(chain.from_iterable(one.kinds for _, one in cards))
    buttons = "".join(
        f'<button type="button" value="{kind}" aria-pressed="{str(kind == "all").lower()}">{kind} '
        f"<span>{count}</span></button>"
        for kind, count in [("all", len(cards)), *((kind, counts[kind]) for kind in KINDS)]
    )
    selects = ""
    for name, every, values in (
        ("category", "all categories", {_category(one) for _, one in cards}),
        ("run", "all runs", {run for run, _ in cards}),
    ):
        if len(values) > 1:
            options = "".join(f"<option>{html.escape(value)}</option>" for value in sorted(values))
            selects += f'<select name="{name}" aria-label="{name}"><option value="">{every}</option>{options}</select>'
    return (
        f'<div id="filters" role="group" aria-label="which cases are shown">{buttons}{selects}'
        '<input type="search" placeholder="text in a case" aria-label="text in a case">'
        f'<output id="shown" aria-live="polite">{len(cards)} of {len(cards)} cases</output></div>'
    )


def _category(one: Shown) -> str:
    return printable(_text(one.case.get("category"))) or "no category"


def printable(name: str) -> str:
    """Return a name that stays the same in a page, whether in an attribute or as text."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())


def _card(run: str, one: Shown, number: int) -> str:
    escape = html.escape
    case = {name: _text(one.case.get(name)) for name in ("id", "question", "chosen", "rejected")}
    kinds = "".join(f'<span class="kind">{kind}</span>' for kind in one.kinds)
    responses = "".join(
        f'<div><b>{title}</b><div class="text" tabindex="0">{escape(_cut(case[name]))}</div></div>'
        for name, title in (("chosen", "Better response"), ("rejected", "Worse response"))
    )
    judgements = "".join(_judgement(one, order) for order in LABELS if order in one.greedy or order in one.votes)
    if one.correcting is not None and not any(corrections(_text(line.get("text"))) for line in one.greedy.values()):
        order, sample, text = one.correcting
        judgements += f"<div><b>Sample {sample}, {_first(order)}, corrects itself</b>{_marked(text)}</div>"
    return (
        f'<article class="case" id="case-{number}" data-kinds="{" ".join(one.kinds)}" '
        f'data-category="{escape(_category(one))}" data-run="{escape(run)}"><h3><a href="#case-{number}">'
        f"Row {one.row}</a> · {escape(_cut(case['id']))} · {escape(_category(one))} · {escape(run)}</h3><p>{kinds}</p>"
        f"{_pictures(one.case.get('media'))}"
        f'<div class="question">{escape(_cut(case["question"]))}</div><div class="two">{responses}</div>'
        f'<div class="two">{judgements}</div></article>'
    )


def _first(order: str) -> str:
    return "better response first" if LABELS[order] == 1 else "worse response first"


def _judgement(one: Shown, order: str) -> str:
    line = one.greedy.get(order, {"status": "failed", "error": "not judged yet"})
    text = _text(line.get("text"))
    title = f"{_first(order)[:1].upper()}{_first(order)[1:]}"
    if line.get("status") != "ok":
        error = html.escape(_cut(_text(line.get("error"))))
        said = "the prompt is too long for the model" if line.get("status") == "too_long" else "no judgement"
        css, content = "is-none", f'<p class="note">{error}</p>' if error else ""
    else:
        verdict, outcome = parse(text), _outcome(text, order)
        css = {_RIGHT: "is-right", _WRONG: "is-wrong", _NONE: "is-none"}[outcome]
        said = {
            _RIGHT: f"verdict {verdict.choice}: right, the better response",
            _WRONG: f"verdict {verdict.choice}: wrong, the worse response",
            _NONE: f"no verdict ({verdict.reason})",
        }[outcome]
        content = _marked(text)
    votes = one.votes.get(order)
    if votes:
        content += (
            f'<p class="note">{votes.total()} samples: {votes[_RIGHT]} right, {votes[_WRONG]} wrong, '
            f"{votes[_NONE]} without a verdict</p>"
        )
    return f'<div class="verdict {css}"><b>{title}</b>: {said}{content}</div>'


def _marked(text: str) -> str:
    """Return a judgement as HTML, its turns marked."""
    text, parts, end = _cut(text), [], 0
    for start, stop in corrections(text):
        parts += [html.escape(text[end:start]), f"<mark>{html.escape(text[start:stop])}</mark>"]
        end = stop
    return f'<div class="text" tabindex="0">{"".join(parts)}{html.escape(text[end:])}</div>'


def marked_excerpt(parts: tuple[str, str, str]) -> str:
    """Return the surroundings of a turn as HTML, the turn marked."""
    before, turn, after = map(html.escape, parts)
    return f"{before}<mark>{turn}</mark>{after}"


def _cut(text: str) -> str:
    left = len(text) - _HEAD - _TAIL
    return text if left <= 0 else f"{text[:_HEAD]}\n[… {left:,} characters are left out here …]\n{text[-_TAIL:]}"


def _pictures(media: Any) -> str:
    """Return a case's pictures, of many a strip of some, small; what cannot be shown is named."""
    if media == "inline":
        return '<p class="note">The pictures stood in the data file, which is not where it was.</p>'
    sources = [one for one in media if isinstance(one, str | bytes)] if isinstance(media, list) else []
    parts, side = [], 360 if len(sources) <= 2 else 160
    for place in sampled(len(sources), _FRAMES):
        source = sources[place]
        try:
            check_picture(source)
            picture = thumbnail(source, side, smallest=True)
        except (OSError, ValueError):
            picture = None
        if picture is None:
            parts.append(f'<span class="note">not readable: {html.escape(excerpt(source))}</span>')
        else:
            parts.append(img(picture, f"picture {place + 1} of {len(sources)}"))
    if len(sources) > _FRAMES:
        parts.append(f'<span class="note">{_FRAMES} of {len(sources)} pictures</span>')
    return f'<div class="pictures">{"".join(parts)}</div>' if parts else ""
