"""`pasta judge` over several evaluations: their answers ranked together, and the verdicts put into each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pastalm.cli import app
from pastalm.files.journal import read_journal

runner = CliRunner()
ANSWERS = {"one": ("good", "good", "plain"), "two": ("bad", "good", "bad")}


def judge(*words: str | Path) -> Result:
    return runner.invoke(app, ["judge", *map(str, words)])


def rewritten(folder: Path, answers: tuple[str, ...]) -> Path:
    """The same evaluation of a model that has given these answers."""
    lines = read_journal(folder / "answers.jsonl")
    for line, text in zip(lines, answers, strict=True):
        line["answer"]["text"], line["baseline"]["text"] = text, "plain"
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def evaluate(model_dir: Path, tmp_path: Path) -> Callable[..., Result]:
    """Evaluates into a folder; one that is finished needs no model."""
    prompts = tmp_path / "set.json"
    prompts.write_text(json.dumps([{"instruction": f"hello {k}"} for k in range(3)]))
    words = ["eval", prompts, "--model", model_dir, "--max-tokens", 4, "--max-batch", 3, "--dtype", "float32"]
    return lambda out, *flags: runner.invoke(app, [*map(str, words), "--out", str(out), *flags])


@pytest.fixture
def folders(evaluate: Callable[..., Result], tmp_path: Path) -> list[Path]:
    """Two finished evaluations, of the same prompts against the same baseline."""
    first = tmp_path / "one"
    done = evaluate(first)
    assert done.exit_code == 0, done.output
    shutil.copytree(first, tmp_path / "two")
    return [rewritten(tmp_path / name, answers) for name, answers in ANSWERS.items()]


def read(items: Path, verdicts: Path, order: str) -> list[dict]:
    """Give each item a verdict: the answers in this order."""
    lines = [json.loads(line) for line in items.read_text().splitlines()]
    for line in lines:
        letters = sorted(line["answers"], key=lambda letter: order.split().index(line["answers"][letter]))
        line["verdict"] = " > ".join(letters)
    verdicts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def test_rankings_go_back_into_every_evaluation(
    folders: list[Path], evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    items, anna, ben = (tmp_path / name for name in ("items.jsonl", "anna.jsonl", "ben.jsonl"))
    done = judge("export", *folders, items, "--orders", "2")
    assert done.exit_code == 0 and "6 items written" in done.stderr, done.output
    lines = read(items, anna, "good plain bad")
    assert sorted(len(line["answers"]) for line in lines) == [2, 2, 2, 2, 3, 3]
    taken = judge("import", *folders, anna, "--judge-model", "anna")
    assert taken.exit_code == 0 and "10 comparisons of anna taken: all that were wanted." in taken.stderr, taken.output
    rows = [line.split() for line in taken.stdout.splitlines()]
    assert ["anna,", "both", "orders", "5", "100.0%", "1.00"] in rows
    for row in ("one the baseline 3 83.3%", "two the baseline 3 33.3%", "one two 3 83.3%"):
        assert row.split() in [words[: len(row.split())] for words in rows]
    for folder, preferred in zip(folders, (83.3, 33.3), strict=True):
        report = json.loads(evaluate(folder, "--judge-model", "anna", "--judge-url", "file", "--json").stdout)
        assert report["judge"]["judged"] == 3 and report["judge"]["rates"]["win_rate"] == pytest.approx(
            preferred, abs=0.1
        )
    read(items, ben, "bad plain good")
    other = judge("import", *folders, ben, "--judge-model", "ben")
    assert ["ben", "and", "anna", "5", "0.0%"] in [line.split()[:5] for line in other.stdout.splitlines()]
    agreed = judge("agree", *folders, "ben", "anna")
    assert agreed.exit_code == 0 and agreed.stdout == other.stdout
    assert judge("agree", folders[0], "anna").exit_code == 0


def test_one_order_of_the_first_prompts(folders: list[Path], tmp_path: Path) -> None:
    items, verdicts = tmp_path / "items.jsonl", tmp_path / "verdicts.jsonl"
    done = judge("export", *folders, items, "--limit", "2")
    assert done.exit_code == 0 and "2 items written" in done.stderr, done.output
    read(items, verdicts, "good plain bad")
    lacking = judge("import", *folders, verdicts, "--judge-model", "anna")
    assert lacking.exit_code == 2 and "2 of 10 comparisons have no verdict" in lacking.stderr
    assert not any((folder / "judge.jsonl").read_bytes() for folder in folders)
    taken = judge("import", *folders, verdicts, "--judge-model", "anna", "--limit", "2")
    assert taken.exit_code == 0 and "8 comparisons of anna taken" in taken.stderr, taken.output
    assert "anna, both orders in one reading" in taken.stdout
    agreed = judge("agree", *folders, "anna", "--limit", "2")
    assert agreed.exit_code == 0 and agreed.stdout == taken.stdout


def test_agreement_on_the_first_prompts_leaves_the_others_out(folders: list[Path], tmp_path: Path) -> None:
    items, verdicts = tmp_path / "items.jsonl", tmp_path / "verdicts.jsonl"
    rewritten(folders[0], ("good", "good", "plain"))  # the third is the baseline's answer, which needs no verdict
    judge("export", folders[0], items, "--limit", "2")
    read(items, verdicts, "good plain")
    judge("import", folders[0], verdicts, "--judge-model", "anna", "--limit", "2")
    agreed = judge("agree", folders[0], "anna", "--limit", "2")
    assert ["one", "the", "baseline", "2", "100.0%"] in [line.split()[:5] for line in agreed.stdout.splitlines()]


def test_wrong_verdicts_are_refused_with_their_place(folders: list[Path], tmp_path: Path) -> None:
    items, verdicts = tmp_path / "items.jsonl", tmp_path / "verdicts.jsonl"
    judge("export", *folders, items, "--orders", "2")
    lines = read(items, verdicts, "good plain bad")
    three = next(number for number, line in enumerate(lines) if len(line["answers"]) == 3)
    for change, says in (
        ({"verdict": "A > B"}, f"line {three + 1}: the answer C is not ranked"),
        ({"verdict": "A > B > D"}, f"line {three + 1}: 'D' is no answer of this item"),
        ({"id": lines[three - 1]["id"]}, "has a verdict already, at"),
        ({"id": "none"}, f"line {three + 1}: 'none' is none of the items"),
    ):
        changed = [line | (change if number == three else {}) for number, line in enumerate(lines)]
        verdicts.write_text("".join(json.dumps(line) + "\n" for line in changed))
        refused = judge("import", *folders, verdicts, "--judge-model", "anna")
        assert refused.exit_code == 2 and says in " ".join(refused.stderr.split()), refused.output
    assert not any((folder / "judge.jsonl").exists() for folder in folders)


def test_only_what_a_judge_has_not_decided_is_asked(
    folders: list[Path], evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    cache, items, verdicts = tmp_path / "anna.jsonl", tmp_path / "items.jsonl", tmp_path / "verdicts.jsonl"
    flags = ("--judge-model", "anna", "--judge-url", "file", "--judge-cache", str(cache))
    waits = evaluate(folders[0], *flags)
    assert waits.exit_code == 2 and f"`pasta judge export {cache} items.jsonl" in " ".join(waits.stderr.split())
    done = judge("export", cache, items, "--judge-model", "anna")
    assert done.exit_code == 0 and "2 items written" in done.stderr, done.output
    read(items, verdicts, "good plain")
    assert judge("import", cache, verdicts, "--judge-model", "anna").exit_code == 0
    again = judge("export", cache, tmp_path / "more.jsonl", "--judge-model", "anna")
    assert again.exit_code == 2 and "anna has decided everything" in again.stderr
    assert evaluate(folders[0], *flags).exit_code == 0


def test_a_damaged_cache_is_one_sentence(folders: list[Path]) -> None:
    for text, says in (("\n", "line 1: no JSON object"), ("{}\n", "no verdicts of a judge")):
        (folders[0] / "judge.jsonl").write_text(text)
        refused = judge("agree", *folders, "anna")
        assert refused.exit_code == 2 and says in " ".join(refused.stderr.split()), refused.output


def test_what_is_left_out_is_said(folders: list[Path], tmp_path: Path) -> None:
    for words, says in (
        (("export", *folders, tmp_path / "nowhere", tmp_path / "items.jsonl"), "nowhere is no folder of `pasta eval`"),
        (("import", *folders, "--judge-model", "anna"), "No file of verdicts is named"),
        (("agree", *folders), "No judge is named"),
        (("agree", *folders, "anna"), "has no verdicts of anna"),
    ):
        refused = judge(*words)
        assert refused.exit_code == 2 and says in " ".join(refused.stderr.split()), refused.output
