"""The R1-Reward reward for OpenRLHF, which loads this file and calls `reward_func`: see README.md beside it.

Environment, read when OpenRLHF loads the file:
    R1REWARD_JUDGE_URLS     addresses of the judge's servers, separated by commas; without it the rules judge
    R1REWARD_JUDGE_MODEL    name under which they serve the judge; without it the first that each lists
    R1REWARD_JUDGE_API_KEY  their key, if they want one
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from r1reward_verl.judgement import Choice, parse_label
from r1reward_verl.rewards.openrlhf import response_of
from r1reward_verl.rewards.scorer import Reward, Scorer
from r1reward_verl.rewards.settings import RewardSettings
from r1reward_verl.rewards.statistics import reward_metrics


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any
) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
    """Score the judgements of a call, all at the same time. Any thread may call it, at any time.

    Args:
        queries: N texts, each a prompt and its response, with special tokens.
        prompts: N prompts, after the chat template.
        labels: N labels: 1 or 2, as number or text, or as in the released data, `<answer>1</answer>` in a list or not.
        **_: further arguments of other versions; not looked at.

    Returns:
        Float32 tensors of shape (N,). `rewards`: the reward. `scores`: 1.0 if the right response was chosen, else 0.0,
        for dynamic filtering. `extra_logs`: the names of `reward_metrics` without the latencies, for each judgement
        alone; OpenRLHF logs their means, so that a number of judgements becomes a share.

    Raises:
        ValueError: lengths differ, a query does not start with its prompt, or a label is neither 1 nor 2; the message
            names the row.
    """
    if not len(queries) == len(prompts) == len(labels):
        short = min(len(queries), len(prompts), len(labels))
        raise ValueError(
            f"{len(queries)} queries, {len(prompts)} prompts and {len(labels)} labels: row {short} is not complete"
        )
    rows = list(zip(queries, prompts, labels, strict=True))
    responses = [_response(row, query, prompt) for row, (query, prompt, _) in enumerate(rows)]
    scores = _SCORING.score(responses, [_label(row, label) for row, (_, _, label) in enumerate(rows)])
    parts = [reward_metrics([score.as_info()]) for score in scores]
    names = [name for name in (parts[0] if parts else ()) if not name.startswith("judge/latency_s/")]
    return {
        "rewards": torch.tensor([score.total for score in scores]),
        "scores": torch.tensor([score.result for score in scores]),
        "extra_logs": {name: torch.tensor([part[name] for part in parts]) for name in names},
    }


def _response(row: int, query: str, prompt: str) -> str:
    try:
        return response_of(query, prompt)
    except ValueError as error:
        raise ValueError(f"row {row}: {error}") from None


def _label(row: int, label: Any) -> Choice:
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    try:
        return parse_label(label)
    except ValueError as error:
        raise ValueError(f"row {row}: {error}; --data.label_key names the column that holds the label") from None


def _settings(environment: Mapping[str, str]) -> RewardSettings:
    urls = [url.strip() for url in environment.get("R1REWARD_JUDGE_URLS", "").split(",") if url.strip()]
    model = environment.get("R1REWARD_JUDGE_MODEL") or None
    if not urls:
        if model:
            raise ValueError(f"R1REWARD_JUDGE_MODEL is {model!r} without R1REWARD_JUDGE_URLS: set both, or neither")
        return RewardSettings()
    try:
        return RewardSettings(judge={"name": "endpoint", "urls": urls, "model": model})
    except ValueError as error:
        raise ValueError(f"R1REWARD_JUDGE_URLS: {error}") from None


class _Scoring:
    """A scorer and the event loop it belongs to, in a thread of their own from the first call on."""

    def __init__(self, settings: RewardSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # OpenRLHF before 0.9.1 sends `reward_func`, and this with it, to Ray workers.
        return _Scoring, (self._settings,)

    def score(self, texts: Sequence[str], labels: Sequence[Choice]) -> list[Reward]:
        with self._lock:
            if self._loop is None:
                self._scorer = Scorer(self._settings)
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="r1-reward", daemon=True).start()
                atexit.register(self._close)
        return asyncio.run_coroutine_threadsafe(self._score_all(texts, labels), self._loop).result()

    async def _score_all(self, texts: Sequence[str], labels: Sequence[Choice]) -> list[Reward]:
        return await asyncio.gather(*map(self._scorer.reward, texts, labels))

    def _close(self) -> None:
        close = getattr(self._scorer.judge, "close", None)
        if close and self._loop:
            asyncio.run_coroutine_threadsafe(close(), self._loop).result(timeout=5)


_SCORING = _Scoring(_settings(os.environ))
