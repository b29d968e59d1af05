"""A judging task that a small policy learns in seconds: the place of every run of the study.

A prompt is a question and two responses, each one of 12 numbers on a circle. The right answer of question q is
(7 q + 5) mod 12; the response that lies nearer to it is the better one. The policy writes at most 10 tokens of

    <think> evidence... <conclusion 1|2> </think> <answer> 1|2 </answer> <end>

with one to three tokens of evidence, so that lengths differ. Its reward is the paper's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from r1reward_verl.rewards import combine

NUMBERS = 12
EVIDENCE = 3
THINK, END_THINK, ANSWER, END_ANSWER, END, CONCLUDE_1, CONCLUDE_2, ONE, TWO, FIRST_EVIDENCE = range(10)
VOCABULARY = FIRST_EVIDENCE + EVIDENCE
LENGTH = 10
WIDTH, EMBEDDING, WINDOW = 64, 32, 4


@dataclass
class Batch:
    """Prompts (batch, 3): question, response 1, response 2; labels (batch,): 1 or 2."""

    prompts: Tensor
    labels: Tensor

    def __getitem__(self, rows: Tensor | slice) -> "Batch":
        return Batch(self.prompts[rows], self.labels[rows])


@dataclass
class Judged:
    """What the texts of a batch are, each (batch,)."""

    right: Tensor
    well_formed: Tensor
    consistent: Tensor
    rewards: Tensor


def draw(count: int, generator: torch.Generator, *, held_out: bool) -> Batch:
    """Draw prompts without ties; a fifth of all prompts, by a hash, is held out of training."""
    kept: list[Tensor] = []
    while sum(map(len, kept)) < count:
        prompts = torch.randint(NUMBERS, (4 * count, 3), generator=generator)
        question, one, two = prompts.T
        inside = ((question * 577 + one * 31 + two * 17) % 5 == 0) == held_out
        kept.append(prompts[inside & (_distance(question, one) != _distance(question, two))])
    prompts = torch.cat(kept)[:count]
    question, one, two = prompts.T
    return Batch(prompts, torch.where(_distance(question, one) < _distance(question, two), 1, 2))


def _distance(question: Tensor, response: Tensor) -> Tensor:
    apart = (response - (7 * question + 5)) % NUMBERS
    return torch.minimum(apart, NUMBERS - apart)


def flip(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return the labels with a share of them wrong."""
    return torch.where(torch.rand(len(labels), generator=generator) < share, 3 - labels, labels)


class Policy(nn.Module):
    """A network that sees the prompt, the last WINDOW tokens and the position; 30,000 parameters.

    Not recurrent, so that the logits of all tokens of a text are computed at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers = nn.Embedding(3 * NUMBERS, EMBEDDING)
        self.read = nn.Sequential(nn.Linear(3 * EMBEDDING, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.tokens = nn.Embedding(VOCABULARY + 1, EMBEDDING)  # the last one stands before a text
        self.look = nn.Linear(WINDOW * EMBEDDING, WIDTH)
        self.positions = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        self.write = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, VOCABULARY))

    def start(self, prompts: Tensor) -> Tensor:
        """Return features, shape (batch, WIDTH), of prompts of shape (batch, 3)."""
        places = prompts + NUMBERS * torch.arange(3)
        return self.read(self.numbers(places).flatten(1))

    def forward(self, prompts: Tensor, texts: Tensor) -> Tensor:
        """Return the logits of each token of the texts, shape (batch, LENGTH, VOCABULARY)."""
        before = torch.cat([texts.new_full((len(texts), WINDOW), VOCABULARY), texts[:, :-1]], dim=1)
        windows = before.unfold(1, WINDOW, 1)
        seen = torch.relu(self.look(self.tokens(windows).flatten(2)) + self.positions)
        return self.write(torch.cat([seen, self.start(prompts)[:, None].expand_as(seen)], dim=2))

    @torch.no_grad()
    def sample(self, prompts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample texts at temperature 1, shape (batch, LENGTH), and return them and the logits of each token.

        What stands behind <end> is <end>.
        """
        start = self.start(prompts)
        tokens = torch.full((len(prompts), WINDOW + LENGTH), VOCABULARY)
        logits = []
        for place in range(LENGTH):
            window = self.tokens(tokens[:, place : place + WINDOW]).flatten(1)
            seen = torch.relu(self.look(window) + self.positions[place])
            logits.append(self.write(torch.cat([seen, start], dim=1)))
            choice = torch.multinomial(logits[-1].softmax(-1), 1, generator=generator)
            tokens[:, WINDOW + place] = choice[:, 0]
        texts = tokens[:, WINDOW:]
        return torch.where(ended(texts), END, texts), torch.stack(logits, dim=1)


def ended(texts: Tensor) -> Tensor:
    """Tell of each token whether it stands behind the first <end>, shape (batch, LENGTH)."""
    ends = (texts == END).cumsum(1)
    return (ends > 1) | ((ends == 1) & (texts != END))


def mask_of(texts: Tensor) -> Tensor:
    """1.0 for each token up to the first <end>, shape (batch, LENGTH)."""
    return (~ended(texts)).float()


def traces(batch: Batch, generator: torch.Generator, inconsistent: float = 0.05) -> Tensor:
    """Write what a teacher would, right always, its conclusion wrong in a share of texts; shape (batch, LENGTH)."""
    count = len(batch.labels)
    texts = torch.full((count, LENGTH), END)
    lengths = torch.randint(1, EVIDENCE + 1, (count,), generator=generator)
    evidence = torch.randint(FIRST_EVIDENCE, VOCABULARY, (count, LENGTH), generator=generator)
    conclusions = flip(batch.labels, inconsistent, generator)
    columns = torch.arange(LENGTH)
    place = columns - 1 - lengths[:, None]  # 0 where the conclusion stands
    texts = torch.where(place < 0, evidence, texts)
    texts[:, 0] = THINK
    for offset, tokens in enumerate(
        (CONCLUDE_1 - 1 + conclusions, END_THINK, ANSWER, ONE - 1 + batch.labels, END_ANSWER, END)
    ):
        texts = torch.where(place == offset, torch.as_tensor(tokens).reshape(-1, 1).expand(count, LENGTH), texts)
    return texts


def judge(texts: Tensor, labels: Tensor, reward: str = "paper") -> Judged:
    """Judge texts (batch, LENGTH): "paper" rewards as the paper does, "binary" gives 1 for right and well-formed."""
    mask = mask_of(texts).bool()
    lengths = mask.sum(1)
    rows = torch.arange(len(texts))

    def at(back: int) -> Tensor:
        return texts[rows, (lengths - back).clamp(min=0)]

    answers, conclusions = at(3) - ONE + 1, at(6) - CONCLUDE_1 + 1
    formed = (at(1) == END) & (at(2) == END_ANSWER) & (at(4) == ANSWER) & (at(5) == END_THINK) & (texts[:, 0] == THINK)
    formed &= ((answers == 1) | (answers == 2)) & (lengths >= 7)
    # Each tag once: nothing but evidence and conclusions inside the thinking.
    inner = (texts == THINK) | (texts == END_THINK) | (texts == ANSWER) | (texts == END_ANSWER)
    formed &= (inner & mask).sum(1) == 4
    right = formed & (answers == labels)
    consistent = formed & (answers == conclusions)
    if reward == "binary":
        return Judged(right, formed, consistent, right.float())
    return Judged(right, formed, consistent, REWARDS[right.long(), consistent.long(), formed.long()])


REWARDS = torch.tensor(
    [
        [[combine(right, 2.0 * consistent - 1.0, formed) for formed in (0.0, 1.0)] for consistent in (0.0, 1.0)]
        for right in (0.0, 1.0)
    ]
)
"""The paper's reward by right, consistent and well-formed."""
