"""Matching an answer with what it should tell: its numbers and known words in order, its list marks, its sums."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

_MARK = re.compile(r"^ *([0-9]+)[.)] |\bStep ([0-9]+): ", re.MULTILINE)
_TOKEN = re.compile(r"-?[0-9]+|[A-Za-z]+")
_NUMBER = r"\(?-?[0-9]{1,6}\)?"
_SIDE = rf"{_NUMBER}(?: (?:[+*-]|times) {_NUMBER})*"
_EQUATION = re.compile(rf"{_SIDE}(?: = {_SIDE})+")


def without_marks(text: str) -> str:
    """The text without ``1.``, ``1)`` and ``Step 1:``."""
    return _MARK.sub("", text)


def marks_fit(text: str, count: int) -> bool:
    """Whether the list marks are exactly 1 .. count in order, or there are none."""
    marks = [first or second for first, second in _MARK.findall(text)]
    return not marks or marks == [str(n + 1) for n in range(count)]


def read(text: str, words: Collection[str]) -> list[str]:
    """All numbers, and those words that are in ``words``, in order; list marks are left out."""
    found = []
    for token in _TOKEN.findall(without_marks(text)):
        known = token if token in words else token.lower()
        if known in words or token[-1].isdigit():
            found.append(known)
    return found


def ends_well(text: str) -> bool:
    """Whether the last sentence is finished."""
    return text.rstrip().endswith((".", "!"))


def fits(seen: Sequence[str], parts: Sequence[Sequence[Sequence[str]]]) -> bool:
    """Whether ``seen`` is, part by part, one of the readings that each part allows."""
    ends = {0}
    for readings in parts:
        ends = {
            end + len(reading)
            for end in ends
            for reading in readings
            if list(seen[end : end + len(reading)]) == list(reading)
        }
    return len(seen) in ends


def _value(side: str) -> int:
    """The value of ``7``, ``5 - (-3)`` or ``4 times 4``, worked from left to right."""
    first, *rest = side.replace("(", "").replace(")", "").split(" ")
    total = int(first)
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        if sign == "+":
            total += int(number)
        elif sign == "-":
            total -= int(number)
        else:
            total *= int(number)
    return total


def sums_hold(text: str) -> bool:
    """Whether every equation written in ``text`` is true."""
    equations = (match.split(" = ") for match in _EQUATION.findall(without_marks(text)))
    return all(len({_value(side) for side in sides}) == 1 for sides in equations)
