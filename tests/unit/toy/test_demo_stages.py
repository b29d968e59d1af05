"""The demo without its training: its folder, its stages, and its commands with stand-ins for verl's trainers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from r1reward_verl.cli import main
from r1reward_verl.storage import LockedError, locked
from r1reward_verl.toy.demo import Demo, DemoSettings
from r1reward_verl.toy.stages import TAIL, DemoError, _last_metrics

STAGES = ["toy", "annotate", "select", "sft", "rl", "eval-sft", "eval-rl"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "demo"


@pytest.fixture
def demo(out: Path) -> Demo:
    return Demo(out, DemoSettings(), None)


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module that stands in for a trainer, and return its name for `python -m`."""

    def write(code: str) -> str:
        (tmp_path / "stand_in.py").write_text(code)
        return "stand_in"

    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return write


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


class TestFolder:
    def test_is_continued_with_the_same_settings(self, out: Path, demo: Demo):
        (out / "toy").mkdir()
        Demo(out, DemoSettings(), None)
        assert (out / "toy").is_dir()

    def test_is_refused_with_other_settings(self, out: Path, demo: Demo, capsys: pytest.CaptureFixture[str]):
        before = (out / "settings.json").read_text()
        usual = DemoSettings().rl_steps
        with pytest.raises(DemoError, match=rf"\{{'rl_steps': \({usual}, 777\)\}}; name another folder"):
            Demo(out, DemoSettings(rl_steps=777), None)
        assert main(["demo", "--out", str(out), "--seed", "1"]) == 1
        assert "'seed': (0, 1)" in capsys.readouterr().err
        assert (out / "settings.json").read_text() == before

    def test_is_not_shared_by_two_that_run(self, out: Path, demo: Demo):
        with locked(out):
            with pytest.raises(LockedError, match=r"writes '.*demo'"):
                demo.run()
            assert main(["demo", "--out", str(out), "--fresh"]) == 1
        assert not (out / "stages").exists()

    @pytest.mark.parametrize("is_a_demo", [True, False])
    def test_fresh_removes_a_demo_and_nothing_else(self, out: Path, is_a_demo: bool, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(Demo, "run", lambda self: {})
        out.mkdir()
        (out / "kept").touch()
        if is_a_demo:
            (out / "settings.json").write_text('{"seed": 1}')
        assert main(["demo", "--out", str(out), "--fresh"]) == 0
        assert (out / "kept").exists() != is_a_demo


class TestStages:
    @pytest.fixture
    def demo(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> Demo:
        """A demo whose stages write down that they ran; each named in `broken` fails."""
        demo = Demo(out, DemoSettings(), 12.0)
        demo.ran, demo.broken = [], set()

        def stage(name: str) -> None:
            demo.ran.append(name)
            time.sleep(0.05)
            if name in demo.broken:
                raise DemoError(name)

        monkeypatch.setattr(demo, "_build_toy", lambda: stage("toy"))
        monkeypatch.setattr(demo, "_annotate", lambda: stage("annotate"))
        monkeypatch.setattr(demo, "_select", lambda: stage("select"))
        monkeypatch.setattr(demo, "_sft", lambda: stage("sft"))
        monkeypatch.setattr(demo, "_rl", lambda: stage("rl"))
        monkeypatch.setattr(demo, "_evaluate", lambda of: stage(f"eval-{of}"))
        monkeypatch.setattr(demo, "_report", lambda seconds: {"seconds": seconds})
        return demo

    def test_run_in_order_and_are_timed(self, demo: Demo):
        seconds = demo.run()["seconds"]
        assert demo.ran == STAGES
        assert seconds["install"] == 12.0
        assert all(seconds[stage] >= 0.05 for stage in ("toy", "sft", "rl"))
        assert seconds["eval"] >= 0.1, "both evaluations"

    @pytest.mark.parametrize("broken", STAGES)
    def test_go_on_from_the_one_that_failed(self, demo: Demo, broken: str):
        demo.broken = {broken}
        with pytest.raises(DemoError):
            demo.run()
        assert demo.ran == STAGES[: STAGES.index(broken) + 1]
        demo.broken, demo.ran[:] = set(), []
        demo.run()
        assert demo.ran == STAGES[STAGES.index(broken) :]
        demo.ran.clear()
        demo.run()
        assert demo.ran == []

    def test_seconds_of_all_attempts_are_added_up(self, demo: Demo, out: Path, capsys: pytest.CaptureFixture[str]):
        marker = out / "stages" / "rl.json"
        demo.broken = {"rl"}
        for attempt in (1, 2):
            with pytest.raises(DemoError):
                demo.run()
            state = json.loads(marker.read_text())
            assert not state["done"]
            assert state["seconds"] >= 0.05 * attempt
        demo.broken = set()
        capsys.readouterr()
        seconds = demo.run()["seconds"]
        printed = capsys.readouterr().out
        assert seconds["rl"] >= 0.15
        assert json.loads(marker.read_text()) == {"done": True, "seconds": seconds["rl"]}
        assert "sft: done before" in printed
        assert "rl: resumed" in printed
        assert "eval-sft: started" in printed


@pytest.mark.parametrize(("model", "pixels"), [("qwen2.5-vl", 3136), ("qwen3-vl", 4096), ("qwen3", None)])
def test_pictures_keep_the_size_that_a_model_takes(out: Path, monkeypatch: pytest.MonkeyPatch, model, pixels):
    """Four whole tokens: with the bounds of another model they would be scaled down to one, or up."""
    ran: list[str] = []
    monkeypatch.setattr(Demo, "train", lambda self, stage, command, *rest, **environment: ran.extend(command))
    monkeypatch.setattr(Demo, "command", lambda self, stage, arguments: ran.extend(arguments))
    demo = Demo(out, DemoSettings(model=model), None)
    demo._sft()
    demo._rl()
    demo._evaluate("sft")
    given = [word for word in ran if "pixels" in word or word == str(pixels)]
    bounds = [f"data.mm_processor_kwargs.{name}={pixels}" for name in ("min_pixels", "max_pixels")]
    options = ["--min-pixels", str(pixels), "--max-pixels", str(pixels)]
    assert given == ([*bounds, *bounds, *options] if pixels else [])


class TestCommands:
    def test_a_failing_one_shows_the_end_of_its_log_and_its_exit_code(
        self, demo: Demo, out: Path, trainer: Callable[[str], str]
    ):
        module = trainer(
            "import sys\nfor i in range(100): print('line', i)\nprint('no memory', file=sys.stderr)\nsys.exit(3)"
        )
        with pytest.raises(DemoError) as failed:
            demo.train("rl", [module], 5, demo.checkpoint("rl"))
        lines = str(failed.value).splitlines()
        assert lines[: TAIL - 1] == [f"line {i}" for i in range(100 - TAIL + 1, 100)]
        assert lines[TAIL - 1] == "no memory"
        assert "ended with code 3" in lines[-1]
        assert str(out / "logs" / "rl.log") in lines[-1]
        assert "line 0\n" in (out / "logs" / "rl.log").read_text()

    def test_one_that_leaves_no_checkpoint_has_failed(self, demo: Demo, trainer: Callable[[str], str]):
        with pytest.raises(DemoError, match=r"global_step_\d+/actor/huggingface; its log is .*rl\.log"):
            demo.train("rl", [trainer("")], 5, demo.checkpoint("rl"))

    def test_each_attempt_has_its_own_metrics_file(self, demo: Demo, out: Path, trainer: Callable[[str], str]):
        demo.checkpoint("rl").mkdir(parents=True)
        code = """
import json, os, sys
line = {"step": 1, "data": {"critic/score/mean": 1.5, "arguments": sys.argv[1:], "here": os.getcwd()}}
line["data"] |= {key: os.environ.get(key) for key in ("VERL_PLATFORM", "EXTRA")}
print("once more")
open(os.environ["VERL_FILE_LOGGER_PATH"], "w").write(json.dumps(line) + "\\n")
"""
        for _ in range(2):
            demo.train("rl", [trainer(code), "a=1"], 1, demo.checkpoint("rl"), EXTRA="x")
        first, second = sorted((out / "logs").glob("rl-*.jsonl"))
        assert first.read_text() == second.read_text()
        data = json.loads(first.read_text())["data"]
        assert (data["VERL_PLATFORM"], data["EXTRA"], data["here"]) == ("cpu", "x", str(out))
        assert {"a=1", "trainer.logger=[console,file]"} <= set(data["arguments"])
        assert (out / "logs" / "rl.log").read_text() == "once more\n" * 2

    @pytest.mark.parametrize("stubborn", [False, True])
    def test_nothing_of_a_failed_one_is_left(
        self, demo: Demo, tmp_path: Path, stubborn: bool, trainer: Callable[[str], str]
    ):
        child = f"import signal, time; signal.signal(15, signal.{'SIG_IGN' if stubborn else 'SIG_DFL'}); time.sleep(60)"
        code = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}])
time.sleep(0.5)
pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
sys.exit(1)
"""
        with pytest.raises(DemoError):
            demo.train("rl", [trainer(code)], 5, demo.checkpoint("rl"))
        wait_until(lambda: not running(int((tmp_path / "child").read_text())), 1)

    @pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_it_dies_with_the_demo(self, out: Path, tmp_path: Path, sign: int, trainer: Callable[[str], str]):
        pid = tmp_path / "pid"
        module = trainer(
            f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)"
        )
        code = (
            "import sys;"
            "from r1reward_verl.toy.demo import Demo, DemoSettings;"
            "demo = Demo(sys.argv[1], DemoSettings(), None);"
            "demo.train('rl', sys.argv[2:], 5, demo.checkpoint('rl'))"
        )
        parent = subprocess.Popen([sys.executable, "-c", code, str(out), module], stderr=subprocess.DEVNULL)
        wait_until(lambda: pid.exists() and pid.read_text() != "")
        child = int(pid.read_text())
        assert running(child)
        os.kill(parent.pid, sign)
        parent.wait(30)
        wait_until(lambda: not running(child), 5)


def test_stages_at_the_same_time_note_their_own_seconds(demo: Demo, out: Path, trainer: Callable[[str], str]):
    """Each while its command runs, and none after it is done."""
    module = trainer("import sys, time; time.sleep(float(sys.argv[1]))")
    demo.checkpoint("rl").mkdir(parents=True)

    def run(name: str, seconds: float) -> None:
        demo.stage(name, lambda: demo.train(name, [module, str(seconds)], 1, demo.checkpoint("rl")))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, ("long", "short"), (3, 0.5)))
    long, short = (json.loads((out / "stages" / f"{name}.json").read_text()) for name in ("long", "short"))
    assert long["done"]
    assert short["done"]
    assert short["seconds"] < 3 <= long["seconds"]


class TestProgress:
    def note(self, tmp_path: Path, *lines: str) -> tuple[int, str]:
        (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
        return _last_metrics(tmp_path / "metrics.jsonl")

    def test_before_the_first_step(self, tmp_path: Path):
        assert _last_metrics(tmp_path / "none.jsonl") == (0, "")
        assert self.note(tmp_path, "") == (0, "")

    def test_reward_of_rl_and_loss_of_sft(self, tmp_path: Path):
        assert self.note(tmp_path, '{"step": 2, "data": {"critic/score/mean": 1.23456}}', "") == (2, "reward 1.235")
        assert self.note(tmp_path, '{"step": 7, "data": {"train/loss": 0.5}}', "") == (7, "loss 0.500")

    def test_a_line_that_is_half_written_is_passed_over(self, tmp_path: Path):
        whole = '{"step": 2, "data": {"critic/score/mean": 1.0}}'
        last = '{"step": 3, "data": {"critic/score/mean": 2.5}}'
        for length in range(len(last)):
            assert self.note(tmp_path, whole, last[:length]) == (2, "reward 1.000")
        assert self.note(tmp_path, whole, last) == (3, "reward 2.500")

    def test_a_validation_keeps_the_note_of_the_step(self, tmp_path: Path):
        step, validation = '{"step": 6, "data": {"critic/score/mean": 1.5}}', '{"step": 6, "data": {"val/acc": 0.8}}'
        assert self.note(tmp_path, step, validation, "") == (6, "reward 1.500")
