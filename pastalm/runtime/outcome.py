"""From a finished interpreter to the response."""

from __future__ import annotations

from pastalm.lang.metrics import circles, redundancy
from pastalm.lang.render import render
from pastalm.lang.script import Script
from pastalm.runtime.interpreter import Interpreter
from pastalm.runtime.response import Metrics, Response, ThreadResult
from pastalm.runtime.thread import Thread, answer_of, script_of


def respond(interpreter: Interpreter, prompt_tokens: int, steps: int, seconds: float) -> Response:
    """The response of a finished interpreter. Raises ``ValueError`` if the answer is not over."""
    if interpreter.finish_reason is None:
        raise ValueError("This answer is not over: its threads have tokens to write.")
    family, script = interpreter.main.family(), _script(interpreter)
    contents = [interpreter.main.shown, *(block.content for block in script.blocks[1:])]
    threads = tuple(_result(*one, interpreter) for one in zip(family, contents, strict=True))
    answer = answer_of(interpreter.main)
    return Response(
        text=answer.plain,
        annotated=render(answer),
        threads=threads,
        metrics=_metrics(interpreter, script, threads, steps, seconds),
        finish_reason=interpreter.finish_reason,
        problems=tuple(interpreter.transcript.problems),
        prompt_tokens=prompt_tokens,
        answer=answer,
        script=script,
        end=interpreter.end,
    )


def _script(interpreter: Interpreter) -> Script:
    main, language = interpreter.main, interpreter.language
    if language.asynchronous and language.vocabulary is not None:
        return script_of(main, language.vocabulary)
    return Script([item for item in main.written if isinstance(item, int)], [0] * len(main.written))


def _metrics(
    interpreter: Interpreter, script: Script, threads: tuple[ThreadResult, ...], steps: int, seconds: float
) -> Metrics:
    family = interpreter.main.family()
    content = sum(thread.shown for thread in family)
    return Metrics(
        tokens=interpreter.sampled,
        content_tokens=content,
        steps=steps,
        critical_path=interpreter.rounds,
        parallelism=content / max(interpreter.rounds, 1),
        wall_seconds=seconds,
        tokens_per_second=interpreter.sampled / seconds if seconds else 0.0,
        sync_wait_steps=sum(thread.wait_steps for thread in family),
        redundancy=redundancy(script),
        length_errors=tuple(one.length_error for one in threads[1:]),
        circles=circles(script),
    )


def _result(thread: Thread, content: int, interpreter: Interpreter) -> ThreadResult:
    measured = interpreter.policy.label(content) if thread.parent else 0
    error = thread.promised - measured
    return ThreadResult(thread.path, thread.topic, thread.promised, content, error, thread.own_text, thread.truncated)
