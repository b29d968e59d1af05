"""The report of evaluations: figures beside the paper's, plots, a gallery that hides no failure and runs no text."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from factories import png, preference
from pages import Page, check_stands_alone
from r1reward_verl.cli import main
from r1reward_verl.data.preference import SCHEMA, to_row
from r1reward_verl.evaluation.folder import ORDERS, read_run
from r1reward_verl.evaluation.scoring import score_run
from r1reward_verl.media import Media
from r1reward_verl.reports.evaluation import (
    load_runs,
    pairs_table,
    plot_categories,
    plot_lengths,
    published_table,
    write_evaluation_report,
)
from r1reward_verl.reports.gallery import GalleryIndex, choose_cases, index_judgements, make_gallery, read_cases
from r1reward_verl.reports.published import PUBLISHED
from run_folder import case, judged, judgement, picture, says, write_run

CATEGORIES = ("general", "hallucination", "reasoning")


def report(tmp_path, *runs, count=200):
    return Page(write_evaluation_report(load_runs(runs), tmp_path / "report", count))


def pair(row, first, second, **texts):
    """A run's case with its two greedy judgements."""
    question = {"question": texts.pop("question")} if "question" in texts else {}
    return case(row, **question), judged(row, first, second, **texts)


def write_pairs(folder, pairs, **settings):
    """A run of (case, judgements)."""
    cases, lines = zip(*pairs, strict=True)
    return write_run(folder, cases, [line for some in lines for line in some], **settings)


def change_metrics(run, change):
    """Write what `change` makes of the metrics of a run; return the metrics as they were."""
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(change(metrics)))
    return metrics


@pytest.fixture
def run(tmp_path):
    """Six cases: right, wrong, flipped to 1, flipped to 2, unparsable, and one that corrects itself in a sample."""
    verdicts = [(1, 2), (2, 1), (1, 1), (2, 2), (None, 2), (1, 2)]
    turning = says(1, "It is red. Wait, it is blue.")
    pairs = []
    for row, (first, second) in enumerate(verdicts, start=1):
        samples = [
            judgement(row, order, turning if (row, sample, order) == (6, 2, "chosen-first") else says(1), sample)
            for order in ORDERS
            for sample in (1, 2)
        ]
        pairs.append((case(row, CATEGORIES[row % 3]), judged(row, first, second) + samples))
    return write_pairs(tmp_path / "tiny", pairs, samples=2)


# Figures


def test_all_files_are_written_and_the_page_stands_alone(run, capsys):
    assert main(["eval", "report", str(run)]) == 0
    out = run / "report"
    assert f"written: {out / 'report.html'}" in capsys.readouterr().out
    plots = {"categories-vl-rewardbench.png", "voting.png", "orders.png", "lengths.png"}
    assert {path.name for path in out.iterdir()} == {"report.html", "report.md", *plots}
    assert min(Image.open(out / name).width for name in plots) > 500
    page = Page(out / "report.html")
    check_stands_alone(page)
    assert len(page.all("img", "plot")) == len(plots)
    assert len(page.all("script")) == 1


def test_headlines_and_tests_of_run_against_run_stand_above_the_figures(run, tmp_path):
    better = write_pairs(tmp_path / "better", [pair(row, 1, 2) for row in range(1, 41)])
    worse = write_pairs(tmp_path / "worse", [pair(row, 2, 1) for row in range(1, 41)])
    text = report(tmp_path, worse, better, run).text
    order = [text.index(title) for title in ("Results", "Run against run", "categories", "Figures", "Settings of the")]
    assert order == sorted(order)
    assert "better: 100.0% [91.2, 100.0] right on vl-rewardbench, 40 cases (model tiny); 100.0% right in both" in text
    table = [" ".join(row) for row in pairs_table(load_runs([worse, better, run])).rows]
    assert table[0] == "worse → better 0.0 100.0 +100.0 [100.0, 100.0] <0.0001 80 better"
    assert table[1].startswith("worse → tiny 0.0 58.3 +58.3 [")
    other = write_pairs(tmp_path / "other", [pair(row, 1, 2, question="Else?") for row in range(1, 41)])
    assert pairs_table(load_runs([better, other])).rows[0][-1].startswith("not runs of the same data")
    assert "Run against run" not in report(tmp_path, run).text


def test_faults_of_form_are_counted_and_explained(tmp_path):
    broken = [judgement(1, order, f"<think>t</think>\n<answer>{label}</answer>") for order, label in ORDERS.items()]
    run = write_pairs(tmp_path / "run", [(case(1), broken), pair(2, 1, 2)])
    change_metrics(run, lambda _: score_run(run))
    text = report(tmp_path, run).text
    assert "50.0% of the judgements break the contract in one way: there is text outside the two blocks" in text
    assert "text_outside: there is text outside the two blocks, as a line break between them2 (50.0%)" in text


def test_what_was_not_measured_has_no_plot(tmp_path):
    lines = [judgement(1, "chosen-first", says(1), tokens=None)]
    report(tmp_path, write_run(tmp_path / "run", [case(1)], lines))
    assert [path.name for path in (tmp_path / "report").glob("*.png")] == ["categories-vl-rewardbench.png"]


def test_an_absent_category_is_a_dash_and_runs_have_panels_of_their_own(run, tmp_path):
    runs = load_runs([run, write_pairs(tmp_path / "part", [pair(3, 1, 2)])])
    (axes,) = plot_categories(runs).axes
    assert [text.get_text() for text in axes.texts].count("–") == 2  # the second run has one of three categories
    panels = plot_lengths(runs).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["tiny", "part"]


def test_figures_are_those_of_the_metrics_with_their_intervals(run, tmp_path):
    metrics = change_metrics(run, dict)
    report(tmp_path, run)
    text = (tmp_path / "report" / "report.md").read_text().replace("\\", "")
    low, high = metrics["accuracy_ci95"]
    assert f"| Accuracy (micro) | {100 * metrics['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}] |" in text
    assert "| Verdicts that flip with the order | 40.0 [" in text
    assert "| Judgements that correct themselves | 1 of 36 (2.8%) |" in text
    assert "| Judged (cases times orders) | 12 |" in text
    assert "Tokens per second" not in text  # the run does not say


def test_what_cannot_be_computed_is_shown_as_such(run, tmp_path):
    def emptied(metrics):
        categories = {name: dict.fromkeys(figures) for name, figures in metrics["by_category"].items()}
        return dict.fromkeys(metrics) | {"rows": metrics["rows"], "by_category": categories}

    change_metrics(run, emptied)
    page = report(tmp_path, run)
    assert not re.search("None|nan", page.text)
    assert "| tiny | – | – | – | – | – |" in (tmp_path / "report" / "report.md").read_text()


def test_an_incomplete_run_is_called_so(run, tmp_path):
    change_metrics(run, lambda metrics: metrics | {"failed": 3})
    assert "incomplete: 3 not judged" in report(tmp_path, run).text


def test_beside_the_paper_stand_the_run_its_vote_and_the_reference_protocol(run):
    metrics = change_metrics(run, dict)
    table = published_table("vl-rewardbench", load_runs([run]))
    by_name = {name: cells for name, *cells in table.rows}
    assert table.header == ["Accuracy, %", "general", "hallucination", "reasoning", "overall", "macro"]
    assert by_name["tiny"][3] == f"{100 * metrics['accuracy']:.2f}"
    assert by_name["tiny"][0] == f"{100 * metrics['by_category']['general']['accuracy']:.2f}"
    assert by_name["tiny, voting@2"][3] == f"{100 * metrics['voting_accuracy']:.2f}"
    assert by_name["tiny, reference protocol"][4] == f"{100 * metrics['reference']['macro']:.2f}"
    assert by_name["R1-Reward (published, not run here)"] == ["63.84", "85.71", "64.78", "71.92", "71.44"]
    assert by_name["R1-Reward, no pre-clip (published, not run here)"] == ["–", "–", "–", "67.36", "–"]
    assert all("published, not run here" in name for name in by_name if not name.startswith("tiny"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals_follow_from_the_published_columns(name):
    # Typing errors would break this: the tables say how their totals are made.
    weights = {"mm-rlhf-rewardbench": (42, 37, 34, 32, 25)}
    total = {"vl-rewardbench": "macro", "multimodal-rewardbench": "overall", "mm-rlhf-rewardbench": "acc"}[name]
    table = PUBLISHED[name]
    for model, row in table.rows.items():
        if None in row:  # of these the paper has the total alone
            continue
        cells = dict(zip(table.columns, row, strict=True))
        parts = [cells[column] for column in table.columns if column not in table.figures]
        counts = weights.get(name, [1] * len(parts))
        mean = sum(part * count for part, count in zip(parts, counts, strict=True)) / sum(counts)
        assert cells[total] == pytest.approx(mean, abs=0.055), model


def test_the_overall_figures_tell_which_rows_the_papers_code_measured(run, tmp_path):
    counts = {"the paper's code": (484, 448, 318), "the benchmark": (183, 749, 318)}
    fits = {way: set() for way in counts}
    for model, (*parts, overall, _) in PUBLISHED["vl-rewardbench"].rows.items():
        for way, weights in counts.items():
            if None not in parts:
                mean = sum(part * count for part, count in zip(parts, weights, strict=True)) / 1250
                fits[way] |= {model} if abs(mean - overall) < 0.2 else set()
    assert fits["the benchmark"] == {"GPT-4o", "IXC-2.5-Reward"}
    assert fits["the paper's code"] == {"R1-Reward", "R1-Reward, voting@15", "MM-RLHF-Reward"}
    assert "GPT-4o and IXC-2.5-Reward were measured otherwise" in report(tmp_path, run).text


def test_of_a_file_of_preferences_nothing_is_published(tmp_path):
    run = write_pairs(tmp_path / "own", [pair(1, 1, 2)], benchmark="preferences")
    assert published_table("preferences", load_runs([run])) is None
    assert "published" not in report(tmp_path, run).text


def test_runs_of_two_benchmarks_stand_beside_one_another(run, tmp_path):
    other = write_pairs(tmp_path / "other", [pair(1, 1, 2)], benchmark="mm-rlhf-rewardbench", acc_plus=True)
    page = report(tmp_path, run, other)
    assert "mm-rlhf-rewardbench: beside the paper" in page.text
    assert "vl-rewardbench: beside the paper" in page.text
    assert {article["data-run"] for article in page.all("article")} == {"tiny", "other"}


def test_names_that_plots_would_take_for_formulas_are_names(tmp_path):
    run = write_run(tmp_path / "_a$x^{$", [case(1, "$\\frac{"), case(2, "_")], judged(1, 1, 2) + judged(2, 1, 2))
    report(tmp_path, run)


# Which cases are what


def test_kinds(tmp_path):
    expected = {
        (1, 2): {"right"},
        (2, 1): {"wrong"},
        (1, 1): {"wrong", "flipped"},
        (2, 2): {"wrong", "flipped"},
        (None, 2): {"unparsable"},
        (2, None): {"wrong", "unparsable"},
        (None, None): {"unparsable"},
        (1, "absent"): {"right"},
        ("absent", 1): {"wrong"},
    }
    pairs = [pair(row, *verdicts) for row, verdicts in enumerate(expected)]
    index = index_judgements(read_run(write_pairs(tmp_path / "run", pairs)))
    assert {verdicts: {*index.kinds(row)} for row, verdicts in enumerate(expected)} == expected


def test_a_case_is_what_the_reading_of_its_run_says(tmp_path):
    broken = judgement(1, "chosen-first", "<think>t</think>\n<answer>1</answer>")
    run = write_pairs(tmp_path / "run", [(case(1), [broken])], lenient="answer_tag")
    assert index_judgements(read_run(run)).kinds(1) == ("right",)
    assert "Better response first: verdict 1: right" in report(tmp_path, run).text
    strict = write_pairs(tmp_path / "strict", [(case(1), [broken])])
    assert index_judgements(read_run(strict)).kinds(1) == ("unparsable",)


def test_a_case_corrects_itself_if_a_sample_does(run):
    found = index_judgements(read_run(run))
    assert found.kinds(6) == ("right", "self-correcting")
    assert (found.corrections, found.judgements) == (1, 36)
    ((*where, ((before, _), (turn, is_marked), (after, _))),) = found.excerpts
    assert where == [6, "chosen-first", 2]
    assert is_marked
    assert [before[-11:], turn[:4], after[:13]] == ["It is red. ", "Wait", " it is blue.<"]


def test_what_failed_is_neither_right_nor_wrong_and_a_later_line_replaces_it(tmp_path):
    failed = judgement(1, "rejected-first", "", status="failed", tokens=None)
    long = judgement(2, "rejected-first", "", status="too_long", tokens=None)
    run = write_pairs(tmp_path / "run", [(case(0), [failed, long]), *(pair(row, 1, "absent") for row in (1, 2, 3))])
    found = index_judgements(read_run(run))
    assert [found.kinds(row) for row in (1, 2, 3)] == [("right",), ("unparsable",), ("right",)]
    text = report(tmp_path, run).text
    assert "Worse response first: no judgement" in text
    assert "Worse response first: the prompt is too long for the model" in text
    append(run, judgement(1, "rejected-first", says(1)))
    assert index_judgements(read_run(run)).kinds(1) == ("wrong", "flipped")


def append(run, line, end="\n"):
    with open(run / "judgements.jsonl", "a") as file:
        file.write((line if isinstance(line, str) else json.dumps(line)) + end)


def test_a_case_without_a_greedy_judgement_is_not_shown_yet(tmp_path):
    lines = [judgement(1, "chosen-first", "", status="failed"), judgement(1, "chosen-first", says(1, "Wait, no."), 1)]
    lines += [*judged(2, 1, 2), *(judgement(2, order, says(1), 1) for order in ORDERS)]
    found = index_judgements(read_run(write_run(tmp_path / "run", [case(1), case(2)], lines, samples=1)))
    assert found.outcomes.keys() == {2}
    assert found.corrections == 1


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [('{"row": 1, "ord', "not a judgement"), ("[]", "got `array`"), ('{"row": "1"}', "got `str`")],
)
def test_a_torn_last_line_is_left_out_and_a_damaged_one_named(tmp_path, damaged, reason):
    run = write_pairs(tmp_path / "run", [pair(1, 1, 2)])
    append(run, damaged, end="")
    assert index_judgements(read_run(run)).judgements == 2
    append(run, "")
    with pytest.raises(ValueError, match=rf"judgements\.jsonl, line 3: .*{reason}"):
        index_judgements(read_run(run))


# Which cases are shown


def states(right=0, correcting=0, wrong=0, flipped=0, unparsable=0):
    """An index of so many cases; rows are numbered through in this order."""
    outcomes = {"right": "right right", "correcting": "right right", "wrong": "wrong wrong"}
    outcomes |= {"flipped": "right wrong", "unparsable": "none right"}
    counts = {"right": right, "correcting": correcting, "wrong": wrong, "flipped": flipped, "unparsable": unparsable}
    rows = [outcomes[kind].split() for kind, count in counts.items() for _ in range(count)]
    found = {row: dict(zip(ORDERS, pair, strict=True)) for row, pair in enumerate(rows, start=1)}
    return GalleryIndex(found, {*range(right + 1, right + correcting + 1)})


def bad(found, rows):
    return [row for row in rows if "right" not in found.kinds(row)]


@given(st.lists(st.integers(0, 30), min_size=5, max_size=5), st.integers(0, 60))
def test_no_failure_is_hidden_while_there_is_room(counts, count):
    found = states(*counts)
    rows = choose_cases(found, count)
    assert len(rows) == len(set(rows)) == min(count, sum(counts))
    failures = bad(found, found.outcomes)
    if len(failures) <= count:
        assert rows[: len(failures)] == bad(found, rows)
        assert set(failures) <= set(rows)
    else:
        assert len(rows) - len(bad(found, rows)) == min(count // 10, counts[0] + counts[1])


def test_kinds_of_failures_take_turns_and_right_ones_follow(tmp_path):
    found = states(right=5, correcting=5, wrong=5, flipped=5, unparsable=5)
    rows = choose_cases(found, 19)
    kinds = [found.kinds(row)[-1] for row in rows]
    assert kinds == ["flipped", "unparsable", "wrong"] * 5 + ["self-correcting", "right"] * 2
    assert rows == choose_cases(found, 19)
    assert rows != choose_cases(found, 19, seed=1)


def test_the_page_says_the_rule_and_how_many_are_shown(run, tmp_path):
    page = report(tmp_path, run, count=3)
    assert len(page.all("article")) == 3
    assert "3 of 6 judged cases are shown, among them 3 of the 4 failures" in page.text
    assert "Failures come first: a flipped case, an unparsable one and one that is only wrong take turns." in page.text
    assert "a tenth of the places still goes to right cases" in page.text
    assert "flipped: the verdicts of the two orders name different responses." in page.text
    assert "The rules know English only and skip text in quotation marks." in page.text
    assert not report(tmp_path, run, count=0).all("article")


def test_the_page_stays_small(run):
    found = index_judgements(read_run(run))
    cases = read_cases("tiny", read_run(run), choose_cases(found, 6), found)
    whole = make_gallery(cases, 1 << 20)
    assert len(whole["cards"]) == 6
    part = make_gallery(cases, sum(map(len, whole["cards"])) // 2)
    assert 0 < len(part["cards"]) == part["counts"]["all"] < 6


# What a case shows


def test_a_case_shows_question_responses_verdicts_and_votes(run, tmp_path):
    page = report(tmp_path, run)
    assert page.text.count("Better response first: verdict 1: right, the better response") == 3
    for words in (
        "Question 4?",
        "Worse response first: verdict 1: wrong, the worse response",
        "no verdict (missing_tag)",
        "2 samples: 2 right, 0 wrong, 0 without a verdict",
        "Sample 2, better response first, corrects itself",
    ):
        assert words in page.text
    assert len(page.all("mark")) == 2  # among the first matches, and in its case


def test_long_texts_are_cut_in_the_middle(tmp_path):
    run = write_run(tmp_path / "run", [case(1, question="q" * 20_000)], judged(1, 1, 2, reasoning="r" * 20_000))
    text = report(tmp_path, run).text
    assert "[… 12,000 characters are left out here …]" in text
    assert "r</think><answer>1</answer>" in text
    assert "r" * 6_001 not in text


def test_pictures_are_small_copies_and_of_a_video_a_few_frames(tmp_path):
    Image.effect_noise((1200, 800), 90).save(tmp_path / "photo.png")
    frames = [picture(tmp_path / f"{place:02}.png", (place, 0, 0)) for place in range(32)]
    cases = [case(1, media=[str(tmp_path / "photo.png")]), case(2, media=frames)]
    page = report(tmp_path, write_run(tmp_path / "run", cases, judged(1, 1, 2) + judged(2, 1, 2)))
    images = page.all("img", "picture")
    assert sorted(image["src"].split(";")[0] for image in images) == ["data:image/jpeg"] + ["data:image/png"] * 6
    assert "6 of 32 pictures" in page.text
    assert {"picture 1 of 32", "picture 32 of 32"} < {image["alt"] for image in images}
    assert (tmp_path / "report" / "report.html").stat().st_size < 2 << 20


def test_what_is_no_picture_is_named_and_not_opened(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    names = ("text.png", "script.eps", "gone.png")
    paths = [str(tmp_path / name) for name in names]
    page = report(tmp_path, write_run(tmp_path / "run", [case(1, media=paths)], judged(1, 1, 2)))
    assert not page.all("img", "picture")
    for name in names:  # of a long path the page shows the beginning and the end
        assert re.search(f"not readable: [^:]*{re.escape(name)}'", page.text)


@pytest.mark.parametrize(
    ("file", "chosen", "found"),
    [("data.parquet", "better", True), ("data.parquet", "of another file", False), ("gone.parquet", "better", False)],
)
def test_media_in_the_data_file_are_looked_for_there(tmp_path, file, chosen, found):
    one = preference(
        1, question="Which?", response_1="worse", response_2="better", label=2, images=(Media(data=png()),)
    )
    pq.write_table(pa.Table.from_pylist([to_row(one)], schema=SCHEMA), tmp_path / "data.parquet")
    cases = [case(1, media="inline", question="Which?", chosen=chosen, rejected="worse")]
    settings = {"benchmark": "preferences", "media": None, "data": str(tmp_path / file)}
    page = report(tmp_path, write_run(tmp_path / "run", cases, judged(1, 1, 2), **settings))
    assert len(page.all("img", "picture")) == found
    assert ("The pictures stand in the data file of the run, which is gone or has changed." in page.text) != found


# Texts are not trusted

ATTACKS = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"\' onmouseover="window.hacked = 1" autofocus onfocus=\'window.hacked = 1\' x="',
    "--></style></textarea></title><svg onload=window.hacked=1>",
    "{{constructor.constructor('window.hacked = 1')()}} ${window.hacked = 1}",
    "[a](javascript:window.hacked=1) | `code` \\",
    "half \ud800 character and \x00 and \u202e",
)


def test_no_text_becomes_markup(tmp_path):
    harmless, page = (
        report(tmp_path / name, attacked(tmp_path / name, text))
        for name, text in (("harmless", "x"), ("attack", " ".join(ATTACKS)))
    )
    tags, expected = ([(tag, sorted(attributes)) for tag, attributes in one.tags] for one in (page, harmless))
    assert tags == expected
    assert page.inside == harmless.inside
    assert all(page.text.count(attack) >= 10 for attack in ATTACKS[:-1])
    markdown = (tmp_path / "attack" / "report" / "report.md").read_text()
    assert "hacked" in markdown
    assert not re.search(r"(?<!\\)(<\w|\]\()", re.sub(r"(?m)^!?\[.*\]\(([a-z0-9-]+\.\w+)\)$", r"\1", markdown))


def attacked(tmp_path, text):
    """A run in whose every field the text stands."""
    texts = dict.fromkeys(("id", "question", "chosen", "rejected"), text)
    cases = [case(1, text, [text], **texts), case(2, "other", [text], **texts)]
    lines = judged(1, 1, 2, reasoning=f"Wait, {text} Let me check again.")
    lines += [judgement(2, "chosen-first", text), judgement(2, "rejected-first", text, status="failed", error=text)]
    lines += [judgement(2, "chosen-first", f"Wait, {text}", 1)]
    lines += [judgement(row, order, text, 1) for row, order in ((1, "chosen-first"), (1, "rejected-first"))]
    return write_run(tmp_path / "run", cases, lines, samples=1, benchmark=text, model=text, **{text: text})


def test_figures_that_are_no_numbers_are_not_shown(run, tmp_path):
    evil = "<script>window.hacked = 1</script>"

    def texts(metrics):
        voting = {"k": [1, 2], "accuracy": [evil, 1], "any_correct": evil}
        texts = {name: evil if isinstance(value, float | int) else value for name, value in metrics.items()}
        return texts | {"accuracy_ci95": [evil, evil], "voting": voting}

    change_metrics(run, texts)
    page = report(tmp_path, run)
    assert len(page.all("script")) == 1
    assert "hacked" not in page.text


# Wrong use


def test_errors_say_what_is_wrong(run, tmp_path, capsys):
    def error(*argv, code=2):
        assert main(["eval", "report", *map(str, argv)]) == code
        return capsys.readouterr().err

    assert f"no run at '{tmp_path / 'gone'}'" in error(tmp_path / "gone")
    assert "is given twice" in error(run, f"{run}/.")
    (tmp_path / "file").write_text("")
    assert "file" in error(run, "--out", tmp_path / "file", code=1)
    (run / "metrics.json").write_text("{")
    assert "metrics.json: not JSON" in error(run)
    assert "--gallery" in error(run, "--gallery", "-1")


def test_an_interrupted_run_has_a_report(run, tmp_path):
    figures = load_runs([run])[0].figures
    (run / "metrics.json").unlink()
    interrupted = load_runs([run])[0].figures
    assert interrupted.number("accuracy") == figures.number("accuracy")
    (run / "judgements.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no judgements"):
        load_runs([run])


def test_a_judgement_of_no_case_is_an_error(run, tmp_path):
    append(run, judgement(99, "chosen-first", says(1)))
    with pytest.raises(ValueError, match=r"row 99 is judged in .* cases\.jsonl has no such case"):
        report(tmp_path, run)


def test_runs_with_one_name_are_told_apart_by_their_paths(tmp_path):
    runs = [write_pairs(tmp_path / part / "run", [pair(1, 1, 2)]) for part in "ab"]
    assert [run.name for run in load_runs(runs)] == [str(run) for run in runs]
