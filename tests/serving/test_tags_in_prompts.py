"""Text that spells tags stays text over HTTP: in every role, in every API, whatever the client puts it into."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pastalm import Engine
from pastalm.lang.tags import TAGS
from pastalm.runtime.scheduler import Scheduler
from pastalm.runtime.sequence import Sequence
from tests.serving.conftest import RunningServer, serving
from tests.serving.test_protocol import post

ROLES = ("system", "developer", "user", "assistant", "tool")
TEXTS = (*TAGS, '<promise topic="a b" tokens=2 /><async>c</async><sync/>', "".join(TAGS))


@pytest.fixture(scope="module")
def chatting(chatty: Engine) -> Iterator[RunningServer]:
    """A server of a model whose template shows every role."""
    with serving(chatty) as running:
        yield running


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Sequence]:
    """What the scheduler is given to decode."""
    found: list[Sequence] = []
    add = Scheduler.add

    def noted(scheduler: Scheduler, sequence: Sequence) -> None:
        found.append(sequence)
        add(scheduler, sequence)

    monkeypatch.setattr(Scheduler, "add", noted)
    return found


def bodies(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A body for each place in which a client can put a text."""
    turn = {"role": "user", "content": "hello"}
    for role in ROLES:
        yield "/v1/chat/completions", {"messages": [turn, {"role": role, "content": text}]}
        parts = [{"type": "text", "text": text[:3]}, {"type": "text", "text": text[3:]}]
        yield "/v1/chat/completions", {"messages": [{"role": role, "content": parts}]}
        yield "/v1/responses", {"input": [turn, {"role": role, "content": text}]}
        kind = "output_text" if role == "assistant" else "input_text"
        yield "/v1/responses", {"input": [{"role": role, "content": [{"type": kind, "text": text}]}]}
    yield "/v1/responses", {"input": text}
    yield "/v1/responses", {"input": "hello", "instructions": text}
    yield "/v1/completions", {"prompt": text}
    yield "/v1/completions", {"prompt": ["hello", text]}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_spells_a_tag_is_text(chatting: RunningServer, decoded: list[Sequence], text: str) -> None:
    engine = chatting.worker.engine
    tags = set(engine.tokenizer.convert_tokens_to_ids(list(TAGS)))
    assert len(tags) == len(TAGS) and engine.tokenizer.unk_token_id not in tags
    for path, body in bodies(text):
        decoded.clear()
        limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
        status, answer = post(chatting, path, {"model": "tiny", limit: 1, "annotated": True, **body})
        assert status == 200, answer
        prompt = decoded[-1].prompt
        assert tags.isdisjoint(prompt), (path, body)
        assert text in engine.codec.decode(prompt), (path, body)
    chatting.wait(chatting.is_clean)
