"""What a judgement is: the prompt that asks for one, and the parser that turns its text into a verdict.

A judgement is the text a generative reward model writes when it compares two responses: the comparison in
`<think>...</think>`, then `<answer>1</answer>` or `<answer>2</answer>`. The contract is that of R1-Reward
(arXiv 2505.02835, section 4); the wording of the prompt is this project's own. Nothing of verl is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

PROMPT = """\
Two responses to the same question are given below. Decide which one is better.

First compare them side by side inside <think> and </think>: check each against the question and against \
the image or video, if there is one, and end by saying which response is better. Then write your choice \
inside <answer> and </answer>: 1 if Response 1 is better, 2 if Response 2 is better. A tie is not allowed.

[Question]
{question}

[Response 1]
{response_1}

[Response 2]
{response_2}

Write nothing outside the tags:
<think>your comparison</think><answer>1 or 2</answer>"""

FIELDS = ("question", "response_1", "response_2")
MEDIA_MARKERS = ("<image>", "<video>", "<audio>")

Choice = Literal[1, 2]
Lenient = Literal["answer_tag", "last_digit"]
LENIENT_MODES: tuple[str, ...] = get_args(Lenient)
Failure = Literal[
    "no_tags",  # none of the four tags
    "truncated",  # the text ends where a well-formed judgement could still go on
    "missing_tag",  # some tags are there, others are not, and more text would not mend it
    "several_thinks",  # <think> or </think> more than once, so also nested ones
    "several_answers",  # <answer> or </answer> more than once
    "wrong_order",  # each tag once, but not in the order of the contract
    "text_outside",  # text before, between or after the two blocks
    "answer_not_1_or_2",  # well-formed, but the answer is neither 1 nor 2
]

_THINK, _THINK_END, _ANSWER, _ANSWER_END = "<think>", "</think>", "<answer>", "</answer>"
_PLACEHOLDER = re.compile(r"\{(" + "|".join(FIELDS) + r")\}")
_BRACED = re.compile(r"\{\w{1,40}\}")
_MARKER_START = re.compile(r"<(?=(?:image|video|audio)>|\|\w{1,40}\|>)")
_LABELS: dict[str, Choice] = {"1": 1, "2": 2, "<answer>1</answer>": 1, "<answer>2</answer>": 2}


@dataclass(frozen=True)
class Verdict:
    """What a judgement says.

    Attributes:
        choice: the better response, 1 or 2; None if the text gives no readable choice.
        reason: why the text breaks the contract, None if it keeps it. With a lenient mode a choice can
            be read from a text that breaks the contract; both are set then.
        think: the comparison; of a malformed text everything before `<answer>`, without think tags.
        answer: what stands in the first complete answer block, stripped; "" if there is none.
    """

    choice: Choice | None
    reason: Failure | None
    think: str
    answer: str

    @property
    def well_formed(self) -> bool:
        """Whether the tags keep the contract, whatever the answer is (the paper's format reward)."""
        return self.reason is None or self.reason == "answer_not_1_or_2"


def build_prompt(question: str, response_1: str, response_2: str, template: str = PROMPT) -> str:
    """Put a question and its two responses into a prompt template.

    The template is filled in a single pass, so braces or `{question}` inside a response stay as they are.
    Media markers (`<image>`, `<video>`, `<audio>`) in the inserted texts become `< image>` and so on: verl's
    dataset splits the prompt at every such marker and gives each one of the row's images, so a response that
    merely quotes one would steal an image or end the run. Chat control tokens (`<|im_end|>`) get the same
    space: the tokenizer would take them for real, and a response could end the user's turn. Everything else
    is inserted letter by letter.

    Raises:
        ValueError: the template does not hold each placeholder exactly once, or holds a media marker.
    """
    return "".join(text for _, text in prompt_parts(question, response_1, response_2, template))


def prompt_parts(
    question: str, response_1: str, response_2: str, template: str = PROMPT
) -> list[tuple[str | None, str]]:
    """Return what `build_prompt` joins: pieces of text, each with the field that it fills, None for the template's own.

    Raises:
        ValueError: see `build_prompt`.
    """
    values = dict(zip(FIELDS, (question, response_1, response_2), strict=True))
    parts = _template_parts(template)
    return [
        (part, escape_markers(values[part])) if position % 2 else (None, part) for position, part in enumerate(parts)
    ]


def escape_markers(text: str) -> str:
    """Put a space into media markers and chat control tokens, so that they are text (see `build_prompt`)."""
    return _MARKER_START.sub("< ", text)


def load_template(path: str | Path) -> str:
    """Read a prompt template from a UTF-8 file, for example the exact one of a released checkpoint.

    The text is used as it stands, except that one newline at the end of the file is dropped.

    Raises:
        FileNotFoundError: no file at `path`.
        ValueError: not UTF-8, or not a usable template (see `build_prompt`); the message names the file.
    """
    try:
        template = Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"prompt template {str(path)!r} is not a file: give the path of a text file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"prompt template {str(path)!r} is not UTF-8 text: {error}") from None
    try:
        _template_parts(template)
    except ValueError as error:
        raise ValueError(f"prompt template {str(path)!r}: {error}") from None
    return template


@lru_cache(maxsize=8)
def _template_parts(template: str) -> tuple[str, ...]:
    """Split a template into text, field name, text, field name, ..., text."""
    parts = tuple(_PLACEHOLDER.split(template))
    for field in FIELDS:
        if (count := parts[1::2].count(field)) != 1:
            seen = ", ".join(sorted(set(_BRACED.findall(template)))) or "none"
            raise ValueError(
                f"{{{field}}} must stand in it exactly once, but stands in it {count} times "
                f"(placeholders found: {seen}); a template needs "
                "{question}, {response_1} and {response_2}"
            )
    if marker := next((marker for marker in MEDIA_MARKERS if marker in template), None):
        raise ValueError(
            f"{marker} must not stand in a template: media markers belong to the rows of the data, "
            "which have them before or after the text. Remove it"
        )
    return parts


def parse_label(value: Any) -> Choice:
    """Read the label of a preference: 1 or 2, as a number, as text, or as `<answer>1</answer>`.

    The last form is that of the released R1-Reward data.

    Raises:
        ValueError: anything else; the caller adds where the value came from.
    """
    is_number = hasattr(value, "__index__") and not isinstance(value, bool)
    label = _LABELS.get(str(value)) if is_number or isinstance(value, str) else None
    if label is None:
        raise ValueError(f"label {value!r:.80} is neither 1 nor 2 (allowed: 1, 2, '1', '2', '<answer>1</answer>', ...)")
    return label


def parse(text: str, lenient: Lenient | None = None) -> Verdict:
    """Read the verdict from a judgement, in time linear in its length.

    The strict contract (the reference's format rule, `^<think>.*?</think><answer>.*?</answer>$`):
    each of the four tags exactly once, in order, and nothing before, between or after the blocks. Whitespace
    around the whole text and around the answer is ignored, as the reference does; between the blocks even
    whitespace is text. The reference counts opening tags only; a second closing tag fails here.
    Only the ASCII digits 1 and 2 are answers.

    Args:
        text: what the model wrote, without special tokens.
        lenient: None for the contract alone. "answer_tag": the first complete answer block counts whatever
            stands around it (the reference's training reward). "last_digit": as "answer_tag", and a text
            without such a block means its last digit 1 or 2 (the reference's evaluation).

    Raises:
        ValueError: unknown `lenient`.
    """
    if lenient is not None and lenient not in LENIENT_MODES:
        raise ValueError(f"lenient {lenient!r} is unknown; known: None, {', '.join(map(repr, LENIENT_MODES))}")
    text = text.strip()
    reason = _malformed(text)
    if reason is None:
        think, _, rest = text[len(_THINK) : -len(_ANSWER_END)].partition(_THINK_END)
        answer = rest[len(_ANSWER) :].strip()
        choice = _read_choice(answer)
        return Verdict(choice, None if choice else "answer_not_1_or_2", think, answer)

    head, _, tail = text.partition(_ANSWER)
    block, closed, _ = tail.partition(_ANSWER_END)
    think = head.replace(_THINK, "").replace(_THINK_END, "")
    answer = block.strip() if closed else ""
    choice = None
    if lenient and closed:
        choice = _read_choice(answer)
    elif lenient == "last_digit":
        last = max(text.rfind("1"), text.rfind("2"))
        choice = _read_choice(text[last]) if last >= 0 else None
    return Verdict(choice, reason, think, answer)


def _read_choice(answer: str) -> Choice | None:
    return 1 if answer == "1" else 2 if answer == "2" else None


def _malformed(text: str) -> Failure | None:
    """Say why the tags of a stripped text break the contract, or None."""
    counts = [text.count(tag) for tag in (_THINK, _THINK_END, _ANSWER, _ANSWER_END)]
    if not any(counts):
        return "no_tags"
    if max(counts[2:]) > 1:
        return "several_answers"
    if max(counts[:2]) > 1:
        return "several_thinks"
    if counts != [1, 1, 1, 1]:
        return "truncated" if _cut_short(text, counts) else "missing_tag"
    think_end, answer, answer_end = text.index(_THINK_END), text.index(_ANSWER), text.index(_ANSWER_END)
    if not text.index(_THINK) < think_end < answer < answer_end:
        return "wrong_order"
    if text.startswith(_THINK) and think_end + len(_THINK_END) == answer and answer_end + len(_ANSWER_END) == len(text):
        return None
    return "text_outside"


def _cut_short(text: str, counts: list[int]) -> bool:
    """Whether more text could still make a well-formed judgement of this one."""
    if not text.startswith(_THINK) or counts not in ([1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]):
        return False
    after_think = text.partition(_THINK_END)[2]
    return after_think.startswith(_ANSWER) or _ANSWER.startswith(after_think)
