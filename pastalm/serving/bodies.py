"""The bodies that clients get, in the shapes of the OpenAI protocol."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from pastalm.runtime.response import Response, TokenLogprob
from pastalm.serving.threads import ThreadEvent

LOWEST_LOGPROB = -9999.0  # JSON has no infinity


def optional(**more: Any) -> Any:
    """A field that is left out of the body where it is None."""
    return Field(default=None, exclude_if=lambda value: value is None, **more)


class CompletionUsage(BaseModel):
    """``completion_tokens`` are those of all threads, tags included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, responses: Sequence[Response], prompts: int) -> CompletionUsage:
        """The usage of the answers to this many prompts; each prompt counts once, however many answers it has."""
        read = sum(one.prompt_tokens for one in responses[:: len(responses) // prompts])
        written = sum(one.metrics.tokens for one in responses)
        return cls(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


class DecodingFigures(BaseModel):
    """How an answer was decoded: see :class:`pastalm.runtime.response.Metrics`. ``threads`` counts the main one too;
    ``seed`` is that of the sampling; ``annotated`` is the answer with its tags, if it was asked for."""

    mode: str
    seed: int
    threads: int
    content_tokens: int
    steps: int
    critical_path: int
    parallelism: float
    sync_wait_steps: int
    redundancy: float
    annotated: str | None = optional()

    @classmethod
    def of(cls, response: Response, options: dict[str, Any], *, annotated: bool) -> DecodingFigures:
        """The figures of an answer that was decoded with these options."""
        metrics = response.metrics
        return cls(
            mode=options["mode"],
            seed=options["seed"],
            threads=len(response.threads),
            content_tokens=metrics.content_tokens,
            steps=metrics.steps,
            critical_path=metrics.critical_path,
            parallelism=metrics.parallelism,
            sync_wait_steps=metrics.sync_wait_steps,
            redundancy=metrics.redundancy,
            annotated=response.annotated if annotated else None,
        )


class AssistantMessage(BaseModel):
    """An answer to messages."""

    role: Literal["assistant"] = "assistant"
    content: str


class MessageDelta(BaseModel):
    """The next piece of an answer to messages."""

    role: Literal["assistant"] | None = optional()
    content: str | None = optional()


class TopLogprob(BaseModel):
    """A token with its log-probability. ``bytes``: its text in UTF-8; null for a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None

    @classmethod
    def of(cls, text: str, logprob: float) -> Self:
        """From a token's text."""
        whole = None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())
        return cls(token=text, logprob=max(logprob, LOWEST_LOGPROB), bytes=whole)


class ChatLogprob(TopLogprob):
    """The same with the likeliest tokens in its place."""

    top_logprobs: list[TopLogprob] = []


class ChatLogprobs(BaseModel):
    """Of each token of an answer's text, in the order of the document. Tags have none."""

    content: list[ChatLogprob]
    refusal: None = None

    @classmethod
    def of(cls, tokens: Sequence[TokenLogprob] | None) -> ChatLogprobs | None:
        """Those of an answer or a piece of it; None where they were not asked for."""
        if tokens is None:
            return None
        content = [ChatLogprob.of(one.text, one.logprob) for one in tokens]
        for said, one in zip(content, tokens, strict=True):
            said.top_logprobs = [TopLogprob.of(*pair) for pair in one.top]
        return cls(content=content)


class TextLogprobs(BaseModel):
    """The same in the shape of ``/v1/completions``. ``text_offset``: where each token begins in the answer's text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]

    @classmethod
    def of(cls, tokens: Sequence[TokenLogprob] | None, start: int = 0) -> TextLogprobs | None:
        """Those of an answer, or of a piece whose tokens begin at ``start``; None where they were not asked for."""
        if tokens is None:
            return None
        return cls(
            tokens=[one.text for one in tokens],
            token_logprobs=[max(one.logprob, LOWEST_LOGPROB) for one in tokens],
            top_logprobs=[{text: max(v, LOWEST_LOGPROB) for text, v in one.top} for one in tokens],
            text_offset=list(accumulate((len(one.text) for one in tokens), initial=start))[:-1],
        )


class Choice(BaseModel):
    """One answer, or a piece of it. ``pasta`` stands here where a request has several answers."""

    index: int
    finish_reason: Literal["stop", "length"] | None = None
    pasta: DecodingFigures | None = optional()


class ChatChoice(Choice):
    """An answer of ``/v1/chat/completions``."""

    message: AssistantMessage
    logprobs: ChatLogprobs | None = None


class ChatChunkChoice(Choice):
    """A piece of an answer of ``/v1/chat/completions``."""

    delta: MessageDelta
    logprobs: ChatLogprobs | None = None


class TextChoice(Choice):
    """An answer of ``/v1/completions``, or a piece of it."""

    text: str
    logprobs: TextLogprobs | None = None
    token_ids: list[int] | None = optional()


class Frame(BaseModel):
    """What all answers and pieces of them have in common."""

    id: str
    object: str
    created: int
    model: str


class WholeFrame(Frame):
    """``pasta`` stands here where a request has one answer."""

    usage: CompletionUsage
    pasta: DecodingFigures | None = optional()


class ChatCompletion(WholeFrame):
    """A whole answer of ``/v1/chat/completions``."""

    choices: list[ChatChoice]


class TextCompletion(WholeFrame):
    """A whole answer of ``/v1/completions``."""

    choices: list[TextChoice]


class ThreadEvents(BaseModel):
    """What the threads of an answer did since the last chunk, in the order in which it happened."""

    events: list[ThreadEvent]


class StreamChunk(Frame):
    """An event of a stream; the last one before the end has the usage, if it was asked for. ``obfuscation`` is random
    text that hides how long the piece is. ``pasta`` holds thread events where the request asks for them."""

    choices: list[ChatChunkChoice] | list[TextChoice]
    pasta: DecodingFigures | ThreadEvents | None = optional()
    usage: CompletionUsage | None = None
    obfuscation: str | None = optional()


class ErrorDetail(BaseModel):
    """What went wrong, in one sentence."""

    message: str
    type: str
    param: None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """Every error leaves in this shape."""

    error: ErrorDetail


class Health(BaseModel):
    """Whether requests are taken, and how many are open."""

    status: Literal["ok", "stopped"]
    open: int


class ModelCard(BaseModel):
    """A model as ``/v1/models`` tells of it. ``max_model_len``: the tokens that a prompt and its answer may have."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "pasta"
    max_model_len: int | None = None


class ModelList(BaseModel):
    """All models of this server: one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
