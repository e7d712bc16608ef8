"""The shape of the package in figures: `python -m bench.house [PACKAGE]` prints them, of another copy if it is named.

tests/test_house.py holds the limits.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from rich.console import Console
from rich.table import Table

PACKAGE = Path(__file__).parents[1] / "pastalm"
# A class whose method makes one of its subclasses must import it, inside of that method.
FACTORIES = [("pastalm.runtime.engine", "pastalm.runtime.remote.engine")]  # Engine.remote


@dataclass(frozen=True)
class Function:
    """A function or method: its module, its qualified name, and the lines of its body, docstring left out."""

    module: str
    name: str
    lines: int


@dataclass(frozen=True)
class Module:
    """A Python file. `name` is dotted, `package` what it stands in, one level below the top."""

    name: str
    package: str
    lines: int
    tree: ast.Module

    def functions(self) -> Iterator[Function]:
        """All functions, those inside of classes and functions too."""
        yield from _functions(self.tree, self.name, "")

    def types(self) -> Iterator[str]:
        """The names of the public classes at the top of the file, and of other types, written as classes are."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node.name
            elif isinstance(node, ast.Assign):
                names = (target.id for target in node.targets if isinstance(target, ast.Name))
                yield from (name for name in names if name[0].isupper() and not name.isupper())

    def imports(self) -> Iterator[str]:
        """What it imports, wherever the import stands: modules, and names in them as if they were modules."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _functions(tree: ast.AST, module: str, within: str) -> Iterator[Function]:
    for node in ast.iter_child_nodes(tree):
        inner = within
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{within}{node.name}."
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Function(module, inner[:-1], _length(node))
        yield from _functions(node, module, inner)


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def modules(package: Path = PACKAGE) -> list[Module]:
    """All modules of a package."""
    return [_module(path, package) for path in sorted(package.rglob("*.py"))]


def _module(path: Path, package: Path) -> Module:
    parts = path.relative_to(package.parent).with_suffix("").parts
    text = path.read_text(encoding="utf-8")
    dotted = ".".join(parts).removesuffix(".__init__")
    return Module(dotted, parts[1] if len(parts) > 2 else "(top)", len(text.splitlines()), ast.parse(text))


def twice(found: list[Module]) -> dict[str, list[str]]:
    """Names of public types that stand more than once, with the modules they stand in."""
    homes: dict[str, list[str]] = defaultdict(list)
    for module in found:
        for name in module.types():
            homes[name].append(module.name)
    return {name: places for name, places in homes.items() if len(places) > 1}


def circle(found: list[Module]) -> list[str]:
    """A circle of modules that import one another, wherever in them the imports stand, or nothing.

    The package's own `__init__`, which imports lazily, is no part of any, and `FACTORIES` are left out.
    """
    top = min((module.name for module in found), key=len)
    names = {module.name for module in found} - {top}
    graph = {module.name: set(module.imports()) & names - {module.name} for module in found if module.name != top}
    for maker, made in FACTORIES:
        graph.get(maker, set()).discard(made)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def table(found: list[Module]) -> Table:
    """Files, lines and the longest function of each part of the package."""
    shown = Table("package", "files", "lines", "longest function", "lines of it")
    packages = sorted({module.package for module in found})
    for package in [*packages, "all"]:
        within = [module for module in found if package in ("all", module.package)]
        longest = max((one for module in within for one in module.functions()), key=lambda one: one.lines, default=None)
        name, lines = (f"{longest.module.split('.', 1)[1]}.{longest.name}", longest.lines) if longest else ("", 0)
        shown.add_row(package, str(len(within)), str(sum(module.lines for module in within)), name, str(lines))
    return shown


def main() -> None:
    """Print the figures."""
    package = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE
    found = modules(package.resolve())
    if not found:
        raise SystemExit(f"There are no Python files in {package}: name the folder of a package, such as pastalm.")
    functions = [one for module in found for one in module.functions()]
    classes = Counter(name for module in found for name in module.types())
    doubles = twice(found)
    console = Console(width=120)
    console.print(table(found))
    lengths = sorted(one.lines for one in functions)
    console.print(f"{len(functions)} functions, median {lengths[len(lengths) // 2]} lines")
    for one in sorted((one for one in functions if one.lines > 25), key=lambda one: -one.lines):
        console.print(f"  {one.lines} lines: {one.module}.{one.name}")
    console.print(
        f"{len(doubles)} of {len(classes)} public names of types stand more than once: {', '.join(sorted(doubles))}"
    )
    console.print(f"circle of imports: {' -> '.join(circle(found)) or 'none'}")


if __name__ == "__main__":
    main()
