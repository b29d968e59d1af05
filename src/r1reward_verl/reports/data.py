"""`r1reward data report FILE... OUT_DIR`: what data files look like, as plots, tables and rows to read.

OUT_DIR/index.html        everything on one page that needs nothing beside it
OUT_DIR/*.png             its plots
OUT_DIR/statistics.json   the figures of each file
OUT_DIR.rejects.jsonl     each row that cannot be read, with its file, number and reason; absent if there is none

A FILE holds preferences, or what `r1reward data select` makes of them (see `r1reward_verl.data.rows`). OUT_DIR appears
when all of it is written, and replaces an earlier report only.
"""

from __future__ import annotations

import argparse
import html
import os
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from r1reward_verl.data.readers import RowError, read_rows
from r1reward_verl.data.rows import KINDS, Kind, Sample, columns_of, kind_of, number_of_rows, read_sample
from r1reward_verl.data.statistics import (
    Sets,
    Statistics,
    draw_difficulty,
    draw_labels,
    draw_lengths,
    draw_media,
    draw_preferred,
    draw_sources,
    legend,
    ordered,
    uneven,
)
from r1reward_verl.media import check_picture, decoded, image_source, resolve, thumbnail
from r1reward_verl.reports.page import html_page, html_table, img, new_figure, png
from r1reward_verl.storage import Rejects, replaced_folder, write_json

PAGE, FIGURES = "index.html", "statistics.json"
_TITLE = "Preference data"
_SAMPLES = 3  # of each difficulty of a file
_DIFFICULTIES = 8  # that are shown of a file
_TEXT = 3_000  # characters of a text in the gallery
_TABLE_ROWS = 30
_PICTURES = 4  # of a row
_CLASSES = {True: "right", False: "wrong"}
_ANSWERS = {1: "response 1 is better", 2: "response 2 is better", None: "no label"}


class ReportError(RuntimeError):
    """Too little of the input could be read."""


class _Gallery:
    """A few rows of each difficulty, each of them with the same chance."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.samples: dict[str, list[Sample]] = {}

    def add(self, sample: Sample) -> None:
        if sample.difficulty not in self.samples and len(self.samples) == _DIFFICULTIES:
            return
        kept = self.samples.setdefault(sample.difficulty, [])
        self.seen[sample.difficulty] += 1
        if len(kept) < _SAMPLES:
            kept.append(sample)
        elif (place := self.random.randrange(self.seen[sample.difficulty])) < _SAMPLES:
            kept[place] = sample


def report(
    files: Sequence[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    *,
    media_root: str | os.PathLike[str] | None = None,
    model: str | None = None,
    max_rejects: float = 0.05,
    progress: bool | None = None,
) -> dict[str, Statistics]:
    """Write the report of data files.

    Args:
        files: of preferences, RL rows or SFT rows.
        out_dir: folder to write. One that is there must be empty or an earlier report, which is replaced at the end.
        media_root: folder below which relative paths are meant; None for the working directory.
        model: folder or name of the checkpoint whose tokenizer measures the texts; None for characters only.
        max_rejects: greatest share of a file's rows that may be unreadable.
        progress: whether to show a bar; None for on terminals only.

    Returns:
        The statistics of each file by the name it has in the report.

    Raises:
        ValueError, FileNotFoundError: an argument cannot be used; nothing has been written.
        ReportError: a file has too many unreadable rows, or none at all.
        OSError: the disk is full, for example. In the last two cases `out_dir` is as it was before.
    """
    out = Path(out_dir)
    _check_arguments(files, out, media_root, max_rejects)
    names = _names([os.fspath(file) for file in files])
    kinds = {name: _kind(path) for name, path in names.items()}
    tokens = None if model is None else _tokenizer(model)
    root = None if media_root is None else os.path.realpath(media_root)
    sets: dict[str, Statistics] = {}
    galleries: dict[str, _Gallery] = {}
    with ExitStack() as stack:
        partial = stack.enter_context(replaced_folder(out))
        rejects = stack.enter_context(closing(Rejects(out.with_name(f"{out.name}.rejects.jsonl"))))
        for name, path in names.items():
            sets[name], galleries[name] = Statistics(tokens), _Gallery(0)
            rejected = _read(path, kinds[name], sets[name], galleries[name], rejects, progress)
            read = sets[name].rows + rejected
            if rejected > max_rejects * read or not sets[name].rows:
                rejects.close()
                raise ReportError(
                    f"{rejected:,} of {read:,} rows of {path} cannot be read: see {rejects.path}"
                    if rejected
                    else f"{path} has no rows"
                )
        _write(partial, sets, {name: (names[name], KINDS[kinds[name]]) for name in names}, galleries, root)
    return sets


def _check_arguments(
    files: Sequence[str | os.PathLike[str]], out: Path, media_root: str | os.PathLike[str] | None, max_rejects: float
) -> None:
    if not files:
        raise ValueError("there is no input file")
    if media_root is not None and not os.path.isdir(media_root):
        raise ValueError(f"the media root {os.fspath(media_root)!r} is no folder")
    if not 0 <= max_rejects <= 1:
        raise ValueError(f"the greatest share of rejects is {max_rejects}, not between 0 and 1")
    if out.exists() or out.is_symlink():
        if not out.is_dir() or out.is_symlink():
            raise ValueError(f"the output {str(out)!r} is no folder")
        if foreign := sorted(set(os.listdir(out)) - {PAGE, FIGURES, *_PLOTS}):
            raise ValueError(f"the folder {str(out)!r} holds {foreign[0]!r}, which no report wrote: name another one")


def _names(paths: Sequence[str]) -> dict[str, str]:
    """Name files as shortly as they can be told apart."""
    stems = [Path(path).name.removesuffix(".gz").rpartition(".")[0] for path in paths]
    names: dict[str, str] = {}
    for stem, path in zip(stems, paths, strict=True):
        name = stem if stems.count(stem) == 1 else path
        if name in names:
            raise ValueError(f"the input {path!r} is given twice")
        names[name] = path
    return names


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
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ValueError(f"the tokenizer of {model!r} cannot be loaded: {error}") from error
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _read(
    path: str, kind: Kind, statistics: Statistics, gallery: _Gallery, rejects: Rejects, progress: bool | None
) -> int:
    """Count the rows of a file; return how many cannot be read."""
    from tqdm import tqdm

    rejected = 0
    hidden = None if progress is None else not progress
    rows = tqdm(read_rows(path), desc=path, total=number_of_rows(path), unit="row", disable=hidden)
    for item in rows:
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
            gallery.add(sample)
    return rejected


# Plots


def _draw_labels(figure: Any, sets: Sets) -> None:
    panels = figure.subplots(1, 3)
    draw_labels(panels[0], sets)
    draw_labels(panels[1], sets, "sources")
    draw_labels(panels[2], sets, "difficulties")


def _draw_lengths(figure: Any, sets: Sets) -> None:
    for axes, text in zip(figure.subplots(1, 3), ("question", "response", "trace"), strict=True):
        draw_lengths(axes, sets, text)


def _draw_sources(figure: Any, sets: Sets) -> None:
    for axes, groups in zip(figure.subplots(1, 2), ("sources", "categories"), strict=True):
        draw_sources(axes, sets, groups)


def _draw_rest(figure: Any, sets: Sets) -> None:
    preferred, images, frames = figure.subplots(1, 3)
    draw_preferred(preferred, sets)
    draw_media(images, sets, "images")
    draw_media(frames, sets, "frames")


def _draw_difficulty(figure: Any, sets: Sets) -> None:
    draw_difficulty(figure.subplots(), sets)


_PLOTS: dict[str, tuple[str, float, Callable[[Any, Sets], None]]] = {
    "difficulty.png": ("Difficulty", 8, _draw_difficulty),
    "labels.png": ("Balance of labels", 12, _draw_labels),
    "lengths.png": ("Lengths", 12, _draw_lengths),
    "sources.png": ("Sources and categories", 12, _draw_sources),
    "media.png": ("Which response is preferred, and media", 12, _draw_rest),
}
"""By the name of the file: its title, its width in inches and what draws it."""


# The page


def _write(
    folder: Path,
    sets: Sets,
    about: Mapping[str, tuple[str, str]],
    galleries: Mapping[str, _Gallery],
    root: str | None,
) -> None:
    write_json(folder / FIGURES, {name: one.card() for name, one in sets.items()})
    body = [_overview(sets, about)]
    for name, (title, width, draw) in _PLOTS.items():
        figure = new_figure(width, 3.9)
        draw(figure, sets)
        legend(figure, sets)
        picture = png(figure)
        (folder / name).write_bytes(picture)
        body.append(f"<h2>{title}</h2>{img(picture, title, 'plot')}{_tables(name, sets)}")
    for name, gallery in galleries.items():
        body.append(f"<h2>Rows of {html.escape(name)}</h2>{''.join(_gallery(gallery, root))}")
    page = html_page(_TITLE, "".join(body))
    (folder / PAGE).write_text(page, encoding="utf-8", errors="backslashreplace")


def _overview(sets: Sets, about: Mapping[str, tuple[str, str]]) -> str:
    rows = []
    for name, one in sets.items():
        labels = one.labels
        difficulties = one.difficulties
        rows.append(
            [
                name,
                about[name][1],
                f"{one.rows:,}",
                f"{_percent(labels['1'], sum(labels.values()))} : {_percent(labels['2'], sum(labels.values()))}",
                _percent(difficulties["unsolved"], one.rows - difficulties["none"]),
                _percent(one.preferred["longer"], sum(one.preferred.values())),
            ]
        )
    header = ["file", "holds", "rows", "labels 1 : 2", "never solved", "the longer is better"]
    notes = "".join(
        f'<p class="note">{html.escape(name)}: {found[1]:.1%} of the labels are {found[0]}, which a model learns.</p>'
        for name, one in sets.items()
        if (found := uneven(one.labels))
    )
    return html_table(header, rows) + notes


def _tables(plot: str, sets: Sets) -> str:
    if plot == "difficulty.png":
        names = ordered({name for one in sets.values() for name in one.difficulties})
        return _counts("attempts", sets, names, [one.difficulties for one in sets.values()])
    if plot == "labels.png":
        return _balance("source", sets) + _balance("difficulty", sets)
    if plot == "lengths.png":
        return _lengths(sets)
    if plot == "sources.png":
        return "".join(
            _counts(kind, sets, _most(counts), counts)
            for kind, counts in (
                ("source", [one.sources for one in sets.values()]),
                ("category", [one.categories for one in sets.values()]),
            )
        )
    return "".join(
        _counts(kind, sets, sorted(_most(counts), key=lambda name: (len(name), name)), counts)
        for kind, counts in (
            ("pictures", [one.images for one in sets.values()]),
            ("frames", [one.frames for one in sets.values()]),
        )
    )


def _most(counts: Sequence[Counter[str]]) -> list[str]:
    together: Counter[str] = Counter()
    for one in counts:
        together.update(one)
    return [name for name, _ in together.most_common()]


def _counts(kind: str, sets: Sets, names: Sequence[str], counts: Sequence[Mapping[str, int]]) -> str:
    rows = [
        [name, *(f"{one.get(name, 0):,} ({_percent(one.get(name, 0), sum(one.values()))})" for one in counts)]
        for name in names[:_TABLE_ROWS]
    ]
    more = f'<p class="note">and {len(names) - _TABLE_ROWS:,} more</p>' if len(names) > _TABLE_ROWS else ""
    return html_table([kind, *sets], rows) + more


def _balance(kind: str, sets: Sets) -> str:
    by_source = kind == "source"
    counts = [one.labels_by_source if by_source else one.labels_by_difficulty for one in sets.values()]
    groups = [one.sources if by_source else one.difficulties for one in sets.values()]
    names = _most(groups) if by_source else ordered(_most(groups))
    rows = [[name, *(f"{one[name, 1]:,} : {one[name, 2]:,}" for one in counts)] for name in names[:_TABLE_ROWS]]
    return html_table([f"labels 1 : 2 by {kind}", *sets], rows)


def _lengths(sets: Sets) -> str:
    header = ["", "texts", "mean", "5%", "median", "95%", "99%", "longest"]
    rows = []
    for name, one in sets.items():
        for text, units in one.lengths.items():
            for unit, lengths in units.items():
                if lengths.count:
                    quantiles = (lengths.quantile(share) for share in (0.05, 0.5, 0.95, 0.99))
                    rows.append(
                        [
                            f"{name}: {text} ({unit})",
                            f"{lengths.count:,}",
                            f"{lengths.total / lengths.count:,.0f}",
                            *(f"{value:,}" for value in quantiles),
                            f"{lengths.highest:,}",
                        ]
                    )
    return html_table(header, rows)


def _percent(part: int, total: int) -> str:
    return f"{part / total:.1%}" if total else "–"


def _gallery(gallery: _Gallery, root: str | None) -> Iterator[str]:
    for difficulty in ordered(gallery.samples):
        named = {"unsolved": "never solved", "none": "not annotated"}.get(difficulty, f"solved at attempt {difficulty}")
        yield f'<p class="note">{html.escape(named)} ({gallery.seen[difficulty]:,} rows)</p>'
        for sample in gallery.samples[difficulty]:
            yield _example(sample, root)


def _example(sample: Sample, root: str | None) -> str:
    media = [*sample.images, *sample.frames]
    pictures = "".join(_thumbnail(one, root) for one in media[:_PICTURES])
    more = f'<p class="note">{len(media) - _PICTURES:,} more pictures</p>' if len(media) > _PICTURES else ""
    question = "" if sample.question is None else f"<p><b>{_text(sample.question)}</b></p>"
    about = f"{sample.source}, {sample.category}: {_ANSWERS[sample.label]}"
    responses = "".join(
        f'<div class="{_CLASSES[place == sample.label]}"><b>Response {place}</b><pre>{_text(text)}</pre></div>'
        for place, text in enumerate(sample.responses or (), start=1)
    )
    trace = "" if sample.trace is None else f"<p><b>Teacher</b></p><pre>{_text(sample.trace)}</pre>"
    task = f'<div class="task">{pictures}<div>{question}{more}</div></div>'
    note = f'<p class="note">{_text(about)}</p>'
    return f'<div class="example">{note}{task}<div class="judgements">{responses}</div>{trace}</div>'


def _text(text: str) -> str:
    left = len(text) - _TEXT
    return html.escape(text[:_TEXT]) + (f"… ({left:,} more characters)" if left > 0 else "")


def _thumbnail(image: Any, root: str | None) -> str:
    """Return a small picture, or why there is none."""
    source = image_source(image)
    from PIL import Image

    try:
        if isinstance(source, str) and source.startswith("data:"):
            source = decoded(source)
        elif isinstance(source, str):
            source = source.removeprefix("file://")
            if root is not None and not os.path.isabs(source):
                source = resolve(root, source)
        elif not isinstance(source, bytes):
            raise ValueError("no picture")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            check_picture(source)
        small = thumbnail(source, 280)
    except ValueError as error:
        return f'<p class="note">{_text(str(error))}</p>'
    return '<p class="note">a picture that cannot be decoded</p>' if small is None else img(small, "a picture")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="r1reward data report",
        description="Show what data files look like: plots, tables and some of their rows on one page.",
        usage="%(prog)s [options] FILE... OUT_DIR",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="preferences, or what `r1reward data select` writes")
    parser.add_argument("out", metavar="OUT_DIR", help="folder to write; an earlier report in it is replaced")
    parser.add_argument("--media", metavar="ROOT", help="folder below which relative paths are meant")
    parser.add_argument("--model", help="folder or name of the model whose tokens lengths are counted in, too")
    parser.add_argument(
        "--max-rejects",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="greatest share of a file's rows that may be unreadable (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `r1reward data report`."""
    parser = _parser()
    # FILE... and OUT_DIR may stand on both sides of an option.
    options = parser.parse_intermixed_args(argv)
    try:
        sets = report(
            options.files,
            options.out,
            media_root=options.media,
            model=options.model,
            max_rejects=options.max_rejects,
        )
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    except (ReportError, OSError) as error:
        print(f"error: {error}; {options.out} was not written", file=sys.stderr)
        return 1
    for name, one in sets.items():
        print(f"{name}: {one.rows:,} rows")
    print(f"written: {Path(options.out, PAGE)}")
    return 0
