"""What calls of one engine share: the scheduler and its cache, kept, grown, released; iterators and threads in turn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest

import pytest
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pastalm import DoneEvent, Engine, Response
from pastalm.lang.recogniser import Legal
from pastalm.runtime.thread import ThreadPath
from tests.runtime.families import tiny

PROMPTS = ["hello", "world foo bar", "12 34", "foo"]
OPTIONS = {"max_tokens": 30, "temperature": 1.0, "seed": 5, "max_async_tokens": 8, "promise_bias": 3.0}


@pytest.fixture(scope="module")
def expected(tokenizer: PreTrainedTokenizerFast) -> dict[str, Response]:
    """Each answer by an engine that has done nothing else."""
    return {prompt: Engine(tiny("llama", len(tokenizer)), tokenizer).generate(prompt, **OPTIONS) for prompt in PROMPTS}


@pytest.fixture
def engine(tokenizer: PreTrainedTokenizerFast) -> Engine:
    return Engine(tiny("llama", len(tokenizer)), tokenizer)


def texts(responses: list[Response]) -> list[str]:
    return [response.annotated for response in responses]


def test_calls_share_one_cache(engine: Engine, expected: dict[str, Response]) -> None:
    assert engine.cache_bytes == 0
    engine.generate("hello", **OPTIONS)
    held = engine.cache_bytes
    assert held > 0
    for prompt in PROMPTS:
        assert engine.generate(prompt, **OPTIONS).annotated == expected[prompt].annotated
        assert list(engine.stream(prompt, **OPTIONS))[-1].response.annotated == expected[prompt].annotated
    assert engine.cache_bytes == held


def test_the_cache_grows_to_what_one_call_needs_and_no_further(engine: Engine, expected: dict[str, Response]) -> None:
    short = {"max_tokens": 8, "mode": "sequential"}
    engine.generate("hello", **short)
    one_short = engine.cache_bytes
    list(engine.generate_batch(PROMPTS, max_batch=3, **short))
    assert engine.cache_bytes == 3 * one_short
    engine.generate("hello", max_tokens=400, mode="sequential")  # long, but alone
    one_long = engine.cache_bytes
    assert one_long < 10 * one_short
    for _ in range(3):
        engine.generate("hello", **short)
        assert engine.cache_bytes == one_long
    assert texts(list(engine.generate_batch(PROMPTS, max_batch=4, **OPTIONS))) == texts(list(expected.values()))


def test_a_released_cache_is_made_again(engine: Engine, expected: dict[str, Response]) -> None:
    stream = engine.stream("hello", **OPTIONS)
    next(stream)
    engine.release()
    assert engine.cache_bytes == 0
    assert engine.generate("foo", **OPTIONS).annotated == expected["foo"].annotated
    assert list(stream)[-1].response.annotated == expected["hello"].annotated
    assert engine.cache_bytes > 0


@pytest.mark.parametrize("first", ["hello", "world foo bar"])
def test_streams_that_are_read_in_turn(engine: Engine, expected: dict[str, Response], first: str) -> None:
    engine.max_batch = 2
    list(engine.generate_batch(PROMPTS[:2], max_tokens=40))  # a cache for two
    prompts = [first, "12 34", "foo"]  # the third waits for its row
    events: list[list] = [[] for _ in prompts]
    for turn in zip_longest(*(engine.stream(prompt, **OPTIONS) for prompt in prompts)):
        for own, event in zip(events, turn, strict=True):
            own += [event] if event else []
    for prompt, own in zip(prompts, events, strict=True):
        assert isinstance(own[-1], DoneEvent) and own[-1].response.annotated == expected[prompt].annotated
        assert [type(event) for event in own] == [type(event) for event in engine.stream(prompt, **OPTIONS)]


def test_a_stream_that_is_left_gives_its_row_back(engine: Engine, expected: dict[str, Response]) -> None:
    for _ in range(3):
        stream = engine.stream("hello", **OPTIONS)
        next(stream)
        stream.close()
    batch = engine.generate_batch(PROMPTS, max_batch=2, **OPTIONS)
    next(batch)
    del batch
    held = engine.cache_bytes
    assert texts(list(engine.generate_batch(PROMPTS, max_batch=2, **OPTIONS))) == texts(list(expected.values()))
    assert engine.cache_bytes == held


class Failing(Exception):
    """What goes wrong in a test."""


@pytest.mark.parametrize("error", [Failing, KeyboardInterrupt])
def test_an_error_or_an_interrupt_leaves_the_engine_sound(
    engine: Engine, expected: dict[str, Response], error: type[BaseException]
) -> None:
    stream = engine.stream("foo", **OPTIONS)
    next(stream)
    request = engine.request("hello", **OPTIONS)

    def fail(logits: Tensor, legal: list[Legal], paths: list[ThreadPath]) -> list[int]:
        raise error("on purpose")

    request.teacher = fail
    with pytest.raises(error):
        engine.run(request)
    assert texts(list(engine.generate_batch(PROMPTS, **OPTIONS))) == texts(list(expected.values()))
    assert list(stream)[-1].response.annotated == expected["foo"].annotated


def test_a_pass_that_is_interrupted_ends_all_in_it_and_nothing_else(
    engine: Engine, expected: dict[str, Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    list(engine.generate_batch(PROMPTS[:2], max_batch=2, max_tokens=40))
    other, stream = engine.stream("foo", **OPTIONS), engine.stream("hello", **OPTIONS)
    next(other), next(stream)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine.runner, "launch", interrupted)
        list(stream)
    with pytest.raises(InterruptedError, match="interrupted"):
        list(other)
    assert texts([engine.generate(prompt, **OPTIONS) for prompt in PROMPTS]) == texts(list(expected.values()))


@pytest.mark.parametrize("call", [2, 4])
def test_an_interrupt_while_tokens_are_handed_out_ends_those_that_have_not_got_theirs(
    engine: Engine, expected: dict[str, Response], call: int
) -> None:
    calls = iter(range(1, 1000))

    def interrupted(*_: object) -> None:
        if next(calls) == call:
            raise KeyboardInterrupt

    list(engine.generate_batch(PROMPTS[:2], max_batch=2, max_tokens=40))
    stream, other = engine.stream("hello", observe=interrupted, **OPTIONS), engine.stream("foo", **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        for _ in zip(stream, other, strict=False):
            pass
    try:
        rest = list(other)
    except InterruptedError:
        assert call != 2
    else:  # it was in no step with the other one, or had its token already
        assert call != 4 and rest[-1].response.annotated == expected["foo"].annotated
    assert texts([engine.generate(prompt, **OPTIONS) for prompt in PROMPTS]) == texts(list(expected.values()))


def test_calls_from_several_threads(engine: Engine, expected: dict[str, Response]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: engine.generate(prompt, **OPTIONS), PROMPTS * 3))
    assert texts(found) == texts(list(expected.values())) * 3


def test_the_engine_s_own_batch_size(engine: Engine, tokenizer: PreTrainedTokenizerFast) -> None:
    alone = Engine(engine.runner.model, tokenizer, max_batch=1)
    short = {"max_tokens": 8, "mode": "sequential"}
    expected = texts(list(engine.generate_batch(PROMPTS, **short)))
    assert texts(list(alone.generate_batch(PROMPTS, **short))) == expected
    assert engine.cache_bytes == 4 * alone.cache_bytes
