"""Layers: the language needs no torch, and imports only go down."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pastalm

ROOT = Path(pastalm.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parts[-2:] != ("pastalm", "__init__.py"))
# What each layer may import from, from the lowest up; serving and evaluation stand side by side.
LAYERS = [
    "lang",
    "files",
    "progress",
    "tasks",
    "layout",
    "views",
    "runtime",
    "data",
    "annotation",
    "training",
    "evaluation",
]
BELOW = {layer: set(LAYERS[:place]) for place, layer in enumerate(LAYERS)} | {"bundled": set(), "assistant": set()}
BELOW["serving"] = BELOW["evaluation"] | {"__version__"}
BELOW["cli"] = BELOW["evaluation"] | {"evaluation", "serving"}
BELOW["cli"].add("__version__")
BELOW["__main__"] = {"cli"}


def layer(module: Path) -> str:
    return module.relative_to(ROOT).parts[0].removesuffix(".py")


def targets(module: Path) -> Iterator[str]:
    """What a module imports from this package, with full names, wherever in it the import stands."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imported(module: Path) -> set[str]:
    """The layers that a module imports from."""
    return {name.split(".")[1] for name in targets(module) if name.startswith("pastalm.")}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(module: Path) -> None:
    own = layer(module)
    assert own in BELOW, f"{module} stands in no known layer"
    assert imported(module) <= BELOW[own] | {own}


def test_the_language_imports_no_torch() -> None:
    names = [f"pastalm.lang.{path.stem}" for path in sorted((ROOT / "lang").glob("*.py")) if path.stem != "__init__"]
    program = f"import sys, {', '.join(names)}; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
