"""The packing benchmark, on a scale that takes seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import packing
from tests.bench.test_assistant_run import in_process


@pytest.mark.slow
def test_it_compares_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "figures.json"
    size = ("--number", "22", "--width", "64", "--layers", "1", "--batch", "2", "--out", str(out))
    monkeypatch.setattr(sys, "argv", ["bench", *size])
    monkeypatch.setattr(packing.subprocess, "run", in_process)
    packing.main()
    packed, alone, again = json.loads(out.read_text()).values()
    assert packed["tokens"] == alone["tokens"] == again["tokens"]
    assert packed["targets"] == alone["targets"] == again["targets"]
    assert packed["fill"] > alone["fill"]
    assert packed["loss"] == pytest.approx(again["loss"], rel=1e-3)
