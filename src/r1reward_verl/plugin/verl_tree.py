"""Which parts of this package a verl that is not imported switches off, by its files.

`r1reward doctor --verl FOLDER` prints it, and the preflight has it for its one warning.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from inspect import Parameter
from pathlib import Path

from r1reward_verl.plugin.surface import PARTS, Part, Symbol, fault


class Tree:
    """The files of a verl, which are read and not imported.

    Args:
        folder: the folder `verl`, or the one that holds it.

    Raises:
        FileNotFoundError: there is no verl in it.
    """

    def __init__(self, folder: Path) -> None:
        self.root = next((at for at in (folder, folder / "verl") if (at / "protocol.py").is_file()), None)
        if self.root is None:
            raise FileNotFoundError(f"{folder}: no verl is here; give the folder that holds its protocol.py")
        self._modules: dict[str, ast.Module | None] = {}

    @property
    def version(self) -> str:
        """What the tree says is its version."""
        assert self.root is not None
        file = self.root / "version" / "version"
        return file.read_text().strip() if file.is_file() else "unknown"

    def faults(self, part: Part) -> list[str]:
        """Return in what this verl differs from what a part needs."""
        if self._module(part.module) is None:
            return [f"{part.module} is missing"]
        found = list(filter(None, map(self._fault, part.symbols)))
        words = self._words(part.module) if part.mentions else set()
        return found + [f"{part.module} does not mention {name}" for name in part.mentions if name not in words]

    def off(self) -> dict[str, list[str]]:
        """Return the names of the parts that this verl switches off, with the reasons."""
        return {name: found for name, part in PARTS.items() if (found := self.faults(part))}

    def _fault(self, symbol: Symbol) -> str | None:
        node = self._find(symbol.module, symbol.name.split("."))
        if node is None:
            return f"{symbol} is missing"
        return fault(symbol, list(_parameters(node)) if isinstance(node, _FUNCTIONS) else None)

    def _module(self, name: str) -> ast.Module | None:
        if name not in self._modules:
            assert self.root is not None
            path = self.root.joinpath(*name.split(".")[1:])
            # A folder of verl's configs may have the name of a module.
            files = (file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file())
            self._modules[name] = next((ast.parse(file.read_text()) for file in files), None)
        return self._modules[name]

    def _find(self, module: str, path: list[str]) -> ast.AST | None:
        """Return where a name is defined, by way of imports and base classes."""
        tree = self._module(module)
        if tree is None:
            return None
        found: ast.AST | None = None
        for node in _statements(tree.body):
            if isinstance(node, ast.ImportFrom):
                source = self._source(module, node)
                for alias in node.names:
                    if path[0] == (alias.asname or alias.name):
                        found = self._find(source, [alias.name, *path[1:]]) if source.startswith("verl") else node
                    elif alias.name == "*":
                        found = self._find(source, path) or found
            elif path[0] in _defined(node):
                found = self._member(module, node, path[1:])
        return found

    def _member(self, module: str, node: ast.AST, path: list[str]) -> ast.AST | None:
        if not path:
            return node
        if not isinstance(node, ast.ClassDef):
            return None
        for statement in _statements(node.body):
            if path[0] in _defined(statement):
                return statement
        bases = (ast.unparse(base).split(".") for base in node.bases)
        return next(filter(None, (self._find(module, [*base, *path]) for base in bases)), None)

    def _source(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        assert self.root is not None
        package = module.split(".")
        if not self.root.joinpath(*package[1:], "__init__.py").is_file():
            package = package[:-1]
        package = package[: len(package) - node.level + 1]
        return ".".join([*package, *([node.module] if node.module else [])])

    def _words(self, module: str) -> set[str]:
        words = set()
        for node in ast.walk(self._module(module) or ast.Module([], [])):
            if isinstance(node, ast.Attribute):
                words.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
        return words


def check_tree(folder: Path) -> int:
    """Print which parts of this package work with the verl in a folder; return 1 if any is left out, else 0."""
    tree = Tree(folder)
    off = tree.off()
    print(f"verl {tree.version}: {len(PARTS) - len(off)} of {len(PARTS)} parts work")
    for name, part in PARTS.items():
        print(f"off      {name}: {part.lost} ({'; '.join(off[name])})" if name in off else f"ok       {name}")
    return int(bool(off))


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements, those under `if` and `try` too."""
    for node in body:
        yield node
        for name in ("body", "orelse", "handlers", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.ExceptHandler | ast.With):
                yield from _statements(getattr(node, name, ()))


def _defined(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Parameter]:
    """Yield the parameters of a function as `inspect` has them, without self and cls."""
    given, positional = node.args, [*node.args.posonlyargs, *node.args.args]
    required = len(positional) - len(given.defaults)
    for index, argument in enumerate(positional):
        if index or argument.arg not in ("self", "cls"):
            default = Parameter.empty if index < required else None
            yield Parameter(argument.arg, Parameter.POSITIONAL_OR_KEYWORD, default=default)
    if given.vararg:
        yield Parameter(given.vararg.arg, Parameter.VAR_POSITIONAL)
    for argument, value in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        default = Parameter.empty if value is None else None
        yield Parameter(argument.arg, Parameter.KEYWORD_ONLY, default=default)
    if given.kwarg:
        yield Parameter(given.kwarg.arg, Parameter.VAR_KEYWORD)
