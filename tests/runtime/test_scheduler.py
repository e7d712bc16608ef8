"""Requests side by side: taken back, and failing, without a trace in the others."""

from __future__ import annotations

from time import perf_counter
from typing import Any
from weakref import WeakSet

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.lang.recogniser import Legal
from pastalm.lang.render import render
from pastalm.runtime.kv_cache import KVCache
from pastalm.runtime.memory import OutOfMemoryError
from pastalm.runtime.runner import Launched
from pastalm.runtime.scheduler import Scheduler
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.step_input import Part
from pastalm.runtime.thread import ThreadPath, answer_of
from tests.runtime.families import tiny
from tests.runtime.scripted import START, Case, Scribbler, cases, decode_all, interpreter_of, play

OPTIONS = {"max_tokens": 20, "mode": "sequential"}


@pytest.fixture(scope="module")
def engine(tokenizer: PreTrainedTokenizerFast) -> Engine:
    return Engine(tiny("llama", len(tokenizer)), tokenizer)


def test_cancelled_requests_leave_the_others_alone(engine: Engine) -> None:
    scheduler = Scheduler(engine.runner, 2, 400)
    running, kept, waiting, next_one = requests = [engine.request("hello world", **OPTIONS) for _ in range(4)]
    for request in requests:
        scheduler.add(request)
    for _ in range(3):
        scheduler.step()
    scheduler.cancel(running)
    scheduler.cancel(waiting)
    while scheduler.step():
        pass
    expected = engine.generate("hello world", **OPTIONS).text
    assert kept.result().text == next_one.result().text == expected
    scheduler.cancel(kept)
    assert scheduler.idle and not running.finished and not waiting.finished
    with pytest.raises(RuntimeError, match="not finished"):
        running.result()


def test_an_error_ends_its_own_request(engine: Engine) -> None:
    scheduler = Scheduler(engine.runner, 3, 400)
    good, unreadable, failing = (engine.request("hello world", **OPTIONS) for _ in range(3))
    unreadable.prompt = [1 << 20]  # no such token: its prompt cannot be read
    failing.observe = lambda *_: next(iter(()))
    for request in (unreadable, good, failing):
        scheduler.add(request)
    while scheduler.step():
        pass
    assert good.result().text == engine.generate("hello world", **OPTIONS).text
    for request, error in ((unreadable, IndexError), (failing, StopIteration)):
        with pytest.raises(error):
            request.result()
    assert scheduler.idle


def test_a_forward_pass_that_fails_ends_those_in_it(engine: Engine) -> None:
    scheduler = Scheduler(engine.runner, 2, 400)
    fatal, other, later = requests = [engine.request("hello world", **OPTIONS) for _ in range(3)]
    fatal.teacher = lambda logits, legal, paths: [1 << 20] * len(paths)
    for request in requests:
        scheduler.add(request)
    while scheduler.step():
        pass
    for request in (fatal, other):
        with pytest.raises(IndexError):
            request.result()
    assert later.result().text == engine.generate("hello world", **OPTIONS).text
    assert scheduler.idle


@pytest.mark.parametrize("tokens", [1 << 42, 10**18, 10**400])  # more than any machine has, than torch can count
def test_a_request_without_memory_ends_alone(engine: Engine, tokens: int) -> None:
    scheduler = Scheduler(engine.runner, 3, 2 * tokens)
    before, after = (engine.request("hello world", **OPTIONS) for _ in range(2))
    huge = engine.request("hello world", mode="sequential", max_tokens=tokens)
    for request in (before, huge, after):
        scheduler.add(request)
    while scheduler.step():
        pass
    with pytest.raises(OutOfMemoryError, match="no memory for this request: ask for fewer tokens"):
        huge.result()
    expected = engine.generate("hello world", **OPTIONS).text
    assert before.result().text == after.result().text == expected
    assert scheduler.idle and scheduler.cache.slots <= 256, "the cache is not as it was"


def test_the_first_request_of_all_may_lack_memory(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the layers lack is known before the cache has grown to it."""
    make, enlarge = KVCache.layer, KVCache._larger

    def narrow_layer(cache: KVCache, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if cache.slots > 1000:
            torch.empty(1 << 60)  # what torch says where there is no memory
        return make(cache, layer, key, value)

    def narrow_larger(old: Tensor, rows: int, slots: int) -> Tensor:
        if old.dim() > 2 and slots > 1000:
            torch.empty(1 << 60)
        return enlarge(old, rows, slots)

    monkeypatch.setattr(KVCache, "layer", narrow_layer)
    monkeypatch.setattr(KVCache, "_larger", staticmethod(narrow_larger))
    engine = Engine(tiny("llama", len(tokenizer)), tokenizer)
    for _ in range(2):
        with pytest.raises(OutOfMemoryError):
            engine.generate("hello world", mode="sequential", max_tokens=5000)
        assert engine.generate("hello world", **OPTIONS).metrics.tokens


def test_a_step_without_memory_goes_on_without_the_last_request(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = engine.runner.launch

    def narrow(cache: KVCache, parts: list[Part]) -> Launched:
        if len(parts) > 2:
            torch.empty(1 << 60)  # what torch says where there is no memory
        return launch(cache, parts)

    requests = [engine.request("hello world", **OPTIONS) for _ in range(4)]
    expected = engine.generate("hello world", **OPTIONS).text
    monkeypatch.setattr(engine.runner, "launch", narrow)
    scheduler = Scheduler(engine.runner, 4, 400)
    for request in requests:
        scheduler.add(request)
    while scheduler.step():
        pass
    assert [request.result().text for request in requests[:2]] == [expected] * 2
    assert all(isinstance(request.error, OutOfMemoryError) for request in requests[2:]) and scheduler.idle


def test_the_cache_is_bounded_used_again_and_given_back(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, sizes = Scheduler(engine.runner, 4, 400), []
    scheduler.reserve()
    start = scheduler.cache.bytes
    for _ in range(3):
        for tokens in (300, 20, 20, 20, 20, 20):
            scheduler.add(engine.request("hello world", max_tokens=tokens, mode="sequential"))
        while scheduler.step():
            scheduler.shrink()  # nothing while requests run
        sizes.append(scheduler.cache.bytes)
    assert sizes == sizes[:1] * 3 and (scheduler.cache.rows, scheduler.cache.slots) == (4, 512)
    assert sizes[0] == start * 4 * 2
    monkeypatch.setattr(engine.runner.graphs, "capture", lambda function: function)
    scheduler.shrink()
    assert scheduler.cache.bytes == sizes[0], "graphs read it"
    monkeypatch.undo()
    scheduler.shrink()
    scheduler.reserve()
    assert scheduler.cache.bytes == start


def test_requests_that_end_at_once_do_not_keep_a_running_one_waiting(engine: Engine) -> None:
    scheduler = Scheduler(engine.runner, 2, 400)
    running = engine.request("hello world", **OPTIONS)
    short = [engine.request("hello", max_tokens=1, mode="sequential") for _ in range(6)]
    scheduler.add(running)
    scheduler.step()
    for request in short:
        scheduler.add(request)
    for number in range(1, 7):
        steps = running.steps
        scheduler.step()
        assert running.steps == steps + 1 and sum(request.finished for request in short) == number


def test_a_cache_that_is_reserved_is_there_and_free(engine: Engine) -> None:
    scheduler = Scheduler(engine.runner, 2, 40)
    scheduler.reserve()
    assert scheduler.idle and len(scheduler.cache.keys) == len(scheduler.cache.values) == 4
    held = scheduler.cache.keys[0]
    request = engine.request("hello", max_tokens=3, mode="sequential")
    scheduler.add(request)
    while scheduler.step():
        pass
    assert scheduler.cache.keys[0] is held
    assert request.result().text == engine.generate("hello", max_tokens=3, mode="sequential").text


def test_a_batch_lets_go_of_what_is_over(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: WeakSet[Sequence] = WeakSet()
    make = engine.request

    def noted(*arguments: Any, **options: Any) -> Sequence:
        alive.add(request := make(*arguments, **options))
        return request

    monkeypatch.setattr(engine, "request", noted)
    answers = engine.generate_batch(["hello"] * 9, max_batch=1, max_tokens=2, mode="sequential")
    for number, _ in enumerate(answers, 1):
        assert len(alive) <= 9 - number + 1


@given(st.lists(cases, min_size=1, max_size=3), st.integers(0, 9))
def test_whatever_is_written_all_slots_are_free_again(engine: Engine, written: list[Case], cancelled: int) -> None:
    scheduler = Scheduler(engine.runner, 2, 1 + START + 80 + 2 * 80)
    requests = [scripted(engine, case) for case in written]
    decode_all(scheduler, requests, cancelled)
    assert scheduler.idle
    for request, case in list(zip(requests, written, strict=True))[1:]:
        response = request.result()
        assert render(response.answer) == render(answer_of(play(case, engine.vocabulary).interpreter.main))
        assert response.metrics.critical_path <= response.metrics.steps


def scripted(engine: Engine, case: Case) -> Sequence:
    """A request whose threads write what a case says, whatever the model thinks."""
    scribbler = Scribbler(engine.vocabulary, case.seed)

    def choose(logits: Tensor, legal: list[Legal], paths: list[ThreadPath]) -> list[int]:
        assert len(logits) == len(paths) and not logits.isnan().any()
        return [scribbler(path, one) for path, one in zip(paths, legal, strict=True)]

    return Sequence([5] * START, interpreter_of(case, engine.vocabulary), teacher=choose)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_holds_something(engine: Engine, batch: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 request, not {batch}"):
        next(engine.generate_batch(["hello"], max_batch=batch, **OPTIONS))


def test_time_in_line_is_not_counted(engine: Engine) -> None:
    scheduler = Scheduler(engine.runner, 1, 400)
    first, second = requests = [engine.request("hello world", **OPTIONS) for _ in range(2)]
    for request in requests:
        scheduler.add(request)
    while not first.finished:
        scheduler.step()
    between = perf_counter()
    while scheduler.step():
        pass
    assert second.result().metrics.wall_seconds <= perf_counter() - between
