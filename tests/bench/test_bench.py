"""The benchmarks run as their documentation says, on a scale that takes seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig
from typer.testing import CliRunner

from bench import bundled, replay
from pastalm.cli.main import app


def call(monkeypatch: pytest.MonkeyPatch, main, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
    main()


def test_replay_reports_speedups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = {
        "instruction": "say it",
        "annotated": "Well: <async topic='one'>this is one chunk of text</async> <async topic='two'>this is another"
        " chunk of text</async><sync/> That was all.",
    }
    traces, out = tmp_path / "traces.jsonl", tmp_path / "figures.json"
    traces.write_text("\n".join(json.dumps(line) for _ in range(3)) + "\n")
    size = ("--layers", 1, "--width", 64, "--vocabulary", 400, "--dtype", "float32")
    call(monkeypatch, replay.main, traces, "--number", 2, "--out", out, *size)
    figures = json.loads(out.read_text())
    assert figures["answers"] == figures["answers that fork"] == 3
    assert figures["theoretical x"] == pytest.approx(figures["theoretical x, all answers"])
    assert figures["realised x"] > 0


@pytest.mark.slow
def test_the_bundled_model_can_be_made_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, bundled.main, "--out", tmp_path, "--number", 44, "--steps", 8)
    base, model = (AutoConfig.from_pretrained(tmp_path / name) for name in ("base", "model"))
    assert not hasattr(base, "pasta_positions") and model.pasta_positions == "pred10"
    words = ("eval", tmp_path / "model", "tasks:held-out:11", "--out", tmp_path / "figures", "--max-tokens", 12)
    found = CliRunner().invoke(app, [*map(str, words), "--batch", "11"])
    assert found.exit_code == 0, found.output
    families = json.loads((tmp_path / "figures" / "report.json").read_text())["families"]
    assert families["should fork"]["number"] == 7 and families["should not"]["number"] == 3
