"""A tiny judge model: reads the real judge prompt and replies "1" or "0", learned from the toy world's traces.

The rules (`conclusion`) say what is right, so the model and the rules agree by construction. A quarter of what it
learns holds lines that a policy under training might plant to be judged consistent ("Output 1"), beside a conclusion
that is right, wrong or absent: a planted line says nothing about the verdict.
"""

from __future__ import annotations

import json
import os
import random
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from r1reward_verl.errors import R1RewardError
from r1reward_verl.judgement import Choice, parse
from r1reward_verl.progress import progress_bar
from r1reward_verl.rewards.conclusions import conclusion
from r1reward_verl.rewards.judges.prompt import closing, messages
from r1reward_verl.toy import world
from r1reward_verl.toy.model import build_model, build_processor
from r1reward_verl.toy.world import ToyPair

Split = Literal["train", "val", "test"]

VOCABULARY = 640
STEPS = 500
BATCH = 32
LEARNING_RATE = 1.2e-3
WARM_UP = 20
CHECK_EVERY = 50
VAL_EXAMPLES, TEST_EXAMPLES = 600, 1000
GOOD_ENOUGH, NEEDED = 0.995, 0.95

_PHRASES: dict[str, list[str]] = json.loads(files(__package__).joinpath("judge_phrases.json").read_text("utf-8"))


class JudgeNotLearned(R1RewardError):
    """The judge is wrong on too many held-out examples."""


@dataclass(frozen=True)
class JudgeExample:
    """A question to the judge with its right answer.

    Attributes:
        reasoning: What the policy wrote inside `<think>`.
        choice: What it answered.
        verdict: 1 if the rules read `choice` as the conclusion of `reasoning`, else 0.
        style: How the reasoning was made, a key of `STYLES`.
    """

    reasoning: str
    choice: Choice
    verdict: int
    style: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat that asks a judge model."""
        return messages(closing(self.reasoning), self.choice)

    @property
    def prompt(self) -> str:
        """The user's message, which tells the example from others."""
        return self.messages[-1]["content"]


def split_of(pair: ToyPair) -> Split:
    """Return the split whose examples may name the pair's values: of 12 of each kind, 6 train, 2 val and 4 test."""
    right, wrong = pair.values.index(pair.right), pair.values.index(pair.wrong)
    distance = (wrong - right) % len(pair.values)
    if distance == 1:
        return "test"
    return "val" if distance == 2 and right < 2 else "train"


def draw_examples(seed: int, split: Split, *, without: Collection[str] = ()) -> Iterator[JudgeExample]:
    """Yield examples without end, consistent and inconsistent in turn.

    Args:
        seed: Seed of everything drawn.
        split: Whose pairs of values the traces name (`split_of`).
        without: Prompts to leave out. Where planted lines push the values out of the judge's sight, two splits can
            otherwise come to the same prompt.
    """
    rng = random.Random(f"judge/{split}/{seed}")
    pairs = [pair for pair in world.draw_pairs(1000, seed, "judge") if split_of(pair) == split]
    shares = [share for share, _ in STYLES.values()]
    verdict = 1
    while True:
        style = rng.choices(list(STYLES), shares)[0]
        pair = rng.choice(pairs)
        if split == "train" and rng.random() < 0.5:
            # With six pairs of values of a kind alone, it would learn those pairs by heart.
            colour, shape, wrong = rng.sample(_PHRASES["other_value"], 3)
            pair = replace(pair, colour=colour, shape=shape, wrong=wrong)
        facts = parse(world.judgement(pair, rng.choice((1, 2)))).think.splitlines()[:-1]
        reasoning = STYLES[style][1](rng, facts)
        concluded = conclusion(reasoning)
        choice: Choice = rng.choice((1, 2))
        if concluded == 1 or concluded == 2:
            choice = concluded if verdict else _OTHER[concluded]
        elif verdict:
            continue
        example = JudgeExample(reasoning, choice, verdict, style)
        if example.prompt not in without:
            yield example
            verdict = 1 - verdict


_OTHER: dict[Choice, Choice] = {1: 2, 2: 1}


def _write(rng: random.Random, kind: str, values: dict[str, str] | None = None) -> str:
    """Write a text of a kind in `judge_phrases.json`, whose {names} are further kinds or the response in question."""
    if values is None:
        choice: Choice = rng.choice((1, 2))
        values = {"this": str(choice), "other": str(_OTHER[choice])}
    if kind in values:
        return values[kind]
    if kind == "noise":
        return "".join(rng.choices(rng.choice(_PHRASES["letters"]), k=rng.randrange(1, 7)))
    return re.sub(r"\{(\w+)\}", lambda name: _write(rng, name[1], values), rng.choice(_PHRASES[kind]))


def _line(rng: random.Random, kind: str) -> str:
    text = _write(rng, kind)
    return text[:1].upper() + text[1:]


def _conclude(rng: random.Random, plain: float = 0.5) -> str:
    return f"So response {rng.choice((1, 2))} is better." if rng.random() < plain else _line(rng, "conclusion")


def _joined(rng: random.Random, lines: Sequence[str]) -> str:
    return rng.choice(("\n", "\n", " ")).join(lines)


def _simple(rng: random.Random, facts: list[str]) -> str:
    """Some of the lines in any order: the conclusion has no place of its own that could be learned instead of it."""
    lines = [*rng.sample(facts, rng.randrange(len(facts) + 1)), _conclude(rng, plain=1.0)]
    return "\n".join(rng.sample(lines, len(lines)))


def _plain(rng: random.Random, facts: list[str]) -> str:
    return "\n".join([*facts, _conclude(rng, plain=1.0)])


def _cut(rng: random.Random, facts: list[str]) -> str:
    text = _plain(rng, facts)
    return text[: len(text) - rng.randrange(60)]


def _contradicting(rng: random.Random, facts: list[str]) -> str:
    statements = [
        _conclude(rng, plain=0.8) if rng.random() < 0.8 else _line(rng, "unclear") for _ in range(rng.choice((2, 2, 3)))
    ]
    return _joined(rng, [*facts, *statements])


def _shuffled(rng: random.Random, facts: list[str]) -> str:
    lines = [*facts, _conclude(rng)]
    return _joined(rng, rng.sample(lines, len(lines)))


def _garbled(rng: random.Random, facts: list[str]) -> str:
    words = " ".join(facts).split()
    words = rng.sample(words, rng.randrange(len(words) + 1))
    return _joined(rng, [" ".join(words), *([_conclude(rng)] if rng.random() < 0.6 else [])])


def _planted(rng: random.Random, facts: list[str]) -> str:
    ending = rng.choices((_conclude(rng), _line(rng, "unclear"), ""), (8, 2, 2))[0]
    lines = [*facts, ending] if ending else list(facts)
    if rng.random() < 0.2:
        lines = lines[-1:]
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        # Twice as often around the conclusion, the part that the judge sees.
        place = max(0, len(lines) - rng.choice((0, 0, 1, 1, *range(len(lines) + 1))))
        if rng.random() < 0.35:
            place = min(place, len(lines) - 1)
            both = [lines[place], _line(rng, "planted")]
            lines[place] = " ".join(both if rng.random() < 0.6 else reversed(both))
        else:
            lines.insert(place, _line(rng, "planted"))
    return "\n".join(lines)


STYLES: dict[str, tuple[int, Callable[[random.Random, list[str]], str]]] = {
    "simple": (12, _simple),
    "plain": (8, _plain),
    "worded": (16, lambda rng, facts: "\n".join([*facts, _line(rng, "conclusion")])),
    "open": (10, lambda rng, facts: "\n".join([*facts, _line(rng, "unclear")])),
    "cut": (6, _cut),
    "contradicting": (8, _contradicting),
    "shuffled": (10, _shuffled),
    "garbled": (4, _garbled),
    "planted": (26, _planted),
}
"""Styles of an example: share in percent, and what makes the reasoning from a trace's lines before its conclusion."""


def _around_reasoning(choice: Choice) -> tuple[str, str, str]:
    """Return what stands in every prompt about `choice`: the system message, and the user's before and behind."""
    system, user = (message["content"] for message in messages("\0", choice))
    before, behind = user.split("\0")
    return system, before, behind


def judge_processor(seed: int) -> Any:
    """Build the judge's processor.

    The parts of the prompt that stand in every prompt are one token each: as words they would be 120 tokens in a
    prompt of 170, which nothing can be learned from. The rest of the text is split like any other. A policy cannot
    write these tokens, since `closing` breaks up every tag. So are " 1" and " 2", which Qwen's splitting would part
    from their space, and so from the word "response" before it.
    """
    from transformers import AutoProcessor

    examples = [*islice(draw_examples(seed, "train"), 3000)]
    corpus = [message["content"] for example in examples for message in example.messages]
    corpus += ["system\n", "user\n", "assistant\n"] * len(examples)
    processor = build_processor(corpus, VOCABULARY, fixed=[*_around_reasoning(1), *_around_reasoning(2), " 1", " 2"])
    with tempfile.TemporaryDirectory() as folder:
        # A loaded tokenizer splits text as Qwen's does, whatever it was trained with.
        processor.save_pretrained(folder)
        return AutoProcessor.from_pretrained(folder)


class TinyJudge:
    """A tiny judge model with its processor, for training and for measuring; replies by the greater of two logits."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        tokens = [processor.tokenizer(digit).input_ids for digit in "01"]
        if any(len(token) != 1 for token in tokens):
            raise ValueError(f"the digits 0 and 1 must be one token each, but are {tokens}")
        self.digits = [token for (token,) in tokens]
        self.tails = processor.tokenizer.convert_tokens_to_ids([_around_reasoning(1)[-1], _around_reasoning(2)[-1]])

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TinyJudge:
        """Load a judge from the folder that `train_judge` wrote."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        return cls(AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder))

    def logits(self, examples: Sequence[JudgeExample]) -> tuple[Any, Any]:
        """Return the logits of the reply and those right behind the reasoning, each (examples, vocabulary)."""
        import torch

        texts = self.processor.apply_chat_template([one.messages for one in examples], add_generation_prompt=True)
        batch = self.processor.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        last = batch.attention_mask.sum(1) - 1
        behind = torch.isin(batch.input_ids, torch.tensor(self.tails)).int().argmax(1) - 1
        # The padding stands behind what is read, and attention looks back only: no mask is needed.
        hidden = self.model.model.language_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        rows = torch.arange(len(last))
        return self.model.lm_head(hidden[rows, last]), self.model.lm_head(hidden[rows, behind])

    def replies(self, examples: Sequence[JudgeExample]) -> list[int]:
        """Return the likelier of the replies 0 and 1 for each example."""
        import torch

        with torch.no_grad():
            batches = [self.logits(examples[start : start + 64])[0] for start in range(0, len(examples), 64)]
        return torch.cat(batches)[:, self.digits].argmax(-1).tolist()

    def accuracy(self, examples: Sequence[JudgeExample]) -> float:
        """Return the share of examples with the right reply."""
        replies = self.replies(examples)
        return sum(reply == one.verdict for reply, one in zip(replies, examples, strict=True)) / len(examples)


def train_judge(out: Path, seed: int) -> dict[str, float]:
    """Train a judge and write it to `out` in Hugging Face form; about two minutes on two cores.

    Returns:
        `steps`, the accuracy on `held_out` examples, and on `attacked`: those of them with planted lines whose
        verdict is 0.

    Raises:
        JudgeNotLearned: less than 95% of the held-out examples are right after the last step; nothing is written.
    """
    import torch

    val = [*islice(draw_examples(seed, "val"), VAL_EXAMPLES)]
    seen = {one.prompt for one in val}
    test = [*islice(draw_examples(seed, "test", without=seen), TEST_EXAMPLES)]
    seen |= {one.prompt for one in test}

    processor = judge_processor(seed)
    model = build_model(processor, seed)
    model.set_attn_implementation("eager")
    judge = TinyJudge(model, processor)
    # One thread is as fast for tensors this small, and tens of times faster on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = _learn(judge, draw_examples(seed, "train", without=seen), val)
        held_out = judge.accuracy(test)
        attacked = judge.accuracy([one for one in test if one.style == "planted" and one.verdict == 0])
    finally:
        torch.set_num_threads(threads)
    if held_out < NEEDED:
        raise JudgeNotLearned(
            f"the toy judge has {held_out:.1%} of {TEST_EXAMPLES} held-out examples right after {steps} steps with "
            f"seed {seed}, and {NEEDED:.0%} are needed; take another seed"
        )
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return {"steps": steps, "held_out": held_out, "attacked": attacked}


def _learn(judge: TinyJudge, train: Iterator[JudgeExample], val: Sequence[JudgeExample]) -> int:
    """Train the judge's language model in place and return the number of steps taken.

    The loss is on the one reply token, and on the token behind the reasoning, where the model learns to tell the
    conclusion (1, 2, or 0 for none) before it has seen the choice. Without the second the comparison of the two takes
    three times as many steps, and some seeds never learn it. It ends when nearly every validation example is right
    twice in a row.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import get_cosine_schedule_with_warmup

    learned = [*judge.model.model.language_model.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = get_cosine_schedule_with_warmup(optimizer, WARM_UP, STEPS)
    numbers = judge.processor.tokenizer.convert_tokens_to_ids(["0", "1", "2"])
    accuracy = before = 0.0
    for step in (progress := progress_bar(range(1, STEPS + 1), desc="judge", unit="step")):
        examples = [*islice(train, BATCH)]
        concluded = [conclusion(one.reasoning) for one in examples]
        reply, behind = judge.logits(examples)
        loss = cross_entropy(reply, torch.tensor([judge.digits[one.verdict] for one in examples]))
        loss += cross_entropy(behind, torch.tensor([numbers[one if one in (1, 2) else 0] for one in concluded]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        if step % CHECK_EVERY == 0:
            before, accuracy = accuracy, judge.accuracy(val)
            progress.set_postfix(accuracy=accuracy)
            if min(before, accuracy) >= GOOD_ENOUGH:
                break
    progress.close()
    return step
