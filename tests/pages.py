"""What a page of a report consists of, for tests of the reports."""

import base64
import hashlib
import io
from html.parser import HTMLParser

from PIL import Image


class Page(HTMLParser):
    """A page: `tags` with their attributes, `text` with single blanks, the texts of scripts and styles in `inside`."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.inside, self._text, self._open = [], {"script": [], "style": []}, [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join("".join(self._text).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        self._open = self._open[: -1 - self._open[::-1].index(tag)] if tag in self._open else self._open

    def handle_data(self, data):
        if self._open and self._open[-1] in self.inside:
            self.inside[self._open[-1]].append(data)
        else:
            self._text.append(data)

    def all(self, tag, css=None):
        return [attributes for name, attributes in self.tags if name == tag and css in (None, attributes.get("class"))]


def check_stands_alone(page):
    """A page loads nothing, its images are whole, and the browser is told to run its own style and script alone."""
    sources = [value for _, attributes in page.tags for name, value in attributes.items() if name == "src"]
    for source in sources:
        assert source.split(";")[0] in ("data:image/png", "data:image/jpeg")
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).verify()
    assert not page.all("link")
    assert not any("style" in attributes or any(name[:2] == "on" for name in attributes) for _, attributes in page.tags)

    def digest(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    (policy,) = (meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        *(f"{kind}-src {digest(text)}" for kind in ("style", "script") for text in page.inside[kind]),
        "base-uri 'none'",
        "form-action 'none'",
    ]
