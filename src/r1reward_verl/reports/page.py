"""Pages of the reports: single HTML files made from `templates/`, with their plots, and Markdown versions.

All texts on a page come from data and models. The templates escape them, and the page tells the browser to load nothing
and to run nothing but its own style and script.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from r1reward_verl.media import sampled, thumbnail
from r1reward_verl.plots import Interval
from r1reward_verl.storage import write_text
from r1reward_verl.text import aligned

UNKNOWN = "–"
_HEAD, _TAIL = 6_000, 2_000  # characters that are shown of a long text
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#&~$])")

PathT = TypeVar("PathT")


@dataclass(frozen=True)
class Table:
    """A table of texts: names in the first column, figures in the others (or `words`)."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


@dataclass(frozen=True)
class Line:
    """A result in a sentence: what it is of, the sentence, and remarks."""

    name: str
    text: str
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of a report: its heading, lines, tables, a plot (file name and PNG), a note."""

    title: str
    tables: Sequence[Table] = ()
    plot: tuple[str, bytes] | None = None
    note: str = ""
    lines: Sequence[Line] = ()


def write_page(path: Path, template: str, **context: Any) -> None:
    """Write an HTML page or its Markdown version; a reader of the file finds the old one or the new one, never a part.

    Raises:
        OSError: it cannot be written.
    """
    write_text(path, render(template, **context))


def write_plots(folder: Path, sections: Iterable[Section]) -> None:
    """Write the plots of sections as PNG files."""
    for part in sections:
        if part.plot is not None:
            (folder / part.plot[0]).write_bytes(part.plot[1])


def render(template: str, **context: Any) -> Markup:
    """Return what a template makes of its variables; it may stand in another page as it is."""
    return Markup(_ENVIRONMENT.get_template(template).render(context))  # noqa: S704  (escaped by the template)


def text_table(table: Table) -> str:
    """Return a table in aligned columns, for the terminal."""
    header, *lines = aligned([table.header, *table.rows])
    return "\n".join([header, "-" * len(header), *lines])


def short_names(paths: Sequence[PathT], short: Callable[[PathT], str]) -> dict[str, PathT]:
    """Name paths by their short names, or as they are where several share a short name.

    Raises:
        ValueError: a path is given twice.
    """
    stems = [short(path) for path in paths]
    names: dict[str, PathT] = {}
    for stem, path in zip(stems, paths, strict=True):
        name = stem if stems.count(stem) == 1 else str(path)
        if name in names:
            raise ValueError(f"the input {str(path)!r} is given twice")
        names[name] = path
    return names


def percent(share: float | None, interval: Interval | None = None, form: str = ".1f", unit: str = "") -> str:
    """Return a share in percent in the format `form`, followed by its interval if it has one."""
    if share is None:
        return UNKNOWN
    low_high = [format(100 * bound, form.removeprefix("+")) for bound in interval or ()]
    return f"{100 * share:{form}}{unit}" + (f" [{', '.join(low_high)}]" if interval else "")


def small_pictures(
    sources: Sequence[Any], count: int, side: int, root: str | None = None
) -> list[tuple[str, bytes | str]]:
    """Return thumbnails of at most `count` pictures, spread evenly: the name of each, and its file or why it has none.

    If there are more pictures, a last entry says how many are shown.
    """
    pictures: list[tuple[str, bytes | str]] = []
    for place in sampled(len(sources), count):
        try:
            file: bytes | str = thumbnail(sources[place], side, root)
        except (OSError, ValueError) as error:
            file = f"not readable: {error}"
        pictures.append((f"picture {place + 1} of {len(sources)}", file))
    return [*pictures, ("", f"{count} of {len(sources)} pictures")] if len(sources) > count else pictures


def cut(text: str) -> str:
    """Return a text without its middle if it is long."""
    left = len(text) - _HEAD - _TAIL
    return text if left <= 0 else f"{text[:_HEAD]}\n[… {left:,} characters are left out here …]\n{text[-_TAIL:]}"


def _markdown(text: str) -> str:
    """Escape a text for a line of Markdown."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _data_uri(picture: bytes) -> str:
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _source_hash(text: str) -> str:
    """Return the source expression by which a Content-Security-Policy permits an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).with_name("templates"))
    environment = Environment(
        loader=loader,
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cut": cut, "markdown": _markdown, "data_uri": _data_uri, "source_hash": _source_hash}
    environment.filters["number"] = "{:,}".format
    environment.filters["share"] = lambda part, total: f"{part / total:.1%}" if total else UNKNOWN
    environment.globals["inline"] = lambda name: Markup(loader.get_source(environment, name)[0])  # noqa: S704
    return environment


_ENVIRONMENT = _environment()
