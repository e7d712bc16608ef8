"""The pool's rows of bools: what a slot sees there is what the layout's mask says, and padding sees junk only."""

from __future__ import annotations

import torch
from hypothesis import given

from pastalm.lang.positions import position_policy
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import layout
from pastalm.runtime.pool import JUNK, Lane
from pastalm.runtime.thread import Feed, Path, script_of
from tests.runtime.scripted import START, Case, Fed, cases, places, play

CPU = torch.device("cpu")


@given(cases)
def test_rows_are_the_mask(vocabulary: Vocabulary, case: Case) -> None:
    run = play(case, vocabulary)
    script = script_of(run.interpreter.main, vocabulary)
    where, mask = places(script), layout([0] * START, script, position_policy(case.policy)).mask()
    lane = Lane(0, 1 + START + len(run.feeds), CPU)
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
    lane = Lane(0, 8, CPU)
    first, second = lane.prefill([5, 6], 0), lane.prefill([7], 2)
    rows = ["".join(map(str, row)) for row in [*first.visible.int().tolist(), *second.visible.int().tolist()]]
    assert rows == ["01000000", "01100000", "01110000"]
    assert lane.positions[:4].tolist() == [0, 0, 1, 2]


def test_padding_writes_and_sees_the_junk_slot_only() -> None:
    lane = Lane(0, 6, CPU)
    lane.prefill([5], 0)
    padded = lane.apply([Feed((), 7, 1)]).padded(3)
    assert len(padded) == 3 and padded.slots.tolist() == [2, JUNK, JUNK]
    assert padded.visible[1:].int().tolist() == [[1, 0, 0, 0, 0, 0]] * 2
    assert padded.last == {(): 0}
