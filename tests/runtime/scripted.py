"""A scripted model: drives an interpreter without tensors, and keeps what it asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random

from hypothesis import strategies as st

from pastalm.lang.positions import position_policy
from pastalm.lang.recogniser import Legal
from pastalm.lang.script import Script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.events import Event
from pastalm.runtime.interpreter import Interpreter
from pastalm.runtime.language import Language
from pastalm.runtime.limits import Limits
from pastalm.runtime.scheduler import Scheduler
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.thread import Feed, Fork, Join, Operation, Thread, ThreadPath

START = 3  # the prompt's length
Chooser = Callable[[ThreadPath, Legal], int]


@dataclass(frozen=True)
class Case:
    """One scripted answer: limits, how tags are read, and the seed of what its threads write."""

    seed: int
    limits: Limits
    constrained: bool
    policy: str = "pred10"
    stops: tuple[str, ...] = ()


def _limits() -> st.SearchStrategy[Limits]:
    return st.builds(
        Limits,
        max_tokens=st.integers(1, 80),
        max_async_tokens=st.none() | st.integers(1, 12),
        max_threads=st.none() | st.integers(1, 3),
        max_depth=st.integers(1, 3),
        window=st.none() | st.integers(START + 1, START + 70),
        slots=st.none() | st.integers(START + 1, START + 90),
    )


cases = st.builds(
    Case,
    st.integers(0, 1 << 32),
    _limits(),
    st.booleans(),
    st.sampled_from(["pred10", "pred1", "const40", "contiguous"]),
    st.sampled_from([(), (), ("x",), ("xy", "o w"), ("é", " />x")]),
)


class Scribbler:
    """Writes anything, mostly tags and promises; what a thread writes depends on the seed and its path alone."""

    def __init__(self, vocabulary: Vocabulary, seed: int) -> None:
        v = vocabulary
        self.seed, self.size, self.threads = seed, len(v.tokenizer), {}
        letters = v.encode("xyz é€ o w")
        self.promise = [v.promise_topic, *v.encode("x"), v.promise_tokens, *v.encode("1"), v.promise_end]
        self.menu = [[i] for i in (*v.tags, *letters, *letters, v.sync, v.async_end, v.tokenizer.eos_token_id)]
        self.menu += [self.promise] * 6
        self.queued: dict[ThreadPath, list[int]] = {}

    def __call__(self, path: ThreadPath, legal: Legal) -> int:
        rng = self.threads.setdefault(path, Random(f"{self.seed} {path}"))
        queue = self.queued.setdefault(path, [])
        while True:
            if not queue:
                queue += rng.choice(self.menu) if rng.random() < 0.9 else [rng.randrange(self.size)]
            token = queue.pop(0)
            if legal.only == (token in legal.ids):
                return token
            if legal.only and rng.random() < 0.3:
                return rng.choice(legal.ids)


@dataclass
class Run:
    """A finished interpreter, its operations in order, its events, and how many tokens the model chose."""

    interpreter: Interpreter
    operations: list[Operation] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    chosen: int = 0

    @property
    def feeds(self) -> list[Feed]:
        return [op for op in self.operations if isinstance(op, Feed)]


def interpreter_of(case: Case, vocabulary: Vocabulary, *, eager: bool = False) -> Interpreter:
    language = Language(vocabulary.text, vocabulary.eos, vocabulary, asynchronous=True, constrained=case.constrained)
    policy = position_policy(case.policy)
    return Interpreter(language, policy, case.limits, START, stops=case.stops, eager=eager)


def drive(interpreter: Interpreter, choose: Chooser, order: Callable[[list[Thread]], list[Thread]] = list) -> Run:
    """Decode to the end, in groups of at most ``max_threads``."""
    run = Run(interpreter)
    eos = interpreter.language.eos
    for _ in range(interpreter.limits.max_tokens + 2):
        due = order(interpreter.due())
        if not due:
            run.events = interpreter.transcript.drain()
            return run
        width = interpreter.limits.max_threads or len(due)
        for k in range(0, len(due), width):
            group = due[k : k + width]
            run.operations += [op for thread in group for op in interpreter.take(thread)]
            for thread in group:
                token = choose(thread.path, thread.reader.legal())
                run.chosen += token not in eos
                interpreter.accept(thread, token)
        interpreter.next_round()
    raise AssertionError("it does not end")


def play(case: Case, vocabulary: Vocabulary, *, eager: bool = False) -> Run:
    """Run a case."""
    return drive(interpreter_of(case, vocabulary, eager=eager), Scribbler(vocabulary, case.seed))


Fed = tuple[ThreadPath, int]  # the k-th token of a thread, <async> included


def visibility(operations: list[Operation]) -> dict[Fed, set[Fed]]:
    """What each fed token sees of the others, by the operations alone."""
    rows: dict[ThreadPath, set[Fed]] = {(): set()}
    counts: dict[ThreadPath, int] = {}
    seen: dict[Fed, set[Fed]] = {}
    for op in operations:
        if isinstance(op, Feed):
            me = (op.thread, counts.get(op.thread, 0))
            counts[op.thread] = me[1] + 1
            rows[op.thread].add(me)
            seen[me] = set(rows[op.thread])
        elif isinstance(op, Fork):
            assert op.child not in rows
            rows[op.child] = set(rows[op.parent])
        elif isinstance(op, Join):
            for child in op.children:
                rows[op.parent] |= rows.pop(child)
    return seen


def places(script: Script) -> dict[Fed, int]:
    """Where in the document each thread's k-th token stands."""
    paths: list[ThreadPath] = [()]
    for block in script.blocks[1:]:
        siblings = sum(path[:-1] == paths[block.parent] and path != () for path in paths)
        paths.append((*paths[block.parent], siblings))
    counts = [0] * len(paths)
    found = {}
    for index, block in enumerate(script.block):
        found[paths[block], counts[block]] = index
        counts[block] += 1
    return found


def decode_all(scheduler: Scheduler, requests: list[Sequence], cancelled: int) -> None:
    """Run requests side by side until there is nothing to do; the first one is cancelled before this step."""
    for request in requests:
        scheduler.add(request)
    for step in count():
        if step == cancelled:
            scheduler.cancel(requests[0])
        if not scheduler.step():
            return
