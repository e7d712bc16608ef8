"""Where the time of a step goes: the model, its attention, sampling, input and copies, the language itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from pastalm.evaluation.bench.steps import WARM_UP, fits, now, running
from pastalm.runtime import attention, compiled
from pastalm.runtime.engine import Engine
from pastalm.runtime.sampler import Sampler
from pastalm.runtime.step_input import StepBuffers, StepInput

PARTS = ("model", "attention", "sampling", "input", "copy", "interpreter")


@dataclass(frozen=True)
class StepBreakdown:
    """Milliseconds of a step with so many sequences and threads each, by its parts: ``model`` without its attention,
    ``attention``, ``sampling``, ``input`` filled on the host, its ``copy`` to the device, and what is left: the
    ``interpreter`` and the scheduler. The clock waits for the device at each part, which hides nothing but overlap.
    Where steps run as graphs, ``model`` is the whole graph of a pass, and the other two are what is done behind it.

    ``wall`` is what a step takes while nothing is timed within it; ``ahead`` the share of these steps that were
    launched before the last one's tokens were seen, ``dropped`` the places of a step that were launched in vain."""

    sequences: int
    threads: int
    model: float
    attention: float
    sampling: float
    input: float
    copy: float
    interpreter: float
    wall: float
    ahead: float
    dropped: float

    @property
    def total(self) -> float:
        """The whole step."""
        return sum(getattr(self, part) for part in PARTS)

    @property
    def host(self) -> float:
        """The share of it in which the host works and the device, if it is another, waits."""
        return (self.input + self.interpreter) / self.total


def measure_breakdown(
    engine: Engine, widths: Sequence[tuple[int, int]], context: int, steps: int
) -> Iterator[StepBreakdown]:
    """The parts of a step for each pair of sequences and threads; those that the model's window has no room for are
    left out."""
    for sequences, threads in (width for width in widths if fits(engine, width[1], context, 2 * steps)):
        scheduler = running(engine, sequences, threads, context, 2 * steps)
        for _ in range(WARM_UP):
            scheduler.step()
        ahead, dropped = scheduler.ahead.steps, scheduler.ahead.dropped
        started = now(engine)
        for _ in range(steps):
            scheduler.step()
        wall = now(engine) - started
        counted = (scheduler.ahead.steps - ahead) / steps, (scheduler.ahead.dropped - dropped) / steps
        with Stopwatch(engine) as watch:
            started = now(engine)
            for _ in range(steps):
                scheduler.step()
            spent = now(engine) - started
        parts = {part: 1000 * seconds / steps for part, seconds in _parts(watch.seconds, spent).items()}
        yield StepBreakdown(sequences, threads, **parts, wall=1000 * wall / steps, ahead=counted[0], dropped=counted[1])


def _parts(spent: dict[str, float], total: float) -> dict[str, float]:
    own = {part: spent[part] for part in PARTS}
    own["model"] -= own["attention"]
    return own | {"interpreter": max(0.0, total - sum(own.values()))}


class Stopwatch:
    """Adds up the seconds that the parts of a step take while it is open."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.seconds: dict[str, float] = defaultdict(float)

    def __enter__(self) -> Stopwatch:
        self._open = ExitStack()
        runner = self.engine.runner
        timed: dict[str, tuple[tuple[object, str], ...]] = {
            "model": ((runner, "run_model"), (runner.graphs, "run")),
            "attention": ((attention, "attend"), (compiled, "attend")),  # of models as they are, and of compiled ones
            "sampling": ((Sampler, "choose"), (runner.choices, "run"), (Sampler, "settle")),
            "input": ((StepInput, "fill_queries"), (StepInput, "fill_draws")),
            "copy": ((StepBuffers, "copy"),),
        }
        for part, functions in timed.items():
            for owner, name in functions:
                self._open.enter_context(self._timing(part, owner, name))
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    @contextmanager
    def _timing(self, part: str, owner: object, name: str) -> Iterator[None]:
        own = getattr(owner, name)
        setattr(owner, name, self._timed(part, own))
        try:
            yield
        finally:
            setattr(owner, name, own)

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            started = now(self.engine)
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[part] += now(self.engine) - started

        return timed
