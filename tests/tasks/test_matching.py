"""Sums, marks and words read from answers."""

from __future__ import annotations

from pastalm.tasks.matching import marks_fit, read, sums_hold


def test_a_wrong_sum_or_mark_is_seen() -> None:
    assert sums_hold("5 - (-3) = 5 + 3 = 8, and 8 times 8 = 64.")
    assert not sums_hold("5 - (-3) = 5 + 3 = 9.")
    assert marks_fit("1. one\n2. two", 2) and not marks_fit("1. one\n3. two", 2)
    assert read("1) Red is (-3, 4)", {"red"}) == ["red", "-3", "4"]
