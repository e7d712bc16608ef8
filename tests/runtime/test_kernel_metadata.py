"""A step that attends by the kernel gives what torch's attention gives, and what the oracle gives."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.runtime.triton_on_cpu import DEVICE, loops  # isort: skip  # noqa: F401  (it needs Triton, or skips)

from pastalm.runtime.attention import Scoring
from pastalm.runtime.cache_metadata import CacheMetadata
from pastalm.runtime.engine import Engine
from pastalm.runtime.kernel_metadata import KernelMetadata
from pastalm.runtime.kv_cache import KVCache
from pastalm.runtime.limits import Limits
from pastalm.runtime.oracle import oracle
from pastalm.runtime.runner import metadata_on
from pastalm.runtime.step_input import StepBuffers, StepShape
from tests.runtime import test_families
from tests.runtime.families import tiny
from tests.runtime.test_step_input import part


@pytest.mark.parametrize("rows", [(0,), (1, 2), (0, 5), (2, 4)])
@pytest.mark.parametrize(
    "scoring", [Scoring(), Scoring(0.3, window=2), Scoring(softcap=2.0, window=3), Scoring(sinks=torch.ones(4))]
)
def test_equals_the_attention_of_torch(rows: tuple[int, ...], scoring: Scoring) -> None:
    device, make = torch.device(DEVICE), torch.Generator().manual_seed(0)
    scoring = scoring._replace(sinks=None if scoring.sinks is None else scoring.sinks.to(device))
    cache, buffers = KVCache(6, 70, device), StepBuffers(device)
    parts = [part(row, 2 + row, before=4) for row in rows]
    step = buffers.input(StepShape.of(parts))
    step.fill_queries(parts, cache.slots)
    buffers.copy(step)
    new = [torch.randn(1, heads, step.shape.queries, 8, generator=make).to(device) for heads in (4, 2, 2)]
    cache.layer(0, *new[1:])
    for held in (*cache.keys.values(), *cache.values.values()):
        held.copy_(torch.randn(held.shape, generator=make))
    expected = CacheMetadata(cache, step).attend(0, *new, scoring)
    torch.testing.assert_close(KernelMetadata(cache, step).attend(0, *new, scoring), expected, atol=1e-5, rtol=0)


def test_the_device_decides_how_a_step_attends() -> None:
    assert metadata_on(torch.device("cpu")) is CacheMetadata
    assert metadata_on(torch.device("cuda", 0)) is KernelMetadata


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"])  # windows, soft caps, shared heads, sinks
def test_a_short_answer_equals_the_oracle(family: str, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Engine(tiny(family, len(tokenizer)).to(DEVICE), tokenizer)
    engine.runner.metadata = KernelMetadata
    response, logits = test_families.fork(engine, Limits(max_tokens=14, max_async_tokens=3))
    dense = oracle(engine.runner, engine.encode(test_families.PROMPT), response.script, test_families.POLICY)
    assert len(response.threads) > 1
    for path, rows in logits.items():
        torch.testing.assert_close(torch.stack(rows), dense[path][: len(rows)], atol=1e-4, rtol=0)


def test_a_kernel_that_cannot_run_is_said_once_and_torch_attends(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refused(KernelMetadata):
        def attend(self, *_: object) -> torch.Tensor:
            raise RuntimeError("out of resource:\nshared memory")

    expected = Engine(tiny("llama", len(tokenizer)), tokenizer).generate("hello", max_tokens=9)
    monkeypatch.setattr("pastalm.runtime.runner.metadata_on", lambda device: Refused)
    with caplog.at_level(logging.WARNING):
        engine = Engine(tiny("llama", len(tokenizer)), tokenizer)
    assert engine.generate("hello", max_tokens=9).annotated == expected.annotated
    assert [record.message for record in caplog.records if "kernel" in record.message] == [
        "The attention kernel cannot run here (out of resource: shared memory); steps attend by torch, more slowly."
    ]
