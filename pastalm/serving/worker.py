"""The thread that decodes: it alone touches the engine, and runs the requests of many clients in one batch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

from pastalm.lang.prompt import Prompt
from pastalm.runtime.batcher import Batcher, Request
from pastalm.runtime.engine import Engine
from pastalm.runtime.events import DoneEvent
from pastalm.runtime.response import Response
from pastalm.serving.document import Document
from pastalm.serving.errors import BrokenError, FullError, InvalidError, ServingError, StoppedError, WithdrawnError

# What a client hears of its request: pieces of text if it streams, and last the response, or why there is none.
News = str | Response | ServingError


class Ticket:
    """One request of one client. Made in the client's event loop, where ``news`` is read; told by the worker."""

    def __init__(self, prompt: Prompt, options: dict[str, Any], *, stream: bool) -> None:
        self.prompt, self.options, self.stream = prompt, options, stream
        self.news: asyncio.Queue[News] = asyncio.Queue()
        self.document = Document()
        self._loop = asyncio.get_running_loop()

    def tell(self, news: News) -> None:
        """Put news where the client reads them; from the worker's thread."""
        with suppress(RuntimeError):  # its loop is closed: there is nobody left to tell
            self._loop.call_soon_threadsafe(self.news.put_nowait, news)


class Worker:
    """Decodes up to ``lanes`` requests at once; up to ``max_waiting`` more stand in line, in the order they came.

    ``engine`` needs ``pool_tokens``, the cache slots of a lane. The cache is made at once; ``ValueError`` says if there
    is no room for it. :meth:`submit`, :meth:`cancel` and :meth:`close` may be called from any thread and return at
    once; what they ask for happens between two steps.
    """

    def __init__(self, engine: Engine, *, lanes: int = 8, max_waiting: int = 256) -> None:
        if engine.pool_tokens is None:
            raise ValueError("A worker's engine needs pool_tokens: the cache slots that each of its lanes has.")
        if lanes < 1 or max_waiting < 0:
            raise ValueError(f"A worker needs a lane and a line, not {lanes} lanes and {max_waiting} waiting.")
        self.engine, self.lanes, self.room = engine, lanes, lanes + max_waiting
        self.batcher = Batcher(engine.runner, lanes, engine.pool_tokens)
        try:
            self.batcher.reserve()
        except RuntimeError as error:  # what torch raises for memory that it does not get
            raise ValueError(
                f"There is no room for a cache of {lanes} lanes with {engine.pool_tokens} tokens each; take fewer."
            ) from error
        self.open = 0  # tickets that are not over; under the lock
        self.stopped = False  # under the lock
        self._requests: dict[Ticket, Request] = {}  # those the batcher knows; the worker's thread alone
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = Lock()
        self._thread = Thread(target=self._run, name="pasta worker", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self.stopped

    def start(self) -> None:
        """Start the thread. A worker works once."""
        self._thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Put a ticket in line. Raises :class:`FullError` or :class:`StoppedError`; whether the request is sound is
        told as news."""
        with self._lock:
            if self.stopped:
                raise StoppedError
            if self.open >= self.room:
                raise FullError(
                    f"All lanes and all {self.room - self.lanes} places in line are taken; ask again later."
                )
            self.open += 1
            self._inbox.put(lambda: self._open(ticket))

    def cancel(self, ticket: Ticket) -> None:
        """Take a ticket back, wherever it is; nothing if it is over."""
        self._inbox.put(lambda: self._cancel(ticket))

    def close(self) -> None:
        """Stop: whoever is still served is told a :class:`StoppedError`."""
        self._inbox.put(self._stop)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self.stopped:
                self._heed()
                self.batcher.step()
                self._report()
        finally:  # also after a bug of ours: nobody is left waiting for news
            self._stop()
            for ticket in [*self._requests]:
                self._close(ticket, StoppedError())
            self._empty()

    def _heed(self) -> None:
        """Do what is asked for; without any request at work, wait for that."""
        if not self._requests:
            self._inbox.get()()
        self._empty()

    def _empty(self) -> None:
        with suppress(Empty):
            while True:
                self._inbox.get_nowait()()

    def _open(self, ticket: Ticket) -> None:
        if self.stopped:
            return self._close(ticket, StoppedError())
        try:
            request = self.engine.request(ticket.prompt, eager=ticket.stream, **ticket.options)
        except ValueError as error:  # refusals of the engine, the tokenizer or its template
            return self._close(ticket, InvalidError(str(error)))
        except Exception as error:
            return self._fail(ticket, error)
        self._requests[ticket] = request
        return self.batcher.add(request)

    def _cancel(self, ticket: Ticket) -> None:
        if ticket in self._requests:
            self.batcher.cancel(self._requests[ticket])
            self._close(ticket, WithdrawnError("The client has left."))

    def _stop(self) -> None:
        with self._lock:
            self.stopped = True

    def _report(self) -> None:
        """Tell each client what the step has brought."""
        for ticket, request in [*self._requests.items()]:
            if ticket.stream:
                self._tell_text(ticket, request)
            if request.error is not None:
                self._fail(ticket, request.error)
            elif request.response is not None:
                self._close(ticket, request.response)

    def _tell_text(self, ticket: Ticket, request: Request) -> None:
        for event in request.interpreter.drain():
            ticket.document.take(event)
        if request.response is not None:
            ticket.document.take(DoneEvent((), (), request.response))
        if text := ticket.document.read():
            ticket.tell(text)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        logging.getLogger(__name__).error("A request failed.", exc_info=error)
        self._close(ticket, BrokenError())

    def _close(self, ticket: Ticket, last: News) -> None:
        self._requests.pop(ticket, None)
        with self._lock:
            self.open -= 1
        ticket.tell(last)
