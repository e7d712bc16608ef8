"""Answers against a reference, with a real judge on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pastalm.annotation.endpoint import Settings
from pastalm.annotation.judge import Judge
from pastalm.data.questions import Question
from pastalm.evaluation.alpaca import MINIMAL
from pastalm.evaluation.quality import Reference, compare, read_reference
from pastalm.files.lines import DataError
from tests.annotation.judge_server import JudgeDesk, judging
from tests.evaluation.made import answer, outcome

pytest.importorskip("openai")


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeDesk]:
    with judging(monkeypatch, "bare") as desk:
        yield desk


def test_preferences_and_win_rates(desk: JudgeDesk, tmp_path: Path):
    pytest.importorskip("alpaca_eval", reason="the extra 'eval' is not installed", exc_type=ImportError)
    outcomes = [outcome(answer("good " * k)) for k in range(1, 8)]
    reference = Reference("base", ("good", *["good good good"] * 6))
    with Judge(Settings("m", "key", desk.url), tmp_path / "judge.jsonl") as judge:
        found = compare(judge, outcomes, reference, "mine", None)
    assert found.preferences == (0.5, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0)  # by place alone where both say it as often
    assert found.rates.win_rate == pytest.approx(100 * 5 / 7) and found.rates.formula == MINIMAL
    assert found.rates.length_controlled is not None and found.note == ""
    fields = found.to_dict()
    assert (fields["judged"], fields["unjudged"], fields["reference"]) == (7, 0, "base")


def test_without_a_verdict_there_is_a_note(desk: JudgeDesk, tmp_path: Path):
    desk.plan = lambda shown, nth: "chatter"
    with Judge(Settings("m", "key", desk.url), tmp_path / "judge.jsonl") as judge:
        found = compare(judge, [outcome(answer("a"))], Reference("base", ("b",)), "mine", None)
    assert found.rates is None and "No answer was judged" in found.note and found.to_dict()["unjudged"] == 1


def test_references_are_matched_by_their_prompt(tmp_path: Path):
    path = tmp_path / "reference.json"
    rows = [{"instruction": f"Q{k}", "output": f"A{k}", "generator": "gpt"} for k in range(3)]
    path.write_text(json.dumps(rows))
    found = read_reference(path, [Question("Q2"), Question("Q0")])
    assert found == Reference("gpt", ("A2", "A0"))
    with pytest.raises(DataError, match=r"1 of the prompts.*'Q9'"):
        read_reference(path, [Question("Q1"), Question("Q9")])
    path.write_text('[{"instruction": "Q0"}]')
    with pytest.raises(DataError, match="item 1: a reference needs"):
        read_reference(path, [Question("Q0")])
