"""The judge against a real HTTP server: both orders, confidences, the cache, troubles, and kills at any moment."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from pastalm.annotation.endpoint import EndpointError, Settings
from pastalm.annotation.judge import Judge
from pastalm.annotation.verdict import AnswerPair, Verdict, read_share
from pastalm.files.lines import DataError
from pastalm.lang.prompt import as_text
from tests.annotation.judge_server import JudgeDesk, judging, likelihoods
from tests.annotation.openai_server import serving

pytest.importorskip("openai")


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeDesk]:
    """A judge that states its confidence, until its plan is changed."""
    with judging(monkeypatch, "stated") as desk:
        yield desk


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "judge.jsonl"


def pairs(number: int) -> list[AnswerPair]:
    return [AnswerPair(f"Question {k}?", f"good {k}", f"bad {k}") for k in range(number)]


def judge(desk: JudgeDesk, cache: Path, items: list[AnswerPair], **settings: Any) -> list[Verdict]:
    options = {"timeout": 30.0, "first_pause": 0.01, "concurrency": 4, **settings}
    with Judge(Settings("m", "key", desk.url, **options), cache) as one:
        return one.compare(items)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_both_orders_are_asked(desk: JudgeDesk, cache: Path):
    (verdict,) = judge(desk, cache, [AnswerPair("Which?", "good good", "good")])
    first, second = sorted((ask.answer for ask in desk.asks), key=lambda text: text.index("good good"))
    assert "[answer A]\ngood good\n[end" in first and "[answer B]\ngood good\n[end" in second
    assert all("[instruction]\nWhich?\n[end of instruction]" in text for text in (first, second))
    assert verdict.orders == pytest.approx((0.8, 0.8)) and verdict.preference == pytest.approx(0.8)
    assert (verdict.wins, verdict.losses) == pytest.approx((1.6, 0.0))
    ask = desk.asks[0]
    assert ask.authorization == "Bearer key" and ask.body["model"] == "m" and ask.body["temperature"] == 0.0
    assert ask.body["logprobs"] is True and ask.body["top_logprobs"] == 5


def test_a_taste_for_a_place_cancels_out(desk: JudgeDesk, cache: Path):
    (verdict,) = judge(desk, cache, [AnswerPair("Which?", "good x", "good y")])
    assert verdict.orders == pytest.approx((0.8, 0.2)) and verdict.preference == pytest.approx(0.5)
    assert verdict.wins == verdict.losses == pytest.approx(0.8)


def test_measured_confidence_goes_before_the_stated_one(desk: JudgeDesk, cache: Path):
    desk.plan = lambda shown, nth: "measured"
    (verdict,) = judge(desk, cache, [AnswerPair("Which?", "good", "x")])
    assert verdict.orders == pytest.approx((0.9, 0.1))  # this judge gives A nine tenths whatever it says


def test_the_same_pair_is_never_asked_twice(desk: JudgeDesk, cache: Path):
    items = pairs(3)
    twice = judge(desk, cache, items + items)
    assert len(desk.asks) == 6 and twice[:3] == twice[3:]
    swapped = [AnswerPair(item.prompt, item.second, item.first) for item in items]
    again = judge(desk, cache, items + swapped)
    assert len(desk.asks) == 6 and again[:3] == twice[:3]
    assert [one.preference for one in again[3:]] == pytest.approx([1 - one.preference for one in twice[:3]])
    assert len(lines(cache)) == 6


def test_another_model_prompt_or_answer_is_another_pair(desk: JudgeDesk, cache: Path):
    judge(desk, cache, [AnswerPair("Which?", "good", "x")])
    judge(desk, cache, [AnswerPair("Which one?", "good", "x"), AnswerPair("Which?", "good", "y")])
    assert len(desk.asks) == 6
    with Judge(Settings("other", "key", desk.url), cache) as one:
        one.compare([AnswerPair("Which?", "good", "x")])
    assert len(desk.asks) == 8


def test_equal_answers_need_no_judge(desk: JudgeDesk, cache: Path):
    (verdict,) = judge(desk, cache, [AnswerPair("Which?", "same", "same")])
    assert (verdict.preference, verdict.wins, verdict.losses) == (0.5, 1.0, 1.0) and desk.asks == []


@pytest.mark.parametrize("trouble", ["429", "500", "503", "hang", "malformed", "not the protocol", "truncated"])
def test_troubles_pass(desk: JudgeDesk, cache: Path, trouble: str):
    desk.plan = lambda shown, nth: trouble if nth <= 2 else "stated"
    (verdict,) = judge(desk, cache, pairs(1), timeout=1.0)
    assert verdict.preference == pytest.approx(0.8) and len(desk.asks) >= 6
    assert [line["attempts"] for line in lines(cache)] == [1, 1]


def test_a_reply_without_verdict_is_asked_again(desk: JudgeDesk, cache: Path):
    desk.plan = lambda shown, nth: ("nothing", "chatter", "stated")[nth - 1]
    (verdict,) = judge(desk, cache, pairs(1))
    assert verdict.preference == pytest.approx(0.8)
    assert [line["attempts"] for line in lines(cache)] == [3, 3]
    assert lines(cache)[0]["usage"] == {"prompt_tokens": 300, "completion_tokens": 9}
    last = max(desk.asks, key=lambda ask: ask.nth).body["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "user"]
    assert last[2]["content"] == "Both have their merits." and last[3]["content"].startswith("Reply with one line")


@pytest.mark.parametrize("kind", ["chatter", "nothing", "contradiction"])
def test_without_a_verdict_a_pair_stays_unjudged(desk: JudgeDesk, cache: Path, kind: str):
    desk.plan = lambda shown, nth: kind if "Question 0" in shown else "stated"
    with Judge(Settings("m", "key", desk.url), cache) as one:
        verdict, good = one.compare(pairs(2))
        assert verdict == Verdict((None, None)) and verdict.preference is None
        assert (verdict.wins, verdict.losses) == (0, 0) and good.preference == pytest.approx(0.8)
        tally = one.tally
    assert (tally.total, tally.known, tally.asked) == (4, 0, 4)
    assert len(desk.asks) == 3 * 2 + 2
    assert judge(desk, cache, pairs(1)) == [verdict] and len(desk.asks) == 8  # paid for, too


def test_one_order_alone_is_no_preference():
    assert Verdict((0.9, None)).preference is None and Verdict((0.9, None)).wins == 0


@pytest.mark.parametrize("status, says", [("401", "refuses the key"), ("404", "no model 'm'"), ("402", "paid")])
def test_a_wrong_key_or_model_stops_at_once(desk: JudgeDesk, cache: Path, status: str, says: str):
    desk.plan = lambda shown, nth: status
    with pytest.raises(EndpointError, match=says):
        judge(desk, cache, pairs(50))
    assert len(desk.asks) <= 8
    desk.plan = lambda shown, nth: "stated"
    assert all(verdict.preference for verdict in judge(desk, cache, pairs(2)))


def test_an_endpoint_that_refuses_everything_stops_soon(desk: JudgeDesk, cache: Path):
    desk.plan = lambda shown, nth: "400"
    with pytest.raises(EndpointError, match="refuses every request"):
        judge(desk, cache, pairs(50))
    assert len(desk.asks) <= 16 and lines(cache) == []


def test_one_refused_pair_does_not_stop_the_others(desk: JudgeDesk, cache: Path):
    desk.plan = lambda shown, nth: "400" if "Question 1" in shown else "stated"
    found = judge(desk, cache, pairs(3), concurrency=1)
    assert [one.preference is None for one in found] == [False, True, False]
    assert len(lines(cache)) == 4  # what was refused cost nothing, and may be asked again
    assert judge(desk, cache, pairs(3)) == found and len(lines(cache)) == 4  # which fails no run that knows the rest


def test_fields_that_an_endpoint_does_not_know_are_left_out(desk: JudgeDesk, cache: Path):
    class Plain(JudgeDesk):
        def take(self, body: dict[str, Any], authorization: str) -> tuple[str, str]:
            shown, what = super().take(body, authorization)
            unknown = sorted(set(body) - {"model", "messages"})
            return shown, f"400 {unknown[0]} is not supported" if unknown else what

    with serving(Plain(plan=lambda shown, nth: "stated")) as plain:
        found = judge(plain, cache, pairs(3), concurrency=1)
    assert [one.preference for one in found] == pytest.approx([0.8] * 3)
    assert len(plain.asks) == 6 + 2  # logprobs and top_logprobs are found out, then temperature; once for all
    assert set(plain.asks[-1].body) == {"model", "messages"}


def test_a_kill_loses_and_repeats_nothing(desk: JudgeDesk, cache: Path):
    desk.latency = 0.05
    program = (
        "import sys; from pathlib import Path; from pastalm.annotation.endpoint import Settings;"
        "from pastalm.annotation.judge import Judge; from tests.annotation.test_judge import pairs;"
        "Judge(Settings('m', 'key', sys.argv[1], concurrency=2), Path(sys.argv[2])).compare(pairs(100))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, desk.url, str(cache)])
    while len(desk.asks) < 20 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = cache.read_bytes().count(b"\n")
    assert 10 <= kept < 200
    cache.write_bytes(cache.read_bytes() + b'{"id": "torn')
    asked = len(desk.asks)
    desk.latency = 0.0
    found = judge(desk, cache, pairs(100))
    assert [one.preference for one in found] == pytest.approx([0.8] * 100)
    assert len(desk.asks) == asked + 200 - kept and len(lines(cache)) == 200
    assert len({line["id"] for line in lines(cache)}) == 200


def test_a_file_of_others_is_left_alone(desk: JudgeDesk, tmp_path: Path):
    other = tmp_path / "notes.jsonl"
    other.write_text('{"prompt": "x"}\n')
    with pytest.raises(DataError, match="not written by"):
        judge(desk, other, pairs(1))
    assert other.read_text() == '{"prompt": "x"}\n'


def test_two_judges_do_not_write_one_cache(desk: JudgeDesk, cache: Path):
    with Judge(Settings("m", "key", desk.url), cache), pytest.raises(DataError, match="another run"):
        judge(desk, cache, pairs(1))


@pytest.mark.parametrize(
    "reply, share",
    [
        ("A 80", 0.8),
        ("B 80", 0.2),
        ("**B 95%**", 0.05),
        ("Answer: A, 100", 1.0),
        ("A", 1.0),
        ("(B)", 0.0),
        ("A 50", 0.5),
        ("I first thought\nA 60\nbut no:\nB 70", 0.3),
        ("<think>A good one? B is better.</think>\nB 90", 0.1),
        ("A 30", None),
        ("A 180", None),
        ("A good answer", None),
        ("", None),
    ],
)
def test_replies(reply: str, share: float | None):
    assert read_share(reply) == (None if share is None else pytest.approx(share))


def test_likelihoods_of_the_letter():
    assert read_share("B 80", likelihoods("B", 0.25)) == pytest.approx(0.25)
    assert read_share("A", {"content": [{"token": "A", "logprob": -0.5, "top_logprobs": []}]}) == 1.0
    for broken in ({}, {"content": None}, {"content": [{"token": "A 80"}]}, "?", {"content": [{"token": "A"}]}):
        assert read_share("A 80", broken) == pytest.approx(0.8)
    for odd in (1e9, 10**400, inf, nan):
        assert read_share("A 80", {"content": [{"token": "A", "logprob": odd}]}) == pytest.approx(0.8)


def test_refusals_of_earlier_comparisons_do_not_count_against_later_ones(desk: JudgeDesk, cache: Path):
    desk.plan = lambda shown, nth: "stated" if "Question 0" in shown else "400"
    with Judge(Settings("m", "key", desk.url), cache) as one:
        found = [one.compare([item])[0].preference for item in pairs(7)]
    assert found == [pytest.approx(0.8), *[None] * 6]


def test_half_a_surrogate_pair_can_be_asked(desk: JudgeDesk, cache: Path):
    (verdict,) = judge(desk, cache, [AnswerPair("Which?", "good \ud800", "x")])
    assert verdict.preference == pytest.approx(0.8)


def test_chats_are_shown_with_their_roles():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert as_text(turns) == "user: Hi\n\nassistant: Ho" and as_text(turns[:1]) == as_text("Hi") == "Hi"
