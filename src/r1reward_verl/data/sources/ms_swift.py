"""Messages with a rejected response: the form of ms-swift."""

from __future__ import annotations

from collections.abc import Iterator

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import Row, compared_turns, read_turns, required
from r1reward_verl.text import excerpt

_ROLES = {"system": "system", "user": "user", "assistant": "assistant"}


class MsSwift:
    """Preferences in the standard form of modelscope/ms-swift, whatever data set they are of.

    Fields, of its documentation `Customization/Custom-dataset` [code]: `messages`, a list of `role` and `content` that
    ends with the chosen answer; `rejected_response`, a text, or `rejected_messages`, a list as `messages`; `images`,
    `videos`. Other pictures for the rejected answer (`rejected_images`) are refused.
    """

    name = "ms-swift"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the chosen response first."""
        messages = required(row, "messages")
        chosen = read_turns("messages", messages, "role", "content", _ROLES)
        if row.get("rejected_images") not in (None, [], row.get("images")):
            raise ValueError(f"rejected_images is {excerpt(row['rejected_images'])}, and images others")
        if row.get("rejected_messages"):
            rejected = read_turns("rejected_messages", row["rejected_messages"], "role", "content", _ROLES)
        else:
            answer = required(row, "rejected_response")
            if not isinstance(answer, str):
                raise ValueError(f"rejected_response is {excerpt(answer)}; a text is needed")
            rejected = [*chosen[:-1], ("assistant", answer)]
        yield compared_turns(self.name, row, chosen, rejected)
