"""vLLM door (entry point `vllm.general_plugins`): runs in every vLLM process, and does nothing on a GPU."""

from __future__ import annotations

import os


def register() -> None:
    """Keep plain linear weights on the CPU, so that a running vLLM can take new weights from the actor.

    vLLM's oneDNN path repacks each linear weight at load and drops the original, after which a weight update
    finds an empty tensor. Serving alone does not need this, but the same process cannot know whether updates
    will come, so it holds wherever `VERL_PLATFORM=cpu`.
    """
    if os.environ.get("VERL_PLATFORM", "").strip().lower() != "cpu":
        return
    import vllm._custom_ops

    vllm._custom_ops._supports_onednn = False
