"""Dependent blocks put right in an annotated text: tags are moved, never a character of the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from pastalm.data.check import BLOCK, SYNC, TAG, syncs_needed
from pastalm.lang.answer import Block, Node, Sync
from pastalm.lang.parse import parse
from pastalm.lang.tags import SYNC as SYNC_TAG


def separate(annotated: str, dependent: Collection[int], steps: Callable[[str], int], *, max_depth: int = 1) -> str:
    """Let each dependent block see the siblings before it.

    A ``<sync/>`` is put straight before it: it then sees what its dependence was measured with, and keeps its mark, so
    that it still runs beside what follows. Merely removing the mark would cure nothing, since the main thread sees no
    open block either. Where a block is left alone between two syncs by this, its mark goes too unless it still saves
    decode steps, and with it each sync that no block is left for. ``dependent`` counts blocks from 1 in document order,
    each with an open sibling before it; ``steps`` gives the critical path of an annotated text. The text must be sound
    (:mod:`pastalm.data.check`); so is the result, with the same characters and all other tags as they are written.
    """
    groups = _groups(annotated, max_depth)
    touched = {groups[number] for number in dependent}
    starts = [match.start() for match in BLOCK.finditer(annotated)]
    text = annotated
    for number in sorted(dependent, reverse=True):
        text = text[: starts[number - 1]] + SYNC_TAG + text[starts[number - 1] :]
    now = _groups(text, max_depth)
    sizes = Counter(now.values())
    alone = [number for number, group in now.items() if sizes[group] == 1 and groups[number] in touched]
    for number in sorted(alone, reverse=True):  # from the end, so that the numbers of the others stay right
        trial = unmark(text, number, max_depth=max_depth)
        if steps(trial) <= steps(text):
            text = trial
    return text


def unmark(annotated: str, number: int, *, max_depth: int = 1) -> str:
    """Remove the marks of block ``number``, from 1 in document order: its text becomes its parent's. Syncs that no
    block is left for go too. Raises ``ValueError`` if there is no such block."""
    spans: list[tuple[int, int]] = []
    stack: list[int] = []
    blocks, promised = 0, False
    for tag in TAG.finditer(annotated):
        kind = tag.group()
        if kind.startswith("</"):
            block = stack.pop()
        elif kind.startswith("<sync"):
            continue
        else:
            blocks += not promised  # a promise and the <async> after it open one block
            block, promised = blocks, kind.startswith("<promise")
            if not promised:
                stack.append(block)
        if block == number:
            spans.append(tag.span())
    if not spans:
        raise ValueError(f"There are {blocks} blocks, so there is no block {number}.")
    return _without_idle_syncs(_without(annotated, spans), max_depth)


def _without_idle_syncs(annotated: str, max_depth: int) -> str:
    needed = syncs_needed(parse(annotated, max_depth=max_depth).nodes)
    syncs = [tag.span() for tag in TAG.finditer(annotated) if SYNC.match(tag.group())]
    return _without(annotated, [span for span, wanted in zip(syncs, needed, strict=True) if not wanted])


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + text[end:]
    return text


def _groups(annotated: str, max_depth: int) -> dict[int, tuple[int, int]]:
    """Each block's group, those blocks of one thread that are open together: block number to (thread, group)."""
    groups: dict[int, tuple[int, int]] = {}
    _walk(parse(annotated, max_depth=max_depth).nodes, 0, groups)
    return groups


def _walk(nodes: Iterable[Node], thread: int, groups: dict[int, tuple[int, int]]) -> None:
    group = 0
    for node in nodes:
        if isinstance(node, Block):
            number = len(groups) + 1
            groups[number] = (thread, group)
            _walk(node.body, number, groups)
        elif isinstance(node, Sync):
            group += 1
