"""The text tokens of an answer, as its reader or one of its threads sees them: without tags, topics and lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pastalm.lang.answer import Sync
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.thread import Thread, ThreadPath

Written = tuple[ThreadPath, int]  # a thread, and the number of the token in it


def text_places(thread: Thread, vocabulary: Vocabulary | None) -> Iterator[Written]:
    """Where the text tokens of a thread and of all chunks in it stand, in the order of the document. While the answer
    is written, they end in the first chunk that is not complete."""
    for number, item in _without_promises(thread, len(thread.written), vocabulary):
        if isinstance(item, Thread):
            yield from text_places(item, vocabulary)
            if not item.complete:
                return
        elif isinstance(item, int):
            yield thread.path, number


def seen_counts(thread: Thread, vocabulary: Vocabulary | None) -> Counter[int]:
    """How often a thread sees each text token of the answer: its own, those that its parent saw when it was forked, and
    those of the chunks that it has joined."""
    return Counter(_seen(thread, len(thread.written), vocabulary))


def _seen(thread: Thread, end: int, vocabulary: Vocabulary | None) -> Iterator[int]:
    """The text tokens that a thread sees before its token number ``end``."""
    if thread.parent is not None:
        place = next(k for k, item in enumerate(thread.parent.written) if item is thread)
        yield from _seen(thread.parent, place, vocabulary)
    joined = max((k for k, item in enumerate(thread.written[:end]) if isinstance(item, Sync)), default=-1)
    for number, item in _without_promises(thread, end, vocabulary):
        if isinstance(item, int):
            yield item
        elif isinstance(item, Thread) and number < joined:
            yield from (token for one in item.family() for token in _own(one, vocabulary))


def _own(thread: Thread, vocabulary: Vocabulary | None) -> Iterator[int]:
    items = _without_promises(thread, len(thread.written), vocabulary)
    return (item for _, item in items if isinstance(item, int))


def _without_promises(
    thread: Thread, end: int, vocabulary: Vocabulary | None
) -> Iterator[tuple[int, int | Thread | Sync]]:
    """The items of a thread before number ``end``, with their numbers; without promises, also the one that is being
    written, and without other tags. A promise stands straight before its child: a malformed one has none, and is text.
    """
    if vocabulary is None:
        yield from enumerate(thread.written[:end])
        return
    promises, begun = set[int](), len(thread.written) - len(thread.reader.pending)
    start = 0
    for number, item in enumerate(thread.written):
        if item == vocabulary.promise_topic:
            start = number
        elif isinstance(item, Thread):
            promises.update(range(start, number))
    for number, item in enumerate(thread.written[: min(end, begun)]):
        if number not in promises and not (isinstance(item, int) and item in vocabulary.tags):
            yield number, item
