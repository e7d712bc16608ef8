"""The language at run time, as a pure state machine: sampled tokens in, what to feed the model out.

It knows nothing of tensors, so it drives a local model, a known answer and a scripted test alike. Time is counted in
*rounds*: in a round every running thread is sampled once, however many steps of the model that takes. So neither a cap
on threads nor their order within a round can change anything, limits included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pastalm.lang.answer import Sync
from pastalm.lang.positions import PositionPolicy
from pastalm.lang.recogniser import Begun, Closed, Ended, Mark, Promised, Synced, Words
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.events import NO_TOKEN
from pastalm.runtime.language import Language
from pastalm.runtime.limits import Limits
from pastalm.runtime.thread import Feed, Fork, Join, Operation, Status, Thread, ThreadPath
from pastalm.runtime.transcript import Transcript


class Interpreter:
    """One answer while it is decoded.

    ``start`` is the position of its first token, the prompt's length. ``lengths`` gives the content length of a child
    by its path, for policies that need the truth. ``eager`` turns tokens into text at once, for streaming. Call
    :meth:`due`, then :meth:`take` and :meth:`accept` for each due thread, then :meth:`next_round`, until
    ``finish_reason`` is set and nothing is due. ``transcript`` holds the text and the events.
    """

    def __init__(
        self,
        language: Language,
        policy: PositionPolicy,
        limits: Limits,
        start: int,
        *,
        stops: Sequence[str] = (),
        lengths: Callable[[ThreadPath], int] | None = None,
        eager: bool = False,
    ) -> None:
        self.language, self.policy, self.limits, self.lengths = language, policy, limits, lengths
        self.transcript = Transcript(language, stops, eager=eager)
        self.main = self._thread((), None, start)
        self.threads = [self.main]
        self.rounds = 0  # the critical path so far
        self.sampled = 0
        self.slots = start
        self.finish_reason: Literal["stop", "length"] | None = None
        self.end: int | None = None  # the token that ended the answer; a model may have several for that
        self._sampled_before = 0  # this round

    def due(self) -> list[Thread]:
        """The threads to be sampled in this round, parents before children; none once the answer is finished.

        When fewer tokens are left than threads run, the first in document order get them. Changes nothing.
        """
        if self.finish_reason is not None:
            return []
        running = [thread for thread in self.threads if thread.status is Status.RUNNING]
        return running[: self.limits.max_tokens - self.sampled]

    def take(self, thread: Thread) -> list[Operation]:
        """What the model must be given before ``thread`` can be sampled, in order. Its last feed gives the logits."""
        before = self.take(thread.parent) if thread.parent and thread.unforked else []
        todo, thread.todo = thread.todo, []
        self.slots += sum(isinstance(op, Feed) for op in todo)
        return before + todo

    def next_child(self, parent: Thread) -> Feed:
        """What the child would be fed first that the thread forks with its next token. Changes nothing."""
        return Feed((*parent.path, len(parent.children)), self._vocabulary.async_start, parent.position + 1)

    def accept(self, thread: Thread, token: int) -> None:
        """Take the token sampled for ``thread``, and those that follow without a choice."""
        self._write(thread, token)
        while thread.status is Status.RUNNING and (forced := thread.reader.legal().forced) is not None:
            self._write(thread, forced)

    def next_round(self) -> None:
        """All due threads have been sampled: join what has been waited for, and finish the answer if it is over."""
        self.rounds += self.sampled > self._sampled_before
        self._sampled_before = self.sampled
        for thread in reversed(self.threads):  # children first: a join can end one, and its parent may wait for that
            if thread.status is Status.WAITING:
                if all(child.complete for child in thread.unsynced):
                    self._join(thread)
                else:
                    thread.wait_steps += 1
        if not self._can_go_on():
            self._finish()

    def _thread(self, path: ThreadPath, parent: Thread | None, position: int) -> Thread:
        reader = self.language.reader(len(path), self.limits.max_depth, parent.reader if parent else None)
        return Thread(path, reader, self.transcript.run(), position, parent)

    def _can_go_on(self) -> bool:
        """Whether a thread runs, a token is left, and the cache has slots for all that is still to be fed."""
        running = any(thread.status is Status.RUNNING for thread in self.threads)
        needed = sum(isinstance(op, Feed) for thread in self.threads for op in thread.todo)
        fits = self.limits.slots is None or self.slots + needed <= self.limits.slots
        return running and fits and self.sampled < self.limits.max_tokens

    def _write(self, thread: Thread, token: int) -> None:
        marks = thread.reader.read(token)
        last = marks[-1] if marks else None
        if isinstance(last, Begun):
            self._begin(thread)
            return
        if not (isinstance(last, Ended | Closed) and token in self.language.eos):
            self._keep(thread, token, synced=isinstance(last, Synced))
            if not isinstance(last, Words):
                self.transcript.token(thread, token)
        elif thread is self.main:
            self.end = token
        for mark in marks:
            self._apply(thread, mark, token if mark is last else NO_TOKEN)
        self._check_limits(thread)

    def _begin(self, thread: Thread) -> None:
        """Sequential text comes to a chunk: the model is shown how one begins, for the next token alone."""
        self.sampled += 1
        if self.limits.window is not None and thread.position >= self.limits.window:
            self._end(thread, truncated=True)  # no room for it
        else:
            thread.todo.append(Feed(thread.path, self._vocabulary.async_start, thread.position, kept=False))

    def _keep(self, thread: Thread, token: int, *, synced: bool) -> None:
        """Count a token and put it down to be fed. A sync is fed after the wait, by :meth:`_join`."""
        self.sampled += 1
        thread.content += 1
        thread.written.append(Sync() if synced else token)
        if not synced:
            self._feed(thread, token)

    def _feed(self, thread: Thread, token: int) -> None:
        thread.todo.append(Feed(thread.path, token, thread.position))
        thread.position += 1

    def _apply(self, thread: Thread, mark: Mark, token: int) -> None:
        if isinstance(mark, Words):
            self.transcript.words(thread, mark, token)
        elif isinstance(mark, Promised):
            self._fork(thread, mark)
        elif isinstance(mark, Synced):
            self.transcript.wait(thread)
            thread.status = Status.WAITING
        elif isinstance(mark, Closed):
            thread.content -= token not in self.language.eos  # </async> is not content
            self.transcript.problem(thread, mark.problem)
            self._end(thread, close=token in self.language.eos)
        else:
            self._end(thread)

    def _fork(self, parent: Thread, promise: Promised) -> None:
        child = self._thread((*parent.path, len(parent.children)), parent, parent.position)
        child.topic, child.promised = promise.topic, promise.tokens
        length = self.lengths(child.path) if self.lengths else 0
        parent.position += self.policy.jump(promise.tokens, length)
        parent.todo.append(Fork(child.path, parent.path))
        self.transcript.fork(parent, child)
        self.threads.insert(self.threads.index(parent.family()[-2]) + 1, child)
        if self.limits.window is not None and child.position >= self.limits.window - 2:
            self._end(child, truncated=True)  # no room for a single token of it
        else:
            self._feed(child, self._vocabulary.async_start)

    def _join(self, thread: Thread) -> None:
        joined = [member for child in thread.unsynced for member in child.unjoined()]
        for member in joined:  # the last tokens of children, which nobody has needed until now
            thread.todo += member.todo
            member.todo = []
        if joined:
            thread.todo.append(Join(thread.path, tuple(member.path for member in joined)))
        thread.status = Status.RUNNING
        self._feed(thread, self._vocabulary.sync)
        self.transcript.join(thread)
        thread.unsynced = []
        self._check_limits(thread)

    def _check_limits(self, thread: Thread) -> None:
        """End a thread at a stop string, and one whose next token would pass a limit."""
        if thread.status is not Status.DONE and thread.run.stopped:
            self._end(thread, close=True)
        elif thread.status is Status.RUNNING and self._is_full(thread):
            self._end(thread, truncated=True, close=True)

    def _is_full(self, thread: Thread) -> bool:
        window, longest = self.limits.window, self.limits.max_async_tokens
        if thread is self.main:
            return window is not None and thread.position > window
        too_long = longest is not None and thread.content >= longest
        return too_long or (window is not None and thread.position >= window - 1)

    def _end(self, thread: Thread, *, truncated: bool = False, close: bool = False) -> None:
        """A thread is done. ``close`` writes the ``</async>`` that a chunk did not write itself, so that a sync can
        still see the chunk."""
        thread.truncated = thread.truncated or truncated
        thread.status = Status.DONE
        self.transcript.done(thread)
        if close and thread is not self.main:
            thread.written.append(self._vocabulary.async_end)
            if self.limits.window is not None:  # a promise of its own may have taken it beyond
                thread.position = min(thread.position, self.limits.window - 1)
            self._feed(thread, self._vocabulary.async_end)

    def _finish(self) -> None:
        """The answer is over: by itself, or because nothing more may be decoded."""
        unfinished = [thread for thread in self.threads if thread.status is not Status.DONE]
        for thread in unfinished:
            self._end(thread, truncated=True)
        self.finish_reason = "length" if unfinished or self.main.truncated else "stop"

    @property
    def _vocabulary(self) -> Vocabulary:
        if self.language.vocabulary is None:
            raise RuntimeError("Nothing can be promised without the tags of a vocabulary.")
        return self.language.vocabulary
