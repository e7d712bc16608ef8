"""PASTA-LANG in the vocabulary of a Hugging Face tokenizer: six special tokens, digits, and what a topic may hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer

from pastalm.lang.tags import MAX_TOPIC_WORDS, TAGS, is_whole

_SPACES = "Ġ▁ "  # how byte-level and sentencepiece vocabularies write a space
_FORBIDDEN = frozenset('"<>\n\r\tĊčĉ')  # would break a promise's text; Ċ č ĉ are byte-level line breaks and tabs


class MissingTagsError(ValueError):
    """A tokenizer whose vocabulary lacks the six tags."""


def add_tags(tokenizer: Any) -> int:
    """Add the six tags to a fast tokenizer as special tokens; returns how many were new. Saving it keeps them.

    Raises ``ValueError`` for a slow tokenizer.
    """
    _require_fast(tokenizer)
    return tokenizer.add_tokens([AddedToken(tag, special=True, normalized=False) for tag in TAGS], special_tokens=True)


def has_tags(tokenizer: Any) -> bool:
    """Whether all six tags are single tokens of this tokenizer."""
    known = tokenizer.get_added_vocab()
    return all(tag in known for tag in TAGS)


class Vocabulary:
    """Token ids of the tags, and text to ids and back such that pieces of an answer join without a seam.

    ``eos`` are the ids that end an answer; the tokenizer's own is always among them. Raises :class:`MissingTagsError`
    if the tags are not there, ``ValueError`` for a slow tokenizer.
    """

    def __init__(self, tokenizer: Any, eos: Iterable[int] = ()) -> None:
        _require_fast(tokenizer)
        if not has_tags(tokenizer):
            raise MissingTagsError(
                "The tokenizer does not know PASTA's tags, so this model cannot mark chunks. Add them with "
                "`pasta train sft` (it adds the six tokens and trains them), or decode with mode='sequential'."
            )
        self.tokenizer = tokenizer
        ids = [tokenizer.convert_tokens_to_ids(tag) for tag in TAGS]
        self.promise_topic, self.promise_tokens, self.promise_end, self.async_start, self.async_end, self.sync = ids
        self.tags = dict(zip(ids, TAGS, strict=True))
        own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.eos = frozenset([*own, *eos])
        self.text = TextCodec(tokenizer)
        self._found: dict[tuple[object, ...], tuple[int, ...]] = {}

    @cached_property
    def pieces(self) -> list[str | None]:
        """The text of each ordinary token with spaces as spaces; None for special tokens and unused ids."""
        tokenizer = self.tokenizer
        special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values()) | self.eos
        names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        table = str.maketrans(dict.fromkeys(_SPACES, " "))
        return [None if i in special or not name else name.translate(table) for i, name in enumerate(names)]

    def digits(self, room: int, first: bool) -> tuple[int, ...]:
        """Ids of the tokens that may continue a promise's number: at most ``room`` digits, no leading zero."""
        return self._fitting(_fits_number, room, first)

    def topic_pieces(self, words: int, in_word: bool) -> tuple[int, ...]:
        """Ids that may continue a topic of ``words`` words so far, whose last character is or is not in a word."""
        return self._fitting(_fits_topic, words, in_word)

    def _fitting(self, fits: Callable[[str, int, bool], bool], count: int, flag: bool) -> tuple[int, ...]:
        """Ids of the pieces that fit, looked for once."""
        key = (fits, count, flag)
        if key not in self._found:
            self._found[key] = tuple(i for i, piece in enumerate(self.pieces) if piece and fits(piece, count, flag))
        return self._found[key]

    def topic_words(self, ids: Sequence[int]) -> tuple[int, bool]:
        """How many words a topic's tokens make, and whether the last one is still being written."""
        text = "".join(self.pieces[i] or "" for i in ids)
        return len(text.split()), bool(text) and not text[-1].isspace()

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` as a continuation of earlier text; no tag is recognised in it, nothing is added."""
        return self.text.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ordinary tokens as a continuation of earlier text; special tokens have none."""
        return self.text.decode(ids)


class TextCodec:
    """Ids to text and back for pieces of a text that stand one after the other.

    Some tokenizers put a space before the first word of every piece and strip it on the way back. An anchor, a text
    that is encoded before the piece and cut off again, keeps them from it; which anchor works is found by trying.
    """

    def __init__(self, tokenizer: Any) -> None:
        _require_fast(tokenizer)
        self.tokenizer = tokenizer
        self._start = self._raw("a")
        self._anchor = next((anchor for anchor in ("", "\n", "a\n") if self._seamless(anchor)), "")

    def encode(self, text: str) -> list[int]:
        """See :meth:`Vocabulary.encode`."""
        return self._raw(self._anchor + text)[len(self._raw(self._anchor)) :]

    def decode(self, ids: Sequence[int]) -> str:
        """See :meth:`Vocabulary.decode`."""
        decode = self.tokenizer.decode
        text = decode([*self._start, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text[1:]

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt, with the special tokens that the tokenizer adds and reads in it, except that PASTA's tags
        are ordinary text there: a prompt that talks about ``<br />`` must not open or close anything."""
        return self._without_tags(text, add_special_tokens=True)

    def _without_tags(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids = list(self.tokenizer(_whole(text), add_special_tokens=add_special_tokens)["input_ids"])
        if not has_tags(self.tokenizer) or not set(self.tokenizer.convert_tokens_to_ids(list(TAGS))) & set(ids):
            return ids
        backend, known = self._untagged
        return [known.get(token, token) for token in backend.encode(text, add_special_tokens=add_special_tokens).ids]

    @cached_property
    def _untagged(self) -> tuple[Tokenizer, dict[int, int]]:
        """The backend as it is without the tags, for prompts that spell one, and which ids its other added tokens have
        here: they move up there."""
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        others = [token for token in state["added_tokens"] if token["content"] not in TAGS]
        backend = Tokenizer.from_str(json.dumps(state | {"added_tokens": [], "truncation": None, "padding": None}))
        backend.add_tokens([AddedToken(**{k: v for k, v in token.items() if k != "id"}) for token in others])
        return backend, {backend.token_to_id(token["content"]): token["id"] for token in others}

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a list of chat messages through the tokenizer's template, ready for the answer.

        Raises ``ValueError`` if there is no template, or if it refuses the messages.
        """
        if not self.tokenizer.chat_template:
            raise ValueError("This tokenizer has no chat template: give the prompt as one string instead of messages.")
        try:
            text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates raise whatever they like, jinja's errors and others
            raise ValueError(f"The tokenizer's chat template refuses these messages: {error}") from error
        return self._without_tags(text, add_special_tokens=False)  # the template has written those that belong there

    def _raw(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special. The backend is asked itself, which takes a third of the time; its
        settings are those of a call, and the tokenizer makes them anew at each of its own."""
        if not text:
            return []
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        return backend.encode(_whole(text), add_special_tokens=False).ids

    def _seamless(self, anchor: str) -> bool:
        head = self._raw(anchor)
        for sample in ("b", " b", "7", "\nb"):
            ids = self._raw(anchor + sample)
            if ids[: len(head)] != head or self.decode(ids[len(head) :]) != sample:
                return False
        return True


def _fits_number(piece: str, room: int, first: bool) -> bool:
    return len(piece) <= room and piece.isascii() and piece.isdigit() and not (first and piece[0] == "0")


def _fits_topic(piece: str, words: int, in_word: bool) -> bool:
    if _FORBIDDEN & set(piece) or (piece[0] == " " and not in_word):
        return False  # a topic neither starts with a space nor holds two in a row
    glued = in_word and piece[0] != " "
    if piece.isspace():
        return words < MAX_TOPIC_WORDS and len(piece) == 1
    return words + len(piece.split()) - glued <= MAX_TOPIC_WORDS and not piece[-1].isspace() and "  " not in piece


def _whole(text: str) -> str:
    if not is_whole(text):
        raise ValueError("The text holds half of a surrogate pair, which is no character.")
    return text


def _require_fast(tokenizer: Any) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer; PASTA needs one (a tokenizer.json beside the model)."
        )
