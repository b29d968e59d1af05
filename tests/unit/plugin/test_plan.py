"""`r1reward doctor --plan`: parameters of the real classes, activations as they are measured, advice that fits.

Activations are measured on fake tensors, which have shapes and no data: the real layers at their full width, with a
tracker that adds up what is alive.
"""

import copy
import dataclasses
import functools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from r1reward_verl.cli import main
from r1reward_verl.plugin.doctor import compose
from r1reward_verl.plugin.plan.command import plan_lines, print_plan, split_arguments
from r1reward_verl.plugin.plan.memory import (
    GB,
    LANGUAGE,
    LOGITS,
    MOMENTS,
    WEIGHTS,
    cached_tokens,
    plan_memory,
    tightest,
)
from r1reward_verl.plugin.plan.settings import Gpus, read_setup, shortfalls
from r1reward_verl.plugin.plan.shapes import KNOWN, load_shape, read_shape

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "memory.md"
RANDOM_SIZES = {"vocab_size": 640, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def vision_model(shape):
    """Return the config and the class of a model with vision, of a shape."""
    vision = shape.vision
    qwen3 = not vision.gated
    text = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        **({"head_dim": shape.head_size} if qwen3 else {}),
    }
    tower = {
        "depth": vision.depth,
        "hidden_size": vision.hidden,
        "intermediate_size": vision.intermediate,
        "out_hidden_size": vision.outputs,
        "num_heads": 16,
        **({"deepstack_visual_indexes": list(range(vision.deepstack))} if qwen3 else {}),
    }
    kinds = (Qwen3VLConfig, Qwen3VLForConditionalGeneration)
    config, kind = kinds if qwen3 else (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration)
    return config(text_config=text, vision_config=tower, tie_word_embeddings=shape.tied), kind


def parameters(module):
    return sum(one.numel() for one in module.parameters())


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_are_those_of_the_real_class(name):
    shape = KNOWN[name]
    layers = 4 if shape.vision.deepstack else 2
    small = dataclasses.replace(
        shape, layers=layers, vision=dataclasses.replace(shape.vision, depth=layers)
    )  # of the full width
    config, kind = vision_model(small)
    with torch.device("meta"):
        model = kind(config)
    assert parameters(model) == small.parameters
    assert parameters(model.model.visual) == small.vision_parameters
    assert parameters(model.model.language_model.layers[0]) == small.layer_parameters
    linears = {one.name: (one.inputs, one.outputs) for one in (*small.linears(), *small.vision.linears())}
    found = {name: module for name, module in model.named_modules() if name in linears}
    assert {name: (one.in_features, one.out_features) for name, one in found.items()} == linears
    assert read_shape(small.name, config) == small


def test_parameters_of_the_known_models():
    assert {name: shape.parameters for name, shape in KNOWN.items()} == {
        "Qwen2.5-VL-3B": 3_754_622_976,
        "Qwen2.5-VL-7B": 8_292_166_656,
        "Qwen2.5-VL-32B": 33_452_718_336,
        "Qwen2.5-VL-72B": 73_410_777_344,
        "Qwen3-VL-8B": 8_767_123_696,
    }


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (Qwen2Config(**RANDOM_SIZES, **HEADS, tie_word_embeddings=True), Qwen2ForCausalLM),
        (Qwen3Config(**RANDOM_SIZES, **HEADS, head_dim=32), Qwen3ForCausalLM),
    ],
)
def test_a_folder_of_a_text_model(tmp_path, config, kind):
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        assert load_shape(str(tmp_path)).parameters == parameters(kind(config))


def test_names_and_what_is_unknown(tmp_path):
    assert load_shape("Qwen/Qwen2.5-VL-7B-Instruct") is KNOWN["Qwen2.5-VL-7B"]
    with pytest.raises(FileNotFoundError, match="not in the Hugging Face cache"):
        load_shape("nobody/nothing")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="the type 'llama' is not known"):
        load_shape(str(tmp_path))


@pytest.mark.parametrize(("target", "exclude"), [("all-linear", ".*visual.*"), (["q_proj", "qkv"], None)])
def test_lora_parameters_are_those_of_peft(target, exclude):
    from peft import LoraConfig, get_peft_model

    shape = dataclasses.replace(
        KNOWN["Qwen2.5-VL-3B"], layers=2, vision=dataclasses.replace(KNOWN["Qwen2.5-VL-3B"].vision, depth=2)
    )
    config, kind = vision_model(shape)
    with torch.device("meta"):
        model = get_peft_model(kind(config), LoraConfig(r=8, target_modules=target, exclude_modules=exclude))
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert shape.lora_parameters(8, target, exclude) == trained


# -----------------------------------------------------------------------------
# Activations, measured
# -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seven():
    """Qwen2.5-VL-7B with two layers and two blocks, and the setup of the recipe without flash-attention."""
    shape = KNOWN["Qwen2.5-VL-7B"]
    shape = dataclasses.replace(shape, layers=2, vision=dataclasses.replace(shape.vision, depth=2))
    setup = read_setup(recipe("judge=rules"), shape, Gpus(1, 8, 80))
    setup = dataclasses.replace(setup, tokens=8192, flash=False, picture_share=1.0)
    config, kind = vision_model(shape)
    config._attn_implementation = "sdpa"
    with FakeTensorMode() as mode:
        model = kind._from_config(config, dtype=torch.bfloat16).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return mode, model, setup


def measured(module, inputs, forward):
    """Return the bytes of activations after a forward pass, and their peak in the backward pass."""
    tracker = MemTracker()
    tracker.track_external(module, inputs)

    def activations(moment):
        (kinds,) = tracker.get_tracker_snapshot(moment).values()
        by_name = {str(getattr(kind, "value", kind)): size for kind, size in kinds.items()}
        total = by_name.pop("Total")
        return total - sum(by_name.get(name, 0) for name in ("Parameter", "Gradient", "Buffer"))

    with tracker, torch.autocast("cpu", torch.bfloat16):
        output = forward(inputs)
        after = activations("current")
        output.backward(torch.ones_like(output))
    return after, activations("peak")


def test_language_activations_are_those_measured(seven):
    mode, model, setup = seven
    language = model.model.language_model
    with mode:
        positions = torch.arange(setup.tokens).expand(4, 1, setup.tokens)
        inputs = torch.empty(1, setup.tokens, setup.shape.hidden, dtype=torch.bfloat16, requires_grad=True)
        after, peak = measured(
            language,
            inputs,
            lambda inputs: language(inputs_embeds=inputs, position_ids=positions, use_cache=False).last_hidden_state,
        )
    # The mask's numbers are made within a layer.
    assert setup._forward(setup.tokens) - 2 * setup.tokens**2 == pytest.approx(after, rel=0.15)
    assert setup._backward(setup.tokens) == pytest.approx(peak, rel=0.05)


def test_vision_activations_are_those_measured(seven):
    mode, model, setup = seven
    vision, patches = setup.shape.vision, setup.tokens * 4
    lengths = np.array([0, patches])
    pixels = patches * vision.patch_values * 6

    def forward(hidden):
        angles = torch.empty(patches, vision.hidden // 16)
        for block in model.model.visual.blocks:
            hidden = block(hidden, cu_seqlens=lengths, position_embeddings=(angles, angles))
        return hidden

    with mode:
        inputs = torch.empty(patches, vision.hidden, dtype=torch.bfloat16, requires_grad=True)
        after, peak = measured(model.model.visual, inputs, forward)
    assert setup._vision(setup.tokens) - pixels == pytest.approx(after, rel=0.15)
    assert setup._vision(setup.tokens, last=True) - pixels == pytest.approx(peak, rel=0.05)


# -----------------------------------------------------------------------------
# Phases
# -----------------------------------------------------------------------------


# What these tests count with, whatever the recipe chooses.
PLAIN = (
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=24576",
    "actor_rollout_ref.actor.entropy_from_logits_with_chunking=false",
    "actor_rollout_ref.actor.entropy_from_logits_chunk_size=512",
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile=true",
    "actor_rollout_ref.model.use_fused_kernels=false",
    "actor_rollout_ref.rollout.max_model_len=null",
    "reward.reward_model.rollout.gpu_memory_utilization=0.4",
)


@functools.cache
def composed(groups):
    return compose(["+recipe=r1_reward", *groups])


def recipe(*overrides):
    """Return the recipe with overrides; composing takes a second, so each set of groups is composed once."""
    groups = tuple(one for one in overrides if one.startswith("judge="))
    config = copy.deepcopy(composed(groups))
    for override in (*PLAIN, *overrides):
        if override not in groups:
            key, value = override.removeprefix("+").split("=", 1)
            OmegaConf.update(config, key, yaml.safe_load(value), force_add=override.startswith("+"))
    return config


def setup_of(*arguments, model="Qwen2.5-VL-7B"):
    gpus, overrides = split_arguments([f"model={model}", *arguments])
    return read_setup(recipe(*overrides[1:]), load_shape(model), gpus)


def test_training_state_of_the_recipe():
    """The figures of recipes/hardware/8gpu.yaml: 16 bytes for each of 8.3e9 parameters, shared by 8 GPUs."""
    phases = plan_memory(setup_of("gpus=8x80"))
    assert list(phases) == ["rollout", "judge", "log-probs", "loss", "backward", "Adam", "sync"]
    loss = phases["loss"]
    assert loss[WEIGHTS] + loss["gradients"] + loss[MOMENTS] == pytest.approx(132.7e9 / 8, rel=1e-3)
    assert phases["rollout"][MOMENTS] == loss[MOMENTS]
    assert "gradients" not in phases["rollout"]
    # One float32 copy for the entropy beside bf16 logits; the loss writes gradients over them.
    assert phases["log-probs"][LOGITS] == 24576 * 152064 * 6
    assert loss[LOGITS] == 24576 * 152064 * 2


@pytest.mark.parametrize(
    ("override", "phase", "part", "factor"),
    [
        ("actor_rollout_ref.actor.fsdp_config.fsdp_size=4", "loss", WEIGHTS, 2.0),
        ("actor_rollout_ref.actor.fsdp_config.offload_policy=true", "loss", MOMENTS, 0.0),
        ("actor_rollout_ref.actor.fsdp_config.optimizer_offload=true", "rollout", MOMENTS, 0.0),
        ("actor_rollout_ref.actor.fsdp_config.optimizer_offload=true", "loss", MOMENTS, 1.0),
        ("actor_rollout_ref.actor.fsdp_config.param_offload=true", "rollout", WEIGHTS, 0.0),
        ("actor_rollout_ref.model.use_fused_kernels=true", "log-probs", LOGITS, 512 * 14 / (24576 * 6)),
        (
            "actor_rollout_ref.actor.entropy_from_logits_with_chunking=true",
            "log-probs",
            LOGITS,
            (24576 * 2 + 512 * 12) / (24576 * 6),
        ),
        ("actor_rollout_ref.actor.entropy_coeff=0.01", "loss", LOGITS, 6.0),
        ("actor_rollout_ref.rollout.temperature=0.7", "loss", LOGITS, 2.0),
        ("+actor_rollout_ref.model.override_config.attn_implementation=sdpa", "loss", LOGITS, 5.0),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=2", "rollout", "vLLM weights", 0.5),
        ("reward.reward_model.rollout.gpu_memory_utilization=0.2", "judge", "judge", 0.5),
        ("reward.reward_model.rollout.free_cache_engine=false", "loss", "judge", None),
    ],
)
def test_settings_change_what_they_say(override, phase, part, factor):
    before, after = (plan_memory(setup_of("gpus=8x80", *more))[phase] for more in ((), (override,)))
    if factor is None:
        assert part not in before
        assert after[part] == 0.4 * 80 * GB
    else:
        assert after[part] == pytest.approx(factor * before[part])


def test_gradient_checkpointing_and_token_budget():
    few, many = (
        plan_memory(setup_of("gpus=8x80", f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={tokens}"))
        for tokens in (21504, 43008)
    )
    assert many["backward"][LANGUAGE] == pytest.approx(2 * few["backward"][LANGUAGE])
    without = setup_of("gpus=8x80", "actor_rollout_ref.model.enable_gradient_checkpointing=false")
    assert plan_memory(without)["loss"][LANGUAGE] > 10 * few["loss"][LANGUAGE]


def test_micro_batches_without_a_token_budget():
    fixed = ("actor_rollout_ref.actor.use_dynamic_bsz=false", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2")
    setup = setup_of("gpus=8x80", *fixed, "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1")
    assert (setup.tokens, setup.log_prob_tokens) == (2 * 21504, 21504)
    with pytest.raises(ValueError, match="log_prob_micro_batch_size_per_gpu is not set"):
        setup_of("gpus=8x80", *fixed)


def test_a_cache_that_does_not_hold_one_sequence():
    setup = setup_of("gpus=8x80", "judge=rules", model="Qwen3-VL-8B")
    assert 100_000 < cached_tokens(setup.rollout, setup.gpu_bytes) < 262_144
    (problem,) = shortfalls(dataclasses.replace(setup, rollout=dataclasses.replace(setup.rollout, max_length=262_144)))
    assert "rollout's vLLM does not start" in problem


# -----------------------------------------------------------------------------
# The command
# -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "gpus"),
    [("8x80", Gpus(1, 8, 80)), ("2x8x80", Gpus(2, 8, 80)), ("1x23.5", Gpus(1, 1, 23.5))],
)
def test_gpus(text, gpus):
    assert Gpus.parse(text) == gpus


@pytest.mark.parametrize("text", ["8", "0x80", "8x", "1x2x8x80", "8x80GB"])
def test_gpus_of_another_form(text):
    with pytest.raises(ValueError, match="write gpus=8x80"):
        Gpus.parse(text)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["gpus=8x80"], "needs a model"),
        (["model=Qwen2.5-VL-7B"], "needs the memory of a GPU"),
        (["model=Qwen2.5-VL-7B", "gpus=8x80", "+hardware=none"], "Could not find 'hardware/none'"),
        (["model=Qwen2.5-VL-7B", "gpus=8x80", "actor_rollout_ref.actor.strategy=fsdp"], "knows fsdp2 only"),
    ],
)
def test_what_cannot_be_planned(arguments, match):
    with pytest.raises(ValueError, match=match):
        print_plan(arguments)


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("Qwen2.5-VL-32B", ["gpus=2x8x80"]),
        ("Qwen2.5-VL-72B", ["gpus=8x80", "judge=rules"]),
        ("Qwen2.5-VL-3B", ["gpus=1x24"]),
        ("Qwen2.5-VL-7B", ["gpus=1x80"]),
    ],
)
def test_the_advice_composes_and_fits(model, arguments):
    setup = setup_of(*arguments, model=model)
    lines = list(plan_lines(setup, 21504))
    phase, part = tightest(plan_memory(setup))
    assert any(line.startswith(f"tightest: {phase},") and part in line for line in lines)
    advice = [line.strip() for line in lines if line.startswith("  ")]
    ways = [advice] if "Together these make it fit:" in lines else [[one] for one in advice]
    assert ways[0]
    for way in ways:
        overrides = [override for line in way for override in shlex.split(line)]
        assert shortfalls(setup_of(*arguments, *overrides, model=model)) == []


@pytest.mark.parametrize(
    ("name", "model", "gpus"),
    [
        ("r1_reward", "Qwen2.5-VL-7B", "4x80"),
        ("r1_reward_3b", "Qwen2.5-VL-3B", "4x48"),
        ("r1_reward_32b", "Qwen2.5-VL-32B", "2x8x80"),
        ("r1_reward_lora", "Qwen2.5-VL-7B", "1x80"),
        ("r1_reward_lora_24gb", "Qwen2.5-VL-3B", "1x24"),
        ("r1_reward_qwen3_vl_8b", "Qwen3-VL-8B", "8x80"),
    ],
)
def test_recipes_fit_where_they_say(name, model, gpus):
    config = compose([f"+recipe={name}", *Gpus.parse(gpus).overrides])
    assert shortfalls(read_setup(config, load_shape(model), Gpus.parse(gpus))) == []


def test_what_no_setting_helps():
    lines = list(plan_lines(setup_of("gpus=1x8", "judge=rules", model="Qwen2.5-VL-72B"), 21504))
    assert lines[-1].startswith("No setting known here makes it fit")


BLOCKS = re.findall(r"^```console\n\$ r1reward doctor --plan ([^\n]*)\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.mark.parametrize(("arguments", "output"), BLOCKS)
def test_the_page_shows_what_the_command_prints(arguments, output, capsys):
    """Where the recipe changes, `python tools/memory_page.py` writes the tables anew."""
    code = main(["doctor", "--plan", *shlex.split(arguments)])
    assert capsys.readouterr().out == output
    assert code == (0 if output.rstrip().endswith("fits") else 1)


def test_the_page_shows_one_that_fits_and_one_that_does_not():
    assert len(BLOCKS) == 2
    assert [output.rstrip().endswith("\nfits") for _, output in BLOCKS] == [True, False]
