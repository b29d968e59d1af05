"""What the plugin uses of verl: there in the verl that is installed, and left out with a reason where verl differs."""

import ast
import importlib
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from r1reward_verl.plugin import INSTALL, guarded
from r1reward_verl.plugin.surface import PARTS, Part, Symbol, called, loaded_faults, wrapped
from r1reward_verl.plugin.verl_tree import Tree

VERL = Path(importlib.util.find_spec("verl").origin).parent
NAME = "verl.trainer.thing"


@pytest.fixture(scope="module")
def installed() -> Tree:
    return Tree(VERL)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_the_installed_verl_has_all_that_is_used(installed: Tree, part: Part):
    assert installed.faults(part) == []
    assert loaded_faults(part, importlib.import_module(part.module)) == []


def test_the_table_and_what_is_installed_are_of_the_same_parts():
    assert set(INSTALL) <= set(PARTS)
    by_verl_itself = {"discovery", "loss config", "datasets"}
    assert set(PARTS) - set(INSTALL) - by_verl_itself <= {name for name in PARTS if "CPU" in name or name == "platform"}


def test_every_import_from_verl_is_in_the_table():
    known = {str(symbol) for part in PARTS.values() for symbol in part.symbols}
    known |= {symbol.rpartition(".")[0] for symbol in known}  # the class of a method, the module of a function
    for file in (Path(__file__).parents[3] / "src" / "r1reward_verl").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "verl":
                assert {f"{node.module}.{alias.name}" for alias in node.names} <= known, file


def test_a_folder_without_verl(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"protocol\.py"):
        Tree(tmp_path)


@pytest.fixture
def verl(tmp_path: Path) -> Callable[[str], tuple[Tree, ModuleType]]:
    """Make a verl with one module of interest; return its files, and the module as if verl had imported it."""

    def make(text: str) -> tuple[Tree, ModuleType]:
        file = tmp_path / "verl" / "trainer" / "thing.py"
        file.parent.mkdir(parents=True)
        (tmp_path / "verl" / "protocol.py").touch()
        (file.parent / "__init__.py").touch()
        (file.parent / "elsewhere.py").write_text("def moved(a, b=1): ...\nclass Base:\n    def old(self, a): ...\n")
        file.write_text(text)
        spec = importlib.util.spec_from_file_location(NAME, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        if "import" not in text:
            spec.loader.exec_module(module)
        return Tree(tmp_path), module

    return make


# The text of a module, what is looked for, and the reason why it does not fit.
CASES = {
    "as it was": ("def f(a, b=1): ...", called(NAME, "f", "a", "b"), None),
    "a new argument with a default": ("def f(a, b=1): ...", called(NAME, "f", "a"), None),
    "a new argument, which we do not give": ("def f(a, b): ...", called(NAME, "f", "a"), "takes (a, b), not (a)"),
    "a new argument that has to be named": ("def f(a, *, b): ...", called(NAME, "f", "a"), "takes (a, b), not (a)"),
    "a new argument, which a wrapper passes on": ("def f(a, b, *, c): ...", wrapped(NAME, "f", "a"), None),
    "anything": ("def f(a, **rest): ...", called(NAME, "f", "a"), None),
    "another plugin's wrapper": ("def f(*args, **kwargs): ...", wrapped(NAME, "f", "a"), None),
    "another name": ("def f(x, b): ...", wrapped(NAME, "f", "a"), "takes (x, b), not (a, ...)"),
    "another order": ("def f(b, a): ...", wrapped(NAME, "f", "a"), "takes (b, a), not (a, ...)"),
    "fewer": ("def f(): ...", wrapped(NAME, "f", "a"), "takes (), not (a, ...)"),
    "gone": ("def g(a): ...", wrapped(NAME, "f", "a"), "is missing"),
    "a method": ("class C:\n    def f(self, a): ...", wrapped(NAME, "C.f", "a"), None),
    "a coroutine": ("class C:\n    async def f(self, a): ...", wrapped(NAME, "C.f", "a"), None),
    "a class method": ("class C:\n    @classmethod\n    def f(cls, a): ...", called(NAME, "C.f", "a"), None),
    "a static method": ("class C:\n    @staticmethod\n    def f(a): ...", called(NAME, "C.f", "a"), None),
    "another method": ("class C:\n    def f(self): ...", wrapped(NAME, "C.f", "a"), "takes (), not (a, ...)"),
    "a method that is gone": ("class C: ...", wrapped(NAME, "C.f", "a"), "is missing"),
    "an inherited method": ("class B:\n    def f(self, a): ...\nclass C(B): ...", wrapped(NAME, "C.f", "a"), None),
    "a class": ("class C: ...", Symbol(NAME, "C"), None),
    "a table": ("KNOWN: dict = {}", Symbol(NAME, "KNOWN"), None),
    "where it depends": ("try:\n    def f(a): ...\nexcept ImportError:\n    f = None", called(NAME, "f", "a"), None),
}


@pytest.mark.parametrize(("text", "symbol", "reason"), CASES.values(), ids=CASES)
def test_files_and_modules_are_judged_alike(text: str, symbol: Symbol, reason: str | None, verl):
    tree, module = verl(text)
    part = Part("part", NAME, "nothing is lost", (symbol,))
    found = tree.faults(part)
    assert found == loaded_faults(part, module)
    assert found == ([] if reason is None else [f"{symbol} {reason}"])


@pytest.mark.parametrize(
    ("text", "symbol", "fits"),
    [
        ("from verl.trainer.elsewhere import moved as f", called(NAME, "f", "a"), True),
        ("from .elsewhere import moved", called(NAME, "moved", "a"), True),
        ("from .elsewhere import moved", called(NAME, "moved", "x"), False),
        ("from .elsewhere import *", called(NAME, "moved", "a"), True),
        ("from .elsewhere import gone", Symbol(NAME, "gone"), False),
        ("from torch import Tensor", Symbol(NAME, "Tensor"), True),
        ("from .elsewhere import Base\nclass C(Base): ...", wrapped(NAME, "C.old", "a"), True),
        ("from .elsewhere import Base\nclass C(Base): ...", wrapped(NAME, "C.new", "a"), False),
    ],
)
def test_imports_are_followed_in_files(text: str, symbol: Symbol, fits: bool, verl):
    tree, _ = verl(text)
    assert (tree.faults(Part("part", NAME, "nothing is lost", (symbol,))) == []) == fits


def test_what_a_wrapper_reads_has_to_be_mentioned(verl):
    tree, _ = verl("class C:\n    def f(self):\n        self.handles = {}\n")
    assert tree.faults(Part("part", NAME, "nothing is lost", (), ("handles", "workers"))) == [
        f"{NAME} does not mention workers"
    ]


def test_a_part_whose_module_is_gone(verl):
    tree, _ = verl("")
    assert tree.faults(Part("part", "verl.trainer.v1", "nothing is lost", ())) == ["verl.trainer.v1 is missing"]


@pytest.mark.parametrize(("text", "installs"), [("def f(a, b): ...", True), ("def f(b): ...", False), ("", False)])
@pytest.mark.parametrize("name", ["validation", "preflight"])
def test_a_part_is_installed_where_verl_fits(text: str, installs: bool, name: str, verl, caplog):
    """It neither fails nor wraps elsewhere. The preflight warns of the rest; without a preflight, it is said here."""
    _, module = verl(text)
    done: list[ModuleType] = []
    part = Part(name, NAME, "figures are lost", (wrapped(NAME, "f", "a"),))
    with caplog.at_level(logging.INFO):
        guarded(part, done.append)(module)
    assert done == ([module] if installs else [])
    levels = [record.levelname for record in caplog.records]
    assert levels == ([] if installs else ["WARNING" if name == "preflight" else "INFO"])
    assert installs or f"figures are lost, since this verl differs: {NAME}.f" in caplog.text
