"""Code that a checkpoint brings along: every verb that loads a model asks for a flag before it runs such code."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pastalm.cli import app
from tests.cli.test_flags import commands
from tests.runtime.test_load import saved, with_code  # noqa: F401  fixtures

LOADING = {"run", "chat", "serve", "eval", "bench", "audit", "distil", "train sft", "train prefer"}


def test_every_verb_that_loads_a_model_has_the_flag() -> None:
    flagged = {name for name, command in commands() if any(p.name == "trust_remote_code" for p in command.params)}
    assert flagged == LOADING


def test_without_the_flag_one_sentence_comes_and_with_it_the_answer(
    with_code: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    asked = ["run", "hello", "--model", str(with_code), "--mode", "sequential", "--max-tokens", "3", "--no-compare"]
    refused = CliRunner().invoke(app, asked, input="y\n")
    assert refused.exit_code == 2
    assert "brings code of its own" in refused.stderr and "--trust-remote-code" in refused.stderr
    assert "y/N" not in refused.output
    assert CliRunner().invoke(app, [*asked, "--trust-remote-code"]).exit_code == 0
