"""What the reports are made of: plots in one look, and HTML pages that need nothing beside them.

All texts that go through here are escaped: they come from data and models.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, PALE = "#24292f", "#57606a"
COLOURS = ("#1f6feb", "#9aa5b1", "#1a7f37", "#bf8700", "#8250df", "#cf222e")
"""For things drawn beside one another, in this order."""

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #24292f; max-width: 1080px; margin: 2rem auto; padding: 0
1rem; } h1, h2 { line-height: 1.2; } table { border-collapse: collapse; margin: 1rem 0; } th, td { padding:
.4rem .9rem; border-bottom: 1px solid #d8dee4; text-align: right; overflow-wrap: anywhere; } th:first-child,
td:first-child { text-align: left; } .plot { width: 100%; height: auto; } .note { color: #57606a; } .example {
border: 1px solid #d8dee4; border-radius: 8px; padding: 1rem; margin: 1rem 0; overflow-wrap: anywhere; } .task {
display: flex; gap: 1rem; } .task img { width: 140px; height: 140px; object-fit: contain; image-rendering:
pixelated; border: 1px solid #d8dee4; } .judgements { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem;
margin-top: .8rem; } .judgements > div { background: #f6f8fa; border-left: 4px solid #cf222e; padding: .6rem
.8rem; min-width: 0; } .judgements > div.right { border-color: #1a7f37; } pre { white-space: pre-wrap;
overflow-wrap: anywhere; font-size: 13px; margin: .4rem 0 0; }
"""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, without pyplot: no global state, no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Any, title: str | None = None) -> None:
    """Give axes the look of the reports."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#8b949e")
    axes.tick_params(colors=PALE, labelsize=9)
    axes.grid(axis="y", color="#d8dee4", linewidth=0.8)
    axes.set_axisbelow(True)
    if title is not None:
        axes.set_title(title, fontsize=11, loc="left", color=INK, fontweight="bold")


def say_empty(axes: Any, text: str) -> None:
    """Write into axes why nothing is drawn there."""
    axes.text(0.5, 0.5, text, ha="center", va="center", color=PALE, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names from data in scripts that the font lacks: the tables beside the plots have them.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def img(picture: bytes, alt: str, css_class: str = "") -> str:
    """Return a PNG or JPEG file as an inline image."""
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    data = base64.b64encode(picture).decode()
    return f'<img class="{css_class}" alt="{html.escape(alt)}" src="data:image/{kind};base64,{data}">'


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the first column stands on the left, numbers on the right."""

    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def html_page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return a whole page.

    The browser is told to load nothing and to run nothing but the page's own style and script, whatever else a text
    might smuggle in.

    Args:
        title: of the page, as text.
        body: HTML; `style` attributes and event handlers in it have no effect.
        style: CSS beside that of all reports.
        script: JavaScript, run at the end of the page.
    """
    style = _STYLE + style
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><meta name="viewport" content="width=device-width"><title>{title}</title>'
        f"<style>{style}</style></head><body><h1>{title}</h1>{body}"
        + (f"<script>{script}</script>" if script else "")
        + "</body></html>\n"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
