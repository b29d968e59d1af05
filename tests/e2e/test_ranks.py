"""Two FSDP2 ranks compute what one computes: verl's actor worker as `main_ppo` builds it, over gloo, without Ray."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from factories import free_port
from r1reward_verl.toy.model import build_model, build_processor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# Step -> largest relative difference of its gradients. Adam's first step is about lr * sign(gradient), also where the
# gradient is nothing but rounding, so that ranks start the next step from weights that differ a little more.
STEPS = {"untied": 1e-5, "untied, next": 1e-4, "lora": 1e-5, "lora, next": 2e-3, "tied": 1e-5, "packed": 1e-5}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    processor = build_processor(["one two three"])
    tied = build_model(processor, seed=0)
    tied.save_pretrained(folder / "tied")
    tied.config.tie_word_embeddings = tied.config.text_config.tie_word_embeddings = False
    type(tied)(tied.config).save_pretrained(folder / "untied")
    for name in ("tied", "untied"):
        processor.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def out(models, tmp_path_factory) -> Path:
    """What one rank and two ranks wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    start = "import flash_attention, sys; flash_attention.install(); import ranks; sys.exit(ranks.main(*sys.argv[1:]))"
    here = Path(__file__).parent
    paths = [here, here.parents[1] / "benchmarks", *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-c", start, str(models), str(folder), str(free_port()), str(free_port())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    logs = [f"{file.name}:\n{file.read_text()[-3000:]}" for file in sorted(folder.glob("log-*.txt"))]
    assert done.returncode == 0, "\n\n".join([done.stderr[-3000:], *logs])
    return folder


@pytest.fixture(scope="module")
def found(out) -> dict[int, list[dict]]:
    """Number of ranks -> what each of them found."""
    return {ranks: [torch.load(out / f"found-{ranks}-{rank}.pt") for rank in range(ranks)] for ranks in (1, 2)}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference of tensors with the same names, relative to the largest value of each."""
    assert one.keys() == other.keys()
    return max(
        ((one[name] - other[name]).abs().max() / one[name].abs().max().clamp(min=1e-6)).item()
        for name in one
        if one[name] is not None
    )


@pytest.mark.parametrize("name", STEPS)
def test_two_ranks_compute_what_one_does(found, name):
    (one,), two = [step[name] for step in found[1]], [step[name] for step in found[2]]
    scores = two[0]["old_log_probs"] | two[1]["old_log_probs"]
    assert len(two[0]["old_log_probs"]) == len(two[1]["old_log_probs"]) == len(scores) / 2
    assert difference(one["old_log_probs"], scores) < 1e-5
    for rank in two:
        torch.testing.assert_close(rank["advantages"], one["advantages"])
        assert rank["metrics"] == pytest.approx(one["metrics"], rel=1e-5)
        trained = {key for key, value in rank["gradients"].items() if value is not None}
        assert trained == {key for key, value in one["gradients"].items() if value is not None}
        assert trained
        assert difference(one["gradients"], rank["gradients"]) < STEPS[name]
        assert difference(two[0]["weights"], rank["weights"]) == 0.0


def test_one_of_the_ranks_had_no_pictures(found):
    assert [rank["untied, next"]["pictures"] for rank in found[2]] == [4, 0]
    assert all(rank["untied"]["pictures"] for rank in found[2])


def test_packed_sequences_compute_what_padded_ones_do(found):
    """With a stand-in for flash-attention in plain torch."""
    padded, packed = found[1][0]["untied"], found[1][0]["packed"]
    assert difference(padded["old_log_probs"], packed["old_log_probs"]) < 1e-5
    assert packed["metrics"] == pytest.approx(padded["metrics"], rel=1e-5)
    assert difference(padded["gradients"], packed["gradients"]) < 1e-4


def test_ranks_that_share_sequences_compute_what_one_does(found):
    """Ulysses: each of two ranks has half the tokens of every sequence, and half the heads in the attention."""
    one, two = found[1][0]["packed"], [rank["ulysses"] for rank in found[2]]
    assert two[0]["metrics"] == pytest.approx(one["metrics"], rel=1e-5)
    assert two[1]["metrics"] == {}, "only the first of them reports"
    for rank in two:
        assert len(rank["old_log_probs"]) == len(one["old_log_probs"])
        assert difference(one["old_log_probs"], rank["old_log_probs"]) < 1e-5
        assert difference(one["gradients"], rank["gradients"]) < 1e-4


@pytest.mark.parametrize("ranks", [1, 2])
def test_lora_trains_the_adapters_of_the_language_model_alone(found, ranks):
    for rank in found[ranks]:
        gradients, weights = rank["lora, next"]["gradients"], rank["lora, next"]["weights"]
        trained = {name for name, value in gradients.items() if value is not None}
        assert trained == {name for name in gradients if "lora_" in name}
        assert trained
        assert not any("visual" in name for name in trained)
        assert all(gradients[name].abs().max() > 0 for name in trained)
        before = rank["lora"]["weights"]
        moved = {name for name in weights if not torch.equal(weights[name], before[name])}
        assert moved == {name for name in weights if "lora_" in name}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("case", ["untied", "lora"])
def test_a_resumed_run_goes_on_as_if_it_had_not_ended(found, case, ranks):
    for rank in found[ranks]:
        assert difference(rank[case]["weights"], rank[f"{case}, loaded"]) == 0.0
        for key in ("gradients", "weights"):
            assert difference(rank[f"{case}, next"][key], rank[f"{case}, resumed"][key]) == 0.0
        assert rank[f"{case}, resumed"]["metrics"] == rank[f"{case}, next"]["metrics"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_verl_cannot_load_the_checkpoint_of_another_number_of_ranks(out, ranks):
    """The preflight refuses it for this reason (`test_preflight_resume.py`)."""
    for rank in range(ranks):
        said = (out / f"other-{ranks}-{rank}.txt").read_text()
        assert said.startswith("FileNotFoundError")
        assert f"model_world_size_{ranks}_rank_{rank}.pt" in said
