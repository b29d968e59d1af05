"""The CPU platform for verl and vLLM: the whole pipeline on a machine without a GPU.

`verl_platform` is imported by the plugin when `VERL_PLATFORM=cpu`; `vllm_plugin` runs in every vLLM process
(entry point group `vllm.general_plugins`); `serve` is `vllm serve` for the CPU build. Nothing is imported here.
"""
