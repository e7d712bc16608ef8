"""When each thread of an answer writes, waits, forks and joins, in decode steps with unlimited threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from pastalm.lang.clock import joined, token_clock
from pastalm.lang.script import Script
from pastalm.lang.vocabulary import Vocabulary


class Doing(StrEnum):
    """What a thread does with its steps."""

    TEXT = "text"
    PROMISE = "promise"
    WAIT = "wait"


@dataclass(frozen=True)
class Span:
    """A thread does one thing from step ``start`` to step ``end``."""

    doing: Doing
    start: int
    end: int


@dataclass(frozen=True)
class SyncMark:
    """A sync written at step ``step``; from ``resume`` on its thread goes on and sees the threads ``blocks``."""

    step: int
    resume: int
    blocks: tuple[int, ...]


@dataclass
class ThreadRow:
    """One thread. ``start`` is its fork, ``end`` its last step; ``promised`` is its promise's number, ``content`` its
    tokens between the tags."""

    block: int
    parent: int
    topic: str
    promised: int
    content: int
    start: int = 0
    end: int = 0
    spans: list[Span] = field(default_factory=list)
    syncs: list[SyncMark] = field(default_factory=list)


@dataclass(frozen=True)
class Timeline:
    """All threads in document order, the main thread first; ``steps`` is the critical path."""

    rows: tuple[ThreadRow, ...]
    steps: int


def timeline(script: Script, vocabulary: Vocabulary) -> Timeline:
    """The timeline of an answer."""
    ticks = token_clock(script, vocabulary)
    rows = tuple(
        ThreadRow(number, block.parent, block.topic, block.promised, block.content)
        for number, block in enumerate(script.blocks)
    )
    started: set[int] = {0}
    for index, doing in _doings(script, vocabulary):
        row, tick = rows[script.block[index]], ticks[index]
        if row.block not in started:
            started.add(row.block)
            row.start = tick.start
        row.end = tick.end
        _extend(row.spans, doing, tick.start, tick.end)
        if script.tokens[index] == vocabulary.sync:
            _extend(row.spans, Doing.WAIT, tick.end, tick.resume)
            new = [one for one in joined(script, index) if script.blocks[one].release == index]
            row.syncs.append(SyncMark(tick.end, tick.resume, tuple(new)))
    return Timeline(rows, max((tick.end for tick in ticks), default=0))


def _doings(script: Script, vocabulary: Vocabulary) -> Iterator[tuple[int, Doing]]:
    """Each token's index, and whether it is part of a promise."""
    promising: set[int] = set()  # the threads that are writing a promise
    for index, (token, block) in enumerate(zip(script.tokens, script.block, strict=True)):
        if token == vocabulary.promise_topic:
            promising.add(block)
        yield index, Doing.PROMISE if block in promising else Doing.TEXT
        if token == vocabulary.promise_end:
            promising.discard(block)


def _extend(spans: list[Span], doing: Doing, start: int, end: int) -> None:
    """Add a stretch, to the last span if that goes on."""
    if start == end:
        return
    if spans and spans[-1].doing == doing and spans[-1].end == start:
        start = spans.pop().start
    spans.append(Span(doing, start, end))
