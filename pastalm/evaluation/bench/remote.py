"""A model behind a completion server: how soon its own answers are there, and what they ask of the server.

A server takes no text by force, so each prompt is answered by the model's own choice, in parallel and sequentially.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter
from typing import Any
from urllib.request import urlopen

from pastalm.evaluation.bench.answers import LoadPoint
from pastalm.evaluation.comparison import Pair
from pastalm.lang.prompt import Prompt
from pastalm.runtime.engine import Engine
from pastalm.runtime.mode import Mode
from pastalm.runtime.response import Response

CACHED = "vllm:prefix_cache_hits_total"  # vLLM's counter of prompt tokens that its cache held
TIMEOUT = 10.0  # seconds


@dataclass
class ServerCosts:
    """What the answers of one ``mode`` came to: seconds, tokens of prompts and of answers; the completions that they
    asked for, the tokens of these completions' prompts, and those of them that the server's cache held (None: it does
    not say)."""

    mode: str
    answers: int = 0
    seconds: float = 0.0
    prompts: int = 0
    tokens: int = 0
    requests: int = 0
    sent: int = 0
    cached: int | None = None

    @property
    def again(self) -> int | None:
        """Tokens of prompts that the server computed although it had computed them before, or had written them. None
        are where the prompts themselves were in its cache."""
        return None if self.cached is None else max(0, self.sent - self.cached - self.prompts)


class MeasuredServer:
    """Answers prompts by an engine of :meth:`Engine.remote`, whose server is at ``urls`` and serves nobody else, and
    adds up what they cost, by mode."""

    def __init__(self, engine: Engine, urls: Sequence[str], max_tokens: int = 1024) -> None:
        self.engine, self.urls, self.max_tokens = engine, urls, max_tokens
        self.scheduler: Any = engine.scheduler(1, 0)
        self.costs = {mode: ServerCosts(mode) for mode in (Mode.ASYNC, Mode.SEQUENTIAL)}

    def answer(self, prompt: Prompt, mode: Mode) -> Response:
        """One answer, its cost added to the mode's."""
        requests, sent, cached = self.scheduler.requests, self.scheduler.prompt_tokens, cached_tokens(self.urls)
        response = self.engine.generate(prompt, mode=mode, max_tokens=self.max_tokens)
        own, after = self.costs[mode], cached_tokens(self.urls)
        own.answers += 1
        own.seconds += response.metrics.wall_seconds
        own.prompts += response.prompt_tokens
        own.tokens += response.metrics.tokens
        own.requests += self.scheduler.requests - requests
        own.sent += self.scheduler.prompt_tokens - sent
        if cached is not None and after is not None:
            own.cached = (own.cached or 0) + after - cached
        return response

    def pairs(self, prompts: Sequence[Prompt]) -> Iterator[Pair[Response]]:
        """Each prompt answered in parallel and sequentially, one at a time. In parallel first: the prompt is then not
        in the server's cache yet."""
        other = self.engine.encode(prompts[0])[::-1]  # warms the server up, and leaves no prompt in its cache
        self.engine.generate(other, mode=Mode.SEQUENTIAL, max_tokens=8)
        for prompt in prompts:
            answer = self.answer(prompt, Mode.ASYNC)
            yield Pair(answer, self.answer(prompt, Mode.SEQUENTIAL))

    def load(self, prompts: Sequence[Prompt], loads: Sequence[int]) -> Iterator[LoadPoint]:
        """A point for each number of answers at once, to ``prompts`` again and again."""
        for load in loads:
            asked = list(islice(cycle(prompts), load))
            seconds, tokens = self._together(asked, Mode.ASYNC)
            plain_seconds, plain_tokens = self._together(asked, Mode.SEQUENTIAL)
            yield LoadPoint(load, seconds, plain_seconds, tokens / seconds, plain_tokens / plain_seconds)

    def _together(self, prompts: Sequence[Prompt], mode: Mode) -> tuple[float, int]:
        started = perf_counter()
        batch = self.engine.generate_batch(prompts, max_batch=len(prompts), mode=mode, max_tokens=self.max_tokens)
        tokens = sum(one.metrics.content_tokens for one in batch)
        return perf_counter() - started, tokens


def cached_tokens(urls: Sequence[str]) -> int | None:
    """How many tokens of prompts the caches of servers have held so far, where they count them as vLLM does."""
    try:
        return sum(map(_cached_tokens, urls))
    except (OSError, ValueError):
        return None


def _cached_tokens(url: str) -> int:
    with urlopen(url.rstrip("/").removesuffix("/v1") + "/metrics", timeout=TIMEOUT) as reply:
        lines = reply.read().decode().splitlines()
    found = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(CACHED)]
    if not found:
        raise ValueError(f"{url} does not count {CACHED}.")
    return int(sum(found))
