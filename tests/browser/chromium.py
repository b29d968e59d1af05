"""A real headless browser for tests, which pip installs: the Chromium 88 that the wheel of kaleido 0.2.1 carries.

Kaleido starts it with a script of the caller's instead of plotly.js, reads one JSON object a line from stdin, gives it
to `kaleido_scopes.plotly` and writes what that returns to stdout; `driver.js` makes of it a door for tests. There is no
network between them, and nothing beside the wheel is needed.
"""

import json
import os
import select
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("driver.js")


def folder():
    """Where the browser is; skips the test where kaleido 0.2.1 is not installed (later ones carry none)."""
    spec = find_spec("kaleido")
    places = spec.submodule_search_locations if spec else None
    found = Path(next(iter(places))) / "executable" if places else None
    if found is None or not (found / "bin" / "kaleido").is_file():
        pytest.skip("no browser: kaleido==0.2.1 is not installed (pip install -e '.[dev]')")
    return found


class Chromium:
    """A browser that shows a file or a page of a local server, in a frame of 1200 x 900 pixels; to be closed."""

    def __init__(self, page):
        address = page if str(page).startswith("http:") else Path(page).absolute().as_uri()
        self._start(folder(), 6)
        self.run("return window.open_page(data)", address)

    def _start(self, home, attempts):
        # Its own start script breaks at a blank in a path.
        self._process = subprocess.Popen(
            [
                str(home / "bin" / "kaleido"),
                "plotly",
                f"--plotlyjs={DRIVER.as_uri()}",
                "--no-sandbox",  # containers often have no user namespaces, and only pages of the tests are opened
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-breakpad",
                "--allow-file-access-from-files",  # so that the driver, a file, reaches into the frame
                "--disable-web-security",  # so that it does where a server sent the page; a page's own policy stays
            ],
            cwd=home,
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(home / "lib"),
                "FONTCONFIG_PATH": str(home / "etc" / "fonts"),
                "XDG_DATA_HOME": str(home / "xdg"),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        # One start in thirty never gets as far as its first word (measured; with the driver as a path, nine).
        if attempts > 1 and not self._speaks(6):
            self._end()
            self._start(home, attempts - 1)
        else:
            self._answer()

    def _speaks(self, seconds):
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def _end(self):
        self._process.kill()
        self._process.communicate()

    def run(self, script, data=None):
        """Return what the body of an async function returns; `page` is the window of the page, `data` the argument."""
        self._process.stdin.write(json.dumps({"script": script, "data": data}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        if not self._speaks(60):
            self._end()
            raise TimeoutError("the browser has not answered for a minute")
        line = self._process.stdout.readline()
        assert line, f"the browser ended with exit code {self._process.wait()}"
        answer = json.loads(line)
        assert answer["code"] == 0, answer["message"]
        return answer.get("result")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._end()
