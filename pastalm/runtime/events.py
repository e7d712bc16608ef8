"""What a running answer tells while it is decoded. Each event has its ``kind``, its thread and its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pastalm.runtime.response import Response
from pastalm.runtime.thread import ThreadPath

NO_TOKEN = -1


@dataclass(frozen=True)
class TokenEvent:
    """A token was decoded. ``text`` is what can be shown now of its thread (empty for tags and unfinished characters).

    Each sampled token has one event, the end of the answer none, nor has the step that begins a chunk in sequential
    mode; text that another token brought to light comes with ``NO_TOKEN``.

    ``place`` orders texts as the document does: sorted by place, the texts of all events joined are the answer.
    """

    kind: ClassVar[str] = "token"
    thread: ThreadPath
    place: tuple[int, ...]
    token: int
    text: str


@dataclass(frozen=True)
class ForkEvent:
    """A promise is complete and its chunk starts, at ``place``."""

    kind: ClassVar[str] = "fork"
    thread: ThreadPath
    place: tuple[int, ...]
    topic: str
    promised: int


@dataclass(frozen=True)
class WaitEvent:
    """A thread has written a sync; it goes on when its open chunks are complete, with a :class:`JoinEvent`."""

    kind: ClassVar[str] = "wait"
    thread: ThreadPath
    place: tuple[int, ...]


@dataclass(frozen=True)
class JoinEvent:
    """A sync is over: ``thread`` sees the text of ``children`` from here on."""

    kind: ClassVar[str] = "join"
    thread: ThreadPath
    place: tuple[int, ...]
    children: tuple[ThreadPath, ...]


@dataclass(frozen=True)
class DoneEvent:
    """A thread is done. For the main thread it is the last event, and ``response`` is the whole answer."""

    kind: ClassVar[str] = "done"
    thread: ThreadPath
    place: tuple[int, ...]
    response: Response | None = None


Event = TokenEvent | ForkEvent | WaitEvent | JoinEvent | DoneEvent
