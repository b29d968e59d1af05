"""`make gpu-check` rehearsed without a GPU: what is measured is written after each section, what is missing is said."""

import importlib
import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_check")


@pytest.fixture
def sections(gpu_check):
    return importlib.import_module("_gpu_sections")


def test_the_first_sections_need_torch_alone(gpu_check, tmp_path, monkeypatch, capsys):
    nothing = tmp_path / "hidden"
    nothing.mkdir()
    for package in ("verl", "vllm", "ray", "transformers"):
        (nothing / f"{package}.py").write_text(f"raise ModuleNotFoundError('none here', name={package!r})")
    monkeypatch.setenv("PYTHONPATH", f"{nothing}:{BENCHMARKS.parent / 'src'}")
    only = ["numbers", "vanilla"]
    assert gpu_check.main(["--device", "cpu", "--only", *only, "--folder", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert list(written["sections"]) == only
    measured, skipped = written["sections"].values()
    assert [figure["name"].split(",")[0] for figure in measured["figures"]] == ["advantages", "loss", "gradient"]
    assert all(figure["met"] and 0 < figure["value"] < 1e-4 for figure in measured["figures"])
    assert skipped["sentence"] == "Not run: the package verl is not installed."
    assert written["date"].startswith("20")
    assert written["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert skipped["sentence"] in capsys.readouterr().out


def test_a_section_that_fails_or_dies_does_not_end_the_others(gpu_check, tmp_path, monkeypatch, capsys):
    child = tmp_path / "_gpu_sections.py"
    child.write_text(
        "import json, os, signal, sys\n"
        "from pathlib import Path\n"
        "if sys.argv[1] == 'loss': os.kill(os.getpid(), signal.SIGKILL)\n"
        "content = {'status': 'failed', 'sentence': 'Failed with OutOfMemoryError: 3 GiB.', 'figures': []}\n"
        "Path(sys.argv[3], sys.argv[1] + '.json').write_text(json.dumps(content))\n"
    )
    monkeypatch.setattr(gpu_check, "__file__", str(child))
    out = tmp_path / "out"
    assert gpu_check.main(["--device", "cpu", "--only", "loss", "step", "--folder", str(out)]) == 1
    died, failed = json.loads((out / "gpu_check.json").read_text())["sections"].values()
    assert died["sentence"] == f"The section ended with exit code -9. Its log is {out}/loss.log."
    assert failed["sentence"] == f"Failed with OutOfMemoryError: 3 GiB. Its log is {out}/step.log."
    assert died["sentence"] in capsys.readouterr().out


def test_errors_of_a_section_become_sentences(sections, tmp_path, monkeypatch):
    def no_memory(device, folder):
        raise torch.cuda.OutOfMemoryError("tried to allocate\n 3 GiB")

    monkeypatch.setitem(sections.SECTIONS, "step", no_memory)
    assert sections.outcome("step", "cpu", tmp_path) == {
        "status": "failed",
        "sentence": "Failed with OutOfMemoryError: tried to allocate 3 GiB.",
        "figures": [],
    }
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert sections.outcome("pool", "cuda", tmp_path)["sentence"] == (
        "Not run: a judge beside the training needs a second GPU."
    )


def test_without_a_gpu_nothing_is_measured_as_if_on_one(gpu_check, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--device", "cuda"]) == 1
    assert "torch sees no CUDA GPU: nothing was run." in capsys.readouterr().out


def test_wrong_numbers_miss_their_target(sections, tmp_path, monkeypatch):
    exact = sections.stable_reinforce_advantage

    def in_bf16(rewards, mask, **options):
        advantages, *rest = exact(rewards, mask, **options)
        return advantages.to(rewards.dtype).to(advantages.dtype), *rest

    monkeypatch.setattr(sections, "stable_reinforce_advantage", in_bf16)
    advantages, *_ = sections.numbers("cpu", tmp_path)
    assert not advantages.met


def test_the_loss_is_measured_beside_its_peer(sections):
    x = torch.zeros(1000)
    ours, peers = {"ours": lambda: x + 1}, {"peer": lambda: (x + 1) * 2 * 3}
    time, peak, operators = sections.beside(ours | peers, "sum", "cpu", x.nbytes)
    assert (peak.value, peak.peer) == pytest.approx((1, 2), abs=0.01)
    assert operators.peer == 3 * operators.value
    assert 0 < time.value < 1000
    assert {figure.compare for figure in sections.beside(ours, "sum", "cpu", x.nbytes)} == {"value"}
