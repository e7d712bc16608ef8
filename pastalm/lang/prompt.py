"""A prompt as the ids that a model is asked with: a user's message, a conversation, raw text or ids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer

from pastalm.lang.tags import TAGS, is_whole
from pastalm.lang.tokenizer import has_tags, require_fast

_MARK = "\ue000"  # a private character, put behind a message's text to see whether a template shows that message
_MARKED = re.compile(f"(?={_MARK}([0-9]+){_MARK})")  # of two that share a character both, as a text may hold it too
_CUT = 1024  # more tokens than a cut in a text changes: those of the word about it


class LongPromptError(ValueError):
    """A text of more than twice the tokens that there is room for; its beginning alone has ``tokens``."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"The prompt has more than {tokens} tokens; shorten it.")
        self.tokens = tokens


@dataclass(frozen=True)
class RawPrompt:
    """Text that the model goes on with as it is, without the chat template."""

    text: str


Message = Mapping[str, Any]
Prompt = str | RawPrompt | Sequence[int] | Sequence[Message]


def as_text(prompt: str | Sequence[Message]) -> str:
    """A prompt as a person reads it: the text alone, or the turns of a chat with who says what."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def as_messages(messages: Sequence[Any]) -> list[Message]:
    """The turns of a chat, each with its content as one text. Raises ``ValueError`` for what is no message, or holds
    more than text."""
    return [_checked(number, message) for number, message in enumerate(messages, 1)]


class PromptEncoder:
    """Encodes prompts for one tokenizer. PASTA's tags are ordinary text in all of them: a prompt that talks about
    ``<br />`` must not open or close anything. Raises ``ValueError`` for a slow tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        require_fast(tokenizer)
        self.tokenizer = tokenizer

    def encode(self, prompt: Prompt, room: int | None = None) -> list[int]:
        """The ids of a prompt: a string is a user's message where the tokenizer has a chat template and raw text where
        it has none; messages go through the template; ids stay what they are.

        Raises ``ValueError`` for what is no prompt, for messages without a template, or that it refuses or does not
        show, for ids that the tokenizer does not have, and for text that holds half of a character; with ``room``,
        :class:`LongPromptError` for text of far more tokens, without encoding it all.
        """
        if not isinstance(prompt, str | RawPrompt | Sequence) or isinstance(prompt, bytes):
            kind = type(prompt).__name__
            raise ValueError(f"A prompt is a string, a RawPrompt, or a list of messages or token ids, not a {kind}.")
        settled = self.settle(prompt)
        if isinstance(settled, RawPrompt):
            self._require_room(settled.text, room)
            return self._encode_raw(settled.text)
        if not settled or isinstance(settled[0], int):  # nothing at all is no conversation
            return self._known(settled)
        text = self.render(settled)
        self._require_room(text, room)
        return self.encode_text(text, add_special_tokens=False)  # the template has written them

    def settle(self, prompt: Prompt) -> RawPrompt | Sequence[Any]:
        """What a string stands for: a user's message or raw text. Any other prompt as it is."""
        if not isinstance(prompt, str):
            return prompt
        return [{"role": "user", "content": prompt}] if self.tokenizer.chat_template else RawPrompt(prompt)

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a conversation through the chat template, ready for the answer; every message stands in it.

        A role ``developer`` counts as ``system``, and texts become lists of parts, where the template wants it so.
        Raises what :meth:`encode` does.
        """
        if not self.tokenizer.chat_template:
            raise ValueError("This tokenizer has no chat template: give the prompt as one string instead of messages.")
        problems = []
        for form in _forms(as_messages(messages)):
            try:
                missing = self._missing(form)
            except Exception as error:  # templates raise whatever they like, jinja's errors and others
                problems.append(f"The tokenizer's chat template refuses these messages: {error}")
                continue
            if missing is None:
                return self._apply(form)
            problems.append(missing)
        raise ValueError(problems[0])

    def _missing(self, messages: Sequence[Message]) -> str | None:
        """Which message the template leaves out, as a sentence; None if it shows all."""
        shown = self._apply([_marked(number, message) for number, message in enumerate(messages, 1)])
        marks = set(_MARKED.findall(shown))
        for number, message in enumerate(messages, 1):
            if message["content"] and str(number) not in marks:
                return (
                    f"The tokenizer's chat template leaves out message {number} (role {message['role']!r}): "
                    "give its text in a message of a role that the template shows, for example 'user'."
                )
        return None

    def _apply(self, messages: Sequence[Message]) -> str:
        return self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)

    def _require_room(self, text: str, room: int | None) -> None:
        """Raise :class:`LongPromptError` if the beginning of a text has twice the tokens that there is room for.

        A beginning has as many tokens alone as in its text, but for those about the cut: twice ``room`` and ``_CUT``
        more are too many for the whole as well, whatever the tokenizer strips, joins or does not know. What it may
        make few tokens of, such as spaces, is looked at further.
        """
        if room is None:
            return
        enough = 2 * room + _CUT
        length = 4 * enough  # characters; below, a text is encoded as it is
        while length < len(text):
            tokens = len(self.encode_text(text[:length], add_special_tokens=False))
            if tokens >= enough:
                raise LongPromptError(tokens)
            length *= 2

    def _encode_raw(self, text: str) -> list[int]:
        """Ids of a text with the special tokens that the tokenizer adds, none twice that the text begins with."""
        ids, lead = self.encode_text(text, add_special_tokens=True), self._lead
        return ids[len(lead) :] if lead and ids[len(lead) : 2 * len(lead)] == lead else ids

    def _known(self, ids: Sequence[Any]) -> list[int]:
        size = len(self.tokenizer)
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < size:
                raise ValueError(f"{token!r} is no token id: this tokenizer has those from 0 to {size - 1}.")
        return list(ids)

    @cached_property
    def _lead(self) -> list[int]:
        """The special tokens that the tokenizer puts before a text."""
        bare, full = (self.tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True))
        starts = range(len(full) - len(bare) + 1)
        return full[: next((start for start in starts if full[start : start + len(bare)] == bare), 0)]

    def encode_text(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The ids that the tokenizer gives a text, PASTA's tags as ordinary text. Raises ``ValueError`` for half of a
        character."""
        if not is_whole(text):
            raise ValueError("The prompt holds half of a surrogate pair, which is no character.")
        ids = list(self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
        if self._tags.isdisjoint(ids):
            return ids
        backend, known = self._untagged
        return [known.get(token, token) for token in backend.encode(text, add_special_tokens=add_special_tokens).ids]

    @cached_property
    def _tags(self) -> frozenset[int]:
        """The ids of the tags, asked once: a tokenizer sorts all its added tokens to say what they are."""
        return frozenset(self.tokenizer.convert_tokens_to_ids(list(TAGS)) if has_tags(self.tokenizer) else ())

    @cached_property
    def _untagged(self) -> tuple[Tokenizer, dict[int | None, int]]:
        """The backend as it is without the tags, for prompts that spell one, and which ids its other added tokens have
        here: they move up there."""
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        others = [token for token in state["added_tokens"] if token["content"] not in TAGS]
        backend = Tokenizer.from_str(json.dumps(state | {"added_tokens": [], "truncation": None, "padding": None}))
        backend.add_tokens([AddedToken(**{k: v for k, v in token.items() if k != "id"}) for token in others])
        return backend, {backend.token_to_id(token["content"]): token["id"] for token in others}


def _checked(number: int, message: Any) -> Message:
    """A message whose content is one text. Raises ``ValueError`` for what is no message, or holds more than text."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ValueError(f"Message {number} of the prompt must be an object with the texts 'role' and 'content'.")
    content = message.get("content")
    parts = [content] if isinstance(content, str) else content if isinstance(content, list) else [None]
    found = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < len(found):
        raise ValueError(f"Message {number} of the prompt must hold text, or a list of parts of type 'text'.")
    return {**message, "content": "".join(texts)}


def _forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The ways in which a template may want these messages: as they are first."""
    known = [{**one, "role": "system"} if one["role"] == "developer" else one for one in messages]
    for form in (messages, known) if known != messages else (messages,):
        yield list(form)
    for form in (messages, known) if known != messages else (messages,):
        yield [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in form]


def _marked(number: int, message: Message) -> Message:
    content, mark = message["content"], f"{_MARK}{number}{_MARK}"
    if isinstance(content, str):
        return {**message, "content": content + mark}
    return {**message, "content": [{**content[0], "text": content[0]["text"] + mark}]}
