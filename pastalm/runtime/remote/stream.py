"""The completion of one thread while it comes in: tokens that wait to be read, ahead of the interpreter."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from pastalm.runtime.remote.server import Completion, RemoteError


class TokenStream:
    """Reads ``tokens`` in a task of ``loop``, once ``gate`` lets it; ``notify`` is called, there, when something has
    come. ``prefix`` are the ids that it stands behind: the prompt of what was ``asked``, and the tokens that have been
    taken."""

    def __init__(
        self,
        asked: Completion,
        tokens: AsyncIterator[int],
        gate: asyncio.Semaphore,
        loop: asyncio.AbstractEventLoop,
        notify: Callable[[], None],
    ) -> None:
        self.prefix = list(asked.prompt)
        self._asked = asked
        self._waiting: deque[int] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._notify = notify
        self._task = asyncio.run_coroutine_threadsafe(self._read(tokens, gate), loop)

    @property
    def ready(self) -> bool:
        """Whether :meth:`take` would not wait."""
        return bool(self._waiting) or self._ended

    def goes_on_behind(self, seen: list[int]) -> bool:
        """Whether its next token is the one that follows ``seen``; a token that stops it was its last."""
        stopped = len(seen) > len(self._asked.prompt) and seen[-1] in self._asked.stop
        return self.prefix == seen and not stopped

    def take(self) -> int:
        """The next token. Raises what ended the completion, and :class:`RemoteError` if it has ended too early."""
        if self._waiting:
            self.prefix.append(self._waiting.popleft())
            return self.prefix[-1]
        raise self._error or RemoteError(
            f"The server ended a completion behind {len(self.prefix)} tokens, in the middle of a thread: its limit of "
            "length is lower than it says. Give a lower max_model_len."
        )

    def cancel(self) -> None:
        """Let the server know that nobody reads any more."""
        self._task.cancel()

    async def _read(self, tokens: AsyncIterator[int], gate: asyncio.Semaphore) -> None:
        try:
            async with gate:
                async for token in tokens:
                    self._waiting.append(token)
                    self._notify()
        except Exception as error:  # whatever it is, the sequence that waits for this thread must hear of it
            self._error = error
        finally:
            self._ended = True
            self._notify()
