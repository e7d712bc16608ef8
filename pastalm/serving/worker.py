"""The thread that decodes: it alone touches the engine, and runs the jobs of many clients in one batch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

from pastalm.lang.positions import position_policy
from pastalm.lang.prompt import Prompt
from pastalm.runtime.engine import Engine
from pastalm.runtime.events import NO_TOKEN, DoneEvent, Event, TokenEvent
from pastalm.runtime.memory import OutOfMemoryError
from pastalm.runtime.response import Response, TokenLogprob
from pastalm.runtime.sequence import Sequence
from pastalm.serving.document import Document
from pastalm.serving.errors import (
    ClientLeftError,
    InsufficientMemoryError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    ServingError,
    StoppedError,
)
from pastalm.serving.metrics import ServerMetrics, Timer
from pastalm.serving.threads import ThreadEvent, ThreadLog

LAST_PLACE = ((1 << 31) - 1,)  # behind all that an answer holds


@dataclass(frozen=True)
class JobProgress:
    """What a step has brought: text of the answer that has become known, in the order of the document; if the job asks
    for them, what each thread did, the tokens that were decoded, and the probabilities of the tokens that have become
    known. The text of the last of these may come with a later piece, as that of half a character does."""

    text: str
    events: tuple[ThreadEvent, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    tokens: tuple[int, ...] = ()


# What a client hears of its job: progress if it streams, and last the response, or why there is none.
JobMessage = JobProgress | Response | ServingError
Outbox = asyncio.Queue[tuple[int, JobMessage]]


class Job:
    """One answer that a client waits for. Made in the client's event loop, where ``outbox`` is read; the worker puts
    there ``(index, message)``, so that several jobs may share one. ``events`` asks a stream for thread events."""

    def __init__(
        self,
        prompt: Prompt,
        options: dict[str, Any],
        *,
        stream: bool,
        events: bool = False,
        index: int = 0,
        outbox: Outbox | None = None,
    ) -> None:
        self.prompt, self.options, self.stream, self.index = prompt, options, stream, index
        self.events = events
        self.outbox: Outbox = outbox or asyncio.Queue()
        self.document = Document()
        self.threads: ThreadLog | None = None  # where events are asked for
        self.timer: Timer | None = None  # from when it is submitted
        self._loop = asyncio.get_running_loop()

    def tokens(self, happened: Iterable[Event]) -> Iterator[int]:
        """The tokens that events tell of, for a client that reads them itself."""
        if self.options.get("stop_token_ids") is not None:
            yield from (one.token for one in happened if isinstance(one, TokenEvent) and one.token != NO_TOKEN)

    def send(self, message: JobMessage) -> None:
        """Put a message where the client reads it; from the worker's thread."""
        with suppress(RuntimeError):  # its loop is closed: there is nobody left to read
            self._loop.call_soon_threadsafe(self.outbox.put_nowait, (self.index, message))


class Worker:
    """Decodes up to ``max_batch`` jobs at once; up to ``max_waiting`` more stand in line, in the order they came.

    ``engine`` needs ``max_model_len``, the cache slots of one job; the cache grows with the jobs that come, and is
    given back after ``idle_seconds`` without any.
    ``max_batch_threads`` bounds the threads of a step, of all jobs together, as that of
    :class:`pastalm.runtime.scheduler.Scheduler`.
    :meth:`submit`, :meth:`cancel` and :meth:`close` may be called from any thread and return at once; what they ask for
    happens between two steps.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch: int = 8,
        max_waiting: int = 256,
        max_batch_threads: int | None = None,
        idle_seconds: float = 60.0,
        metrics: ServerMetrics | None = None,
    ) -> None:
        if engine.max_model_len is None:
            raise ValueError("A worker's engine needs max_model_len: the cache slots that each of its jobs may take.")
        if max_batch < 1 or max_waiting < 0:
            raise ValueError(
                f"A worker needs max_batch of at least 1, not {max_batch}, and max_waiting of at least 0, not "
                f"{max_waiting}."
            )
        self.engine, self.max_batch, self.max_open = engine, max_batch, max_batch + max_waiting
        self.idle_seconds = idle_seconds
        self.scheduler = engine.scheduler(max_batch, engine.max_model_len, max_batch_threads)
        try:
            self.scheduler.reserve()
        except RuntimeError as error:  # what torch raises for memory that it does not get
            raise ValueError(
                "There is no room for a cache beside this model: take a smaller one, another --dtype or --device."
            ) from error
        self._seconds = 1.0  # that an answer has taken lately, without its time in line
        self.open = 0  # jobs that are not finished; under the lock
        self.stopped = False  # under the lock
        self._requests: dict[Job, Sequence] = {}  # those the scheduler knows; the worker's thread alone
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = Lock()
        self.metrics = metrics or ServerMetrics("pasta")
        self._watch()
        self._thread = Thread(target=self._run, name="pasta worker", daemon=True)

    def _watch(self) -> None:
        scheduler, watch = self.scheduler, self.metrics.watch
        watch("num_requests_running", "Requests that are decoded.", lambda: len(scheduler.running))
        watch("num_requests_waiting", "Requests in line.", lambda: max(0, self.open - len(scheduler.running)))
        watch("kv_cache_slots_used", "Slots of the cache that hold a token.", lambda: scheduler.slots_used)
        watch("kv_cache_usage_perc", "The same as a share of all slots, from 0 to 1.", lambda: scheduler.usage)

    @property
    def alive(self) -> bool:
        """Whether it takes jobs."""
        return self._thread.is_alive() and not self.stopped

    def start(self) -> None:
        """Start the thread. A worker works once."""
        self._thread.start()

    def submit(self, *jobs: Job) -> None:
        """Put jobs in line, all or none. Raises :class:`OverloadedError` or :class:`StoppedError`, and
        :class:`InvalidRequestError` for more than there is ever room for; whether a job is sound comes as its message.
        """
        with self._lock:
            if self.stopped:
                raise StoppedError
            if len(jobs) > self.max_open:
                self.metrics.ended("refused")
                raise InvalidRequestError(
                    f"This server takes at most {self.max_open} answers at a time, not {len(jobs)}: ask for fewer at "
                    "once."
                )
            if self.open + len(jobs) > self.max_open:
                self.metrics.ended("overloaded")
                raise self._overloaded(len(jobs))
            self.open += len(jobs)
            for job in jobs:
                job.timer = Timer(self.metrics)
                self._inbox.put(lambda job=job: self._open(job))  # type: ignore[misc]

    def _overloaded(self, more: int) -> OverloadedError:
        waiting = self.max_open - self.max_batch
        return OverloadedError(
            f"{self.max_batch} requests are decoded and {waiting} may wait in line: there is no room for {more} more.",
            self._seconds * max(1.0, (self.open - self.max_batch) / self.max_batch),
        )

    def cancel(self, *jobs: Job) -> None:
        """Take jobs back, wherever they are; nothing for those that are finished."""
        for job in jobs:
            self._inbox.put(lambda job=job: self._cancel(job))  # type: ignore[misc]

    def close(self) -> None:
        """Stop: whoever is still served is told a :class:`StoppedError`."""
        self._inbox.put(self._stop)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self.stopped:
                self._take_calls()
                self._step()
                self._report()
        finally:  # also after a bug of ours: nobody is left waiting for a message
            self._stop()
            for job in [*self._requests]:
                self._finish(job, StoppedError())
            self._drain_inbox()

    def _step(self) -> None:
        self.scheduler.step()
        if threads := self.scheduler.threads:
            self.metrics.steps.inc()
            self.metrics.threads_per_step.observe(threads)

    def _take_calls(self) -> None:
        """Do what is asked for; without any job at work, wait for that."""
        if not self._requests:
            self._wait()()
        self._drain_inbox()

    def _wait(self) -> Callable[[], None]:
        """The next thing that is asked for. A long wait gives the memory of the cache back."""
        try:
            return self._inbox.get(timeout=self.idle_seconds)
        except Empty:
            self.scheduler.shrink()
            return self._inbox.get()

    def _drain_inbox(self) -> None:
        with suppress(Empty):
            while True:
                self._inbox.get_nowait()()

    def _open(self, job: Job) -> None:
        if self.stopped:
            return self._finish(job, StoppedError())
        try:
            request = self.engine.request(job.prompt, eager=job.stream, **job.options)
        except ValueError as error:  # refusals of the engine, the tokenizer or its template
            return self._finish(job, InvalidRequestError(str(error)))
        except Exception as error:
            return self._fail(job, error)
        if job.events:
            job.threads = ThreadLog(position_policy(self.engine.positions).unit)
        self._requests[job] = request
        return self.scheduler.add(request)

    def _cancel(self, job: Job) -> None:
        if job in self._requests:
            self.scheduler.cancel(self._requests[job])
            self._finish(job, ClientLeftError("The client has left."))

    def _stop(self) -> None:
        with self._lock:
            self.stopped = True

    def _report(self) -> None:
        """Tell each client what the step has brought."""
        for job, request in [*self._requests.items()]:
            if job.timer:
                job.timer.see(request.interpreter.sampled)
            if job.stream:
                self._send_progress(job, request)
            if request.error is not None:
                self._fail(job, request.error)
            elif request.response is not None:
                self._finish(job, request.response)

    def _send_progress(self, job: Job, request: Sequence) -> None:
        happened: list[Event] = request.interpreter.transcript.drain()
        if request.response is not None:
            happened.append(DoneEvent((), LAST_PLACE, request.response))
        for event in happened:
            job.document.take(event)
        step, threads = request.interpreter.rounds, job.threads
        events = tuple(threads.take(event, step) for event in happened) if threads else ()
        text, logprobs = job.document.read(), request.logprobs and request.logprobs.fresh(request.interpreter)
        tokens = tuple(job.tokens(happened))
        if text or events or logprobs or tokens:
            job.send(JobProgress(text, events, logprobs or None, tokens))

    def _fail(self, job: Job, error: Exception) -> None:
        if isinstance(error, OutOfMemoryError):
            return self._finish(job, InsufficientMemoryError())
        logging.getLogger(__name__).error("A request failed.", exc_info=error)
        return self._finish(job, InternalError())

    def _finish(self, job: Job, last: Response | ServingError) -> None:
        self._requests.pop(job, None)
        with self._lock:
            self.open -= 1
        self._measure(job, last)
        job.send(last)

    def _measure(self, job: Job, last: Response | ServingError) -> None:
        if isinstance(last, ServingError):
            return self.metrics.ended(last.outcome)
        seconds = job.timer.seconds if job.timer else 0.0
        self._seconds += (last.metrics.wall_seconds - self._seconds) / 8
        return self.metrics.answered(last.metrics, last.prompt_tokens, last.finish_reason, seconds)
