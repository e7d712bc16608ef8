"""A tiny run of the assistant's recipe, from a random base to the table, and on with a judge by file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from bench import assistant, study
from pastalm.annotation.exchange import items_of
from pastalm.annotation.judge import read_pairs
from pastalm.cli import app
from tests.training.prefer_model import write_model


def in_process(words: Sequence[str], check: bool, **_: object) -> SimpleNamespace:
    """`python -m pastalm.cli ..` without the seconds that a process takes to start."""
    found = CliRunner().invoke(app, list(words[3:]))
    if found.exit_code:
        print(found.output, found.exception)
        assert not check, found.output
    return SimpleNamespace(returncode=found.exit_code)


@pytest.mark.slow
def test_a_tiny_run_goes_through(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """From a random base to the table; then a judge by file; then once more, with nothing left to do."""
    monkeypatch.setattr(study.subprocess, "run", in_process)
    base, out = write_model(tmp_path / "base", tokenizer, layers=1), tmp_path / "out"
    sizes = {"--records": 12, "--steps": 1, "--row": 1500, "--lora": 4, "--sampled": 4, "--samples": 3}
    sizes |= {"--max-tokens": 30, "--tested": 3, "--timed": 1}
    words = ["--base", str(base), "--out", str(out), "--lambda", "1", "inf"]
    words += [str(word) for pair in sizes.items() for word in pair]
    assistant.main(words)
    assert "| lambda-inf | - (52.3) |" in capsys.readouterr().out
    names = ["baseline-sft", "skeleton", "apar", "pasta-sft", "lambda-1", "lambda-inf"]
    for name in names:
        outputs = json.loads((out / "eval" / name / "model_outputs.json").read_text())
        assert len(outputs) == 3
    assert sorted(place.name for place in (out / "eval" / "promise-bias").iterdir()) == sorted(
        f"promise-bias{bias}" for bias in ("-2", "-1", "+0", "+1", "+2")
    )
    assert not (out / "figures").exists()
    words += ["--judge-model", "anna", "--judge-url", "file"]
    with pytest.raises(SystemExit):
        assistant.main(words)
    items = items_of(read_pairs(out / "judge.jsonl"), "rankings")
    verdicts = "".join(json.dumps({"id": item.id, "verdict": " > ".join(item.letters)}) + "\n" for item in items)
    (tmp_path / "verdicts.jsonl").write_text(verdicts)
    taken = ["judge", "import", str(out), str(tmp_path / "verdicts.jsonl"), "--judge-model", "anna"]
    assert CliRunner().invoke(app, taken).exit_code == 0
    assistant.main(words)
    assert "| baseline-sft | 50.00 (50) |" in capsys.readouterr().out
    assert (out / "figures" / "pareto.png").stat().st_size > 1000
    monkeypatch.setattr(study.subprocess, "run", lambda *words, **options: pytest.fail("all is done"))
    assistant.main(words)
