"""The annotator against a real HTTP server: verdicts, troubles of the endpoint, and kills at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pastalm.annotation.annotate import annotate
from pastalm.annotation.endpoint import EndpointError, Settings
from pastalm.annotation.prompts import DEMONSTRATIONS, conversation
from pastalm.annotation.reply import check_reply
from pastalm.annotation.results import AnnotationResults, rejects_path
from pastalm.annotation.tally import Tally
from pastalm.cli import app
from pastalm.data.check import check_file, flaws
from pastalm.data.records import Record, read_answers
from pastalm.files.lines import DataError
from pastalm.files.packages import MissingPackageError
from pastalm.lang.answer import Sync
from pastalm.lang.parse import parse
from tests.annotation.openai_server import Desk, marked

pytest.importorskip("openai")

ANSWER = "Here:\n\n- one has a few words\n- two has a few more words\n\nSo both are there, number {}."


def items(number: int) -> list[Record]:
    return [Record(({"role": "user", "content": f"Question {k}"},), ANSWER.format(k), id=str(k)) for k in range(number)]


def run(desk: Desk, out: Path, number: int = 1, **settings: Any) -> Tally:
    options = {"timeout": 30.0, "first_pause": 0.01, "concurrency": 4, **settings}
    return annotate(items(number), out, Settings("m", "key", desk.url, **options))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_good_replies_are_written_and_pass_the_check(desk: Desk, out: Path):
    tally = run(desk, out, 5)
    written = sorted(lines(out), key=lambda line: line["id"])
    assert [line["id"] for line in written] == list("01234")
    assert written[3]["annotated"] == marked(ANSWER.format(3)) and "<sync/>" in written[3]["annotated"]
    assert written[3]["prompt"] == "Question 3" and written[3]["answer"] == ANSWER.format(3)
    assert (written[3]["model"], written[3]["attempts"]) == ("m", 1)
    assert not any(record.findings for record in check_file(out))
    assert (tally.accepted, tally.usage.prompt_tokens, tally.usage.completion_tokens) == (5, 5000, 500)
    assert lines(rejects_path(out)) == []


def test_what_is_asked(desk: Desk, out: Path):
    run(desk, out, temperature=0.5)
    (ask,) = desk.asks
    assert ask.authorization == "Bearer key" and ask.body["temperature"] == 0.5 and ask.body["model"] == "m"
    roles = [message["role"] for message in ask.body["messages"]]
    assert roles == ["system"] + ["user", "assistant"] * 7 + ["user"]
    assert "Question 0" in ask.body["messages"][-1]["content"]


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("changed", "text changed"),
        ("unclosed", "bad tags"),
        ("overlap", "bad tags"),
        ("long topic", "long topic"),
        ("short chunk", "short chunk"),
        ("idle sync", "idle sync"),
        ("length", "cut off"),
        ("empty", "empty"),
    ],
)
def test_an_invalid_reply_is_retried_and_then_rejected(desk: Desk, out: Path, kind: str, reason: str):
    desk.plan = lambda answer, nth: kind
    tally = run(desk, out, max_attempts=3)
    assert len(desk.asks) == 3 and lines(out) == []
    (reject,) = lines(rejects_path(out))
    assert (reject["reason"], reject["attempts"], reject["id"]) == (reason, 3, "0") and reject["problems"]
    assert reject["usage"] == {"prompt_tokens": 3000, "completion_tokens": 300}
    assert tally.rejected == {reason: 1} and tally.retried == {reason: 2}


def test_the_retry_carries_the_reply_and_the_validators_message(desk: Desk, out: Path):
    desk.plan = lambda answer, nth: "changed" if nth == 1 else "good"
    run(desk, out)
    first, second = desk.asks
    *same, reply, message = second.body["messages"]
    assert same == first.body["messages"]
    assert reply["role"] == "assistant" and "few wards" in reply["content"]
    assert "differs from 'answer'" in message["content"]
    assert lines(out)[0]["attempts"] == 2


def test_a_reply_that_was_cut_off_is_not_shown_again(desk: Desk, out: Path):
    desk.plan = lambda answer, nth: "length" if nth == 1 else "good"
    run(desk, out)
    assert desk.asks[1].body["messages"] == desk.asks[0].body["messages"]


def test_white_space_around_the_answer_is_kept(desk: Desk, out: Path):
    desk.plan = lambda answer, nth: "stripped"
    answer = "\n  " + ANSWER.format(0) + " \n"
    annotate([Record((), answer, id="a")], out, Settings("m", "key", desk.url))
    assert parse(lines(out)[0]["annotated"]).plain == answer


@pytest.mark.parametrize(
    "trouble", ["429", "500", "503", "hang", "trickle", "truncated", "malformed", "not the protocol"]
)
def test_troubles_pass_and_cost_no_attempt(desk: Desk, out: Path, trouble: str):
    desk.plan = lambda answer, nth: trouble if nth <= 2 else "good"
    run(desk, out, timeout=1.0)
    assert len(desk.asks) >= 3 and lines(out)[0]["attempts"] == 1  # more, where the machine is too busy for a second


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_stops_all_requests(desk: Desk, out: Path, as_date: bool):
    date = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    desk.retry_after = format_datetime(date, usegmt=True) if as_date else "1"
    desk.plan = lambda answer, nth: "429" if len(desk.asks) == 1 else "good"
    run(desk, out, 6, concurrency=1)
    until = date.timestamp() if as_date else desk.asks[0].at + 1
    assert desk.asks[1].at >= until - 0.05 and len(lines(out)) == 6


def test_a_long_retry_after_ends_the_run(desk: Desk, out: Path):
    desk.plan, desk.retry_after = (lambda answer, nth: "429"), "86400"
    with pytest.raises(EndpointError, match="86400 s"):
        run(desk, out)


@pytest.mark.parametrize("what, said", [("401", "key"), ("403", "key"), ("404", "no model 'm'"), ("quota", "paid")])
def test_a_wrong_key_or_model_stops_at_once(desk: Desk, out: Path, what: str, said: str):
    desk.plan = lambda answer, nth: what
    with pytest.raises(EndpointError, match=said):
        run(desk, out, 50, concurrency=1)
    assert len(desk.asks) == 1 and lines(rejects_path(out)) == []


def test_an_endpoint_that_stays_down_stops_the_run_and_rejects_nothing(desk: Desk, out: Path):
    desk.plan = lambda answer, nth: "500"
    with pytest.raises(EndpointError, match="does not recover"):
        run(desk, out, 2, tries=3)
    assert lines(out) == lines(rejects_path(out)) == []


def test_one_answer_that_the_server_always_fails_is_rejected(desk: Desk, out: Path):
    desk.latency = 0.01
    desk.plan = lambda answer, nth: "500" if answer.endswith(" 0.") else "good"
    run(desk, out, 40, tries=3, concurrency=2)
    (reject,) = lines(rejects_path(out))
    assert (reject["id"], reject["reason"]) == ("0", "server") and len(lines(out)) == 39


def test_one_refused_request_is_rejected(desk: Desk, out: Path):
    desk.plan = lambda answer, nth: "400" if answer.endswith(" 0.") else "good"
    run(desk, out, 5, concurrency=1)
    (reject,) = lines(rejects_path(out))
    assert (reject["id"], reject["reason"]) == ("0", "refused") and len(desk.asks) == 5


@pytest.mark.parametrize("number", [3, 30])
def test_when_every_request_is_refused_nothing_is_rejected(desk: Desk, out: Path, number: int):
    desk.plan = lambda answer, nth: "400"
    with pytest.raises(EndpointError, match="told to say 400"):
        run(desk, out, number)
    assert lines(rejects_path(out)) == [] and len(desk.asks) <= 12


def test_a_second_run_asks_nothing_twice(desk: Desk, out: Path):
    desk.plan = lambda answer, nth: "changed" if answer.endswith("1.") else "good"
    run(desk, out, 4, max_attempts=1)
    before = len(desk.asks)
    tally = run(desk, out, 6, max_attempts=1)
    assert len(desk.asks) == before + 2
    assert (tally.skipped, tally.done, tally.accepted, tally.rejected) == (4, 2, 5, {"text changed": 1})


@pytest.mark.parametrize("kind", ["fenced", "announced", "thought", "half thought", "tagged"])
def test_a_wrapped_reply_is_unwrapped(desk: Desk, out: Path, kind: str):
    desk.plan = lambda answer, nth: kind
    tally = run(desk, out, 2)
    assert tally.accepted == 2 and not tally.retried and len(desk.asks) == 2
    assert all(line["annotated"] == marked(line["answer"]) for line in lines(out))


def test_an_answer_keeps_a_fence_of_its_own(desk: Desk, out: Path):
    answer = "```python\nprint('a few words of code')\n```"
    annotate([Record((), answer, id="a")], out, Settings("m", "key", desk.url))
    assert lines(out)[0]["annotated"] == answer


def test_an_endpoint_that_refuses_the_temperature_is_asked_without(desk: Desk, out: Path):
    desk.plan = lambda answer, nth: "refuses temperature"
    tally = run(desk, out, 4, concurrency=1)
    assert tally.accepted == 4 and not tally.rejected and len(desk.asks) == 5, "found out once, for all requests"
    assert ["temperature" in ask.body for ask in desk.asks] == [True] + [False] * 4


def test_a_refusal_of_what_cannot_be_left_out_ends_the_run(desk: Desk, out: Path):
    desk.plan = lambda answer, nth: "refuses messages"
    with pytest.raises(EndpointError, match="refuses what it is asked"):
        run(desk, out, 2)
    assert len(desk.asks) == 2


def test_a_torn_last_line_is_cut_off_and_asked_again(desk: Desk, out: Path):
    run(desk, out, 3, concurrency=1)
    whole = out.read_bytes()
    for size in (1, 5, 40):
        out.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1 + size])
        run(desk, out, 3, concurrency=1)
        assert out.read_bytes() == whole


@pytest.mark.parametrize("text", ["my notes", "my notes\n", '{"id": 3}\n', '{"prompt": "x"}\n', "\n"])
def test_a_file_of_another_kind_is_left_alone(desk: Desk, out: Path, text: str):
    out.write_text(text)
    with pytest.raises(DataError, match="not written by this command"):
        run(desk, out)
    assert out.read_text() == text and desk.asks == []


def test_two_runs_cannot_write_one_file(desk: Desk, out: Path):
    with AnnotationResults(out), pytest.raises(DataError, match="another run"):
        run(desk, out)
    run(desk, out)


def test_items_that_cannot_be_asked_are_rejected_unasked(desk: Desk, out: Path, tmp_path: Path):
    source = tmp_path / "in.jsonl"
    rows = [{"prompt": "x", "answer": text} for text in (" ", "a <sync/> b", "\ud800")]
    source.write_text("\n".join(json.dumps(row) for row in rows))
    annotate(read_answers(str(source)), out, Settings("m", "key", desk.url, concurrency=1))
    rejects = lines(rejects_path(out))
    assert [line["reason"] for line in rejects] == ["no answer", "has tags", "broken text"] and desk.asks == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, out: Path):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pastalm\[annotate\]'"):
        annotate([], out, Settings("m", "key"))


def test_seven_demonstrations_that_keep_their_own_rules():
    assert len(DEMONSTRATIONS) == 7
    for shown in DEMONSTRATIONS:
        assert list(flaws(shown.annotated, shown.answer)) == []
        verdict = check_reply(shown.annotated, "stop", shown.answer)
        assert verdict.annotated == shown.annotated
    trees = [parse(shown.annotated) for shown in DEMONSTRATIONS]
    syncs = [sum(isinstance(node, Sync) for node in tree.nodes) for tree in trees]
    assert syncs == [0, 0, 1, 1, 0, 0, 2]
    assert [bool(list(tree.blocks())) for tree in trees] == [True, True, True, True, False, False, True]
    assert conversation([], "x")[-2]["content"] == DEMONSTRATIONS[-1].annotated


def write_source(tmp_path: Path, number: int) -> Path:
    source = tmp_path / "in.jsonl"
    rows = ({"id": str(k), "prompt": f"Question {k}", "answer": ANSWER.format(k)} for k in range(number))
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return source


def test_the_command_says_what_it_came_to(desk: Desk, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", "key")
    desk.plan = lambda answer, nth: "changed" if answer.endswith(" 1.") else "good"
    options = ["--model", "m", "--base-url", desk.url, "--key-env", "MY_KEY", "--limit", "4", "--max-attempts", "2"]
    line = ["annotate", str(write_source(tmp_path, 9)), str(out), *options, "--price-in", "2", "--price-out", "10"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0 and "3 accepted, 1 rejected, 75.0% accepted." in done.stdout
    assert "Rejected: text changed 1." in done.stdout and "Asked again: text changed 1." in done.stdout
    assert "Tokens: 5000 in, 500 out, cost 0.01." in done.stdout and len(desk.asks) == 5


def test_the_command_ends_with_one_sentence(desk: Desk, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = write_source(tmp_path, 3)
    line = ["annotate", str(source), str(out), "--model", "m", "--base-url", desk.url]
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2 and "The environment has no OPENAI_API_KEY" in done.stderr
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    desk.plan = lambda answer, nth: "401"
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2 and done.stderr.strip().count("\n") == 0 and "refuses the key" in done.stderr
    same = CliRunner().invoke(app, ["annotate", str(source), str(source), "--model", "m"])
    assert same.exit_code == 2 and "read and written at once" in same.stderr


def finished(out: Path) -> list[str]:
    """The ids of all whole lines of both files; a torn last line is none."""
    ids = []
    for path in (out, rejects_path(out)):
        text = path.read_bytes() if path.exists() else b""
        ids += [json.loads(line)["id"] for line in text[: text.rfind(b"\n") + 1].splitlines()]
    return ids


def start(source: Path, out: Path, desk: Desk) -> subprocess.Popen[bytes]:
    options = ["--model", "m", "--base-url", desk.url, "--concurrency", "24", "--max-attempts", "1"]
    code = "from pastalm.cli import app; app()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "annotate", str(source), str(out), *options],
        env={**os.environ, "OPENAI_API_KEY": "key"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_kills_lose_nothing_and_repeat_nothing(desk: Desk, out: Path, tmp_path: Path):
    number = 800
    source = write_source(tmp_path, number)
    names = {ANSWER.format(k): str(k) for k in range(number)}
    desk.latency = 0.02
    desk.plan = lambda answer, nth: "changed" if answer.endswith("7.") else "good"
    kills = []  # how many requests the server had seen, and which ids were finished
    for target in (150, 350, 600):
        process = start(source, out, desk)
        while len(desk.asks) < target:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.2)  # the server has seen all that the dead process sent
        kills.append((len(desk.asks), set(finished(out))))
        assert target - 4 * 24 <= len(kills[-1][1]) < number
    process = start(source, out, desk)
    assert process.wait(300) == 0, process.stderr.read().decode()
    ids = finished(out)
    assert len(ids) == len(set(ids)) == number
    assert len(lines(rejects_path(out))) == number // 10
    for seen, done in kills:
        assert not done & {names[ask.answer] for ask in desk.asks[seen:]}
    assert len(desk.asks) <= number + 3 * 24  # no more than what was in flight is asked again
