"""The documentation site in a real browser: it loads nothing from elsewhere, search finds, a phone can show it."""

import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chromium import Chromium

ROOT = Path(__file__).parents[2]
# The browser of the tests is from 2021. It gets what the site's scripts use of newer ones, and notes what goes wrong.
PREPARATION = b"""
Object.hasOwn ||= (object, key) => Object.prototype.hasOwnProperty.call(object, key);
globalThis.faults = [];
for (const kind of ["error", "unhandledrejection"])
  addEventListener(kind, (event) => faults.push(String(event.message || event.reason || event.target.src)), true);
console.error = console.warn = (...words) => faults.push(words.join(" "));
"""


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        if path.suffix == ".html":
            content = content.replace(b"<head>", b"<head><script>" + PREPARATION + b"</script>", 1)
        elif "workers" in path.parts:
            content = PREPARATION + content
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    pytest.importorskip("zensical", reason="the tools of the site are not installed (pip install -e '.[docs]')")
    folder = tmp_path_factory.mktemp("site") / "site"
    subprocess.run([sys.executable, ROOT / "tools" / "build_site.py", folder], check=True, timeout=300, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def address(site):
    """The address of a server with the site."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def pages(site):
    return sorted(str(page.relative_to(site)) for page in site.rglob("*.html") if page.name != "404.html")


def test_no_page_loads_anything_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        tags = re.findall(r"<(?:script|link|img|iframe|source|video|object)\b[^>]*>", text)
        assert [tag for tag in tags if re.search(r'(?:src|href)="?(?:https?:)?//', tag)] == []
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^\"')]*", sheet.read_text(encoding="utf-8")) == []


def test_search_finds_the_estimator(address):
    with Chromium(f"{address}/index.html") as page:
        found, faults = page.run(
            """
            const until = async (look) => {
              for (let tries = 0; tries < 100; tries++) {
                const found = look();
                if (found) return found;
                await new Promise((resolve) => setTimeout(resolve, 100));
              }
              throw new Error("not found within 10 s: " + look);
            };
            const shadows = () => [...page.document.querySelectorAll("*")].map((one) => one.shadowRoot).filter(Boolean);
            const all = (selector) => shadows().flatMap((root) => [...root.querySelectorAll(selector)]);
            page.document.querySelector(".md-search__button").click();
            const input = await until(() => all("input[role=combobox]")[0]);
            input.value = "adv_estimator";
            input.dispatchEvent(new page.Event("input", { bubbles: true }));
            const links = await until(() => {
              const links = all("a[href]");
              return links.length && links;
            });
            return [links.map((link) => link.href), page.faults];
            """
        )
    assert faults == []
    assert any("explanation/algorithm.html" in link for link in found)


def test_every_page_opens_without_a_fault_and_fits_a_phone(site, address):
    with Chromium(f"{address}/index.html") as page:
        wrong = page.run(
            """
            const wrong = [];
            for (const name of data) {
              const frame = page.document.createElement("iframe");
              Object.assign(frame, { width: 390, height: 800, src: name });
              page.document.body.append(frame);
              await new Promise((resolve) => frame.addEventListener("load", resolve));
              await new Promise((resolve) => setTimeout(resolve, 100));
              const width = frame.contentDocument.documentElement.scrollWidth;
              if (width > 390) wrong.push(`${name} is ${width} pixels wide`);
              wrong.push(...frame.contentWindow.faults.map((fault) => `${name}: ${fault}`));
              frame.remove();
            }
            return wrong;
            """,
            pages(site),
        )
    assert wrong == []


def test_formulas_are_typeset(site):
    text = (site / "explanation" / "algorithm.html").read_text(encoding="utf-8")
    assert text.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') >= 6
    assert "$$" not in text
    assert "\\frac" not in text
