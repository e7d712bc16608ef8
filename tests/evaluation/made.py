"""Outcomes made by hand, so that every figure can be worked out on paper."""

from __future__ import annotations

from typing import Any

from pastalm.data.questions import Question
from pastalm.evaluation.answers import DecodedAnswer, Outcome
from pastalm.runtime.response import Metrics


def answer(text: str = "text", tokens: int = 100, path: int = 100, seconds: float = 1.0, **more: Any) -> DecodedAnswer:
    """An answer of so many tokens, all of them content, over a critical path."""
    errors = more.get("errors", ())
    told = (more.get("redundancy", 0.0), errors, more.get("circles", False))
    metrics = Metrics(tokens, tokens, path, path, tokens / path, seconds, tokens / seconds, 0, *told)
    topics = tuple(f"topic {index}" for index in range(len(errors)))
    return DecodedAnswer(text, text, topics, more.get("finished", True), metrics)


def outcome(own: DecodedAnswer, baseline: DecodedAnswer | None = None, **question: Any) -> Outcome:
    """An answer beside its baseline's, by default a hundred tokens in a second."""
    return Outcome(Question(**{"prompt": f"Say {own.text}.", **question}), own, baseline or answer("plain"))
