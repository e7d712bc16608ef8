"""The pass after a step, launched before the step's tokens are seen: while it runs, the host reads them.

A thread that has been sampled feeds that one token next, at a position that is known; the device takes the token from
where it chose it. A thread that may have completed a promise is given a child at once. What does not come so (a thread
ends, waits for its chunks, is fed two tokens at once) costs its place in the pass and no more: nobody sees the place's
slot, and it is free again. A thread whose place is right goes on with it, whatever became of the others, since neither
the order of the threads of a round nor how many run in a step can change an answer.

How the tokens of the pass are to be chosen need not be foreseen: that is known before they are.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from torch import Tensor

from pastalm.runtime.kv_cache import KVCache
from pastalm.runtime.memory import is_out_of_memory
from pastalm.runtime.reason import reason
from pastalm.runtime.runner import Runner
from pastalm.runtime.sampler import UNWANTED, SamplerOutput
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.step_input import Part
from pastalm.runtime.thread import Feed, Fork, Status, Thread, ThreadPath
from pastalm.runtime.visibility import Query

SPARE = 32  # slots of a sequence's row that are kept for places that turn out wrong

_log = logging.getLogger(__name__)

LogitsIndices = dict[Thread, int]  # which of a step's logits are whose


@dataclass(frozen=True)
class Step:
    """A step that the device runs: ``logits`` [K, V], the ``choice`` of a token from each, and whose they are."""

    logits: Tensor
    choice: SamplerOutput
    logits_indices: dict[Sequence, LogitsIndices]


@dataclass(frozen=True)
class PlaceAhead:
    """What a thread is fed in a pass ahead."""

    path: ThreadPath
    query: Query

    def feed(self, before: list[int]) -> Feed:
        """The same, when the tokens of the step ``before`` are known."""
        follows = self.query.follows
        return Feed(self.path, self.query.token if follows is None else before[follows], self.query.position)


Places = dict[Sequence, list[PlaceAhead]]


@dataclass(frozen=True)
class PassAhead:
    """A pass that follows the choice ``before``: its ``logits`` [K, V] are those of the ``places``, in order."""

    logits: Tensor
    before: SamplerOutput
    places: Places

    def right(self, sequences: Collection[Sequence]) -> dict[Sequence, LogitsIndices]:
        """The due threads of these sequences that were fed what they ask for; none for a sequence without any."""
        found, start, tokens = {}, 0, self.before.tokens
        for sequence, places in self.places.items():
            with sequence.guarded():
                if sequence in sequences and (indices := _right(sequence, places, start, tokens)):
                    found[sequence] = indices
            start += len(places)
        return found

    def take(self, right: dict[Sequence, LogitsIndices]) -> None:
        """Go on with the threads for which it was right as after any pass; the slots of others are free again."""
        for sequence, places in self.places.items():
            with sequence.guarded():
                threads = right.get(sequence, {})
                of_path = {place.path: place for place in places}
                for thread in threads:
                    _go_on(sequence, thread, of_path.pop(thread.path))
                sequence.due = deque(thread for thread in sequence.due if thread not in threads)
                _release(sequence, of_path.values())


@dataclass(frozen=True)
class Foreseen:
    """What a thread will be fed: a ``token``, or the one chosen from the logits whose index it ``follows``. ``sees`` is
    the thread whose visible slots it begins with: itself, or the parent that forks it in the same pass."""

    path: ThreadPath
    token: int
    position: int
    follows: int | None
    sees: ThreadPath


class LookAhead:
    """Launches passes ahead, one at a time, and counts: ``steps`` that came of them, and ``dropped`` places.
    ``launched`` is the one that is on its way. After one without memory there is none until a sequence has left.

    A sequence that sets no limit may use ``max_model_len`` slots. ``shares`` says how many threads of each sequence a
    step may have, given how many want to run.
    """

    def __init__(self, runner: Runner, max_model_len: int, shares: Callable[[list[int]], list[int]]) -> None:
        self.runner, self.max_model_len, self.shares = runner, max_model_len, shares
        self.steps = self.dropped = 0
        self.launched: PassAhead | None = None
        self._crowd: frozenset[Sequence] = frozenset()  # too many for the memory of a pass ahead
        self._warned = False

    @property
    def spare(self) -> int:
        """How many slots a sequence's row needs besides those that the sequence may use."""
        return SPARE if self.runner.ahead else 0

    def launch(self, step: Step, sequences: Collection[Sequence], cache: KVCache) -> None:
        """Launch the pass that these sequences run behind a step, if it can be foreseen for all. Where anything is in
        the way there is none, and the next step is planned when its turn comes."""
        if not self._crowd.issubset(sequences):
            self._crowd = frozenset()  # one has left
        if self._crowd or not self.runner.ahead:
            return
        places: Places = {}
        try:
            for sequence, foreseen in self._foresee(step, sequences, cache.slots).items():
                for place in _places(sequence, foreseen):
                    places.setdefault(sequence, []).append(place)
            if places:
                parts = [_part(sequence, own) for sequence, own in places.items()]
                logits = self.runner.launch_after(step.choice, cache, parts).logits
                self.launched = PassAhead(logits, step.choice, places)
        except Exception as error:  # a step of its own says whom that ends
            self._failed(error, sequences)
        finally:
            if self.launched is None:
                for sequence, own in places.items():
                    _release(sequence, own)

    def arrived(self, sequences: Collection[Sequence]) -> Step | None:
        """The pass that was launched, as a step of those threads of these sequences for which it was right; None if it
        was for none."""
        if self.launched is None:
            return None
        logits = self.launched.logits
        indices: dict[Sequence, LogitsIndices] = {}
        choice: SamplerOutput | None = None
        try:
            indices = self.launched.right(sequences)
            choice = self._choose(logits, indices) if indices else None
        finally:
            self._end(indices if choice else {})
        left = {sequence: own for sequence, own in indices.items() if not sequence.finished}
        return Step(logits, choice, left) if choice and left else None

    def drop(self) -> None:
        """Let go of the pass that was launched, if there is one."""
        self._end({})

    def _end(self, taken: dict[Sequence, LogitsIndices]) -> None:
        ahead, self.launched = self.launched, None
        if ahead is not None:
            ahead.take(taken)
            self.steps += bool(taken)
            self.dropped += len(ahead.logits) - sum(map(len, taken.values()))

    def _foresee(self, step: Step, sequences: Collection[Sequence], slots: int) -> dict[Sequence, list[Foreseen]]:
        """What each sequence is fed; nothing at all where that cannot be said for one of them, so that it does not have
        to wait for the others, or where its row has no room for so many slots that may be wasted."""
        found: dict[Sequence, list[Foreseen]] = {}
        for sequence in sequences:
            own = foresee(sequence, step.logits_indices.get(sequence, {}))
            limits = sequence.interpreter.limits
            if own is None or len(own) > slots - 1 - (limits.slots or self.max_model_len):
                return {}
            if own:
                found[sequence] = own
        shares = self.shares([len(own) for own in found.values()])
        return {sequence: own[:share] for (sequence, own), share in zip(found.items(), shares, strict=True)}

    def _choose(self, logits_KV: Tensor, indices: dict[Sequence, LogitsIndices]) -> SamplerOutput | None:
        try:
            draws = {k: sequence.draw(thread) for sequence, own in indices.items() for thread, k in own.items()}
            return self.runner.choose(logits_KV, [draws.get(k, UNWANTED) for k in range(len(logits_KV))])
        except Exception as error:  # what is wrong will be wrong in a step of its own, and end those whom it is about
            self._failed(error, indices)
            return None

    def _failed(self, error: Exception, sequences: Collection[Sequence]) -> None:
        if is_out_of_memory(error):
            self._crowd = frozenset(sequences)
        if not self._warned:
            self._warned = True
            _log.warning(
                "A pass could not be launched ahead (%s); such steps wait for the tokens of the last.", reason(error)
            )


def foresee(sequence: Sequence, running: LogitsIndices) -> list[Foreseen] | None:
    """What a sequence is fed behind a step in which these threads run, in the same round or, if all of them go on, in
    the next. Nothing where the answer is over then; None where it cannot be said."""
    interpreter = sequence.interpreter
    alive = [thread for thread in interpreter.threads if thread.status is Status.RUNNING]
    left = max(0, interpreter.limits.max_tokens - interpreter.sampled - len(running))
    most = interpreter.limits.max_threads
    found: dict[ThreadPath, Foreseen] = {}
    for thread in list(sequence.due or alive[:left])[:most]:
        own = _written(sequence, thread, running[thread]) if thread in running else _asked(thread)
        if own is None or (own.sees != own.path and own.sees not in found):
            return None
        child = _child(sequence, thread) if thread in running and thread.reader.may_fork else None
        for one in (own, child):
            if one is None or (thread in running and _is_last(sequence, one)):
                break
            found[one.path] = one
    return list(found.values())[:most]


def _asked(thread: Thread) -> Foreseen | None:
    """What a thread is fed that does not run."""
    feed, sees = thread.todo[0], thread.parent.path if thread.parent and thread.unforked else thread.path
    if not isinstance(feed, Feed) or not feed.kept or feed.thread != thread.path or not _asks_for(thread, feed):
        return None
    return Foreseen(thread.path, feed.token, feed.position, None, sees)


def _written(sequence: Sequence, thread: Thread, index: int) -> Foreseen | None:
    """What a thread is fed that runs: the token that these logits give it, unless the host has the last word."""
    if sequence.coming:
        return Foreseen(thread.path, sequence.coming(thread.path), thread.position, None, thread.path)
    if sequence.teacher or sequence.sampling.redrawn:
        return None
    return Foreseen(thread.path, 0, thread.position, index, thread.path)


def _child(sequence: Sequence, parent: Thread) -> Foreseen:
    """What the child is fed that the parent forks if a promise is complete now."""
    feed = sequence.interpreter.next_child(parent)
    return Foreseen(feed.thread, feed.token, feed.position, None, parent.path)


def _is_last(sequence: Sequence, own: Foreseen) -> bool:
    """Whether what is written ends the answer, or has no place in the model's window, so that it is never fed."""
    interpreter = sequence.interpreter
    beyond = interpreter.limits.window is not None and own.position >= interpreter.limits.window
    return beyond or (own.follows is None and own.token in interpreter.language.eos)


def _places(sequence: Sequence, foreseen: list[Foreseen]) -> Iterator[PlaceAhead]:
    """The same in slots of the cache."""
    visibility, ahead = sequence.visibility, dict[ThreadPath, int]()
    for one in foreseen:
        visible = ahead[one.sees] if one.sees != one.path else visibility.visible[one.path]
        query = visibility.query(one.token, one.position, visible, one.follows)
        ahead[one.path] = query.visible
        yield PlaceAhead(one.path, query)


def _part(sequence: Sequence, places: list[PlaceAhead]) -> Part:
    """What a sequence feeds. The logits of all of it are wanted; how tokens are drawn is said later."""
    queries = [place.query for place in places]
    return Part(sequence.require_row(), queries, range(len(places)), [UNWANTED] * len(places))


def _right(sequence: Sequence, places: list[PlaceAhead], start: int, before: list[int]) -> LogitsIndices:
    of_path = {place.path: (index, place.feed(before)) for index, place in enumerate(places, start)}
    found: LogitsIndices = {}
    for thread in sequence.due:
        index, feed = of_path.get(thread.path, (0, None))
        if feed and _asks_for(thread, feed) and (not thread.unforked or thread.parent in found):
            found[thread] = index
    return found


def _asks_for(thread: Thread, feed: Feed) -> bool:
    """Whether the model is to be fed just this; forks behind it change nothing for the thread itself."""
    return thread.todo[:1] == [feed] and all(isinstance(one, Fork) for one in thread.todo[1:])


def _go_on(sequence: Sequence, thread: Thread, place: PlaceAhead) -> None:
    _, *forks = sequence.interpreter.take(thread)
    sequence.visibility.visible[thread.path] = place.query.visible
    sequence.visibility.apply(forks)


def _release(sequence: Sequence, places: Collection[PlaceAhead]) -> None:
    """Let others have the slots of places that are not wanted."""
    sequence.visibility.free += [place.query.slot for place in places]
