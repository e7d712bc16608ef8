"""A step that attends by our own kernel gives what torch's attention gives, and what the oracle gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pastalm.runtime import few_queries
from pastalm.runtime.attention import Scoring
from pastalm.runtime.cache_metadata import CacheMetadata
from pastalm.runtime.engine import Engine
from pastalm.runtime.few_queries import FewQueriesMetadata
from pastalm.runtime.kv_cache import KVCache
from pastalm.runtime.limits import Limits
from pastalm.runtime.oracle import oracle
from pastalm.runtime.runner import Runner
from pastalm.runtime.step_input import StepBuffers, StepShape
from tests.runtime import test_families
from tests.runtime.drawing import CPU
from tests.runtime.families import FAMILIES, tiny
from tests.runtime.test_step_input import part

pytestmark = pytest.mark.usefixtures("built")


@torch.inference_mode()
def attended(
    kind: type[CacheMetadata], rows: tuple[int, ...], heads: int, width: int, dtype: torch.dtype, how: Scoring
) -> tuple[Tensor, Tensor, Tensor]:
    """What queries of some sequences take, and the cache afterwards."""
    make = torch.Generator().manual_seed(0)
    cache, buffers = KVCache(6, 70, CPU), StepBuffers(CPU)
    parts = [part(row, 2 + row, before=4 + 9 * row) for row in rows]
    step = buffers.input(StepShape.of(parts))
    step.fill_queries(parts, cache.slots)
    query = torch.randn(1, step.shape.queries, heads, width, generator=make).to(dtype).transpose(1, 2)
    key, value = (torch.randn(1, 2, step.shape.queries, width, generator=make).to(dtype) for _ in range(2))
    cache.layer(0, key, value)
    for held in (*cache.keys.values(), *cache.values.values()):
        held.copy_(torch.randn(held.shape, generator=make))
    return kind(cache, step).attend(0, query, key, value, how), cache.keys[0], cache.values[0]


@pytest.mark.parametrize("rows", [(0,), (1, 2), (0, 5), (2, 4)])
@pytest.mark.parametrize("how", [Scoring(), Scoring(0.3, window=2), Scoring(window=12)])
@pytest.mark.parametrize(
    "heads, width, dtype",
    [
        (2, 16, torch.float32),
        (6, 64, torch.float32),
        (14, 48, torch.float32),
        (18, 80, torch.float32),
        (10, 16, torch.bfloat16),
        (10, 32, torch.bfloat16),  # these by the matrix unit, where there is one
        (6, 64, torch.bfloat16),
        (2, 96, torch.bfloat16),
        (32, 128, torch.bfloat16),
    ],
)
def test_equals_the_attention_of_torch(
    rows: tuple[int, ...], how: Scoring, heads: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = attended(CacheMetadata, rows, heads, width, dtype, how)
    monkeypatch.setattr(CacheMetadata, "attend", None)  # from here on nothing but the kernel
    found = attended(FewQueriesMetadata, rows, heads, width, dtype, how)
    close = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, atol=close, rtol=0)


@pytest.mark.parametrize(
    "width, how", [(8, Scoring()), (16, Scoring(softcap=2.0, window=3)), (16, Scoring(sinks=torch.ones(4)))]
)
def test_what_it_does_not_do_is_left_to_torch(width: int, how: Scoring) -> None:
    both = [attended(kind, (1, 2), 4, width, torch.float32, how) for kind in (FewQueriesMetadata, CacheMetadata)]
    torch.testing.assert_close(*both, atol=0, rtol=0)


def decoded(kind: type[CacheMetadata], queries: int) -> Tensor:
    """What so many queries each of four sequences take, far beyond :data:`few_queries.MOST` slots in all."""
    cache, buffers = KVCache(4, 600, CPU), StepBuffers(CPU)
    parts = [part(row, queries, before=500 + row) for row in range(4)]
    step = buffers.input(StepShape.of(parts))
    step.fill_queries(parts, cache.slots)
    make = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 4 * queries, 16, generator=make) for heads in (4, 2, 2))
    cache.layer(0, key, value)
    for held in (*cache.keys.values(), *cache.values.values()):
        held.copy_(torch.randn(held.shape, generator=make))
    with torch.inference_mode():
        return kind(cache, step).attend(0, query, key, value, Scoring())


def test_many_sequences_with_few_queries_each_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = decoded(CacheMetadata, few_queries.EACH)
    monkeypatch.setattr(CacheMetadata, "attend", None)  # from here on nothing but the kernel
    torch.testing.assert_close(decoded(FewQueriesMetadata, few_queries.EACH), expected, atol=1e-5, rtol=0)
    with pytest.raises(TypeError):
        decoded(FewQueriesMetadata, few_queries.EACH + 1)


def test_many_queries_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_queries, "MOST", 9 * 32)
    monkeypatch.setattr(few_queries, "EACH", 3)
    both = [attended(kind, (2, 4), 4, 16, torch.float32, Scoring()) for kind in (FewQueriesMetadata, CacheMetadata)]
    torch.testing.assert_close(*both, atol=0, rtol=0)


def test_a_matrix_unit_attends_over_any_number_of_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    head = torch.empty(1, 1, 1, 64, dtype=torch.bfloat16)
    if not torch.ops.pastalm.attends_in_tiles(head, head, head):
        pytest.skip("the processor has no matrix unit")
    monkeypatch.setattr(few_queries, "MOST", 0)
    expected = attended(CacheMetadata, (1, 2), 6, 64, torch.bfloat16, Scoring(window=12))
    monkeypatch.setattr(CacheMetadata, "attend", None)
    found = attended(FewQueriesMetadata, (1, 2), 6, 64, torch.bfloat16, Scoring(window=12))
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen2"])  # shared heads, windows
def test_a_short_answer_equals_the_oracle(
    family: str, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, family, {**FAMILIES[family], "head_dim": 16, "hidden_size": 64})
    engine = Engine(tiny(family, len(tokenizer)), tokenizer)
    engine.runner.metadata = FewQueriesMetadata
    response, logits = test_families.fork(engine, Limits(max_tokens=14, max_async_tokens=3))
    dense = oracle(engine.runner, engine.encode(test_families.PROMPT), response.script, test_families.POLICY)
    assert len(response.threads) > 1
    for path, rows in logits.items():
        torch.testing.assert_close(torch.stack(rows), dense[path][: len(rows)], atol=5e-5, rtol=0)


def test_a_compiled_engine_attends_by_it(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "_warm_up", lambda self: None)  # nothing is compiled before it runs
    assert Runner(tiny("llama", len(tokenizer)), compile=True).metadata is FewQueriesMetadata
    assert Runner(tiny("llama", len(tokenizer))).metadata is CacheMetadata
