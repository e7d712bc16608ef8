"""Text in document order while threads write out of it."""

from __future__ import annotations

import pytest

from pastalm import Engine
from pastalm.runtime.events import DoneEvent, ForkEvent, TokenEvent
from pastalm.serving.document import Document

OPTIONS = {"max_tokens": 600, "temperature": 1.3, "promise_bias": 3.0, "max_async_tokens": 9}


@pytest.mark.parametrize("depth", [1, 3])
def test_what_is_read_is_the_answer_from_its_beginning(tiny: Engine, depth: int) -> None:
    forks = 0
    for seed in range(4):
        events = list(tiny.stream("hello world", seed=seed, max_depth=depth, **OPTIONS))
        response, document, text = events[-1].response, Document(), ""
        forks += sum(isinstance(event, ForkEvent) for event in events)
        for event in events:
            document.take(event)
            text += document.read()
            assert response.text.startswith(text)
        assert text == response.text and document.read() == ""
    assert forks > 3


def test_what_follows_a_chunk_waits_for_its_end() -> None:
    document = Document()
    for event in (
        TokenEvent((), (0,), 1, "a "),
        ForkEvent((0,), (1,), "x", 1),
        TokenEvent((), (3,), 1, " c"),
        TokenEvent((0,), (1, 1), 1, "b"),
    ):
        document.take(event)
    assert document.read() == "a b"
    document.take(DoneEvent((0,), (1, 2)))
    assert document.read() == " c"
    document.take(TokenEvent((), (4,), 1, "!"))
    assert document.read() == "!"
