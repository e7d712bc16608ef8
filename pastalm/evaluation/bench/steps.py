"""The time of a step against threads, sequences and context; the law that fits it; the bytes that it moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import torch

from pastalm.lang.answer import Answer, Block
from pastalm.lang.script import compile_script
from pastalm.runtime.engine import Engine
from pastalm.runtime.quantize import Int8Linear
from pastalm.runtime.scheduler import Scheduler

WARM_UP = 3  # steps
COPIED = {"cpu": 1 << 28, "cuda": 1 << 32}  # bytes, far more than a cache of the processor holds
COPIES = 5


@dataclass(frozen=True)
class StepPoint:
    """The median time of a step with so many sequences of ``threads`` threads each behind a prompt of ``context``
    tokens; ``slots`` is how many cache slots it reads, ``bytes`` what it reads of weights and cache, ``held`` what the
    cache takes and ``needed`` what the tokens in it take."""

    sequences: int
    threads: int
    context: int
    milliseconds: float
    slots: int
    bytes: float
    held: int
    needed: float

    @property
    def rows(self) -> int:
        """Tokens that it decodes."""
        return self.sequences * self.threads

    @property
    def bandwidth(self) -> float:
        """Bytes a second that it reaches."""
        return 1000 * self.bytes / self.milliseconds


@dataclass(frozen=True)
class Law:
    """Milliseconds of a step = ``fixed`` + ``row`` x rows + ``kiloslot`` x cache slots / 1000; ``explained`` is the
    share of the variance that it explains."""

    fixed: float
    row: float
    kiloslot: float
    explained: float


def measure_steps(
    engine: Engine, sequences: Sequence[int], threads: Sequence[int], contexts: Sequence[int], steps: int
) -> Iterator[StepPoint]:
    """A point for each number of threads, of sequences and of context, the others at their least; contexts that the
    model's window has no room for are left out."""
    least = min(sequences), min(threads), min(contexts)
    wanted = {(least[0], number, least[2]) for number in threads} | {(number, *least[1:]) for number in sequences}
    wanted |= {(least[0], number, context) for number in (least[1], max(threads)) for context in contexts}
    for count, number, context in sorted(wanted):
        if fits(engine, number, context, steps):
            yield measure_step(engine, count, number, context, steps)


def measure_step(engine: Engine, sequences: int, threads: int, context: int, steps: int) -> StepPoint:
    """The median time of ``steps`` steps in which all threads of all sequences run."""
    scheduler = running(engine, sequences, threads, context, steps)
    times = []
    for _ in range(WARM_UP + steps):
        started = perf_counter()
        scheduler.step()  # it waits for its tokens, and not for what is launched ahead
        times.append(perf_counter() - started)
    slots = scheduler.slots_used
    needed = slots * slot_bytes(scheduler)
    moved = weight_bytes(engine) + needed
    middle = 1000 * median(times[WARM_UP:])
    return StepPoint(sequences, threads, context, middle, slots, moved, scheduler.cache.bytes, needed)


def running(engine: Engine, sequences: int, threads: int, context: int, steps: int) -> Scheduler:
    """A batch of known answers in which every sequence has forked into ``threads`` threads that run for as many steps
    more as are to be measured."""
    vocabulary, policy = engine.tags(), engine.policy()
    script = compile_script(_wide(threads, steps + sequences), vocabulary, policy, end=False)
    prompt = [vocabulary.encode("a")[0]] * context
    asked = [engine.replay_request(prompt, script, policy) for _ in range(sequences)]
    scheduler = engine.scheduler(sequences, max(one.max_slots for one in asked))
    for one in asked:
        scheduler.add(one)
    while scheduler.threads < sequences * threads:
        if not scheduler.step():
            raise RuntimeError("The answers ended before all their threads ran.")
    return scheduler


def _wide(threads: int, steps: int) -> Answer:
    """An answer whose main thread has ``threads - 1`` chunks beside it; all go on for more than ``steps`` steps."""
    room = steps + WARM_UP + 2
    chunks = [Block(f"part {number}", (_words(room + 12 * threads),), 9) for number in range(threads - 1)]
    return Answer((*chunks, _words(room)))


def _words(number: int) -> str:
    """A text of at least so many tokens."""
    return "".join(f" {'abcdefghij'[k % 10]}" for k in range(number))


def fits(engine: Engine, threads: int, context: int, steps: int) -> bool:
    """Whether a sequence with so many threads and so long a prompt has room for so many steps."""
    window, longest = engine.runner.window, engine.max_model_len
    needed = context + 130 * threads + 2 * steps + 64  # a promise of 90 tokens moves the main thread on by so many
    return all(room is None or needed < room for room in (window, longest))


def now(engine: Engine) -> float:
    """Seconds, with everything done that was asked of the device; while a graph is captured nothing is done."""
    if engine.runner.device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize(engine.runner.device)
    return perf_counter()


def weight_bytes(engine: Engine) -> int:
    """Bytes of weights that a step reads: all but an embedding that is no head, of which it reads a few rows."""
    model = engine.runner.model
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    total = sum(weight.nbytes for weight in model.parameters())
    quantised = [layer for layer in model.modules() if isinstance(layer, Int8Linear)]
    total -= sum(layer.weight.nbytes - layer.rounded.nbytes for layer in quantised)
    return total if table is head else total - table.nbytes


def slot_bytes(scheduler: Scheduler) -> float:
    """Bytes that one token takes in the cache, in all layers."""
    cache = scheduler.cache
    return cache.bytes / (cache.rows * cache.slots)


def copy_bandwidth(engine: Engine) -> float:
    """Bytes a second of a large copy on the model's device, read and written: the most that a step can hope for."""
    device = engine.runner.device
    source = torch.zeros(COPIED.get(device.type, COPIED["cpu"]), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(COPIES):
        started = now(engine)
        target.copy_(source)
        best = min(best, now(engine) - started)
    return 2 * source.numel() / best


def fit_law(points: Sequence[StepPoint]) -> Law | None:
    """The law by least squares, no term below zero; None for fewer than three points."""
    if len(points) < 3:
        return None
    times = np.array([point.milliseconds for point in points])
    terms = np.array([[1.0, point.rows, point.slots / 1000] for point in points])
    kept = [0, 1, 2]
    while True:
        found = np.linalg.lstsq(terms[:, kept], times, rcond=None)[0]
        if (found >= 0).all():
            break
        del kept[int(found.argmin())]
    values = np.zeros(3)
    values[kept] = found
    spread = float(((times - times.mean()) ** 2).sum())
    missed = float(((times - terms @ values) ** 2).sum())
    fixed, row, kiloslot = values.tolist()
    return Law(fixed, row, kiloslot, 1 - missed / spread if spread else 1.0)
