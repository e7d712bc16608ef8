"""The rows of bools: what a slot sees is what the layout's mask says; a place without a query sees junk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from pastalm.lang.positions import position_policy
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import layout
from pastalm.runtime.pool import JUNK, CacheMetadata, Pool
from pastalm.runtime.thread import Feed, Path, script_of
from tests.runtime.scripted import START, Case, Fed, cases, places, play

CPU = torch.device("cpu")


@given(cases)
def test_rows_are_the_mask(vocabulary: Vocabulary, case: Case) -> None:
    run = play(case, vocabulary)
    script = script_of(run.interpreter.main, vocabulary)
    where, mask = places(script), layout([0] * START, script, position_policy(case.policy)).mask()
    lane = Pool(1, 1 + START + len(run.feeds), CPU).lanes[0]
    lane.prefill([0] * START, 0)
    queries = lane.apply(run.operations) if run.feeds else None
    counts: dict[Path, int] = {}
    fed: list[Fed] = []
    for feed in run.feeds:
        fed.append((feed.thread, counts.get(feed.thread, 0)))
        counts[feed.thread] = fed[-1][1] + 1
    order = [*range(START), *(START + where[one] for one in fed)]  # slot after the junk slot -> index in the document
    assert lane.used == 1 + len(order)
    if queries is not None:
        assert torch.equal(queries.visible[:, 1:], mask[order][:, order][START:])
        assert not queries.visible[:, JUNK].any()


def test_prefill_in_pieces_is_causal() -> None:
    lane = Pool(1, 8, CPU).lanes[0]
    first, second = lane.prefill([5, 6], 0), lane.prefill([7], 2)
    rows = ["".join(map(str, row)) for row in [*first.visible.int().tolist(), *second.visible.int().tolist()]]
    assert rows == ["01000000", "01100000", "01110000"]
    assert lane.positions[:4].tolist() == [0, 0, 1, 2]


def test_places_without_a_query_see_the_junk_slot_only() -> None:
    pool = Pool(4, 6, CPU)
    views = [lane.prefill([5], 0) and lane.apply([Feed((), 7, 1)] * fed) for lane, fed in zip(pool.lanes, (1, 3, 2))]
    view = CacheMetadata(pool, pool.lanes[:3], views)
    rows = [["".join(map(str, row)) for row in lane[0].int().tolist()] for lane in view.visible]
    assert rows == [["01100", "10000", "10000"], ["01100", "01110", "01111"], ["01100", "01110", "10000"]]
    query = torch.randn(1, 2, 6, 3)
    assert view.spread(query).shape == (3, 2, 3, 3) and torch.equal(view.gather(view.spread(query)), query)


def test_a_layer_has_its_keys_and_values_or_neither() -> None:
    class Unlucky(torch.Tensor):
        def new_zeros(self, *_: object) -> torch.Tensor:
            raise torch.OutOfMemoryError("no room")

    pool, new = Pool(1, 6, CPU), torch.zeros(1, 2, 1, 3)
    with pytest.raises(torch.OutOfMemoryError):
        pool.layer(0, new, new.as_subclass(Unlucky))
    keys, values = pool.layer(0, new, new)
    assert keys.shape == values.shape == (1, 2, 6, 3)


def test_idle_lanes_between_are_read_along_unless_they_are_many() -> None:
    pool = Pool(9, 6, CPU)
    for indices, rows in (((1, 2), 2), ((1, 3), 3), ((1, 4), 4), ((1, 5), 2), ((1, 8), 2)):
        lanes = [pool.lanes[index] for index in indices]
        for lane in lanes:
            lane.clear()
        view = CacheMetadata(pool, lanes, [lane.prefill([lane.index, 7], 0) for lane in lanes])
        key = torch.randn(1, 2, 4, 3)
        keys, _ = view.extend(0, key, key)
        assert len(keys) == len(view.visible) == rows
        assert torch.equal(keys[0, :, 1:3], key[0, :, :2]) and torch.equal(keys[-1, :, 1:3], key[0, :, 2:])
        pool.keys.clear()
