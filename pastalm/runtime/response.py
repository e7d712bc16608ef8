"""A finished answer: text, annotated text, threads, metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pastalm.lang.answer import Answer
from pastalm.lang.script import Script
from pastalm.runtime.thread import ThreadPath

MAX_TOP = 20  # of the likeliest tokens that are told beside each


@dataclass(frozen=True)
class ThreadResult:
    """One thread. ``path`` is () for the main thread, else the numbers of the forks that lead to it; ``promised`` and
    ``length_error`` (promised minus measured) count in the ``tokens`` attribute's unit; ``content`` counts the tokens
    between the tags, of the main thread those of the text; ``truncated`` says that a limit ended it."""

    path: ThreadPath
    topic: str
    promised: int
    content: int
    length_error: int
    text: str
    truncated: bool


@dataclass(frozen=True)
class Metrics:
    """``tokens``: sampled by all threads, tags included, and the steps that begin a chunk in sequential mode.
    ``steps``: forward passes that gave any of them, the prompt's among them; over a completion server, which does not
    tell of them, rounds of the threads. ``critical_path``: the steps it would take
    with unlimited threads. ``parallelism``: content tokens (no tags) by critical path. ``sync_wait_steps``: rounds that
    a thread stood waiting at a sync. ``length_errors``: promised minus measured length of each chunk. ``circles``:
    whether a thread ends in a loop of the same text."""

    tokens: int
    content_tokens: int
    steps: int
    critical_path: int
    parallelism: float
    wall_seconds: float
    tokens_per_second: float
    sync_wait_steps: int
    redundancy: float
    length_errors: tuple[int, ...]
    circles: bool = False


@dataclass(frozen=True)
class TokenLogprob:
    """The text of a token, its log-probability as the model gave it, before temperature, penalties and the grammar; and
    the likeliest tokens in its place, each with its own."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Response:
    """An answer. ``text`` is what the reader sees, ``annotated`` the same with tags, ``answer`` its tree, ``script``
    its tokens, ``end`` the token that ended it, if one did. ``finish_reason``: "stop", or "length" if a limit ended it.
    ``problems``: malformed tags, if any. ``logprobs``: those of the text's tokens, if they were asked for."""

    text: str
    annotated: str
    threads: tuple[ThreadResult, ...]
    metrics: Metrics
    finish_reason: Literal["stop", "length"]
    problems: tuple[str, ...]
    prompt_tokens: int
    answer: Answer
    script: Script
    end: int | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The response as plain JSON types, without tree and script."""
        names = ("text", "annotated", "finish_reason", "problems", "prompt_tokens")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        return {**fields, "threads": [asdict(one) for one in self.threads], "metrics": asdict(self.metrics)}
