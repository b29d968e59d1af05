"""How known judges are asked and read, by name: `r1reward eval run --preset`.

Only our own wording is shipped. The prompt of another model is the user's file, or comes from the model's card on the
Hugging Face Hub. Both may be code or Markdown that holds the prompt as a Python string, as the models' own scripts do:
it is taken from the syntax tree, and nothing of it is run.

Sources: github.com/yfzhang114/r1_reward at 3693413, `inference/VL-Reward-Bench/r1_reward.py`;
github.com/CodeGoat24/UnifiedReward at ff6f520, `UnifiedReward-Think/inference_qwen/image_understanding/` and
`benchmark_evaluation/VL-RewardBench/` (the pixels are the bounds of Qwen2.5-VL's processor, which it leaves alone).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from r1reward_verl.engines.messages import MediaPosition
from r1reward_verl.evaluation.reading import Reading
from r1reward_verl.judgement import FIELDS, PROMPT, build_prompt, load_template

_PLAIN = """\
Here are a question and two responses to it. Judge which response answers the question better. Consider whether it is \
right, whether it agrees with the image or video if there is one, and whether it is useful. Their order and their \
length must not matter. Explain your judgement in a few sentences, and end with one line of this form:
Verdict: 1
or
Verdict: 2

Question:
{question}

Response 1:
{response_1}

Response 2:
{response_2}"""
# Names in others' scripts, in small letters and without `_` -> our fields.
_NAMES = {
    **dict.fromkeys(("question", "query", "prompt"), "question"),
    **dict.fromkeys(("r1", "response1", "responsea", "answer1", "answera"), "response_1"),
    **dict.fromkeys(("r2", "response2", "responseb", "answer2", "answerb"), "response_2"),
}
_CODE_BLOCK = re.compile(r"^```(?:python|py)\s*\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Preset:
    """How a judge is asked and read."""

    prompt: str = ""  # template of the prompt; "" if it is not ours to ship
    model: str = ""  # name on the Hub of the model whose card is looked into for its prompt
    reading: Reading = "strict"  # of its judgements
    media_position: MediaPosition = "before"
    max_tokens: int = 4096
    min_pixels: int = 3136
    max_pixels: int = 501_760


PRESETS = {
    "contract": Preset(PROMPT),
    "r1-reward": Preset(model="yifanzhang114/R1-Reward", reading="last_digit"),
    "unified-reward-think": Preset(
        model="CodeGoat24/UnifiedReward-Think-qwen-7b", reading="answer_words", max_pixels=12_845_056
    ),
    "plain": Preset(_PLAIN, reading="verdict", max_tokens=2048),
}


def load_prompt(preset: str, file: str | None) -> str:
    """Return the template of a prompt with the placeholders of `judgement.FIELDS`.

    Args:
        preset: one of `PRESETS`.
        file: text with the placeholders, or code (`.py`) or Markdown (`.md`) that holds the prompt as a string; None
            for the preset's own.

    Raises:
        ValueError, FileNotFoundError: the file is none, or holds no such prompt, or the Hub does not give it.
    """
    known = PRESETS[preset]
    if file is None and known.prompt:
        return known.prompt
    if file is not None and Path(file).suffix not in (".py", ".md"):
        return load_template(file)
    path = Path(file) if file is not None else _model_card(preset, known.model)
    try:
        return prompt_in_code(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; give the prompt with --prompt-template") from None


def _model_card(preset: str, model: str) -> Path:
    from huggingface_hub import hf_hub_download  # takes a second to import

    try:
        return Path(hf_hub_download(model, "README.md"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the prompt of --preset {preset} is not part of this package, and the Hub does not give the card of "
            f"{model}: {str(error).splitlines()[0]}. Give --prompt-template: a file with {{question}}, {{response_1}} "
            "and {response_2}, or the script of the model's own evaluation"
        ) from None


def prompt_in_code(text: str) -> str:
    """Return the first string in Python code, or in the code blocks of Markdown, that is a prompt for two responses.

    Its placeholders get our names. `str.format` templates and f-strings are understood.

    Raises:
        ValueError: there is none.
    """
    for code in _CODE_BLOCK.findall(text) or [text]:
        try:
            tree = ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in ast.walk(tree):
            try:
                template = "".join(_parts(node))
                build_prompt("", "", "", template)
            except ValueError:
                continue
            return template
    raise ValueError(f"no string in it is a prompt with a question and two responses ({', '.join(FIELDS)})")


def _parts(node: ast.AST) -> Iterator[str]:
    """Yield the texts and placeholders of a string; nothing for anything else."""
    if isinstance(node, ast.JoinedStr):
        for value in node.values:
            if isinstance(value, ast.Constant):
                yield str(value.value)
            elif isinstance(value, ast.FormattedValue):
                yield _placeholder(value.value.id if isinstance(value.value, ast.Name) else "")
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        for literal, name, _, _ in Formatter().parse(node.value):
            yield literal
            if name is not None:
                yield _placeholder(name)


def _placeholder(name: str) -> str:
    return "{" + _NAMES.get(name.lower().replace("_", ""), name) + "}"
