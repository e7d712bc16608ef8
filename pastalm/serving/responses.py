"""``/v1/responses``, the newer API of the OpenAI protocol: text in, text out, whole or as a stream of typed events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pastalm.lang.prompt import Prompt
from pastalm.runtime.response import Response
from pastalm.serving.bodies import CompletionUsage, DecodingFigures, ThreadEvents, optional
from pastalm.serving.errors import InvalidRequestError, ServingError
from pastalm.serving.reply import Reply
from pastalm.serving.requests import CommonRequest, FirstError, RequestObject, Text, Whole
from pastalm.serving.unsupported import RESPONSES_UNSUPPORTED
from pastalm.serving.worker import JobProgress


class InputPart(BaseModel):
    """A piece of an input message; only text can be read."""

    model_config = ConfigDict(strict=True)
    type: Literal["input_text", "output_text", "text"]
    text: Text


class InputMessage(RequestObject):
    """One turn of a conversation: a message, or an answer that is sent back."""

    type: Literal["message"] = "message"
    role: Text
    content: Text | Annotated[list[InputPart], FirstError]
    id: str | None = None
    status: str | None = None
    phase: str | None = None

    @property
    def message(self) -> dict[str, str]:
        """The turn as the chat template takes it."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": self.role, "content": text}


def _messages(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


Turns = Annotated[list[InputMessage], FirstError, Field(min_length=1)]
Messages = Annotated[Turns, BeforeValidator(_messages, json_schema_input_type=str | Turns)]


class ResponsesRequest(CommonRequest):
    """A body of ``/v1/responses``. Answers are not stored."""

    NOT_DONE: ClassVar = RESPONSES_UNSUPPORTED
    input: Messages
    instructions: Text | None = None
    max_output_tokens: Whole | None = Field(default=None, json_schema_extra={"minimum": 1})

    @property
    def prompts(self) -> list[Prompt]:
        """The messages, for the tokenizer's template; the instructions go first."""
        first = [{"role": "system", "content": self.instructions}] if self.instructions else []
        return [[*first, *(one.message for one in self.input)]]

    @property
    def options(self) -> dict[str, Any]:
        """See :class:`CommonRequest`; ``max_output_tokens`` is this API's name of ``max_tokens``."""
        own = {} if self.max_output_tokens is None else {"max_tokens": self.max_output_tokens}
        return super().options | own

    def check(self) -> None:
        """See :class:`CommonRequest`."""
        if self.n not in (None, 1):
            raise InvalidRequestError(
                "n must be 1: a response holds one answer; ask several times, or use chat completions."
            )
        super().check()


class OutputText(BaseModel):
    """The text of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class OutputMessage(BaseModel):
    """An answer, while it is written and afterwards."""

    type: Literal["message"] = "message"
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class ResponsesUsage(BaseModel):
    """Tokens read and written, those of all threads."""

    input_tokens: int
    input_tokens_details: dict[str, int] = {"cached_tokens": 0}
    output_tokens: int
    output_tokens_details: dict[str, int] = {"reasoning_tokens": 0}
    total_tokens: int


class ResponseBody(BaseModel):
    """An answer of ``/v1/responses``."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"]
    model: str
    output: list[OutputMessage]
    incomplete_details: dict[str, str] | None = None
    error: None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] = {}
    parallel_tool_calls: bool = False
    previous_response_id: None = None
    store: bool = False
    temperature: float | None = None
    text: dict[str, Any] = {"format": {"type": "text"}}
    tool_choice: Literal["none"] = "none"
    tools: list[Any] = []
    top_p: float | None = None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponsesUsage | None = None
    pasta: DecodingFigures | None = optional()


@dataclass(frozen=True)
class ResponsesReply(Reply):
    """The answer of a request to ``/v1/responses``."""

    PREFIX = "resp"
    numbers: count[int] = field(default_factory=count)  # of the events

    def whole(self, responses: Sequence[Response]) -> ResponseBody:
        """See :class:`Reply`."""
        response = responses[0]
        cut = response.finish_reason == "length"
        usage = CompletionUsage.of(responses, 1)
        return self._body(
            "incomplete" if cut else "completed",
            [self._message(response.text, "incomplete" if cut else "completed")],
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            usage=ResponsesUsage(
                input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens, total_tokens=usage.total_tokens
            ),
            pasta=self._figures(0, response),
        )

    def opening(self, index: int) -> str:
        """The events before the first text."""
        body = self._body("in_progress", [])
        return "".join(
            (
                self._event("response.created", response=body),
                self._event("response.in_progress", response=body),
                self._event("response.output_item.added", output_index=0, item=self._message("", "in_progress", [])),
                self._event("response.content_part.added", **self._place, part=OutputText(text="")),
            )
        )

    def piece(self, index: int, progress: JobProgress) -> str:
        """A piece of text, with thread events and padding if they were asked for."""
        more: dict[str, Any] = {"pasta": ThreadEvents(events=list(progress.events))} if progress.events else {}
        if (padding := self._padding(progress.text)) is not None:
            more["obfuscation"] = padding
        return self._event("response.output_text.delta", **self._place, delta=progress.text, logprobs=[], **more)

    def closing(self, index: int, response: Response) -> str:
        """The events after the last text."""
        body, text = self.whole([response]), OutputText(text=response.text)
        done = self._event("response.output_text.done", **self._place, text=response.text, logprobs=[])
        done += self._event("response.content_part.done", **self._place, part=text)
        done += self._event("response.output_item.done", output_index=0, item=body.output[0])
        return done + self._event(f"response.{body.status}", response=body)

    def ending(self, responses: Sequence[Response]) -> str:
        """Nothing: the last event says that it is the last."""
        return ""

    def failure(self, error: ServingError) -> str:
        """An error in the middle of a stream."""
        return self._event("error", code=error.code, message=str(error), param=None)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": f"msg-{self.number}", "output_index": 0, "content_index": 0}

    def _message(self, text: str, status: Any, content: list[OutputText] | None = None) -> OutputMessage:
        parts = [OutputText(text=text)] if content is None else content
        return OutputMessage(id=f"msg-{self.number}", status=status, content=parts)

    def _body(self, status: Any, output: list[OutputMessage], **more: Any) -> ResponseBody:
        asked = self.asked
        return ResponseBody(
            id=f"{self.PREFIX}-{self.number}",
            created_at=self.created,
            status=status,
            model=asked.model,
            output=output,
            instructions=getattr(asked, "instructions", None),
            max_output_tokens=self.options[0]["max_tokens"],
            temperature=asked.temperature,
            top_p=asked.top_p,
            **more,
        )

    def _event(self, kind: str, **fields: Any) -> str:
        told = {name: value.model_dump() if isinstance(value, BaseModel) else value for name, value in fields.items()}
        data = json.dumps({"type": kind, "sequence_number": next(self.numbers), **told})
        return f"event: {kind}\ndata: {data}\n\n"
