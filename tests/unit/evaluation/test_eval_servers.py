"""`r1reward eval run` and `rescore` with real servers that answer in forms of their own, refuse, or are gone."""

import json
import re
import time

import pytest

from benchmark_files import write
from chat_server import Answer, ChatServer, completion
from factories import free_port
from r1reward_verl.cli import main
from r1reward_verl.evaluation.folder import read_run
from r1reward_verl.evaluation.scoring import hints, score_run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"))["vl-rewardbench"][0]


@pytest.fixture
def evaluate(data, tmp_path, capfd):
    """Run the command on a server; returns exit code, what it wrote to both streams, and its figures if there are."""

    def evaluate(server, *options, out="out"):
        url = server if isinstance(server, str) else server.url
        argv = ["eval", "run", "vl-rewardbench", "--model", "judge", "--data", str(data), "--out", str(tmp_path / out)]
        code = main([*argv, "--media", str(data.parent / "media"), "--url", url, *options])
        said = "".join(capfd.readouterr())
        metrics = tmp_path / out / "metrics.json"
        return code, said, json.loads(metrics.read_text()) if metrics.exists() else {}

    return evaluate


def always(text, finish="stop", **message):
    answer = completion(text)
    answer["choices"][0]["finish_reason"] = finish
    answer["choices"][0]["message"] |= message
    return Answer(answer)


class TestReading:
    BROKEN = "<think>Both were read.</think>\n<answer>1</answer>"

    def test_one_fault_of_form_is_counted_named_and_can_be_read_leniently(self, evaluate):
        with ChatServer(always(self.BROKEN)) as server:
            code, said, strict = evaluate(server)
            assert (code, strict["accuracy"], strict["unparsable"]) == (0, 0.0, 1.0)
            assert strict["unparsable_reasons"] == {"text_outside": strict["judgements"]}
            assert "a line break between them" in said
            assert "--lenient answer_tag" in said
            asked = len(server.requests)
            code, said, lenient = evaluate(server, "--lenient", "answer_tag")
        assert len(server.requests) == asked, "the run is complete: it is only read anew"
        assert (code, lenient["accuracy"], lenient["unparsable"], lenient["lenient"]) == (0, 0.5, 0.0, "answer_tag")
        assert "rescore" not in said

    def test_reasoning_that_the_server_took_apart_is_put_back(self, evaluate):
        with ChatServer(always("\n\n<answer>1</answer>", reasoning_content="Both were read.")) as server:
            _, _, metrics = evaluate(server, "--order", "chosen-first")
        assert (metrics["accuracy"], metrics["unparsable"]) == (1.0, 0.0)
        with ChatServer(always("<answer>1</answer>", reasoning="Both were read.")) as server:
            _, _, metrics = evaluate(server, "--order", "chosen-first", out="newer")
        assert metrics["accuracy"] == 1.0

    @pytest.mark.parametrize(("finish", "share", "warned"), [("length", 1.0, True), ("stop", 0.0, False)])
    def test_judgements_that_are_cut_off_are_a_figure_and_a_warning(self, evaluate, finish, share, warned):
        with ChatServer(always("<think>And then", finish)) as server:
            _, said, metrics = evaluate(server)
        assert metrics["cut_off"] == share
        assert ("100.0% of the judgements were cut off at the limit of tokens: raise --max-tokens" in said) == warned
        assert said.count("raise --max-tokens") == 1


def test_a_hint_needs_a_reason_that_explains_most():
    metrics = {"judgements": 100, "cut_off": 0.005, "lenient": None}
    assert hints({**metrics, "unparsable_reasons": {"text_outside": 40, "truncated": 39}})[0].startswith("40.0%")
    assert hints({**metrics, "unparsable_reasons": {"text_outside": 20, "truncated": 19, "no_tags": 15}}) == []
    assert hints({**metrics, "unparsable_reasons": {"text_outside": 1}}) == []
    assert hints({**metrics, "unparsable_reasons": {}}) == []


class TestFailures:
    def test_a_server_that_refuses_everything_ends_the_run_early_with_its_reasons(self, evaluate, tmp_path):
        def script(request):
            return Answer({"error": "pictures are not allowed" if request.number % 4 else "no"}, status=400)

        with ChatServer(script) as server:
            code, said, metrics = evaluate(server, "--samples", "4", "--concurrency", "4")
        assert (code, metrics) == (1, {})
        assert len(server.requests) < 100
        assert re.search(r"none of the first \d+ judgements succeeded", said)
        first, second = re.findall(r"(\d+)  refused: status 400: .*?(no\b|pictures)", said)
        assert (first[1], second[1]) == ("pictures", "no")
        assert int(first[0]) > int(second[0])

    def test_no_server_is_said_within_seconds(self, evaluate):
        start = time.monotonic()
        code, said, _ = evaluate(f"http://127.0.0.1:{free_port()}/v1")
        assert code == 1
        assert "no server can be reached" in said
        assert "Connection refused" in said or "Connect call failed" in said
        assert time.monotonic() - start < 10

    def test_waiting_and_concurrency_are_options(self, evaluate):
        with ChatServer(Answer(delay=30)) as server:
            start = time.monotonic()
            code, said, _ = evaluate(server, "--timeout", "0.5", "--max-wait", "1", "--concurrency", "3")
        assert code == 1
        assert "the servers are gone" in said
        assert time.monotonic() - start < 15
        assert server.most_in_flight <= 3


class TestServers:
    def test_url_and_time_are_recorded_and_another_server_is_refused_unless_asked(self, evaluate, tmp_path):
        good = always("<think>t</think><answer>1</answer>")
        with ChatServer(lambda request: good if request.number < 3 else Answer(status=404)) as first:
            code, _, _ = evaluate(first, "--concurrency", "1")
            assert code == 1
        about = read_run(tmp_path / "out").about
        assert about["urls"] == [first.url]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", about["started"])
        assert about["started"] <= about["ended"]
        with ChatServer(good) as second:
            code, said, _ = evaluate(second)
            assert code == 1
            assert "go on with --other-servers" in said
            code, _, _ = evaluate(second, "--other-servers")
            assert code == 0
        assert read_run(tmp_path / "out").about["urls"] == [second.url]

    def test_a_run_of_before_there_were_urls_is_resumed(self, evaluate, tmp_path):
        with ChatServer(always("<think>t</think><answer>1</answer>")) as server:
            evaluate(server)
            path = tmp_path / "out" / "run.json"
            content = json.loads(path.read_text())
            del content["settings"]["urls"], content["about"]["urls"]
            path.write_text(json.dumps(content))
            assert evaluate(server)[0] == 0


class TestRescore:
    @pytest.fixture
    def run(self, evaluate, tmp_path):
        with ChatServer(always(TestReading.BROKEN)) as server:
            evaluate(server)
        return tmp_path / "out"

    def rescore(self, *argv):
        return main(["eval", "rescore", *map(str, argv)])

    def test_another_reading_protocol_and_interval(self, run, tmp_path, capfd):
        before = {file.name: file.read_bytes() for file in run.iterdir()}
        assert self.rescore(run, "--lenient", "answer_tag", "--json", tmp_path / "figures.json") == 0
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert (figures["accuracy"], figures["lenient"]) == (0.5, "answer_tag")
        assert "50.00" in capfd.readouterr().out
        assert self.rescore(run, "--protocol", "reference") == 0
        assert "100.00" in capfd.readouterr().out
        assert self.rescore(run, "--resamples", "100", "--seed", "3", "--json", tmp_path / "figures.json") == 0
        assert json.loads((tmp_path / "figures.json").read_text()) == score_run(run, resamples=100, seed=3)
        assert {file.name: file.read_bytes() for file in run.iterdir()} == before

    def test_a_copy_can_be_compared_and_reported(self, run, tmp_path, capfd):
        assert self.rescore(run, "--lenient", "last_digit", "--out", tmp_path / "read") == 0
        assert main(["eval", "compare", str(run), str(tmp_path / "read")]) == 0
        assert "+50.0" in capfd.readouterr().out
        assert score_run(tmp_path / "read")["lenient"] == "last_digit"
        assert self.rescore(tmp_path / "read", "--lenient", "strict") == 0
        assert "0.00" in capfd.readouterr().out
        assert self.rescore(run, "--out", tmp_path / "read") == 2
        assert "name a new folder" in capfd.readouterr().err

    def test_it_needs_neither_the_end_of_the_run_nor_its_data(self, run, tmp_path, capfd):
        (run / "metrics.json").unlink()
        lines = (run / "judgements.jsonl").read_text().splitlines(keepends=True)
        (run / "judgements.jsonl").write_text("".join(lines[:5]) + lines[5][:20])
        assert self.rescore(run) == 0
        assert "not judged yet" in capfd.readouterr().out

    def test_what_is_no_run_is_refused(self, tmp_path, run, capfd):
        assert self.rescore(tmp_path / "gone") == 2
        content = json.loads((run / "run.json").read_text())
        content["settings"]["benchmark"] = "mine"
        (run / "run.json").write_text(json.dumps(content))
        assert self.rescore(run) == 2
        assert "a run of 'mine'; known benchmarks: vl-rewardbench" in capfd.readouterr().err


class TestSeveralBenchmarks:
    FILES = ("vl-rewardbench", "mm-rlhf-rewardbench", "judgebench")

    @pytest.fixture
    def command(self, tmp_path):
        files = write(tmp_path)
        argv = ["eval", "run", *self.FILES, "--model", "judge", "--out", str(tmp_path / "out")]
        return [*argv, *(part for name in self.FILES for part in ("--data", str(files[name][0])))]

    def test_one_command_and_one_table(self, command, tmp_path, capfd):
        command += ["--media", str(tmp_path / "media")]
        good = always("<think>t</think><answer>1</answer>")
        with ChatServer(lambda request: good if request.number < 40 else Answer(status=404)) as server:
            assert main([*command, "--url", server.url, "--concurrency", "1"]) == 1
        assert "error: http" in capfd.readouterr().err
        with ChatServer(good) as server:
            assert main([*command, "--url", server.url, "--other-servers"]) == 0
            asked = len(server.requests)
        table = capfd.readouterr().out.rstrip().split("\n\n")[-1].splitlines()
        assert [line.split()[0] for line in table] == ["cases", *self.FILES]
        assert all(" 50.00 [" in line for line in table[1:])
        total = 0
        for name in self.FILES:
            about = read_run(tmp_path / "out" / name).about
            metrics = json.loads((tmp_path / "out" / name / "metrics.json").read_text())
            assert about["judgements"] == metrics["judgements"] == 2 * about["cases"]
            assert about["seconds"] > 0
            total += metrics["judgements"]
        assert total == asked + 40
        assert main(["eval", "report", str(tmp_path / "out")]) == 2
        assert f"it holds the runs {', '.join(sorted(self.FILES))}, name one of them" in capfd.readouterr().err
        alone = ["eval", "run", "judgebench", "--model", "judge", "--out", str(tmp_path / "out" / "judgebench")]
        assert main([*alone, "--data", command[-3], "--url", server.url]) == 0, "each of them is a run of its own"

    def test_files_and_folders_belong_to_benchmarks(self, command, capfd):
        url = ["--url", "http://127.0.0.1:1/v1"]
        assert main([*command, "--data", "more.jsonl", *url]) == 2
        assert "3 benchmarks and 4 files: give --data once for each" in capfd.readouterr().err
        assert main([*command, "--media", "a", "--media", "b", *url]) == 2
        assert "3 benchmarks and 2 folders: give --media once for all, or for each" in capfd.readouterr().err
        assert main(["eval", "run", "vl-bench", "--model", "m", "--data", "d", "--out", "o", *url]) == 2
        assert "the benchmark is 'vl-bench'; known: vl-rewardbench" in capfd.readouterr().err


def test_off_a_terminal_progress_is_lines(capsys, monkeypatch):
    from r1reward_verl import progress

    monkeypatch.setattr(progress, "_SECONDS", 0.05)
    with progress.progress_bar(desc="judging", unit="judgements", total=4) as bar:
        for _ in range(4):
            time.sleep(0.06)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert re.fullmatch(r"judging: \d/4 judgements \(\d+%\), 00:00 so far, 00:00 to go", lines[0])
    with progress.progress_bar(shown=False, total=1) as bar:
        bar.update()
    assert capsys.readouterr().err == ""
