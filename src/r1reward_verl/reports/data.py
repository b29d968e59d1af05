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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

from r1reward_verl.data.plots import (
    TITLES,
    Sets,
    draw_balance,
    draw_counts,
    draw_text_lengths,
    group_title,
    groups,
)
from r1reward_verl.data.readers import RowError, read_rows
from r1reward_verl.data.rows import KINDS, Kind, Sample, columns_of, kind_of, number_of_rows, read_sample
from r1reward_verl.data.statistics import Statistics, ordered, uneven
from r1reward_verl.errors import R1RewardError
from r1reward_verl.plots import draw_legend, new_figure, png
from r1reward_verl.reports.page import UNKNOWN, Section, Table, short_names, small_picture, write_page, write_plots
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import Rejects, replaced_folder, write_json

PAGE, FIGURES = "index.html", "statistics.json"
_PLOTS: dict[str, tuple[str, Sequence[tuple[Callable[..., None], str]]]] = {
    "difficulty.png": ("Difficulty", [(draw_counts, "difficulties")]),
    "labels.png": (
        "Balance of labels",
        [(draw_counts, "labels"), (draw_balance, "sources"), (draw_balance, "difficulties")],
    ),
    "lengths.png": ("Lengths", [(draw_text_lengths, text) for text in ("question", "response", "trace")]),
    "sources.png": ("Sources and categories", [(draw_counts, "sources"), (draw_counts, "categories")]),
    "media.png": (
        "Preferred responses and media",
        [(draw_counts, "preferred"), (draw_counts, "images"), (draw_counts, "frames")],
    ),
}
"""File of a plot -> its title, and for each of its panels what draws it and what it draws."""
_TABLE_ROWS = 30
_EXAMPLES = 3  # rows of each difficulty of a file
_DIFFICULTIES = 8  # difficulties of a file that have examples
_PICTURES = 4  # of a row


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

    def groups(self, root: str | None) -> Iterator[tuple[str, list[tuple[Sample, list[bytes | str]]]]]:
        """Yield the examples of each difficulty as the page shows them."""
        for name in ordered(self.samples):
            title = f"solved at attempt {name}" if name.isdecimal() else group_title("difficulties", name)
            rows = [(sample, _pictures(sample, root)) for sample in self.samples[name]]
            yield f"{title} ({self.seen[name]:,} rows)", rows


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
        DataReportError: a file has too many unreadable rows, or no rows.
        OSError: the disk is full, for example. In the last two cases `out_dir` is as it was before.
    """
    settings, out = settings or DataReportSettings(), Path(out_dir)
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
        sections = [_section(plot, sets) for plot in _PLOTS]
        write_plots(partial, sections)
        root = None if settings.media is None else os.path.realpath(settings.media)
        write_page(
            partial / PAGE,
            "data.html",
            title="Preference data",
            overview=_overview(sets, {name: KINDS[kind] for name, kind in kinds.items()}),
            uneven={name: uneven(one.labels) for name, one in sets.items()},
            sections=sections,
            examples={name: one.groups(root) for name, one in examples.items()},
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
    from tqdm import tqdm

    rejected = 0
    hidden = None if progress is None else not progress
    for item in tqdm(read_rows(path), desc=path, total=number_of_rows(path), unit="row", disable=hidden):
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


def _section(plot: str, sets: Sets) -> Section:
    """Return the part of the page for one of the plots."""
    title, panels = _PLOTS[plot]
    figure = new_figure(8 if len(panels) == 1 else 12, 3.9)
    for axes, (draw, what) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        draw(axes, sets, what)
    draw_legend(figure, [*sets])
    if plot == "lengths.png":
        tables = [_lengths(sets)]
    else:
        tables = [(_counts if draw is draw_counts else _balance)(sets, what) for draw, what in panels]
    return Section(title, tables, (plot, png(figure)))


def _overview(sets: Sets, kinds: Mapping[str, str]) -> Table:
    rows = []
    for name, one in sets.items():
        labels = one.labels
        annotated = one.rows - one.difficulties["none"]
        rows.append(
            [
                name,
                kinds[name],
                f"{one.rows:,}",
                f"{_percent(labels['1'], sum(labels.values()))} : {_percent(labels['2'], sum(labels.values()))}",
                _percent(one.difficulties["unsolved"], annotated),
                _percent(one.preferred["longer"], sum(one.preferred.values())),
            ]
        )
    return Table(["File", "Content", "Rows", "Labels 1 : 2", "Never solved", "Longer response is better"], rows)


def _counts(sets: Sets, what: str) -> Table:
    counts: list[Mapping[str, int]] = [getattr(one, what) for one in sets.values()]
    names = groups(sets, what)
    rows = [
        [
            group_title(what, name),
            *(f"{one.get(name, 0):,} ({_percent(one.get(name, 0), sum(one.values()))})" for one in counts),
        ]
        for name in names[:_TABLE_ROWS]
    ]
    if len(names) > _TABLE_ROWS:
        rows.append([f"and {len(names) - _TABLE_ROWS:,} more", *[""] * len(counts)])
    return Table([TITLES[what], *sets], rows)


def _balance(sets: Sets, what: str) -> Table:
    rows = [
        [
            group_title(what, name),
            *(f"{one.labels_by[what][name, 1]:,} : {one.labels_by[what][name, 2]:,}" for one in sets.values()),
        ]
        for name in groups(sets, what)[:_TABLE_ROWS]
    ]
    return Table([f"Labels 1 : 2 by {'source' if what == 'sources' else 'difficulty'}", *sets], rows)


def _lengths(sets: Sets) -> Table:
    rows = []
    for name, one in sets.items():
        for text, units in one.lengths.items():
            for unit, lengths in units.items():
                if lengths.count:
                    figures = [lengths.count, round(lengths.total / lengths.count)]
                    figures += [lengths.quantile(share) or 0 for share in (0.05, 0.5, 0.95, 0.99)]
                    figures.append(lengths.highest)
                    rows.append([f"{name}: {text} ({unit})", *(f"{figure:,}" for figure in figures)])
    return Table(["", "Texts", "Mean", "5%", "Median", "95%", "99%", "Longest"], rows)


def _percent(part: int, total: int) -> str:
    return f"{part / total:.1%}" if total else UNKNOWN


def _pictures(sample: Sample, root: str | None) -> list[bytes | str]:
    """Return small copies of a row's first pictures, and texts for what cannot be shown."""
    media = [*sample.images, *sample.frames]
    pictures = [small_picture(one, 280, root) for one in media[:_PICTURES]]
    return [*pictures, f"{len(media) - _PICTURES:,} more pictures"] if len(media) > _PICTURES else pictures
