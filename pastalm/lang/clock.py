"""The clock of decode steps: when each token of an answer is written, with unlimited threads."""

from __future__ import annotations

from dataclasses import dataclass

from pastalm.lang.script import Script
from pastalm.lang.vocabulary import Vocabulary


@dataclass(frozen=True)
class Tick:
    """One token on the clock of decode steps: written from ``start`` to ``end``, its thread goes on at ``resume``.

    An inserted ``<async>`` and the end of the answer take no step; only a sync may resume later than it ends.
    """

    start: int
    end: int
    resume: int


def token_clock(script: Script, vocabulary: Vocabulary) -> list[Tick]:
    """The tick of each token of a script.

    Each token takes a step of its thread, also one that the grammar leaves no choice about, which costs the runtime
    none; ``<async>`` is inserted and takes none, the end of the answer counts neither here nor in a plain answer. A
    thread starts when its promise is complete; a sync waits for the blocks it releases.
    """
    clock = [0] * len(script.blocks)
    ticks: list[Tick] = []
    seen = 0
    for index, (token, block) in enumerate(zip(script.tokens, script.block, strict=True)):
        if block > seen:  # its <async>: the parent has just completed the promise
            seen, clock[block] = block, clock[script.blocks[block].parent]
            start = clock[block]
        else:
            start = clock[block]
            clock[block] += token not in vocabulary.eos
        end = clock[block]
        if token == vocabulary.sync:
            clock[block] = max([end, *(clock[one] for one in joined(script, index))])
        ticks.append(Tick(start, end, clock[block]))
    return ticks


def critical_path(script: Script, vocabulary: Vocabulary) -> int:
    """Decode steps of the answer with unlimited threads."""
    return max((tick.end for tick in token_clock(script, vocabulary)), default=0)


def joined(script: Script, index: int) -> list[int]:
    """The blocks that the sync at token ``index`` waits for or has waited for before, nested ones included."""
    thread = script.block[index]
    found: set[int] = set()
    for number, block in enumerate(script.blocks[1:], 1):  # a parent comes before its children
        if block.parent in found or (block.parent == thread and block.release <= index):
            found.add(number)
    return sorted(found)
