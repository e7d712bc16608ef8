"""Steps as graphs: the bookkeeping, with a capture that runs functions again, and real models whose steps are padded to
buckets and run again over the same memory, as a GPU replays them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.runtime.graphs import MOST_QUERIES, MOST_WIDTH, Graphs, StepOutput, bucket, buckets, capture_on
from pastalm.runtime.sampler import Chosen, Draw, SamplingParams
from pastalm.runtime.step_input import Part, StepShape
from pastalm.runtime.visibility import Query
from tests.runtime import test_families
from tests.runtime.drawing import CPU
from tests.runtime.families import tiny
from tests.runtime.test_sampler import ANY


class Replayed:
    """Runs what it has captured again and again, and gives each outcome in the memory of the first, as a graph does."""

    def __init__(self) -> None:
        self.captured = 0

    def __call__(self, function: Callable[[], StepOutput]) -> Callable[[], StepOutput]:
        self.captured += 1
        first = function()

        def replay() -> StepOutput:
            for old, new in zip(tensors(first), tensors(function()), strict=True):
                old.copy_(new)
            return first

        return replay


def tensors(outcome: StepOutput) -> list[torch.Tensor]:
    logits, chosen = outcome
    inside = [] if chosen is None else [chosen.tokens, chosen.weights, chosen.share]
    return [tensor for tensor in (logits, *inside) if tensor is not None]


def part(row: int, fed: int, slot: int = 5, draws: bool = True) -> Part:
    return Part(row, [Query(0, 0, slot, 1)] * fed, [0], [Draw(SamplingParams(), ANY)] * draws)


# The bookkeeping.


def test_steps_fall_into_few_buckets() -> None:
    shapes = [
        bucket([part(7 * row, fed) for row in range(rows)], 512) for rows, fed in ((1, 1), (1, 5), (3, 2), (4, 2))
    ]
    assert shapes[2] == shapes[3]
    assert [(one.rows, one.width, one.queries, one.wanted) for one in shapes if one] == [
        (1, 1, 1, 1), (1, 8, 8, 8), (4, 2, 8, 8), (4, 2, 8, 8),
    ]  # fmt: skip
    assert all(one and one.dense and one.first is None and one.slots == 512 for one in shapes)
    slots = [bucket([part(0, 1, slot)], 20000) for slot in (5, 1023, 1024, 5000, 19999)]
    assert [one.slots for one in slots if one] == [1024, 1024, 4096, 16384, 20000]


def test_prompts_and_large_steps_have_no_bucket() -> None:
    assert bucket([part(0, MOST_WIDTH)], 512) and not bucket([part(0, MOST_WIDTH + 1)], 512)
    assert not bucket([part(row, 2) for row in range(MOST_QUERIES // 2 + 1)], 512)
    assert not bucket([part(0, 1), part(1, 3, draws=False)], 512)


@given(st.lists(st.integers(1, MOST_WIDTH), min_size=1, max_size=9), st.integers(0, 9999), st.sampled_from([64, 9984]))
def test_every_bucket_is_among_those_that_are_captured_at_first(fed: list[int], slot: int, slots: int) -> None:
    known = buckets(9, slots)
    found = bucket([part(row, one, slot % slots) for row, one in enumerate(fed)], slots)
    assert found is None or (found in known and found.slots > slot % slots)
    assert known == sorted(known, key=lambda one: (one.queries, one.slots), reverse=True)
    assert len(set(known)) == len(known)


KEYS = [(StepShape.full(1, width, 64), False) for width in (1, 2, 4)]


def outcome(number: float = 0.0) -> StepOutput:
    return torch.full((1, 3), number), Chosen(torch.tensor([1]))


def test_a_graph_is_captured_once_and_the_least_recently_used_goes() -> None:
    capture, reads = Replayed(), [torch.zeros(1)]
    graphs = Graphs(capture, most=2)
    for key, number in ((0, 1), (0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
        graphs.run(KEYS[key], reads, outcome)
        assert capture.captured == number
    assert graphs.keys == [KEYS[0], KEYS[1]]


def test_what_reads_memory_that_moved_is_captured_anew() -> None:
    capture, kept = Replayed(), torch.zeros(1)
    graphs = Graphs(capture)
    for moved in (torch.zeros(1), torch.zeros(1)):
        for _ in range(2):
            graphs.run(KEYS[0], [kept, moved], outcome)
            graphs.run(KEYS[1], [kept, moved], outcome)
    assert capture.captured == 4 and graphs.keys == KEYS[:2]
    graphs.run(KEYS[0], [kept], outcome)
    assert capture.captured == 5 and graphs.keys == KEYS[:1], "to read less is to read something else"
    graphs.clear()
    assert graphs.keys == []


def test_a_graph_that_cannot_be_captured_is_said_once_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    calls = iter(range(10))

    def capture(function: Callable[[], StepOutput]) -> Callable[[], StepOutput]:
        if next(calls):
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        return function

    graphs = Graphs(capture)
    with caplog.at_level(logging.WARNING):
        found = [graphs.run(key, [torch.zeros(1)], lambda: outcome(7.0))[0][0, 0] for key in (*KEYS, *KEYS)]
    assert found == [7.0] * 6 and not graphs.active and graphs.keys == [] and next(calls) == 2
    assert [record.message for record in caplog.records] == [
        "A step cannot be captured as a CUDA graph (operation not permitted when stream is capturing); steps run "
        "without, more slowly."
    ]


def test_a_step_that_fails_without_a_graph_fails() -> None:
    def broken() -> StepOutput:
        raise ValueError("no such token")

    with pytest.raises(ValueError, match="no such token"):
        Graphs(Replayed()).run(KEYS[0], [torch.zeros(1)], broken)


def test_a_cpu_has_no_graphs() -> None:
    assert capture_on(CPU) is None and not Graphs(None).active


# Real models: with real graphs on a GPU, and on a CPU as if.


def made(tokenizer: PreTrainedTokenizerFast, device: str, family: str = "llama", *, graphs: bool = True) -> Engine:
    engine = Engine(tiny(family, len(tokenizer)).to(device), tokenizer, max_batch=3, ahead=False)
    if not graphs:
        engine.runner.graphs = Graphs(None)
    elif device == "cpu":
        engine.runner.graphs = Graphs(Replayed())
    return engine


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt_oss", "gpt2"])  # windows, sinks, learned positions
def engine(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast, device: str) -> Engine:
    return made(tokenizer, device, request.param)


def test_decoding_equals_the_dense_forward(engine: Engine) -> None:
    test_families.test_decoding_equals_the_dense_forward(engine)
    assert any(shape.width > 2 for shape, _ in engine.runner.graphs.keys)


OPTIONS = [
    {"max_tokens": 30},
    {"max_tokens": 24, "temperature": 1.0, "seed": 3},
    {"max_tokens": 24, "temperature": 1.3, "top_p": 0.7, "seed": 4, "promise_bias": 3.0},
    {"max_tokens": 20, "temperature": 0.8, "logit_bias": {70: 4.0}, "frequency_penalty": 1.0},
    {"max_tokens": 30, "mode": "sequential"},
]


def test_any_bucket_and_any_padding_give_the_same_answers(tokenizer: PreTrainedTokenizerFast, device: str) -> None:
    eager, engine = made(tokenizer, device, graphs=False), made(tokenizer, device)
    prompts = ["hello", "foo bar 12", "34 world " * 3]
    for options in OPTIONS:
        expected = [one.annotated for one in eager.generate_batch(prompts, **options)]
        assert [one.annotated for one in engine.generate_batch(prompts, **options)] == expected
        assert [engine.generate(prompt, **options).annotated for prompt in prompts] == expected
    assert len(engine.runner.graphs.keys) < 20 and {shape.rows for shape, _ in engine.runner.graphs.keys} >= {1, 4}
    assert {kind for _, kind in engine.runner.graphs.keys} == {False, True, None}


def test_requests_of_different_kinds_share_a_graph(tokenizer: PreTrainedTokenizerFast, device: str) -> None:
    eager, engine = made(tokenizer, device, graphs=False), made(tokenizer, device)
    asked = [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 1.2, "top_p": 0.5}, {"mode": "sequential"}]
    expected = [eager.generate("hello", max_tokens=25, seed=5, **one).annotated for one in asked]
    sequences = [engine.request("hello", max_tokens=25, seed=5, **one) for one in asked]
    scheduler = engine.scheduler(len(sequences), 256)
    scheduler.reserve()
    before = engine.runner.graphs.keys
    assert len(before) == len(buckets(4, scheduler.cache.slots))
    for sequence in sequences:
        scheduler.add(sequence)
    while scheduler.step():
        pass
    assert [sequence.result().annotated for sequence in sequences] == expected
    assert {key for key in engine.runner.graphs.keys if not key[1]} == set(before), "the cache did not move"
    kept = scheduler.cache
    scheduler.shrink()
    assert scheduler.cache is kept, "the graphs read it"


def test_engines_let_their_graphs_go_with_the_cache(tokenizer: PreTrainedTokenizerFast, device: str) -> None:
    engine = made(tokenizer, device)
    engine.generate("hello", max_tokens=5)
    assert engine.runner.graphs.keys
    engine.release()
    assert not engine.runner.graphs.keys
