"""Skeleton-of-Thought (arXiv 2307.15337): a prompted baseline for models that follow instructions, in this runtime.

Two stages, both without tags: the model writes a skeleton, three to ten numbered points of three to five words; then
each point is expanded by a request of its own, all in one batch. The answer is the points one below the other; nothing
can depend on a point, and each request reads the question and the skeleton again. As in the paper, the beginning of
each stage's answer is given: ``1.``, and a point's number and title.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from pastalm.evaluation.baselines.outline import EXPAND, MIN_POINTS, OUTLINE, head, points
from pastalm.lang.answer import Answer
from pastalm.lang.metrics import redundancy
from pastalm.lang.prompt import Message, Prompt, RawPrompt, as_messages
from pastalm.lang.script import Script
from pastalm.runtime.engine import Engine
from pastalm.runtime.mode import Mode
from pastalm.runtime.request import RequestError, RequestOptions
from pastalm.runtime.response import Metrics, Response, ThreadResult
from pastalm.runtime.thread import ThreadPath

Settled = RawPrompt | Sequence[Message]


class Skeleton:
    """Answers like an :class:`~pastalm.runtime.engine.Engine`, in the two stages of Skeleton-of-Thought."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def generate(self, prompt: Prompt, **options: Any) -> Response:
        """Answer a prompt; ``options`` are the engine's, and ``mode="sequential"`` is the engine's own answer.

        The skeleton gets at most half of ``max_tokens``, the points share what it leaves; ``max_threads`` is how many
        points are expanded at once, ``max_async_tokens`` bounds each. A model that writes no skeleton of at least two
        points answers sequentially, and the attempt counts in tokens, steps, critical path and time.

        In the response ``critical_path`` is the skeleton's plus the longest point's, ``content_tokens`` are those of
        the answer's text, ``threads`` holds the skeleton and then a thread for each point, ``finish_reason`` is
        "length" if a limit ended any point. Raises what :meth:`Engine.generate` does, and :class:`RequestError` for
        ``logprobs`` and for a prompt of ids.
        """
        options = {name: one for name, one in options.items() if one is not None}
        if options.get("mode", Mode.ASYNC) != Mode.ASYNC:
            return self.engine.generate(prompt, **options)
        settings = {"max_tokens": 1024, **options, "mode": Mode.SEQUENTIAL}
        _require_possible(settings)
        started, prompt_tokens = perf_counter(), len(self.engine.encode(prompt))
        settled, limit = self._settled(prompt), settings["max_tokens"]
        begun = self._begun(settled, OUTLINE.format(question=_question(settled)), "1.")
        skeleton = self.engine.generate(begun, **{**settings, "max_tokens": (limit + 1) // 2})
        left = max(1, limit - skeleton.metrics.tokens)
        titles = points("1." + skeleton.text)
        if not MIN_POINTS <= len(titles) <= left:
            plain = self.engine.generate(prompt, **{**settings, "max_tokens": left})
            return _with_attempt(plain, skeleton, perf_counter() - started)
        waves = list(self._expand(settled, titles, {**settings, "max_tokens": left // len(titles)}))
        return self._response(prompt_tokens, skeleton, titles, waves, perf_counter() - started)

    def generate_batch(self, prompts: Sequence[Prompt], **options: Any) -> Iterator[Response]:
        """Answer prompts one after the other: a batch holds the points of one answer."""
        for prompt in prompts:
            yield self.generate(prompt, **options)

    def _settled(self, prompt: Prompt) -> Settled:
        """A prompt as text, or as turns that each hold one text."""
        settled = self.engine.prompts.settle(prompt)
        if isinstance(settled, RawPrompt):
            return settled
        if isinstance(settled[0], int):
            raise RequestError("Skeleton-of-Thought asks in words: give a text or messages in place of token ids.")
        return as_messages(settled)

    def _begun(self, prompt: Settled, request: str, start: str) -> RawPrompt:
        """``prompt`` with ``request`` as its last question, up to an answer that begins with ``start``."""
        if isinstance(prompt, RawPrompt):
            return RawPrompt(f"{request}\n{start}")
        last = _last(prompt)
        turns = [*prompt[:last], {**prompt[last], "content": request}]
        return RawPrompt(self.engine.prompts.render(turns) + start)

    def _expand(self, prompt: Settled, titles: dict[int, str], settings: dict[str, Any]) -> Iterator[list[Response]]:
        """The expansions of all points, as many at once as ``max_threads`` says."""
        outline = "\n".join(f"{number}. {title}" for number, title in titles.items())
        question = _question(prompt)
        begun = [
            self._begun(prompt, EXPAND.format(question=question, skeleton=outline, number=number), head(number, title))
            for number, title in titles.items()
        ]
        longest = min(settings["max_tokens"], settings.get("max_async_tokens") or settings["max_tokens"])
        width = settings.get("max_threads") or len(begun)
        for first in range(0, len(begun), width):
            wave = begun[first : first + width]
            seeds = [settings.get("seed", 0) + first + place for place in range(len(wave))]
            own = {**settings, "max_tokens": longest}
            yield list(self.engine.generate_batch(wave, max_batch=len(wave), seeds=seeds, **own))

    def _response(
        self,
        prompt_tokens: int,
        skeleton: Response,
        titles: dict[int, str],
        waves: list[list[Response]],
        seconds: float,
    ) -> Response:
        expansions = [one for wave in waves for one in wave]
        parts = [
            f"{head(number, title)} {one.text.strip()}".rstrip()
            for (number, title), one in zip(titles.items(), expansions, strict=True)
        ]
        text = "\n".join(parts)
        ids = self.engine.codec.encode(text)
        metrics = _figures(
            skeleton.metrics,
            tokens=skeleton.metrics.tokens + sum(one.metrics.tokens for one in expansions),
            content=len(ids),
            steps=skeleton.metrics.steps + sum(map(_passes, waves)),
            path=skeleton.metrics.critical_path + max(one.metrics.critical_path for one in expansions),
            seconds=seconds,
        )
        threads = [_thread((), "", skeleton.text, skeleton)]
        for place, (title, part, one) in enumerate(zip(titles.values(), parts, expansions, strict=True)):
            threads.append(_thread((place,), title, part, one))
        return replace(
            skeleton,
            text=text,
            annotated=text,
            threads=tuple(threads),
            metrics=replace(
                metrics,
                redundancy=_redundancy(expansions),
                circles=any(one.metrics.circles for one in [skeleton, *expansions]),
            ),
            finish_reason="length" if any(thread.truncated for thread in threads[1:]) else "stop",
            prompt_tokens=prompt_tokens,
            answer=Answer((text,)),
            script=Script(ids, [0] * len(ids)),
        )


def _require_possible(settings: dict[str, Any]) -> None:
    RequestOptions(**settings)  # it checks itself
    if "logprobs" in settings:
        raise RequestError("Skeleton-of-Thought has no logprobs, since the points' titles are given: leave them out.")


def _last(messages: Sequence[Message]) -> int:
    """The index of the last message of the user, or of the last one if there is none."""
    own = [index for index, message in enumerate(messages) if message["role"] == "user"]
    return own[-1] if own else len(messages) - 1


def _question(prompt: Settled) -> str:
    return prompt.text if isinstance(prompt, RawPrompt) else prompt[_last(prompt)]["content"]


def _thread(path: ThreadPath, topic: str, text: str, one: Response) -> ThreadResult:
    return ThreadResult(path, topic, 0, one.metrics.content_tokens, 0, text, one.finish_reason == "length")


def _passes(wave: list[Response]) -> int:
    """Forward passes of one batch: a prefill gives each request its first token, the others they take together."""
    steps = [one.metrics.steps for one in wave]
    return sum(map(bool, steps)) + max(0, *(step - 1 for step in steps))


def _redundancy(expansions: list[Response]) -> float:
    """The redundancy of the points, as if each were a chunk between its two tags."""
    script = Script()
    for one in expansions:
        script.append([-1, *one.script.tokens, -1], script.open(0, "", 0))
    return redundancy(script)


def _with_attempt(plain: Response, attempt: Response, seconds: float) -> Response:
    """A sequential answer that also bears what a skeleton in vain has cost."""
    own, spent = plain.metrics, attempt.metrics
    metrics = _figures(
        own,
        tokens=own.tokens + spent.tokens,
        content=own.content_tokens,
        steps=own.steps + spent.steps,
        path=own.critical_path + spent.critical_path,
        seconds=seconds,
    )
    return replace(plain, metrics=metrics)


def _figures(own: Metrics, *, tokens: int, content: int, steps: int, path: int, seconds: float) -> Metrics:
    """``own`` with these figures in place of its own, and what follows from them."""
    return replace(
        own,
        tokens=tokens,
        content_tokens=content,
        steps=steps,
        critical_path=path,
        parallelism=content / max(1, path),
        wall_seconds=seconds,
        tokens_per_second=tokens / seconds,
    )
