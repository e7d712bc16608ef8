"""The reader's text of an answer while its threads write it: in document order, each piece once."""

from __future__ import annotations

from collections import deque

from pastalm.runtime.events import DoneEvent, Event, ForkEvent, TokenEvent
from pastalm.runtime.thread import ThreadPath


class Document:
    """Takes the events of an eager request and gives out its text as soon as all text before it is known.

    All that is given out, joined, is the text of the response. What stands after a chunk waits until the chunk is done.
    """

    def __init__(self) -> None:
        # A thread's texts, and its chunks in their places.
        self._unread: dict[ThreadPath, deque[str | ThreadPath]] = {(): deque()}
        self._done: set[ThreadPath] = set()
        self._reading: list[ThreadPath] = [()]  # the thread that is being read, after those that it stands in

    def take(self, event: Event) -> None:
        """Learn from an event. The main thread's end is the last one, with the response."""
        if isinstance(event, TokenEvent) and event.text:
            self._unread[event.thread].append(event.text)
        elif isinstance(event, ForkEvent):
            self._unread[event.thread[:-1]].append(event.thread)
            self._unread[event.thread] = deque()
        elif isinstance(event, DoneEvent):
            self._done.add(event.thread)

    def read(self) -> str:
        """The text that has become known since the last call."""
        texts: list[str] = []
        while self._reading:
            thread = self._reading[-1]
            if not self._unread[thread]:
                if thread not in self._done:
                    break
                self._reading.pop()
            elif isinstance(part := self._unread[thread].popleft(), str):
                texts.append(part)
            else:
                self._reading.append(part)
        return "".join(texts)
