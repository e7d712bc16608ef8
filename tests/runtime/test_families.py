"""The runtime against oracles, for models of many families: decode == dense forward, sequential == transformers, any
schedule == the same answer, training mask == runtime visibility."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pastalm.data.collate import Collator
from pastalm.data.examples import Example
from pastalm.lang.positions import POLICIES
from pastalm.lang.recogniser import Legal
from pastalm.lang.script import Script
from pastalm.layout import layout
from pastalm.runtime.attention import DenseMetadata
from pastalm.runtime.engine import Engine
from pastalm.runtime.interpreter import Interpreter
from pastalm.runtime.limits import Limits
from pastalm.runtime.oracle import oracle
from pastalm.runtime.replay import block_paths
from pastalm.runtime.request import RequestError
from pastalm.runtime.response import Response
from pastalm.runtime.scheduler import Scheduler
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.thread import Thread, ThreadPath
from tests.runtime.families import FAMILIES, WINDOW, tiny

PROMPT = "hello world foo bar 12 34"
POLICY = POLICIES["pred10"]


FOUR = ("qwen2", "smollm3", "cohere2", "gpt2", "gpt_oss")  # their later layers are of another kind


@pytest.fixture(scope="module", params=list(FAMILIES))
def engine(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast, device: str) -> Engine:
    layers = 4 if request.param in FOUR else 2
    return Engine(tiny(request.param, len(tokenizer), layers).to(device), tokenizer)


class Forker:
    """Greedy, but the main thread promises a chunk after every fourth word of its own, and syncs after every second."""

    def __init__(self, engine: Engine) -> None:
        self.vocabulary = engine.vocabulary
        self.queue: list[int] = []
        self.words = self.promises = 0

    def __call__(self, logits: Tensor, legal: list[Legal], paths: list[ThreadPath]) -> list[int]:
        return [self._main(row) if path == () else self._word(row) for row, path in zip(logits, paths, strict=True)]

    def _word(self, row: Tensor) -> int:
        return int(row[: min(self.vocabulary.tags)].argmax())

    def _main(self, row: Tensor) -> int:
        if self.queue:
            return self.queue.pop(0)
        self.words += 1
        if self.words % 4:
            return self._word(row)
        v = self.vocabulary
        self.promises += 1
        topic = v.encode(f"t{self.promises}")
        self.queue = [*topic, v.promise_tokens, *v.encode("1"), v.promise_end]
        if self.promises % 2 == 0:
            self.queue.append(v.sync)
        return v.promise_topic


def fork(engine: Engine, limits: Limits | None = None, order=list) -> tuple[Response, dict[ThreadPath, list[Tensor]]]:
    """Decode with forks; returns the response and, for each thread, the logits each of its choices was made from."""
    logits: dict[ThreadPath, list[Tensor]] = {}
    prompt = engine.encode(PROMPT)
    limits = limits or Limits(max_tokens=90, max_async_tokens=7)
    interpreter = Interpreter(engine.language(), POLICY, engine.bounded(limits, prompt), len(prompt))
    sequence = Sequence(
        prompt,
        interpreter,
        teacher=Forker(engine),
        order=order,
        observe=lambda path, row, token: logits.setdefault(path, []).append(row),
    )
    return engine.run(sequence), logits


def test_decoding_equals_the_dense_forward(engine: Engine) -> None:
    response, logits = fork(engine)
    assert len(response.threads) > 4
    dense = oracle(engine.runner, engine.encode(PROMPT), response.script, POLICY)
    assert set(logits) <= set(dense)  # a chunk that the limit kept from its first token has no choice to compare
    for path, rows in logits.items():
        torch.testing.assert_close(torch.stack(rows), dense[path][: len(rows)], atol=1e-4, rtol=0)
    chosen = response.script.of(1)[1:-1]  # what the first chunk wrote, greedy among ordinary tokens
    words = dense[(0,)][: len(chosen), : min(engine.vocabulary.tags)]
    assert words.argmax(-1).tolist() == chosen


def test_sequential_equals_transformers(engine: Engine, tokenizer: PreTrainedTokenizerFast) -> None:
    model = engine.runner.model
    prompt = tokenizer(PROMPT)["input_ids"]
    response = engine.generate(PROMPT, max_tokens=48, mode="sequential")
    model.set_attn_implementation("eager")
    try:
        tags = sorted(engine.vocabulary.tags)
        ids = model.generate(
            torch.tensor([prompt], device=model.device), max_new_tokens=48, do_sample=False, suppress_tokens=tags
        )
    finally:
        model.set_attn_implementation("pasta")
    expected = [token for token in ids[0, len(prompt) :].tolist() if token not in engine.eos]
    assert response.script.tokens == expected
    assert len(prompt) + len(expected) > 2 * WINDOW or response.finish_reason == "stop"


def children_first_reversed(threads: list[Thread]) -> list[Thread]:
    """Siblings in the opposite order; parents stay first."""
    siblings = list(reversed(threads))
    return sorted(siblings, key=lambda thread: len(thread.path))


@pytest.mark.parametrize("max_tokens", [90, 61])
def test_any_schedule_gives_the_same_answer(engine: Engine, max_tokens: int) -> None:
    """At most three threads are open at once: that many are as many as there may be."""

    def answer(threads: int | None, order=list) -> tuple[list[int], str]:
        limits = Limits(max_tokens=max_tokens, max_async_tokens=7, max_threads=threads)
        response, _ = fork(engine, limits, order)
        return response.script.tokens, response.annotated

    expected = answer(None)
    assert answer(1) == answer(2) == answer(2, children_first_reversed) == expected
    assert answer(None, children_first_reversed) == expected


def test_packed_training_forward_equals_decoding(engine: Engine) -> None:
    """Two examples in one row of the collator, the second of them decoded before: same logits at its tokens."""
    response, logits = fork(engine)
    prompt = engine.encode(PROMPT)
    first = Example([5, 6, 7, 8, 9], Script([9, 8, 7, 6], [0] * 4))
    second = Example(prompt, response.script)
    runner = engine.runner
    batch = {name: part.to(runner.device) for name, part in Collator(POLICY, 0)([[first, second], [second]]).items()}
    with torch.inference_mode():
        metadata = DenseMetadata(batch["visible"], batch["position_ids"])
        dense = runner.forward(batch["input_ids"], batch["position_ids"], metadata)
    assert response.script.tokens.count(engine.vocabulary.sync) and set(logits) > {(), (0,), (1,), (2,)}
    paths, block = block_paths(response.script), layout(prompt, response.script, POLICY).block.tolist()
    block[: len(prompt) - 1] = [-1] * (len(prompt) - 1)  # main's first choice is made at the prompt's end
    for row, start in ((0, len(first)), (1, 0)):
        for path, rows in logits.items():
            own = [start + index for index, owner in enumerate(block) if owner == paths.index(path)]
            torch.testing.assert_close(dense[row, own[: len(rows)]], torch.stack(rows), atol=1e-4, rtol=0)


def test_among_others_equals_alone(engine: Engine) -> None:
    prompts = [PROMPT, "foo", "bar 34 world " * 3, "12"]
    options = {"max_tokens": 24, "temperature": 1.0, "seed": 3, "max_async_tokens": 6}
    alone = [engine.generate(prompt, **options) for prompt in prompts]
    together = list(engine.generate_batch(prompts, max_batch=3, **options))
    assert [one.script.tokens for one in together] == [one.script.tokens for one in alone]


def test_all_slots_are_free_again(engine: Engine) -> None:
    scheduler = Scheduler(engine.runner, 2, 400)
    sequences = [engine.request(PROMPT, max_tokens=12) for _ in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    while scheduler.step():
        pass
    assert all(sequence.response for sequence in sequences)
    assert scheduler.idle


@cache
def _windowless() -> list[str]:
    return [name for name, settings in FAMILIES.items() if "sliding_window" not in settings]


@pytest.mark.parametrize("family", _windowless())
def test_the_oracle_equals_the_stock_forward(family: str, tokenizer: PreTrainedTokenizerFast, device: str) -> None:
    """The dense forward itself, against the model's own attention under the same mask."""
    model = tiny(family, len(tokenizer)).to(device)
    engine = Engine(model, tokenizer)
    response, _ = fork(engine)
    laid = layout(engine.encode(PROMPT), response.script, POLICY)
    dense = engine.runner.dense(laid.tokens, laid.positions, laid.mask())
    model.set_attn_implementation("eager")
    hidden = torch.zeros(laid.mask().shape).masked_fill(~laid.mask(), torch.finfo(torch.float32).min)
    with torch.inference_mode():
        stock = model(
            input_ids=laid.tokens[None].to(device),
            position_ids=laid.positions[None].to(device),
            attention_mask=hidden[None, None].to(device),
            use_cache=False,
        ).logits[0]
    torch.testing.assert_close(dense, stock, atol=1e-4, rtol=0)


def test_long_rope_is_used_up_to_where_it_turns(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond, a pass takes other factors for all its tokens than their keys in the cache have, or a neighbour's."""
    turn = 64
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10000.0}
    rope |= {"original_max_position_embeddings": turn, "factor": 8.0}
    settings = {"rope_parameters": rope, "original_max_position_embeddings": turn, "sliding_window": None}
    monkeypatch.setitem(FAMILIES, "phi3", settings)
    engine = Engine(tiny("phi3", len(tokenizer)), tokenizer)
    assert engine.runner.window == turn
    options = {"max_tokens": 200, "mode": "sequential"}
    prompts = ["hello", "hello world foo " * 3]
    alone = [engine.generate(prompt, **options) for prompt in prompts]
    assert all(answer.finish_reason == "length" for answer in alone)
    assert [answer.text for answer in engine.generate_batch(prompts, max_batch=2, **options)] == [a.text for a in alone]
    with pytest.raises(RequestError, match="window is 64"):
        engine.generate("hello world " * 40, **options)


def test_a_temperature_by_positions_ends_the_window(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama 4 counts them by itself; up to the first step of its scale that changes nothing."""
    settings = {"floor_scale": 40, "no_rope_layers": [1, 0, 1, 0], "attention_chunk_size": 512}
    settings |= {"intermediate_size_mlp": 32, "num_local_experts": 2}
    monkeypatch.setitem(FAMILIES, "llama4_text", settings)
    model = tiny("llama4_text", len(tokenizer))
    engine = Engine(model, tokenizer)
    assert engine.runner.window == 39
    assert engine.generate("hello", max_tokens=200, mode="sequential").finish_reason == "length"
    model.config.attn_temperature_tuning = False
    assert engine.runner.window == 512
