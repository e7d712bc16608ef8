"""Thread events over the API: what each thread wrote, where; plain clients see nothing of them."""

from __future__ import annotations

from typing import Any

import pytest

from pastalm.serving.threads import ThreadEvent
from tests.serving.conftest import RunningServer
from tests.serving.test_server import SPELL


def chunks(server: RunningServer, **own: Any) -> list[Any]:
    create = server.client().chat.completions.create
    messages: Any = [{"role": "user", "content": SPELL}]
    return list(create(model="bundled", messages=messages, stream=True, max_tokens=150, extra_body=own))


@pytest.fixture(scope="module")
def told(served: RunningServer) -> tuple[str, list[ThreadEvent], dict[str, Any]]:
    """The text, the events and the figures of an answer."""
    got = chunks(served, pasta={"events": True})
    pasta = [one.pasta for one in got if getattr(one, "pasta", None)]
    events = [ThreadEvent(**event) for one in pasta for event in one.get("events", [])]
    return "".join(one.choices[0].delta.content or "" for one in got), events, pasta[-1]


def test_sorted_by_place_the_texts_are_the_answer(told: tuple[str, list[ThreadEvent], dict[str, Any]]) -> None:
    text, events, _ = told
    assert "".join(event.text for event in sorted(events, key=lambda one: one.place)) == text
    assert "".join(event.text for event in events) != text, "nothing was written out of order"


def test_events_say_which_thread_is_where(told: tuple[str, list[ThreadEvent], dict[str, Any]]) -> None:
    _, events, figures = told
    threads = {event.thread for event in events}
    assert len(threads) == figures["threads"] > 2
    for thread in threads:
        own = [event for event in events if event.thread == thread]
        assert {event.parent for event in own} == {thread[:-1] if thread else None}
        assert len({event.topic for event in own}) == 1 and bool(own[0].topic) == bool(thread)
        assert own[-1].state == "done" and {one.state for one in own[:-1]} <= {"writing", "waiting"}
        assert (own[0].promised_tokens > 0) == bool(thread)
    assert sum(event.tokens for event in events) <= 150
    steps = [event.step for event in events]
    assert steps == sorted(steps) and steps[-1] == figures["critical_path"]


def test_two_threads_write_in_one_step(told: tuple[str, list[ThreadEvent], dict[str, Any]]) -> None:
    _, events, _ = told
    at_once = {
        step: {one.thread for one in events if one.step == step and one.text} for step in {e.step for e in events}
    }
    assert max(len(threads) for threads in at_once.values()) > 1


def test_plain_clients_see_nothing(served: RunningServer) -> None:
    plain = chunks(served)
    assert [one.pasta["threads"] for one in plain if getattr(one, "pasta", None)] == [plain[-1].pasta["threads"]]
    assert all(one.choices[0].delta.content for one in plain[1:-1])
