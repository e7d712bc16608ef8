"""Skeleton-of-Thought: a numbered outline, an empty line, then each point expanded; nothing before, between or after.

The reader sees the points, each with its number and its outline at the head, so these belong to the chunk's text.
"""

from __future__ import annotations

import re

from pastalm.lang.answer import Answer, Block, Node
from pastalm.lang.dialects.abilities import Abilities, ConversionError, JoinStyle, place, short
from pastalm.lang.dialects.dialect import Dialect

TITLE = "Skeleton-of-Thought"

_POINT = re.compile(r"([0-9]+)\.\s?(.+)")


def _read(text: str) -> Answer:
    titles, offset = _read_outline(text)
    starts = _starts(text, titles, offset)
    nodes: list[Node] = []
    for title, start, end in zip(titles, starts, [*starts[1:], len(text)], strict=True):
        body = text[start:end].rstrip()
        nodes += [Block(title, (body,)), text[start + len(body) : end]]
    return Answer(tuple(nodes))


def _read_outline(text: str) -> tuple[list[str], int]:
    """The titles, and where the first point is expanded."""
    titles: list[str] = []
    offset = 0
    for line in text.split("\n"):
        point = _POINT.fullmatch(line)
        if point is None:
            break
        if point[1] != str(len(titles) + 1):
            raise ConversionError(f"{place(text, offset)}: not {TITLE}: point {len(titles) + 1} must stand here.")
        titles.append(point[2].strip())
        offset += len(line) + 1
    if not titles or text[offset : offset + 1] != "\n":
        raise ConversionError(f"{place(text, min(offset, len(text)))}: not {TITLE}: needs '1. ..' and an empty line.")
    return titles, offset + 1


def _starts(text: str, titles: list[str], offset: int) -> list[int]:
    """Where each point is expanded: at the first line after the one before that begins with its number and title."""
    starts: list[int] = []
    for number, title in enumerate(titles, 1):
        head = f"{number}. {title}"
        found = text.find("\n" + head, offset if starts else offset - 1) + 1
        if not found or (not starts and found != offset):
            raise ConversionError(f"{place(text, offset)}: not {TITLE}: no line after this begins with {head!r}.")
        starts.append(found)
        offset = found + len(head)
    return starts


def _write(answer: Answer) -> str:
    blocks = [node for node in answer.nodes if isinstance(node, Block)]
    if not blocks:
        raise ConversionError(f"{TITLE} needs chunks to make an outline of, and this answer has none.")
    if isinstance(answer.nodes[0], str):
        raise ConversionError(f"{TITLE} has no text before its points: {short(answer.nodes[0])} would be lost.")
    for number, block in enumerate(blocks, 1):
        head = f"{number}. {block.topic}"
        if not block.plain.startswith(head):
            raise ConversionError(
                f"{TITLE} shows its points numbered: the chunk {short(block.topic)} must begin with {short(head)}."
            )
    for before, node in zip(answer.nodes, answer.nodes[1:], strict=False):
        if isinstance(node, Block) and not (isinstance(before, str) and before.endswith("\n")):
            raise ConversionError(f"{TITLE} begins a line with each point: put one before {short(node.topic)}.")
    outline = "".join(f"{number}. {block.topic}\n" for number, block in enumerate(blocks, 1))
    return outline + "\n" + answer.plain


SKELETON = Dialect(
    "skeleton",
    TITLE,
    Abilities(JoinStyle.NONE, between=False, unjoined=False, last_sync=False, depth=1, lengths=0),
    _read,
    _write,
)
