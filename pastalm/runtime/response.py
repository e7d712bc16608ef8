"""A finished answer: text, annotated text, threads, metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pastalm.lang.answer import Answer
from pastalm.lang.metrics import redundancy
from pastalm.lang.render import render
from pastalm.lang.script import Script
from pastalm.runtime.interpreter import Interpreter
from pastalm.runtime.thread import Path, Thread, answer_of, script_of


@dataclass(frozen=True)
class ThreadResult:
    """One thread. ``path`` is () for the main thread, else the numbers of the forks that lead to it; ``promised`` and
    ``length_error`` (promised minus measured) count in the ``tokens`` attribute's unit; ``content`` counts the tokens
    between the tags; ``truncated`` says that a limit ended it."""

    path: Path
    topic: str
    promised: int
    content: int
    length_error: int
    text: str
    truncated: bool


@dataclass(frozen=True)
class Metrics:
    """``tokens``: sampled by all threads, tags included. ``steps``: forward passes that gave any of them, the prompt's
    among them. ``critical_path``: the steps it would take with unlimited threads. ``parallelism``: content tokens (no
    tags) by critical path. ``sync_wait_steps``: rounds that a thread stood waiting at a sync. ``length_errors``:
    promised minus measured length of each chunk."""

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


@dataclass(frozen=True)
class Response:
    """An answer. ``text`` is what the reader sees, ``annotated`` the same with tags, ``answer`` its tree, ``script``
    its tokens, ``end`` the token that ended it, if one did. ``finish_reason``: "stop", or "length" if a limit ended it.
    ``problems``: malformed tags, if any."""

    text: str
    annotated: str
    threads: tuple[ThreadResult, ...]
    metrics: Metrics
    finish_reason: str
    problems: tuple[str, ...]
    prompt_tokens: int
    answer: Answer
    script: Script
    end: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The response as plain JSON types, without tree and script."""
        names = ("text", "annotated", "finish_reason", "problems", "prompt_tokens")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        return {**fields, "threads": [asdict(one) for one in self.threads], "metrics": asdict(self.metrics)}


def respond(interpreter: Interpreter, prompt_tokens: int, steps: int, seconds: float) -> Response:
    """Put together the response of a finished interpreter."""
    main, vocabulary = interpreter.main, interpreter.language.vocabulary
    family = main.family()
    answer = answer_of(main)
    asynchronous = interpreter.language.asynchronous and vocabulary is not None
    script = (
        script_of(main, vocabulary)
        if asynchronous and vocabulary
        else Script(list(_ids(main)), [0] * len(main.written))
    )
    contents = [main.shown, *(block.content for block in script.blocks[1:])]
    threads = tuple(_result(*one, interpreter) for one in zip(family, contents, strict=True))
    content = sum(thread.shown for thread in family)
    path = max(interpreter.rounds, 1)
    metrics = Metrics(
        tokens=interpreter.sampled,
        content_tokens=content,
        steps=steps,
        critical_path=interpreter.rounds,
        parallelism=content / path,
        wall_seconds=seconds,
        tokens_per_second=interpreter.sampled / seconds if seconds else 0.0,
        sync_wait_steps=sum(thread.wait_steps for thread in family),
        redundancy=redundancy(script),
        length_errors=tuple(one.length_error for one in threads[1:]),
    )
    return Response(
        text=answer.plain,
        annotated=render(answer),
        threads=threads,
        metrics=metrics,
        finish_reason=interpreter.finish_reason or "length",
        problems=tuple(interpreter.problems),
        prompt_tokens=prompt_tokens,
        answer=answer,
        script=script,
        end=interpreter.end,
    )


def _ids(thread: Thread) -> list[int]:
    return [item for item in thread.written if isinstance(item, int)]


def _result(thread: Thread, content: int, interpreter: Interpreter) -> ThreadResult:
    measured = interpreter.policy.label(content) if thread.parent else 0
    error = thread.promised - measured
    return ThreadResult(thread.path, thread.topic, thread.promised, content, error, thread.own_text, thread.truncated)
