"""The bodies that clients send: the OpenAI protocol as far as it is spoken here, with PASTA's own fields.

Fields are checked for their names and types alone; what values mean is the engine's to judge, and its sentences say it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)

from pastalm.lang.prompt import Prompt, RawPrompt
from pastalm.lang.tags import is_whole
from pastalm.runtime.sampler import MAX_BIAS
from pastalm.serving.errors import InvalidRequestError
from pastalm.serving.unsupported import UNSUPPORTED, described, without_unsupported

MAX_STOPS = 16
MAX_PROMPTS = 64
MAX_ANSWERS = 64  # of one request


def _whole(text: str) -> str:
    """JSON can hold half a character; no tokenizer takes it."""
    if not is_whole(text):
        raise ValueError("A text holds half of a surrogate pair, which is no character.")
    return text


def _few(stop: Any) -> Any:
    """Each is looked for in every piece of text, on the thread that decodes for all."""
    if isinstance(stop, list) and len(stop) > MAX_STOPS:
        raise ValueError(f"stop takes at most {MAX_STOPS} strings, not {len(stop)}.")
    return stop


def _prompts(prompt: Any) -> Any:
    """The shapes that the protocol has for prompts, as one: a list of texts and lists of token ids."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise ValueError("prompt: give a text, a list of texts, a list of token ids, or a list of such lists.")
    prompt = _integers(prompt)
    listed = [prompt] if _are_ids(prompt) else prompt
    if len(listed) > MAX_PROMPTS:
        raise ValueError(f"prompt takes at most {MAX_PROMPTS} prompts, not {len(listed)}.")
    listed = [_integers(one) if isinstance(one, list) else one for one in listed]
    for one in listed:
        if not isinstance(one, str) and not (isinstance(one, list) and _are_ids(one)):
            raise ValueError("prompt: each must be a text or a list of token ids.")
    return listed


def _bias(bias: Any) -> Any:
    """JSON's names are strings: ids come as such."""
    if isinstance(bias, dict) and all(_is_bias(name, value) for name, value in bias.items()):
        return {int(name): value for name, value in bias.items()}
    if bias is None:
        return None
    raise ValueError(f"logit_bias: give an object of token ids with numbers from -{MAX_BIAS} to {MAX_BIAS}.")


def _is_bias(name: str, value: Any) -> bool:
    known = name.isdecimal() and len(name) < 19
    return known and type(value) in (int, float) and -MAX_BIAS <= value <= MAX_BIAS


def _are_ids(values: list[Any]) -> bool:
    return set(map(type, values)) <= {int}  # of a million in a moment; true is no number


def _integer(value: Any) -> Any:
    """JSON knows one kind of number: 1.0 is an integer there."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _integers(values: list[Any]) -> list[Any]:
    return values if _are_ids(values) else [_integer(one) for one in values]


Text = Annotated[str, AfterValidator(_whole)]
Whole = Annotated[int, BeforeValidator(_integer, json_schema_input_type=int)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
Several = Texts | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
PromptShapes = str | Several | Ids


def _bounded(**keywords: Any) -> Any:
    """A field that may be left out, with keywords of JSON Schema that describe its values; the engine checks them."""
    return Field(default=None, json_schema_extra=keywords)


class RequestObject(BaseModel):
    """A body, or an object in it, whose fields must be known ones.

    A client is told of one error, and a body may hold a million: the first unknown field is enough, and of lists the
    first wrong item (``FirstError``).
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _leave_one_unknown(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        known = cls.model_fields
        unknown = next((name for name in fields if name not in known), None)
        return {name: one for name, one in fields.items() if name in known or name == unknown}


FirstError = Field(fail_fast=True)


class StreamOptions(RequestObject):
    """``include_usage`` asks for a last chunk with the usage, ``include_obfuscation`` for chunks whose length tells
    little of their text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class PastaOptions(RequestObject):
    """``events`` asks a stream for thread events: see :class:`pastalm.serving.threads.ThreadEvent`."""

    events: bool | None = None


class CommonRequest(RequestObject):
    """What every kind of request may set; None is the server's default.

    ``mode`` to ``pasta`` are PASTA's own: see :class:`pastalm.runtime.request.RequestOptions`; ``annotated`` asks for
    the answer with its tags as well.
    """

    NOT_DONE: ClassVar = UNSUPPORTED
    OPTIONS: ClassVar[tuple[str, ...]] = (
        *("max_tokens", "temperature", "top_p", "seed", "stop"),
        *("mode", "promise_bias", "max_threads", "max_async_tokens"),
        *("presence_penalty", "frequency_penalty"),
    )

    model: str
    max_tokens: Whole | None = _bounded(minimum=1)
    temperature: float | None = _bounded(minimum=0)
    top_p: float | None = _bounded(exclusiveMinimum=0, maximum=1)
    seed: Whole | None = None
    stop: Annotated[str | list[str] | None, BeforeValidator(_few)] = _bounded(maxItems=MAX_STOPS)
    n: Whole | None = _bounded(minimum=1, maximum=MAX_ANSWERS)
    presence_penalty: float | None = _bounded(minimum=-2, maximum=2)
    frequency_penalty: float | None = _bounded(minimum=-2, maximum=2)
    logit_bias: Annotated[dict[int, Bias] | None, BeforeValidator(_bias)] = _bounded(
        propertyNames={"pattern": "^(0|[1-9][0-9]{0,17})$"}
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    mode: str | None = _bounded(enum=["async", "sequential", None])
    promise_bias: float | None = _bounded(minimum=-3, maximum=3)
    max_threads: Whole | None = _bounded(minimum=1)
    max_async_tokens: Whole | None = _bounded(minimum=1)
    annotated: bool | None = None
    pasta: PastaOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_done(cls, fields: Any) -> Any:
        return without_unsupported(fields, cls.NOT_DONE) if isinstance(fields, dict) else fields

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The fields that are not done stand in the schema as well, with the values that are accepted."""
        schema = handler.resolve_ref_schema(handler(core))
        schema["properties"] |= described(cls.NOT_DONE)
        return schema

    @property
    def options(self) -> dict[str, Any]:
        """The engine's options that are set."""
        values = {name: getattr(self, name) for name in self.OPTIONS}
        values |= {"logit_bias": self.logit_bias or None, "logprobs": self.wanted_logprobs}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def wanted_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told beside each token; None if no probabilities are."""
        return None

    def check(self) -> None:
        """Raise :class:`InvalidRequestError` for fields that do not go together."""
        n = 1 if self.n is None else self.n
        if not 1 <= n * len(self.prompts) <= MAX_ANSWERS:
            raise InvalidRequestError(f"n must be at least 1, and a request gets at most {MAX_ANSWERS} answers.")

    @property
    def prompts(self) -> list[Prompt]:
        """What is to be answered."""
        raise NotImplementedError

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_events(self) -> bool:
        """Whether a stream tells what its threads do."""
        return bool(self.pasta and self.pasta.events)

    @property
    def wants_padding(self) -> bool:
        """Whether the lengths of a stream's chunks are to be hidden."""
        return bool(self.stream_options and self.stream_options.include_obfuscation)


class TextPart(BaseModel):
    """A piece of a message; only text can be read."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: Text


def _nothing(value: Any) -> None:
    if value:
        raise ValueError(
            "A message holds tool_calls, a function_call, a refusal or audio: only text can be read; leave them out."
        )


Nothing = Annotated[None, BeforeValidator(_nothing)]


class ChatMessage(RequestObject):
    """One turn of a conversation. ``name`` is not shown to the model."""

    role: Text
    content: Text | Annotated[list[TextPart], FirstError]
    name: str | None = None
    tool_calls: Nothing = None
    function_call: Nothing = None
    refusal: Nothing = None
    audio: Nothing = None
    annotations: list[Any] | None = Field(default=None, max_length=0)  # an answer of ours, sent back

    @property
    def text(self) -> str:
        """Its whole text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(CommonRequest):
    """A body of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], FirstError] = Field(min_length=1)
    max_completion_tokens: Whole | None = _bounded(minimum=1)
    logprobs: bool | None = None
    top_logprobs: Whole | None = _bounded(minimum=0, maximum=20)

    @property
    def wanted_logprobs(self) -> int | None:
        """See :class:`CommonRequest`."""
        return self.top_logprobs or 0 if self.logprobs else None

    def check(self) -> None:
        """See :class:`CommonRequest`."""
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs: true; give that as well.")

    @property
    def prompts(self) -> list[Prompt]:
        """The messages, for the tokenizer's template."""
        return [[{"role": message.role, "content": message.text} for message in self.messages]]

    @property
    def options(self) -> dict[str, Any]:
        """See :class:`CommonRequest`; the newer name of ``max_tokens`` goes first."""
        newer = {} if self.max_completion_tokens is None else {"max_tokens": self.max_completion_tokens}
        return super().options | newer


class CompletionRequest(CommonRequest):
    """A body of ``/v1/completions``: prompts taken as they are, each a text or token ids.

    ``return_token_ids`` is vLLM's: the answer comes as token ids, too. Its tags are then tokens like others, for a
    client that reads them itself, and ``stop_token_ids``, which are among the ids, end it. ``skip_special_tokens``
    and ``include_stop_str_in_output`` are what vLLM wants to be told for that.
    """

    NOT_DONE: ClassVar = {name: why for name, why in UNSUPPORTED.items() if name != "stop_token_ids"}
    return_token_ids: bool | None = None
    stop_token_ids: Annotated[list[Whole], FirstError] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    prompt: Annotated[list[Text | list[int]], BeforeValidator(_prompts, json_schema_input_type=PromptShapes)]
    logprobs: Whole | None = _bounded(minimum=0, maximum=20)

    @property
    def wanted_logprobs(self) -> int | None:
        """See :class:`CommonRequest`."""
        return self.logprobs

    @property
    def options(self) -> dict[str, Any]:
        """See :class:`CommonRequest`."""
        plain = {"stop_token_ids": self.stop_token_ids or []} if self.return_token_ids else {}
        return super().options | plain

    def check(self) -> None:
        """See :class:`CommonRequest`."""
        super().check()
        if self.stop_token_ids and not self.return_token_ids:
            raise InvalidRequestError("stop_token_ids go with return_token_ids: give that as well, or use stop.")
        if self.skip_special_tokens is False and not self.return_token_ids:
            raise InvalidRequestError(
                "skip_special_tokens: false goes with return_token_ids: give that as well, or ask for annotated."
            )
        if self.include_stop_str_in_output and self.stop:
            raise InvalidRequestError(
                "include_stop_str_in_output is not done for stop: leave it out; an answer ends before that text."
            )

    @property
    def prompts(self) -> list[Prompt]:
        """Each prompt gets an answer."""
        return [RawPrompt(one) if isinstance(one, str) else one for one in self.prompt]
