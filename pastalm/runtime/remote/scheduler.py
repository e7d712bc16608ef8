"""Sequences side by side over a completion server."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from math import nan
from threading import Condition, RLock, Thread

from pastalm.runtime.remote.completions import Completions
from pastalm.runtime.remote.router import PrefixRouter
from pastalm.runtime.remote.server import Completion, CompletionServer, RemoteError
from pastalm.runtime.remote.stream import TokenStream
from pastalm.runtime.sequence import Sequence

PATIENCE = 0.05  # seconds that a step waits for a token before its caller may look around


class RemoteScheduler:
    """Decodes up to ``max_batch`` sequences at once; more wait in line. At most ``max_streams`` completions are asked
    for at once, first come first served.

    It has the interface of :class:`pastalm.runtime.scheduler.Scheduler`. Sequences do not wait for one another: a step
    takes a round of each one whose due threads all have their next token. One thread at a time may call it; the
    completions are read in a thread of its own, until :meth:`close`.
    """

    def __init__(self, server: CompletionServer, max_batch: int, *, max_streams: int = 256) -> None:
        if max_batch < 1 or max_streams < 1:
            raise ValueError(f"max_batch and max_streams must be at least 1, not {max_batch} and {max_streams}.")
        self.server, self.max_batch = server, max_batch
        self.waiting: deque[Sequence] = deque()
        self.running: dict[Sequence, Completions] = {}
        self.router = PrefixRouter(len(server.clients))
        self._places: dict[Sequence, int] = {}  # all threads of a sequence ask the server that has its prompt
        self.requests = self.prompt_tokens = 0  # of sequences that are finished
        self.threads = 0  # whose tokens were taken in the last step
        self._arrived = Condition()
        self._turn = RLock()  # of who steps, cancels or closes
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._gate = asyncio.Semaphore(max_streams)
        self._thread = Thread(target=self._loop.run_forever, name="pasta remote", daemon=True)
        self._thread.start()

    @property
    def slots_used(self) -> int:
        """How many tokens the views of all running threads hold; the server's cache shares their beginnings."""
        return sum(completions.tokens for completions in [*self.running.values()])

    @property
    def usage(self) -> float:
        """Not a number: how much of the cache is used is the server's to know."""
        return nan

    def longest(self) -> int | None:
        """See :meth:`pastalm.runtime.remote.server.CompletionServer.longest`."""
        return asyncio.run_coroutine_threadsafe(self.server.longest(), self._loop).result()

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in line."""
        self.waiting.append(sequence)

    def reserve(self) -> None:
        """The cache is the server's: there is nothing to make."""

    def shrink(self) -> None:
        """There is nothing to give back either."""

    def cancel(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is; its completions end. A finished one stays as it is."""
        with self._turn:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            if sequence in self.running:
                self._retire(sequence)

    def step(self) -> bool:
        """Admit what fits, take the tokens that have come; returns whether there is more to do. Behind :meth:`close` it
        ends all sequences with :class:`RemoteError`."""
        with self._turn:
            if self._closed:
                self._fail_all()
            else:
                self._advance()
        return bool(self.running or self.waiting)

    def close(self) -> None:
        """End all completions, with :class:`RemoteError` for their sequences, and the thread that reads them."""
        self._closed = True  # a step that is on its way is the last one
        with self._turn:
            self._fail_all()
            if self._loop.is_closed():
                return
            asyncio.run_coroutine_threadsafe(self.server.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _advance(self) -> None:
        while self.waiting and len(self.running) < self.max_batch:
            self._admit(self.waiting.popleft())
        with self._arrived:
            ready = self._arrived.wait_for(lambda: [one for one in self.running.values() if one.ready], PATIENCE)
        self.threads = sum(completions.threads for completions in ready or ())
        for completions in ready:
            completions.advance()
        for sequence in [one for one in self.running if one.finished]:
            self._retire(sequence)

    def _fail_all(self) -> None:
        sequences = [*self.waiting, *self.running]
        self.waiting.clear()
        for sequence in sequences:
            sequence.fail(RemoteError("This engine was released: make a new one."))
            if sequence in self.running:
                self._retire(sequence)

    def _admit(self, sequence: Sequence) -> None:
        place = self._places[sequence] = self.router.take(sequence.prompt)
        self.running[sequence] = Completions(sequence, partial(self._start, place))

    def _start(self, place: int, asked: Completion) -> TokenStream:
        return TokenStream(asked, self.server.tokens(asked, place), self._gate, self._loop, self._notify)

    def _retire(self, sequence: Sequence) -> None:
        completions = self.running.pop(sequence)
        completions.close()
        self.router.back(self._places.pop(sequence))
        self.requests += completions.requests
        self.prompt_tokens += completions.prompt_tokens

    def _notify(self) -> None:
        with self._arrived:
            self._arrived.notify_all()
