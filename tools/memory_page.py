"""Write the tables of docs/how-to/memory.md anew: each command there, with what it prints now.

python tools/memory_page.py
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

from r1reward_verl.plugin.plan.command import print_plan

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "memory.md"
BLOCK = re.compile(r"^(```console\n\$ r1reward doctor --plan ([^\n]*)\n)(.*?)(?=^```)", re.M | re.S)


def printed(block: re.Match[str]) -> str:
    """Return a block with the output of its command."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        print_plan(shlex.split(block[2]))
    return block[1] + output.getvalue()


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(printed, PAGE.read_text()))
