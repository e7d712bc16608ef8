"""Requests side by side: each step runs one group of threads of every request in one forward pass."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from time import perf_counter

from torch import Tensor

from pastalm.lang.recogniser import Legal
from pastalm.runtime.interpreter import Interpreter
from pastalm.runtime.pool import Lane, Pool
from pastalm.runtime.response import Response, respond
from pastalm.runtime.runner import Runner
from pastalm.runtime.thread import Path, Thread

# Chooses the next token of each thread from its row of logits [T, V]: a sampler, or a known answer.
Chooser = Callable[[Tensor, Sequence[Legal], Sequence[Path]], list[int]]
# Is shown every choice: thread, logits [V], token. For tests and tools.
Observer = Callable[[Path, Tensor, int], None]


@dataclass(eq=False)
class Request:
    """One prompt on its way to an answer. ``order`` may reorder the threads of a round (parents stay before children);
    nothing depends on it, which the tests show."""

    prompt: Sequence[int]
    interpreter: Interpreter
    choose: Chooser
    order: Callable[[list[Thread]], list[Thread]] = list
    observe: Observer | None = None
    lane: Lane | None = None
    groups: deque[list[Thread]] = field(default_factory=deque)
    steps: int = 0
    started: float = 0.0  # when it got its lane: time in line is not its own
    response: Response | None = None
    error: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether it has its response, or never will."""
        return self.response is not None or self.error is not None

    def result(self) -> Response:
        """The response of a request that is over; raises the error that ended it."""
        if self.error is not None:
            raise self.error
        if self.response is None:
            raise RuntimeError("This request is not over: its batcher has steps to do.")
        return self.response

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What fails in here ends this request and no other."""
        try:
            yield
        except Exception as error:
            self.error = error

    def open_round(self) -> None:
        """Plan the next round: its threads in groups of at most ``max_threads``; or finish."""
        due = self.order(self.interpreter.due())
        width = self.interpreter.limits.max_threads or max(1, len(due))
        self.groups = deque(due[k : k + width] for k in range(0, len(due), width))
        if not due:
            self.response = respond(self.interpreter, len(self.prompt), self.steps, perf_counter() - self.started)

    def take_in(self, group: list[Thread], logits_TV: Tensor) -> None:
        """Choose a token for each thread of a group, and open the next round when this one is through."""
        paths = [thread.path for thread in group]
        tokens = self.choose(logits_TV, [thread.reader.legal() for thread in group], paths)
        before = self.interpreter.sampled
        for thread, token, row in zip(group, tokens, logits_TV, strict=True):
            if self.observe:
                self.observe(thread.path, row, token)
            self.interpreter.accept(thread, token)
        self.steps += self.interpreter.sampled > before
        if not self.groups:
            self.interpreter.end_round()
            self.open_round()


class Batcher:
    """Decodes up to ``lanes`` requests at once, ``slots`` cache slots each; more wait until a lane is free.

    Requests run in the order of their lanes, the lowest free lane is taken first: lanes side by side need no copy. An
    error ends the request that it is about, a forward pass that fails ends those in it; the others go on.
    """

    def __init__(self, runner: Runner, lanes: int, slots: int) -> None:
        if lanes < 1:
            raise ValueError(f"A batch must be at least 1 request, not {lanes}.")
        self.runner = runner
        self.pool = Pool(lanes, slots + 1, runner.device)
        self.free = list(self.pool.lanes)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def add(self, request: Request) -> None:
        """Put a request in line."""
        self.waiting.append(request)

    def reserve(self) -> None:
        """Make the cache now, not with the first request. Raises what torch raises where there is no room."""
        lane = self.pool.lanes[0]
        self.runner.prefill(self.pool, lane, [0])
        lane.clear()

    def cancel(self, request: Request) -> None:
        """Take a request out, wherever it is: its lane is free for the next. One that is over stays as it is."""
        if request in self.waiting:
            self.waiting.remove(request)
        if request.lane is not None:
            self.running.remove(request)
            self._release(request)

    def step(self) -> bool:
        """Admit what fits, run one step; returns whether there is more to do."""
        for _ in range(min(len(self.waiting), len(self.free))):  # those that end at once do not keep the others waiting
            self._admit(self.waiting.popleft())
        if self.running:
            self._decode()
            self._retire()
        return bool(self.running or self.waiting)

    def _admit(self, request: Request) -> None:
        request.started = perf_counter()
        lane = request.lane = heappop(self.free)
        insort(self.running, request, key=lambda one: one.lane.index if one.lane else 0)
        with request.guarded():
            request.open_round()
            logits = self.runner.prefill(self.pool, lane, request.prompt)
            if request.groups:
                request.take_in(request.groups.popleft(), logits[None])
        self._retire()

    def _decode(self) -> None:
        groups = [request.groups.popleft() for request in self.running]
        try:
            logits = self._forward(groups)
        except Exception as error:  # what each of them has been fed is not known any more
            for request in self.running:
                request.error = error
            return
        for request, group, rows in zip(self.running, groups, logits, strict=True):
            with request.guarded():
                request.take_in(group, rows)

    def _forward(self, groups: Sequence[list[Thread]]) -> list[Tensor]:
        """Logits [threads, V] for each running request's group."""
        operations = [
            [op for thread in group for op in request.interpreter.take(thread)]
            for request, group in zip(self.running, groups, strict=True)
        ]
        paths = [[thread.path for thread in group] for group in groups]
        lanes = [request.lane for request in self.running if request.lane is not None]
        return self.runner.decode(self.pool, lanes, operations, paths)

    def _retire(self) -> None:
        """Free the lanes of requests that are over."""
        for request in self.running:
            if request.over:
                self._release(request)
        self.running = [request for request in self.running if not request.over]

    def _release(self, request: Request) -> None:
        if request.lane is not None:
            request.lane.clear()
            heappush(self.free, request.lane)
            request.lane = None
