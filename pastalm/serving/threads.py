"""Thread events: which thread of an answer wrote what, at which place, for clients that show it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from pastalm.runtime.events import DoneEvent, Event, ForkEvent, JoinEvent, TokenEvent, WaitEvent
from pastalm.runtime.thread import ThreadPath

ThreadState = Literal["writing", "waiting", "done"]


class ThreadEvent(BaseModel):
    """What a thread did in a step.

    ``step``: the decode step, as the critical path counts. ``thread``: the thread's id, its path in the tree: ``[]`` is
    the main thread, ``[1]`` its second chunk, ``[1, 0]`` the first chunk in that. ``parent``: the id of the thread that
    promised it, null for the main thread. ``topic`` and ``promised_tokens``: what the promise said.
    ``place``: sorted by place, the texts of all events joined are the answer. ``text``: what it wrote, as far as it can
    be shown. ``tokens``: how many tokens that took, tags included. ``state``: what the thread does from here on;
    "waiting" is for its chunks.
    """

    step: int
    thread: tuple[int, ...]
    parent: tuple[int, ...] | None
    topic: str
    promised_tokens: int
    place: tuple[int, ...]
    text: str
    tokens: int
    state: ThreadState


class ThreadLog:
    """Turns what a running answer tells into thread events. ``unit``: how many tokens a promise's number counts in."""

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self._promises: dict[ThreadPath, tuple[str, int]] = {(): ("", 0)}
        self._states: dict[ThreadPath, ThreadState] = {(): "writing"}

    def take(self, event: Event, step: int) -> ThreadEvent:
        """The event for clients. Events must come in their order."""
        if isinstance(event, ForkEvent):
            self._promises[event.thread] = event.topic, event.promised * self.unit
        self._states[event.thread] = self._state(event)
        topic, promised = self._promises[event.thread]
        token = event if isinstance(event, TokenEvent) else None
        return ThreadEvent(
            step=step,
            thread=event.thread,
            parent=event.thread[:-1] if event.thread else None,
            topic=topic,
            promised_tokens=promised,
            place=event.place,
            text=token.text if token else "",
            tokens=int(token is not None and token.token >= 0),
            state=self._states[event.thread],
        )

    def _state(self, event: Event) -> ThreadState:
        if isinstance(event, DoneEvent):
            return "done"
        if isinstance(event, WaitEvent):
            return "waiting"
        return "writing" if isinstance(event, ForkEvent | JoinEvent) else self._states[event.thread]
