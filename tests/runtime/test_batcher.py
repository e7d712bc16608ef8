"""Requests side by side: taken back, and failing, without a trace in the others."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from time import perf_counter
from typing import Any
from weakref import WeakSet

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.lang.recogniser import Legal
from pastalm.lang.render import render
from pastalm.runtime.batcher import Batcher, Request
from pastalm.runtime.thread import Path, answer_of
from tests.runtime.families import tiny
from tests.runtime.scripted import START, Case, Scribbler, cases, interpreter_of, play

OPTIONS = {"max_tokens": 20, "mode": "sequential"}


@pytest.fixture(scope="module")
def engine(tokenizer: PreTrainedTokenizerFast) -> Engine:
    return Engine(tiny("llama", len(tokenizer)), tokenizer)


def clean(batcher: Batcher) -> bool:
    lanes = batcher.pool.lanes
    return len(batcher.free) == len(lanes) and all(lane.used == 1 and not lane.rows for lane in lanes)


def test_cancelled_requests_leave_the_others_alone(engine: Engine) -> None:
    batcher = Batcher(engine.runner, 2, 400)
    running, kept, waiting, next_one = requests = [engine.request("hello world", **OPTIONS) for _ in range(4)]
    for request in requests:
        batcher.add(request)
    for _ in range(3):
        batcher.step()
    batcher.cancel(running)
    batcher.cancel(waiting)
    while batcher.step():
        pass
    expected = engine.generate("hello world", **OPTIONS).text
    assert kept.result().text == next_one.result().text == expected
    batcher.cancel(kept)
    assert clean(batcher) and not running.over and not waiting.over
    with pytest.raises(RuntimeError, match="not over"):
        running.result()


def test_an_error_ends_its_own_request(engine: Engine) -> None:
    batcher = Batcher(engine.runner, 3, 400)
    good, unreadable, failing = (engine.request("hello world", **OPTIONS) for _ in range(3))
    unreadable.prompt = [1 << 20]  # no such token: its prompt cannot be read
    failing.observe = lambda *_: next(iter(()))
    for request in (unreadable, good, failing):
        batcher.add(request)
    while batcher.step():
        pass
    assert good.result().text == engine.generate("hello world", **OPTIONS).text
    for request, error in ((unreadable, IndexError), (failing, StopIteration)):
        with pytest.raises(error):
            request.result()
    assert clean(batcher)


def test_a_forward_pass_that_fails_ends_those_in_it(engine: Engine) -> None:
    batcher = Batcher(engine.runner, 2, 400)
    fatal, other, later = requests = [engine.request("hello world", **OPTIONS) for _ in range(3)]
    fatal.choose = lambda logits, legal, paths: [1 << 20] * len(paths)
    for request in requests:
        batcher.add(request)
    while batcher.step():
        pass
    for request in (fatal, other):
        with pytest.raises(IndexError):
            request.result()
    assert later.result().text == engine.generate("hello world", **OPTIONS).text
    assert clean(batcher)


def test_requests_that_end_at_once_do_not_keep_a_running_one_waiting(engine: Engine) -> None:
    batcher = Batcher(engine.runner, 2, 400)
    running = engine.request("hello world", **OPTIONS)
    short = [engine.request("hello", max_tokens=1, mode="sequential") for _ in range(6)]
    batcher.add(running)
    batcher.step()
    for request in short:
        batcher.add(request)
    for number in range(1, 7):
        steps = running.steps
        batcher.step()
        assert running.steps == steps + 1 and sum(request.over for request in short) == number


def test_a_cache_that_is_reserved_is_there_and_free(engine: Engine) -> None:
    batcher = Batcher(engine.runner, 2, 40)
    batcher.reserve()
    assert clean(batcher) and len(batcher.pool.keys) == len(batcher.pool.values) == 4
    held = batcher.pool.keys[0]
    request = engine.request("hello", max_tokens=3, mode="sequential")
    batcher.add(request)
    while batcher.step():
        pass
    assert batcher.pool.keys[0] is held
    assert request.result().text == engine.generate("hello", max_tokens=3, mode="sequential").text


def test_a_batch_lets_go_of_what_is_over(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: WeakSet[Request] = WeakSet()
    make = engine.request

    def noted(*arguments: Any, **options: Any) -> Request:
        alive.add(request := make(*arguments, **options))
        return request

    monkeypatch.setattr(engine, "request", noted)
    answers = engine.generate_batch(["hello"] * 9, batch=1, max_tokens=2, mode="sequential")
    for number, _ in enumerate(answers, 1):
        assert len(alive) <= 9 - number + 1


@given(st.lists(cases, min_size=1, max_size=3), st.integers(0, 9))
def test_whatever_is_written_all_slots_are_free_again(engine: Engine, written: list[Case], cancelled: int) -> None:
    batcher = Batcher(engine.runner, 2, 1 + START + 80 + 2 * 80)
    requests = [scripted(engine, case) for case in written]
    for request in requests:
        batcher.add(request)
    for step in count():
        if step == cancelled:
            batcher.cancel(requests[0])
        if not batcher.step():
            break
    assert clean(batcher)
    for request, case in list(zip(requests, written, strict=True))[1:]:
        response = request.result()
        assert render(response.answer) == render(answer_of(play(case, engine.vocabulary).interpreter.main))
        assert response.metrics.critical_path <= response.metrics.steps


def scripted(engine: Engine, case: Case) -> Request:
    """A request whose threads write what a case says, whatever the model thinks."""
    scribbler = Scribbler(engine.vocabulary, case.seed)

    def choose(logits: Tensor, legal: Sequence[Legal], paths: Sequence[Path]) -> list[int]:
        assert len(logits) == len(paths) and not logits.isnan().any()
        return [scribbler(path, one) for path, one in zip(paths, legal, strict=True)]

    return Request([5] * START, interpreter_of(case, engine.vocabulary), choose)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_holds_something(engine: Engine, batch: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 request, not {batch}"):
        next(engine.generate_batch(["hello"], batch=batch, **OPTIONS))


def test_time_in_line_is_not_counted(engine: Engine) -> None:
    batcher = Batcher(engine.runner, 1, 400)
    first, second = requests = [engine.request("hello world", **OPTIONS) for _ in range(2)]
    for request in requests:
        batcher.add(request)
    while not first.over:
        batcher.step()
    between = perf_counter()
    while batcher.step():
        pass
    assert second.result().metrics.wall_seconds <= perf_counter() - between
