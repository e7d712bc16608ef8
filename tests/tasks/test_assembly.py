"""Conclusions that name numbers in an order."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from pastalm.tasks import distance, ranking, totals
from pastalm.tasks.assembly import in_order, told_apart
from tests.tasks.drafts import drafts, joined


def test_named_numbers_are_brought_in_order() -> None:
    pairs = [("Ada", 15), ("Ben", 17), ("Fay", 12)]
    named = "Ada has 15; Ben has 17; Fay has 12. "
    assert in_order(pairs, "most") == named + "The most first: 17 for Ben, 15 for Ada, 12 for Fay"
    assert in_order(pairs, "least", down=False) == named + "The least first: 12 for Fay, 15 for Ada, 17 for Ben"


def test_numbers_told_apart_have_two_digits_and_other_first_ones() -> None:
    assert told_apart([10, 29, 38]) and not told_apart([21, 29, 38])
    assert not told_apart([9, 29]) and not told_apart([29, 100])


@pytest.mark.parametrize("family", [totals, distance, ranking], ids=["totals", "distance", "ranking"])
def test_a_wrong_order_or_end_is_seen(family: ModuleType) -> None:
    seen = 0
    for draft in drafts(family.draw):
        text = joined(draft.parts)
        order = re.search(r" first: ([0-9]+ for ([a-zA-Z ]+)), ([0-9]+ for ([a-zA-Z ]+))", text)
        if not order:
            continue
        first, best, second, other = order.groups()
        assert not family.check(draft.facts, text.replace(order[0], f" first: {second}, {first}"))
        head, _, end = text.rpartition(best)
        assert not family.check(draft.facts, f"{head}{other}{end}")
        seen += 1
    assert seen
