"""The language at run time, as a pure state machine: sampled tokens in, what to feed the model out (SPEC 3).

It knows nothing of tensors, so it drives a local model, a known answer and a scripted test alike. Time is counted in
*rounds*: in a round every running thread is sampled once, however many steps of the model that takes. So neither a cap
on threads nor their order within a round can change anything, limits included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pastalm.lang.answer import Sync
from pastalm.lang.codec import TextCodec
from pastalm.lang.positions import PositionPolicy
from pastalm.lang.recogniser import (
    Closed,
    Ended,
    Mark,
    PlainReader,
    Promised,
    Reader,
    Recogniser,
    Synced,
    Words,
    text_of,
)
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.events import NO_TOKEN, DoneEvent, Event, ForkEvent, JoinEvent, TokenEvent, WaitEvent
from pastalm.runtime.limits import Limits
from pastalm.runtime.text_run import TextRun
from pastalm.runtime.thread import Feed, Fork, Join, Operation, Path, Status, Thread


class Language:
    """How an answer is read: as PASTA-LANG, or sequentially, when every token is text.

    ``vocabulary`` may be None for a model without tags, which can only be read sequentially.
    """

    def __init__(
        self,
        codec: TextCodec,
        eos: frozenset[int],
        vocabulary: Vocabulary | None,
        *,
        asynchronous: bool,
        constrained: bool,
    ) -> None:
        self.codec, self.eos, self.vocabulary = codec, eos, vocabulary
        self.asynchronous, self.constrained = asynchronous, constrained
        self.tags = vocabulary.tags if vocabulary else {}

    def reader(self, depth: int, max_depth: int) -> Reader:
        """A reader for a thread ``depth`` blocks deep."""
        if not self.asynchronous or self.vocabulary is None:
            return PlainReader(self.eos, tuple(self.tags))
        may_promise = depth < max_depth
        return Recogniser(self.vocabulary, main=depth == 0, may_promise=may_promise, constrained=self.constrained)


class Interpreter:
    """One answer while it is decoded.

    ``start`` is the position of its first token, the prompt's length. ``lengths`` gives the content length of a child
    by its path, for policies that need the truth. ``eager`` turns tokens into text at once, for streaming. Call
    :meth:`due`, :meth:`take` and :meth:`accept` for each due thread, then :meth:`end_round`, until nothing is due.
    """

    def __init__(
        self,
        language: Language,
        policy: PositionPolicy,
        limits: Limits,
        start: int,
        *,
        stops: Sequence[str] = (),
        lengths: Callable[[Path], int] | None = None,
        eager: bool = False,
    ) -> None:
        self.language, self.policy, self.limits = language, policy, limits
        self.stops, self.lengths, self.eager = tuple(stops), lengths, eager
        self.main = self._thread((), None, start)
        self.threads = [self.main]
        self.rounds = 0  # the critical path so far
        self.sampled = 0
        self.slots = start
        self.finish_reason: str | None = None
        self.end: int | None = None  # the token that ended the answer; a model may have several for that
        self.problems: list[str] = []
        self.events: list[Event] = []
        self._reason = "stop"  # the finish reason once all threads are done
        self._counted = False  # whether this round sampled anything but the end of answer

    def _thread(self, path: Path, parent: Thread | None, position: int) -> Thread:
        reader = self.language.reader(len(path), self.limits.max_depth)
        run = TextRun(self.language.codec, self.stops, eager=self.eager)
        return Thread(path, reader, run, position, parent)

    def due(self) -> list[Thread]:
        """The threads to be sampled in this round, parents before children; none once the answer is finished.

        When fewer tokens are left than threads run, the first in document order get them.
        """
        if self.finish_reason is not None:
            return []
        running = [thread for thread in self.threads if thread.status is Status.RUNNING]
        left = self.limits.max_tokens - self.sampled
        if not running:
            self._finish("stop")
        elif left <= 0 or not self._fits():
            self._finish("length")
        return running[:left] if self.finish_reason is None else []

    def _fits(self) -> bool:
        """Whether the cache has slots for all that is still to be fed."""
        needed = sum(isinstance(op, Feed) for thread in self.threads for op in thread.todo)
        return self.limits.slots is None or self.slots + needed <= self.limits.slots

    def take(self, thread: Thread) -> list[Operation]:
        """What the model must be given before ``thread`` can be sampled, in order. Its last feed gives the logits."""
        waiting = thread.parent is not None and Fork(thread.path, thread.parent.path) in thread.parent.todo
        before = self.take(thread.parent) if waiting and thread.parent else []
        todo, thread.todo = thread.todo, []
        self.slots += sum(isinstance(op, Feed) for op in todo)
        return before + todo

    def accept(self, thread: Thread, token: int) -> None:
        """Take the token sampled for ``thread``, and those that follow without a choice."""
        self._write(thread, token)
        while thread.status is Status.RUNNING and (forced := thread.reader.legal().forced) is not None:
            self._write(thread, forced)

    def end_round(self) -> None:
        """All due threads have been sampled: close what is over, join what has been waited for."""
        self.rounds += self._counted
        self._counted = False
        for thread in reversed(self.threads):  # children first: a join can end one, and its parent may wait for that
            if thread.status is Status.WAITING:
                if all(child.complete for child in thread.unsynced):
                    self._join(thread)
                else:
                    thread.wait_steps += 1

    def drain(self) -> list[Event]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def _write(self, thread: Thread, token: int) -> None:
        marks = thread.reader.read(token)
        ending = isinstance(marks[-1], Ended | Closed) if marks else False
        if not (ending and token in self.language.eos):
            self._keep(thread, token, synced=bool(marks) and isinstance(marks[-1], Synced))
            if not (marks and isinstance(marks[-1], Words)):
                self._tell(thread, token, "")
        elif thread is self.main:
            self.end = token
        for mark in marks:
            self._apply(thread, mark, token if mark is marks[-1] else NO_TOKEN)
        if thread.run.stopped and thread.status is not Status.DONE:
            self._stop(thread)
        if thread.status is Status.RUNNING:
            self._check_room(thread)

    def _keep(self, thread: Thread, token: int, *, synced: bool) -> None:
        """Count a token and put it down to be fed. A sync is fed after the wait, by :meth:`_join`."""
        self.sampled += 1
        self._counted = True
        thread.content += 1
        thread.written.append(Sync() if synced else token)
        if not synced:
            self._feed(thread, token)

    def _feed(self, thread: Thread, token: int) -> None:
        thread.todo.append(Feed(thread.path, token, thread.position))
        thread.position += 1

    def _apply(self, thread: Thread, mark: Mark, token: int) -> None:
        if isinstance(mark, Words):
            self._show(thread, mark, token)
        elif isinstance(mark, Promised):
            self._fork(thread, mark)
        elif isinstance(mark, Synced):
            self._end_run(thread)
            thread.pieces.append(Sync())
            thread.status = Status.WAITING
            self.events.append(WaitEvent(thread.path, self._place(thread)))
        elif isinstance(mark, Closed):
            thread.content -= token not in self.language.eos  # </async> is not content
            self._note(thread, mark.problem)
            self._end(thread)
            if token in self.language.eos:
                self._close(thread)
        else:
            self._end(thread)

    def _show(self, thread: Thread, words: Words, token: int) -> None:
        self._note(thread, words.problem)
        thread.shown += len(words.tokens)
        if words.problem:
            text = thread.run.push_text(text_of(words, self.language.codec, dict(self.language.tags)))
        else:
            text = thread.run.push(words.tokens)
        self._tell(thread, token, text)
        thread.pieces.append(text)

    def _tell(self, thread: Thread, token: int, text: str) -> None:
        if self.eager:
            self.events.append(TokenEvent(thread.path, self._place(thread), token, text))

    def _note(self, thread: Thread, problem: str) -> None:
        if problem:
            name = (
                "the main thread" if thread is self.main else f"chunk {'.'.join(str(step + 1) for step in thread.path)}"
            )
            self.problems.append(f"{name}, token {len(thread.written)}: {problem}.")

    def _place(self, thread: Thread) -> tuple[int, ...]:
        return (*thread.place, len(thread.written))

    def _fork(self, parent: Thread, promise: Promised) -> None:
        self._end_run(parent)
        child = self._thread((*parent.path, len(parent.children)), parent, parent.position)
        child.topic, child.promised, child.place = promise.topic, promise.tokens, self._place(parent)
        length = self.lengths(child.path) if self.lengths else 0
        parent.position += self.policy.jump(promise.tokens, length)
        parent.todo.append(Fork(child.path, parent.path))
        for place in (parent.children, parent.unsynced, parent.written, parent.pieces):
            place.append(child)
        self.threads.insert(self.threads.index(parent.family()[-2]) + 1, child)
        self.events.append(ForkEvent(child.path, child.place, child.topic, child.promised))
        if self.limits.window is not None and child.position >= self.limits.window - 2:
            self._truncate(child)  # no room for a single token of it
        else:
            self._feed(child, self._vocabulary.async_start)

    @property
    def _vocabulary(self) -> Vocabulary:
        assert self.language.vocabulary is not None  # without one nothing can be promised
        return self.language.vocabulary

    def _join(self, thread: Thread) -> None:
        joined = [member for child in thread.unsynced for member in child.unjoined()]
        for member in joined:  # the last tokens of children, which nobody has needed until now
            thread.todo += member.todo
            member.todo = []
        if joined:
            thread.todo.append(Join(thread.path, tuple(member.path for member in joined)))
        paths = tuple(child.path for child in thread.unsynced)
        thread.unsynced, thread.status = [], Status.RUNNING
        self._feed(thread, self._vocabulary.sync)
        self.events.append(JoinEvent(thread.path, self._place(thread), paths))
        self._check_room(thread)

    def _check_room(self, thread: Thread) -> None:
        """End a thread whose next token would pass a limit; a chunk is closed, so that a sync can still see it."""
        window, longest = self.limits.window, self.limits.max_async_tokens
        if thread is self.main:
            if window is not None and thread.position > window:
                self._finish_main("length")
        elif (longest is not None and thread.content >= longest) or (
            window is not None and thread.position >= window - 1
        ):
            self._truncate(thread)
            self._close(thread)

    def _truncate(self, thread: Thread) -> None:
        thread.truncated = True
        self._end(thread)

    def _close(self, thread: Thread) -> None:
        """Write the ``</async>`` that a thread did not write itself."""
        thread.written.append(self._vocabulary.async_end)
        if self.limits.window is not None:  # a promise of its own may have taken it beyond
            thread.position = min(thread.position, self.limits.window - 1)
        self._feed(thread, self._vocabulary.async_end)

    def _stop(self, thread: Thread) -> None:
        """A stop string has come: it ends the answer in the main thread, the chunk in any other."""
        if thread is self.main:
            self._finish_main("stop")
        else:
            self._end(thread)
            self._close(thread)

    def _finish_main(self, reason: str) -> None:
        """End the main thread early; its children go on to their own ends."""
        self.main.truncated = reason == "length"
        self._end(self.main)
        self._reason = reason

    def _end_run(self, thread: Thread) -> None:
        text = thread.run.flush()
        if text:
            thread.pieces.append(text)
            self._tell(thread, NO_TOKEN, text)

    def _end(self, thread: Thread) -> None:
        self._end_run(thread)
        thread.status = Status.DONE
        if thread is not self.main:
            self.events.append(DoneEvent(thread.path, self._place(thread)))

    def _finish(self, reason: str) -> None:
        """The answer is over: by itself, or because nothing more may be decoded."""
        for thread in self.threads:
            if thread.status is not Status.DONE:
                self._truncate(thread)
        self.finish_reason = self._reason if reason == "stop" else reason
