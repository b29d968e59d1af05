"""Selection: from annotated preferences to the files that verl trains on.

OUT_DIR/sft.parquet    what the teacher solved, with its trace, for verl's SFT trainer
OUT_DIR/rl.parquet     what was hard, for `main_ppo`: solved at a later attempt than the first, or never
OUT_DIR/val.parquet    with --val: held-out preferences in both orders, for validation in `main_ppo`
OUT_DIR/held_out.parquet  the same as preferences, for `r1reward eval run preferences`
OUT_DIR/card.json      what stands in them, and what became of every row that was read; card.png shows it
OUT_DIR/rejects.jsonl  each bad row with its file, line and reason; absent if there is none

The default is R1-Reward's rule (arXiv 2505.02835). OUT_DIR appears when all of it is written; where the run ends with
an error the rejects are OUT_DIR.rejects.jsonl. In memory is of each row what decides about it, some hundred bytes; its
texts wait in a file beside OUT_DIR.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec.structs import replace

from r1reward_verl.data.export import rl_row, rl_schema, sft_row, sft_schema, swap
from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.preference import SCHEMA, Preference, to_row
from r1reward_verl.data.readers import RowError
from r1reward_verl.data.rows import NONE, difficulty_of, number_of_rows
from r1reward_verl.data.select_reading import Reading, Spool
from r1reward_verl.data.selection import SETS, Chosen, Keys, Rules, choose, without_repeats
from r1reward_verl.data.statistics import Statistics, ordered, uneven
from r1reward_verl.data.statistics_plots import plot
from r1reward_verl.engines.messages import MediaPosition
from r1reward_verl.errors import R1RewardError
from r1reward_verl.judgement import PROMPT
from r1reward_verl.media import Media
from r1reward_verl.progress import progress_bar
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import ParquetOutput, Rejects, locked, replaced_folder, write_json

if TYPE_CHECKING:
    import pyarrow as pa

_WRITTEN_BY = "r1reward data select"
_FILES = {*(f"{name}.parquet" for name in (*SETS, "held_out")), "card.json", "card.png", "rejects.jsonl"}


class SelectionError(R1RewardError):
    """Nothing was written, and the message says why and the way out."""


class SelectSettings(Settings, frozen=True, kw_only=True):
    """How the sets are written."""

    media_position: Annotated[MediaPosition, setting("Place of the pictures relative to the text.")] = "before"
    inline: Annotated[
        bool, setting("Embed the pictures instead of naming their files. Those that are data are embedded in any case.")
    ] = False
    max_rejects: Annotated[
        float, setting("Largest share of rows that may be rejected.", metavar="SHARE", ge=0, le=1)
    ] = 0.05
    template: str = PROMPT


def select(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    rules: Rules | None = None,
    settings: SelectSettings | None = None,
    *,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Write the training files of a folder, all or none.

    Args:
        inputs: files of preferences, as `read_preferences` reads them.
        out: folder to make; one that an earlier run made is replaced at the end.
        rules: what goes where; None for R1-Reward's.
        settings: how it is written; None for the defaults.
        progress: whether to show bars; None for on terminals only.

    Returns:
        The content of card.json.

    Raises:
        ValueError, FileNotFoundError: an argument cannot be used; nothing has been written.
        LockedError: another process writes the same output.
        SelectionError: more rows were rejected, a file's rest is lost, or a set would be empty.
        OSError: the disk is full, for example. In the last two cases `out` is as it was before.
    """
    folder = Path(os.path.realpath(out))
    names = [os.fspath(path) for path in inputs]
    rules, settings = rules or Rules(), settings or SelectSettings()
    _check_arguments(names, folder)
    readers = [read_preferences(path) for path in names]
    with locked(folder), replaced_folder(folder) as partial, ExitStack() as stack:
        rejects = stack.enter_context(closing(Rejects(folder.with_name(f"{folder.name}.rejects.jsonl"))))
        spool = stack.enter_context(closing(Spool(partial / "spool")))
        reading = Reading(spool, names, rules, settings.inline)
        _read(reading, readers, rejects, progress)
        rejects.close()
        _check_read(reading, settings.max_rejects, rejects.path)
        inline = settings.inline or reading.media["bytes"] > 0
        keys = reading.keys()
        chosen = choose(keys, list(reading.sources), rules)
        notes = _check_chosen(reading, keys, chosen)
        statistics: dict[str, Statistics] = {}
        for name, one in chosen.items():
            if len(one.rows):
                schema = sft_schema(inline) if name == "sft" else rl_schema(inline)
                with _parquet(partial / f"{name}.parquet", schema) as output:
                    statistics[name] = _write(name, one, spool, output, settings, inline, progress)
        if len(chosen["val"].rows):
            with _parquet(partial / "held_out.parquet", SCHEMA) as output:
                for row in chosen["val"].rows.tolist():
                    output.add(to_row(spool.get(row)))
        (partial / "spool").unlink()
        repeated = len(keys.label) - len(without_repeats(keys))
        card: dict[str, Any] = {
            "written_by": _WRITTEN_BY,
            "inputs": names,
            "settings": {
                **msgspec.structs.asdict(rules),
                "sft_difficulty": str(rules.sft_difficulty),
                "rl_difficulty": str(rules.rl_difficulty),
                **msgspec.structs.asdict(settings),
                "inline": inline,
            },
            "rows": {"read": reading.rows["read"], "rejected": reading.rows["rejected"], "repeated": repeated},
            "difficulty": {name: reading.difficulties[name] for name in ordered(reading.difficulties)},
            "notes": [*notes, *_uneven(statistics)],
            "sets": {name: one.card() for name, one in statistics.items()},
        }
        if "rl" in statistics:
            card["sets"]["rl"]["swapped"] = len(chosen["rl"].swapped)
        write_json(partial / "card.json", card)
        plot(statistics, partial / "card.png")
        if rejects.path.exists():
            rejects.path.replace(partial / "rejects.jsonl")
    return card


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[ParquetOutput]:
    output = ParquetOutput(path, schema)
    try:
        yield output
        output.finish()
        output.commit()
    finally:
        output.discard()


def _check_arguments(inputs: Sequence[str], out: Path) -> None:
    if not inputs:
        raise ValueError("there is no input file")
    real = [os.path.realpath(path) for path in inputs]
    if twice := [path for path, times in Counter(real).items() if times > 1]:
        raise ValueError(f"the input {twice[0]!r} is given twice")
    if out.exists() and not out.is_dir():
        raise ValueError(f"the output {str(out)!r} is a file; a folder is written")
    found = sorted(os.listdir(out)) if out.is_dir() else []
    written_by = None
    with suppress(OSError, ValueError, TypeError, KeyError):
        written_by = json.loads((out / "card.json").read_text("utf-8"))["written_by"]
    if found and (written_by != _WRITTEN_BY or not _FILES.issuperset(found)):
        foreign = next((name for name in found if name not in _FILES), found[0])
        raise ValueError(
            f"the folder {str(out)!r} holds {foreign!r}, and only what an earlier run wrote is replaced: name another"
        )


def _read(reading: Reading, readers: Sequence[Iterator[Any]], rejects: Rejects, progress: bool | None) -> None:
    counts = [number_of_rows(path) for path in reading.inputs]
    total = None if None in counts else sum(filter(None, counts))
    with closing(progress_bar(total=total, desc="reading", unit="row", shown=progress)) as bar:
        for file, (path, reader) in enumerate(zip(reading.inputs, readers, strict=True)):
            for item in reader:
                rows = 1
                if isinstance(item, RowError):
                    rows = item.rows or 1
                    if item.rows is None:
                        reading.lost_files.append(f"{path}:{item.number}")
                    reading.rows["rejected"] += rows
                    rejects.add(path, item.number, item.reason, item.raw)
                else:
                    try:
                        reading.add(file, *item)
                    except ValueError as error:
                        reading.rows["rejected"] += 1
                        rejects.add(path, item[0], str(error), to_row(item[1]))
                reading.rows["read"] += rows
                bar.update(rows)


def _check_read(reading: Reading, max_rejects: float, rejects: Path) -> None:
    read, rejected = reading.rows["read"], reading.rows["rejected"]
    if reading.lost_files:
        raise SelectionError(f"cannot be read to the end: {', '.join(reading.lost_files)} (see {rejects})")
    if rejected > max_rejects * read:
        raise SelectionError(
            f"{rejected:,} of {read:,} rows were rejected, more than {max_rejects:.1%}: see {rejects}, and raise "
            "--max-rejects if the rest is what you want"
        )
    if read == rejected:
        raise SelectionError(f"there is no preference in {', '.join(reading.inputs)}")
    if unknown := sorted(set(reading.rules.caps) - set(reading.sources)):
        raise SelectionError(f"--cap {unknown[0]}: there is no such source, but {', '.join(sorted(reading.sources))}")
    media = reading.media
    if not reading.inline and (media["both"] or (media["bytes"] and media["paths"])):
        raise SelectionError(
            f"{media['bytes'] + media['both']:,} preferences hold pictures themselves, {media['paths']:,} name files, "
            "and verl reads no file with both: add --inline to embed all"
        )


def _check_chosen(reading: Reading, keys: Keys, chosen: Mapping[str, Chosen]) -> list[str]:
    """Return what the user should know, and raise where a set is empty that should not be."""
    rules = reading.rules
    sizes = {name: len(one.rows) for name, one in chosen.items()}
    if chosen["rl"].both_orders:
        sizes["rl"] *= 2
    there_are = ", ".join(f"{name}: {reading.difficulties[name]:,}" for name in ordered(reading.difficulties))
    unannotated = reading.difficulties[NONE]
    every = "all" in rules.rl_difficulty.words
    annotated = bool(keys.solved.any()) or unannotated < len(keys.label)
    notes = []
    if not annotated and not every:
        raise SelectionError(
            f"none of {len(keys.label):,} preferences is annotated: run `r1reward data annotate` first, or take every "
            "row for RL with --rl-difficulty all"
        )
    if rules.val and not sizes["val"]:
        raise SelectionError(
            f"no {rules.val:,} preferences can be held out: more than that have one picture in common. Raise --val"
        )
    options = {"sft": (rules.sft_size, rules.sft_difficulty), "rl": (rules.rl_size, rules.rl_difficulty)}
    for name, (wanted, difficulty) in options.items():
        if not sizes[name] and wanted != 0:
            if name == "sft" and not annotated:
                notes.append("no SFT set, since nothing is annotated")
                continue
            raise SelectionError(
                f"no preference is left for the {name.upper()} set (by difficulty: {there_are}; held out: "
                f"{sizes['val']:,}; wanted: {difficulty}): choose others with --{name}-difficulty, or do without it by "
                f"--{name}-size 0"
            )
        if wanted is not None and sizes[name] < wanted:
            notes.append(f"{name}: {sizes[name]:,} rows, of {wanted:,} that --{name}-size asks for")
    if not any(sizes.values()):
        raise SelectionError("every size is 0: there is nothing to write")
    if sizes["val"] < rules.val:
        notes.append(
            f"val: {sizes['val']:,} preferences, of {rules.val:,} that --val asks for: those with a picture in common "
            "stay together"
        )
    if annotated and unannotated and not every:
        notes.append(f"{unannotated:,} preferences are not annotated, and without a trace in no training set")
    if rules.order == "curriculum":
        notes.append("the order of rl.parquet counts with data.shuffle=false only; verl's SFT trainer always shuffles")
    return notes


def _uneven(statistics: Mapping[str, Statistics]) -> list[str]:
    notes = []
    for name, one in statistics.items():
        if (found := uneven(one.labels)) is not None:
            label, share = found
            way_out = "--sft-balance drop" if name == "sft" else "--rl-balance swap"
            notes.append(f"{name}: {share:.0%} of the labels are {label}, which a model learns: see {way_out}")
    return notes


def _write(
    name: str,
    chosen: Chosen,
    spool: Spool,
    output: ParquetOutput,
    settings: SelectSettings,
    inline: bool,
    progress: bool | None,
) -> Statistics:
    statistics = Statistics()
    indices = count()
    form: dict[str, Any] = {"template": settings.template, "media_position": settings.media_position}
    for row in progress_bar(chosen.rows.tolist(), desc=f"writing {name}", unit="row", shown=progress):
        preference = _embedded(spool.get(row)) if inline else spool.get(row)
        difficulty, solved = difficulty_of(preference), None
        if preference.difficulty is not None:
            solved = preference.trace is not None
        orders = [preference if name == "sft" else replace(preference, trace=None)]
        if chosen.both_orders:
            orders = sorted((*orders, swap(preference)), key=lambda one: one.label)
        elif row in chosen.swapped:
            orders = [swap(preference)]
        for one in orders:
            if name == "sft":
                output.add(sft_row(one, index=next(indices), **form))
            else:
                split = "train" if name == "rl" else "val"
                output.add(rl_row(one, index=next(indices), split=split, solved=solved, **form))
            statistics.add(one, difficulty)
    return statistics


def _embedded(preference: Preference) -> Preference:
    def embedded(media: Media) -> Media:
        if media.path is None:
            return media
        try:
            return Media(data=Path(media.path).read_bytes(), sha256=media.sha256)
        except OSError as error:
            raise SelectionError(f"a picture that was there a while ago cannot be read: {error}") from error

    video = None if preference.video is None else tuple(map(embedded, preference.video))
    return replace(preference, images=tuple(map(embedded, preference.images)), video=video)
