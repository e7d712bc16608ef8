"""A step's input and what attention makes of it: places, padding, the cache's slots."""

from __future__ import annotations

import pytest
import torch

from pastalm.runtime.cache_metadata import CacheMetadata
from pastalm.runtime.kv_cache import BLOCK, KVCache
from pastalm.runtime.sampler import Draw, LegalMasks, SamplingParams
from pastalm.runtime.step_input import Part, StepBuffers, StepInput, StepShape
from pastalm.runtime.thread import Feed
from pastalm.runtime.visibility import Visibility
from tests.runtime.drawing import CPU
from tests.runtime.test_sampler import ANY


def part(row: int, fed: int, before: int = 1) -> Part:
    """A sequence that has ``before`` tokens in the cache, and feeds its next ones."""
    visibility = Visibility()
    visibility.apply([Feed((), 5, position) for position in range(before)])
    queries, _ = visibility.apply([Feed((), 10 + row, before + k) for k in range(fed)])
    return Part(row, queries, [fed - 1])


def filled(parts: list[Part], cache: KVCache) -> StepInput:
    step = StepBuffers(CPU).input(StepShape.of(parts))
    step.fill_queries(parts, cache.slots)
    return step


def test_places_without_a_query_see_the_junk_slot_only() -> None:
    cache = KVCache(4, 6, CPU)
    parts = [part(0, 1), part(1, 3), part(2, 2)]
    step = filled(parts, cache)
    metadata = CacheMetadata(cache, step)
    rows = [["".join(map(str, row[:5])) for row in lane[0].int().tolist()] for lane in metadata.visible]
    assert rows == [["01100", "10000", "10000"], ["01100", "01110", "01111"], ["01100", "01110", "10000"]]
    assert not metadata.visible[..., 5:].any()
    query = torch.randn(1, 2, 6, 3)
    spread = metadata.spread(query)
    assert spread.shape == (3, 2, 3, 3) and torch.equal(metadata.gather(spread), query.transpose(1, 2))
    assert step.tokens.tolist() == [[10, 11, 11, 11, 12, 12]] and step.positions.tolist() == [[1, 1, 2, 3, 1, 2]]
    assert step.wanted.tolist() == [0, 3, 5]
    assert step.slots.tolist() == [2, BLOCK + 2, BLOCK + 3, BLOCK + 4, 2 * BLOCK + 2, 2 * BLOCK + 3]


def test_masks_are_numbers_to_add_and_slide_by_positions() -> None:
    cache = KVCache(1, 70, CPU)
    for start in range(3):
        metadata = CacheMetadata(cache, filled([part(0, 1, start)], cache))
    shown = metadata.mask(None, 1, torch.float32)[0, 0, 0]
    assert shown[1:4].tolist() == [0, 0, 0] and shown[4:].eq(-torch.inf).all() and shown[0] == -torch.inf
    near = metadata.mask(2, 3, torch.bfloat16)
    assert near.dtype == torch.bfloat16 and near.shape == (1, 1, 3, BLOCK)
    assert near[0, 0, 2, 1:4].tolist() == [-torch.inf, 0, 0]
    assert metadata.mask(2, 3, torch.bfloat16) is near


def test_idle_rows_between_are_read_along_unless_they_are_many() -> None:
    for rows, read in (((1, 2), 2), ((1, 3), 3), ((1, 4), 4), ((1, 5), 2), ((1, 8), 2)):
        cache = KVCache(9, 6, CPU)
        metadata = CacheMetadata(cache, filled([part(row, 2, 0) for row in rows], cache))
        key = torch.randn(1, 2, 4, 3)
        keys, values = metadata.extend(0, key, key + 1)
        assert len(keys) == len(metadata.mask(None, 1, torch.float32)) == read
        assert torch.equal(keys[0, :, 1:3], key[0, :, :2]) and torch.equal(keys[-1, :, 1:3], key[0, :, 2:])
        assert torch.equal(values[-1, :, 1:3], key[0, :, 2:] + 1)
        query = torch.randn(1, 2, 4, 3)
        assert torch.equal(metadata.gather(metadata.spread(query)), query.transpose(1, 2))
        positions = metadata.mask(1, 1, torch.float32)[-1, 0, :, 1:3]
        assert positions.tolist() == [[0, -torch.inf], [-torch.inf, 0]]


def test_the_same_shape_has_the_same_places() -> None:
    buffers, shape = StepBuffers(CPU), StepShape.of([part(0, 2)])
    step = buffers.input(shape)
    step.fill_queries([part(0, 2)], BLOCK)
    again = buffers.input(shape)
    assert again is step
    again.fill_queries([part(0, 2, before=7)], BLOCK)
    assert step.positions.tolist() == [[7, 8]] and step.slots.tolist() == [8, 9]
    assert buffers.input(StepShape.of([part(0, 3)])) is not step


def test_a_large_step_makes_the_buffer_grow() -> None:
    buffers = StepBuffers(CPU)
    small = [part(0, 1)]
    buffers.input(StepShape.of(small))
    large = [part(0, 700)]
    step = buffers.input(StepShape.of(large))
    step.fill_queries(large, 704)
    assert step.tokens.tolist() == [[10] * 700] and step.visible.shape == (1, 1, 700, 704 // 8)
    again = buffers.input(StepShape.of(small))
    again.fill_queries(small, 704)
    assert again.tokens.tolist() == [[10]]


def test_a_buffer_grows_on_host_and_device_or_on_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = StepBuffers(torch.device("meta"))
    before = len(buffers._host), len(buffers.memory)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(torch, "zeros_like", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
        buffers._allocate(1 << 20)
    assert (len(buffers._host), len(buffers.memory)) == before
    buffers._allocate(1 << 20)
    assert len(buffers._host) == len(buffers.memory) == 1 << 20


def test_draws_stand_in_rows() -> None:
    how = SamplingParams(0.5, 0.9, 3, 1.5)
    draws = [Draw(SamplingParams(), ANY), Draw(how, ANY, (1,), 4)]
    parts = [Part(0, part(0, 2).queries, [0, 1], draws)]
    found = StepBuffers(CPU).input(StepShape.of(parts)).fill_draws(draws, LegalMasks(4, CPU))
    assert (found.drawn, found.mixed, found.moved) == ([1], False, False)  # nothing may be promised here
    assert found.temperature.tolist() == [pytest.approx(1e-6), 0.5] and found.top_p.tolist() == [1.0, 0.9]
    assert found.uniform.tolist() == [0.0, draws[1].uniform()]


def test_a_layer_has_its_keys_and_values_or_neither() -> None:
    class Unlucky(torch.Tensor):
        def new_zeros(self, *_: object) -> torch.Tensor:
            raise torch.OutOfMemoryError("no room")

    cache, new = KVCache(1, 6, CPU), torch.zeros(1, 2, 1, 3)
    with pytest.raises(torch.OutOfMemoryError):
        cache.layer(0, new, new.as_subclass(Unlucky))
    keys, values = cache.layer(0, new, new)
    assert keys.shape == values.shape == (1, BLOCK, 2, 3)
    assert cache.bytes == 2 * BLOCK * 6 * 4 + BLOCK * 8
