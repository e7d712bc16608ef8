"""The completions of one sequence: each thread that runs is one, read ahead of the interpreter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from time import perf_counter

from pastalm.lang.recogniser import PlainReader
from pastalm.runtime.language import Language
from pastalm.runtime.outcome import respond
from pastalm.runtime.remote.server import Completion
from pastalm.runtime.remote.stream import TokenStream
from pastalm.runtime.remote.thread_views import ThreadViews
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.thread import Thread, ThreadPath

FORBIDDEN = -100.0  # the lowest bias of the protocol


class Completions:
    """Decodes ``sequence`` round by round; ``start`` asks the server for a completion. ``requests`` counts these,
    ``prompt_tokens`` the tokens of their prompts, which the server reads again as far as its cache does not hold them.
    """

    def __init__(self, sequence: Sequence, start: Callable[[Completion], TokenStream]) -> None:
        self.sequence, self.interpreter = sequence, sequence.interpreter
        self.views = ThreadViews(sequence.prompt, self.interpreter.main, self.interpreter.language.vocabulary)
        self.requests = self.prompt_tokens = 0
        self._start = start
        self._streams: dict[ThreadPath, TokenStream] = {}
        self._due: list[Thread] = []
        sequence.started = perf_counter()
        with sequence.guarded():
            self._open_round()

    @property
    def threads(self) -> int:
        """How many threads are due."""
        return len(self._due)

    @property
    def tokens(self) -> int:
        """How many tokens the views of its threads hold."""
        return sum(map(len, self.views.seen.values()))

    @property
    def ready(self) -> bool:
        """Whether every due thread has its next token."""
        return all(self._streams[thread.path].ready for thread in self._due)

    def advance(self) -> None:
        """Take one token of each due thread and open the next round. What fails ends this sequence and no other."""
        with self.sequence.guarded():
            for thread in self._due:
                self.interpreter.accept(thread, self._streams[thread.path].take())
            self.interpreter.next_round()
            self.sequence.steps = self.interpreter.rounds
            self._open_round()

    def close(self) -> None:
        """End all completions."""
        for stream in self._streams.values():
            stream.cancel()
        self._streams = {}

    def _open_round(self) -> None:
        self._due = self.interpreter.due()
        for thread in self._due:
            self.views.apply(self.interpreter.take(thread))
            self._follow(thread)
        for path in self._streams.keys() - {thread.path for thread in self._due}:
            self._streams.pop(path).cancel()  # its thread has ended, or waits for its chunks
        if not self._due:
            seconds = perf_counter() - self.sequence.started
            self.sequence.response = respond(self.interpreter, len(self.sequence.prompt), self.sequence.steps, seconds)

    def _follow(self, thread: Thread) -> None:
        """Have a completion that goes on where the thread stands. The one there is does so, unless the view has been
        put together anew, or the runtime has written what the server did not."""
        stream, seen = self._streams.get(thread.path), self.views.seen[thread.path]
        if stream is not None and stream.goes_on_behind(seen):
            return
        if stream is not None:
            stream.cancel()
        self._streams[thread.path] = self._start(self._completion(thread, tuple(seen)))
        self.requests += 1
        self.prompt_tokens += len(seen)

    def _completion(self, thread: Thread, seen: tuple[int, ...]) -> Completion:
        limits, sampling, language = self.interpreter.limits, self.sequence.sampling, self.interpreter.language
        left = limits.max_tokens - self.interpreter.sampled
        room = left if limits.slots is None else limits.slots + 1 - len(seen)
        begun = isinstance(thread.reader, PlainReader) and thread.reader.begun
        depth = len(thread.path)
        return Completion(
            prompt=seen,
            max_tokens=1 if begun else max(1, min(left, room)),
            stop=_stops(language, depth),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=_seed(sampling.seed, thread, begun),
            bias=_first(language) if begun else _bias(language, depth, limits.max_depth, sampling.promise_bias),
        )


def _stops(language: Language, depth: int) -> tuple[int, ...]:
    """The tokens behind which a thread of this depth does not simply go on."""
    vocabulary = language.vocabulary
    if not language.asynchronous or vocabulary is None:
        return (*sorted(language.eos), *([vocabulary.promise_topic] if vocabulary else []))
    return (*sorted(language.eos), vocabulary.sync, *([vocabulary.async_end] if depth else []))


def _bias(language: Language, depth: int, max_depth: int, promise_bias: float) -> dict[int, float]:
    """Tags that a thread of this depth may never write, and the promise bias. The rest of the grammar is left to the
    model: a plain server's sampler does not follow it."""
    vocabulary = language.vocabulary
    if vocabulary is None:
        return {}
    if not language.asynchronous:
        return dict.fromkeys(sorted(set(vocabulary.tags) - {vocabulary.promise_topic}), FORBIDDEN)
    forbidden = {vocabulary.async_start, *(language.eos if depth else [vocabulary.async_end])}
    if depth >= max_depth:
        forbidden |= set(vocabulary.tags) - {vocabulary.async_end}
    promise = {vocabulary.promise_topic: promise_bias} if promise_bias else {}
    return promise | dict.fromkeys(sorted(forbidden), FORBIDDEN)


def _first(language: Language) -> dict[int, float]:
    """What the first token of a chunk in a sequential answer may not be; line breaks are too many for a bias."""
    return dict.fromkeys([*sorted(language.tags), *sorted(language.eos)], FORBIDDEN)


def _seed(seed: int, thread: Thread, begun: bool) -> int:
    """What a server seeds a completion's draws with: each of a thread's completions has other ones."""
    place = f"{seed} {thread.path} {len(thread.written)} {begun}"
    return int.from_bytes(hashlib.sha256(place.encode()).digest()[:4], "big") >> 1
