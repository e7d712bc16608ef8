"""The study's commands are commands that exist, and its table shows what the reports say."""

from __future__ import annotations

import json
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


def test_aims_and_losses_say_what_was_found(tmp_path: Path) -> None:
    def write(name: str, quality: float, speed: float, chains: float = 0.0) -> None:
        figures = {"theoretical": {"value": speed}, "redundancy": {"value": 0.4 / speed}}
        families = {"should fork": {"theoretical": 2 * speed}, "chain": {"forked": chains}}
        report = {"name": name, "quality": {"value": quality}, "figures": figures, "families": families}
        (tmp_path / "eval" / name).mkdir(parents=True)
        (tmp_path / "eval" / name / "report.json").write_text(json.dumps(report))

    assert list(study.aims(tmp_path)) == []
    write("baseline-sft", 90, 1.0)
    write("pasta-sft", 88, 1.6)
    write("apar", 88, 1.1)
    write("lambda-1", 80, 2.8, chains=0.5)
    write("lambda-4", 87, 2.5)
    write("lambda-inf", 91, 1.7)
    infinite, fastest, apar, chains, redundancy = study.aims(tmp_path)
    assert "91.0% at 1.70 x, 3.40 x where it should fork; sequential 90.0%" in infinite
    assert "lambda-4: 87.0% at 2.50 x" in fastest  # lambda-1 is faster and too poor
    assert apar.endswith(": lambda-inf.")  # lambda-4 is faster than APAR and not as good
    assert "lambda-1 50%, lambda-4 0%, lambda-inf 0%" in chains
    assert "pasta-sft 25%, lambda-1 14%, lambda-4 16%, lambda-inf 24%" in redundancy
    for policy, loss in (("pred10", 0.2), ("oracle", 0.1)):
        (tmp_path / f"positions-{policy}").mkdir()
        (tmp_path / f"positions-{policy}" / "run.json").write_text(json.dumps({"figures": {"eval_loss": loss}}))
    assert list(study.losses(tmp_path))[2:] == ["| oracle | 0.1000 |", "| pred10 | 0.2000 |"]


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
