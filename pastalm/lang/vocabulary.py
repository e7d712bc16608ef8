"""PASTA-LANG in the vocabulary of a Hugging Face tokenizer: six special tokens, digits, and what a topic may hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from pastalm.lang.codec import TextCodec
from pastalm.lang.prompt import PromptEncoder
from pastalm.lang.tags import MAX_TOPIC_WORDS, TAGS
from pastalm.lang.tokenizer import MissingTagsError, has_tags, require_fast

_SPACES = "Ġ▁ "  # how byte-level and sentencepiece vocabularies write a space
_FORBIDDEN = frozenset('"<>\n\r\tĊčĉ')  # would break a promise's text; Ċ č ĉ are byte-level line breaks and tabs


class Vocabulary:
    """Token ids of the tags, and text to ids and back such that pieces of an answer join without a seam.

    ``eos`` are the ids that end an answer; the tokenizer's own is always among them. Raises :class:`MissingTagsError`
    if the tags are not there, ``ValueError`` for a slow tokenizer.
    """

    def __init__(self, tokenizer: Any, eos: Iterable[int] = ()) -> None:
        require_fast(tokenizer)
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
        self.text, self.prompts = TextCodec(tokenizer), PromptEncoder(tokenizer)
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


def _fits_number(piece: str, room: int, first: bool) -> bool:
    return len(piece) <= room and piece.isascii() and piece.isdigit() and not (first and piece[0] == "0")


def _fits_topic(piece: str, words: int, in_word: bool) -> bool:
    if _FORBIDDEN & set(piece) or (piece[0] == " " and not in_word):
        return False  # a topic neither starts with a space nor holds two in a row
    glued = in_word and piece[0] != " "
    if piece.isspace():
        return words < MAX_TOPIC_WORDS and len(piece) == 1
    return words + len(piece.split()) - glued <= MAX_TOPIC_WORDS and not piece[-1].isspace() and "  " not in piece
