"""Build the documentation site from `docs/`, the code and the recipes: `python tools/build_site.py [OUT]`.

The pages of the command line and of the settings are made from the declarations in the code. The build is strict: a
link that leads nowhere fails it. The pages load nothing from elsewhere. Search needs a server, since browsers start
no worker from the disk: `python -m http.server --directory site`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import zensical

import r1reward_verl
from r1reward_verl.settings import Settings

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "src" / "r1reward_verl" / "recipes"


def build(out: Path) -> None:
    """Build the site in a folder, which is replaced.

    Raises:
        RuntimeError: a link leads nowhere, or a page is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copytree(ROOT / "docs", work / "docs")
        for name in ("src", "examples"):
            (work / name).symlink_to(ROOT / name)
        shutil.copy(ROOT / "mkdocs.yml", work)
        for page in ("CONTRIBUTING", "CHANGELOG"):
            text = (ROOT / f"{page}.md").read_text(encoding="utf-8").replace("](docs/", "](")
            (work / "docs" / f"{page.lower()}.md").write_text(text, encoding="utf-8")
        reference = work / "docs" / "reference"
        (reference / "command-line.md").write_text(command_line(), encoding="utf-8")
        (reference / "settings.md").write_text(
            (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8") + settings(), encoding="utf-8"
        )
        zensical.build(str(work / "mkdocs.yml"), {"clean": True, "strict": True})
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(work / "site", out)


def command_line() -> str:
    """Return the page of the commands and their options, as Typer makes it from their declarations."""
    command = [sys.executable, "-m", "typer", "r1reward_verl.cli", "utils", "docs", "--name", "r1reward"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    introduction = """# Command line

Made from the declarations that `r1reward` itself reads. `r1reward COMMAND --help` prints the same, and `r1reward
--install-completion` makes the shell complete commands and options.

Exit codes: 0 if all went well, 1 if the work failed, 2 for bad usage or input, 130 after Ctrl-C, 141 where the reader
of the output has gone, 143 after SIGTERM. A command may have others, which its text lists.
"""
    return introduction + text.partition("\n")[2].replace("**Usage**:\n\n```console", "```console")


# Settings


def settings() -> str:
    """Return the tables of all settings classes, and the recipes as they are."""
    lines = ["", "## Settings classes", "", "Each is a frozen class that checks its values when it is made."]
    for cls in sorted(_settings_classes(), key=lambda cls: (cls.__module__, cls.__name__)):
        lines += ["", f"### {cls.__name__}", "", f"`{cls.__module__}`. {_paragraphs(cls.__doc__ or '')}", ""]
        lines += ["| setting | type | default | |", "|---|---|---|---|"]
        lines += [_field_row(cls, field) for field in msgspec.structs.fields(cls)]
    lines += ["", "## Recipes", ""]
    for path in sorted(RECIPES.rglob("*.yaml")):
        name = path.relative_to(RECIPES).with_suffix("")
        text = path.read_text(encoding="utf-8").strip()
        lines += [f"### {name}", "", "```yaml", text, "```", ""]
    return "\n".join(lines)


def _settings_classes() -> list[type[Settings]]:
    for module in pkgutil.walk_packages(r1reward_verl.__path__, "r1reward_verl."):
        # Those that touch verl declare no settings of the command line, and take seconds to import.
        if not module.name.startswith(("r1reward_verl.plugin", "r1reward_verl.cpu", "r1reward_verl.cli.__main__")):
            importlib.import_module(module.name)

    def below(cls: type[Settings]) -> Iterator[type[Settings]]:
        for one in cls.__subclasses__():
            yield one
            yield from below(one)

    return [cls for cls in below(Settings) if msgspec.structs.fields(cls)]


def _field_row(cls: type[Settings], field: msgspec.structs.FieldInfo) -> str:
    hint = get_type_hints(cls, include_extras=True)[field.name]
    parts = get_args(hint)
    meta = next((part for part in parts[1:] if isinstance(part, msgspec.Meta)), msgspec.Meta())
    bounds = [
        f"{word} {getattr(meta, name)}"
        for name, word in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
        if getattr(meta, name) is not None
    ]
    kind = ", ".join((f"`{_type(parts[0] if parts else hint)}`", *bounds))
    if field.default is not msgspec.NODEFAULT:
        default = _value(field.default)
    else:
        default = "required" if field.default_factory is msgspec.NODEFAULT else _value(field.default_factory())
    return f"| `{field.name}` | {_cell(kind)} | {default} | {_cell(meta.description or '')} |"


def _type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    name = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    return name.replace(" | ", " or ").replace("NoneType", "None")


def _value(value: Any) -> str:
    if value is None or value in ((), [], {}, ""):
        return ""
    return "a text" if "\n" in str(value) else f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _paragraphs(text: str) -> str:
    """Return a docstring as Markdown: its lines without indentation, its paragraphs kept."""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())).replace("<", "&lt;")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # for the Markdown extension `mathml`
    build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").absolute())
