"""The study's commands are commands that exist, and its table shows what the reports say."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from bench import study
from pastalm.cli import app

SIZES = study.Sizes(
    tasks=11, steps=1, prompts=2, samples=2, epochs=1, tested=2, timed=1, sft_rate=1e-3, prefer_rate=1e-5
)
STEPS = list(study.Study(Path("out"), "base", "model", SIZES).plan())


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_each_step_is_a_command(step: study.Step) -> None:
    command, words = typer.main.get_command(app), list(step.words)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(step.name, words)  # reads all flags, runs nothing


def test_steps_have_names_of_their_own_and_find_what_they_need() -> None:
    names = [step.name for step in STEPS]
    assert len(set(names)) == len(names)
    made: set[str] = {"out"}
    for step in STEPS:
        places = [word for word in step.words if word.startswith("out/")]
        written = next((step.words[k + 1] for k, word in enumerate(step.words) if word == "--out"), places[-1])
        for place in places:
            assert place == written or any(place.startswith(one) for one in made - {"out"}), (step.name, place)
        made.add(written)


def test_the_table_has_a_row_a_report() -> None:
    estimate = {"value": 1.5, "low": 1.0, "high": 2.0}
    figures = {"theoretical": estimate, "redundancy": None}
    quality = {"value": 90.0, "low": 85.0, "high": 95.0}
    head, line, row = study.table([{"name": "lambda-4", "quality": quality, "figures": figures}])
    assert head.count("|") == line.count("|") == row.count("|")
    assert row.startswith("| lambda-4 | 90.0 (85.0 to 95.0) | 1.50 |")


def test_a_step_that_fails_is_not_done(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        study.run(study.Step("bad", ("check", str(tmp_path / "missing.jsonl"))), tmp_path)
    assert not list(tmp_path.iterdir())
    file = tmp_path / "tasks.jsonl"
    study.run(study.Step("good", ("tasks", "--number", "2", "--out", str(file))), tmp_path)
    before = file.stat().st_mtime_ns
    study.run(study.Step("good", ("tasks", "--number", "2", "--out", str(file))), tmp_path)
    assert file.stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="good was done as"):
        study.run(study.Step("good", ("tasks", "--number", "3", "--out", str(file))), tmp_path)
    assert file.stat().st_mtime_ns == before


def test_a_step_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--base", "b", "--model", "m", "--out", str(tmp_path / "out"), "--only", "sft,tasks"]
    monkeypatch.setattr("sys.argv", ["study", *words])
    with pytest.raises(SystemExit):
        study.main()
    assert "no step is called sft;" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
