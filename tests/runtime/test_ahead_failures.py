"""Passes ahead that fail, arrive wrong or are interrupted: each error ends those whom it is about."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.runtime import ahead as looking
from pastalm.runtime.sampler import SamplerOutput
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.visibility import Query, Visibility
from tests.runtime.test_ahead import FORKING, PROMPTS, alone, ask, finish, made, told


@pytest.fixture(scope="module")
def waiting(tokenizer: PreTrainedTokenizerFast, device: str) -> Engine:
    return made(tokenizer, device, ahead=False)


@pytest.fixture(scope="module")
def engine(tokenizer: PreTrainedTokenizerFast, device: str) -> Engine:
    return made(tokenizer, device, ahead=True)


@pytest.mark.parametrize("broken", ["launch_after", "choose"])
@pytest.mark.parametrize("error", [RuntimeError("a kernel failed"), torch.OutOfMemoryError("no memory")])
def test_a_pass_that_fails_ahead_ends_nobody(
    broken: str, error: Exception, engine: Engine, waiting: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, works, calls, planned = engine.runner.launch, getattr(engine.runner, broken), count(1), []

    def plan(*arguments: Any) -> Any:
        planned.append(True)
        found = launch(*arguments)
        planned.pop()
        return found

    def fails(*arguments: Any) -> Any:
        if not planned and next(calls) % 3 == 0:
            raise error
        return works(*arguments)

    monkeypatch.setattr(engine.runner, "launch", plan)
    monkeypatch.setattr(engine.runner, broken, fails)
    scheduler = engine.scheduler(3, 400)
    sequences = [ask(engine, prompt, FORKING) for prompt in PROMPTS]
    assert told(finish(scheduler, sequences)) == told(alone(waiting, prompt, FORKING) for prompt in PROMPTS)
    assert next(calls) > (9 if type(error) is RuntimeError else 3) and scheduler.ahead.steps
    for one in sequences:
        assert one.visibility.tokens == one.interpreter.slots


def test_an_error_ends_its_own_request(engine: Engine, waiting: Engine) -> None:
    scheduler = engine.scheduler(2, 400)
    good, bad = (ask(engine, "hello world", FORKING) for _ in range(2))
    tokens = count()
    bad.observe = lambda *_: None if next(tokens) < 9 else next(iter(()))
    for one in (bad, good):
        scheduler.add(one)
    while scheduler.step():
        pass
    assert told([good.result()]) == told([alone(waiting, "hello world", FORKING)])
    with pytest.raises(StopIteration):
        bad.result()


def test_an_interrupt_goes_on(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, sequence = engine.scheduler(1, 400), ask(engine, "hello", FORKING)
    scheduler.add(sequence)
    scheduler.step()
    behind = []

    def interrupted(before: SamplerOutput | None, *_: Any) -> Any:
        behind.append(before)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.runner, "launch_after", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scheduler.step()
    with pytest.raises(InterruptedError):
        sequence.result()
    assert len(behind) == 1 and behind[0], "it was the launch behind a step"
    assert scheduler.idle and not scheduler.ahead.launched


def test_what_is_wrong_with_a_pass_that_arrives_ends_its_own_request(
    engine: Engine, waiting: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = engine.scheduler(2, 400)
    good, bad = (ask(engine, "hello world", FORKING) for _ in range(2))
    go_on, calls = looking._go_on, count()

    def fails(sequence: Sequence, *arguments: Any) -> None:
        if sequence is bad and next(calls) == 4:
            raise RuntimeError("what it was fed is not known")
        go_on(sequence, *arguments)

    monkeypatch.setattr(looking, "_go_on", fails)
    for one in (bad, good):
        scheduler.add(one)
    while scheduler.step():
        pass
    assert told([good.result()]) == told([alone(waiting, "hello world", FORKING)])
    with pytest.raises(RuntimeError, match="is not known"):
        bad.result()
    assert scheduler.idle and good.visibility.tokens == good.interpreter.slots


@pytest.mark.parametrize("error", [RuntimeError("an illegal access"), KeyboardInterrupt()])
def test_a_pass_that_cannot_arrive_ends_those_in_it(
    error: BaseException, engine: Engine, waiting: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, sequences = engine.scheduler(2, 400), [ask(engine, "hello", FORKING) for _ in range(3)]
    for one in sequences:
        scheduler.add(one)
    scheduler.step()

    def fails(*_: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(looking.PassAhead, "right", fails)
        with nullcontext() if isinstance(error, Exception) else pytest.raises(KeyboardInterrupt):
            scheduler.step()
    for one in sequences[:2]:
        with pytest.raises(RuntimeError if isinstance(error, Exception) else InterruptedError):
            one.result()
    assert not scheduler.ahead.launched and not scheduler.running
    assert told(finish(scheduler, [])) == [] and told([sequences[2].result()]) == told(
        [alone(waiting, "hello", FORKING)]
    )


def out_of_memory_when_settling(engine: Engine, monkeypatch: pytest.MonkeyPatch, which: Callable[[int], bool]) -> None:
    settle, calls = engine.runner.sampler.settle, count(1)

    def fails(*arguments: Any) -> list[int]:
        if which(next(calls)):
            raise torch.OutOfMemoryError("no memory")
        return settle(*arguments)

    monkeypatch.setattr(engine.runner.sampler, "settle", fails)


def test_tokens_are_read_again_without_the_pass_ahead(
    engine: Engine, waiting: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = told(alone(waiting, prompt, FORKING) for prompt in PROMPTS)
    out_of_memory_when_settling(engine, monkeypatch, lambda call: call % 4 == 0)
    scheduler, sequences = engine.scheduler(3, 400), [ask(engine, prompt, FORKING) for prompt in PROMPTS]
    assert told(finish(scheduler, sequences)) == expected
    assert scheduler.ahead.steps and scheduler.ahead.dropped
    for one in sequences:
        assert one.visibility.tokens == one.interpreter.slots


def test_tokens_that_cannot_be_read_twice_end_their_requests(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_when_settling(engine, monkeypatch, lambda call: call > 6)
    scheduler, sequence = engine.scheduler(1, 400), ask(engine, "hello", FORKING)
    scheduler.add(sequence)
    while scheduler.step():
        pass
    assert scheduler.idle and not scheduler.ahead.launched
    with pytest.raises(MemoryError, match="no memory for this request"):
        sequence.result()


def test_a_failure_ahead_is_said_once_and_without_memory_none_is_tried(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    launch_after, tried = engine.runner.launch_after, []

    def fails(before: SamplerOutput | None, *arguments: Any) -> Any:
        if before is None:
            return launch_after(before, *arguments)
        tried.append(len(scheduler.running))
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(engine.runner, "launch_after", fails)
    scheduler = engine.scheduler(2, 400)
    sequences = [ask(engine, "hello", {"mode": "sequential", "max_tokens": tokens}) for tokens in (6, 12)]
    with caplog.at_level(logging.WARNING):
        finish(scheduler, sequences)
    assert tried == [2, 1], "once, and once more when one has left"
    assert [record.message for record in caplog.records if "ahead" in record.message] == [
        "A pass could not be launched ahead (no memory); such steps wait for the tokens of the last."
    ]


def test_slots_are_given_back_where_only_some_could_be_taken(
    engine: Engine, waiting: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, calls = Visibility.query, count(1)

    def fails(self: Visibility, token: int, position: int, row: int, follows: int | None = None) -> Query:
        if follows is not None and next(calls) % 3 == 0:
            raise RuntimeError("no slot")
        return query(self, token, position, row, follows)

    monkeypatch.setattr(Visibility, "query", fails)
    scheduler, sequences = engine.scheduler(3, 400), [ask(engine, prompt, FORKING) for prompt in PROMPTS]
    assert told(finish(scheduler, sequences)) == told(alone(waiting, prompt, FORKING) for prompt in PROMPTS)
    for one in sequences:
        assert one.visibility.tokens == one.interpreter.slots
