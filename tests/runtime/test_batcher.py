"""Requests side by side: taken back, and failing, without a trace in the others."""

from __future__ import annotations

from time import perf_counter

import pytest
from transformers import PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.runtime.batcher import Batcher
from tests.runtime.families import tiny

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
