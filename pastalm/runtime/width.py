"""How many threads a step should have at the most, on this machine with this model: measured, not guessed."""

from __future__ import annotations

from time import perf_counter

from pastalm.runtime.kv_cache import BLOCK, KVCache
from pastalm.runtime.runner import Runner
from pastalm.runtime.step_input import Part
from pastalm.runtime.visibility import JUNK, Query

MOST_ROWS = 128
TRIES = 5
WORTH = 1.1  # twice as many rows must bring so many times the tokens a second


def useful_rows(runner: Runner) -> int:
    """The number of rows, a power of two, up to which twice as many bring more tokens a second. A step with more
    threads than that takes longer for all and gains nothing. One doubling without gain is not the end: the machine may
    have done something else just then."""
    cache, rows, useful = KVCache(1, BLOCK - 1, runner.device), 1, 1
    best = 1 / _seconds(runner, cache, 1)
    while rows < min(MOST_ROWS, 4 * useful):
        rows *= 2
        rate = rows / _seconds(runner, cache, rows)
        if rate >= WORTH * best:
            useful, best = rows, rate
    return useful


def _seconds(runner: Runner, cache: KVCache, rows: int) -> float:
    """The shortest of some steps with so many rows."""
    part = Part(0, [Query(0, 0, JUNK, 1 << JUNK)] * rows, list(range(rows)))
    times = []
    for _ in range(1 + TRIES):  # the first one warms up
        started = perf_counter()
        runner.step(cache, [part])[1].argmax(-1).tolist()  # the copy waits for the device
        times.append(perf_counter() - started)
    return min(times[1:])
