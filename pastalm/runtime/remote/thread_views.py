"""What each thread of an answer sees, as token ids: the prompts that a plain completion server is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pastalm.lang.answer import Sync
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.thread import Feed, Fork, Join, Operation, Thread, ThreadPath


class ThreadViews:
    """The ids that each thread sees, kept up by the operations of an interpreter.

    A chunk begins with what its parent sees at that moment. After a sync the chunks stand at their places in the text,
    so the parent's view is put together anew: the server reads the joined text as a prompt of its own.
    """

    def __init__(self, prompt: Sequence[int], main: Thread, vocabulary: Vocabulary | None) -> None:
        self.main, self.vocabulary = main, vocabulary
        self.seen: dict[ThreadPath, list[int]] = {(): list(prompt)}
        self._starts: dict[ThreadPath, int] = {
            (): len(prompt)
        }  # how much of a view stood there before its thread wrote anything
        self._passing: set[ThreadPath] = set()  # threads whose last token is gone with the next

    def apply(self, operations: Sequence[Operation]) -> None:
        """Carry out what a thread must be fed before it can go on."""
        for op in operations:
            if isinstance(op, Feed):
                self._feed(op)
            elif isinstance(op, Fork):
                self.seen[op.child] = list(self.seen[op.parent])
                self._starts[op.child] = len(self.seen[op.child]) + 1  # behind <async>, which is fed next
            else:
                self._join(op)

    def _feed(self, feed: Feed) -> None:
        if feed.thread in self._passing:
            self._passing.remove(feed.thread)
            self.seen[feed.thread].pop()
        self.seen[feed.thread].append(feed.token)
        if not feed.kept:
            self._passing.add(feed.thread)

    def _join(self, op: Join) -> None:
        for child in op.children:
            del self.seen[child], self._starts[child]
        written = self._thread(op.parent).written[:-1]  # the sync, its last so far, is fed next
        self.seen[op.parent][self._starts[op.parent] :] = self._flat(written)

    def _thread(self, path: ThreadPath) -> Thread:
        thread = self.main
        for step in path:
            thread = thread.children[step]
        return thread

    def _flat(self, written: Sequence[int | Thread | Sync]) -> Iterator[int]:
        """All tokens in document order, chunks included."""
        assert self.vocabulary is not None  # without tags nothing is joined
        for item in written:
            if isinstance(item, Thread):
                yield self.vocabulary.async_start
                yield from self._flat(item.written)
            else:
                yield self.vocabulary.sync if isinstance(item, Sync) else item
