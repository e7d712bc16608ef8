"""The OpenAI protocol as far as it is spoken here, with PASTA's own fields: what may be asked, and what comes back.

Fields are checked for their names and types alone; what values mean is the engine's to judge, and its sentences say it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pastalm.lang.prompt import Prompt
from pastalm.lang.tags import is_whole
from pastalm.runtime.response import Response

# Fields of the protocol that are not done here, with the values that ask for nothing.
NOT_DONE: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
}
MOST_STOPS = 16
# Fields about the client and its bill, which change no answer.
WITHOUT_EFFECT = (
    *("user", "metadata", "store", "service_tier", "safety_identifier"),
    *("prompt_cache_key", "parallel_tool_calls"),
)


def _whole(text: str) -> str:
    """JSON can hold half a character; no tokenizer takes it."""
    if not is_whole(text):
        raise ValueError("A text holds half of a surrogate pair, which is no character.")
    return text


def _few(stop: str | list[str] | None) -> str | list[str] | None:
    """Each is looked for in every piece of text, on the thread that decodes for all."""
    if isinstance(stop, list) and len(stop) > MOST_STOPS:
        raise ValueError(f"stop takes at most {MOST_STOPS} strings, not {len(stop)}.")
    return stop


Text = Annotated[str, AfterValidator(_whole)]


class StreamOptions(BaseModel):
    """``include_usage`` asks for a last chunk with the usage."""

    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool | None = None


class Asked(BaseModel):
    """What both kinds of requests may set; None is the server's default.

    ``mode`` to ``annotated`` are PASTA's own: see :class:`pastalm.runtime.engine.Options`; ``annotated`` asks for the
    answer with its tags as well.
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    OPTIONS: ClassVar[tuple[str, ...]] = (
        *("max_tokens", "temperature", "top_p", "seed", "stop"),
        *("mode", "speed", "max_threads", "max_async_tokens"),
    )

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Annotated[str | list[str] | None, AfterValidator(_few)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    mode: str | None = None
    speed: float | None = None
    max_threads: int | None = None
    max_async_tokens: int | None = None
    annotated: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_done(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        for name, harmless in NOT_DONE.items():
            given = fields.get(name)
            if given is not None and not any(given == one and type(given) is type(one) for one in harmless):
                only = f"must be {harmless[0]}" if name in ("n", "best_of") else "is not supported: leave it out"
                raise ValueError(f"{name} {only}; a request gets one answer, as text.")
        return {name: fields[name] for name in fields if name not in NOT_DONE and name not in WITHOUT_EFFECT}

    @property
    def options(self) -> dict[str, Any]:
        """The engine's options that are set."""
        values = {name: getattr(self, name) for name in self.OPTIONS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class Part(BaseModel):
    """A piece of a message; only text can be read."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """One turn of a conversation. Fields besides these two are not read."""

    model_config = ConfigDict(strict=True)
    role: Text
    content: Text | list[Part]

    @property
    def text(self) -> str:
        """Its whole text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Asked):
    """A body of ``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = None

    @property
    def prompt(self) -> Prompt:
        """The messages, for the tokenizer's template."""
        return [{"role": message.role, "content": message.text} for message in self.messages]

    @property
    def options(self) -> dict[str, Any]:
        """See :class:`Asked`; the newer name of ``max_tokens`` goes first."""
        newer = {} if self.max_completion_tokens is None else {"max_tokens": self.max_completion_tokens}
        return super().options | newer


class CompletionRequest(Asked):
    """A body of ``/v1/completions``: one prompt, taken as it is."""

    prompt: Text


class Usage(BaseModel):
    """``completion_tokens`` are those of all threads, tags included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, response: Response) -> Usage:
        """The usage of an answer."""
        prompt, written = response.prompt_tokens, response.metrics.tokens
        return cls(prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written)


class Figures(BaseModel):
    """How the answer was decoded: see :class:`pastalm.runtime.response.Metrics`. ``threads`` counts the main one too;
    ``seed`` is that of the sampling."""

    mode: str
    seed: int
    threads: int
    content_tokens: int
    steps: int
    critical_path: int
    parallelism: float
    sync_wait_steps: int
    redundancy: float
    annotated: str | None = None

    @classmethod
    def of(cls, response: Response, options: dict[str, Any], *, annotated: bool) -> Figures:
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


class Card(BaseModel):
    """A model as ``/v1/models`` tells of it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "pasta"


class Cards(BaseModel):
    """All models of this server: one."""

    object: Literal["list"] = "list"
    data: Sequence[Card]
