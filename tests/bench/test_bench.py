"""The benchmarks run as their documentation says, on a scale that takes seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig
from typer.testing import CliRunner

from bench import bundled
from pastalm.cli.main import app


def call(monkeypatch: pytest.MonkeyPatch, main, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
    main()


@pytest.mark.slow
def test_the_bundled_model_can_be_made_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, bundled.main, "--out", tmp_path, "--number", 44, "--steps", 8)
    base, model = (AutoConfig.from_pretrained(tmp_path / name) for name in ("base", "model"))
    assert not hasattr(base, "pasta_positions") and model.pasta_positions == "pred10"
    words = (
        "eval",
        "tasks:held-out:11",
        "--model",
        tmp_path / "model",
        "--out",
        tmp_path / "figures",
        "--max-tokens",
        12,
    )
    found = CliRunner().invoke(app, [*map(str, words), "--max-tokens", "12", "--max-batch", "11"])
    assert found.exit_code == 0, found.output
    families = json.loads((tmp_path / "figures" / "report.json").read_text())["families"]
    assert families["should fork"]["number"] == 7 and families["should not"]["number"] == 3
