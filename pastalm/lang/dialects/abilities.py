"""What a dialect can say, the error for what it cannot, and the words for a place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

DEEPEST = 8  # how deep blocks may nest in a text that is read or written


class ConversionError(ValueError):
    """A text that a dialect cannot read, or an answer that it cannot say: names what would be lost, and where."""


class JoinStyle(Enum):
    """How a dialect says that later text sees the chunks."""

    WRITTEN = "a tag of its own"
    IMPLIED = "right after each group"
    NONE = "not at all"


@dataclass(frozen=True)
class Abilities:
    """What a dialect can say.

    ``between``: text between the chunks of one group; white space alone always can be. ``unjoined``: text after a group
    that does not wait for it. ``last_sync``: a sync that nothing follows. ``depth``: how deep chunks nest.
    ``lengths``: the largest length hint, 0 for none at all. ``tags``: what no text and no topic may contain.
    """

    join: JoinStyle
    between: bool
    unjoined: bool
    last_sync: bool
    depth: int
    lengths: int
    tags: tuple[str, ...] = ()


def place(text: str, offset: int) -> str:
    """Line and column of an offset, from 1, in words."""
    return f"line {text.count(chr(10), 0, offset) + 1}, column {offset - text.rfind(chr(10), 0, offset)}"


def short(text: str) -> str:
    """A text in quotes, cut to what a message can hold."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
