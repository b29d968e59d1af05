r"""Markdown extension of the site: formulas between dollar signs become MathML, which browsers show without a script.

`$x$` within a line, `$$` on a line of its own before and after a displayed formula; `\$` is a dollar sign.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor

_DISPLAY = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.MULTILINE | re.DOTALL)


class _Displayed(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        def store(found: re.Match[str]) -> str:
            formula = convert(found[1].replace("\n", " "), display="block")
            return self.md.htmlStash.store(f'<div class="formula" tabindex="0">{formula}</div>')

        return _DISPLAY.sub(store, "\n".join(lines)).split("\n")


class _Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element | str, int, int]:
        return self.md.htmlStash.store(convert(m[1])), m.start(0), m.end(0)


class MathML(Extension):
    """The extension."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Add formulas to `md`: displayed ones after fenced blocks of code, inline ones after inline code."""
        md.preprocessors.register(_Displayed(md), "mathml-displayed", 22)
        md.inlinePatterns.register(_Inline(r"(?<![\\$])\$([^$\n]+?)\$(?!\$)", md), "mathml-inline", 185)


def makeExtension(**options: Any) -> MathML:
    """Return the extension; Markdown calls this by its name."""
    return MathML(**options)
