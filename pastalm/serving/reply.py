"""An answer in the shapes of the protocol: whole, or chunk by chunk."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from pastalm.runtime.response import Response
from pastalm.serving.errors import ServingError
from pastalm.serving.schema import Asked, ChatRequest, Figures, Usage

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Reply:
    """The frame of one answer. ``options`` are those it is decoded with."""

    asked: Asked
    options: dict[str, Any]
    created: int = field(default_factory=lambda: int(time.time()))
    number: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def chat(self) -> bool:
        """Whether messages were asked for an answer, not a prompt for its continuation."""
        return isinstance(self.asked, ChatRequest)

    def whole(self, response: Response) -> dict[str, Any]:
        """The answer in one piece."""
        text = {"message": {"role": "assistant", "content": response.text}} if self.chat else {"text": response.text}
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._frame(kind, text, response), "usage": self._usage(response), "pasta": self._figures(response)}

    def opening(self) -> str:
        """The chunk before the first text; a plain completion has none."""
        return self._chunk({"delta": {"role": "assistant", "content": ""}}) if self.chat else ""

    def piece(self, text: str) -> str:
        """A chunk of text."""
        return self._chunk({"delta": {"content": text}} if self.chat else {"text": text})

    def closing(self, response: Response) -> str:
        """The chunks after the last text: why it ended, the figures, and the usage if it was asked for."""
        end = self._chunk({"delta": {}} if self.chat else {"text": ""}, response, pasta=self._figures(response))
        if not self.asked.wants_usage:
            return end + DONE
        usage = {**self._frame(self._kind, None), "usage": self._usage(response)}
        return end + _event(usage) + DONE

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _frame(self, kind: str, text: dict[str, Any] | None, response: Response | None = None) -> dict[str, Any]:
        reason = response.finish_reason if response else None
        choices = [] if text is None else [{"index": 0, **text, "logprobs": None, "finish_reason": reason}]
        head = {"id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.number}", "object": kind, "created": self.created}
        return {**head, "model": self.asked.model, "choices": choices}

    def _chunk(self, text: dict[str, Any], response: Response | None = None, **more: Any) -> str:
        usage = {"usage": None} if self.asked.wants_usage else {}
        return _event({**self._frame(self._kind, text, response), **usage, **more})

    def _usage(self, response: Response) -> dict[str, Any]:
        return Usage.of(response).model_dump()

    def _figures(self, response: Response) -> dict[str, Any]:
        figures = Figures.of(response, self.options, annotated=bool(self.asked.annotated))
        return figures.model_dump(exclude_none=True)


def failure(error: ServingError) -> str:
    """An error in the middle of a stream, which ends there."""
    return _event(error.body())


def _event(fields: dict[str, Any]) -> str:
    return f"data: {json.dumps(fields)}\n\n"
