"""The rows of slots: what a token sees is what the layout's mask says."""

from __future__ import annotations

import torch
from hypothesis import given

from pastalm.lang.positions import position_policy
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import layout
from pastalm.runtime.thread import Feed, Fork, Join, ThreadPath, script_of
from pastalm.runtime.visibility import JUNK, Visibility
from tests.runtime.scripted import START, Case, Fed, cases, places, play


def bits(row: int, slots: int) -> list[bool]:
    return [bool(row >> slot & 1) for slot in range(slots)]


@given(cases)
def test_rows_are_the_mask(vocabulary: Vocabulary, case: Case) -> None:
    run = play(case, vocabulary)
    script = script_of(run.interpreter.main, vocabulary)
    where, mask = places(script), layout([0] * START, script, position_policy(case.policy)).mask()
    visibility = Visibility()
    visibility.apply([Feed((), 0, position) for position in range(START)])
    queries, _ = visibility.apply(run.operations)
    counts: dict[ThreadPath, int] = {}
    fed: list[Fed] = []
    for feed in run.feeds:
        fed.append((feed.thread, counts.get(feed.thread, 0)))
        counts[feed.thread] = fed[-1][1] + 1
    order = [*range(START), *(START + where[one] for one in fed)]  # slot after the junk slot -> index in the document
    assert visibility.used == 1 + len(order)
    if queries:
        rows = torch.tensor([bits(query.visible, 1 + len(order)) for query in queries])
        assert torch.equal(rows[:, 1:], mask[order][:, order][START:])
        assert not rows[:, JUNK].any()


def test_a_prompt_in_pieces_is_causal() -> None:
    visibility = Visibility()
    first, last = visibility.apply([Feed((), 5, 0), Feed((), 6, 1)])
    second, _ = visibility.apply([Feed((), 7, 2)])
    assert [bits(query.visible, 5) for query in first + second] == [
        [False, True, False, False, False],
        [False, True, True, False, False],
        [False, True, True, True, False],
    ]
    assert last == {(): 1} and [query.slot for query in first + second] == [1, 2, 3]


def test_forks_copy_and_joins_unite() -> None:
    visibility = Visibility()
    visibility.apply([Feed((), 5, 0), Fork((0,), ()), Feed((0,), 6, 1), Feed((), 7, 9)])
    assert visibility.visible == {(): 0b1010, (0,): 0b0110}
    queries, last = visibility.apply([Feed((0,), 8, 2), Join((), ((0,),)), Feed((), 9, 10)])
    assert [query.visible for query in queries] == [0b10110, 0b111110] and last == {(0,): 0, (): 1}
    assert visibility.visible == {(): 0b111110}


def test_a_token_that_is_not_kept_gives_its_logits_alone() -> None:
    visibility = Visibility()
    visibility.apply([Feed((), 5, 0)])
    queries, last = visibility.apply([Feed((), 6, 1, kept=False)])
    assert [query.visible for query in queries] == [0b110] and last == {(): 0}
    queries, _ = visibility.apply([Feed((), 7, 1)])
    assert [query.visible for query in queries] == [0b1010] and visibility.visible == {(): 0b1010}
