"""The model to train."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from r1reward_verl.plugin.preflight.config import Problem, about_tilde, config_value


def check_model(config: DictConfig) -> Iterator[Problem]:
    """The model: a local directory with a config.json, or a Hugging Face name (which is left to verl)."""
    key = "actor_rollout_ref.model.path"
    yield from check_checkpoint(config, key)
    path = Path(str(config_value(config, key)))
    judges = config_value(config, "reward.reward_manager.name") == "r1_reward"
    if judges and (path / "tokenizer_config.json").is_file() and _opens_reasoning(path):
        yield Problem(
            key,
            f"the chat template of {str(path)!r} ends the prompt with <think>, so that no judgement begins with it and "
            "none has the right format",
            "Take a model whose template leaves <think> to the model, such as its Instruct variant",
        )


def check_checkpoint(config: DictConfig, key: str) -> Iterator[Problem]:
    """The checkpoint that a key names: a folder here, or a name on the Hugging Face Hub."""
    checkpoint = "the directory of a Hugging Face checkpoint"
    path = config_value(config, key)
    if path is None:
        yield Problem(key, "not set", f"Give {checkpoint}, or a Hugging Face model name")
        return
    if "://" in str(path):
        return
    local = Path(str(path))
    if local.is_dir():
        if not (local / "config.json").is_file():
            yield Problem(
                key,
                f"{path!r} has no config.json",
                "Give the directory that holds one (in a verl checkpoint: global_step_N/actor/huggingface)",
            )
        return
    if not is_hub_name(path):
        yield Problem(key, f"{path!r} does not exist{about_tilde(path)}", f"Give {checkpoint}")
        return
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(str(path), "config.json"), str):
        yield Problem(
            key,
            f"{path!r} is no directory here, and as a Hugging Face name it is not in the cache "
            f"{constants.HF_HUB_CACHE} (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set)",
            f"Give {checkpoint}, or download the model first",
        )


def is_hub_name(path: Any) -> bool:
    """Tell whether verl would look for a model on the Hugging Face Hub.

    "Qwen/Qwen2.5-VL-7B-Instruct" could be a relative path: it is one where its first part exists.
    """
    name = re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)) is not None
    return name and not Path(str(path)).parent.exists()


def model_config(path: Any) -> dict[str, Any]:
    """Return the config.json in a model's folder, nothing where none is there.

    Raises:
        ValueError: it is no JSON.
    """
    file = Path(str(path), "config.json")
    content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return content


def _opens_reasoning(folder: Path) -> bool:
    """Tell whether the prompts of a model end with `<think>`; not of one whose template or tokenizer cannot be read."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        turns = [{"role": "user", "content": "?"}]
        prompt = str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    except Exception:  # verl says so itself
        return False
    return prompt.rstrip().endswith("<think>")


def reads_texts_only(path: Any) -> bool:
    """Tell whether a folder holds a model without vision; not of a name on the Hub, which nobody has looked at."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    try:
        kind = model_config(path).get("model_type")
    except (OSError, ValueError):
        return False
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
