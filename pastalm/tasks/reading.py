"""What the task families share when they check: which stretch of a text speaks of which thing, and what it tells.

Nothing here raises on any text. Numbers stay strings of digits.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable

from pastalm.tasks.words import ANIMALS, CITIES, COLOURS, FRUITS, JOBS, NAMES, OBJECTS

PROPER = frozenset(NAMES + CITIES)
COMMON = frozenset(FRUITS + ANIMALS + JOBS + COLOURS + OBJECTS)

_MARK = re.compile(r"^[ \t]*(?:([0-9]+)[.)]|[-*])[ \t]+", re.MULTILINE)
_BREAK = re.compile(r"[.,;:()\n]|\b(?:and|while|with|but)\b")
_PIECE = re.compile(r"[0-9]+|[A-Za-z]+")


def any_of(names: Iterable[str]) -> str:
    """A pattern for any of the names as a whole word; the case counts for proper names only."""
    words = (re.escape(name) if name[0].isupper() else f"(?i:{re.escape(name)})" for name in names)
    return rf"(?<![A-Za-z0-9])(?:{'|'.join(words)})(?![A-Za-z0-9])"


def mentions(text: str, names: list[str]) -> list[tuple[str, str]]:
    """Each mention of a name, with the text from there to the next mention."""
    proper = {name.lower(): name for name in names}
    found = list(re.finditer(any_of(names), text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [(proper[match[0].lower()], text[match.end() : end]) for match, end in zip(found, ends, strict=False)]


def runs(text: str, names: list[str]) -> list[tuple[str, str]]:
    """As :func:`mentions`, with neighbouring mentions of one name taken together."""
    taken: list[tuple[str, str]] = []
    for name, tail in mentions(text, names):
        if taken and taken[-1][0] == name:
            taken[-1] = name, f"{taken[-1][1]} {tail}"
        else:
            taken.append((name, tail))
    return taken


def stretches(text: str, names: list[str]) -> dict[str, str]:
    """The stretch of each name in the order of the text; empty unless every name has exactly one."""
    found = runs(text, names)
    return dict(found) if sorted(name for name, _ in found) == sorted(names) else {}


def known(word: str) -> str:
    """The word of the shared lists that this is (a plural counts as its singular), or nothing."""
    if word in PROPER:
        return word
    lower = word.lower()
    return next((form for form in (lower, lower.removesuffix("s"), lower.removesuffix("es")) if form in COMMON), "")


def told(text: str) -> list[str]:
    """The numbers and the words of the shared lists in a text, in order."""
    pieces = (match[0] for match in _PIECE.finditer(text))
    return [told for told in (piece if piece[0].isdigit() else known(piece) for piece in pieces) if told]


def idle(text: str, names: list[str]) -> bool:
    """Whether some name is spoken of again at the end of its stretch and nothing is told then.

    Such a name stands where the next one should: "We turn to Ada. Ben is a baker."
    """
    said = mentions(text, names)
    pairs = zip(said, said[1:], [*said[2:], ("", "")], strict=False)
    return any(name == before != after and not told(tail) for (before, _), (name, tail), (after, _) in pairs)


def hasty(text: str, names: list[str]) -> bool:
    """Whether some name is spoken of at the end of the stretch before its own, where nothing is told of it."""
    said = mentions(text, names)
    pairs = zip(said, said[1:], said[2:], strict=False)
    return any(before != name == after and not told(tail) for (before, _), (name, tail), (after, _) in pairs)


def bound(text: str, keys: dict[str, str], thing: str = "[0-9]+") -> list[tuple[str, str]]:
    """Each number (or other thing) of a text, with the field whose keyword stands nearest to it, sorted.

    A keyword in the same clause is nearer than one in another clause.
    """
    spots = [(field, match.span()) for field, key in keys.items() for match in re.finditer(key, text, re.IGNORECASE)]
    breaks = [match.start() for match in _BREAK.finditer(text)]

    def distance(span: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
        start, end = min(span[1], other[1]), max(span[0], other[0])
        return bisect_left(breaks, end) - bisect_left(breaks, start), end - start

    pairs = []
    for match in re.finditer(thing, text):
        nearest = min(spots, key=lambda spot: distance(match.span(), spot[1]), default=("", (0, 0)))
        pairs.append((nearest[0], match[0].lower()))
    return sorted(pairs)


def unmarked(text: str) -> str:
    """The text without the list marks at the beginnings of its lines."""
    return _MARK.sub("", text)


def fits_layout(text: str, layout: str | None, count: int) -> bool:
    """Whether the list marks are right: those of ``layout`` if one was asked for, else any that number rightly."""
    marks = [match[1] for match in _MARK.finditer(text)]
    numbered = marks == [str(number + 1) for number in range(count)]
    bulleted = marks == [None] * count
    expected = {"numbered": numbered, "bullets": bulleted, "plain": not marks}
    return expected[layout] if layout in expected else any(expected.values())


def fits_opening(text: str, names: list[str]) -> bool:
    """Whether the text before the first name tells nothing, save how many things there are."""
    first = re.search(any_of(names), text)
    opening = text[: first.start()] if first else text
    return set(told(opening)) <= {str(len(names))}
