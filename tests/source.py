"""The package's own source as syntax trees, for tests of what it imports, names and says."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "grepq_metric"


@dataclass(frozen=True)
class Module:
    """One file of source.

    Attributes:
        name: dotted, ``grepq_metric.models``.
        path: the file.
        tree: its syntax.
    """

    name: str
    path: Path
    tree: ast.Module

    def where(self, node: ast.AST | Text) -> str:
        """``path:line`` of a node, for messages."""
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


@dataclass(frozen=True)
class Import:
    """One imported name: ``from module import name``, or with `name` None ``import module``."""

    module: str
    name: str | None
    node: ast.AST

    @property
    def top(self) -> str:
        """The package that it is from."""
        return self.module.split(".")[0]


@dataclass(frozen=True)
class Text:
    """A string in the source: what it says, where it begins, and of a docstring what it describes."""

    value: str
    lineno: int
    owner: str = ""


@functools.cache
def modules(package: str = "grepq_metric") -> tuple[Module, ...]:
    """All files of a package of this repository."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return tuple(found)


def imports(module: Module) -> Iterator[Import]:
    """All imports of a module, those in functions as well; not those for type checkers alone."""
    package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
    for node in walk_running(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(source, alias.name, node)


def walk_running(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of code that runs: all but the bodies of ``if TYPE_CHECKING:``."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            todo.extend(node.orelse)
        else:
            todo.extend(ast.iter_child_nodes(node))


def docstrings(module: Module) -> Iterator[Text]:
    """Docstrings of a module, its classes and functions, and the strings below its constants."""
    for node in ast.walk(module.tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for statement in node.body:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield Text(value.value, value.lineno, getattr(node, "name", module.name))


def messages(module: Module) -> Iterator[Text]:
    """All strings of a module, pieces of f-strings as well, that are no docstrings."""
    documentation = {(text.value, text.lineno) for text in docstrings(module)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (node.value, node.lineno) not in documentation:
            yield Text(node.value, node.lineno)


def is_private(name: str) -> bool:
    """Whether a name has a single leading underscore."""
    return name.startswith("_") and not name.startswith("__") and name != "_"
