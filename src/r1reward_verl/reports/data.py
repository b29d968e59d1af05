"""The report of data files: plots, tables, and rows to read.

OUT_DIR/index.html        everything on one page that loads nothing
OUT_DIR/*.png             its plots
OUT_DIR/statistics.json   the figures of each file
OUT_DIR.rejects.jsonl     each unreadable row with its file, number and reason; absent if there is none

A file holds preferences, or what `r1reward data select` makes of them (see `r1reward_verl.data.rows`). OUT_DIR appears
when all of it is written, and replaces an earlier report only.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

from r1reward_verl.data.readers import RowError, read_rows
from r1reward_verl.data.rows import KINDS, Kind, Sample, columns_of, kind_of, number_of_rows, read_sample
from r1reward_verl.data.statistics import Statistics, ordered, uneven
from r1reward_verl.data.statistics_plots import (
    TITLES,
    draw_balance,
    draw_counts,
    draw_text_lengths,
    group_title,
    groups,
)
from r1reward_verl.errors import R1RewardError
from r1reward_verl.plots import draw_legend, new_figure, png
from r1reward_verl.progress import progress_bar
from r1reward_verl.reports.page import short_names, small_pictures, write_page
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import Rejects, locked, replaced_folder, write_json

PAGE, FIGURES = "index.html", "statistics.json"
_PLOTS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "difficulty.png": ("Difficulty", [("counts", "difficulties")]),
    "labels.png": ("Balance of labels", [("counts", "labels"), ("balance", "sources"), ("balance", "difficulties")]),
    "lengths.png": ("Lengths", [("lengths", text) for text in ("question", "response", "trace")]),
    "sources.png": ("Sources and categories", [("counts", "sources"), ("counts", "categories")]),
    "media.png": ("Preferred responses and media", [("counts", name) for name in ("preferred", "images", "frames")]),
}
"""File of a plot -> its title, and for each of its panels how it is drawn and what it shows."""
_DRAW = {"counts": draw_counts, "balance": draw_balance, "lengths": draw_text_lengths}
_EXAMPLES = 3  # rows of each difficulty of a file
_DIFFICULTIES = 8  # difficulties of a file that have examples


class DataReportError(R1RewardError):
    """Too little of the input could be read."""


class DataReportSettings(Settings, frozen=True, kw_only=True):
    """How a data report is made."""

    media: Annotated[str | None, setting("Folder of the media with relative paths.", metavar="ROOT")] = None
    model: Annotated[str | None, setting("Folder or name of a model: count lengths in its tokens, too.")] = None
    max_rejects: Annotated[
        float, setting("Largest share of a file's rows that may be unreadable.", metavar="SHARE", ge=0, le=1)
    ] = 0.05


class _Examples:
    """A few rows of each difficulty, all drawn with the same chance."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.samples: dict[str, list[Sample]] = {}

    def add(self, sample: Sample) -> None:
        if sample.difficulty not in self.samples and len(self.samples) == _DIFFICULTIES:
            return
        kept = self.samples.setdefault(sample.difficulty, [])
        self.seen[sample.difficulty] += 1
        if len(kept) < _EXAMPLES:
            kept.append(sample)
        elif (place := self.random.randrange(self.seen[sample.difficulty])) < _EXAMPLES:
            kept[place] = sample

    def groups(self, root: str | None) -> Iterator[tuple[str, list[tuple[Sample, Any]]]]:
        """Yield the examples of each difficulty as the page shows them."""
        for name in ordered(self.samples):
            title = f"solved at attempt {name}" if name.isdecimal() else group_title("difficulties", name)
            kept = self.samples[name]
            pictures = [small_pictures([*sample.images, *sample.frames], 4, 280, root) for sample in kept]
            yield f"{title} ({self.seen[name]:,} rows)", [*zip(kept, pictures, strict=True)]


def write_data_report(
    files: Sequence[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    settings: DataReportSettings | None = None,
    *,
    progress: bool | None = None,
) -> dict[str, Statistics]:
    """Write the report of data files.

    Args:
        files: preferences, RL rows or SFT rows.
        out_dir: folder to write; if it exists, it must be empty or an earlier report, which is replaced at the end.
        settings: None for the defaults.
        progress: whether to show a bar; None for on terminals only.

    Returns:
        The statistics of each file by its name in the report.

    Raises:
        ValueError, FileNotFoundError: an argument cannot be used; nothing has been written.
        LockedError: another process writes the same report.
        DataReportError: a file has too many unreadable rows, or no rows.
        OSError: the disk is full, for example. In the last two cases `out_dir` is as it was before.
    """
    settings, out = settings or DataReportSettings(), Path(out_dir)
    if not files:
        raise ValueError("there is no input file")
    if settings.media is not None and not os.path.isdir(settings.media):
        raise ValueError(f"the media root {settings.media!r} is no folder")
    _check_out(out)
    names = short_names(
        [os.fspath(file) for file in files], lambda path: Path(path).name.removesuffix(".gz").rpartition(".")[0]
    )
    kinds = {name: _kind(path) for name, path in names.items()}
    tokens = None if settings.model is None else _tokenizer(settings.model)
    sets: dict[str, Statistics] = {}
    examples: dict[str, _Examples] = {}
    with ExitStack() as stack:
        stack.enter_context(locked(out))
        partial = stack.enter_context(replaced_folder(out))
        rejects = stack.enter_context(closing(Rejects(out.with_name(f"{out.name}.rejects.jsonl"))))
        for name, path in names.items():
            sets[name], examples[name] = Statistics(tokens), _Examples()
            rejected = _read(path, kinds[name], sets[name], examples[name], rejects, progress)
            read = sets[name].rows + rejected
            if rejected > settings.max_rejects * read or not sets[name].rows:
                rejects.close()
                reason = f"{rejected:,} of {read:,} rows of {path} cannot be read: see {rejects.path}"
                raise DataReportError(f"{reason if rejected else f'{path} has no rows'}; {out} was not written")
        write_json(partial / FIGURES, {name: one.card() for name, one in sets.items()})
        plots: list[Any] = []
        for file, (title, panels) in _PLOTS.items():
            figure = new_figure(8 if len(panels) == 1 else 12, 3.9)
            for axes, (kind, what) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
                _DRAW[kind](axes, sets, what)
            draw_legend(figure, [*sets])
            plots.append(((title, file, png(figure)), panels))
            (partial / file).write_bytes(plots[-1][0][2])
        root = None if settings.media is None else os.path.realpath(settings.media)
        write_page(
            partial / PAGE,
            "data.html",
            title="Preference data",
            sets=sets,
            contents={name: KINDS[kind] for name, kind in kinds.items()},
            plots=plots,
            examples={name: one.groups(root) for name, one in examples.items()},
            uneven=uneven,
            groups=groups,
            group_title=group_title,
            titles=TITLES,
        )
    return sets


def _check_out(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ValueError(f"the output {str(out)!r} is no folder")
    if out.exists() and (foreign := sorted(set(os.listdir(out)) - {PAGE, FIGURES, *_PLOTS})):
        raise ValueError(f"the folder {str(out)!r} holds {foreign[0]!r}, which no report wrote: name another one")


def _kind(path: str) -> Kind:
    columns = columns_of(path)
    kind = kind_of(columns)
    if kind is None:
        raise ValueError(
            f"{path!r} holds neither preferences nor rows for verl (its columns: {', '.join(columns)}): convert it "
            "with `r1reward data convert`"
        )
    return kind


def _tokenizer(model: str) -> Callable[[str], int]:
    from transformers import AutoTokenizer  # heavy, and needed with `model` only

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ValueError(f"the tokenizer of {model!r} cannot be loaded: {error}") from error
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _read(
    path: str, kind: Kind, statistics: Statistics, examples: _Examples, rejects: Rejects, progress: bool | None
) -> int:
    """Count the rows of a file; return how many cannot be read."""
    rejected = 0
    for item in progress_bar(read_rows(path), desc=path, total=number_of_rows(path), unit="row", shown=progress):
        if isinstance(item, RowError):
            rejects.add(path, item.number, item.reason, item.raw)
            rejected += item.rows or 1
            continue
        try:
            sample = read_sample(item[1], kind)
        except ValueError as error:
            rejects.add(path, item[0], str(error), item[1])
            rejected += 1
        else:
            statistics.add_sample(sample)
            examples.add(sample)
    return rejected
