"""A toy world on disk that verl can train on, from pictures to model.

OUT/preferences.parquet  preferences to annotate and train on, as `r1reward data convert` writes them
OUT/val.parquet          held-out pairs in both orders for `main_ppo`, for the curves during training
OUT/test.parquet         further held-out preferences, for the evaluation
OUT/model/               tokenizer, processor and a randomly initialised model
OUT/judge/               a tiny trained judge model for vLLM, if it was asked for
OUT/world.json           what was built, with counts and seed
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from r1reward_verl.data.export import rl_row, rl_schema
from r1reward_verl.data.preference import SCHEMA, to_row
from r1reward_verl.judgement import FIELDS, PROMPT, Choice, prompt_parts
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import locked, replaced_folder, write_json
from r1reward_verl.toy import world
from r1reward_verl.toy.judge import train_judge
from r1reward_verl.toy.model import PIXELS, ModelName, save_model
from r1reward_verl.toy.world import Level, ToyMedia, ToyPair

if TYPE_CHECKING:
    import pyarrow as pa


class Sizes(Settings, frozen=True, kw_only=True):
    """How much of everything `build` writes."""

    preferences: Annotated[int, setting("Preferences for annotation, cold start and RL.", ge=1)] = 20800
    val_pairs: Annotated[int, setting("Held-out pairs for the curves; each is written in both orders.", ge=1)] = 100
    test_pairs: Annotated[int, setting("Held-out pairs for the evaluation, which shows each in both orders.", ge=1)] = (
        400
    )


def alternating_labels(pairs: Iterable[ToyPair]) -> list[tuple[ToyPair, Choice]]:
    """Put the right response first and second in turn, for each kind of question by itself (1:1 balance)."""
    seen: Counter[str] = Counter()
    labelled: list[tuple[ToyPair, Choice]] = []
    for pair in pairs:
        labelled.append((pair, 2 if seen[pair.kind] % 2 else 1))
        seen[pair.kind] += 1
    return labelled


def both_orders(pairs: Iterable[ToyPair]) -> list[tuple[ToyPair, Choice]]:
    """Take every pair twice, with the right response first and second."""
    labels: tuple[Choice, Choice] = (1, 2)
    return [(pair, label) for pair in pairs for label in labels]


def build(
    out: str | os.PathLike[str],
    sizes: Sizes | None = None,
    *,
    seed: int = 0,
    template: str = PROMPT,
    judge: bool = False,
    model: ModelName = "qwen2.5-vl",
    level: Level = "single",
) -> Path:
    """Write the toy world to the folder `out`, whole or not at all.

    Args:
        out: Folder to create. If it holds the same world already, it is left as it is.
        sizes: Counts; None for the demo's.
        seed: Seed of everything drawn, the model's weights included.
        template: Prompt with `{question}`, `{response_1}` and `{response_2}`.
        judge: Whether to train a tiny judge model too, which takes about two minutes. It is added to a world that
            has none.
        model: Which model; the questions describe their pictures in words for one that reads texts only.
        level: What pictures show and questions ask for (`world.Level`).

    Returns:
        The folder.

    Raises:
        ValueError: `out` holds something else.
        LockedError: another process builds there.
        JudgeNotLearned: the judge did not learn; the world is then as it was before.
    """
    with locked(out):
        return _build(Path(out), sizes or Sizes(), seed, template, judge, model, level)


def _build(folder: Path, sizes: Sizes, seed: int, template: str, judge: bool, model: ModelName, level: Level) -> Path:
    card = {"seed": seed, "template": template, "model": model, "level": level, **msgspec.structs.asdict(sizes)}
    if not folder.exists() or not any(folder.iterdir()):
        with replaced_folder(folder) as partial:
            _write_world(partial, sizes, seed, template, model, level)
            write_json(partial / "world.json", card)
            if judge:
                _add_judge(partial, card)
        return folder
    card_file = folder / "world.json"
    built = json.loads(card_file.read_text()) if card_file.is_file() else {}
    if {key: value for key, value in built.items() if key != "judge"} != card:
        raise ValueError(
            f"{folder} is not empty and holds no toy world with these settings; name another folder or remove it"
        )
    if judge and "judge" not in built:
        _add_judge(folder, card)
    return folder


def _write_world(folder: Path, sizes: Sizes, seed: int, template: str, model: ModelName, level: Level) -> None:
    media: ToyMedia = "text" if PIXELS[model] is None else "picture"
    pool, test = (
        alternating_labels(world.draw_pairs(count, seed, split, level))
        for split, count in (("train", sizes.preferences), ("test", sizes.test_pairs))
    )
    for name, pairs in (("preferences", pool), ("test", test)):
        write_table(folder / f"{name}.parquet", (to_row(world.preference(*pair, media)) for pair in pairs), SCHEMA)
    val_pairs = both_orders(world.draw_pairs(sizes.val_pairs, seed, "val", level))
    val = [world.preference(*pair, media) for pair in val_pairs]
    rows = (rl_row(one, index=index, template=template, split="val") for index, one in enumerate(val))
    write_table(folder / "val.parquet", rows, rl_schema(inline=True))
    faults: tuple[world.JudgementFault, ...] = ("none", "hurried", "wrong")
    corpus = [world.judgement(pair, label, fault) for pair, label in pool for fault in faults]
    fixed = [*(text for field, text in prompt_parts(*FIELDS, template) if field is None), *world.PHRASES]
    if world.CONFIDENCE in template:
        corpus += [world.judgement(*pool[0], "none", percent) for percent in world.CONFIDENCES for _ in pool]
        fixed.append(world.CONFIDENCE)
    for pair, label in pool:
        corpus += [pair.described if media == "text" else pair.question, *pair.responses(label)]
    # As words the fixed ones would be three quarters of every sequence, and of the time of every step.
    save_model(folder / "model", [*corpus, "user\n", "assistant\n"], seed, model, fixed)


def write_table(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    """Write a Parquet file; without a schema the rows say what their columns are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def _add_judge(folder: Path, card: dict[str, Any]) -> None:
    """Train a judge into a world, and note it in the card last: a judge that the card does not name is unfinished."""
    with replaced_folder(folder / "judge") as partial:
        scores = train_judge(partial, card["seed"])
    write_json(folder / "world.json", {**card, "judge": scores})
