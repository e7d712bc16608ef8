"""One request while it is decoded, as data: who decides about it, where it stands in the batch, what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from pastalm.lang.recogniser import Legal
from pastalm.runtime.interpreter import Interpreter
from pastalm.runtime.logprobs import Logprobs
from pastalm.runtime.memory import OutOfMemoryError, is_out_of_memory
from pastalm.runtime.request import Observer
from pastalm.runtime.response import Response
from pastalm.runtime.sampler import Draw, SamplingParams
from pastalm.runtime.seen_text import seen_counts
from pastalm.runtime.thread import Thread, ThreadPath
from pastalm.runtime.visibility import Visibility


class Teacher(Protocol):
    """Says which tokens come, in the sampler's place: a known answer, a test."""

    def __call__(self, logits_TV: Tensor, legal: list[Legal], paths: list[ThreadPath]) -> list[int]:
        """One token for each thread of a step, from its row of logits, its legal tokens and its path."""
        ...


@dataclass(eq=False)
class Sequence:
    """One prompt on its way to an answer.

    ``prompt`` are ids; ``interpreter`` decides what they grow to; ``sampling`` says how tokens are drawn, unless a
    ``teacher`` gives them; ``coming`` is the token that it will give a thread next, where that is known. ``order`` may
    reorder the threads of a round (parents stay before children); nothing depends on it, which the tests show.
    ``logprobs`` notes probabilities, if they are asked for. ``row`` is its place in the batch, None while it waits;
    ``visibility`` its slots and what its threads see; ``read`` counts the tokens of the prompt that are in the cache;
    ``due`` are the threads of this round that are still to run; ``steps`` counts passes that gave a token; ``started``
    is when it got its row: time in line is not its own.
    """

    prompt: list[int]
    interpreter: Interpreter
    sampling: SamplingParams = field(default_factory=SamplingParams)
    teacher: Teacher | None = None
    coming: Callable[[ThreadPath], int] | None = None
    order: Callable[[list[Thread]], list[Thread]] = list
    observe: Observer | None = None
    logprobs: Logprobs | None = None
    row: int | None = None
    visibility: Visibility = field(default_factory=Visibility)
    read: int = 0
    due: deque[Thread] = field(default_factory=deque)
    steps: int = 0
    started: float = 0.0
    response: Response | None = None
    error: Exception | None = None

    @property
    def reading(self) -> bool:
        """Whether some of its prompt is not in the cache yet."""
        return self.read < len(self.prompt)

    @property
    def width(self) -> int:
        """How many threads it would run in the next step."""
        return min(len(self.due), self.interpreter.limits.max_threads or len(self.due))

    def require_row(self) -> int:
        """Its place in the batch. Raises ``RuntimeError`` if it has none: it waits, or has been taken out."""
        if self.row is None:
            raise RuntimeError("This sequence has no row of the batch: it waits, or its scheduler has taken it out.")
        return self.row

    def next_threads(self, most: int) -> list[Thread]:
        """Take out the threads that run in the next step, at most so many."""
        return [self.due.popleft() for _ in range(min(most, self.width))]

    def draw(self, thread: Thread) -> Draw:
        """How the next token of a thread is chosen."""
        seen = seen_counts(thread, self.interpreter.language.vocabulary) if self.sampling.penalised else {}
        return Draw(self.sampling, thread.reader.legal(), thread.path, len(thread.written), seen)

    def common_prefix(self, other: Sequence, most: int) -> int:
        """How many of the first ``most`` tokens of its prompt are those of ``other``; its own last one is left out."""
        most = min(most, len(self.prompt) - 1)
        pairs = zip(self.prompt[:most], other.prompt, strict=False)
        return next((place for place, (one, two) in enumerate(pairs) if one != two), min(most, len(other.prompt)))

    @property
    def finished(self) -> bool:
        """Whether it has its response, or never will."""
        return self.response is not None or self.error is not None

    @property
    def max_slots(self) -> int:
        """The cache slots that it may come to use, without the junk slot."""
        return self.interpreter.limits.slots or 1

    def result(self) -> Response:
        """The response of a finished sequence; raises the error that ended it."""
        if self.error is not None:
            raise self.error
        if self.response is None:
            raise RuntimeError("This sequence is not finished: its scheduler has steps to do.")
        return self.response

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What fails in here ends this sequence and no other; an interrupt ends it too, and goes on."""
        try:
            yield
        except BaseException as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """An error ends it. Raises again what is no ``Exception``, such as an interrupt from the keyboard."""
        if isinstance(error, Exception):
            self.error = OutOfMemoryError() if is_out_of_memory(error) else error
        else:
            self.error = InterruptedError("Decoding was interrupted.")
            raise error
