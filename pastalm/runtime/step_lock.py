"""The lock under which an engine runs its steps, and what is put off until the one that runs is over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock


class StepLock:
    """One thread at a time holds it, and one that holds it does not get it again: a callback that a step calls may not
    decode in its middle.

    What is to happen between two steps is given to :meth:`between_steps`, which never waits: Python's garbage collector
    may close an abandoned stream anywhere, in the middle of a step, too.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._held = False
        self._calls: deque[Callable[[], None]] = deque()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Raises ``RuntimeError`` if this thread holds it already."""
        try:
            with self._lock:
                if self._held:
                    raise RuntimeError(
                        "A callback cannot use the engine that calls it, in the middle of a step: decode when the "
                        "call that it serves has returned, or with an engine of its own."
                    )
                try:
                    self._held = True
                    yield
                finally:
                    self._held = False
        finally:
            self._call()

    def between_steps(self, call: Callable[[], None]) -> None:
        """Call this now, or, while the lock is held, as soon as it is free."""
        self._calls.append(call)
        self._call()

    def _call(self) -> None:
        # Whoever holds the lock comes here when it is free, and finds what was put off.
        while self._calls and not self._held and self._lock.acquire(blocking=False):
            try:
                self._held = True  # what is put off meanwhile comes next
                if self._calls:
                    self._calls.popleft()()
            finally:
                self._held = False
                self._lock.release()
