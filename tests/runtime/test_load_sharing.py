"""Many requests at once: prompts read beside running answers, shared prefixes, fair widths, a cache that grows."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.runtime import batch_threads
from pastalm.runtime.batch_threads import useful_threads
from pastalm.runtime.scheduler import PREFILL_BESIDE, SHORTEST_PREFIX, Scheduler
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.step_input import Part
from tests.runtime.families import tiny

FORKING: dict[str, Any] = {"max_tokens": 60, "temperature": 1.3, "promise_bias": 3.0, "max_async_tokens": 9}
LONG = "hello world " * 120


@pytest.fixture(scope="module")
def engine(tokenizer: PreTrainedTokenizerFast) -> Engine:
    return Engine(tiny("llama", len(tokenizer)), tokenizer)


class Passes:
    """Notes what a scheduler feeds the model in each pass."""

    def __init__(self, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts: list[list[Part]] = []
        launch = scheduler.runner.launch

        def noted(cache: Any, parts: list[Part]) -> Any:
            self.parts.append(parts)
            return launch(cache, parts)

        monkeypatch.setattr(scheduler.runner, "launch", noted)


def run(scheduler: Scheduler, *requests: Sequence) -> None:
    for request in requests:
        scheduler.add(request)
    while scheduler.step():
        pass


def test_a_long_prompt_does_not_stall_a_running_answer(engine: Engine) -> None:
    scheduler = Scheduler(engine.runner, 2, 2000)
    short = engine.request("hello", max_tokens=40, mode="sequential")
    long = engine.request(LONG, max_tokens=3, mode="sequential")
    scheduler.add(short)
    scheduler.step()
    scheduler.add(long)
    beside = 0
    while long.reading:
        before, read = short.steps, long.read
        scheduler.step()
        assert short.steps == before + 1 and long.read - read <= PREFILL_BESIDE
        beside += 1
    assert beside == -(-len(long.prompt) // PREFILL_BESIDE) > 2
    while scheduler.step():
        pass
    assert long.result().text == engine.generate(LONG, max_tokens=3, mode="sequential").text


def test_four_thousand_tokens_stall_neither_a_forking_answer_nor_a_short_prompt(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = tiny("llama", len(tokenizer), layers=1)
    model.config.max_position_embeddings = 8192
    engine = Engine(model, tokenizer)
    scheduler = Scheduler(engine.runner, 3, 5000)
    often = {engine.vocabulary.promise_topic: 4.0} if engine.vocabulary else {}
    options = FORKING | {"max_tokens": 400, "max_async_tokens": 60, "seed": 4, "logit_bias": often}
    forking = engine.request("hello", **options)
    long = engine.request([engine.encode("hello")[0]] * 4000, max_tokens=1, mode="sequential")
    late = engine.request("world", max_tokens=40, mode="sequential")
    scheduler.add(forking)
    while forking.width < 2:
        scheduler.step()
    scheduler.add(long)
    written: list[tuple[int, int]] = []  # tokens of the forking answer and of the late one, step by step
    while long.reading:
        if len(written) == 10:
            scheduler.add(late)
        before = forking.interpreter.sampled, late.interpreter.sampled
        scheduler.step()
        written.append((forking.interpreter.sampled - before[0], late.interpreter.sampled - before[1]))
    assert 4000 // PREFILL_BESIDE <= len(written) <= 4000 // PREFILL_BESIDE + 2
    assert min(one for one, _ in written) >= 1 and max(one for one, _ in written) >= 2
    assert min(two for _, two in written[10:]) >= 1, "a short prompt waits for the long one"


def test_many_short_prompts_do_not_keep_a_long_one_waiting(engine: Engine) -> None:
    scheduler = Scheduler(engine.runner, 8, 2000)
    long = engine.request(LONG, max_tokens=1, mode="sequential")
    scheduler.add(engine.request("hello", max_tokens=40, mode="sequential"))
    scheduler.step()
    scheduler.add(long)
    steps = 0
    while long.reading:
        for number in range(6):  # together more than a step may read
            scheduler.add(engine.request(f"{steps} {number} foo " * 12, max_tokens=1, mode="sequential"))
        scheduler.step()
        steps += 1
    assert 1 < steps <= 1 + -(-2 * len(long.prompt) // PREFILL_BESIDE)


def test_what_prompts_have_in_common_is_read_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [engine.generate(LONG + end, max_tokens=5, mode="sequential").text for end in ("", "", "foo", "bar")]
    scheduler = Scheduler(engine.runner, 4, 2000)
    passes = Passes(scheduler, monkeypatch)
    requests = [engine.request(LONG + end, max_tokens=5, mode="sequential") for end in ("", "", "foo", "bar")]
    run(scheduler, *requests)
    assert [request.result().text for request in requests] == alone
    fed = sum(len(part.queries) for parts in passes.parts for part in parts)
    assert fed < len(requests[0].prompt) + 4 * 20, "a prefix was read more than once"


def test_answers_are_the_same_with_shared_prefixes(engine: Engine) -> None:
    prompt = "hello world " * SHORTEST_PREFIX
    options = FORKING | {"max_tokens": 150}
    alone = [engine.generate(prompt, seed=seed, **options) for seed in range(4)]
    requests = [engine.request(prompt, seed=seed, **options) for seed in range(4)]
    run(Scheduler(engine.runner, 4, 2000), *requests)
    assert [one.result().annotated for one in requests] == [one.annotated for one in alone]
    assert sum(len(one.threads) for one in alone) > len(alone)


@pytest.mark.parametrize("max_batch_threads", [1, 3, 5])
def test_a_bound_on_rows_delays_children_and_changes_no_answer(
    engine: Engine, max_batch_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [engine.generate("hello world", seed=seed, **FORKING) for seed in range(3)]
    scheduler = Scheduler(engine.runner, 3, 400, max_batch_threads)
    passes = Passes(scheduler, monkeypatch)
    requests = [engine.request("hello world", seed=seed, **FORKING) for seed in range(3)]
    run(scheduler, *requests)
    first, *widths = ([len(part.draws) for part in parts] for parts in passes.parts)
    assert first == [0], "the pass that makes the layers of a new cache"
    assert max(map(sum, widths)) <= max(max_batch_threads, 3) and min(map(min, widths)) == 1
    for request, one in zip(requests, alone, strict=True):
        got = request.result()
        assert got.annotated == one.annotated and got.metrics.critical_path == one.metrics.critical_path


def test_shares_are_fair(engine: Engine) -> None:
    def shares(max_batch_threads: int | None, *widths: int) -> list[int]:
        return Scheduler(engine.runner, 4, 8, max_batch_threads).shares(list(widths))

    assert shares(None, 9, 1, 4) == [9, 1, 4]
    assert shares(8, 9, 1, 4) == [4, 1, 3]
    assert shares(3, 9, 1, 4) == shares(1, 9, 1, 4) == [1, 1, 1]
    assert shares(14, 9, 1, 4) == [9, 1, 4] and sum(shares(13, 9, 1, 4)) == 13


def test_the_cache_grows_with_what_comes(engine: Engine) -> None:
    scheduler = Scheduler(engine.runner, 8, 4000)
    scheduler.reserve()
    small = scheduler.cache.bytes
    requests = [engine.request("hello", max_tokens=9, mode="sequential") for _ in range(2)]
    expected = engine.generate("hello", max_tokens=9, mode="sequential").text
    for request in requests:
        scheduler.add(request)
    scheduler.step()
    two = scheduler.cache.bytes
    long = engine.request(LONG, max_tokens=9, mode="sequential")
    run(scheduler, long)
    assert small < two < scheduler.cache.bytes
    assert scheduler.cache.rows < 8 and scheduler.cache.slots < 4000
    assert [request.result().text for request in requests] == [expected] * 2
    assert long.result().text == engine.generate(LONG, max_tokens=9, mode="sequential").text


def test_a_request_that_finds_no_room_ends_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler(engine.runner, 2, 4000)
    good = engine.request("hello", max_tokens=9, mode="sequential")
    scheduler.add(good)
    scheduler.step()

    def full(*_: object) -> None:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(scheduler.cache, "grow", full)
    large = engine.request(LONG, max_tokens=9, mode="sequential")
    run(scheduler, large)
    with pytest.raises(RuntimeError, match="not enough memory"):
        large.result()
    assert good.result().text == engine.generate("hello", max_tokens=9, mode="sequential").text and scheduler.idle


def test_a_bound_of_no_rows_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="at least 1 thread, not 0"):
        Scheduler(engine.runner, 1, 8, 0)


@pytest.mark.parametrize("max_batch", [1, 4, 40])
def test_the_useful_width_is_measured(engine: Engine, max_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert useful_threads(engine.runner, max_batch) / max_batch in {1 << power for power in range(8)}
    monkeypatch.setattr(batch_threads, "_seconds", lambda _, cache, threads: max(cache.rows * threads, 16.0))
    assert useful_threads(engine.runner, max_batch) == max(16, max_batch)
    monkeypatch.setattr(batch_threads, "_seconds", lambda _, __, threads: threads)
    assert useful_threads(engine.runner, max_batch) == max_batch, "a full batch waits for its own threads"


def test_a_disturbed_machine_gets_the_same_width(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed = cycle([3.0, 1.0, 1.0, 1.0, 5.0, 1.0, 2.0])  # each width meets all of them
    monkeypatch.setattr(batch_threads, "_seconds", lambda _, __, threads: max(threads, 4.0) * next(disturbed))
    assert useful_threads(engine.runner, 8) == 32
