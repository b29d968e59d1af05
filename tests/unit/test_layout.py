"""The house rules that import-linter (pyproject.toml) cannot hold: imports within functions, and the size of files."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "r1reward_verl"
FILES = sorted(PACKAGE.rglob("*.py"))
# What these import within functions takes a second that a process without need of it must not pay: verl imports the
# first two in every process, `r1reward --help` imports every command, and the doctor reports a plugin that cannot be
# imported.
LAZY = {
    PACKAGE / name for name in ("plugin/__init__.py", "plugin/preflight/__init__.py", "cli/doctor.py", "cli/serve.py")
}


def imports_of_ours(function):
    for node in ast.walk(function):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (f"line {node.lineno}: {name}" for name in names if name.split(".")[0] == "r1reward_verl")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_function_imports_our_own_modules_and_no_file_is_long(file):
    text = file.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    if file not in LAZY:
        assert [found for function in functions for found in imports_of_ours(function)] == []
    assert len(text.splitlines()) <= 500
