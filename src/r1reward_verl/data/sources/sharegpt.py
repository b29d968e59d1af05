"""ShareGPT conversations with a chosen and a rejected answer: the form of LLaMA-Factory."""

from __future__ import annotations

from collections.abc import Iterator

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import Row, compared_turns, read_turns, required
from r1reward_verl.text import excerpt

_ROLES = {"system": "system", "human": "user", "gpt": "assistant"}


class ShareGPT:
    """Preferences in the ShareGPT form of LLaMA-Factory, whatever data set they are of.

    Fields, of github.com/hiyouga/LLaMA-Factory at 015ff25, `data/README.md` [code]: `conversations`, a list of `from`
    (`human`, `gpt`) and `value` that ends with `human`; `chosen` and `rejected`, one `gpt` message each; `system` and
    `images` if there are any, `videos` likewise [inferred]. Turns of tools are refused.
    """

    name = "sharegpt"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the chosen response first."""
        history = required(row, "conversations")
        if not isinstance(history, list):
            raise ValueError(f"conversations is {excerpt(history)}; a list of messages is needed")
        if row.get("system"):
            history = [{"from": "system", "value": row["system"]}, *history]
        turns = [
            read_turns(f"conversations with {name}", [*history, required(row, name)], "from", "value", _ROLES)
            for name in ("chosen", "rejected")
        ]
        yield compared_turns(self.name, row, *turns)
