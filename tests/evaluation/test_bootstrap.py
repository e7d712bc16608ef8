"""Intervals against theory, and their pairing."""

from __future__ import annotations

import numpy as np
import pytest

from pastalm.evaluation import bootstrap
from pastalm.evaluation.bootstrap import Bootstrap, Estimate, wilson


def test_a_mean_has_the_interval_that_theory_gives():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    found = Bootstrap({"x": values}).estimate(lambda means: means["x"])
    assert found.value == pytest.approx(values.mean())
    reach = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach), abs=0.15 * reach)


def test_half_the_level_is_narrower():
    both = Bootstrap({"x": list(range(50))})
    wide, narrow = both.estimate(lambda means: means["x"]), both.estimate(lambda means: means["x"], level=0.5)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_a_share_of_all_or_none_has_an_interval():
    """Wilson's closed form at the ends: n / (n + z^2)."""
    z2 = 1.959964**2
    every, none, half = wilson(30, 30), wilson(0, 30), wilson(15, 30)
    assert (every.low, every.value, every.high) == pytest.approx((30 / (30 + z2), 1, 1), abs=1e-6)
    assert (none.low, none.value, none.high) == pytest.approx((0, 0, z2 / (30 + z2)), abs=1e-6)
    assert half.low == pytest.approx(1 - half.high) and wilson(15, 30, level=0.5).low > half.low


def test_columns_are_resampled_together():
    values = np.random.default_rng(2).lognormal(size=60)
    found = Bootstrap({"x": values, "y": values + 1, "twice": 2 * values})
    difference = found.estimate(lambda means: means["y"] - means["x"])
    assert (difference.low, difference.high) == pytest.approx((1, 1))
    ratio = found.estimate(lambda means: means["twice"] / means["x"])
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((2, 2, 2))


def test_the_same_seed_gives_the_same_interval():
    columns = {"x": [1.0, 2.0, 9.0]}
    ends = [Bootstrap(columns, seed=seed, draws=50).estimate(lambda means: means["x"]) for seed in (0, 0, 1)]
    assert ends[0] == ends[1] != ends[2]


def test_one_prompt_has_an_interval_of_no_width():
    assert Bootstrap({"x": [3.0]}).estimate(lambda means: means["x"]) == Estimate(3, 3, 3)


def test_a_ratio_of_nothing_is_none():
    nothing = Bootstrap({"x": [0, 0], "n": [0, 0]})
    assert nothing.estimate(lambda means: means["x"] / means["n"]) is None
    rare = Bootstrap({"x": [0, 0, 6], "n": [0, 0, 2]}).estimate(lambda means: means["x"] / means["n"])
    assert rare == Estimate(3, 3, 3)  # resamples without any are left out


def test_large_sets_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bootstrap, "_BLOCK", 70)
    values = list(range(30))
    found = Bootstrap({"x": values}, draws=101)
    assert found.means["x"].shape == (101,) and len(set(found.means["x"])) > 50


@pytest.mark.parametrize("columns", [{"x": []}, {"x": [1, 2], "y": [1]}])
def test_uneven_columns_are_refused(columns: dict[str, list[float]]):
    with pytest.raises(ValueError, match="one value a prompt"):
        Bootstrap(columns)
