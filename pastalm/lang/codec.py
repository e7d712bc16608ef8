"""Text to token ids and back, in pieces that join without a seam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pastalm.lang.tags import is_whole
from pastalm.lang.tokenizer import require_fast


class TextCodec:
    """Ids to text and back for pieces of a text that stand one after the other.

    Some tokenizers put a space before the first word of every piece and strip it on the way back. An anchor, a text
    that is encoded before the piece and cut off again, keeps them from it; which anchor works is found by trying.
    """

    def __init__(self, tokenizer: Any) -> None:
        require_fast(tokenizer)
        self.tokenizer = tokenizer
        self._start = self._raw("a")
        self._anchor = next((anchor for anchor in ("", "\n", "a\n") if self._seamless(anchor)), "")

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` as a continuation of earlier text; no tag is recognised in it, nothing is added.

        Raises ``ValueError`` for half of a character.
        """
        return self._raw(self._anchor + text)[len(self._raw(self._anchor)) :]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ordinary tokens as a continuation of earlier text; special tokens have none."""
        decode = self.tokenizer.decode
        text = decode([*self._start, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text[1:]

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


def _whole(text: str) -> str:
    if not is_whole(text):
        raise ValueError("The text holds half of a surrogate pair, which is no character.")
    return text
