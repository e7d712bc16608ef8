"""What a topic may be, and how the topic of a promise goes on while its tokens are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pastalm.lang.codec import ByteReader
from pastalm.lang.tags import MAX_TOPIC_WORDS, TOPIC_FORBIDDEN

MAX_TOPIC_CHARACTERS = 80  # from here on a topic can only end: a model that runs in circles must leave it
_FORBIDDEN = frozenset(TOPIC_FORBIDDEN.encode())


@dataclass(frozen=True)
class TopicState:
    """A topic while it is written: its ``words`` so far, whether the last character is ``in_word``, and the ``pending``
    bytes of a character that is not whole."""

    words: int = 0
    in_word: bool = False
    pending: bytes = b""

    @classmethod
    def of(cls, text: str) -> TopicState:
        """The state of any text, of one too that no grammar would have let come."""
        return cls(len(text.split()), bool(text) and not text[-1].isspace())

    @property
    def may_end(self) -> bool:
        """Whether it is a topic as it stands."""
        return self.in_word and not self.pending

    def after(self, piece: bytes, *, spaced: bool = False) -> TopicState | None:
        """The state with a token's bytes behind it; None where these may not come. A topic neither starts with a space
        nor holds two in a row; ``spaced`` lets it start with one, for tokenizers that have no word without."""
        if _FORBIDDEN.intersection(piece):
            return None
        reader = ByteReader(self.pending, strict=True)
        try:
            text = reader.read(piece)
        except UnicodeDecodeError:
            return None
        words, in_word = self.words, self.in_word
        if spaced and not self.words and not self.pending:
            text = text.removeprefix(" ")
        for character in text:
            if character.isspace():
                if character != " " or not in_word or words == MAX_TOPIC_WORDS:
                    return None
                in_word = False
            else:
                words, in_word = words + (not in_word), True
        return TopicState(words, in_word, _alike(reader.pending)) if words <= MAX_TOPIC_WORDS else None


class TopicPieces:
    """The tokens of a vocabulary by what they do to a topic. ``pieces`` are the bytes of each ordinary token, None for
    the others; for ``spaced`` see :meth:`TopicState.after`."""

    def __init__(self, pieces: Sequence[bytes | None], spaced: bool) -> None:
        self.spaced = spaced
        self._by_shape: dict[bytes, list[int]] = {}  # those that may follow whole characters
        self._continuing: list[tuple[int, bytes]] = []  # those that go on with a character
        for token, piece in enumerate(pieces):
            if piece and 0x80 <= piece[0] < 0xC0:
                self._continuing.append((token, piece))
            elif piece and (shape := _shape(piece)) is not None:
                self._by_shape.setdefault(shape, []).append(token)

    def after(self, state: TopicState) -> tuple[int, ...]:
        """Ids of the tokens that may follow, none that leads into a character which no token can finish."""
        if state.pending:
            return tuple(token for token, piece in self._continuing if self._leads_on(state, piece))
        fitting = (ids for shape, ids in self._by_shape.items() if self._leads_on(state, shape))
        return tuple(token for ids in fitting for token in ids)

    def _leads_on(self, state: TopicState, piece: bytes) -> bool:
        after = state.after(piece, spaced=self.spaced)
        return after is not None and (not after.pending or self._can_finish(after.pending))

    def _can_finish(self, pending: bytes) -> bool:
        """Whether tokens that only go on with a character can bring this one to its end."""
        states = (TopicState(1, True, pending).after(piece) for _, piece in self._continuing if _goes_on(piece))
        return any(state is not None and (not state.pending or self._can_finish(state.pending)) for state in states)


def _goes_on(piece: bytes) -> bool:
    return all(0x80 <= byte < 0xC0 for byte in piece)


def _shape(piece: bytes) -> bytes | None:
    """A short piece that does the same to any topic: each word one letter. None if it can stand in no topic."""
    reader = ByteReader(strict=True)
    try:
        text = reader.read(piece)
    except UnicodeDecodeError:
        return None
    if any(character in TOPIC_FORBIDDEN or (character.isspace() and character != " ") for character in text):
        return None
    return re.sub("[^ ]+", "x", text).encode() + _alike(reader.pending)


def _alike(pending: bytes) -> bytes:
    """The same bytes for all unfinished characters that can go on alike, so that there are few states: by what may
    follow (UTF-8 has four narrow first bytes), and by whether a white space can come of it."""
    if len(pending) < 2:
        first = pending[:1]
        for low, high in ((b"\xc3", b"\xdf"), (b"\xe4", b"\xec"), (b"\xee", b"\xef"), (b"\xf1", b"\xf3")):
            if low <= first <= high:
                return b"\xe4" if low == b"\xee" else low
        return first
    if len(pending) == 3:
        return b"\xc3"  # one more byte, any
    if pending[0] >= 0xF0:
        return b"\xe4"  # two more bytes, any
    return pending if pending in (b"\xe1\x9a", b"\xe2\x80", b"\xe2\x81", b"\xe3\x80") else b"\xc3"
