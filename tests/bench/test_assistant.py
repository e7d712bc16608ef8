"""The recipe of the assistant: its commands exist and find what they need, and its table shows what reports say."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from bench import assistant, study
from pastalm.cli import app
from pastalm.lang.parse import parse

WORDS = ("--out", "out", "--lambda", "1", "4", "inf", "--judge-model", "anna", "--judge-url", "file")
RECIPE = assistant.Recipe(assistant.parser().parse_args(WORDS))
STEPS = [*RECIPE.plan(), *RECIPE.judgements(), RECIPE.pareto()]


def test_list_marks_stand_before_their_chunks() -> None:
    before = (
        "Do:\n\n<async topic='a b'>1. **Walk**: slowly</async>\n"
        "<async topic=\"c\">- rest</async> <async topic='d'>2.5 hours</async>"
    )
    after = assistant.marks_outside(before)
    assert after == (
        "Do:\n\n1.<async topic='a b'> **Walk**: slowly</async>\n"
        "-<async topic=\"c\"> rest</async> <async topic='d'>2.5 hours</async>"
    )
    assert parse(after).plain == parse(before).plain


def flags(name: str) -> dict[str, str]:
    """The flags of a step with their values."""
    words = next(step.words for step in STEPS if step.name == name)
    return {word: value for word, value in pairwise(words) if word.startswith("--")}


def test_the_stages_build_on_each_other(tmp_path: Path) -> None:
    assistant.make_data(tmp_path, None)
    pasta, baseline, prefer = (flags(name) for name in ("pasta-sft", "baseline-sft", "lambda-4"))
    assert (prefer["--model"], prefer["--baseline"]) == (f"{pasta['--out']}/adapter", baseline["--out"])
    assert prefer["--speed-term"] == "bounded" and set(prefer["--quality"].split(",")) == {
        "redundancy", "repetition", "coverage", "likelihood",
    }  # fmt: skip
    assert float(baseline["--plain"]) == 1.0 and 0 < float(pasta["--plain"]) < 1
    places = {"data": pasta["--data"], "held": pasta["--eval-data"], "prompts": prefer["--data"]}
    written = {name: (tmp_path / Path(place).name).read_text(encoding="utf-8") for name, place in places.items()}
    read = {name: [json.loads(line) for line in text.splitlines()] for name, text in written.items()}
    held = {one["id"] for one in read["held"]}
    assert len(read["data"]) > 600 and not {one["id"] for one in read["data"]} & held
    assert any("1.<async" in one["annotated"] for one in read["data"])
    prompts = [one["id"] for one in read["prompts"]]
    assert {prompt.split("-")[0] for prompt in prompts[:30]} >= {"assistant"}
    assert not set(prompts) & held


def test_the_script_for_a_gpu_names_steps_of_the_recipe() -> None:
    script = (Path(__file__).parents[2] / "bench" / "gpu" / "train.sh").read_text(encoding="utf-8")
    (named,) = re.findall(r"^steps=(\S+)$", script, re.MULTILINE)
    steps = {step.name for step in assistant.Recipe(assistant.parser().parse_args([])).plan()}
    assert set(named.split(",")) <= steps


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_each_step_is_a_command(step: study.Step) -> None:
    command, words = typer.main.get_command(app), list(step.words)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(step.name, words)  # reads all flags, runs nothing


def test_steps_have_names_of_their_own_and_find_what_they_need() -> None:
    assert len({step.name for step in STEPS}) == len(STEPS)
    made = {f"out/{name}" for name in ("assistant.train.jsonl", "assistant.test.jsonl", "prompts.jsonl", "judge.jsonl")}
    for step in STEPS:
        places = [word for word in step.words if word.startswith("out/")]
        written = next((step.words[k + 1] for k, word in enumerate(step.words) if word == "--out"), places[-1])
        for place in places:
            assert place == written or any(place.startswith(one) for one in made), (step.name, place)
        made.add(written)


def test_the_table_has_the_papers_figures_behind_ours(tmp_path: Path) -> None:
    def write(name: str, quality: float | None, **figures: float) -> None:
        known = dict.fromkeys(assistant.SPEEDS) | {key: {"value": one} for key, one in figures.items()}
        report = {"name": name, "quality": quality and {"value": quality}, "figures": known}
        (tmp_path / "eval" / name).mkdir(parents=True)
        (tmp_path / "eval" / name / "report.json").write_text(json.dumps(report))

    write("lambda-4", 48.0, theoretical=1.5, parallelism=1.6)
    write("timed-lambda-4", None, theoretical=1.4, realised=1.33, efficiency=0.95)
    write("lambda-3", None, theoretical=1.25)
    _, _, *rows = assistant.table(tmp_path, ["baseline-sft", "lambda-4", "lambda-3"])
    assert rows == [
        "| lambda-4 | 48.00 (47.5) | 1.33 (1.54) | 1.50 (1.9) | 0.95 (0.81) | 1.60 (1.91) |",
        "| lambda-3 | - (-) | - (-) | 1.25 (-) | - (-) | - (-) |",
    ]
