"""Replies, refusals and settings that an endpoint or a user may get wrong, against a real HTTP server."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from pastalm.annotation.annotate import annotate
from pastalm.annotation.endpoint import EndpointError, Settings
from pastalm.annotation.judge import Judge
from pastalm.annotation.results import rejects_path
from pastalm.annotation.verdict import AnswerPair
from pastalm.data.check import check_file
from pastalm.data.records import Record
from pastalm.files.journal import read_journal
from tests.annotation.judge_server import completion, judging
from tests.annotation.openai_server import REPLIES, Desk

pytest.importorskip("openai")

REPLIES |= {
    "half": lambda answer: completion("A \ud83d"),
    "deep": lambda answer: b"[" * 200_000,
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def run(desk: Desk, out: Path, *answers: str, **settings: Any) -> None:
    asked = ({"role": "user", "content": "Which?"},)
    records = [Record(asked, answer, id=str(number)) for number, answer in enumerate(answers)]
    options = {"timeout": 30.0, "first_pause": 0.01, "concurrency": 1, "tries": 2, **settings}
    annotate(records, out, Settings("m", "key", desk.url, **options))


def test_half_a_surrogate_pair_in_a_reply_can_be_sent_back(desk: Desk, out: Path):
    desk.plan = lambda answer, nth: "half" if nth == 1 else "good"
    run(desk, out, "plain")
    assert desk.asks[1].body["messages"][-2]["content"] == "A ?" and read_journal(out)[0]["attempts"] == 2


def test_half_a_surrogate_pair_in_a_topic_is_not_written(desk: Desk, out: Path):
    REPLIES["half topic"] = lambda answer: completion(f"<async topic='a \ud83d'>{answer}</async>")
    desk.plan = lambda answer, nth: "half topic"
    run(desk, out, "one two three four five six")
    assert not any(record.findings for record in check_file(out)) and len(read_journal(out)) == 1


def test_half_a_surrogate_pair_in_a_judges_reply_can_be_sent_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    REPLIES["half chatter"] = lambda shown: completion("I think \ud83d")
    with judging(monkeypatch, "stated") as desk, Judge(Settings("m", "key", desk.url), tmp_path / "j.jsonl") as judge:
        desk.plan = lambda shown, nth: "half chatter" if nth == 1 else "stated"
        (verdict,) = judge.compare([AnswerPair("Which?", "good", "x")])
    assert verdict.preference == pytest.approx(0.8)


def test_a_reply_that_is_nested_too_deeply_is_a_trouble_that_may_pass(desk: Desk, out: Path):
    desk.plan = lambda answer, nth: "deep" if nth == 1 else "good"
    run(desk, out, "plain")
    assert len(desk.asks) == 2 and read_journal(out)[0]["attempts"] == 1


def test_a_refusal_that_only_quotes_the_prompt_drops_no_field_for_good(desk: Desk, out: Path):
    desk.plan = lambda answer, nth: "400 the temperature of the sun" if "sun" in answer else "good"
    run(desk, out, "about the sun", "about the moon", "about the stars")
    assert ["temperature" in ask.body for ask in desk.asks] == [True, False, True, True]
    assert [line["id"] for line in read_journal(rejects_path(out))] == ["0"] and len(read_journal(out)) == 2


@pytest.mark.parametrize(
    "body, said",
    [
        ({"error": "nope"}, "nope"),
        ({"error": {"message": "why"}}, "why"),
        ({"detail": "no such thing"}, "no such thing"),
    ],
)
def test_the_reason_of_a_refusal_is_said_whatever_its_form(desk: Desk, out: Path, body: dict[str, Any], said: str):
    desk.error, desk.plan = body, lambda answer, nth: "400"
    with pytest.raises(EndpointError, match=f"HTTP 400: .*{said}"):
        run(desk, out, "plain")


@pytest.mark.parametrize(
    "name, value", [("timeout", nan), ("timeout", inf), ("temperature", nan), ("temperature", inf)]
)
def test_settings_that_no_request_can_hold_are_refused(name: str, value: float):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be a finite number"):
        Settings("m", "key", **{name: value})
