"""PASTA-LANG in the vocabulary of a Hugging Face tokenizer: six special tokens, digits, and what a topic may hold."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from pastalm.lang.codec import TextCodec
from pastalm.lang.prompt import PromptEncoder
from pastalm.lang.tags import MAX_TOPIC_WORDS, TAGS, TOPIC_FORBIDDEN, normal_topic
from pastalm.lang.tokenizer import MissingTagsError, end_tokens, has_tags, require_fast
from pastalm.lang.topic import TopicPieces, TopicState


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
        self.eos = frozenset([*end_tokens(tokenizer), *eos])
        self.text, self.prompts = TextCodec(tokenizer), PromptEncoder(tokenizer)
        self._digits: dict[tuple[int, bool], tuple[int, ...]] = {}
        self._topics: dict[TopicState, tuple[int, ...]] = {}

    @property
    def end(self) -> int | None:
        """The token that is taught as the end of an answer: the tokenizer's own, or else the first of ``eos``."""
        own = self.tokenizer.eos_token_id
        return min(self.eos, default=None) if own is None else own

    @cached_property
    def pieces(self) -> list[bytes | None]:
        """What each ordinary token adds to a text; None for special tokens, ends and unused ids."""
        everything = range(len(self.tokenizer))
        self.text.learn(everything)
        return [None if token in self.eos else self.text.bytes_of(token) or None for token in everything]

    @cached_property
    def _topic_pieces(self) -> TopicPieces:
        return TopicPieces(self.pieces, spaced=not self.text.seamless)

    @cached_property
    def line_breaks(self) -> tuple[int, ...]:
        """Ids of the tokens that end a line before anything else is written in it."""
        return tuple(token for token, piece in enumerate(self.pieces) if piece and piece.lstrip(b" \t\r")[:1] == b"\n")

    def digits(self, room: int, first: bool) -> tuple[int, ...]:
        """Ids of the tokens that may continue a promise's number: at most ``room`` digits, no leading zero."""
        key = (room, first)
        if key not in self._digits:
            numbers = ((token, self.number(token)) for token, piece in enumerate(self.pieces) if piece)
            self._digits[key] = tuple(token for token, text in numbers if _fits_number(text, room, first))
        return self._digits[key]

    def number(self, token: int) -> str:
        """The digits that a token adds to a number, "" if it is no number."""
        piece = self.text.bytes_of(token)
        digits = piece if self.text.seamless else piece.removeprefix(b" ")
        return digits.decode() if digits.isdigit() else ""

    def topic_pieces(self, words: int, in_word: bool, pending: bytes = b"") -> tuple[int, ...]:
        """Ids that may continue a topic of ``words`` words so far, whose last character is or is not in a word, with
        the ``pending`` bytes of a character behind it; see :class:`~pastalm.lang.topic.TopicState`."""
        state = TopicState(words, in_word, pending)
        if state not in self._topics:
            self._topics[state] = self._topic_pieces.after(state)
        return self._topics[state]

    def topic_after(self, state: TopicState, token: int) -> TopicState | None:
        """The state of a topic with a token behind it, None if it may not come there."""
        piece = self.text.bytes_of(token)
        return state.after(piece, spaced=not self.text.seamless) if piece else None

    def encode_topic(self, topic: str) -> list[int]:
        """Ids of a topic, as the tokenizer can write it: without what it has no token for, in at most three words.

        Raises ``ValueError`` if nothing is left of it.
        """
        topic = normal_topic(topic)
        ids, unknown = self.encode(topic), self.tokenizer.unk_token_id
        written = normal_topic(self.decode(token for token in ids if token != unknown))
        if written != topic:  # words that fall apart, letters that are unknown or become others
            kept = "".join(letter for letter in written if letter not in TOPIC_FORBIDDEN)
            ids = self.encode(" ".join(kept.split()[:MAX_TOPIC_WORDS]))
        if not self.decode(ids).strip():
            raise ValueError(f"The tokenizer has no tokens for the topic {topic!r}; give one that it can write.")
        return ids

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` as a continuation of earlier text; no tag is recognised in it, nothing is added."""
        return self.text.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ordinary tokens as a continuation of earlier text; special tokens have none."""
        return self.text.decode(ids)


def _fits_number(digits: str, room: int, first: bool) -> bool:
    return 0 < len(digits) <= room and not (first and digits[0] == "0")
