"""A text cut at its tags, and walked from left to right with errors that say where."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pastalm.lang.dialects.abilities import ConversionError, place


@dataclass(frozen=True)
class Piece:
    """A tag or a text between two tags; ``offset`` is where it begins."""

    text: str
    is_tag: bool
    offset: int


class TagReader:
    """Walks over the pieces of a text. ``tags`` are exact; whatever else looks like a tag is text."""

    def __init__(self, text: str, tags: Sequence[str], title: str) -> None:
        self.text, self.title = text, title
        cuts = re.split("(" + "|".join(map(re.escape, tags)) + ")", text)
        self._pieces, offset = [], 0
        for index, cut in enumerate(cuts):  # texts and tags take turns
            if cut:
                self._pieces.append(Piece(cut, index % 2 == 1, offset))
            offset += len(cut)
        self._at = 0

    @property
    def here(self) -> Piece | None:
        """The next piece; None at the end."""
        return self._pieces[self._at] if self._at < len(self._pieces) else None

    def at_tag(self, tag: str) -> bool:
        """Whether the next piece is this tag."""
        return self.here is not None and self.here.is_tag and self.here.text == tag

    def at_space(self, *before: str) -> bool:
        """Whether the next piece is white space, and, if tags are given, one of them follows it."""
        if self.here is None or self.here.is_tag or self.here.text.strip():
            return False
        following = self._pieces[self._at + 1] if self._at + 1 < len(self._pieces) else None
        return not before or (following is not None and following.is_tag and following.text in before)

    def take(self) -> str:
        """The next piece, which is then passed."""
        piece = self._pieces[self._at]
        self._at += 1
        return piece.text

    def take_text(self) -> str:
        """The next piece if it is a text, else an empty one."""
        return self.take() if self.here is not None and not self.here.is_tag else ""

    def expect(self, tag: str) -> None:
        """Pass this tag. Raises :class:`ConversionError` if something else comes."""
        if not self.at_tag(tag):
            raise self.error(f"{tag} must stand here")
        self._at += 1

    def skip_space(self) -> None:
        """Pass white space that is layout only."""
        if self.at_space():
            self._at += 1

    def error(self, message: str) -> ConversionError:
        """An error at the next piece."""
        offset = self.here.offset if self.here is not None else len(self.text)
        found = f"found {self.here.text[:20]!r}" if self.here is not None else "the text ends"
        return ConversionError(f"{place(self.text, offset)}: not {self.title}: {message}, but {found}.")
