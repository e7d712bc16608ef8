"""Fields of the OpenAI protocol, and of vLLM's, that this server does not do: accepted while they ask for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Fields about the client, its bill and the provider's caches. They change no answer.
WITHOUT_EFFECT = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "parallel_tool_calls"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
)


@dataclass(frozen=True)
class Unsupported:
    """A field that is not done: its values that ask for nothing (null always does), and why others are refused."""

    harmless: tuple[Any, ...]
    reason: str

    def accepts(self, value: Any) -> bool:
        """Whether this value asks for nothing."""
        return value is None or any(_is_same(value, one) for one in self.harmless)

    @property
    def schema(self) -> dict[str, Any]:
        """What is accepted, as a JSON schema."""
        objects = [_schema_of(one) for one in self.harmless if isinstance(one, dict)]
        plain = {"enum": [None, *(one for one in self.harmless if not isinstance(one, dict))]}
        return {"anyOf": [plain, *objects]} if objects else plain


def _is_same(given: Any, one: Any) -> bool:
    """Whether a value is this one. A member of an object that is null counts as left out."""
    if not isinstance(given, dict) or not isinstance(one, dict):
        return given == one and type(given) is type(one)
    told = {name: value for name, value in given.items() if value is not None}
    return told.keys() == one.keys() and all(_is_same(told[name], one[name]) for name in one)


def _schema_of(one: Any) -> dict[str, Any]:
    if not isinstance(one, dict):
        return {"enum": [one]}
    members = {name: _schema_of(value) for name, value in one.items()}
    return {"type": "object", "properties": members, "required": [*one], "additionalProperties": {"type": "null"}}


_TEXT = "this model reads and writes text"
_TOOLS = "chunks are plain text, and nothing here would hold an answer to the schema of a function"
_FORMAT = "chunks are written side by side, and no grammar besides that of the tags is enforced over them"
_SAMPLING = "tokens are drawn with temperature and top_p"
_REASONING = "the model does not reason apart from its answer"
_STORED = "answers are not stored; send the whole conversation as input"
_LENGTHS = "the model has not learned lengths on request; ask for one in the prompt"
_STATIC = "the answer's length and end are the model's to choose, within max_tokens and stop"

UNSUPPORTED: dict[str, Unsupported] = {
    "best_of": Unsupported((1,), "answers are not ranked here; ask for n of them"),
    "echo": Unsupported((False,), "an answer does not repeat its prompt"),
    "suffix": Unsupported(("",), "text is not filled in before a given end"),
    "tools": Unsupported(([],), _TOOLS),
    "tool_choice": Unsupported(("none", "auto"), _TOOLS),
    "functions": Unsupported(([],), _TOOLS),
    "function_call": Unsupported(("none", "auto"), _TOOLS),
    "response_format": Unsupported(({"type": "text"},), _FORMAT),
    "modalities": Unsupported((["text"],), _TEXT),
    "audio": Unsupported((), _TEXT),
    "moderation": Unsupported((), "there is no moderation model here"),
    "prediction": Unsupported((), "no predicted text speeds up the decoding; chunks do that"),
    "reasoning_effort": Unsupported(("none",), _REASONING),
    "verbosity": Unsupported(("medium",), _LENGTHS),
    "web_search_options": Unsupported((), "the server does not look anything up"),
    "top_k": Unsupported((-1, 0), _SAMPLING),
    "min_p": Unsupported((0, 0.0), _SAMPLING),
    "repetition_penalty": Unsupported((1, 1.0), _SAMPLING),
    "min_tokens": Unsupported((0,), _STATIC),
    "ignore_eos": Unsupported((False,), _STATIC),
    "stop_token_ids": Unsupported(([],), _STATIC),
}


_PLAIN = {"format": {"type": "text"}}
RESPONSES_UNSUPPORTED: dict[str, Unsupported] = {
    **UNSUPPORTED,
    "background": Unsupported((False,), "an answer comes while its client waits"),
    "conversation": Unsupported((), _STORED),
    "previous_response_id": Unsupported((), _STORED),
    "prompt": Unsupported((), _STORED),
    "include": Unsupported(([],), "an answer is its text"),
    "context_management": Unsupported(([],), "a conversation is read as it is"),
    "truncation": Unsupported(("disabled",), "a conversation is read as it is"),
    "reasoning": Unsupported(({}, {"effort": "none"}), _REASONING),
    "text": Unsupported(
        ({}, _PLAIN, {"verbosity": "medium"}, _PLAIN | {"verbosity": "medium"}), f"{_FORMAT}, and {_LENGTHS}"
    ),
    "top_logprobs": Unsupported((0,), "probabilities come with chat completions"),
    "image": Unsupported((), _TEXT),
    "access_programs": Unsupported((), "there are none here"),
    "max_tool_calls": Unsupported((), _TOOLS),
}


def described(table: Mapping[str, Unsupported]) -> dict[str, Any]:
    """The fields of a table, and those without effect, as properties of a JSON schema."""
    refused = {
        name: {"description": f"Not supported: {field.reason}.", **field.schema} for name, field in table.items()
    }
    return refused | {name: {"description": "Accepted, and without effect."} for name in WITHOUT_EFFECT}


def without_unsupported(fields: Mapping[str, Any], table: Mapping[str, Unsupported]) -> dict[str, Any]:
    """The fields of a body that something is done about. Raises ``ValueError``, with the reason, for one that asks for
    what is not done."""
    no_tools = fields.get("tool_choice") == "none" or fields.get("function_call") == "none"
    for name, field in table.items():
        value = fields.get(name)
        if not field.accepts(value) and not (no_tools and name in ("tools", "functions")):
            raise ValueError(f"{name} is not supported: leave it out; {field.reason}.")
    return {name: fields[name] for name in fields if name not in table and name not in WITHOUT_EFFECT}
