"""R1-Reward-RL: the released training rows of R1-Reward."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import (
    UNKNOWN,
    Row,
    pair_id,
    read_media_list,
    read_picture,
    read_text,
    required,
    without_markers,
)
from r1reward_verl.judgement import parse_label
from r1reward_verl.text import excerpt


class R1RewardRL:
    """The released training rows of R1-Reward (Hugging Face `yifanzhang114/R1-Reward-RL`), parquet or jsonl.

    Fields, of the card at revision c3243ab [card] and of github.com/yfzhang114/r1_reward at 3693413, README 2.2 and
    2.3, `openrlhf/trainer/ppo_utils/data_processor.py` [code]: `question`; `message`, the JSON text of one user message
    of a text part and an image part; `answer`, a list with `<answer>1</answer>` or `<answer>2</answer>`; `image`.

    The responses stand in the text of `message` only, and are cut out between its headings. Those are in three
    places of that repository (README 2.3 and 4, `inference/VL-Reward-Bench/r1_reward.py`,
    `inference/Multimodal-Reward/get_mm-rlhf_reward.py`), with four or six `#`; no full row was seen.

    Unconfirmed: `image` (165 kB a row by the card, so base64 of a picture [inferred]; a data URI and a path are read
    too, and without any the author's path in `message`, an absolute one, is kept). Video parts: refused, the
    reference's own loader cannot read them.

    Args:
        headings: other headings of question, response 1, response 2 and of what follows them, as they stand in
            `message`, without `#`, `*` and colons; None for the reference's.

    Raises:
        ValueError: not four different headings.
    """

    name = "r1-reward-rl"

    def __init__(self, headings: Sequence[str] | None = None) -> None:
        self._headings, self._pattern = _HEADINGS, _PATTERN
        if headings is None:
            return
        self._headings = tuple(heading.strip() for heading in headings)
        if len(set(self._headings)) != 4 or not all(self._headings):
            raise ValueError(
                f"the headings are {list(headings)}; four different ones are needed: of the question, of the two "
                "responses, and of what follows them"
            )
        names = "|".join(map(re.escape, self._headings))
        self._pattern = re.compile(rf"^[ \t#*]*({names})[ \t*:]*$", re.MULTILINE)

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's preference, in the order of responses that the row has."""
        message = required(row, "message")
        try:
            (turn,) = json.loads(message) if isinstance(message, str) else message
            kinds = [str(part["type"]) for part in turn["content"]]
            texts = [part["text"] for part in turn["content"] if part["type"] == "text"]
            paths = [part["image"] for part in turn["content"] if part["type"] == "image"]
            (prompt,) = texts
            sections = self._pattern.split(prompt)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError(
                f"message is {excerpt(message)}; one chat message of one text and its images is needed"
            ) from None
        if others := set(kinds) - {"text", "image"}:
            raise ValueError(f"message has a part of type {excerpt(others.pop())}; only text and image can be read")
        headings = sections[1::2]
        if len(headings) != 4 or not all(map(str.startswith, headings, self._headings)):
            raise ValueError(
                f"the prompt in message has the headings {excerpt(headings)}, not once each "
                f"{', '.join(self._headings)}: the responses cannot be told apart (other headings: --headings)"
            )
        answers = row.get("answer")
        labels = {parse_label(answer) for answer in (answers if isinstance(answers, list) else [answers])}
        if len(labels) != 1:
            raise ValueError(f"answer is {excerpt(answers)}; one label is needed")
        # One column cannot hold several pictures; the paths in the message can.
        images = (read_picture(row, "image"),) if row.get("image") and len(paths) < 2 else read_media_list(paths)
        if not images:
            raise ValueError(f"image is {excerpt(row.get('image'))}, and message names no picture")
        folders = str(paths[0]).split("/") if paths else []
        yield Preference(
            id=pair_id(folders[-1].rpartition(".")[0] if folders else UNKNOWN, prompt),
            source=self.name,
            category=(folders[-2] if len(folders) > 1 else "") or UNKNOWN,
            question=without_markers(read_text(row, "question")),
            response_1=sections[4].strip(),
            response_2=sections[6].strip(),
            label=labels.pop(),
            images=images,
        )


_HEADINGS: tuple[str, ...] = ("[Question]", "[Response 1]", "[Response 2]", "Output Format")
_PATTERN = re.compile(
    r"^#{2,6} (?:\*\*)?(\[Question\]|\[Response 1\]|\[Response 2\]|Output Format[^\n]*):?[ \t]*$", re.MULTILINE
)
