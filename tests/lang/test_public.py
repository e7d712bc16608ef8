"""What `import pastalm` offers: every public name, without torch until one needs it."""

from __future__ import annotations

import ast
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import pastalm

NEED_NO_TORCH = ("Answer", "Block", "Sync", "AnnotationError", "parse", "render", "MissingTagsError", "add_tags")


def loaded_by(statement: str) -> list[str]:
    """Which of the heavy libraries a statement imports, in a fresh interpreter."""
    program = f"{statement}\nimport sys; print(*(n for n in ('torch', 'transformers', 'typer') if n in sys.modules))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_each_public_name_can_be_imported_and_is_listed() -> None:
    for name in pastalm.__all__:
        assert getattr(pastalm, name) is not None
    assert dir(pastalm) == sorted(pastalm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Engin'"):
        _ = pastalm.Engin  # type: ignore[attr-defined]


def test_type_checkers_see_the_names_that_are_imported() -> None:
    tree = ast.parse(Path(pastalm.__file__).read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == pastalm._HOME
    assert set(pastalm.__all__) == set(seen) | {"__version__"}


def test_the_language_is_public_without_torch() -> None:
    assert loaded_by("import pastalm; pastalm.__version__; dir(pastalm)") == []
    assert loaded_by(f"from pastalm import {', '.join(NEED_NO_TORCH)}") == []
    assert "torch" in loaded_by("from pastalm import Engine")


def test_the_version_is_the_one_that_is_installed() -> None:
    shown = subprocess.run([sys.executable, "-m", "pastalm", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["pasta", pastalm.__version__]


def test_help_describes_the_package() -> None:
    text = pydoc.plain(pydoc.render_doc(pastalm))
    assert "learned asynchronous decoding" in text
    assert all(f"class {name}" in text for name in ("Engine", "Response", "Limits", "TokenEvent"))
