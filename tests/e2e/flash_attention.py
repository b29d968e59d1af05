"""flash-attention in plain torch, for a machine without a GPU: what verl and transformers call for packed sequences."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float | None = None, causal: bool = False, **_: Any
) -> Tensor:
    """Attention of shape (batch, tokens, heads, size)."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, scale=softmax_scale, is_causal=causal, enable_gqa=True)
    return out.transpose(1, 2)


def flash_attn_varlen_func(q: Tensor, k: Tensor, v: Tensor, *, cu_seqlens_q: Tensor, **options: Any) -> Tensor:
    """Attention within each of the sequences that stand behind one another, shape (tokens, heads, size)."""
    lengths = cu_seqlens_q.diff().tolist()
    parts = zip(*(tensor.split(lengths) for tensor in (q, k, v)), strict=True)
    return torch.cat([flash_attn_func(*(part[None] for part in parts_), **options)[0] for parts_ in parts])


def install() -> None:
    """Let this process find flash-attention; before verl or a model is imported."""
    from transformers.utils import import_utils

    package, padding = ModuleType("flash_attn"), ModuleType("flash_attn.bert_padding")
    package.__spec__, padding.__spec__ = ModuleSpec("flash_attn", None), ModuleSpec("flash_attn.bert_padding", None)
    package.flash_attn_func, package.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func
    package.flash_attn_with_kvcache = padding.pad_input = padding.unpad_input = None  # for generation and padding
    sys.modules |= {"flash_attn": package, "flash_attn.bert_padding": padding}
    import_utils.PACKAGE_DISTRIBUTION_MAPPING["flash_attn"] = ["flash-attn"]
    import_utils.is_flash_attn_2_available = lambda: True

    import transformers.utils

    transformers.utils.is_flash_attn_2_available = lambda: True


def in_float32() -> None:
    """Keep verl's attention of Qwen2.5-VL in float32, where the real one knows 16 bits only."""
    from verl.models.transformers import qwen2_vl

    qwen2_vl.fa_peft_integration_check = lambda q, k, v, **_: (q, k, v)
