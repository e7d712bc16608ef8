"""Means with bootstrap intervals, paired: every figure of a report sees the same resampled prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

DRAWS = 4000
LEVEL = 0.95
_BLOCK = 1 << 22  # numbers held at once

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its interval, of 95% unless another level was asked for."""

    value: float
    low: float
    high: float


class Bootstrap:
    """The means of named columns, a value a prompt in each, over ``draws`` resamples of the prompts.

    Every figure that is a function of means (a geometric mean is, of logarithms; a ratio of sums is) has its interval
    from them. The same columns and seed give the same intervals.
    """

    def __init__(self, columns: Mapping[str, Sequence[float]], *, draws: int = DRAWS, seed: int = 0) -> None:
        self.values = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
        lengths = {len(column) for column in self.values.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"The columns must have one value a prompt, at least one; their lengths are {lengths}.")
        table = np.stack(list(self.values.values()), axis=1)
        resampled = _means(table, draws, np.random.default_rng(seed))
        self.means = {name: resampled[:, index] for index, name in enumerate(self.values)}

    def estimate(self, figure: Callable[[Columns], np.ndarray], level: float = LEVEL) -> Estimate | None:
        """``figure`` of the columns' means, with the percentile interval. None where it is not a number."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(figure({name: column.mean() for name, column in self.values.items()}))
            drawn = figure(self.means)
        drawn = drawn[np.isfinite(drawn)]  # a resample may hold no answer that forks, say
        if not np.isfinite(value) or not len(drawn):
            return None
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        return Estimate(value, float(low), float(high))


def estimate_mean(values: Sequence[float]) -> Estimate | None:
    """The mean with its interval; None without values."""
    return Bootstrap({"value": values}).estimate(lambda means: means["value"]) if values else None


def wilson(hits: int, number: int, level: float = LEVEL) -> Estimate:
    """The share ``hits / number`` with Wilson's interval, which has a width where all or none are hits, too."""
    share, z = hits / number, NormalDist().inv_cdf((1 + level) / 2)
    middle = share + z * z / (2 * number)
    reach = z * sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    low, high = ((middle + sign * reach) / (1 + z * z / number) for sign in (-1, 1))
    return Estimate(share, max(0.0, low), min(1.0, high))


def _means(table: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """``[draws, columns]``: the means of rows drawn with replacement from ``[prompts, columns]``."""
    number, columns = table.shape
    block = max(1, _BLOCK // (number * columns))
    parts = []
    for start in range(0, draws, block):
        chosen = rng.integers(number, size=(min(block, draws - start), number))
        parts.append(table[chosen].mean(axis=1))
    return np.concatenate(parts)
