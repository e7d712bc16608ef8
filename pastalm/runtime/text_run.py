"""Text of a stretch of tokens while they come: whole characters only, and nothing that may be part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from pastalm.lang.codec import ByteReader, TextCodec


class TextRun:
    """Turns tokens into text piece by piece; the pieces together are what ``TextCodec.decode`` makes of all tokens.

    Without ``eager`` and stop strings all text comes with :meth:`flush`. What is given out is never taken back: a
    character comes with its last byte, and with stop strings, text that could be the beginning of one is kept until
    that is decided. Once a stop string is complete, ``stopped`` is true, and it and what follows are never given out.
    """

    def __init__(self, codec: TextCodec, stops: Sequence[str] = (), *, eager: bool = True) -> None:
        self.codec, self.stops, self.eager = codec, tuple(stops), eager or bool(stops)
        self.tokens: list[int] = []  # not turned into text yet
        self.kept = ""
        self.stopped = False
        self._reader = ByteReader()

    def push(self, tokens: Sequence[int]) -> str:
        """Take tokens; returns the text that can be shown now."""
        self.tokens += tokens
        return self._show(self._read()) if self.eager else ""

    def push_text(self, text: str) -> str:
        """Take text that is no ordinary token's: tags that stay text."""
        return self._show(self._read(final=True) + text)

    def flush(self) -> str:
        """End the stretch: all that is left, unless a stop string has come."""
        text = self._show(self._read(final=True))
        rest, self.kept = self.kept, ""
        return text + rest

    def _read(self, *, final: bool = False) -> str:
        data = b"".join(map(self.codec.bytes_of, self.tokens))
        self.tokens = []
        return self._reader.read(data, final=final)

    def _show(self, text: str) -> str:
        if not self.stops or self.stopped:
            return "" if self.stopped else text
        text = self.kept + text
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self.kept = True, ""
            return text[: min(found)]
        keep = max(_overlap(text, stop) for stop in self.stops)
        self.kept = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that begins ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
