"""What is known of a running answer, thread by thread, from its events. Draws nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pastalm.runtime.events import Event, ForkEvent, JoinEvent, TokenEvent, WaitEvent
from pastalm.runtime.thread import ThreadPath


class CardState(StrEnum):
    """What a thread is doing."""

    WRITING = "writing"
    WAITING = "waiting"
    DONE = "done"


@dataclass(frozen=True)
class Fragment:
    """Some text of a thread, or a ``mark`` that stands for a chunk or a join."""

    text: str
    mark: bool = False


@dataclass
class ThreadCard:
    """One thread. ``promised_tokens`` is in tokens, 0 for the main thread."""

    path: ThreadPath
    topic: str = ""
    promised_tokens: int = 0
    tokens: int = 0
    pieces: list[Fragment] = field(default_factory=list)
    state: CardState = CardState.WRITING

    @property
    def name(self) -> str:
        """The thread's number (1, 2, 2.1 ..) and topic."""
        return f"{number(self.path)} {self.topic}" if self.path else "main"


def number(path: ThreadPath) -> str:
    """A thread's path as people count."""
    return ".".join(str(step + 1) for step in path)


class Board:
    """All threads so far, in the order of the document. ``unit`` is how many tokens a promise's number counts in."""

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self.cards: dict[ThreadPath, ThreadCard] = {(): ThreadCard(())}

    def take(self, event: Event) -> None:
        """Learn from an event."""
        if isinstance(event, ForkEvent):
            self._fork(event)
        elif isinstance(event, TokenEvent):
            card = self.cards[event.thread]
            card.tokens += event.token >= 0
            if event.text:
                card.pieces.append(Fragment(event.text))
        elif isinstance(event, JoinEvent):
            joined = ", ".join(map(number, event.children))
            self.cards[event.thread].pieces.append(Fragment(f"[sync {joined}]" if joined else "[sync]", mark=True))
            self.cards[event.thread].state = CardState.WRITING
        elif isinstance(event, WaitEvent):
            self.cards[event.thread].state = CardState.WAITING
        else:
            self.cards[event.thread].state = CardState.DONE

    def _fork(self, event: ForkEvent) -> None:
        card = ThreadCard(event.thread, event.topic, event.promised * self.unit)
        self.cards[event.thread] = card
        self.cards = dict(sorted(self.cards.items()))
        self.cards[event.thread[:-1]].pieces.append(Fragment(f"[{card.name}]", mark=True))
