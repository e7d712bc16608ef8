"""Sequential answers of a model that has learned to promise: what it is shown where it would, step by step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.lang.positions import POLICIES
from pastalm.lang.script import Script
from pastalm.runtime.events import NO_TOKEN, TokenEvent
from pastalm.runtime.graphs import Graphs
from pastalm.runtime.oracle import oracle
from tests.runtime.families import tiny
from tests.runtime.test_ahead import finish, noted
from tests.runtime.test_graphs import Replayed


def promising(family: str, tokenizer: PreTrainedTokenizerFast) -> Engine:
    """A model that would promise wherever it now says what it says first, and the end is its next best token then."""
    model, said = tiny(family, len(tokenizer)), list[int]()
    engine = Engine(model, tokenizer)
    engine.generate("hello", max_tokens=40, mode="sequential", observe=lambda path, row, token: said.append(token))
    rows = model.get_output_embeddings().weight.data
    often, promise = Counter(said).most_common(1)[0][0], engine.tags().promise_topic
    rows[promise], rows[tokenizer.eos_token_id] = 3 * rows[often], 2 * rows[often]
    return engine


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])  # gemma2 has windows
def test_a_sequential_answer_begins_a_chunk_where_the_model_would_promise_one(
    family: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine, steps = promising(family, tokenizer), list[Tensor]()
    v, prompt, policy = engine.tags(), engine.encode("hello"), POLICIES["pred10"]
    options: dict[str, Any] = {"max_tokens": 40, "mode": "sequential"}
    response = engine.generate("hello", observe=lambda path, row, token: steps.append(row), **options)
    written, begun, seen = response.script.tokens, 0, iter(steps)
    dense = oracle(engine.runner, prompt, response.script, policy)[()]
    in_chunk = False  # one has begun in this line
    for number, token in enumerate(written):
        row, illegal = dense[number], set(v.tags)
        torch.testing.assert_close(next(seen), row, atol=1e-4, rtol=0)
        best = int(row.argmax())
        if best == v.promise_topic:
            begun, in_chunk = begun + 1, True
            shown = Script([*written[:number], v.async_start], [0] * (number + 1))
            row = oracle(engine.runner, prompt, shown, policy)[()][-1]
            torch.testing.assert_close(next(seen), row, atol=1e-4, rtol=0)
            illegal |= v.eos | set(v.line_breaks)
        elif in_chunk and best in illegal:
            illegal |= v.eos
        row[list(illegal)] = -torch.inf
        assert token == int(row.argmax())
        in_chunk = in_chunk and "\n" not in engine.codec.decode([token])
    assert begun and not set(written) & set(v.tags)
    metrics = response.metrics
    begun += len([*seen])  # the limit may cut a chunk before its first token
    assert metrics.steps == metrics.critical_path == metrics.tokens == metrics.content_tokens + begun


OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 1.0, "top_p": 0.8, "seed": 4, "logprobs": 2},
    {"frequency_penalty": 1.0, "presence_penalty": 0.5, "logprobs": 1},
    {"stop": ["o", "12"]},
    {"logit_bias": {5: 3.0}},
]


@pytest.mark.parametrize("how", ["alone", "ahead", "replayed"])
def test_answers_are_those_that_each_request_has_alone(how: str, tokenizer: PreTrainedTokenizerFast) -> None:
    waiting, prompts = promising("llama", tokenizer), ["hello", "foo 12"]
    asked = [(one, options | {"max_tokens": 20, "mode": "sequential"}) for options in OPTIONS for one in prompts]
    expected = [waiting.generate(one, **options) for one, options in asked]
    assert sum(one.metrics.tokens > one.metrics.content_tokens for one in expected) > len(OPTIONS)
    assert {len(one.logprobs) - one.metrics.content_tokens for one in expected if one.logprobs} == {0}
    engine = Engine(waiting.runner.model, tokenizer, ahead=how == "ahead")
    if how == "replayed":
        engine.runner.graphs, engine.runner.choices = Graphs(Replayed()), Graphs(Replayed())
    scheduler = engine.scheduler(4, 200)
    sequences = [engine.request(one, **options) for one, options in asked]
    found = finish(scheduler, sequences)
    assert [one.text for one in found] == [one.text for one in expected]
    assert [one.metrics.critical_path for one in found] == [one.metrics.critical_path for one in expected]
    assert [noted(one) for one in found] == [noted(one) for one in expected]
    for (one, options), answer in zip(asked[:4], expected, strict=False):
        events = [event for event in engine.stream(one, **options) if isinstance(event, TokenEvent)]
        assert "".join(event.text for event in events) == answer.text
        assert sum(event.token != NO_TOKEN for event in events) == answer.metrics.content_tokens


def test_a_request_that_begins_a_chunk_does_not_wait_for_others(tokenizer: PreTrainedTokenizerFast) -> None:
    model = promising("llama", tokenizer).runner.model
    engine, steps = Engine(model, tokenizer, ahead=True), 0
    short = engine.request("hello", max_tokens=12, mode="sequential")
    long = engine.request("foo", max_tokens=150, stop_token_ids=engine.encode("x"))  # always as foreseen
    scheduler = engine.scheduler(2, 300)
    for one in (short, long):
        scheduler.add(one)
    while not short.finished:
        scheduler.step()
        steps += 1
    assert short.result().metrics.content_tokens < 12 and scheduler.ahead.steps
    assert steps < 12 + 12, "it stood still beside the other"


def test_ids_that_mean_nothing_and_sequential_answers_share_an_engine(tokenizer: PreTrainedTokenizerFast) -> None:
    """A client with the marks in its own hands has them as tokens like others: no mask of the other mode is its."""
    engine = promising("llama", tokenizer)
    options: dict[str, Any] = {"max_tokens": 20, "mode": "sequential"}
    v, text = engine.tags(), engine.generate("hello", **options).text

    def plain() -> list[int]:
        ids = {"max_tokens": 20, "stop_token_ids": [v.sync], "temperature": 0.0}
        return engine.generate("hello", **ids).script.tokens

    tokens = plain()
    assert v.promise_topic in tokens
    fresh = Engine(engine.runner.model, tokenizer)
    assert fresh.generate("hello", max_tokens=20, stop_token_ids=[v.sync]).script.tokens == tokens
    assert fresh.generate("hello", **options).text == text == engine.generate("hello", **options).text


@pytest.mark.parametrize("tokens", range(1, 9))
def test_limits_count_a_chunk_that_is_begun(tokens: int, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = promising("gpt2", tokenizer)
    metrics = engine.generate("hello", max_tokens=tokens, mode="sequential").metrics
    assert metrics.content_tokens <= metrics.tokens == tokens
    engine.runner.model.config.max_position_embeddings = len(engine.encode("hello")) + tokens
    response = engine.generate("hello", mode="sequential")
    assert response.finish_reason == "length" and response.metrics.content_tokens <= tokens + 1


def test_an_answer_ends_where_the_end_is_the_best_token(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = promising("llama", tokenizer)
    assert engine.generate("hello", max_tokens=40, mode="sequential").finish_reason == "length"
    engine.runner.model.get_output_embeddings().weight.data[engine.tags().promise_topic] = 0
    assert engine.generate("hello", max_tokens=40, mode="sequential").finish_reason == "stop"
