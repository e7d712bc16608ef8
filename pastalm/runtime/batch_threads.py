"""How many threads a step should have at the most, on this machine with this model: measured, not guessed."""

from __future__ import annotations

from time import perf_counter

from pastalm.runtime.kv_cache import GROWTH, KVCache
from pastalm.runtime.runner import Runner
from pastalm.runtime.step_input import Part
from pastalm.runtime.visibility import Query

MOST_THREADS = 128
MOST_SEQUENCES = 32  # that are measured: so many fill a machine, and their cache is small
TRIES = 5
WORTH = 1.05  # a wider step must bring so many times the tokens a second


def useful_threads(runner: Runner, max_batch: int) -> int:
    """Up to how many threads a step of ``max_batch`` sequences brings more tokens a second: ``max_batch`` times a power
    of two. A step with more threads than that takes longer for all and gains nothing.

    It is measured with a full batch, since only a full batch meets the bound: threads of one sequence share the reading
    of its cache, so they cost less than as many sequences. The widths take turns, so that what else the machine does
    meanwhile slows all of them.
    """
    sequences = min(max_batch, MOST_SEQUENCES)
    cache, widths = KVCache(sequences, GROWTH - 1, runner.device), _widths(sequences)
    rounds = [[_seconds(runner, cache, width) for width in widths] for _ in range(1 + TRIES)]
    best = [min(times) for times in zip(*rounds[1:], strict=True)]  # the first round warms up
    rates = [width / seconds for width, seconds in zip(widths, best, strict=True)]
    width = next(width for width, rate in zip(widths, rates, strict=True) if WORTH * rate >= max(rates))
    return max_batch * width


def _widths(sequences: int) -> list[int]:
    """Threads of each sequence: 1, 2, 4, .. up to ``MOST_THREADS`` together; 1 and 2 in any case."""
    most = max(2, MOST_THREADS // sequences)
    return [1 << power for power in range(most.bit_length())]


def _seconds(runner: Runner, cache: KVCache, width: int) -> float:
    """How long a step takes in which every sequence has so many threads, which see all of its slots."""
    last, seen = cache.slots - 1, (1 << cache.slots) - 1
    queries = [Query(0, 0, last, seen)] * width
    parts = [Part(row, queries, list(range(width))) for row in range(cache.rows)]
    started = perf_counter()
    runner.step(cache, parts)[1].argmax(-1).tolist()  # the copy waits for the device
    return perf_counter() - started
