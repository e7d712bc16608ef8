"""An answer as a tree: text, promised blocks and syncs, in document order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Sync:
    """What follows needs the blocks so far."""


@dataclass(frozen=True)
class Block:
    """One promise together with the async block that keeps it.

    ``tokens`` is the promised length in the unit of the position policy (tens for ``pred10``), ``None`` while it has
    not been measured, as in the annotator's form.
    """

    topic: str
    body: tuple[Node, ...]
    tokens: int | None = None

    @property
    def plain(self) -> str:
        """The block's text without tags, nested blocks included."""
        return plain(self.body)


Node = str | Block | Sync


@dataclass(frozen=True)
class Answer:
    """An annotated answer. A ``str`` node is text, byte for byte what the reader sees there."""

    nodes: tuple[Node, ...]

    @property
    def plain(self) -> str:
        """The reader's text: the answer with all tags removed."""
        return plain(self.nodes)

    @property
    def depth(self) -> int:
        """How deep blocks nest: 0 without any, 1 for a flat answer."""
        return depth(self.nodes)

    def blocks(self) -> Iterator[Block]:
        """All blocks in document order, a parent before its children."""
        return blocks(self.nodes)


def plain(nodes: tuple[Node, ...]) -> str:
    """Concatenate the text of ``nodes`` in document order."""
    return "".join(node if isinstance(node, str) else node.plain for node in nodes if not isinstance(node, Sync))


def depth(nodes: tuple[Node, ...]) -> int:
    """The nesting depth of ``nodes``; see :attr:`Answer.depth`."""
    return max((1 + depth(node.body) for node in nodes if isinstance(node, Block)), default=0)


def blocks(nodes: tuple[Node, ...]) -> Iterator[Block]:
    """Walk the blocks of ``nodes`` in document order."""
    for node in nodes:
        if isinstance(node, Block):
            yield node
            yield from blocks(node.body)


def merge_text(nodes: list[Node]) -> tuple[Node, ...]:
    """Drop empty texts and join neighbouring ones, so that equal answers compare equal."""
    merged: list[Node] = []
    for node in nodes:
        if isinstance(node, str) and merged and isinstance(merged[-1], str):
            merged[-1] += node
        elif node != "":
            merged.append(node)
    return tuple(merged)
