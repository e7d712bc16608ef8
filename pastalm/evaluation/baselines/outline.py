"""The prompts of Skeleton-of-Thought, and how a skeleton is read. The wording is ours."""

from __future__ import annotations

import re
from itertools import islice

MIN_POINTS, MAX_POINTS = 2, 10

OUTLINE = """\
You plan an answer to the question below. Do not write the answer yet: give its skeleton, a numbered list of 3 to 10 \
points. Each point is 3 to 5 words on a line of its own, with nothing below it.

Question:
{question}

The skeleton:"""

EXPAND = """\
You write one part of an answer to the question below; the other parts are written by others.

Question:
{question}

The skeleton of the whole answer:
{skeleton}

Write point {number} and no other point, in one or two short sentences."""

_POINT = re.compile(r"^\s*([0-9]+)\.[ \t]*(\S.*?)\s*$", re.MULTILINE)


def points(skeleton: str) -> dict[int, str]:
    """Number and title of each point of a skeleton, the first ten; of points with the same number, the first."""
    found: dict[int, str] = {}
    for number, line in _POINT.findall(skeleton):
        title = line.strip(" .:*")
        if title:
            found.setdefault(int(number), title)
    return dict(islice(found.items(), MAX_POINTS))


def head(number: int, title: str) -> str:
    """How the text of a point begins; the model goes on from there."""
    return f"{number}. {title}:"
