"""Sequences side by side: each step runs one group of threads of every sequence in one forward pass."""

from __future__ import annotations

from bisect import insort
from collections import deque
from contextlib import ExitStack
from heapq import heappop, heappush
from time import perf_counter

from torch import Tensor

from pastalm.runtime.kv_cache import KVCache
from pastalm.runtime.outcome import respond
from pastalm.runtime.runner import Runner
from pastalm.runtime.sampler import Draw
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.step_input import Part
from pastalm.runtime.thread import Feed, Operation, Thread
from pastalm.runtime.visibility import JUNK, Query

PREFILL_CHUNK = 512  # prompt tokens a pass: bounds the mask, chunk x slots


class Scheduler:
    """Decodes up to ``max_batch`` sequences at once, ``max_model_len`` cache slots each; more wait in line.

    Sequences run in the order of their rows, and the lowest free row is taken first: rows side by side need no copy. An
    error ends the sequence that it is about, a forward pass that fails ends those in it; the others go on. One thread
    at a time may call it.
    """

    def __init__(self, runner: Runner, max_batch: int, max_model_len: int) -> None:
        if max_batch < 1:
            raise ValueError(f"A batch must be at least 1 request, not {max_batch}.")
        self.runner, self.max_batch, self.max_model_len = runner, max_batch, max_model_len
        self.cache = KVCache(max_batch, max_model_len, runner.device)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.threads = 0  # in the last step
        self._free = list(range(max_batch))

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits; then every row of the cache is free."""
        return not self.running and not self.waiting and len(self._free) == self.max_batch

    @property
    def free_rows(self) -> int:
        """How many more sequences can run at once."""
        return len(self._free)

    @property
    def slots_used(self) -> int:
        """How many slots of the cache hold a token."""
        return sum(sequence.visibility.used - 1 for sequence in [*self.running])

    @property
    def usage(self) -> float:
        """The same as a share of all slots."""
        return self.slots_used / (self.max_batch * self.max_model_len)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in line."""
        self.waiting.append(sequence)

    def reserve(self) -> None:
        """Make the cache now, not with the first request. Raises what torch raises where there is no room."""
        self.runner.step(self.cache, [Part(0, [Query(0, 0, JUNK, 1 << JUNK)], [0])])

    def cancel(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is: its row is free for the next. A finished one stays as it is."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)

    def step(self) -> bool:
        """Admit what fits, run one step; returns whether there is more to do."""
        for _ in range(min(len(self.waiting), len(self._free))):  # those that end at once keep no others waiting
            self._admit(self.waiting.popleft())
        self.threads = 0
        if self.running:
            try:
                self._decode()
            finally:
                self._retire()
        return bool(self.running or self.waiting)

    def _admit(self, sequence: Sequence) -> None:
        sequence.started = perf_counter()
        sequence.row = heappop(self._free)
        insort(self.running, sequence, key=lambda one: one.row or 0)
        try:
            with sequence.guarded():
                self._open_round(sequence)
                self._prefill(sequence, sequence.row)
        finally:
            self._retire()

    def _prefill(self, sequence: Sequence, row: int) -> None:
        """Read the prompt, piece by piece, and choose the first token."""
        group = sequence.groups.popleft()
        feeds: list[Operation] = [Feed((), token, position) for position, token in enumerate(sequence.prompt)]
        last = (len(feeds) - 1) // PREFILL_CHUNK * PREFILL_CHUNK
        for start in range(0, last, PREFILL_CHUNK):
            self.runner.step(self.cache, [_part(sequence, row, feeds[start : start + PREFILL_CHUNK], [])])
        tokens, logits = self.runner.step(self.cache, [_part(sequence, row, feeds[last:], group)])
        self._accept(sequence, group, tokens, logits)

    def _decode(self) -> None:
        groups = {sequence: sequence.groups.popleft() for sequence in self.running}
        self.threads = sum(map(len, groups.values()))
        parts: dict[Sequence, Part] = {}
        for sequence, group in groups.items():
            with sequence.guarded():
                operations = [op for thread in group for op in sequence.interpreter.take(thread)]
                parts[sequence] = _part(sequence, sequence.row or 0, operations, group)
        try:
            tokens, logits = self.runner.step(self.cache, list(parts.values()))
        except BaseException as error:  # what each of them has been fed is not known any more
            with ExitStack() as ended:
                for sequence in parts:
                    ended.callback(sequence.fail, error)
            return
        start = 0
        for sequence in parts:
            own = slice(start, start := start + len(groups[sequence]))
            with sequence.guarded():
                self._accept(sequence, groups[sequence], tokens[own], logits[own])

    def _accept(self, sequence: Sequence, group: list[Thread], tokens: list[int], logits_TV: Tensor) -> None:
        """Hand the tokens of a group to the interpreter, and open the next round when this one is through."""
        interpreter, before = sequence.interpreter, sequence.interpreter.sampled
        if sequence.teacher:
            legal = [thread.reader.legal() for thread in group]
            tokens = sequence.teacher(logits_TV, legal, [thread.path for thread in group])
        for thread, token, row in zip(group, tokens, logits_TV, strict=True):
            if sequence.observe:
                sequence.observe(thread.path, row, token)
            interpreter.accept(thread, token)
        sequence.steps += interpreter.sampled > before
        if not sequence.groups:
            interpreter.next_round()
            self._open_round(sequence)

    def _open_round(self, sequence: Sequence) -> None:
        """Plan the next round: its threads in groups of at most ``max_threads``; or give the response."""
        due = sequence.order(sequence.interpreter.due())
        width = sequence.interpreter.limits.max_threads or max(1, len(due))
        sequence.groups = deque(due[k : k + width] for k in range(0, len(due), width))
        if not due:
            seconds = perf_counter() - sequence.started
            sequence.response = respond(sequence.interpreter, len(sequence.prompt), sequence.steps, seconds)

    def _retire(self) -> None:
        """Free the rows of finished sequences."""
        for sequence in [one for one in self.running if one.finished]:
            self.running.remove(sequence)
            self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        if sequence.row is not None:
            heappush(self._free, sequence.row)
            sequence.row = None


def _part(sequence: Sequence, row: int, operations: list[Operation], group: list[Thread]) -> Part:
    """What a sequence feeds, and what is drawn for a group of its threads; for none, its last token's logits only."""
    queries, last = sequence.visibility.apply(operations)
    draws = [Draw(sequence.sampling, one.reader.legal(), one.path, len(one.written)) for one in group]
    return Part(row, queries, [last[one.path] for one in group] or [len(queries) - 1], draws)
