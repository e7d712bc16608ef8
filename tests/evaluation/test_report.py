"""The figures of a report against arithmetic by hand."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path

import pytest

from pastalm.evaluation import report
from pastalm.evaluation.alpaca import MINIMAL, WinRates
from pastalm.files.lines import DataError
from pastalm.tasks import sample
from tests.evaluation.made import answer, outcome

# Two prompts; the baseline takes 100 tokens and a second for each.
FAST = answer("fast", tokens=120, path=25, seconds=0.5, errors=(1, -2), redundancy=0.4)
SLOW = answer("slow", tokens=90, path=100, seconds=2.0, finished=False, circles=True)


def test_figures():
    found = {name: one and one.value for name, one in report.figures([outcome(FAST), outcome(SLOW)]).items()}
    expected = {
        "theoretical": sqrt(4 * 1),
        "theoretical_arithmetic": 2.5,
        "realised": sqrt(2 * 0.5),
        "realised_arithmetic": 1.25,
        "efficiency": 0.5,
        "efficiency_arithmetic": 0.5,
        "parallelism": sqrt(4.8 * 0.9),
        "parallelism_arithmetic": (4.8 + 0.9) / 2,
        "forked": 0.5,
        "redundancy": 0.4,
        "circles": 0.5,
        "baseline_circles": 0.0,
        "length_error": 1.5,
        "length_bias": -0.5,
        "chunks": 1.0,
        "tokens": 105,
        "baseline_tokens": 100,
        "content": 105,
        "baseline_content": 100,
        "seconds": 1.25,
        "baseline_seconds": 1.0,
        "finished": 0.5,
        "baseline_finished": 1.0,
    }
    assert found == pytest.approx(expected)


def test_without_times_only_what_needs_them_is_missing():
    with_times, without = (report.figures([outcome(FAST), outcome(SLOW)], timed) for timed in (True, False))
    assert {name for name in with_times if without[name] is None} == report.TIMED
    assert len(report.TIMED) == 6 and all(without[name] in (None, one) for name, one in with_times.items())


def test_families_come_with_groups():
    tasks = [task for task in sample("train", 3, 22) if task.family in ("profiles", "spelling", "chain")]
    outcomes = [
        outcome(answer(task.answer.plain, errors=(1,)), prompt=task.prompt, family=task.family, facts=task.facts)
        for task in tasks
    ]
    found = report.families(outcomes)
    assert list(found) == ["chain", "profiles", "spelling", "should fork", "should not"]
    assert found["should fork"]["number"] == found["profiles"]["number"] + found["spelling"]["number"] == 4
    assert found["should not"] == found["chain"] and found["chain"]["accepted"] == 100.0
    assert report.families(outcomes, timed=False)["chain"]["efficiency"] is None


def test_intervals_are_paired():
    outcomes = [outcome(answer(str(k), path=10 + k, seconds=(10 + k) / 50)) for k in range(30)]
    found = report.figures(outcomes)
    assert found["realised"].low < found["realised"].value < found["realised"].high
    one = found["efficiency"]  # realised is half of theoretical on every prompt, so it is known exactly
    assert (one.low, one.value, one.high) == pytest.approx((0.5, 0.5, 0.5))


def test_answers_that_never_fork_have_no_redundancy_nor_length_error():
    found = report.figures([outcome(SLOW)])
    assert found["redundancy"] is None and found["length_error"] is None and found["forked"].value == 0


def test_the_checker_is_the_quality_of_tasks():
    tasks = sample("held-out", 1, 2)
    made = [
        outcome(answer(text), answer(task.answer.plain), prompt=task.prompt, family=task.family, facts=task.facts)
        for task, text in zip(tasks, (tasks[0].answer.plain, "nonsense"), strict=True)
    ]
    quality = report.checker_quality(made)
    assert (quality.kind, quality.value, quality.baseline) == ("accepted", 50, 100)
    assert (quality.low, quality.high) == pytest.approx((9.45, 90.55), abs=0.01)
    found = report.families(made)
    assert found[tasks[0].family]["accepted"] == 100 and found[tasks[1].family]["accepted"] == 0
    assert found[tasks[0].family]["number"] == 1 and found[tasks[0].family]["theoretical"] == 1
    assert report.checker_quality([*made, outcome(FAST)]) is None and report.families([outcome(FAST)]) == {}


def test_the_judge_is_the_quality_elsewhere():
    plain = report.judge_quality([1.0, 0.5, None], None, 50.0)
    assert (plain.kind, plain.value, plain.baseline) == ("win rate", 75, 50)
    assert report.judge_quality([None], None, 50.0) is None
    rates = WinRates(2, 75.0, 1.0, 75.0, 60.0, 2.0, MINIMAL)
    controlled = report.judge_quality([1.0, 0.5], rates, None)
    assert (controlled.kind, controlled.value) == ("length-controlled win rate", 60)
    assert (controlled.low, controlled.high) == pytest.approx((60 - 3.92, 60 + 3.92))


def test_a_report_is_read_from_its_file_or_folder(tmp_path: Path):
    found = report.report("m", [outcome(FAST), outcome(SLOW)], None, judge=None)
    text = json.dumps(found)
    assert "NaN" not in text
    (tmp_path / "report.json").write_text(text)
    assert report.read_report(tmp_path) == report.read_report(tmp_path / "report.json") == found
    (tmp_path / "report.json").write_text('{"name": "m"}')
    with pytest.raises(DataError, match="not a report"):
        report.read_report(tmp_path)
    with pytest.raises(FileNotFoundError):
        report.read_report(tmp_path / "none")
