"""Sequences side by side: each step runs threads of every sequence in one forward pass."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count
from time import perf_counter

import torch
from torch import Tensor

from pastalm.runtime.ahead import LogitsIndices, LookAhead, Step
from pastalm.runtime.kv_cache import GROWTH, KVCache
from pastalm.runtime.memory import is_out_of_memory
from pastalm.runtime.outcome import respond
from pastalm.runtime.runner import Launched, Runner
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.step_input import Part
from pastalm.runtime.thread import Feed, Operation, Thread

PREFILL_CHUNK = 512  # prompt tokens a step: bounds the mask, chunk x slots
PREFILL_BESIDE = 128  # the same where others are decoded, who wait for it
SHORTEST_PREFIX = 32  # tokens; a shorter one is read as fast as it is copied


class Scheduler:
    """Decodes up to ``max_batch`` sequences at once, up to ``max_model_len`` cache slots each; more wait in line.

    The cache grows with the sequences that come. Sequences run in the order of their rows, and the lowest free row is
    taken first: rows side by side need no copy. Prompts are read in pieces between the steps of the others, and what
    the prompt of a running sequence begins with is copied, not read again. ``max_batch_threads`` bounds the threads of
    a step: beyond it each sequence has its fair share, at least one thread, and its others wait. An error ends the
    sequence that it is about, a forward pass that fails ends those in it, and one without memory is tried again without
    the sequence that came last; the others go on. One thread at a time may call it.
    """

    def __init__(
        self, runner: Runner, max_batch: int, max_model_len: int, max_batch_threads: int | None = None
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"A batch must be at least 1 request, not {max_batch}.")
        if max_batch_threads is not None and max_batch_threads < 1:
            raise ValueError(f"A step must have room for at least 1 thread, not {max_batch_threads}.")
        self.runner, self.max_batch, self.max_model_len = runner, max_batch, max_model_len
        self.max_batch_threads = max_batch_threads
        self.cache = KVCache(1, GROWTH - 1, runner.device)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.threads = 0  # in the last step
        self.ahead = LookAhead(runner, max_model_len, self.shares)
        self._free = list(range(max_batch))

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits; then every row of the cache is free."""
        return not self.running and not self.waiting and len(self._free) == self.max_batch

    @property
    def slots_used(self) -> int:
        """How many slots of the cache hold a token."""
        return sum(sequence.visibility.tokens for sequence in [*self.running])

    @property
    def usage(self) -> float:
        """The same as a share of all slots."""
        return self.slots_used / (self.max_batch * self.max_model_len)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in line."""
        self.waiting.append(sequence)

    def reserve(self) -> None:
        """Make the beginning of the cache now, not with the first request; where steps run as graphs, all of it, and
        the graphs, since a cache that moves takes them along. Raises what torch raises where there is no room."""
        if self.runner.graphs.active:
            self.cache.grow(self.max_batch, self.max_model_len + self.ahead.spare)
        self.runner.reserve(self.cache)

    def shrink(self) -> None:
        """Give the memory of the cache back while nothing runs; the next requests make it grow again. Graphs
        of steps would hold on to it: where there are some it stays."""
        if not self.running and not self.runner.graphs.active:
            self.cache = KVCache(1, GROWTH - 1, self.runner.device)
            torch.cuda.empty_cache()  # what is freed stays with torch otherwise

    def cancel(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is: its row is free for the next. A finished one stays as it is."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)

    def step(self) -> bool:
        """Admit what fits, read pieces of prompts, run one step of the others; returns whether there is more to do."""
        while self.waiting and self._free:
            self._admit(self.waiting.popleft())
        self.threads = 0
        try:
            self._read_prompts()
            self._decode([one for one in self.running if not one.reading and not one.finished])
        finally:
            self._retire()
        return bool(self.running or self.waiting)

    def _admit(self, sequence: Sequence) -> None:
        sequence.started = perf_counter()
        sequence.row = heappop(self._free)
        insort(self.running, sequence, key=Sequence.require_row)
        with sequence.guarded():
            slots = sequence.interpreter.limits.slots or self.max_model_len
            if not self.cache.keys:
                self.runner.make_layers(self.cache)  # small as it is: it then grows in all layers, or in none
            self.cache.grow(min(self.max_batch, 2 * sequence.row + 1), slots + self.ahead.spare)
            self._open_round(sequence)

    def _read_prompts(self) -> None:
        """Read prompts, as many tokens as a step may take: half of them go to the shortest that is left, the others to
        the prompt that came first. So a short prompt does not wait for a long one, and none waits for ever."""
        reading = [one for one in self.running if one.reading and not one.finished]
        left = PREFILL_CHUNK if len(reading) == len(self.running) else PREFILL_BESIDE
        first = sorted(reading, key=lambda one: one.started)
        later = [one for number, one in enumerate(first) if number and not _will_share(one, first[:number])]
        short = sorted(later, key=lambda one: len(one.prompt) - one.read)
        left -= self._read_some(short, left // 2)
        self._read_some(first, left)

    def _read_some(self, sequences: list[Sequence], most: int) -> int:
        """Read of one prompt after the other; returns how many tokens, about ``most`` at the most."""
        left = most
        for sequence in sequences:
            with sequence.guarded():
                while sequence.reading and left > 0:
                    left -= self._read(sequence, left)
        return most - left

    def _read(self, sequence: Sequence, most: int) -> int:
        """Read the next piece of a prompt; its end gives the first token. Returns how many tokens it had."""
        if not sequence.read:
            self._copy_prefix(sequence)
        piece = sequence.prompt[sequence.read : sequence.read + most]
        feeds: list[Operation] = [Feed((), token, sequence.read + k) for k, token in enumerate(piece)]
        sequence.read += len(piece)
        group = [] if sequence.reading else sequence.next_threads(1)
        tokens, logits = self.runner.step(self.cache, [_part(sequence, feeds, group)])
        if group:
            self._accept(sequence, {group[0]: 0}, tokens, logits)
        return len(piece)

    def _copy_prefix(self, sequence: Sequence) -> None:
        """Copy what another prompt in the cache begins with as well; the last token is left to be read."""
        others = [one for one in self.running if one is not sequence and not one.finished]
        common = {one: sequence.common_prefix(one, one.read) for one in others}
        donor = max(common, key=lambda one: common[one], default=None)
        if donor and common[donor] >= SHORTEST_PREFIX:
            self.cache.copy(donor.require_row(), sequence.require_row(), 1 + common[donor])
            sequence.visibility.skip(common[donor])
            sequence.read = common[donor]

    def _decode(self, sequences: list[Sequence]) -> None:
        step = self._arrived(sequences) or self._planned([one for one in sequences if not one.finished])
        if step is None:
            return
        try:
            self.ahead.launch(step, [one for one in sequences if not one.finished], self.cache)
            tokens = self._tokens(step)
        except BaseException as error:
            self.ahead.drop()
            _fail(step.logits_indices, error)
            return
        self.threads = sum(map(len, step.logits_indices.values()))
        left = deque(step.logits_indices.items())
        try:
            while left:
                sequence, indices = left.popleft()
                with sequence.guarded():
                    self._accept(sequence, indices, tokens, step.logits)
        except BaseException as error:  # an interrupt: the others have been fed what nobody will read
            _fail([sequence for sequence, _ in left], error)
            raise

    def _arrived(self, sequences: list[Sequence]) -> Step | None:
        try:
            return self.ahead.arrived(sequences)
        except BaseException as error:  # it is not known what each has been fed
            _fail(sequences, error)
            return None

    def _tokens(self, step: Step) -> list[int]:
        """The tokens of a step. If there is no memory to draw one again, the pass behind it gives back what it has."""
        try:
            return step.choice.tokens
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self.ahead.drop()
        return step.choice.tokens

    def _planned(self, sequences: list[Sequence]) -> Step | None:
        """Launch a step of the threads whose turn it is."""
        shares = self.shares([sequence.width for sequence in sequences])
        groups: dict[Sequence, list[Thread]] = {}
        parts: dict[Sequence, Part] = {}
        try:
            for sequence, share in zip(sequences, shares, strict=True):
                with sequence.guarded():
                    groups[sequence] = sequence.next_threads(share)
                    operations = [op for thread in groups[sequence] for op in sequence.interpreter.take(thread)]
                    parts[sequence] = _part(sequence, operations, groups[sequence])
        except BaseException as error:  # an interrupt: the others have handed out what nobody will feed
            _fail(parts, error)
            raise
        launched, index = self._launch(parts), count()
        if launched is None or launched.choice is None:
            return None
        indices = {sequence: {thread: next(index) for thread in groups[sequence]} for sequence in parts}
        return Step(launched.logits, launched.choice, indices)

    def _launch(self, parts: dict[Sequence, Part]) -> Launched | None:
        """One forward pass. Sequences that it cannot run with are ended and taken out of ``parts``; None if all are."""
        while parts:
            try:
                return self.runner.launch(self.cache, list(parts.values()))
            except BaseException as error:
                # Without memory the others are tried again, into the same slots. Otherwise it is not known what each
                # has been fed.
                newest = max(parts, key=lambda one: one.started)
                ended = [newest] if is_out_of_memory(error) else [*parts]
                for sequence in ended:
                    del parts[sequence]
                _fail(ended, error)
        return None

    def shares(self, wanted: list[int]) -> list[int]:
        """How many threads each sequence may run in a step: all that it wants, or what is fair."""
        if self.max_batch_threads is None or sum(wanted) <= self.max_batch_threads:
            return wanted
        shares, left = [1] * len(wanted), max(0, self.max_batch_threads - len(wanted))
        for rank, index in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
            more = min(wanted[index] - 1, left // (len(wanted) - rank))
            shares[index], left = 1 + more, left - more
        return shares

    def _accept(self, sequence: Sequence, indices: LogitsIndices, tokens_K: list[int], logits_KV: Tensor) -> None:
        """Hand the tokens of a group to the interpreter, and open the next round when this one is through."""
        interpreter, before = sequence.interpreter, sequence.interpreter.sampled
        tokens = [tokens_K[k] for k in indices.values()]
        if sequence.teacher:
            legal, paths = [thread.reader.legal() for thread in indices], [thread.path for thread in indices]
            tokens = sequence.teacher(_pick(logits_KV, list(indices.values())), legal, paths)
        for (thread, k), token in zip(indices.items(), tokens, strict=True):
            if sequence.logprobs:
                sequence.logprobs.note((thread.path, len(thread.written)), logits_KV[k], token)
            if sequence.observe:
                sequence.observe(thread.path, logits_KV[k], token)
            interpreter.accept(thread, token)
        sequence.steps += interpreter.sampled > before
        if not sequence.due:
            interpreter.next_round()
            self._open_round(sequence)

    def _open_round(self, sequence: Sequence) -> None:
        """Plan the next round; or give the response."""
        sequence.due = deque(sequence.order(sequence.interpreter.due()))
        if not sequence.due:
            seconds = perf_counter() - sequence.started
            response = respond(sequence.interpreter, len(sequence.prompt), sequence.steps, seconds)
            found = sequence.logprobs.of_text(sequence.interpreter) if sequence.logprobs else None
            sequence.response = replace(response, logprobs=found)

    def _retire(self) -> None:
        """Free the rows of finished sequences."""
        for sequence in [one for one in self.running if one.finished]:
            self.running.remove(sequence)
            self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        if sequence.row is not None:
            heappush(self._free, sequence.row)
            sequence.row = None
        if not self.running:
            self.ahead.drop()  # nobody waits for it


def _will_share(sequence: Sequence, others: list[Sequence]) -> bool:
    """Whether a prompt that has not been begun goes on like one that is being read, and can soon be copied further."""
    return not sequence.read and any(sequence.common_prefix(one, one.read + 1) > one.read for one in others)


def _part(sequence: Sequence, operations: list[Operation], group: list[Thread]) -> Part:
    """What a sequence feeds, and what is drawn for a group of its threads; for none, its last token's logits only."""
    queries, last = sequence.visibility.apply(operations)
    draws = [sequence.draw(thread) for thread in group]
    return Part(sequence.require_row(), queries, [last[one.path] for one in group] or [len(queries) - 1], draws)


def _pick(logits_KV: Tensor, indices: list[int]) -> Tensor:
    """Some of the logits, in order; without a copy where they follow each other."""
    first, last = indices[0], indices[-1]
    if indices == [*range(first, last + 1)]:
        return logits_KV[first : last + 1]
    return torch.stack([logits_KV[k] for k in indices])


def _fail(sequences: Iterable[Sequence], error: BaseException) -> None:
    """An error ends all of these."""
    with ExitStack() as ended:
        for sequence in sequences:
            ended.callback(sequence.fail, error)
