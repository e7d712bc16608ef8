"""The promise bias: nats added wherever a promise may start. It moves how often one does, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.lang.recogniser import Legal, Recogniser
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.response import Response
from pastalm.runtime.sampler import Draw, SamplingParams
from tests.runtime.drawing import sample

PROMPT = "hello world foo"
TEXT = Legal(("text",), (), promise=2)
WORDS = Legal(("words",), (2,))
WILD = {"temperature": 1.0, "max_tokens": 100, "max_async_tokens": 20, "max_depth": 2}


@pytest.fixture(scope="module")
def engine(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Engine:
    return Engine(tiny_llama, tokenizer)


def choose(logits: Tensor, legal: Sequence[Legal], bias: float, **options: float) -> list[int]:
    params = SamplingParams(promise_bias=bias, **options)  # type: ignore[arg-type]
    return sample(logits, [Draw(params, one, (row,)) for row, one in enumerate(legal)])


def shape(response: Response) -> tuple[list[int], str]:
    return response.script.tokens, response.annotated


@given(st.integers(-24, 24), st.integers(-32, 32), st.sampled_from([torch.float32, torch.bfloat16]))
def test_greedy_starts_a_promise_where_the_best_word_leads_by_less_than_the_bias(
    bias: int, lead: int, dtype: torch.dtype
) -> None:
    logits = torch.tensor([[lead / 8, -9.0, 0.0]], dtype=dtype)  # eighths are exact in both
    assert choose(logits, [TEXT], bias / 8) == [2 if bias > lead else 0]


def test_a_small_bias_is_not_lost_in_half_precision() -> None:
    assert choose(torch.tensor([[100.0, 0.0, 100.0]], dtype=torch.bfloat16), [TEXT], 0.01) == [2]


def test_sampling_moves_the_odds_by_the_exponent_of_the_bias() -> None:
    # Odds 1:1 become e:1 at 1 nat, a share of e / (1 + e) = 0.731; within four standard deviations.
    rows = [Draw(SamplingParams(temperature=1.0, promise_bias=1.0), TEXT, (), number) for number in range(2000)]
    drawn = sample(torch.tensor([[0.0, -inf, 0.0]] * 2000), rows)
    assert abs(drawn.count(2) / 2000 - 0.7311) < 4 * (0.7311 * 0.2689 / 2000) ** 0.5


def test_only_threads_that_may_promise_are_moved_and_the_model_s_logits_stay() -> None:
    logits = torch.tensor([[1.0, 0.0, 0.5]] * 3)
    kept = logits.clone()
    assert choose(logits, [WORDS, TEXT, WORDS], 2.0) == [0, 2, 0]
    assert choose(logits, [WORDS, TEXT, WORDS], -2.0) == [0, 0, 0]
    assert torch.equal(logits, kept)


def test_a_head_without_rows_for_the_tags_is_left_alone() -> None:
    assert choose(torch.tensor([[1.0, 0.0]]), [TEXT], 3.0) == [0]


@pytest.mark.parametrize("constrained", [True, False])
def test_a_promise_may_start_in_text_only_and_only_where_threads_may_have_children(
    vocabulary: Vocabulary, constrained: bool
) -> None:
    v = vocabulary

    def starts(reader: Recogniser, tokens: Sequence[int]) -> list[int | None]:
        told = [reader.legal().promise]
        for token in tokens:
            reader.read(token)
            told.append(reader.legal().promise)
        return told

    promise = [v.promise_topic, *v.encode("x"), v.promise_tokens, *v.encode("1"), v.promise_end]
    here, no = v.promise_topic, None
    for main in (True, False):
        reader = Recogniser(v, main=main, may_promise=True, constrained=constrained)
        assert starts(reader, [*v.encode("x"), *promise]) == [here, here, no, no, no, no, here]
        childless = Recogniser(v, main=main, may_promise=False, constrained=constrained)
        assert starts(childless, v.encode("xyz")) == [no] * 4


def test_a_higher_bias_starts_more_chunks_and_zero_is_the_model(engine: Engine) -> None:
    def chunks(**options: float) -> int:
        found = 0
        for seed in (0, 2, 4):
            found += len(engine.generate(PROMPT, seed=seed, **{**WILD, "max_tokens": 400}, **options).threads) - 1
        return found

    assert chunks(promise_bias=3) > 2 * chunks() > chunks(promise_bias=-3)
    once = engine.generate(PROMPT, seed=4, **WILD)
    assert shape(engine.generate(PROMPT, seed=4, promise_bias=0.0, **WILD)) == shape(once)


def test_any_schedule_and_any_batch_give_the_same_answer(engine: Engine) -> None:
    options = {**WILD, "promise_bias": 3.0, "seed": 0, "max_async_tokens": 200, "max_tokens": 600}
    expected = engine.generate(PROMPT, **options)
    assert any(len(thread.path) == 2 for thread in expected.threads)  # chunks start chunks of their own
    for width in (1, 2):
        assert shape(engine.generate(PROMPT, max_threads=width, **options)) == shape(expected)
    assert shape(list(engine.stream(PROMPT, **options))[-1].response) == shape(expected)
    together = engine.generate_batch(["foo", PROMPT, "12 34", "bar"], max_batch=3, **options)
    assert shape(list(together)[1]) == shape(expected)


def test_it_means_nothing_where_nothing_may_be_promised(engine: Engine) -> None:
    options = {"mode": "sequential", "temperature": 1.0, "max_tokens": 40}
    assert shape(engine.generate(PROMPT, promise_bias=3, **options)) == shape(engine.generate(PROMPT, **options))


@pytest.mark.parametrize("bias", [3.01, -4, nan, inf])
def test_refuses_other_biases(bias: float) -> None:
    with pytest.raises(ValueError, match=r"promise_bias is a number from -3 \(fewer chunks\) to 3 \(more chunks\)"):
        SamplingParams(promise_bias=bias)
