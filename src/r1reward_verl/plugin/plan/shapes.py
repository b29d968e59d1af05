"""Shapes of models: how many parameters a Hugging Face config makes, by part.

Read from transformers 5.9 (`models/qwen2_5_vl`, `models/qwen3_vl`, `models/qwen2`, `models/qwen3`); the tests compare
the counts with the real classes, built on torch's meta device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl", "qwen2", "qwen3")


@dataclass(frozen=True)
class Linear:
    """A linear layer: the name of its module in the first block that has one, its sizes, and how many there are."""

    name: str
    inputs: int
    outputs: int
    count: int


@dataclass(frozen=True)
class Vision:
    """A vision tower. `gated`: an MLP of three matrices and RMS norms (Qwen2.5-VL), else of two and layer norms."""

    depth: int
    hidden: int
    intermediate: int
    outputs: int
    patch: int
    temporal_patch: int
    merge: int
    channels: int
    gated: bool
    positions: int
    deepstack: int

    @property
    def patch_values(self) -> int:
        """Numbers in a patch of pixels."""
        return self.channels * self.temporal_patch * self.patch**2

    @property
    def pixels_per_token(self) -> int:
        """Pixels of a picture that become one token of the language model."""
        return (self.patch * self.merge) ** 2

    def linears(self) -> list[Linear]:
        """Return the linear layers of blocks and mergers."""
        hidden, inner, merged = self.hidden, self.intermediate, self.hidden * self.merge**2
        block = "model.visual.blocks.0."
        found = [
            Linear(f"{block}attn.qkv", hidden, 3 * hidden, self.depth),
            Linear(f"{block}attn.proj", hidden, hidden, self.depth),
        ]
        if self.gated:
            return [
                *found,
                Linear(f"{block}mlp.gate_proj", hidden, inner, self.depth),
                Linear(f"{block}mlp.up_proj", hidden, inner, self.depth),
                Linear(f"{block}mlp.down_proj", inner, hidden, self.depth),
                Linear("model.visual.merger.mlp.0", merged, merged, 1),
                Linear("model.visual.merger.mlp.2", merged, self.outputs, 1),
            ]
        found += [
            Linear(f"{block}mlp.linear_fc1", hidden, inner, self.depth),
            Linear(f"{block}mlp.linear_fc2", inner, hidden, self.depth),
        ]
        for name, count in (("merger", 1), ("deepstack_merger_list.0", self.deepstack)):
            found += [
                Linear(f"model.visual.{name}.linear_fc1", merged, merged, count),
                Linear(f"model.visual.{name}.linear_fc2", merged, self.outputs, count),
            ]
        return found

    @property
    def parameters(self) -> int:
        """Parameters of patch embedding, blocks, mergers and position table; every linear layer has a bias."""
        linears = sum(one.count * (one.inputs + 1) * one.outputs for one in self.linears())
        patches = self.patch_values * self.hidden
        if self.gated:
            return linears + patches + self.depth * 2 * self.hidden + self.hidden
        norms = (self.depth * 2 + 1) * 2 * self.hidden + self.deepstack * 2 * self.hidden * self.merge**2
        return linears + patches + self.hidden + norms + self.positions * self.hidden


@dataclass(frozen=True)
class Shape:
    """A decoder with grouped attention and a gated MLP, with a vision tower or without one.

    Attributes:
        tied: the output matrix is the embedding.
        attention_bias: q, k and v have biases (Qwen2). `head_norms`: q and k are normalised (Qwen3).
        max_positions: the longest sequence, in tokens.
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    attention_bias: bool
    head_norms: bool
    max_positions: int
    vision: Vision | None

    @property
    def queries(self) -> int:
        """Width of the queries of all heads."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of the keys of all key-value heads; that of the values is the same."""
        return self.kv_heads * self.head_size

    def linears(self) -> list[Linear]:
        """Return the linear layers of the decoder, without the output matrix."""
        layer = "model.language_model.layers.0." if self.vision else "model.layers.0."
        sizes = {
            "self_attn.q_proj": (self.hidden, self.queries),
            "self_attn.k_proj": (self.hidden, self.keys),
            "self_attn.v_proj": (self.hidden, self.keys),
            "self_attn.o_proj": (self.queries, self.hidden),
            "mlp.gate_proj": (self.hidden, self.intermediate),
            "mlp.up_proj": (self.hidden, self.intermediate),
            "mlp.down_proj": (self.intermediate, self.hidden),
        }
        return [Linear(layer + name, *size, self.layers) for name, size in sizes.items()]

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        linears = sum(one.inputs * one.outputs for one in self.linears())
        biases = self.queries + 2 * self.keys if self.attention_bias else 0
        return linears + biases + (2 * self.head_size if self.head_norms else 0) + 2 * self.hidden

    @property
    def table_parameters(self) -> int:
        """Parameters of the embedding, and of the output matrix."""
        return self.vocabulary * self.hidden

    @property
    def language_parameters(self) -> int:
        """Parameters without the vision tower."""
        tables = self.table_parameters * (1 if self.tied else 2)
        return tables + self.layers * self.layer_parameters + self.hidden

    @property
    def vision_parameters(self) -> int:
        """Parameters of the vision tower."""
        return self.vision.parameters if self.vision else 0

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.language_parameters + self.vision_parameters

    def lora_parameters(self, rank: int, target: Any, exclude: Any) -> int:
        """Return the parameters of LoRA's adapters: rank * (inputs + outputs) for each layer that is chosen.

        Args:
            rank: LoRA's rank.
            target: "all-linear", a regular expression of the whole name, or a list of endings, as in PEFT.
            exclude: None, a regular expression or a list of endings, as in PEFT.
        """
        return sum(
            one.count * rank * (one.inputs + one.outputs)
            for one in (*self.linears(), *(self.vision.linears() if self.vision else ()))
            if (target == "all-linear" or _chosen(one.name, target)) and not (exclude and _chosen(one.name, exclude))
        )


def _chosen(name: str, pattern: Any) -> bool:
    if isinstance(pattern, str):
        return re.fullmatch(pattern, name) is not None
    return any(name == ending or name.endswith(f".{ending}") for ending in pattern)


def read_shape(name: str, config: Any) -> Shape:
    """Return the shape that a transformers config describes.

    Raises:
        ValueError: a type of model whose memory is not known here.
    """
    if config.model_type not in MODEL_TYPES:
        raise ValueError(
            f"model={name}: memory of the type {config.model_type!r} is not known. Known: {', '.join(MODEL_TYPES)}"
        )
    text = config.get_text_config()
    return Shape(
        name=name,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=text.vocab_size,
        tied=bool(config.tie_word_embeddings),
        attention_bias=config.model_type.startswith("qwen2") or bool(text.attention_bias),
        head_norms=config.model_type.startswith("qwen3"),
        max_positions=text.max_position_embeddings,
        vision=_read_vision(config.vision_config) if hasattr(config, "vision_config") else None,
    )


def _read_vision(config: Any) -> Vision:
    return Vision(
        depth=config.depth,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        outputs=config.out_hidden_size,
        patch=config.patch_size,
        temporal_patch=config.temporal_patch_size,
        merge=config.spatial_merge_size,
        channels=config.in_channels,
        gated=hasattr(config, "fullatt_block_indexes"),
        positions=getattr(config, "num_position_embeddings", 0),
        deepstack=len(getattr(config, "deepstack_visual_indexes", ())),
    )


def _qwen2_5_vl(
    name: str, layers: int, hidden: int, intermediate: int, kv_heads: int, vocabulary: int, vision_intermediate: int
) -> Shape:
    vision = Vision(32, 1280, vision_intermediate, hidden, 14, 2, 2, 3, gated=True, positions=0, deepstack=0)
    return Shape(
        name,
        layers,
        hidden,
        intermediate,
        heads=hidden // 128,
        kv_heads=kv_heads,
        head_size=128,
        vocabulary=vocabulary,
        tied=name.endswith("3B"),
        attention_bias=True,
        head_norms=False,
        max_positions=128000,
        vision=vision,
    )


# From the config.json of each model.
KNOWN = {
    shape.name: shape
    for shape in (
        _qwen2_5_vl("Qwen2.5-VL-3B", 36, 2048, 11008, 2, 151936, 3420),
        _qwen2_5_vl("Qwen2.5-VL-7B", 28, 3584, 18944, 4, 152064, 3420),
        _qwen2_5_vl("Qwen2.5-VL-32B", 64, 5120, 27648, 8, 152064, 3456),
        _qwen2_5_vl("Qwen2.5-VL-72B", 80, 8192, 29568, 8, 152064, 3456),
        Shape(
            "Qwen3-VL-8B",
            layers=36,
            hidden=4096,
            intermediate=12288,
            heads=32,
            kv_heads=8,
            head_size=128,
            vocabulary=151936,
            tied=False,
            attention_bias=False,
            head_norms=True,
            max_positions=262144,
            vision=Vision(27, 1152, 4304, 4096, 16, 2, 2, 3, gated=False, positions=2304, deepstack=3),
        ),
    )
}


def load_shape(model: str) -> Shape:
    """Return the shape of a model: a folder with a config.json, a known name, or a name in the Hugging Face cache.

    "Qwen/Qwen2.5-VL-7B-Instruct" and "Qwen2.5-VL-7B" name the same shape. Nothing is loaded from elsewhere.

    Raises:
        FileNotFoundError: no such folder, and no such name that is known or in the cache.
        ValueError: a type of model whose memory is not known here.
    """
    folder = Path(model)
    if not folder.is_dir():
        for name in _names(model):
            if name in KNOWN:
                return KNOWN[name]
    from transformers import AutoConfig  # takes a second

    try:
        config = AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    except OSError as error:
        raise FileNotFoundError(
            f"model={model}: no folder with a config.json, and not in the Hugging Face cache. "
            f"Give the folder of a checkpoint, or one of {', '.join(KNOWN)}"
        ) from error
    return read_shape(model, config)


def _names(model: str) -> Iterator[str]:
    name = model.rstrip("/").rpartition("/")[2]
    yield name
    yield re.sub(r"-(Instruct|Thinking)$", "", name)
