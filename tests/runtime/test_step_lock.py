"""What happens to an engine in the middle of a step: streams that are closed there, and callbacks that would decode."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from threading import Thread
from types import SimpleNamespace

import pytest
from transformers import PreTrainedTokenizerFast

from pastalm import Engine, Event
from pastalm.runtime.interpreter import Interpreter
from pastalm.runtime.scheduler import Scheduler
from pastalm.runtime.step_lock import StepLock
from tests.runtime.families import tiny

OPTIONS = {"max_tokens": 30, "temperature": 1.0, "seed": 5, "max_async_tokens": 8, "promise_bias": 3.0}


@pytest.fixture(scope="module")
def engine(tokenizer: PreTrainedTokenizerFast) -> Engine:
    engine = Engine(tiny("llama", len(tokenizer)), tokenizer)
    list(engine.generate_batch(["hello"] * 3, max_tokens=40))  # a cache for three
    return engine


def begun(engine: Engine, prompt: str) -> Iterator[Event]:
    """A stream that has its row."""
    stream = engine.stream(prompt, **OPTIONS)
    next(stream)
    return stream


@pytest.mark.parametrize("call", [1, 3])
def test_a_stream_that_the_garbage_collector_closes_in_a_step_changes_no_other(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    expected = engine.generate("foo", **OPTIONS).annotated
    take, calls = Interpreter.take, []

    def taken(interpreter: Interpreter, thread: object) -> list:
        calls.append(thread)
        if len(calls) == call:
            gc.collect()
        return take(interpreter, thread)

    kept, abandoned = begun(engine, "foo"), SimpleNamespace(stream=begun(engine, "hello"))
    abandoned.itself = abandoned
    gc.disable()
    try:
        del abandoned
        monkeypatch.setattr(Interpreter, "take", taken)
        assert list(kept)[-1].response.annotated == expected
    finally:
        gc.enable()
    assert engine._scheduler.idle, "the row of the closed stream is lost"


def test_a_callback_may_close_a_stream_but_not_decode(engine: Engine) -> None:
    expected = {prompt: engine.generate(prompt, **OPTIONS).annotated for prompt in ("hello", "foo")}
    other, closed, said = begun(engine, "foo"), begun(engine, "hello"), list[str]()

    def observe(*_: object) -> None:
        closed.close()
        try:
            engine.generate("12 34", max_tokens=400)  # it needs a larger cache
        except RuntimeError as error:
            said.append(str(error))

    assert engine.generate("hello", observe=observe, **OPTIONS).annotated == expected["hello"]
    assert said and all("cannot use the engine that calls it" in one for one in said)
    assert list(other)[-1].response.annotated == expected["foo"]


def test_what_a_callback_does_not_catch_ends_its_own_request(engine: Engine) -> None:
    expected = engine.generate("foo", **OPTIONS).annotated
    other = begun(engine, "foo")
    with pytest.raises(RuntimeError, match="cannot use the engine that calls it"):
        engine.generate("hello", observe=lambda *_: engine.generate("12 34", **OPTIONS), **OPTIONS)
    assert list(other)[-1].response.annotated == expected
    assert engine._scheduler.idle


def test_a_sequence_that_is_taken_out_in_a_step_takes_no_other_s_row(engine: Engine) -> None:
    scheduler, expected = Scheduler(engine.runner, 2, 400), engine.generate("habc", **OPTIONS).annotated
    gone = engine.request("hxyz", **OPTIONS)  # begins as the other does, so it is read behind it
    kept = engine.request("habc", observe=lambda *_: scheduler.cancel(gone), **OPTIONS)
    for request in (kept, gone):
        scheduler.add(request)
    while scheduler.step():
        pass
    assert kept.result().annotated == expected and scheduler.idle


def test_what_is_put_off_waits_for_nobody_and_comes_when_the_lock_is_free() -> None:
    lock, called = StepLock(), list[str]()
    with lock.hold():
        lock.between_steps(lambda: called.append("here"))
        other = Thread(target=lock.between_steps, args=(lambda: called.append("there"),))
        other.start()
        other.join()
        assert not called
    assert called == ["here", "there"]
    lock.between_steps(lambda: lock.between_steps(lambda: called.append("nested")))
    assert called == ["here", "there", "nested"]
