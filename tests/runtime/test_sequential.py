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
from pastalm.runtime.oracle import oracle
from tests.runtime.families import tiny


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
    in_chunk = False
    for number, token in enumerate(written):
        row, illegal = dense[number], set(v.tags)
        torch.testing.assert_close(next(seen), row, atol=1e-4, rtol=0)
        best = int(row.argmax())
        if best == v.promise_topic and not in_chunk:
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
    assert metrics.steps == metrics.critical_path == metrics.tokens == metrics.content_tokens + begun
    assert next(engine.generate_batch(["hello", "foo"], **options)).text == response.text
    assert Engine(engine.runner.model, tokenizer, ahead=True).generate("hello", **options).text == response.text


@pytest.mark.parametrize("tokens", range(1, 9))
def test_a_chunk_that_no_token_is_left_for_is_not_begun(tokens: int, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = promising("gpt2", tokenizer)
    metrics = engine.generate("hello", max_tokens=tokens, mode="sequential").metrics
    assert metrics.tokens <= tokens
    engine.runner.model.config.max_position_embeddings = len(engine.encode("hello")) + tokens
    response = engine.generate("hello", mode="sequential")
    assert response.finish_reason == "length" and response.metrics.content_tokens <= tokens + 1


def test_an_answer_ends_where_the_end_is_the_best_token(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = promising("llama", tokenizer)
    assert engine.generate("hello", max_tokens=40, mode="sequential").finish_reason == "length"
    engine.runner.model.get_output_embeddings().weight.data[engine.tags().promise_topic] = 0
    assert engine.generate("hello", max_tokens=40, mode="sequential").finish_reason == "stop"
