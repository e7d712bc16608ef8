"""An answer in the shapes of the protocol: whole, or chunk by chunk."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel

from pastalm.runtime.response import Response, TokenLogprob
from pastalm.serving.bodies import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Choice,
    CompletionUsage,
    DecodingFigures,
    MessageDelta,
    StreamChunk,
    TextChoice,
    TextCompletion,
    TextLogprobs,
    ThreadEvents,
)
from pastalm.serving.errors import ServingError
from pastalm.serving.requests import CommonRequest, CompletionRequest
from pastalm.serving.worker import JobProgress

TokenLogprobs = Sequence[TokenLogprob] | None
DONE = "data: [DONE]\n\n"
PADDED_LENGTH = 32  # characters that a piece and its obfuscation have together, or a multiple


@dataclass(frozen=True)
class Reply:
    """The frame of one request's answers. ``options``: those that each answer is decoded with."""

    asked: CommonRequest
    options: Sequence[dict[str, Any]]
    created: int = field(default_factory=lambda: int(time.time()))
    number: str = field(default_factory=lambda: uuid.uuid4().hex)
    PREFIX: ClassVar[str]
    CHUNK: ClassVar[str]  # what a chunk calls its kind

    def whole(self, responses: Sequence[Response]) -> BaseModel:
        """All answers in one piece."""
        raise NotImplementedError

    def opening(self, index: int) -> str:
        """What comes before the first text of an answer."""
        return ""

    def piece(self, index: int, progress: JobProgress) -> str:
        """A chunk of text, and of thread events."""
        events = ThreadEvents(events=list(progress.events)) if progress.events else None
        choice = self._choice(index, progress.text, progress.logprobs, progress.tokens)
        return self._chunk(choice, progress.text, events)

    def closing(self, index: int, response: Response) -> str:
        """The chunk after the last text of an answer: why it ended, and the figures."""
        choice = self._choice(index, "", tokens=_end(response))
        choice.finish_reason, choice.pasta = response.finish_reason, self._own_figures(index, response)
        return self._chunk(choice, pasta=None if choice.pasta else self._figures(index, response))

    def ending(self, responses: Sequence[Response]) -> str:
        """What comes after all answers."""
        if not self.asked.wants_usage:
            return DONE
        return _event(StreamChunk(**self._frame(self.CHUNK), choices=[], usage=self._usage(responses))) + DONE

    def failure(self, error: ServingError) -> str:
        """An error in the middle of a stream, which ends there."""
        return f"data: {json.dumps(error.body())}\n\n"

    def _choice(self, index: int, text: str, logprobs: TokenLogprobs = None, tokens: Sequence[int] = ()) -> Choice:
        """A choice of a chunk with this text, and the probabilities and the ids of these tokens."""
        raise NotImplementedError

    def _chunk(self, choice: Choice, text: str = "", pasta: DecodingFigures | ThreadEvents | None = None) -> str:
        choices: Any = [choice]  # of the one kind that :meth:`_choice` makes
        chunk = StreamChunk(**self._frame(self.CHUNK), choices=choices, pasta=pasta, obfuscation=self._padding(text))
        return _event(chunk, exclude=set() if self.asked.wants_usage else {"usage"})

    def _padding(self, text: str) -> str | None:
        """What hides the length of this text, if that is asked for."""
        return secrets.token_hex(PADDED_LENGTH)[: -len(text) % PADDED_LENGTH] if self.asked.wants_padding else None

    def _frame(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{self.PREFIX}-{self.number}",
            "object": kind,
            "created": self.created,
            "model": self.asked.model,
        }

    def _whole(self, kind: str, responses: Sequence[Response]) -> dict[str, Any]:
        figures = None if len(self.options) > 1 else self._figures(0, responses[0])
        return {**self._frame(kind), "usage": self._usage(responses), "pasta": figures}

    def _ended(self, index: int, response: Response) -> dict[str, Any]:
        figures = self._own_figures(index, response)
        return {"index": index, "finish_reason": response.finish_reason, "pasta": figures}

    def _usage(self, responses: Sequence[Response]) -> CompletionUsage:
        return CompletionUsage.of(responses, len(self.asked.prompts))

    def _figures(self, index: int, response: Response) -> DecodingFigures:
        return DecodingFigures.of(response, self.options[index], annotated=bool(self.asked.annotated))

    def _own_figures(self, index: int, response: Response) -> DecodingFigures | None:
        return self._figures(index, response) if len(self.options) > 1 else None


class ChatReply(Reply):
    """Answers of ``/v1/chat/completions``."""

    PREFIX, CHUNK = "chatcmpl", "chat.completion.chunk"

    def whole(self, responses: Sequence[Response]) -> ChatCompletion:
        """See :class:`Reply`."""
        choices = [
            ChatChoice(
                **self._ended(index, one),
                message=AssistantMessage(content=one.text),
                logprobs=ChatLogprobs.of(one.logprobs),
            )
            for index, one in enumerate(responses)
        ]
        return ChatCompletion(**self._whole("chat.completion", responses), choices=choices)

    def opening(self, index: int) -> str:
        """The role."""
        return self._chunk(ChatChunkChoice(index=index, delta=MessageDelta(role="assistant", content="")))

    def _choice(
        self, index: int, text: str, logprobs: TokenLogprobs = None, tokens: Sequence[int] = ()
    ) -> ChatChunkChoice:
        delta = MessageDelta(content=text or None)
        return ChatChunkChoice(index=index, delta=delta, logprobs=ChatLogprobs.of(logprobs))


@dataclass(frozen=True)
class CompletionReply(Reply):
    """Answers of ``/v1/completions``. ``told``: how long the tokens are whose probabilities a stream has told, by the
    index of the answer."""

    PREFIX, CHUNK = "cmpl", "text_completion"
    told: Counter[int] = field(default_factory=Counter)

    def whole(self, responses: Sequence[Response]) -> TextCompletion:
        """See :class:`Reply`."""
        choices = [
            TextChoice(
                **self._ended(index, one),
                text=one.text,
                logprobs=TextLogprobs.of(one.logprobs),
                token_ids=self._ids([*one.script.tokens, *_end(one)]),
            )
            for index, one in enumerate(responses)
        ]
        return TextCompletion(**self._whole("text_completion", responses), choices=choices)

    def _choice(self, index: int, text: str, logprobs: TokenLogprobs = None, tokens: Sequence[int] = ()) -> TextChoice:
        start = self.told[index]
        self.told[index] += sum(len(one.text) for one in logprobs or ())
        shown = TextLogprobs.of(logprobs, start)
        return TextChoice(index=index, text=text, logprobs=shown, token_ids=self._ids(tokens))

    def _ids(self, tokens: Sequence[int]) -> list[int] | None:
        """The tokens, if they are asked for."""
        asked = isinstance(self.asked, CompletionRequest) and self.asked.return_token_ids
        return list(tokens) if asked else None


def _end(response: Response) -> list[int]:
    """The token that ended an answer, if one did."""
    return [] if response.end is None else [response.end]


def _event(body: BaseModel, exclude: set[str] | None = None) -> str:
    return f"data: {body.model_dump_json(exclude=exclude)}\n\n"
