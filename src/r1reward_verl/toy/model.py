"""Tiny, randomly initialised models of the Qwen family with a tokenizer and the real processor classes.

Small enough to train on two cores in minutes, built like the real things: verl, vLLM and transformers load them
as they load Qwen2.5-VL-7B, Qwen3-VL-8B and the text-only Qwen3-8B. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

ModelName = Literal["qwen2.5-vl", "qwen3-vl", "qwen3"]
PIXELS: dict[ModelName, int | None] = {"qwen2.5-vl": 56 * 56, "qwen3-vl": 64 * 64, "qwen3": None}
"""Pixels of a picture as each model sees it: four tokens of 28 x 28 or of 32 x 32; None for one that has no vision."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VIDEO_FRAMES = 32
"""Frames of the longest video that Qwen3-VL sees in the toy's full resolution."""
# Qwen's 0.02 is meant for widths in the thousands; at a width of 128 the model then stays at chance four times longer.
INITIALIZER_RANGE = 0.06
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part['type'] == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def build_processor(
    corpus: Iterable[str], vocabulary: int = 640, name: ModelName = "qwen2.5-vl", fixed: Collection[str] = ()
) -> Any:
    """Train a byte-level BPE on `corpus` and wrap it in the real processor of a model.

    Args:
        corpus: Texts the model will read and write.
        vocabulary: Size of the vocabulary, special tokens included and `fixed` not.
        name: Which model.
        fixed: Texts that become one token each.

    Returns:
        A `Qwen2_5_VLProcessor` or `Qwen3VLProcessor` for pictures of the toy world's size; the tokenizer itself for a
        model that reads texts only.
    """
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = transformers.Qwen2TokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        unk_token=None,
        additional_special_tokens=list(SPECIAL_TOKENS),
    )
    tokenizer.add_tokens(list(dict.fromkeys(fixed)))
    pixels = PIXELS[name]
    if pixels is None:
        tokenizer.chat_template = CHAT_TEMPLATE
        return tokenizer
    bounds = {"min_pixels": pixels, "max_pixels": pixels}
    if name == "qwen3-vl":
        return transformers.Qwen3VLProcessor(
            image_processor=transformers.Qwen2VLImageProcessor(**bounds, patch_size=16),
            # Its bounds are of a whole video, and it knows no others.
            video_processor=transformers.Qwen3VLVideoProcessor(
                size={"shortest_edge": pixels, "longest_edge": VIDEO_FRAMES * pixels}
            ),
            tokenizer=tokenizer,
            chat_template=CHAT_TEMPLATE,
        )
    return transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**bounds),
        video_processor=transformers.Qwen2VLVideoProcessor(**bounds),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: Any, seed: int, name: ModelName = "qwen2.5-vl") -> Any:
    """Return a randomly initialised model of two to three million parameters for `processor`'s vocabulary.

    The head size is 64, one that vLLM's CPU attention has a kernel for.
    """
    import torch
    import transformers

    tokenizer = getattr(processor, "tokenizer", processor)
    token_id = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": (len(tokenizer) + 63) // 64 * 64,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "initializer_range": INITIALIZER_RANGE,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **_ROPE[name]},
        "tie_word_embeddings": True,
        "bos_token_id": token_id("<|endoftext|>"),
        "eos_token_id": token_id("<|im_end|>"),
        "pad_token_id": token_id("<|endoftext|>"),
    }
    vision = {
        "initializer_range": INITIALIZER_RANGE,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 2,
        "out_hidden_size": 128,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        **_VISION[name],
    }
    both = {
        "text_config": text,
        "vision_config": vision,
        "image_token_id": token_id("<|image_pad|>"),
        "video_token_id": token_id("<|video_pad|>"),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
        "tie_word_embeddings": True,
        "initializer_range": INITIALIZER_RANGE,
    }
    torch.manual_seed(seed)
    if name == "qwen3":
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**text))
    elif name == "qwen3-vl":
        model = transformers.Qwen3VLForConditionalGeneration(transformers.Qwen3VLConfig(**both))
    else:
        model = transformers.Qwen2_5_VLForConditionalGeneration(transformers.Qwen2_5_VLConfig(**both))
    model = model.float()
    model.generation_config.update(
        bos_token_id=text["bos_token_id"],
        eos_token_id=[text["eos_token_id"], text["bos_token_id"]],
        pad_token_id=text["pad_token_id"],
        do_sample=True,
    )
    return model


# Halves of a head of 64 for time, height and width.
_ROPE: dict[ModelName, dict[str, Any]] = {
    "qwen2.5-vl": {"mrope_section": [8, 12, 12]},
    "qwen3-vl": {"mrope_section": [12, 10, 10], "mrope_interleaved": True},
    "qwen3": {},
}
_VISION: dict[ModelName, dict[str, Any]] = {
    "qwen2.5-vl": {
        "depth": 2,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    },
    # What its blocks 0 and 1 see is added to the first two layers of the text; the position embedding is of 16 x 16.
    "qwen3-vl": {"depth": 3, "patch_size": 16, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 256},
    "qwen3": {},
}


def save_model(
    out: Path, corpus: Iterable[str], seed: int, name: ModelName = "qwen2.5-vl", fixed: Collection[str] = ()
) -> None:
    """Build the processor (see `build_processor`) and the model, and save them at `out` in Hugging Face form."""
    processor = build_processor(corpus, name=name, fixed=fixed)
    build_model(processor, seed, name).save_pretrained(out)
    processor.save_pretrained(out)
