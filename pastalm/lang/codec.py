"""Text to token ids and back, in pieces that join without a seam: a token is the bytes that it decodes to."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence
from typing import Any

from pastalm.lang.tags import is_whole
from pastalm.lang.tokenizer import require_fast

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what tokenizers decode bytes to that are no character
_BYTE_NAME = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a byte in a sentencepiece vocabulary


class TextCodec:
    """Ids to text and back for pieces of a text that stand one after the other.

    Some tokenizers put a space before the first word of every piece and strip it on the way back. An anchor, a text
    that is encoded before the piece and cut off again, keeps them from it; which anchor works is found by trying.
    ``seamless`` says that one does; without one, as with words that are joined by spaces, a text comes back with a
    space before its first word.
    """

    def __init__(self, tokenizer: Any) -> None:
        require_fast(tokenizer)
        self.tokenizer = tokenizer
        self._bytes: dict[int, bytes] = {}
        self._around = self._ordinary()
        self._before = len(self._spell([self._around]))
        self._after = len(self._spell([self._around] * 2)) - self._before
        found = next((anchor for anchor in ("", "\n", "a\n") if self._joins(anchor)), None)
        self.seamless, self._anchor = found is not None, found or ""

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` as a continuation of earlier text; no tag is recognised in it, nothing is added.

        Raises ``ValueError`` for half of a character.
        """
        return self._raw(self._anchor + text)[len(self._raw(self._anchor)) :]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ordinary tokens as a continuation of earlier text; special tokens have none. Bytes that make no
        character, as at an end within one, become U+FFFD; those around them keep their meaning."""
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")

    def bytes_of(self, token: int) -> bytes:
        """What a token adds to a text; nothing for special tokens and ids that are not in use."""
        if token not in self._bytes:
            self.learn([token])
        return self._bytes[token]

    def learn(self, tokens: Sequence[int]) -> None:
        """Find out what tokens add to a text, many at a time."""
        around, before, after = self._around, self._before, self._after
        spelt = self.tokenizer.backend_tokenizer.decode_batch([[around, token, around] for token in tokens])
        for token, text in zip(tokens, spelt, strict=True):
            self._bytes[token] = self._as_bytes(token, text[before : len(text) - after])

    def _as_bytes(self, token: int, text: str) -> bytes:
        """The bytes of a token that is spelt ``text`` between others. Where that is no whole character, its name says
        which bytes it is, in one of two ways of writing."""
        if BROKEN not in text:
            return text.encode()
        name = self.tokenizer.convert_ids_to_tokens(token)
        if byte := _BYTE_NAME.fullmatch(name):
            return bytes.fromhex(byte[1])
        if all(letter in _BYTE_LETTERS for letter in name):
            return bytes(_BYTE_LETTERS[letter] for letter in name)
        return text.encode()

    def _ordinary(self) -> int:
        """A token of plain letters, to look at others between two of it."""
        tried = [*self._raw("a"), *range(len(self.tokenizer))]
        return next((token for token in tried if _is_word(self._spell([token]))), 0)

    def _spell(self, ids: Sequence[int]) -> str:
        return self.tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=True)

    def _raw(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special. The backend is asked itself, which takes a third of the time; its
        settings are those of a call, and the tokenizer makes them anew at each of its own."""
        if not text:
            return []
        if not is_whole(text):
            raise ValueError("The text holds half of a surrogate pair, which is no character.")
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        return backend.encode(text, add_special_tokens=False).ids

    def _joins(self, anchor: str) -> bool:
        """Whether pieces that are encoded behind this anchor come back as they are."""
        head = self._raw(anchor)
        for sample in ("b", " b", "7", "\nb"):
            ids = self._raw(anchor + sample)
            if ids[: len(head)] != head or self.decode(ids[len(head) :]) != sample:
                return False
        return True


class ByteReader:
    """Bytes to text as they come, each character with its last byte; like ``TextCodec.decode`` of all of them."""

    def __init__(self, pending: bytes = b"", *, strict: bool = False) -> None:
        self._decoder = getincrementaldecoder("utf-8")("strict" if strict else "replace")
        self._decoder.decode(pending)

    def read(self, data: bytes, *, final: bool = False) -> str:
        """The characters that are whole now. ``final`` ends the text: an unfinished character becomes U+FFFD. If
        ``strict``, raises ``UnicodeDecodeError`` for what cannot become a character."""
        return self._decoder.decode(data, final)

    @property
    def pending(self) -> bytes:
        """The bytes of the character that is not whole yet."""
        return self._decoder.getstate()[0]


def _is_word(text: str) -> bool:
    return text.isascii() and text.isalnum()


def _byte_letters() -> dict[str, int]:
    """The letters of byte-level vocabularies: printable Latin-1 for itself, the other bytes in order from U+0100."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_LETTERS = _byte_letters()
