"""Passes that are launched before the last one's tokens are seen: answers are those of an engine that waits, whatever
was foreseen, and the counters say that passes were taken and places dropped."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.lang.parse import parse
from pastalm.lang.positions import POLICIES
from pastalm.lang.recogniser import Legal
from pastalm.lang.render import render
from pastalm.lang.script import compile_script
from pastalm.runtime import ahead as looking
from pastalm.runtime.graphs import Graphs
from pastalm.runtime.oracle import oracle
from pastalm.runtime.response import Response
from pastalm.runtime.scheduler import Scheduler
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.thread import ThreadPath, answer_of
from tests.runtime.families import tiny
from tests.runtime.scripted import START, Case, Scribbler, cases, decode_all, interpreter_of, play
from tests.runtime.test_graphs import Replayed

PROMPTS = ["hello", "34 world " * 12, "hello world foo "]
FORKING = {"temperature": 1.0, "max_tokens": 24}


def made(tokenizer: PreTrainedTokenizerFast, device: str, *, ahead: bool, family: str = "llama") -> Engine:
    """On a GPU with real graphs, on a CPU without any."""
    return Engine(tiny(family, len(tokenizer), 2).to(device), tokenizer, ahead=ahead)


def ask(engine: Engine, prompt: str, options: dict[str, Any]) -> Sequence:
    """A request; one that draws writes many marks, which a random model hardly does by itself."""
    v = engine.vocabulary
    marks = {v.promise_topic: 5.0, v.promise_tokens: 9.0, v.promise_end: 9.0, v.sync: 2.0, v.async_end: 2.0}
    return engine.request(prompt, **({"logit_bias": marks} if "temperature" in options else {}) | options)


def alone(engine: Engine, prompt: str, options: dict[str, Any]) -> Response:
    return engine.run(ask(engine, prompt, options))


@pytest.fixture(scope="module")
def waiting(tokenizer: PreTrainedTokenizerFast, device: str) -> Engine:
    return made(tokenizer, device, ahead=False)


@pytest.fixture(scope="module")
def engine(tokenizer: PreTrainedTokenizerFast, device: str) -> Engine:
    return made(tokenizer, device, ahead=True)


@pytest.fixture(scope="module")
def replaying(tokenizer: PreTrainedTokenizerFast, device: str) -> Engine:
    """Its steps are padded to buckets and run again over the same memory, as a GPU replays them."""
    engine = made(tokenizer, device, ahead=True)
    if device == "cpu":
        engine.runner.graphs, engine.runner.choices = Graphs(Replayed()), Graphs(Replayed())
    return engine


def finish(scheduler: Scheduler, sequences: Iterable[Sequence]) -> list[Response]:
    sequences = list(sequences)
    for sequence in sequences:
        scheduler.add(sequence)
    while scheduler.step():
        pass
    assert scheduler.idle
    return [sequence.result() for sequence in sequences]


def told(responses: Iterable[Response]) -> list[tuple[Any, ...]]:
    """All that an answer says, and its rounds: only steps, seconds and roundings may differ."""
    return [(one.annotated, one.finish_reason, one.metrics.critical_path, noted(one)) for one in responses]


def noted(response: Response) -> list[str]:
    return [text for one in response.logprobs or () for text in (one.text, *(top for top, _ in one.top))]


OPTIONS = [
    {"max_tokens": 20},
    {"max_tokens": 20, "mode": "sequential", "frequency_penalty": 1.0},
    {**FORKING, "promise_bias": 3.0, "logit_bias": None},
    {**FORKING, "max_threads": 2, "max_async_tokens": 2},
    {**FORKING, "max_depth": 2, "max_tokens": 40, "max_async_tokens": 2, "presence_penalty": 1.0},
    {**FORKING, "stop": ["o", "12"], "logprobs": 2, "max_threads": 1},
]


@pytest.mark.parametrize("how", ["engine", "replaying"])
def test_answers_are_those_of_an_engine_that_waits(how: str, waiting: Engine, request: pytest.FixtureRequest) -> None:
    engine, dropped = request.getfixturevalue(how), 0
    for options in OPTIONS:
        asked = [(prompt, {**options, "seed": seed}) for seed, prompt in enumerate(PROMPTS)]
        expected = told(finish(waiting.scheduler(3, 300), [ask(waiting, *one) for one in asked]))
        for max_batch, max_batch_threads in ((3, None), (2, 3)) if how == "engine" else ((3, None),):
            scheduler = engine.scheduler(max_batch, 300, max_batch_threads)
            assert told(finish(scheduler, [ask(engine, *one) for one in asked])) == expected
            assert scheduler.ahead.steps > 12
            dropped += scheduler.ahead.dropped
    assert dropped > 5
    assert {kind for _, kind in engine.runner.graphs.keys} <= {None}, "passes hold no choice"
    if how == "replaying":
        assert {(shape.wanted, kind) for shape, kind in engine.runner.choices.keys} > {(1, False), (1, True), (4, True)}


def test_requests_of_all_kinds_share_passes(engine: Engine, waiting: Engine) -> None:
    expected = told(alone(waiting, "hello", options) for options in OPTIONS)
    scheduler = engine.scheduler(len(OPTIONS), 400)
    assert told(finish(scheduler, [ask(engine, "hello", options) for options in OPTIONS])) == expected
    assert scheduler.ahead.steps > 10 and scheduler.ahead.dropped > 2


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "gpt2"])  # windows, sinks, learned positions
def test_decoding_equals_the_dense_forward(family: str, tokenizer: PreTrainedTokenizerFast, device: str) -> None:
    engine, dropped, free = made(tokenizer, device, ahead=True, family=family), 0, 0
    for seed in range(2):
        logits: dict[ThreadPath, list[Tensor]] = {}
        options = {**FORKING, "seed": seed, "max_tokens": 60, "max_depth": 1 + seed, "max_async_tokens": 2}
        sequence = ask(engine, "hello world foo", options)
        sequence.observe = lambda path, row, token, logits=logits: logits.setdefault(path, []).append(row)
        scheduler = engine.scheduler(1, 300)
        (response,) = finish(scheduler, [sequence])
        assert scheduler.ahead.steps > 10 and len(response.threads) > 1
        assert sequence.visibility.tokens == sequence.interpreter.slots, "no slot is lost"
        dropped, free = dropped + scheduler.ahead.dropped, free + len(sequence.visibility.free)
        dense = oracle(engine.runner, sequence.prompt, response.script, POLICIES["pred10"])
        for path, rows in logits.items():
            torch.testing.assert_close(torch.stack(rows), dense[path][: len(rows)], atol=1e-4, rtol=0)
    assert free < dropped, "dropped slots are used again"


def test_every_limit_cuts_where_it_did(engine: Engine, waiting: Engine) -> None:
    options = {**FORKING, "seed": 2, "max_tokens": 22}
    whole = alone(waiting, "hello", options).metrics.tokens
    each = [{**options, "max_tokens": tokens} for tokens in range(1, whole + 2)]
    each += [{"mode": "sequential", "max_tokens": tokens} for tokens in range(1, 6)]
    found = []
    for engine_of in (engine, waiting):
        scheduler = engine_of.scheduler(8, 400)
        found.append(told(finish(scheduler, [ask(engine_of, "hello", own) for own in each])))
        assert bool(scheduler.ahead.steps) == engine_of.runner.ahead
    assert found[0] == found[1]


@pytest.mark.parametrize("spare", [0, 2, 7])
@pytest.mark.parametrize("options", [FORKING, {"mode": "sequential"}])
def test_a_cache_is_filled_to_its_last_slot(
    spare: int, options: dict[str, Any], engine: Engine, waiting: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "SPARE", spare)
    room, prompt = 255 - spare, "hello world " * 70  # with the spare and the junk slot as many as a cache grows by
    options = {**options, "max_tokens": 400, "seed": 1}
    found = []
    for one in (waiting, engine):
        monkeypatch.setattr(one, "max_model_len", room)
        sequence, scheduler = ask(one, prompt, options), one.scheduler(1, room)
        found += told(finish(scheduler, [sequence]))
        assert scheduler.cache.slots == 256 and sequence.visibility.used <= 256
        assert sequence.interpreter.slots > room - 8, "it is not full"
    assert found[0] == found[1] and found[0][1] == "length"
    assert bool(scheduler.ahead.steps) == bool(spare)


def test_a_cache_moves_while_a_pass_is_on_its_way(replaying: Engine, waiting: Engine) -> None:
    asked = [("hello", FORKING), ("34 world " * 40, {**FORKING, "seed": 1}), ("foo", {**FORKING, "max_tokens": 180})]
    scheduler = replaying.scheduler(3, 400)
    sequences = [ask(replaying, *one) for one in asked]
    sizes = set()
    for sequence in sequences:  # each makes the cache larger, in rows or in slots
        assert scheduler.ahead.launched or sequence is sequences[0]
        scheduler.add(sequence)
        for _ in range(6):
            scheduler.step()
        sizes.add((scheduler.cache.rows, scheduler.cache.slots))
    while scheduler.step():
        pass
    assert told(one.result() for one in sequences) == told(alone(waiting, *one) for one in asked)
    assert len(sizes) == 3 and scheduler.ahead.steps > 15


def test_passes_outlive_a_table_of_masks_that_they_do_not_read(tokenizer: PreTrainedTokenizerFast) -> None:
    engine, passes, choices, found = made(tokenizer, "cpu", ahead=True), Replayed(), Replayed(), []
    engine.runner.graphs, engine.runner.choices = Graphs(passes), Graphs(choices)
    scheduler, masks = engine.scheduler(1, 100), engine.runner.sampler.masks
    for _ in range(2):
        finish(scheduler, [ask(engine, "hello", {"mode": "sequential", "max_tokens": 4})])
        found.append((passes.captured, choices.captured))
        masks.table = masks.table.clone()
    assert 0 < found[0][0] == found[1][0] and 0 < found[0][1] < found[1][1]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8])
def test_whoever_is_cancelled_leaves_no_trace(step: int, engine: Engine, waiting: Engine) -> None:
    asked = [("hello", {**FORKING, "seed": seed}) for seed in range(4)]
    scheduler = engine.scheduler(2, 400)
    gone, *others = [ask(engine, *one) for one in asked]
    for sequence in (gone, *others):
        scheduler.add(sequence)
    for number in count():
        if number == step:
            assert scheduler.ahead.launched and gone in scheduler.ahead.launched.places
            scheduler.cancel(gone)
        if not scheduler.step():
            break
    expected = told(alone(waiting, *one) for one in asked[1:])
    assert told(one.result() for one in others) == expected
    assert scheduler.idle and scheduler.ahead.steps and not gone.finished


@pytest.mark.parametrize("how", ["engine", "replaying"])
def test_nothing_follows_a_token_that_the_host_may_draw_again(
    how: str, waiting: Engine, request: pytest.FixtureRequest
) -> None:
    found, options = [], {**FORKING, "top_p": 0.6}
    for one in (waiting, request.getfixturevalue(how)):
        scheduler = one.scheduler(3, 300)
        responses = finish(scheduler, [ask(one, prompt, options) for prompt in PROMPTS])
        found.append((told(responses), [response.metrics.steps for response in responses]))
        assert (scheduler.ahead.steps, scheduler.ahead.dropped) == (0, 0)
    assert found[0] == found[1] and any(len(response.threads) > 1 for response in responses)
    finish(scheduler, [ask(one, "hello", {**options, "temperature": 0.0})])
    assert scheduler.ahead.steps > 10, "without a temperature nothing is drawn"


def test_threads_that_a_cap_makes_wait_take_no_spare_slots(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "SPARE", 1)
    scheduler = engine.scheduler(1, 300)
    options = {**FORKING, "max_threads": 1, "max_tokens": 60}
    (response,) = finish(scheduler, [ask(engine, "hello", options)])
    assert len(response.threads) > 1 and scheduler.ahead.steps > 0.7 * response.metrics.steps


def test_events_are_those_of_an_engine_that_waits(engine: Engine, waiting: Engine) -> None:
    def happened(one: Engine) -> list[Any]:
        return list(one.stream("hello", **FORKING, seed=3))[:-1]

    assert happened(engine) == happened(waiting)


def test_a_teacher_that_knows_what_comes_is_followed(engine: Engine, waiting: Engine) -> None:
    """A known answer, so that a bench measures what a server does."""
    text = (
        "one two <async topic='cat'>three four five six</async> seven <async topic='dog'>eight</async> nine<sync/> ten"
    )
    scripts = []
    for one in (waiting, engine):
        policy, vocabulary = one.policy(), one.tags()
        script = compile_script(parse(text), vocabulary, policy, end=False)
        scheduler = one.scheduler(1, 400)
        scripts += told(finish(scheduler, [one.replay_request(one.encode("hello"), script, policy)]))
    assert scripts[0] == scripts[1] and scheduler.ahead.steps > 10
    steps = scheduler.ahead.steps
    blind = waiting.replay_request(engine.encode("hello"), script, policy)
    blind.coming = None
    finish(scheduler, [blind])
    assert scheduler.ahead.steps == steps, "who knows nothing is not followed"


def scripted(engine: Engine, case: Case) -> Sequence:
    """A request whose threads write what a case says, and that knows it before."""
    scribbler, known = Scribbler(engine.vocabulary, case.seed), {}
    sequence = Sequence([5] * START, interpreter_of(case, engine.vocabulary))

    def coming(path: ThreadPath) -> int:
        if path not in known:
            thread = next(one for one in sequence.interpreter.threads if one.path == path)
            known[path] = scribbler(path, thread.reader.legal())
        return known[path]

    def choose(logits: Tensor, legal: list[Legal], paths: list[ThreadPath]) -> list[int]:
        assert len(logits) == len(paths) and not logits.isnan().any()
        chosen = [
            known[path] if path in known else scribbler(path, one) for path, one in zip(paths, legal, strict=True)
        ]
        for path in paths:
            known.pop(path, None)
        return chosen

    sequence.teacher, sequence.coming = choose, coming
    return sequence


@settings(max_examples=25)
@given(st.lists(cases, min_size=1, max_size=3), st.integers(0, 9))
def test_whatever_is_written_it_is_written(engine: Engine, written: list[Case], cancelled: int) -> None:
    scheduler = engine.scheduler(2, 1 + START + 80 + 2 * 80)
    requests = [scripted(engine, case) for case in written]
    decode_all(scheduler, requests, cancelled)
    assert scheduler.idle
    for request, case in list(zip(requests, written, strict=True))[1:]:
        response, expected = request.result(), play(case, engine.vocabulary).interpreter
        assert render(response.answer) == render(answer_of(expected.main))
        assert (request.interpreter.slots, request.interpreter.rounds) == (expected.slots, expected.rounds)
        assert request.visibility.tokens == expected.slots, "no slot is lost"


def test_a_cpu_has_nothing_to_hide(tokenizer: PreTrainedTokenizerFast, device: str) -> None:
    engine = Engine(tiny("llama", len(tokenizer)).to(device), tokenizer)
    assert engine.runner.ahead == engine.runner.graphs.active == (device == "cuda")


def test_the_bundled_model_forks_without_a_step_more(device: str) -> None:
    prompt, options = "Spell lemon and grape backwards.", {"max_tokens": 300}
    engine = Engine.from_pretrained("bundled", device, "float32", ahead=True)
    scheduler = engine.scheduler(1, 600)
    (response,) = finish(scheduler, [engine.request(prompt, **options)])
    ahead = scheduler.ahead.steps
    engine.runner.ahead = False
    (expected,) = finish(engine.scheduler(1, 600), [engine.request(prompt, **options)])
    assert told([response]) == told([expected]) and len(expected.threads) > 2
    assert response.metrics.steps == expected.metrics.steps and ahead > 0.8 * response.metrics.steps
