"""Known answers decoded by force: alone, for the speedup of each; and many at once, for what a loaded server gains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from pastalm.data.examples import AnnotatedAnswer
from pastalm.evaluation.bench.steps import now
from pastalm.evaluation.comparison import Pair
from pastalm.lang.answer import Answer
from pastalm.lang.prompt import Prompt
from pastalm.lang.script import compile_script
from pastalm.runtime.engine import Engine
from pastalm.runtime.response import Response


@dataclass(frozen=True)
class LoadPoint:
    """``sequences`` answers at once: seconds until all are there, in parallel and the same texts sequentially, and the
    tokens of text a second in each way. In parallel they took ``steps``; ``ahead`` of these were launched before the
    last one's tokens were seen, with ``dropped`` places in vain."""

    sequences: int
    seconds: float
    sequential_seconds: float
    tokens_per_second: float
    sequential_tokens_per_second: float
    steps: int = 0
    ahead: int = 0
    dropped: int = 0

    @property
    def speedup(self) -> float:
        """How much sooner the parallel answers are there."""
        return self.sequential_seconds / self.seconds


def replay_answers(engine: Engine, answers: Sequence[AnnotatedAnswer]) -> Iterator[Pair[Response]]:
    """Each answer and its plain text through the same runtime; which goes first alternates."""
    for index, known in enumerate(answers):
        ways = [known.answer, plain(known)]
        found = {way: engine.replay(known.prompt, ways[way]) for way in ((0, 1) if index % 2 else (1, 0))}
        yield Pair(found[0], found[1])


def measure_load(engine: Engine, answers: Sequence[AnnotatedAnswer], loads: Sequence[int]) -> Iterator[LoadPoint]:
    """A point for each number of answers at once, taken from ``answers`` again and again."""
    for load in loads:
        asked = list(islice(cycle(answers), load))
        seconds, tokens, *counts = _together(engine, [(one.prompt, one.answer) for one in asked])
        plain_seconds, plain_tokens, *_ = _together(engine, [(one.prompt, plain(one)) for one in asked])
        yield LoadPoint(load, seconds, plain_seconds, tokens / seconds, plain_tokens / plain_seconds, *counts)


def plain(known: AnnotatedAnswer) -> Answer:
    """The same text without tags."""
    return Answer((known.answer.plain,))


def _together(engine: Engine, answers: Sequence[tuple[Prompt, Answer]]) -> tuple[float, int, int, int, int]:
    """Seconds until all answers are there, their tokens of text, and the counts of :class:`LoadPoint`."""
    vocabulary, policy = engine.tags(), engine.policy()
    asked = []
    for prompt, answer in answers:
        script = compile_script(answer, vocabulary, policy, end=False)
        asked.append(engine.replay_request(engine.encode(prompt), script, policy))
    scheduler = engine.scheduler(len(asked), max(one.max_slots for one in asked))
    scheduler.reserve()
    for one in asked:
        scheduler.add(one)
    started, steps, going = now(engine), 0, True
    while going:
        going = scheduler.step()
        steps += scheduler.threads > 0
    seconds, tokens = now(engine) - started, sum(one.result().metrics.content_tokens for one in asked)
    return seconds, tokens, steps, scheduler.ahead.steps, scheduler.ahead.dropped
