"""The text of an answer while its threads write it, and the events that tell of it. It decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from pastalm.lang.answer import Sync
from pastalm.lang.recogniser import Words, text_of
from pastalm.runtime.events import NO_TOKEN, DoneEvent, Event, ForkEvent, JoinEvent, TokenEvent, WaitEvent
from pastalm.runtime.language import Language
from pastalm.runtime.text_run import TextRun
from pastalm.runtime.thread import Thread


class Transcript:
    """Turns what threads write into text, and notes events. ``stops`` are strings that end a thread's text; ``eager``
    turns tokens into text at once, for streaming; ``problems`` say which tags were malformed."""

    def __init__(self, language: Language, stops: Sequence[str], *, eager: bool) -> None:
        self.language, self.stops, self.eager = language, tuple(stops), eager
        self.problems: list[str] = []
        self._events: list[Event] = []

    def run(self) -> TextRun:
        """The text of a new thread."""
        return TextRun(self.language.codec, self.stops, eager=self.eager)

    def drain(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def token(self, thread: Thread, token: int, text: str = "") -> None:
        """A token was decoded, and ``text`` can be shown now."""
        if self.eager:
            self._events.append(TokenEvent(thread.path, _place(thread), token, text))

    def words(self, thread: Thread, words: Words, token: int) -> None:
        """Tokens have turned out to be text; the last of them is ``token``, or was told of before."""
        self.problem(thread, words.problem)
        thread.shown += len(words.tokens)
        if words.problem:
            text = thread.run.push_text(text_of(words, self.language.codec, self.language.tags))
        else:
            text = thread.run.push(words.tokens)
        self.token(thread, token, text)
        thread.pieces.append(text)

    def flush(self, thread: Thread) -> None:
        """A stretch of text is over: what was kept back can be shown."""
        if text := thread.run.flush():
            thread.pieces.append(text)
            self.token(thread, NO_TOKEN, text)

    def problem(self, thread: Thread, problem: str) -> None:
        """Note what was malformed, if anything."""
        if problem:
            number = ".".join(str(step + 1) for step in thread.path)
            name = f"chunk {number}" if thread.path else "the main thread"
            self.problems.append(f"{name}, token {len(thread.written)}: {problem}.")

    def fork(self, parent: Thread, child: Thread) -> None:
        """A promise is complete, and ``child`` stands in its place from now on."""
        self.flush(parent)
        child.place = _place(parent)
        for kept in (parent.children, parent.unsynced, parent.written, parent.pieces):
            kept.append(child)
        self._events.append(ForkEvent(child.path, child.place, child.topic, child.promised))

    def wait(self, thread: Thread) -> None:
        """A thread has written a sync."""
        self.flush(thread)
        thread.pieces.append(Sync())
        self._events.append(WaitEvent(thread.path, _place(thread)))

    def join(self, thread: Thread) -> None:
        """A thread's sync is over."""
        self._events.append(JoinEvent(thread.path, _place(thread), tuple(child.path for child in thread.unsynced)))

    def done(self, thread: Thread) -> None:
        """A thread is done. The main thread's end is told with the response."""
        self.flush(thread)
        if thread.path:
            self._events.append(DoneEvent(thread.path, _place(thread)))


def _place(thread: Thread) -> tuple[int, ...]:
    return (*thread.place, len(thread.written))
